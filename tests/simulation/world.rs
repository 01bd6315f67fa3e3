//! The fake network: connections as two queues of bytes, and edge-triggered events as a kernel gives them.
//!
//! An edge is told once: when bytes arrive, when room appears after a write was refused, when the peer ends or breaks
//! off. A read takes all there is (a short read means drained, as with a real socket). Beside the real events there are
//! spurious ones, and events for tokens whose connection is gone. Time passes in small steps, or in large ones; the wall
//! clock may be set, back as well as forward.

mod net;

pub use net::Net;

use crate::rng::Rng;
use crate::tls::Visitor;
use openai_api_proxy::base::clock::{MILLISECOND, SECOND};
use openai_api_proxy::io::{Event, Readiness};
use rustls::ClientConfig;
use std::collections::VecDeque;
use std::sync::Arc;

/// The wall clock at the start.
pub const EPOCH: u64 = 1_700_000_000_000_000_000;

/// One connection between the proxy and a peer.
#[derive(Default)]
pub struct Pipe {
    pub to_proxy: VecDeque<u8>,
    pub from_proxy: VecDeque<u8>,
    /// Bytes that `from_proxy` takes before a write is refused.
    capacity: usize,
    pub token: Option<u64>,
    readable_edge: bool,
    writable_edge: bool,
    write_refused: bool,
    /// The peer has shut its sending side.
    peer_ended: bool,
    /// Whoever broke it: both sides get errors.
    broken: bool,
    /// The peer has closed its socket: what it sent can be read, what is sent to it breaks.
    peer_closed: bool,
    /// The proxy has shut its sending side.
    pub proxy_ended: bool,
    /// The proxy has closed the socket.
    pub proxy_closed: bool,
    /// TLS on the client's side.
    pub tls: Option<Visitor>,
    /// And so that the peer is told of an error.
    pub proxy_reset: bool,
    /// When it closed it.
    pub closed_at: Option<u64>,
    /// Reads that took something.
    pub reads: u64,
    /// A client's: something said that there may be bytes, so that a read which finds none is in order.
    may_be_read: bool,
    is_clients: bool,
    connecting: Option<Connecting>,
    /// To an address that never answers, and when it was begun.
    silent: Option<(u16, u64)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Connecting {
    Succeeds,
    Fails,
    Hangs,
}

/// Everything outside of the loop but its workers.
pub struct World {
    pub rng: Rng,
    /// Bytes move a few at a time; bodies are small then. Else they move in lumps, and bodies are large.
    pub fine: bool,
    /// A socket takes all that it is given.
    pub roomy: bool,
    /// Clients speak TLS.
    pub client_tls: Option<Arc<ClientConfig>>,
    /// Reads and writes of TLS by clients that moved something.
    pub tls_moves: u64,
    pub pipes: Vec<Pipe>,
    pub mono: u64,
    /// One turn in so many comes long after the one before; 0 is none.
    pub jumps: usize,
    /// The wall clock is set now and then, within so many hours; 0 is never.
    pub clock_hours: usize,
    /// Nanoseconds by which it is off.
    clock_off: i64,
    /// The instant of the turn that was last, or that is under way.
    pub turn_at: u64,
    /// A worker that is at rest will act again by itself.
    pub wakes_at: Option<u64>,
    /// Reads and writes that moved something.
    moved: u64,
    /// Turns on end that were asked for at once and did nothing, and `moved` at the first of them.
    spins: (usize, u64),
    /// Connections of clients that the proxy has not accepted yet.
    pub backlog: VecDeque<usize>,
    /// Connections that the proxy has opened and the upstream has not seen yet.
    pub opened: Vec<usize>,
    pub listening: bool,
    accept_edge: bool,
    /// Ports of the target's addresses that never answer.
    pub silent: Vec<u16>,
    /// In per cent.
    pub spurious: usize,
    /// Connecting may fail or hang.
    pub connect_faults: bool,
    /// A client may be gone before it is accepted.
    pub accept_faults: bool,
    old_tokens: Vec<u64>,
    /// Timeouts that the loop slept through because nothing else could happen.
    pub sleeps: u64,
}

impl World {
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let spurious = [0, 0, 5, 30][rng.below(4)];
        let fine = rng.coin();
        let roomy = rng.below(4) == 0;
        Self {
            rng,
            fine,
            roomy,
            client_tls: None,
            tls_moves: 0,
            pipes: Vec::new(),
            mono: MILLISECOND,
            jumps: 0,
            clock_hours: 0,
            clock_off: 0,
            turn_at: MILLISECOND,
            wakes_at: None,
            moved: 0,
            spins: (0, 0),
            backlog: VecDeque::new(),
            opened: Vec::new(),
            listening: true,
            accept_edge: false,
            silent: Vec::new(),
            spurious,
            connect_faults: false,
            accept_faults: false,
            old_tokens: Vec::new(),
            sleeps: 0,
        }
    }

    fn pipe(&mut self) -> usize {
        let capacities = if self.fine { [1, 7, 100, 4096] } else { [3_000, 16_000, 70_000, 500_000] };
        let capacity = if self.roomy { usize::MAX } else { capacities[self.rng.below(4)] };
        self.pipes.push(Pipe { capacity, ..Pipe::default() });
        self.pipes.len() - 1
    }

    /// Most bytes that a peer moves at once.
    pub fn grain(&mut self) -> usize {
        let grains = if self.fine { [1, 3, 50, 5_000] } else { [700, 10_000, 80_000, 1_000_000] };
        grains[self.rng.below(4)]
    }

    fn pass_time(&mut self) {
        self.mono += 1_000 * self.rng.below(50) as u64;
        if self.jumps > 0 && self.rng.below(self.jumps) == 0 {
            self.mono += 1_000 * self.rng.below(2_000_000) as u64;
        }
        if self.clock_hours > 0 && self.rng.below(50) == 0 {
            let hours = self.rng.below(self.clock_hours) as i64 - self.clock_hours as i64 / 2;
            self.clock_off = 3_600 * SECOND as i64 * hours;
        }
    }

    /// The wall clock, nanoseconds since the Unix epoch.
    pub fn unix(&self) -> u64 {
        (EPOCH + self.mono).saturating_add_signed(self.clock_off)
    }

    /// Sockets of the proxy's that are open: clients', and those to the target.
    pub fn open_sockets(&self) -> (usize, usize) {
        let open = self.pipes.iter().filter(|pipe| pipe.token.is_some() && !pipe.proxy_closed);
        let clients = open.clone().filter(|pipe| pipe.is_clients).count();
        (clients, open.count() - clients)
    }

    /// Connections to addresses that never answer were given up for others in time, and were not begun again where that
    /// was known; how many there were.
    pub fn judge_silent(&self) -> usize {
        const DELAY: u64 = 250 * MILLISECOND;
        const REMEMBERED: u64 = 600 * SECOND;
        let all = || self.pipes.iter().filter_map(|pipe| Some((pipe.silent?, pipe.closed_at?)));
        let found_at = |port| all().filter(|&((of, _), _)| of == port).map(|(_, closed_at)| closed_at).min();
        for ((port, began), closed_at) in all() {
            let waited = closed_at - began;
            let delays = DELAY * self.silent.len() as u64;
            assert!(waited < delays + DELAY / 2, "{waited} ns went by before another address was tried");
            let found_at = found_at(port).expect("this one at least");
            let known = found_at < began && began < found_at + REMEMBERED;
            assert!(!known, "port {port} was found to be silent at {found_at}, and tried again at {began}");
        }
        all().count()
    }

    /// The connections that are not over, for the message of a failure.
    pub fn describe(&self) -> String {
        let open = |(number, pipe): (usize, &Pipe)| {
            let Pipe { to_proxy, from_proxy, capacity, write_refused, peer_ended, broken, proxy_ended, .. } = pipe;
            let (to, from) = (to_proxy.len(), from_proxy.len());
            (!pipe.proxy_closed).then(|| {
                format!(
                    "socket {number}: {to} bytes wait for the proxy, {from} of {capacity} from it, refused \
                     {write_refused}, peer ended {peer_ended}, broken {broken}, proxy ended {proxy_ended}"
                )
            })
        };
        let open: Vec<String> = self.pipes.iter().enumerate().filter_map(open).collect();
        format!("{} wait to be accepted\n{}", self.backlog.len(), open.join("\n"))
    }

    /// A client connects.
    pub fn dial(&mut self) -> usize {
        let pipe = self.pipe();
        self.pipes[pipe].is_clients = true;
        self.pipes[pipe].tls = self.client_tls.as_ref().map(Visitor::new);
        self.backlog.push_back(pipe);
        self.accept_edge = true;
        pipe
    }

    /// A peer writes. Where it speaks TLS, this leaves in pieces when it reads.
    pub fn peer_write(&mut self, pipe: usize, bytes: &[u8]) {
        match &mut self.pipes[pipe].tls {
            Some(tls) => tls.seal(bytes),
            None => self.put(pipe, bytes),
        }
    }

    fn put(&mut self, pipe: usize, bytes: &[u8]) {
        let pipe = &mut self.pipes[pipe];
        if !pipe.proxy_closed && !pipe.broken {
            pipe.to_proxy.extend(bytes);
            pipe.readable_edge |= !bytes.is_empty();
        }
    }

    /// A peer reads at most `count` bytes.
    pub fn peer_read(&mut self, pipe: usize, count: usize) -> Vec<u8> {
        let bytes = self.take(pipe, count);
        let Some(tls) = &mut self.pipes[pipe].tls else { return bytes };
        let plain = tls.open(&bytes);
        let sends = tls.out.len().min(1 + self.rng.below(count));
        let sealed: Vec<u8> = tls.out.drain(..sends).collect();
        self.tls_moves += (bytes.len() + sends) as u64;
        self.put(pipe, &sealed);
        let pipe = &self.pipes[pipe];
        let must_be_told = pipe.proxy_ended && pipe.from_proxy.is_empty() && !pipe.broken;
        let was_told = pipe.tls.as_ref().is_some_and(|tls| tls.was_told_the_end);
        assert!(was_told || !must_be_told, "the proxy has shut its sending side without a close_notify");
        plain
    }

    fn take(&mut self, pipe: usize, count: usize) -> Vec<u8> {
        let pipe = &mut self.pipes[pipe];
        let count = count.min(pipe.from_proxy.len());
        if count > 0 && pipe.write_refused {
            pipe.write_refused = false;
            pipe.writable_edge = true;
        }
        pipe.from_proxy.drain(..count).collect()
    }

    /// A peer shuts its sending side down.
    pub fn peer_end(&mut self, pipe: usize) {
        // Some say so, some do not, and some stop in the middle of a record.
        let (says, cuts) = match self.pipes[pipe].tls {
            Some(_) => (self.rng.coin(), self.rng.coin()),
            None => (false, false),
        };
        if let Some(mut tls) = self.pipes[pipe].tls.take() {
            if says {
                tls.close();
            }
            let count = if cuts { self.rng.below(tls.out.len() + 1) } else { tls.out.len() };
            let sealed: Vec<u8> = tls.out.drain(..count).collect();
            self.put(pipe, &sealed);
        }
        let pipe = &mut self.pipes[pipe];
        pipe.peer_ended = true;
        pipe.readable_edge = true;
    }

    /// A peer closes its socket: it sends no more, and takes no more.
    pub fn peer_close(&mut self, pipe: usize) {
        self.peer_end(pipe);
        self.pipes[pipe].peer_closed = true;
        self.pipes[pipe].writable_edge = true;
    }

    /// A peer resets the connection: what the proxy has not read is lost.
    pub fn peer_reset(&mut self, pipe: usize) {
        let pipe = &mut self.pipes[pipe];
        pipe.broken = true;
        pipe.to_proxy.clear();
        pipe.from_proxy.clear();
        pipe.readable_edge = true;
        pipe.writable_edge = true;
    }

    /// True where an event waits to be told.
    fn has_events(&self) -> bool {
        let waits = |pipe: &Pipe| {
            pipe.token.is_some() && !pipe.proxy_closed && (pipe.readable_edge || pipe.writable_edge || pipe.settles())
        };
        self.accept_edge && self.listening || self.pipes.iter().any(waits)
    }

    /// A loop that does not wait although it has nothing to do would burn a processor.
    fn count_spins(&mut self, has_cause: bool) {
        if has_cause || self.spins.1 != self.moved {
            self.spins = (0, self.moved);
        }
        self.spins.0 += 1;
        assert!(self.spins.0 < 100, "the loop turns and does nothing\n{}", self.describe());
    }

    fn collect(&mut self, events: &mut Vec<Event>) {
        if std::mem::take(&mut self.accept_edge) && self.listening {
            events.push(Event::Acceptable);
        }
        for index in 0..self.pipes.len() {
            let pipe = &mut self.pipes[index];
            let Some(token) = pipe.token.filter(|_| !pipe.proxy_closed) else { continue };
            let settled = pipe.settles();
            if settled {
                pipe.writable_edge = true;
                pipe.broken |= pipe.connecting == Some(Connecting::Fails);
                if pipe.connecting.take() == Some(Connecting::Succeeds) {
                    self.opened.push(index);
                }
            }
            let pipe = &mut self.pipes[index];
            let ended = pipe.peer_ended || pipe.broken;
            let (readable, writable) =
                (std::mem::take(&mut pipe.readable_edge), std::mem::take(&mut pipe.writable_edge));
            let spurious = self.rng.below(100) < self.spurious;
            if readable || writable || spurious {
                let readable = readable || spurious;
                pipe.may_be_read |= readable;
                events.push(Event::Socket {
                    token,
                    readiness: Readiness { readable, writable: writable || spurious, ended },
                });
            }
        }
        if self.rng.below(100) < self.spurious && !self.old_tokens.is_empty() {
            let token = self.old_tokens[self.rng.below(self.old_tokens.len())];
            events.push(Event::Socket { token, readiness: Readiness { readable: true, writable: true, ended: true } });
        }
        let first = self.rng.below(events.len());
        events.rotate_left(first);
    }
}

impl Pipe {
    fn settles(&self) -> bool {
        matches!(self.connecting, Some(Connecting::Succeeds | Connecting::Fails))
    }

    /// Bytes wait for the proxy, and an event has said so.
    pub fn has_unread(&self) -> bool {
        !self.to_proxy.is_empty() && !self.readable_edge && !self.proxy_closed && !self.broken
    }

    /// The last write was refused, and nothing was read since.
    pub fn refuses(&self) -> bool {
        self.write_refused || self.connecting.is_some()
    }
}
