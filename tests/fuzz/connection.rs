//! A client's whole connection: any bytes in any cuts, into the state machine that the binary runs, beside a target that
//! behaves well.
//!
//! The sockets here take all that they are given and the ledger commits at once, so that what happens depends on the
//! client's bytes alone.

use super::Input;
use openai_api_proxy::base::clock::{Now, SECOND};
use openai_api_proxy::base::work::LongWork;
use openai_api_proxy::http::chunked::{Decoder, Piece};
use openai_api_proxy::http::framing::Framing;
use openai_api_proxy::http::head::{HeadEnd, RequestHead, storage};
use openai_api_proxy::http::headers::Known;
use openai_api_proxy::limit::bucket::Rate;
use openai_api_proxy::limit::overrides::Limits;
use openai_api_proxy::local::Answer;
use openai_api_proxy::metrics::{LabelLimits, Metrics};
use openai_api_proxy::price::PriceTable;
use openai_api_proxy::proxy::{Action, Conn, DownKey, Proxy, Settings, Timeouts, UpKey, Written};
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::OnceLock;

const BODY: &[u8] = br#"{"model":"m","usage":{"prompt_tokens":3,"completion_tokens":1,"total_tokens":4}}"#;
/// Above what any input takes.
const STEPS_MAX: usize = 100_000;

/// A request as a strict reader finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Message {
    method: String,
    target: String,
    body: Vec<u8>,
    websocket: bool,
}

/// What came of a connection.
struct Outcome {
    to_client: Vec<u8>,
    /// Whole requests that the target took.
    seen: Vec<Message>,
    /// Statuses of the records.
    records: Vec<u16>,
}

/// The outcome does not depend on the cuts; the target sees what the client sent, once and in order, and can read it
/// in one way only; nothing stays reserved. Bit 0 of the mode keeps a journal, bit 1 sets a limit in its place, bit 2 lets replies
/// go before their commit.
pub fn connection(input: &[u8]) -> bool {
    let Some(input) = Input::parse(input) else { return false };
    let whole = drive(&[input.bytes], input.mode);
    let said = messages(input.bytes).0;
    let mut rest = said.iter();
    for seen in &whole.seen {
        let is_it =
            |said: &&Message| (&said.method, &said.target) == (&seen.method, &seen.target) && is_edit(said, seen);
        assert!(rest.any(|said| is_it(&said)), "{seen:?} was not said, or not in this order: {said:?}");
    }
    assert!(whole.records.len() >= whole.seen.len(), "{} of {}", whole.records.len(), whole.seen.len());
    // After a handshake that the target does not take up, what has come already is dropped with the connection.
    if !said.iter().any(|said| said.websocket) {
        let Outcome { to_client, seen, records } = drive(&input.parts(), input.mode);
        assert_eq!(
            (to_client.escape_ascii().to_string(), &seen),
            (whole.to_client.escape_ascii().to_string(), &whole.seen)
        );
        // A body that goes wrong withdraws a request that still waits for its entry in the journal, or comes too late.
        assert!(records == whole.records || input.mode & 1 != 0, "{records:?}, in one piece {:?}", whole.records);
    }
    !whole.seen.is_empty()
}

/// The body as it was said, or with the one edit: usage is asked for.
fn is_edit(said: &Message, seen: &Message) -> bool {
    let parse = |body: &[u8]| {
        let mut value: Value = serde_json::from_slice(body).ok()?;
        value.as_object_mut()?.remove("stream_options");
        Some(value)
    };
    let same = |pair: &(&u8, &u8)| pair.0 == pair.1;
    let before = said.body.iter().zip(&seen.body).take_while(same).count();
    let after = said.body.iter().rev().zip(seen.body.iter().rev()).take_while(same).count();
    // Put in between what was said, or in place of options that did not ask.
    before + after >= said.body.len()
        && (said.body == seen.body || seen.body.windows(13).any(|part| part == b"include_usage"))
        || parse(&seen.body).is_some_and(|value| parse(&said.body) == Some(value))
}

/// The whole requests at the start of `bytes`, how long they are, and whether what follows is wrong.
fn messages(bytes: &[u8]) -> (Vec<Message>, usize, bool) {
    let (mut found, mut at) = (Vec::new(), 0);
    loop {
        let rest = &bytes[at..];
        let Ok(end) = HeadEnd::default().find(rest) else { return (found, at, true) };
        let Some(end) = end else { return (found, at, false) };
        let mut room = storage();
        let Ok(head) = RequestHead::parse(&rest[..end], &mut room) else { return (found, at, true) };
        let body = match head.framing {
            Framing::None | Framing::Close => Some((Vec::new(), 0)),
            Framing::Length(length) => {
                let body = usize::try_from(length).ok().and_then(|length| rest[end..].get(..length));
                body.map(|body| (body.to_vec(), body.len()))
            }
            Framing::Chunked => match chunked(&rest[end..]) {
                Ok(body) => body,
                Err(()) => return (found, at, true),
            },
        };
        let Some((body, used)) = body else { return (found, at, false) };
        let websocket = head.headers.values(Known::Upgrade).next().is_some();
        let (method, target) = (head.method.to_owned(), head.target.to_owned());
        found.push(Message { method, target, body, websocket });
        at += end + used;
    }
}

/// A body in chunks and its length on the wire; `None` where it is not all there.
fn chunked(bytes: &[u8]) -> Result<Option<(Vec<u8>, usize)>, ()> {
    let (mut decoder, mut body, mut at) = (Decoder::default(), Vec::new(), 0);
    loop {
        let (used, piece) = decoder.next(&bytes[at..]).map_err(|_| ())?;
        at += used;
        match piece {
            Piece::Data(data) => body.extend_from_slice(data),
            Piece::End => return Ok(Some((body, at))),
            Piece::More => return Ok(None),
            Piece::Chunk(_) | Piece::ChunkEnd => {}
        }
    }
}

/// The proxy with one client, and all around it.
struct Harness<'a> {
    proxy: Proxy,
    now: Now,
    down: DownKey,
    /// Bytes of the client's that it has sent and the proxy does not want yet.
    unread: &'a [u8],
    /// What each connection to the target has brought and was not answered yet.
    targets: BTreeMap<u64, (UpKey, Vec<u8>)>,
    outcome: Outcome,
    steps: usize,
}

fn settings(mode: u8) -> Settings {
    Settings {
        limits: Limits { requests: (mode & 3 == 2).then_some(Rate { per_minute: 1, burst: 3 }), ..Limits::default() },
        connections_max: 10,
        body_bytes_max: 256,
        buffered_bytes_max: 1 << 20,
        settled: mode & 4 == 0,
        journaled: mode & 1 != 0,
        ledger_places: 1_000,
        timeouts: Timeouts { read_on: 60 * SECOND, ledger_wait: 2 * SECOND, overload: 0, ..Timeouts::default() },
        ..Settings::default()
    }
}

/// One run over these parts, and the end of the connection after them.
fn drive(parts: &[&[u8]], mode: u8) -> Outcome {
    let metrics = Metrics::new(LabelLimits::default(), 0);
    let now = Now { mono: SECOND, unix: 1_700_000_000 * SECOND };
    static PRICES: OnceLock<PriceTable> = OnceLock::new(); // slow to read
    let prices = PRICES.get_or_init(PriceTable::built_in).clone();
    let mut proxy = Proxy::new(settings(mode), prices, metrics, now);
    let down = proxy.accepted(now);
    let outcome = Outcome { to_client: Vec::new(), seen: Vec::new(), records: Vec::new() };
    let mut harness = Harness { proxy, now, down, unread: &[], targets: BTreeMap::new(), outcome, steps: 0 };
    harness.settle();
    let all = parts.concat();
    let mut sent = 0;
    for part in parts {
        sent += part.len();
        let unread = harness.unread.len() + part.len();
        harness.unread = &all[sent - unread..sent];
        harness.settle();
    }
    harness.finish();
    harness.outcome
}

impl Harness<'_> {
    /// Until nothing happens any more.
    fn settle(&mut self) {
        while self.act() || self.commit() || self.read() || self.answer() {
            self.steps += 1;
            assert!(self.steps < STEPS_MAX, "it goes on for ever");
        }
    }

    /// One action of the proxy's.
    fn act(&mut self) -> bool {
        let now = self.now;
        let Some(action) = self.proxy.next_action() else { return false };
        match action {
            Action::Connect { up, .. } => {
                self.targets.insert(Conn::Up(up).token(), (up, Vec::new()));
                self.proxy.connected(now, up);
            }
            Action::Look(up) => self.proxy.looked(now, up),
            Action::Flush(conn) => {
                let mut bytes = Vec::new();
                self.proxy.flush(now, conn, &mut |more| {
                    bytes.extend_from_slice(more);
                    Written::Taken(more.len())
                });
                self.put(conn, &bytes);
            }
            Action::Read(conn) => self.proxy.resumed(now, conn),
            Action::Close { conn, last, .. } => {
                self.put(conn, &last);
                self.targets.remove(&conn.token());
            }
            Action::HalfClose(_) => {}
            Action::Work(LongWork { ticket, work, .. }) => {
                work();
                self.proxy.worked(now, ticket);
            }
            Action::Resolve => {
                let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
                self.proxy.resolved(now, Ok(vec![address]));
            }
            Action::Ask { ticket, .. } => {
                let answer = Answer::new(200, "text/plain", b"answer".as_slice());
                self.proxy.answered(now, ticket, &answer);
            }
        }
        true
    }

    fn put(&mut self, conn: Conn, bytes: &[u8]) {
        match conn {
            Conn::Down(_) => self.outcome.to_client.extend_from_slice(bytes),
            Conn::Up(_) => {
                if let Some((_, received)) = self.targets.get_mut(&conn.token()) {
                    received.extend_from_slice(bytes);
                }
            }
        }
    }

    /// The ledger takes what there is.
    fn commit(&mut self) -> bool {
        let records = self.proxy.take_records(self.now);
        let Some(upto) = records.last().map(|record| record.seq) else { return false };
        let counted = records.iter().filter(|record| record.journal.is_record());
        self.outcome.records.extend(counted.map(|record| record.status));
        self.proxy.committed(self.now, upto, &[]);
        true
    }

    /// The proxy reads what the client has sent, if it wants it.
    fn read(&mut self) -> bool {
        let conn = Conn::Down(self.down);
        if self.unread.is_empty() || !self.proxy.wants_read(conn) {
            return false;
        }
        let mut bytes = std::mem::take(&mut self.unread).to_vec();
        self.proxy.received(self.now, conn, &mut bytes);
        true
    }

    /// A target answers the first whole request that it has.
    fn answer(&mut self) -> bool {
        for (up, received) in self.targets.values_mut() {
            let (mut found, used, wrong) = messages(received);
            assert!(!wrong, "the target cannot read {}", received.escape_ascii());
            if found.is_empty() {
                continue;
            }
            assert_eq!((found.len(), used), (1, received.len()), "one request at a time");
            received.clear();
            let message = found.remove(0);
            let mut response =
                format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", BODY.len())
                    .into_bytes();
            if message.method != "HEAD" {
                response.extend_from_slice(BODY);
            }
            self.outcome.seen.push(message);
            let up = *up;
            self.proxy.received(self.now, Conn::Up(up), &mut response);
            return true;
        }
        false
    }

    /// The client ends, and then all time passes: nothing is left.
    fn finish(&mut self) {
        self.proxy.ended(self.now, Conn::Down(self.down));
        self.settle();
        while let Some(due) = self.proxy.next_deadline() {
            self.now.mono = self.now.mono.max(due);
            self.proxy.expire(self.now);
            self.settle();
            self.steps += 1;
            assert!(self.steps < STEPS_MAX, "time does not help");
        }
        assert_eq!(self.proxy.audit().slots(), (0, 0, 0), "slots are left");
        assert_eq!(self.proxy.audit().permits(), (0, 0), "places are left");
        assert!(self.targets.is_empty(), "connections are left");
    }
}
