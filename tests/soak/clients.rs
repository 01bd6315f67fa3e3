//! The clients of a soak: each makes requests of random kinds, one after the other, and keeps account.

use super::kinds::{Kind, WORDS_OF_A_LARGE_STREAM};
use crate::support::client::{Client, request, response_framing};
use crate::support::rng::Rng;
use crate::support::websocket::{Frame, HANDSHAKE, Side, Socket};
use crate::support::wire::Cut;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

const TOO_LARGE: &str = "POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n\
    content-length: 1000001\r\n\r\n{";

/// What all clients did.
#[derive(Default)]
pub struct Account {
    next: AtomicU64,
    stop: AtomicBool,
    /// Requests by kind.
    counts: [AtomicU64; Kind::ALL.len()],
    /// Responses of sessions: they have rows beside that of the session.
    parts: AtomicU64,
    /// Numbers of requests that the upstream has seen, where somebody waits for that.
    seen: Mutex<BTreeSet<u64>>,
}

impl Account {
    pub fn note_seen(&self, n: u64) {
        self.seen.lock().unwrap().insert(n);
    }

    pub fn count(&self, kind: Kind) -> u64 {
        self.counter(kind).load(Ordering::SeqCst)
    }

    fn counter(&self, kind: Kind) -> &AtomicU64 {
        &self.counts[Kind::ALL.iter().position(|other| *other == kind).expect("one of all")]
    }

    /// Whole requests of all kinds.
    pub fn requests(&self) -> u64 {
        Kind::ALL.iter().filter(|kind| **kind != Kind::Half).map(|kind| self.count(*kind)).sum()
    }

    pub fn parts(&self) -> u64 {
        self.parts.load(Ordering::SeqCst)
    }

    pub fn refused(&self) -> u64 {
        self.count(Kind::Refused)
    }

    /// The rows that each user must have.
    pub fn rows(&self) -> BTreeMap<String, u64> {
        let has_rows = |kind: &&Kind| !matches!(kind, Kind::Half | Kind::Refused);
        let rows = |kind: &Kind| self.count(*kind) + if *kind == Kind::Session { self.parts() } else { 0 };
        Kind::ALL.iter().filter(has_rows).map(|kind| (kind.name().to_owned(), rows(kind))).collect()
    }
}

/// Clients at work.
pub struct Clients {
    account: Arc<Account>,
    threads: Vec<JoinHandle<()>>,
}

impl Clients {
    pub fn start(addr: SocketAddr, count: usize, seed: u64, account: &Arc<Account>) -> Self {
        let start = |index: usize| {
            let rng = Rng::new(seed ^ (index as u64 + 1) << 40);
            let asker = Asker { addr, rng, account: account.clone(), client: None };
            thread::spawn(move || asker.run())
        };
        Self { account: account.clone(), threads: (0..count).map(start).collect() }
    }

    /// Lets each bring what it does to an end.
    pub fn stop(self) {
        self.account.stop.store(true, Ordering::SeqCst);
        for thread in self.threads {
            thread.join().unwrap();
        }
    }
}

/// What may be the answer to everything: the upstream's connection may be gone just as it is used, by the fault of another
/// request, and an upstream on a busy machine may be late.
fn is_fault(status: u16) -> bool {
    matches!(status, 502 | 504)
}

struct Asker {
    addr: SocketAddr,
    rng: Rng,
    account: Arc<Account>,
    client: Option<Client>,
}

impl Asker {
    fn run(mut self) {
        while !self.account.stop.load(Ordering::SeqCst) {
            // Half of it is ordinary.
            let place = if self.rng.coin() { self.rng.below(5) } else { self.rng.below(Kind::ALL.len()) };
            let kind = Kind::ALL[place];
            let n = self.account.next.fetch_add(1, Ordering::SeqCst);
            let client = self.client.take().unwrap_or_else(|| Client::connect(self.addr));
            match kind {
                Kind::SlowReader => self.read_slowly(client, n),
                Kind::Pipelined => self.pipeline(client, n),
                Kind::LeavesBefore => self.leave_before(n),
                Kind::LeavesWithin => self.leave_within(client, n),
                Kind::Half => self.send_half(n),
                Kind::Refused => self.be_refused(),
                Kind::Session => self.converse(client, n),
                _ => self.ask(client, kind, n),
            }
        }
    }

    fn note(&self, kind: Kind) {
        self.account.counter(kind).fetch_add(1, Ordering::SeqCst);
    }

    /// Reads a response and judges it; the connection is kept where that is said.
    fn answer(&mut self, mut client: Client, kind: Kind) {
        self.note(kind);
        let response = client.try_response("POST").unwrap_or_else(|cut| panic!("{}: {cut:?}", kind.name()));
        let ours = response.head.get("x-proxy-error").map(str::to_owned);
        let (status, whole) = (response.status, response.cut.is_none());
        let is_right = match kind {
            Kind::Failing => whole && [400, 404, 429, 500, 503].contains(&status) && ours.is_none(),
            Kind::ResetBefore | Kind::ResetWithin => whole && status == 502,
            Kind::ResetAfter => !whole || status == 502,
            Kind::CutInChunk => !whole && status == 200,
            Kind::Silent => whole && status == 504,
            Kind::Early => whole && status == 413 && ours.is_none(),
            _ => whole && status == 200,
        };
        let is_fault = whole && ours.is_some() && is_fault(status);
        assert!(is_right || is_fault, "{}: {:?} {ours:?} {:?}", kind.name(), response.head, response.cut);
        let closes = response.head.get("connection").is_some_and(|value| value == "close");
        if whole && !closes {
            self.client = Some(client);
        }
    }

    fn ask(&mut self, mut client: Client, kind: Kind, n: u64) {
        // An early answer may end the connection with the request half sent.
        let sent = client.try_send(kind.request(n));
        assert!(sent || kind == Kind::Early, "{}", kind.name());
        self.answer(client, kind);
    }

    fn pipeline(&mut self, mut client: Client, n: u64) {
        let second = self.account.next.fetch_add(1, Ordering::SeqCst);
        client.send([Kind::Pipelined.request(n), Kind::Pipelined.request(second)].concat());
        self.answer(client, Kind::Pipelined);
        let client = self.client.take().expect("no answer to these ends the connection");
        self.answer(client, Kind::Pipelined);
    }

    fn read_slowly(&mut self, mut client: Client, n: u64) {
        client.send(Kind::SlowReader.request(n));
        self.note(Kind::SlowReader);
        let head = client.head().unwrap().expect("a head");
        let mut framing = response_framing("POST", &head).unwrap();
        let mut body = Vec::new();
        let mut paused_at = 0;
        while let Some(piece) = client.body_piece(&mut framing).unwrap() {
            body.extend_from_slice(&piece);
            if body.len() - paused_at > 64 * 1024 {
                paused_at = body.len();
                thread::sleep(Duration::from_millis(3));
            }
        }
        let events = body.windows(6).filter(|six| *six == b"data: ").count();
        // The events of the upstream but that of its usage, which was not asked for, and `[DONE]`.
        let whole = head.status() == 200 && events == WORDS_OF_A_LARGE_STREAM + 1;
        assert!(whole || is_fault(head.status()), "{events} events; {head:?}");
        self.client = Some(client);
    }

    /// Leaves once the upstream has seen the request, or else is told why it has not.
    fn leave_before(&mut self, n: u64) {
        let mut client = Client::connect(self.addr);
        client.send(Kind::LeavesBefore.request(n));
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(500) {
            if self.account.seen.lock().unwrap().remove(&n) {
                self.note(Kind::LeavesBefore);
                return if self.rng.coin() {
                    client.reset()
                };
            }
            thread::sleep(Duration::from_millis(1));
        }
        self.note(Kind::LeavesBefore);
        let response = client.response("POST");
        assert!(is_fault(response.status), "{response:?}");
        self.account.seen.lock().unwrap().remove(&n);
    }

    fn leave_within(&mut self, mut client: Client, n: u64) {
        client.send(Kind::LeavesWithin.request(n));
        self.note(Kind::LeavesWithin);
        let head = client.head().unwrap().expect("a head");
        assert!(head.status() == 200 || is_fault(head.status()), "{head:?}");
        if self.rng.coin() {
            client.reset();
        }
    }

    /// Half a head, or a head and half a body that is held: the upstream never hears of it.
    fn send_half(&mut self, n: u64) {
        let bytes = Kind::Half.request(n);
        let mut client = Client::connect(self.addr);
        client.send(&bytes[..1 + self.rng.below(bytes.len() - 2)]);
        self.note(Kind::Half);
        if self.rng.coin() {
            client.reset();
        }
    }

    fn be_refused(&mut self) {
        let (status, bytes) = match self.rng.below(6) {
            0 => (400, "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n"),
            1 => {
                (400, "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n")
            }
            2 => (413, TOO_LARGE),
            3 => (400, "GET /x HTTP/1.1\r\nhost: a\r\nx-user-id:\r\n\r\n"),
            4 => (405, "POST /usage HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n"),
            _ => (501, "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip\r\n\r\n"),
        };
        let mut client = Client::connect(self.addr);
        client.send(bytes);
        self.note(Kind::Refused);
        let response = client.response("POST").expect(status);
        assert!(response.head.get("x-proxy-error").is_some(), "{response:?}");
    }

    fn converse(&mut self, mut client: Client, n: u64) {
        let fields: Vec<_> = HANDSHAKE.iter().copied().chain([("x-user-id", Kind::Session.name())]).collect();
        client.send(request("GET", &Kind::Session.target("/v1/realtime", n), &fields, b""));
        self.note(Kind::Session);
        let response = client.response("GET");
        if response.status != 101 {
            return assert!(is_fault(response.status), "{response:?}");
        }
        let mut socket = Socket::new(client.into_wire(), Side::Client(self.rng.clone()));
        for _ in 0..1 + self.rng.below(3) {
            socket.send_json(&json!({"type": "response.create"})).unwrap();
            let message = socket.message().unwrap().expect("a response");
            assert!(message.payload.starts_with(b"{"), "{message:?}");
            self.account.parts.fetch_add(1, Ordering::SeqCst);
        }
        // Some say that they leave, others just do.
        if self.rng.coin() {
            socket.send(&Frame::close(1000, "")).unwrap();
            assert!(matches!(socket.message(), Ok(_) | Err(Cut::Closed)), "the session ends in good order");
        }
    }
}
