//! The target: one actor for each connection that the proxy opens. Parses requests with a reader of its own, answers
//! each as the plan says, in pieces, and misbehaves where the plan wants it.

use crate::client::find;
use crate::scenario::{Fault, Plan};
use crate::session::FIRST_ID;
use crate::session::server::Server;
use crate::tls::Layer;
use crate::world::World;
use std::collections::{BTreeSet, VecDeque};

/// The body of the answer to a request that the target refuses before it is whole.
/// Large, for it may come faster than its client reads.
pub const EARLY_BODY: &[u8] = &[b'x'; 300_000];

/// One connection's server side.
pub struct Upstream {
    pipe: usize,
    /// The proxy on the way out, as long as there is no tunnel.
    egress: Option<Egress>,
    tls: Option<Layer>,
    received: Vec<u8>,
    unsent: VecDeque<u8>,
    grain: (usize, usize),
    /// What happens once `unsent` is sent.
    then: Option<Fault>,
    /// It carries a WebSocket now.
    talk: Option<Server>,
    /// Bytes were sent after a response.
    sent_junk: bool,
    /// And the proxy has read them, without anything of a next request: it must not send one.
    soiled: bool,
    /// TLS has been ended in good order.
    said_goodbye: bool,
    /// Nothing is read or written any more.
    pub done: bool,
}

/// What the proxy on the way out is asked with.
pub const CONNECT: &[u8] = b"CONNECT target:443 HTTP/1.1\r\nhost: target:443\r\n\r\n";

/// A proxy on the way out that is asked for a tunnel, and answers.
#[derive(Default)]
struct Egress {
    received: Vec<u8>,
    unsent: VecDeque<u8>,
    is_asked: bool,
    /// There is no tunnel, and it goes away behind its answer.
    refuses: bool,
}

impl Egress {
    /// The whole of the request has come.
    fn answer(&mut self, world: &mut World) {
        self.is_asked = true;
        let fate = if world.connect_faults { world.rng.below(12) } else { 11 };
        self.refuses = fate < 3;
        self.unsent.extend(match fate {
            0 => &b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n"[..],
            1 => b"HTTP/1.1 200 O",
            2 => b"no HTTP\r\n\r\n",
            3..6 => b"HTTP/1.0 100 Continue\r\n\r\nHTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
            _ => b"HTTP/1.1 200 Connection established\r\n\r\n",
        });
    }
}

impl Upstream {
    /// `tls`: it speaks TLS, and only 1.2. `egress`: it is behind a proxy.
    pub fn new(world: &mut World, pipe: usize, tls: Option<bool>, egress: bool) -> Self {
        let grain = (world.grain(), world.grain());
        Self {
            pipe,
            egress: egress.then(Egress::default),
            tls: tls.map(Layer::new),
            received: Vec::new(),
            unsent: VecDeque::new(),
            grain,
            then: None,
            talk: None,
            sent_junk: false,
            soiled: false,
            said_goodbye: false,
            done: false,
        }
    }

    /// Does one thing; false where there was nothing to do.
    pub fn act(&mut self, world: &mut World, plan: &mut Plan) -> bool {
        if self.done {
            return false;
        }
        if self.egress.is_some() {
            return self.open(world, plan);
        }
        if let Some(talk) = &mut self.talk {
            let acted = talk.act(world, &mut plan.sessions[talk.session]);
            self.done = talk.done;
            return acted;
        }
        let bytes = world.peer_read(self.pipe, self.grain.1);
        match &mut self.tls {
            Some(tls) => self.received.extend(tls.open(&bytes)),
            None => self.received.extend_from_slice(&bytes),
        }
        let sealed = self.tls.as_ref().map_or(0, |tls| tls.out.len());
        assert!(!self.soiled || self.received.is_empty(), "a connection is used again on which junk had come");
        // The proxy has read the junk, and nothing of a request was on its way before.
        let pipe = &world.pipes[self.pipe];
        let is_asked = !(self.received.is_empty() && pipe.from_proxy.is_empty())
            || self.tls.as_ref().is_some_and(|tls| tls.is_mid_record());
        self.soiled = self.sent_junk && sealed == 0 && !is_asked && pipe.to_proxy.is_empty();
        let closed = world.pipes[self.pipe].proxy_closed && world.pipes[self.pipe].from_proxy.is_empty();
        let progress = !bytes.is_empty();
        if self.send(world) {
            return true;
        }
        if let Some(fault) = self.then.take() {
            match &mut self.tls {
                Some(tls) if fault == Fault::CloseDelimited && !self.said_goodbye => {
                    tls.close();
                    (self.said_goodbye, self.then) = (true, Some(fault));
                }
                _ => self.misbehave(world, fault),
            }
            return true;
        }
        if self.take_request(plan) {
            return true;
        }
        if closed {
            self.done = true;
            return true;
        }
        if plan.idle_closes && self.received.is_empty() && !progress && world.rng.below(40) == 0 {
            self.then = Some(Fault::End(0));
            if let Some(tls) = self.tls.as_mut().filter(|_| world.rng.coin()) {
                tls.close();
            }
            return true;
        }
        progress
    }

    /// Has the proxy on the way out do one thing; false where there was nothing to do.
    fn open(&mut self, world: &mut World, plan: &mut Plan) -> bool {
        let Some(egress) = &mut self.egress else { return false };
        let bytes = world.peer_read(self.pipe, self.grain.1);
        assert!(bytes.is_empty() || !egress.is_asked, "bytes came before there was a tunnel");
        egress.received.extend_from_slice(&bytes);
        assert!(CONNECT.starts_with(&egress.received), "another request: {}", egress.received.escape_ascii());
        if !egress.is_asked && egress.received == CONNECT {
            egress.answer(world);
            return true;
        }
        let count = egress.unsent.len().min(1 + world.rng.below(self.grain.0));
        let piece: Vec<u8> = egress.unsent.drain(..count).collect();
        world.peer_write(self.pipe, &piece);
        if egress.is_asked && egress.unsent.is_empty() {
            plan.tunnels.0 += usize::from(!egress.refuses);
            plan.tunnels.1 += usize::from(egress.refuses);
            match egress.refuses {
                true if world.rng.coin() => world.peer_reset(self.pipe),
                true => world.peer_end(self.pipe),
                false => {}
            }
            self.done = egress.refuses;
            self.egress = None;
            return true;
        }
        self.done = world.pipes[self.pipe].proxy_closed && world.pipes[self.pipe].from_proxy.is_empty();
        self.done || count > 0 || !bytes.is_empty()
    }

    /// Writes some of what is to be sent; false where nothing is.
    fn send(&mut self, world: &mut World) -> bool {
        let count = self.unsent.len().min(1 + world.rng.below(self.grain.0));
        let Some(tls) = &mut self.tls else {
            let bytes: Vec<u8> = self.unsent.drain(..count).collect();
            world.peer_write(self.pipe, &bytes);
            return count > 0;
        };
        if tls.out.is_empty() && count > 0 {
            let bytes: Vec<u8> = self.unsent.drain(..count).collect();
            tls.seal(&bytes);
        }
        let breaks_off = self.unsent.is_empty() && matches!(self.then, Some(Fault::Reset(_) | Fault::End(_)));
        if breaks_off && world.rng.below(4) == 0 {
            tls.out.clear(); // in the middle of a record
        }
        let count = tls.out.len().min(1 + world.rng.below(self.grain.0));
        let bytes: Vec<u8> = tls.out.drain(..count).collect();
        world.peer_write(self.pipe, &bytes);
        count > 0
    }

    fn misbehave(&mut self, world: &mut World, fault: Fault) {
        match fault {
            Fault::Reset(_) => world.peer_reset(self.pipe),
            Fault::Gone => world.peer_close(self.pipe),
            Fault::End(_) | Fault::CloseDelimited | Fault::Truncated => world.peer_end(self.pipe),
            Fault::Silence | Fault::Garbage | Fault::Junk => {}
        }
        self.sent_junk = fault == Fault::Junk;
        self.done = !self.sent_junk;
    }

    /// Answers the next whole request; false where there is none.
    fn take_request(&mut self, plan: &mut Plan) -> bool {
        let Some(end) = find(&self.received, b"\r\n\r\n").map(|at| at + 4) else { return false };
        let head = String::from_utf8(self.received[..end].to_vec()).expect("heads are text here");
        let header = |name: &str| {
            let line = head.split("\r\n").find(|line| line.to_ascii_lowercase().starts_with(&format!("{name}: ")));
            line.map(|line| line[name.len() + 2..].to_owned())
        };
        assert!(header("x-user-id").is_none(), "the user's id went upstream");
        let id: usize = header("x-sim").expect("our header passes").parse().expect("a number");
        if let Some(number) = id.checked_sub(FIRST_ID) {
            let session = &mut plan.sessions[number];
            session.seen += 1;
            assert_eq!(self.received.len(), end, "bytes came before the session was taken up");
            self.received.clear();
            if session.refused {
                self.unsent.extend(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno");
            } else {
                self.talk = Some(Server::new(number, self.pipe, self.grain));
            }
            return true;
        }
        let is_journaled = |names: &BTreeSet<String>| names.contains(&plan.requests[id].name);
        assert!(plan.journaled.as_ref().is_none_or(is_journaled), "request {id} was sent without an entry");
        let Some((body, used)) = body(&self.received[end..], header("content-length"), header("transfer-encoding"))
        else {
            // An answer before the request is whole is one of the faults that a target can have.
            if plan.requests[id].early && plan.requests[id].seen == 0 {
                plan.requests[id].seen = 1;
                let length = if self.grain.0 < 10_000 { 3 } else { EARLY_BODY.len() };
                self.unsent.extend(format!("HTTP/1.1 413 Too Large\r\ncontent-length: {length}\r\n\r\n").bytes());
                self.unsent.extend(&EARLY_BODY[..length]);
                self.then = Some(Fault::Gone);
                return true;
            }
            return false;
        };
        self.received.drain(..end + used);
        let is_unheard_of = plan.requests[id].again.is_some_and(|begun| plan.requests[begun].seen == 0);
        let request = &mut plan.requests[id];
        request.seen += 1;
        assert_eq!(body, request.upstream_body, "request {id} arrived changed");
        let mut wire = match is_unheard_of {
            true => b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\n{}".to_vec(),
            false => request.response.clone(),
        };
        match request.fault {
            Some(Fault::Reset(at) | Fault::End(at)) => wire.truncate(at),
            Some(Fault::Silence) => wire.clear(),
            Some(Fault::Garbage) => wire = b"HTTP/1.1 200 OK\nnot http\n\n".to_vec(),
            Some(Fault::Junk) => wire.extend_from_slice(b"junk"),
            Some(Fault::CloseDelimited | Fault::Truncated | Fault::Gone) | None => {}
        }
        self.then = request.fault;
        self.unsent.extend(wire);
        true
    }
}

/// A body and its length on the wire; `None` where it is not all there.
fn body(bytes: &[u8], length: Option<String>, coding: Option<String>) -> Option<(Vec<u8>, usize)> {
    if let Some(length) = length {
        assert!(coding.is_none(), "two framings");
        let length: usize = length.parse().expect("a length");
        return Some((bytes.get(..length)?.to_vec(), length));
    }
    if coding.is_none() {
        return Some((Vec::new(), 0));
    }
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let line = find(&bytes[at..], b"\r\n")?;
        let size =
            usize::from_str_radix(std::str::from_utf8(&bytes[at..at + line]).expect("a size"), 16).expect("a size");
        at += line + 2;
        body.extend_from_slice(bytes.get(at..at + size)?);
        assert_eq!(bytes.get(at + size..at + size + 2)?, b"\r\n");
        at += size + 2;
        if size == 0 {
            return Some((body, at));
        }
    }
}
