//! The client's side of a session: asks for it, says its part, reads, and leaves when its plan says so.

use super::{Leaving, Over, Session};
use crate::client::{find, response};
use crate::scenario::Plan;
use crate::world::World;

/// The client of one session, on a connection of its own.
pub struct Client {
    session: usize,
    pipe: Option<usize>,
    /// Bytes sent of the handshake, then of what it says.
    sent: usize,
    received: Vec<u8>,
    /// Where the server's side begins in `received`.
    body_at: Option<usize>,
    /// Most bytes of a write, and of a read.
    grain: (usize, usize),
    pub done: bool,
}

impl Client {
    pub fn new(world: &mut World, session: usize) -> Self {
        let grain = (world.grain(), world.grain());
        Self { session, pipe: None, sent: 0, received: Vec::new(), body_at: None, grain, done: false }
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
        let session = &mut plan.sessions[self.session];
        let bytes = world.peer_read(pipe, self.grain.1);
        self.received.extend_from_slice(&bytes);
        if self.body_at.is_some() {
            session.got.extend_from_slice(&bytes);
        }
        let closed = world.pipes[pipe].from_proxy.is_empty()
            && (world.pipes[pipe].proxy_ended || world.pipes[pipe].proxy_closed);
        let answered = self.read_answer(session, closed);
        if let Some(over) = self.over(world, session, closed) {
            let now = world.mono;
            let waited = session.ended_at.is_some_and(|at| plan.ledger_wait > 0 && now >= at + plan.ledger_wait);
            session.ended_early = over == Over::Ended && session.committed.1 == 0 && !waited;
            session.over = Some(over);
            self.done = true;
            let by_reset = over == Over::Left && session.leaves_by_reset;
            if by_reset {
                world.peer_reset(pipe)
            } else {
                world.peer_end(pipe)
            }
            return true;
        }
        self.write(world, session, pipe) || answered || !bytes.is_empty()
    }

    /// Reads the answer to the handshake, once.
    fn read_answer(&mut self, session: &mut Session, closed: bool) -> bool {
        if self.body_at.is_some() {
            return false;
        }
        let switched = self.received.starts_with(b"HTTP/1.1 101 ");
        let Some(end) = find(&self.received, b"\r\n\r\n").map(|at| at + 4).filter(|_| switched) else {
            let refusal = (!switched).then(|| response(&self.received, false, closed)).flatten();
            session.over = refusal.as_ref().map(|_| Over::Refused);
            session.refusal = refusal.map(|(got, _)| got);
            return session.over.is_some();
        };
        self.body_at = Some(end);
        session.switched = true;
        session.got.extend_from_slice(&self.received[end..]);
        true
    }

    /// How it is over, where it is.
    fn over(&self, world: &World, session: &Session, closed: bool) -> Option<Over> {
        let leaves = match session.leaving {
            Some(Leaving::AtOnce) => self.sent >= session.handshake.len(),
            Some(Leaving::Got(count)) => session.switched && session.got.len() >= count,
            Some(Leaving::Said) => session.switched && session.said == session.says.len(),
            None => false,
        };
        let reset = self.pipe.is_some_and(|pipe| world.pipes[pipe].proxy_reset);
        match session.over {
            None if leaves => Some(Over::Left),
            None if closed && session.switched && !reset => Some(Over::Ended),
            None if closed => Some(Over::Cut),
            over => over,
        }
    }

    fn write(&mut self, world: &mut World, session: &mut Session, pipe: usize) -> bool {
        let handshake = session.handshake.len();
        let limit = handshake + if session.switched { session.may_say() } else { session.early };
        let count = limit.saturating_sub(self.sent).min(1 + world.rng.below(self.grain.0));
        let wire = |at: usize| session.handshake.get(at).copied().unwrap_or_else(|| session.says[at - handshake]);
        let bytes: Vec<u8> = (self.sent..self.sent + count).map(wire).collect();
        world.peer_write(pipe, &bytes);
        self.sent += count;
        session.said = self.sent.saturating_sub(handshake);
        count > 0
    }

    /// Holds what has left the proxy, read by this client or not, against what is committed.
    pub fn check_left(&self, world: &World, plan: &mut Plan) {
        let Some(pipe) = self.pipe.filter(|_| !self.done) else { return };
        let session = &mut plan.sessions[self.session];
        let waiting = &world.pipes[pipe].from_proxy;
        let body_at = self.body_at.or_else(|| {
            let all: Vec<u8> = self.received.iter().chain(waiting).copied().collect();
            let switched = all.starts_with(b"HTTP/1.1 101 ");
            find(&all, b"\r\n\r\n").map(|at| at + 4).filter(|_| switched)
        });
        if let Some(body_at) = body_at {
            let mut left = self.received.len() + waiting.len() - body_at;
            if session.limited {
                let all: Vec<u8> = self.received.iter().chain(waiting).copied().collect();
                left = session.of_server(&all[body_at..]).0;
            }
            session.check_left(left, world.turn_at, plan.ledger_wait);
        }
    }
}
