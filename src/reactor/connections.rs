//! The loop's sockets and what waits on them: which are to be read in turn, written before the turn ends, or closed at
//! its end.
//!
//! Sockets are registered once, edge-triggered. Each keeps what it may still be able to do; a bit is cleared only when
//! the socket says so. Backpressure is not reading: the bit stays, and reading goes on from the run queue, for no edge
//! would come. A socket is closed at the end of the turn, and its token's generation keeps late events away.
//!
//! In: events of the poller, and what the proxy's actions ask of a socket. Out: calls of the proxy. Never: a worker.

use super::socket_table::SocketTable;
use crate::base::clock::{MILLISECOND, Now};
use crate::io::{Io, Readiness};
use crate::proxy::{Conn, DownKey, Proxy, UpKey, Written};
use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::SocketAddr;

/// Bytes read from one socket at a time, and from one connection in a turn.
const READ_BYTES: usize = 64 * 1024;
/// How long a turn reads, nanoseconds: a crowd of strangers may ask for a TLS handshake each, which is a millisecond of
/// work with an RSA key.
const READ_TIME: u64 = 5 * MILLISECOND;

/// A socket to close at the end of the turn.
struct Closing<S> {
    socket: S,
    /// What is written before, as far as it goes at once.
    last: Vec<u8>,
    reset: bool,
}

/// All sockets of a network but its listener.
pub struct Connections<I: Io> {
    pub io: I,
    sockets: SocketTable<I::Socket>,
    /// Connections to read from, in turn.
    run_queue: VecDeque<Conn>,
    /// Connections to write to before the turn ends.
    dirty: Vec<Conn>,
    closing: Vec<Closing<I::Socket>>,
    /// What one read takes, before the proxy has it.
    read_buffer: Vec<u8>,
}

impl<I: Io> Connections<I> {
    pub fn new(io: I) -> Self {
        Self {
            io,
            sockets: SocketTable::default(),
            run_queue: VecDeque::new(),
            dirty: Vec::new(),
            closing: Vec::new(),
            read_buffer: vec![0; READ_BYTES],
        }
    }

    /// A client's socket was accepted.
    pub fn add_client(&mut self, proxy: &mut Proxy, now: Now, mut socket: I::Socket) {
        let key = proxy.accepted(now);
        let conn = Conn::Down(key);
        if let Some(address) = self.io.peer(&socket)
            && !proxy.comes_from(now, key, address)
        {
            self.io.close(socket);
            return proxy.failed(now, conn, ErrorKind::ConnectionRefused);
        }
        if let Err(error) = self.io.register(&mut socket, conn.token()) {
            self.io.close(socket);
            return proxy.failed(now, conn, error.kind());
        }
        self.sockets.put(conn, socket, false);
        self.enqueue(conn); // its request is often there already
    }

    /// Opens a socket to the target.
    pub fn connect(&mut self, proxy: &mut Proxy, now: Now, key: UpKey, address: SocketAddr) {
        let conn = Conn::Up(key);
        let connected = self.io.connect(address).and_then(|mut socket| {
            self.io.register(&mut socket, conn.token())?;
            Ok(socket)
        });
        match connected {
            Ok(socket) => self.sockets.put(conn, socket, true),
            Err(error) => proxy.failed(now, conn, error.kind()),
        }
    }

    /// A socket may do more than before.
    pub fn on_event(&mut self, proxy: &mut Proxy, now: Now, conn: Conn, event: Readiness) {
        let Some(sock) = self.sockets.get(conn) else { return };
        let was_writable = sock.writable;
        sock.readable |= event.readable;
        sock.writable |= event.writable;
        sock.ended |= event.ended;
        if sock.connecting && event.writable {
            match self.io.is_connected(&mut sock.socket) {
                Ok(false) => {
                    sock.writable = false;
                    return;
                }
                Ok(true) => {
                    sock.connecting = false;
                    if let Conn::Up(key) = conn {
                        proxy.connected(now, key);
                    }
                }
                Err(error) => return proxy.failed(now, conn, error.kind()),
            }
        }
        if event.readable {
            self.enqueue(conn);
        }
        // An event repeats all that a socket can do. What could be written before was written at once.
        if event.writable && !was_writable {
            self.mark_dirty(conn);
        }
    }

    /// Puts a connection in the run queue, once.
    fn enqueue(&mut self, conn: Conn) {
        if let Some(sock) = self.sockets.get(conn)
            && !std::mem::replace(&mut sock.queued, true)
        {
            self.run_queue.push_back(conn);
        }
    }

    /// Has a connection written to before the turn ends, once.
    pub fn mark_dirty(&mut self, conn: Conn) {
        if let Some(sock) = self.sockets.get(conn)
            && !std::mem::replace(&mut sock.dirty, true)
        {
            self.dirty.push(conn);
        }
    }

    /// True where some are to be read in the next turn.
    pub fn has_queued(&self) -> bool {
        !self.run_queue.is_empty()
    }

    /// Reads each connection that waits now, once: its share of the turn. Who has more waits for the next, and so do
    /// all others once the turn has taken its time: what was read is to be written meanwhile.
    pub fn serve_run_queue(&mut self, proxy: &mut Proxy, now: Now) {
        let until = self.io.now().mono + READ_TIME;
        for _ in 0..self.run_queue.len() {
            let Some(conn) = self.run_queue.pop_front() else { break };
            let Some(found) = self.sockets.get(conn) else { continue };
            found.queued = false;
            if found.readable && !found.connecting && proxy.wants_read(conn) {
                self.read(proxy, now, conn);
            }
            let wants_more = proxy.wants_read(conn);
            if self.sockets.get(conn).is_some_and(|sock| sock.readable && !sock.connecting && wants_more) {
                self.enqueue(conn);
            }
            if until <= self.io.now().mono {
                return;
            }
        }
    }

    /// One read; false where nothing more is there.
    fn read(&mut self, proxy: &mut Proxy, now: Now, conn: Conn) -> bool {
        let Some(sock) = self.sockets.get(conn) else { return false };
        match self.io.read(&mut sock.socket, &mut self.read_buffer) {
            Ok(0) => {
                sock.readable = false;
                proxy.ended(now, conn);
            }
            Ok(count) => {
                sock.readable = count == self.read_buffer.len() || sock.ended;
                proxy.received(now, conn, &mut self.read_buffer[..count]);
                return true;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => sock.readable = false,
            Err(error) if error.kind() == ErrorKind::Interrupted => return true,
            Err(error) => {
                sock.readable = false;
                proxy.failed(now, conn, error.kind());
            }
        }
        false
    }

    /// Reading goes on: with what waits in the proxy, then in the run queue.
    pub fn resume(&mut self, proxy: &mut Proxy, now: Now, conn: Conn) {
        proxy.resumed(now, conn);
        let wants = proxy.wants_read(conn);
        if self.sockets.get(conn).is_some_and(|sock| sock.readable && wants) {
            self.enqueue(conn);
        }
    }

    /// Reads what a pooled connection has received meanwhile, before it is used again.
    pub fn look(&mut self, proxy: &mut Proxy, now: Now, key: UpKey) {
        // An end, or a session ticket, may be there. Where the socket was read to its end and no event came since, the
        // poll that this turn began with has looked.
        let mut more = self.sockets.get(Conn::Up(key)).is_some_and(|sock| sock.readable);
        while more && proxy.wants_read(Conn::Up(key)) {
            more = self.read(proxy, now, Conn::Up(key));
        }
        // What has to wait for a slow client is read later, and the end behind it.
        if !more {
            proxy.looked(now, key);
        }
    }

    /// Writes what the next connection that is to be written to has; false where none is.
    pub fn flush_next(&mut self, proxy: &mut Proxy, now: Now) -> bool {
        let Some(conn) = self.dirty.pop() else { return false };
        let Some(sock) = self.sockets.get(conn) else { return true };
        sock.dirty = false;
        if !sock.writable || sock.connecting {
            return true;
        }
        let io = &mut self.io;
        proxy.flush(now, conn, &mut |bytes| {
            loop {
                match io.write(&mut sock.socket, bytes) {
                    Ok(0) => return Written::Blocked,
                    Ok(count) => return Written::Taken(count),
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        sock.writable = false;
                        return Written::Blocked;
                    }
                    Err(error) => {
                        sock.readable = true; // what came before that is to be read, with an event or without
                        return Written::Broken(error.kind());
                    }
                }
            }
        });
        true
    }

    /// Has a socket closed at the end of the turn.
    pub fn close(&mut self, conn: Conn, last: Vec<u8>, reset: bool) {
        if let Some(socket) = self.sockets.take(conn) {
            self.closing.push(Closing { socket, last, reset });
        }
    }

    /// Shuts the sending side of a client's socket down.
    pub fn half_close(&mut self, key: DownKey) {
        if let Some(sock) = self.sockets.get(Conn::Down(key)) {
            self.io.shutdown(&mut sock.socket);
        }
    }

    /// Closes what the turn has ended.
    pub fn close_ended(&mut self) {
        for Closing { mut socket, last, reset } in self.closing.drain(..) {
            if !last.is_empty() {
                let _ = self.io.write(&mut socket, &last); // as far as it goes
            }
            match reset {
                true => self.io.reset(socket),
                false => self.io.close(socket),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::Event;
    use crate::metrics::{LabelLimits, Metrics};
    use crate::price::PriceTable;
    use crate::proxy::Settings;
    use std::io;

    /// A network in which each read takes two milliseconds, and finds one byte.
    #[derive(Default)]
    struct SlowReads {
        mono: u64,
        reads: Vec<usize>,
    }

    impl Io for SlowReads {
        type Socket = usize;

        fn now(&mut self) -> Now {
            Now { mono: self.mono, unix: 0 }
        }

        fn poll(&mut self, _: &mut Vec<Event>, _: Option<u64>) -> io::Result<()> {
            Ok(())
        }

        fn accept(&mut self) -> io::Result<usize> {
            Err(ErrorKind::WouldBlock.into())
        }

        fn stop_accepting(&mut self) {}

        fn register(&mut self, _: &mut usize, _: u64) -> io::Result<()> {
            Ok(())
        }

        fn connect(&mut self, _: SocketAddr) -> io::Result<usize> {
            Err(ErrorKind::ConnectionRefused.into())
        }

        fn is_connected(&mut self, _: &mut usize) -> io::Result<bool> {
            Ok(true)
        }

        fn read(&mut self, socket: &mut usize, into: &mut [u8]) -> io::Result<usize> {
            self.mono += 2 * MILLISECOND;
            self.reads.push(*socket);
            into[0] = b'G';
            Ok(1)
        }

        fn write(&mut self, _: &mut usize, from: &[u8]) -> io::Result<usize> {
            Ok(from.len())
        }

        fn shutdown(&mut self, _: &mut usize) {}

        fn close(&mut self, _: usize) {}
    }

    #[test]
    fn a_turn_reads_for_a_few_milliseconds_and_nobody_is_forgotten() {
        let metrics = Metrics::new(LabelLimits::default(), 0);
        let mut proxy = Proxy::new(Settings::default(), PriceTable::built_in(), metrics, Now::default());
        let mut connections = Connections::new(SlowReads::default());
        for client in 0..8 {
            connections.add_client(&mut proxy, Now::default(), client);
        }
        for (turn, readers) in [(0, 0..3), (1, 3..6), (2, 6..8)] {
            assert!(connections.has_queued(), "before turn {turn}");
            let now = connections.io.now();
            connections.serve_run_queue(&mut proxy, now);
            assert_eq!(connections.io.reads.drain(..).collect::<Vec<_>>(), readers.collect::<Vec<_>>());
        }
        assert!(!connections.has_queued());
    }
}
