//! The target's side of a session, from its answer to the handshake on.

use super::{Ending, Session};
use crate::world::World;

const SWITCH: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

/// One connection's server.
pub struct Server {
    pub session: usize,
    pipe: usize,
    /// Bytes sent of the head, then of the answer.
    sent: usize,
    /// Most bytes of a write, and of a read.
    grain: (usize, usize),
    pub done: bool,
}

impl Server {
    /// Takes a handshake up.
    pub fn new(session: usize, pipe: usize, grain: (usize, usize)) -> Self {
        Self { session, pipe, sent: 0, grain, done: false }
    }

    /// Does one thing; false where there was nothing to do.
    pub fn act(&mut self, world: &mut World, session: &mut Session) -> bool {
        let bytes = world.peer_read(self.pipe, self.grain.1);
        session.heard.extend_from_slice(&bytes);
        let unread = world.pipes[self.pipe].to_proxy.len();
        session.read = (self.sent - unread).saturating_sub(SWITCH.len());
        let closed = world.pipes[self.pipe].proxy_closed && world.pipes[self.pipe].from_proxy.is_empty();
        if closed {
            self.done = true;
            return true;
        }
        if session.ended_at.is_none() && self.write(world, session) {
            return true;
        }
        if session.sent == session.ending.at() && session.ended_at.is_none() {
            return self.end(world, session) || !bytes.is_empty();
        }
        !bytes.is_empty()
    }

    fn write(&mut self, world: &mut World, session: &mut Session) -> bool {
        let turn = session.turns.iter().find(|&&(_, wanted)| session.heard.len() < wanted).map(|&(at, _)| at);
        let limit = SWITCH.len() + turn.unwrap_or(usize::MAX).min(session.ending.at());
        let count = limit.saturating_sub(self.sent).min(1 + world.rng.below(self.grain.0));
        if count == 0 {
            return false;
        }
        let wire = |at: usize| SWITCH.get(at).copied().unwrap_or_else(|| session.answer[at - SWITCH.len()]);
        let bytes: Vec<u8> = (self.sent..self.sent + count).map(wire).collect();
        world.peer_write(self.pipe, &bytes);
        self.sent += count;
        session.sent = self.sent.saturating_sub(SWITCH.len());
        for report in session.reports.iter_mut().filter(|report| report.ends_at <= session.sent) {
            report.sent_at.get_or_insert(world.mono);
        }
        true
    }

    fn end(&mut self, world: &mut World, session: &mut Session) -> bool {
        match session.ending {
            Ending::End(_) if self.sent >= SWITCH.len() && session.closes => {
                world.peer_close(self.pipe);
                self.done = true;
            }
            Ending::End(_) if self.sent >= SWITCH.len() => world.peer_end(self.pipe),
            Ending::Reset(_) if self.sent >= SWITCH.len() => {
                let unread = world.pipes[self.pipe].to_proxy.len();
                session.taken = (self.sent - unread).saturating_sub(SWITCH.len());
                world.peer_reset(self.pipe);
                self.done = true;
            }
            _ => return false,
        }
        session.ended_at = Some(world.mono);
        true
    }
}
