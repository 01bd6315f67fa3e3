//! Sessions whose user may not go on, over a whole proxy and a network that takes everything: at every instant, cut at
//! every byte, both sides hear what they should, and nothing else.

use crate::access::{Hash, Key};
use crate::base::clock::{Now, SECOND};
use crate::limit::budget::{Period, SpendSums};
use crate::limit::overrides::Limits;
use crate::policy::Policy;
use crate::price::PriceTable;
use crate::proxy::fixture::{at, settings, take};
use crate::proxy::{Action, Conn, DownKey, Proxy, Settings, UpKey, fixture};
use crate::usage::record::{Endpoint, Outcome, Record, UsageSource};
use std::io::ErrorKind;

const REALTIME: &str = "/v1/realtime?model=m";
const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
const SECRET: &str = "oap_1";
/// Of the default user, nano-dollars.
const BUDGET: u64 = 1_000_000;
/// When the key expires, nanoseconds since the Unix epoch.
const EXPIRY: u64 = 100 * SECOND;

const CREATED: &str = r#"{"type":"response.created","response":{"id":"r"}}"#;
const DELTA: &str = r#"{"type":"response.output_text.delta","delta":"abc"}"#;
const DONE: &str =
    r#"{"type":"response.done","response":{"id":"r","model":"m","usage":{"input_tokens":1,"output_tokens":1}}}"#;
const PING: &[u8] = b"\x89\x00";
const CLOSE: &[u8] = b"\x88\x02\x03\xe8";
/// A masked ping, and a masked text.
const CLIENTS_PING: &[u8] = b"\x89\x82\x01\x02\x03\x04hi";
const CLIENTS_TEXT: &[u8] = b"\x81\x83\x01\x02\x03\x04abc";

/// A proxy, one session, and all that either side was sent.
struct Bench {
    proxy: Proxy,
    down: DownKey,
    up: UpKey,
    to_client: Vec<u8>,
    to_target: Vec<u8>,
    /// The target's, and the client's connection.
    closed: (bool, bool),
    /// The client's connection was shut down, or reset.
    half_closed: bool,
    reset: bool,
    records: Vec<Record>,
}

fn limited() -> Settings {
    let limits = Limits { month_nano_usd: Some(BUDGET), ..Limits::default() };
    // A session that is charged as it goes leaves others something to spend.
    Settings { limits, reserves_average: true, allows_unmetered: true, ..settings() }
}

fn policy(expires_at: Option<u64>) -> Policy {
    let key = Key { id: 1, user: "u".into(), team: None, hash: Hash::of(SECRET.as_bytes()), expires_at };
    Policy { keys: vec![key], ..Policy::default() }
}

fn proxy(settings: Settings) -> Proxy {
    let mut proxy = fixture::proxy(settings);
    proxy.prices = PriceTable::parse(
        r#"{"m":{"input_cost_per_token":1e-06,"output_cost_per_token":1e-06},"free":{"input_cost_per_token":0,"output_cost_per_token":0}}"#,
    )
    .expect("prices");
    proxy.set_policy(at(0), policy(Some(EXPIRY)));
    let sums = SpendSums { period: Period::of(0), ..SpendSums::default() };
    proxy.set_spend_sums(at(0), sums);
    proxy
}

impl Bench {
    /// A session that has begun.
    fn open(settings: Settings, target: &str) -> Self {
        Self::open_in(proxy(settings), target)
    }

    fn open_in(mut proxy: Proxy, target: &str) -> Self {
        let handshake = format!(
            "GET {target} HTTP/1.1\r\nHost: a\r\nX-User-ID: u\r\nAuthorization: Bearer {SECRET}\r\nConnection: Upgrade\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        );
        let (down, up) = fixture::sent(&mut proxy, &handshake);
        let (closed, half_closed, reset) = ((false, false), false, false);
        let (to_client, to_target, records) = (Vec::new(), Vec::new(), Vec::new());
        let mut bench = Self { proxy, down, up, to_client, to_target, closed, half_closed, reset, records };
        bench.target(at(0), SWITCH.as_bytes());
        assert!(std::mem::take(&mut bench.to_client).starts_with(b"HTTP/1.1 101 "));
        bench
    }

    fn target(&mut self, now: Now, bytes: &[u8]) {
        if !self.closed.0 {
            self.proxy.received(now, Conn::Up(self.up), &mut bytes.to_vec());
            self.act(now);
        }
    }

    fn client(&mut self, now: Now, bytes: &[u8]) {
        if !self.closed.1 {
            self.proxy.received(now, Conn::Down(self.down), &mut bytes.to_vec());
            self.act(now);
        }
    }

    /// Does what the proxy asks for, and commits what it hands over, until it asks for nothing.
    fn act(&mut self, now: Now) {
        loop {
            while let Some(action) = self.proxy.next_action() {
                match action {
                    Action::Read(conn) => self.proxy.resumed(now, conn),
                    Action::Flush(Conn::Up(up)) if up == self.up => {
                        self.to_target.extend(take(&mut self.proxy, now, Conn::Up(up)));
                    }
                    Action::Flush(Conn::Down(down)) => {
                        self.to_client.extend(take(&mut self.proxy, now, Conn::Down(down)));
                    }
                    Action::Close { conn: Conn::Up(up), last, .. } if up == self.up => {
                        self.to_target.extend(last);
                        self.closed.0 = true;
                    }
                    Action::Close { conn: Conn::Down(_), last, reset } => {
                        self.to_client.extend(last);
                        (self.closed.1, self.reset) = (true, reset);
                    }
                    Action::HalfClose(_) => self.half_closed = true,
                    _ => {}
                }
            }
            let records = self.proxy.take_records(now);
            let Some(last) = records.last() else { break };
            self.proxy.committed(now, last.seq, &[]);
            self.records.extend(records);
        }
        let audit = self.proxy.audit();
        assert_eq!((audit.forgotten(), audit.stray_connections()), (0, 0));
    }

    /// Somebody else spends the user's budget.
    fn spend(&mut self, now: Now) {
        let record = Record { user: "u".into(), cost_nano_usd: Some(BUDGET), ..Record::default() };
        self.proxy.count(now, &record);
        self.act(now);
    }

    /// Both are told, in that order, after these bytes each: what the event says beside its message, and the frames'
    /// statuses.
    #[track_caller]
    fn told(&self, client: &[u8], target: &[u8]) -> (Option<serde_json::Value>, &str) {
        let goodbye =
            self.to_client.strip_prefix(client).unwrap_or_else(|| panic!("{:?}", self.to_client.escape_ascii()));
        let (event, close) = match goodbye {
            [0x81, 126, high, low, rest @ ..] => {
                let (text, close) = rest.split_at(u16::from_be_bytes([*high, *low]).into());
                (Some(serde_json::from_slice(text).expect("JSON")), close)
            }
            close => (None, close),
        };
        let [0x88, length, 0x03, 0xf0, reason @ ..] = close else { panic!("{:?}", goodbye.escape_ascii()) };
        assert_eq!(usize::from(*length), reason.len() + 2);
        if let Some(masked) = self.to_target.strip_prefix(target).filter(|rest| !rest.is_empty()) {
            let [0x88, length, a, b, c, d, payload @ ..] = masked else { panic!("{:?}", masked.escape_ascii()) };
            let payload: Vec<u8> = payload.iter().zip([a, b, c, d].into_iter().cycle()).map(|(x, y)| x ^ y).collect();
            assert_eq!((*length, &payload[..2], &payload[2..]), (0x80 | payload.len() as u8, &[3, 0xf0][..], reason));
        } else {
            panic!("the target is not told: {:?}", self.to_target.escape_ascii());
        }
        (event, std::str::from_utf8(reason).expect("text"))
    }

    /// All is over, and everything given back; the session's own record.
    #[track_caller]
    fn over(&mut self) -> &Record {
        assert!(self.closed.0 && (self.closed.1 || self.half_closed), "{:?}", self.closed);
        let audit = self.proxy.audit();
        assert_eq!((audit.permits(), audit.reservations()), ((0, 0), (0, 0)));
        self.records.last().expect("its record")
    }
}

fn text(message: &str) -> Vec<u8> {
    let mut out = Vec::new();
    crate::websocket::write_text(&mut out, message);
    out
}

#[test]
fn an_idle_session_ends_when_its_user_may_not_go_on() {
    type Why = fn(&mut Bench) -> Now;
    let keys = || Settings { keys_only: true, ..settings() };
    let reasons: [(&str, Settings, Why); 5] = [
        ("insufficient_quota", limited(), |bench| {
            bench.spend(at(1));
            at(1)
        }),
        ("insufficient_quota", Settings { keys_only: true, ..limited() }, |bench| {
            bench.proxy.set_policy(at(1), policy(None));
            bench.act(at(1));
            assert!(bench.to_client.is_empty(), "nothing has changed for it");
            bench.spend(at(1));
            at(1)
        }),
        ("invalid_client_key", keys(), |bench| {
            bench.proxy.set_policy(at(1), Policy::default());
            bench.act(at(1));
            at(1)
        }),
        ("invalid_client_key", keys(), |bench| {
            assert_eq!(bench.proxy.next_deadline(), Some(EXPIRY));
            bench.proxy.expire(at(99));
            bench.act(at(99));
            assert!(bench.to_client.is_empty());
            let now = Now { mono: EXPIRY, unix: EXPIRY };
            bench.proxy.expire(now);
            bench.act(now);
            now
        }),
        ("invalid_client_key", keys(), |bench| {
            let now = Now { mono: 1, unix: EXPIRY }; // the clock was set
            bench.proxy.expire(now);
            bench.act(now);
            now
        }),
    ];
    for (code, settings, end) in reasons {
        for (target, shape) in [
            (REALTIME, Some("event_id")),
            ("/v1/live/sessions", Some("event_id")),
            ("/v1/responses", Some("status")),
            ("/v1/socket", None),
        ] {
            let mut bench = Bench::open(settings_of(&settings), target);
            let now = end(&mut bench);
            let (event, reason) = bench.told(b"", b"");
            assert_eq!(reason, code);
            assert_eq!(event.is_some(), shape.is_some(), "{target}");
            if let Some((event, shape)) = event.zip(shape) {
                assert_eq!((&event["type"], &event["error"]["code"]), (&"error".into(), &code.into()));
                assert!(event[shape].is_string() || event[shape] == if code.starts_with("ins") { 429 } else { 401 });
                let level = if code.starts_with("ins") { "user".into() } else { serde_json::Value::Null };
                assert_eq!(event["error"]["param"], level);
                assert!(event["error"]["message"].as_str().is_some_and(|m| m.len() > 20));
            }
            let told = (bench.to_client.len(), bench.to_target.len());
            bench.client(now, &[CLIENTS_TEXT, CLIENTS_PING].concat());
            bench.target(now, &[&text(DELTA)[..], PING].concat());
            assert_eq!((bench.to_client.len(), bench.to_target.len()), told, "nothing follows a goodbye");
            assert!(!bench.closed.0 && !bench.closed.1, "it waits for the target's");
            bench.target(now, CLOSE);
            let record = bench.over();
            assert_eq!((record.outcome, record.status), (Outcome::Completed, 101));
        }
    }
}

fn settings_of(settings: &Settings) -> Settings {
    let Settings { keys_only, limits, reserves_average, allows_unmetered, .. } = *settings;
    Settings { keys_only, limits, reserves_average, allows_unmetered, ..fixture::settings() }
}

/// The budget is spent at each instant of a session, its bytes cut in several ways: what is under way comes to its end,
/// and the frames of ours stand where they may.
#[test]
fn a_running_response_comes_to_its_end_first() {
    let (first, second) = DELTA.as_bytes().split_at(9);
    let fragment = |first_byte: u8, part: &[u8]| [&[first_byte, part.len() as u8], part].concat();
    let parts = [
        text(CREATED),
        PING.to_vec(),
        [fragment(0x01, first), PING.to_vec(), fragment(0x80, second)].concat(),
        text(DONE),
        text(r#"{"type":"rate_limits.updated"}"#),
        [fragment(0x01, b"{"), PING.to_vec(), fragment(0x80, b"}")].concat(),
    ];
    let stream = parts.concat();
    let ends: Vec<usize> = (0..=parts.len()).map(|count| parts[..count].concat().len()).collect();
    for at_byte in 0..stream.len() {
        // Where it may end: between two messages, without a response.
        let expected =
            ends.iter().copied().find(|&end| end >= at_byte && (end == 0 || end >= ends[4])).expect("an end");
        for (step, settled) in [(1, true), (7, true), (usize::MAX, true), (7, false)] {
            let mut bench = Bench::open(Settings { settled, ..limited() }, REALTIME);
            bench.client(at(0), CLIENTS_TEXT);
            stream[..at_byte].chunks(step).for_each(|piece| bench.target(at(0), piece));
            bench.spend(at(1));
            bench.client(at(1), &[CLIENTS_TEXT, CLIENTS_PING].concat());
            stream[at_byte..].chunks(step).for_each(|piece| bench.target(at(2), piece));
            let pinged = expected > at_byte;
            let heard = if pinged { [CLIENTS_TEXT, CLIENTS_PING].concat() } else { CLIENTS_TEXT.to_vec() };
            let (_, reason) = bench.told(&stream[..expected], &heard);
            assert_eq!(reason, "insufficient_quota", "at {at_byte}, by {step}");
            bench.target(at(2), CLOSE);
            assert_eq!(bench.over().endpoint, Endpoint::RealtimeSession);
            let responses = bench.records.iter().filter(|record| record.endpoint == Endpoint::Realtime);
            assert_eq!(responses.map(|record| record.usage.total_tokens).collect::<Vec<_>>(), [2], "at {at_byte}");
        }
    }
}

#[test]
fn what_a_response_spends_itself_ends_its_session_behind_it() {
    let limits = Limits { month_nano_usd: Some(1_000), ..Limits::default() };
    let mut bench = Bench::open(Settings { limits, ..settings() }, REALTIME);
    let before = [text(CREATED), text(DONE)].concat();
    bench.target(at(3), &text(CREATED));
    bench.target(at(5), &[&text(DONE)[..], &text(CREATED)].concat());
    assert_eq!(bench.told(&before, b"").1, "insufficient_quota");
    let record = bench.records[0].clone();
    assert_eq!((record.started_at, record.duration_us), (at(3).unix, 2_000_000));
    bench.target(at(5), CLOSE);
    let record = bench.over();
    assert_eq!(record.usage_source, UsageSource::Unknown, "another response had begun");
}

/// Of a frame that has begun to leave, the rest does not go on; of one that has not left, nothing.
#[test]
fn a_frame_of_the_clients_that_was_cut_leaves_no_half() {
    for (part, is_told) in [(0, true), (4, false), (CLIENTS_TEXT.len(), true)] {
        let mut bench = Bench::open(limited(), REALTIME);
        bench.target(at(0), &text(CREATED));
        bench.client(at(0), &CLIENTS_TEXT[..part]);
        bench.spend(at(1));
        bench.client(at(1), &CLIENTS_TEXT[part..]);
        bench.client(at(1), CLIENTS_PING);
        bench.target(at(1), &text(DONE));
        let heard = &CLIENTS_TEXT[..part];
        let heard = if is_told { [heard, CLIENTS_PING].concat() } else { heard.to_vec() };
        assert!(bench.to_target.starts_with(&heard) && (bench.to_target.len() > heard.len()) == is_told, "{part}");
        bench.target(at(1), CLOSE);
        bench.over();
    }
}

/// Whatever the peers do, or do not do, it is over soon, and what is still reported counts.
#[test]
fn every_way_out_of_a_goodbye_settles_it() {
    type Way = (&'static str, fn(&mut Bench), usize);
    let ways: [Way; 8] = [
        ("the target says goodbye", |bench| bench.target(at(2), CLOSE), 1),
        ("it ends", |bench| bench.proxy.ended(at(2), Conn::Up(bench.up)), 1),
        ("it breaks off", |bench| bench.proxy.failed(at(2), Conn::Up(bench.up), ErrorKind::ConnectionReset), 1),
        ("it says nothing", |bench| bench.proxy.expire(at(3)), 1),
        (
            "it talks on",
            |bench| {
                (0..5).for_each(|_| bench.target(at(2), &[text(CREATED), text(DONE)].concat()));
                bench.proxy.expire(at(3));
            },
            6,
        ),
        (
            "the client leaves",
            |bench| {
                bench.proxy.failed(at(2), Conn::Down(bench.down), ErrorKind::ConnectionReset);
                bench.act(at(2));
                assert!(!bench.closed.0, "the target has its time");
                bench.target(at(2), &[&text(DONE)[..], CLOSE].concat());
            },
            2,
        ),
        (
            "both leave",
            |bench| {
                bench.client(at(2), CLIENTS_TEXT);
                bench.proxy.ended(at(2), Conn::Down(bench.down));
                bench.proxy.ended(at(2), Conn::Up(bench.up));
            },
            1,
        ),
        (
            "the process stops",
            |bench| {
                bench.proxy.drain(at(2));
                bench.proxy.abort(at(2));
            },
            1,
        ),
    ];
    for (what, end, records) in ways {
        for settled in [true, false] {
            let mut bench = Bench::open(Settings { settled, ..limited() }, REALTIME);
            bench.spend(at(1));
            bench.told(b"", b"");
            end(&mut bench);
            bench.act(at(3));
            let record = bench.over();
            assert_eq!((record.endpoint, record.outcome), (Endpoint::RealtimeSession, Outcome::Completed), "{what}");
            assert_eq!((bench.records.len(), bench.reset), (records, false), "{what}");
        }
    }
}

#[test]
fn a_stream_that_cannot_be_told_is_cut() {
    let mut bench = Bench::open(limited(), REALTIME);
    bench.target(at(0), b"\x83no WebSocket");
    bench.spend(at(1));
    assert_eq!(bench.to_client, b"\x83no WebSocket", "nothing of ours between");
    assert!(bench.reset, "it is no end in good order");
    assert_eq!(bench.over().usage_source, UsageSource::Unknown);
    let mut bench = Bench::open(limited(), REALTIME);
    bench.spend(at(1));
    bench.target(at(1), b"\x83no");
    bench.over();
}

#[test]
fn whose_budget_was_spent_before_the_target_answered_gets_no_further() {
    let mut proxy = proxy(limited());
    let handshake = format!(
        "GET {REALTIME} HTTP/1.1\r\nHost: a\r\nX-User-ID: u\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    );
    let (down, up) = fixture::sent(&mut proxy, &handshake);
    let record = Record { user: "u".into(), cost_nano_usd: Some(BUDGET), ..Record::default() };
    proxy.count(at(1), &record);
    proxy.received(at(1), Conn::Up(up), &mut SWITCH.as_bytes().to_vec());
    fixture::act(&mut proxy, at(1));
    let told = take(&mut proxy, at(1), Conn::Down(down));
    assert!(told.windows(18).any(|window| window == b"insufficient_quota"), "{:?}", told.escape_ascii());
}

#[test]
fn others_and_what_is_free_go_on() {
    let mut bench = Bench::open(limited(), "/v1/realtime?model=free");
    bench.spend(at(1));
    bench.target(at(1), &text(r#"{"type":"session.created","session":{"id":"s","model":"free"}}"#));
    bench.client(at(1), CLIENTS_TEXT);
    bench.spend(at(1));
    assert_eq!(bench.to_target, CLIENTS_TEXT, "its model costs nothing");
    bench.target(at(1), &text(r#"{"type":"session.updated","session":{"id":"s","model":"m"}}"#));
    bench.spend(at(1));
    assert!(bench.to_target.len() > CLIENTS_TEXT.len(), "it has another by the target's word");

    let mut bench = Bench::open(limited(), REALTIME);
    let record = Record { user: "v".into(), cost_nano_usd: Some(BUDGET), ..Record::default() };
    bench.proxy.count(at(1), &record);
    bench.act(at(1));
    assert!(bench.to_client.is_empty(), "another user's budget");
    let record = Record { user: "u".into(), cost_nano_usd: Some(BUDGET - 1), ..Record::default() };
    bench.proxy.count(at(1), &record);
    bench.act(at(1));
    assert!(bench.to_client.is_empty(), "something is left");
}
