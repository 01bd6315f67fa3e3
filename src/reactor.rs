//! The turn of the loop: events in, proxy decisions carried out. The only place where sockets and the proxy meet.
//!
//! ```text
//!   poll → now → socket events → deadlines → mailboxes → actions → accept → run queue → actions and flushes → records
//!   → reap
//! ```
//!
//! Sockets are registered once, edge-triggered. Each keeps what it may still be able to do; a bit is cleared only when
//! the socket says so. Backpressure is not reading: the bit stays, and reading goes on from the run queue, for no edge
//! would come. A socket is closed at the end of the turn, and its token's generation keeps late events away.

mod socket_table;

use crate::base::clock::{MILLISECOND, Now};
use crate::io::{Event, Io};
use crate::local::Answer;
use crate::metrics::{self, Surroundings};
use crate::proxy::replies::overloaded;
use crate::proxy::{Action, Conn, Proxy, Question, Written};
use crate::worker::query::Job;
use crate::worker::{WorkerEvent, Workers, log, process};
use socket_table::SocketTable;
use std::collections::VecDeque;
use std::io::ErrorKind;

/// Bytes read from one socket at a time, and from one connection in a turn.
const READ_BYTES: usize = 64 * 1024;
/// Clients accepted in one turn.
const ACCEPTS_PER_TURN: usize = 64;
/// Pause after the system would give no more sockets.
const ACCEPT_PAUSE: u64 = 100 * MILLISECOND;

/// A socket to close at the end of the turn.
struct Closing<S> {
    socket: S,
    /// A goodbye.
    last: Vec<u8>,
    reset: bool,
}

/// Whether the loop goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    Continue,
    /// Everything is ended and handed over.
    Stopped,
}

/// The loop over a network and its workers.
pub struct Reactor<I: Io, D: Workers> {
    io: I,
    workers: D,
    proxy: Proxy,
    sockets: SocketTable<I::Socket>,
    run_queue: VecDeque<Conn>,
    dirty: Vec<Conn>,
    closing: Vec<Closing<I::Socket>>,
    events: Vec<Event>,
    done: Vec<WorkerEvent>,
    /// Users' spending is on its way.
    spend_asked: bool,
    scratch: Vec<u8>,
    acceptable: bool,
    accept_again_at: Option<u64>,
    drain_timeout: u64,
    drain_until: Option<u64>,
    aborted: bool,
}

impl<I: Io, D: Workers> Reactor<I, D> {
    /// `drain_timeout`: nanoseconds that exchanges have to end after the first [`WorkerEvent::Stop`].
    pub fn new(io: I, workers: D, proxy: Proxy, drain_timeout: u64) -> Self {
        Self {
            io,
            workers,
            proxy,
            sockets: SocketTable::default(),
            run_queue: VecDeque::new(),
            dirty: Vec::new(),
            closing: Vec::new(),
            events: Vec::new(),
            done: Vec::new(),
            spend_asked: false,
            scratch: vec![0; READ_BYTES],
            acceptable: true,
            accept_again_at: None,
            drain_timeout,
            drain_until: None,
            aborted: false,
        }
    }

    /// Turns until everything is ended.
    ///
    /// # Errors
    /// The poller fails.
    pub fn run(&mut self) -> std::io::Result<()> {
        while self.turn()? == Turn::Continue {}
        Ok(())
    }

    /// One turn.
    ///
    /// # Errors
    /// The poller fails.
    pub fn turn(&mut self) -> std::io::Result<Turn> {
        let timeout = self.timeout();
        self.io.poll(&mut self.events, timeout)?;
        let now = self.io.now();
        let mut events = std::mem::take(&mut self.events);
        for event in events.drain(..) {
            self.on_event(now, event);
        }
        self.events = events;
        self.proxy.expire(now);
        self.read_mailbox(now);
        // What has ended until now is closed before its slot has a next tenant.
        self.act_all(now);
        self.accept(now);
        for _ in 0..self.run_queue.len() {
            let Some(conn) = self.run_queue.pop_front() else { break };
            self.run_conn(now, conn);
        }
        self.carry_out(now);
        if self.drain_until.is_some_and(|until| until <= now.mono) && !self.aborted {
            self.abort(now);
        }
        let records = self.proxy.take_records(now);
        if !records.is_empty() {
            self.workers.submit(records);
        }
        let notes = self.proxy.take_notes();
        if !notes.is_empty() {
            self.workers.tell(notes);
        }
        let after = self.io.now();
        self.proxy.turn_ended(after);
        self.reap();
        let stopped = self.drain_until.is_some() && (self.proxy.is_drained() || self.aborted && self.proxy.is_quiet());
        Ok(if stopped { Turn::Stopped } else { Turn::Continue })
    }

    /// The proxy, to look at.
    pub fn proxy(&self) -> &Proxy {
        &self.proxy
    }

    /// The workers, to end them.
    pub fn into_workers(self) -> D {
        self.workers
    }

    /// How long nothing needs doing, nanoseconds.
    fn timeout(&mut self) -> Option<u64> {
        if !self.run_queue.is_empty() {
            return Some(0);
        }
        let drain_until = self.drain_until.filter(|_| !self.aborted);
        let accept_at = match self.accept_again_at {
            None if self.acceptable => self.proxy.accepts_at(),
            again_at => again_at,
        };
        let due = [self.proxy.next_deadline(), drain_until, accept_at].into_iter().flatten().min()?;
        Some(due.saturating_sub(self.io.now().mono))
    }

    fn on_event(&mut self, now: Now, event: Event) {
        let Event::Socket { token, readable, writable, ended } = event else {
            self.acceptable = true;
            return;
        };
        let conn = Conn::from_token(token);
        let Some(sock) = self.sockets.get(conn) else { return };
        let was_writable = sock.writable;
        sock.readable |= readable;
        sock.writable |= writable;
        sock.ended |= ended;
        if sock.connecting && writable {
            match self.io.is_connected(&mut sock.socket) {
                Ok(false) => {
                    sock.writable = false;
                    return;
                }
                Ok(true) => {
                    sock.connecting = false;
                    if let Conn::Up(key) = conn {
                        self.proxy.connected(now, key);
                    }
                }
                Err(error) => return self.proxy.failed(now, conn, error.kind()),
            }
        }
        if readable {
            self.queue(conn);
        }
        // Every event says again what a socket can do. What could be written all the time was written at once.
        if writable && !was_writable {
            self.mark_dirty(conn);
        }
    }

    fn queue(&mut self, conn: Conn) {
        if let Some(sock) = self.sockets.get(conn)
            && !std::mem::replace(&mut sock.queued, true)
        {
            self.run_queue.push_back(conn);
        }
    }

    fn mark_dirty(&mut self, conn: Conn) {
        if let Some(sock) = self.sockets.get(conn)
            && !std::mem::replace(&mut sock.dirty, true)
        {
            self.dirty.push(conn);
        }
    }

    fn read_mailbox(&mut self, now: Now) {
        let mut done = std::mem::take(&mut self.done);
        self.workers.collect(&mut done);
        for done in done.drain(..) {
            match done {
                WorkerEvent::Committed { upto, retrieved } => self.proxy.committed(now, upto, &retrieved),
                WorkerEvent::Ledger { trouble, takes_records } => self.proxy.ledger_state(trouble, takes_records),
                WorkerEvent::Policy(policy) => self.proxy.set_policy(policy),
                WorkerEvent::SpendByUser(spend_by_user) => self.proxy.set_spend_by_user(spend_by_user),
                WorkerEvent::Reconfigure(change) => self.proxy.reconfigure(*change),
                WorkerEvent::Answered { ticket, answer } => self.proxy.answered(now, ticket, &answer),
                WorkerEvent::Resolved { addresses } => self.proxy.resolved(now, addresses),
                WorkerEvent::Stop if self.drain_until.is_some() => self.abort(now),
                WorkerEvent::Stop => {
                    self.drain_until = Some(now.mono.saturating_add(self.drain_timeout));
                    self.io.stop_accepting();
                    self.proxy.drain(now);
                }
            }
        }
        self.done = done;
        let wants = self.proxy.wants_spend_by_user();
        if wants && !self.spend_asked {
            self.workers.sum_spend_by_user();
        }
        self.spend_asked = wants;
    }

    fn abort(&mut self, now: Now) {
        self.aborted = true;
        self.proxy.abort(now);
        self.carry_out(now);
    }

    fn accept(&mut self, now: Now) {
        if self.accept_again_at.is_some_and(|at| at <= now.mono) {
            self.accept_again_at = None;
        }
        for _ in 0..ACCEPTS_PER_TURN {
            let may_accept = self.proxy.accepts_at().is_some_and(|at| at <= now.mono);
            if !self.acceptable || self.accept_again_at.is_some() || !may_accept {
                return;
            }
            match self.io.accept() {
                Ok(socket) => self.add_client(now, socket),
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.acceptable = false,
                Err(error) if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted) => {}
                // Out of descriptors or memory: the client waits in the backlog, the loop does not spin.
                Err(_) => self.accept_again_at = Some(now.mono + ACCEPT_PAUSE),
            }
        }
    }

    fn add_client(&mut self, now: Now, mut socket: I::Socket) {
        let conn = Conn::Down(self.proxy.accepted(now));
        if let Err(error) = self.io.register(&mut socket, conn.token()) {
            self.io.close(socket);
            return self.proxy.failed(now, conn, error.kind());
        }
        self.sockets.put(conn, socket, false);
        self.queue(conn); // its request is often there already
    }

    /// Reads a connection, as far as it and its share of the turn go.
    fn run_conn(&mut self, now: Now, conn: Conn) {
        let Some(found) = self.sockets.get(conn) else { return };
        found.queued = false;
        if found.readable && !found.connecting && self.proxy.wants_read(conn) {
            self.read(now, conn);
        }
        // Whatever is left waits for its next share.
        let wants_more = self.proxy.wants_read(conn);
        if self.sockets.get(conn).is_some_and(|sock| sock.readable && !sock.connecting && wants_more) {
            self.queue(conn);
        }
    }

    /// One read; false where nothing more is there.
    fn read(&mut self, now: Now, conn: Conn) -> bool {
        let Some(sock) = self.sockets.get(conn) else { return false };
        match self.io.read(&mut sock.socket, &mut self.scratch) {
            Ok(0) => {
                sock.readable = false;
                self.proxy.ended(now, conn);
            }
            Ok(count) => {
                sock.readable = count == self.scratch.len() || sock.ended;
                self.proxy.received(now, conn, &mut self.scratch[..count]);
                return true;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => sock.readable = false,
            Err(error) if error.kind() == ErrorKind::Interrupted => return true,
            Err(error) => {
                sock.readable = false;
                self.proxy.failed(now, conn, error.kind());
            }
        }
        false
    }

    /// Does what the proxy asks for, and flushes, until neither is left.
    fn carry_out(&mut self, now: Now) {
        loop {
            self.act_all(now);
            let Some(conn) = self.dirty.pop() else { return };
            self.flush(now, conn);
        }
    }

    fn act_all(&mut self, now: Now) {
        while let Some(action) = self.proxy.next_action() {
            self.act(now, action);
        }
    }

    fn act(&mut self, now: Now, action: Action) {
        match action {
            Action::Flush(conn) => self.mark_dirty(conn),
            Action::Read(conn) => {
                self.proxy.resumed(now, conn);
                let wants = self.proxy.wants_read(conn);
                if self.sockets.get(conn).is_some_and(|sock| sock.readable && wants) {
                    self.queue(conn);
                }
            }
            Action::Look(key) => {
                // An end, or a session ticket, may be there. Where the socket was read to its end and nothing was told
                // of it since, the poll that this turn began with has looked.
                let mut more = self.sockets.get(Conn::Up(key)).is_some_and(|sock| sock.readable);
                while more && self.proxy.wants_read(Conn::Up(key)) {
                    more = self.read(now, Conn::Up(key));
                }
                // What has to wait for a slow client is read later, and the end behind it.
                if !more {
                    self.proxy.looked(now, key);
                }
            }
            Action::Connect { up, address } => {
                let conn = Conn::Up(up);
                let connected = self.io.connect(address).and_then(|mut socket| {
                    self.io.register(&mut socket, conn.token())?;
                    Ok(socket)
                });
                match connected {
                    Ok(socket) => self.sockets.put(conn, socket, true),
                    Err(error) => self.proxy.failed(now, conn, error.kind()),
                }
            }
            Action::Close { conn, last, reset } => {
                if let Some(socket) = self.sockets.take(conn) {
                    self.closing.push(Closing { socket, last, reset });
                }
            }
            Action::HalfClose(key) => {
                if let Some(sock) = self.sockets.get(Conn::Down(key)) {
                    self.io.shutdown(&mut sock.socket);
                }
            }
            Action::Resolve => self.workers.resolve(),
            Action::Ask { ticket, question } => self.ask(now, ticket, question),
        }
    }

    fn ask(&mut self, now: Now, ticket: u64, question: Question) {
        let job = match question {
            Question::Usage(query) => Job::Usage { ticket, query: *query },
            Question::Dashboard(query) => Job::Dashboard { ticket, query },
            Question::Metrics(snapshot) => {
                let export = self.workers.export();
                let render = Box::new(move || {
                    let around = Surroundings {
                        process: process::read(),
                        influx: export.map(|export| export.read()),
                        log_lines_dropped: log::dropped(),
                    };
                    Answer::new(200, metrics::CONTENT_TYPE, snapshot.render(&around))
                });
                Job::Render { ticket, render }
            }
        };
        if self.workers.ask(job).is_err() {
            let answer = overloaded("too many questions are waiting; ask again in a moment");
            self.proxy.answered(now, ticket, &answer);
        }
    }

    fn flush(&mut self, now: Now, conn: Conn) {
        let Some(sock) = self.sockets.get(conn) else { return };
        sock.dirty = false;
        if !sock.writable || sock.connecting {
            return;
        }
        let io = &mut self.io;
        self.proxy.flush(now, conn, &mut |bytes| {
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
                        sock.readable = true; // what came before that is to be read, told of or not
                        return Written::Broken(error.kind());
                    }
                }
            }
        });
    }

    /// Closes what the turn has ended.
    fn reap(&mut self) {
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
