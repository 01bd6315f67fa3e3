//! A client: sends its requests in pieces, one after another or pipelined, reads the responses late or at once, and may
//! go away in the middle. What it reads it parses with a reader of its own, strictly.

use crate::scenario::{Got, Plan};
use crate::world::World;
use std::collections::VecDeque;

/// How a client behaves.
pub struct Client {
    pipe: Option<usize>,
    /// Requests (indices into the plan) not begun yet.
    to_send: VecDeque<usize>,
    /// Requests whose response is awaited, in order.
    awaited: VecDeque<usize>,
    unsent: VecDeque<u8>,
    received: Vec<u8>,
    pipelined: bool,
    /// Most bytes of a write, and of a read.
    grain: (usize, usize),
    /// Goes away once so many bytes of responses have come: by ending or by a reset.
    abort_after: Option<(usize, bool)>,
    received_in_all: usize,
    /// And, where none need to come, so few bytes of its requests are still to be sent.
    abort_before: usize,
    pub done: bool,
}

impl Client {
    pub fn new(world: &mut World, requests: Vec<usize>, may_abort: bool) -> Self {
        let aborts = may_abort && world.rng.below(4) == 0;
        let abort_after = aborts.then(|| ([0, 0, 1, 40, 300, 5_000][world.rng.below(6)], world.rng.coin()));
        Self {
            pipe: None,
            to_send: requests.into(),
            awaited: VecDeque::new(),
            unsent: VecDeque::new(),
            received: Vec::new(),
            pipelined: world.rng.coin(),
            grain: (world.grain(), world.grain()),
            abort_after,
            received_in_all: 0,
            abort_before: [1, 50, 100, 1_000][world.rng.below(4)],
            done: false,
        }
    }

    /// It has connected.
    pub fn has_come(&self) -> bool {
        self.pipe.is_some()
    }

    /// Does one thing; false where there was nothing to do.
    pub fn act(&mut self, world: &mut World, plan: &mut Plan) -> bool {
        if self.done {
            return false;
        }
        let Some(pipe) = self.pipe else {
            self.pipe = Some(world.dial());
            return true;
        };
        let moves = world.tls_moves;
        let bytes = world.peer_read(pipe, self.grain.1);
        self.received_in_all += bytes.len();
        self.received.extend_from_slice(&bytes);
        let closed = world.pipes[pipe].from_proxy.is_empty()
            && (world.pipes[pipe].proxy_ended || world.pipes[pipe].proxy_closed);
        let parsed = self.parse(plan, closed, world.mono);
        if let Some((after, by_reset)) = self.abort_after
            && self.received_in_all >= after
            && (after > 0 || !self.awaited.is_empty() && self.unsent.len() < self.abort_before)
        {
            return self.leave(world, plan, by_reset);
        }
        if closed {
            return self.leave(world, plan, false);
        }
        let begun = self.begin(plan, pipe, world.mono);
        let wrote = self.write(world, pipe);
        if self.to_send.is_empty() && self.awaited.is_empty() && self.unsent.is_empty() {
            return self.leave(world, plan, false);
        }
        !bytes.is_empty() || parsed || begun || wrote || world.tls_moves > moves
    }

    fn begin(&mut self, plan: &mut Plan, pipe: usize, now: u64) -> bool {
        if !self.unsent.is_empty() || !(self.pipelined || self.awaited.is_empty()) {
            return false;
        }
        let Some(request) = self.to_send.pop_front() else { return false };
        plan.requests[request].pipe = Some(pipe);
        plan.requests[request].asked_at = now;
        self.unsent.extend(&plan.requests[request].wire);
        self.awaited.push_back(request);
        true
    }

    fn write(&mut self, world: &mut World, pipe: usize) -> bool {
        let count = self.unsent.len().min(1 + world.rng.below(self.grain.0));
        let bytes: Vec<u8> = self.unsent.drain(..count).collect();
        world.peer_write(pipe, &bytes);
        count > 0
    }

    fn leave(&mut self, world: &mut World, plan: &mut Plan, by_reset: bool) -> bool {
        self.done = true;
        for request in self.awaited.drain(..).chain(self.to_send.drain(..)) {
            plan.requests[request].left = true;
        }
        if let Some(pipe) = self.pipe {
            if by_reset { world.peer_reset(pipe) } else { world.peer_end(pipe) }
        }
        true
    }

    /// Takes whole responses off `received`, and at the end of the connection a cut one.
    fn parse(&mut self, plan: &mut Plan, closed: bool, now: u64) -> bool {
        let mut progress = false;
        while let Some(&request) = self.awaited.front() {
            let Some((got, used)) = response(&self.received, plan.requests[request].to_head, closed) else { break };
            self.received.drain(..used);
            if got.status == 100 {
                continue;
            }
            assert!(plan.requests[request].got.is_none(), "two outcomes for request {request}");
            let committed = plan.committed_names.contains(&plan.requests[request].name);
            plan.requests[request].saw_end_at = committed || plan.may_let_go;
            plan.requests[request].got = Some(got);
            plan.requests[request].answered_at = now;
            self.awaited.pop_front();
            progress = true;
        }
        let unasked = self.awaited.is_empty() && !self.received.is_empty();
        assert!(!unasked, "bytes that nobody asked for: {}", self.received.escape_ascii());
        progress
    }
}

/// The first response in `bytes` and its length; `None` where it is not all there.
pub fn response(bytes: &[u8], to_head: bool, closed: bool) -> Option<(Got, usize)> {
    let Some(end) = find(bytes, b"\r\n\r\n").map(|at| at + 4) else {
        return (closed && !bytes.is_empty()).then(|| (Got::cut(0), bytes.len()));
    };
    let head = std::str::from_utf8(&bytes[..end]).expect("heads are text here");
    let status: u16 = head.strip_prefix("HTTP/1.1 ").expect("a status line")[..3].parse().expect("a status");
    let header = |name: &str| {
        let value = head.split("\r\n").find_map(|line| line.strip_prefix(&format!("{name}: ")));
        value.map(str::to_owned)
    };
    let remaining = header("x-ratelimit-remaining-requests").map(|count| count.parse().expect("a number"));
    let got = |body: Vec<u8>, whole| Got { status, body, whole, ours: header("x-proxy-error"), remaining };
    if to_head || status == 204 || status == 304 || status < 200 {
        return Some((got(Vec::new(), true), end));
    }
    let rest = &bytes[end..];
    let cut = |body: &[u8]| closed.then(|| (got(body.to_vec(), false), bytes.len()));
    if let Some(length) = header("content-length") {
        let length: usize = length.parse().expect("a length");
        return match rest.get(..length) {
            Some(body) => Some((got(body.to_vec(), true), end + length)),
            None => cut(rest),
        };
    }
    if header("transfer-encoding").is_none() {
        return closed.then(|| (got(rest.to_vec(), true), bytes.len()));
    }
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let Some(line) = find(&rest[at..], b"\r\n") else { return cut(&body) };
        let size =
            usize::from_str_radix(std::str::from_utf8(&rest[at..at + line]).expect("a size"), 16).expect("a size");
        at += line + 2;
        let Some(data) = rest.get(at..at + size) else { return cut(&body) };
        let Some(crlf) = rest.get(at + size..at + size + 2) else { return cut(&body) };
        assert_eq!(crlf, b"\r\n");
        at += size + 2;
        if size == 0 {
            return Some((got(body, true), end + at));
        }
        body.extend_from_slice(data);
    }
}

pub fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}
