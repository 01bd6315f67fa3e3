//! The turn of the loop: events in, proxy decisions carried out. The only place where sockets, workers and the proxy
//! meet.
//!
//! ```text
//!   poll → now → socket events → deadlines → worker events → actions → accept → run queue → actions and flushes
//!        → records and questions for the workers → close
//! ```
//!
//! In: events of sockets and workers. Out: calls of the proxy, and what its actions ask for. Never: a decision about an
//! exchange, or a call that blocks but for the poll.

mod connections;
mod socket_table;
#[cfg(test)]
mod tests;

use crate::base::clock::{MILLISECOND, Now};
use crate::io::{Event, Io};
use crate::limit::budget::Period;
use crate::local::Answer;
use crate::local::manual::html;
use crate::metrics::{self, Surroundings};
use crate::proxy::local_answers::overloaded;
use crate::proxy::{Action, Conn, Proxy, Question};
use crate::worker::query::Job;
use crate::worker::{WorkerEvent, Workers, logger, process};
use connections::Connections;
use std::io::ErrorKind;

/// Clients accepted in one turn.
const ACCEPTS_PER_TURN: usize = 64;
/// Pause after the system would give no more sockets.
const ACCEPT_PAUSE: u64 = 100 * MILLISECOND;

/// Whether the loop goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    Continue,
    /// Everything is ended and handed over.
    Stopped,
}

/// How far a stop has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shutdown {
    Running,
    /// Whoever balances loads is told to go elsewhere; until then all goes on as before, monotonic nanoseconds.
    Leaving {
        until: u64,
    },
    /// No new clients; exchanges may end until then, monotonic nanoseconds.
    Draining {
        until: u64,
    },
    /// Everything was ended at once.
    Aborted,
}

/// The loop over a network and its workers.
pub struct Reactor<I: Io, W: Workers> {
    connections: Connections<I>,
    workers: W,
    proxy: Proxy,
    /// Empty between two turns, like `worker_events`: only their memory stays.
    events: Vec<Event>,
    worker_events: Vec<WorkerEvent>,
    /// The period for which the ledger is summing up what users have spent.
    spend_asked: Option<Period>,
    /// Clients may wait in the backlog: cleared when the listener says that none does.
    accept_ready: bool,
    /// The system would give no more sockets: not before then, monotonic nanoseconds.
    accept_again_at: Option<u64>,
    shutdown_delay: u64,
    drain_timeout: u64,
    shutdown: Shutdown,
}

impl<I: Io, W: Workers> Reactor<I, W> {
    /// `drain_timeout`: nanoseconds that exchanges have to end after the first [`WorkerEvent::Stop`].
    pub fn new(io: I, workers: W, proxy: Proxy, drain_timeout: u64) -> Self {
        Self {
            connections: Connections::new(io),
            workers,
            proxy,
            events: Vec::new(),
            worker_events: Vec::new(),
            spend_asked: None,
            accept_ready: true,
            accept_again_at: None,
            shutdown_delay: 0,
            drain_timeout,
            shutdown: Shutdown::Running,
        }
    }

    /// Has the drain begin only so many nanoseconds after the first [`WorkerEvent::Stop`]; until then only the
    /// readiness has changed.
    pub fn delayed_by(self, shutdown_delay: u64) -> Self {
        Self { shutdown_delay, ..self }
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
        self.connections.io.poll(&mut self.events, timeout)?;
        let now = self.connections.io.now();
        self.take_socket_events(now);
        self.proxy.expire(now);
        self.take_worker_events(now);
        // What has ended until now is closed before its slot has a next tenant.
        self.perform_actions(now);
        self.accept(now);
        self.connections.serve_run_queue(&mut self.proxy, now);
        self.perform_and_flush(now);
        match self.shutdown {
            Shutdown::Leaving { until } if until <= now.mono => self.drain(now),
            Shutdown::Draining { until } if until <= now.mono => self.abort(now),
            _ => {}
        }
        self.hand_over(now);
        let after = self.connections.io.now();
        self.proxy.turn_ended(after);
        self.connections.close_ended();
        let is_over = match self.shutdown {
            Shutdown::Running | Shutdown::Leaving { .. } => false,
            Shutdown::Draining { .. } => self.proxy.is_drained(),
            Shutdown::Aborted => self.proxy.is_quiet(),
        };
        if !is_over {
            return Ok(Turn::Continue);
        }
        if let Some(asks) = self.proxy.farewell(after) {
            self.workers.lease(asks);
        }
        Ok(Turn::Stopped)
    }

    /// The proxy, to look at.
    pub fn proxy(&self) -> &Proxy {
        &self.proxy
    }

    /// The workers, to end them.
    pub fn into_workers(self) -> W {
        self.workers
    }

    /// How long nothing needs doing, nanoseconds.
    fn timeout(&mut self) -> Option<u64> {
        if self.connections.has_queued() {
            return Some(0);
        }
        let shutdown_at = match self.shutdown {
            Shutdown::Leaving { until } | Shutdown::Draining { until } => Some(until),
            Shutdown::Running | Shutdown::Aborted => None,
        };
        let accept_at = match self.accept_again_at {
            None if self.accept_ready => self.proxy.accepts_at(),
            again_at => again_at,
        };
        let due = [self.proxy.next_deadline(), shutdown_at, accept_at].into_iter().flatten().min()?;
        Some(due.saturating_sub(self.connections.io.now().mono))
    }

    fn take_socket_events(&mut self, now: Now) {
        let mut events = std::mem::take(&mut self.events);
        for event in events.drain(..) {
            match event {
                Event::Socket { token, readiness } => {
                    self.connections.on_event(&mut self.proxy, now, Conn::from_token(token), readiness);
                }
                Event::Acceptable => self.accept_ready = true,
            }
        }
        self.events = events;
    }

    fn take_worker_events(&mut self, now: Now) {
        let mut events = std::mem::take(&mut self.worker_events);
        self.workers.collect(&mut events);
        for event in events.drain(..) {
            match event {
                WorkerEvent::Committed { upto, retrieved } => self.proxy.committed(now, upto, &retrieved),
                WorkerEvent::Ledger { trouble, takes_records } => self.proxy.ledger_state(now, trouble, takes_records),
                WorkerEvent::Fleet { trouble } => self.proxy.fleet_state(trouble.is_some()),
                WorkerEvent::Leases(heard) => self.proxy.heard(now, heard),
                WorkerEvent::Policy(policy) => self.proxy.set_policy(now, policy),
                WorkerEvent::PolicyHolds { until } => self.proxy.policy_holds(until),
                WorkerEvent::SpendSums(spend_sums) => {
                    self.spend_asked = None;
                    self.proxy.set_spend_sums(now, spend_sums);
                }
                WorkerEvent::Reconfigure(change) => self.proxy.reconfigure(now, *change),
                WorkerEvent::Prices(fetched) => self.proxy.set_fetched_prices(fetched),
                WorkerEvent::Certificate(acceptor) => self.proxy.set_acceptor(acceptor),
                WorkerEvent::Worked { ticket } => self.proxy.worked(now, ticket),
                WorkerEvent::Answered { ticket, answer } => self.proxy.answered(now, ticket, &answer),
                WorkerEvent::Resolved { addresses } => self.proxy.resolved(now, addresses),
                WorkerEvent::Stop => self.stop(now),
            }
        }
        self.worker_events = events;
    }

    /// Drains, at once or after the delay; or, the second time, ends everything at once.
    fn stop(&mut self, now: Now) {
        match (self.shutdown, self.shutdown_delay) {
            (Shutdown::Running, 0) => self.drain(now),
            (Shutdown::Running, delay) => {
                self.shutdown = Shutdown::Leaving { until: now.mono.saturating_add(delay) };
                self.proxy.leave();
            }
            _ => self.abort(now),
        }
    }

    fn drain(&mut self, now: Now) {
        self.shutdown = Shutdown::Draining { until: now.mono.saturating_add(self.drain_timeout) };
        self.connections.io.stop_accepting();
        self.proxy.drain(now);
        // At the end of a turn nothing else would before the next event.
        self.perform_and_flush(now);
    }

    fn abort(&mut self, now: Now) {
        self.shutdown = Shutdown::Aborted;
        self.connections.io.stop_accepting();
        self.proxy.abort(now);
        self.perform_and_flush(now);
    }

    /// Gives the workers what the turn has for them, one message each.
    fn hand_over(&mut self, now: Now) {
        let records = self.proxy.take_records(now);
        if !records.is_empty() {
            self.workers.submit(records);
        }
        if let Some(asks) = self.proxy.take_asks(now) {
            self.workers.lease(asks);
        }
        let notes = self.proxy.take_notes();
        if !notes.is_empty() {
            self.workers.tell(notes);
        }
        // After the records: the sum is of all that was submitted before.
        let wanted = self.proxy.wants_spend_sums(now);
        if let Some(period) = wanted.filter(|_| wanted != self.spend_asked) {
            self.workers.sum_spend_sums(period);
        }
        self.spend_asked = wanted;
    }

    fn accept(&mut self, now: Now) {
        if self.accept_again_at.is_some_and(|at| at <= now.mono) {
            self.accept_again_at = None;
        }
        if self.accept_ready && self.accept_again_at.is_none() && self.proxy.is_full() {
            // Who has a request for us is not idle, and does not make room.
            self.connections.serve_run_queue(&mut self.proxy, now);
            self.perform_actions(now);
        }
        for _ in 0..ACCEPTS_PER_TURN {
            let may_accept = self.proxy.accepts_at().is_some_and(|at| at <= now.mono);
            if !self.accept_ready || self.accept_again_at.is_some() || !may_accept {
                return;
            }
            match self.connections.io.accept() {
                Ok(socket) => {
                    if self.proxy.make_room(now) {
                        self.perform_actions(now); // its slot may have a next tenant
                    }
                    self.connections.add_client(&mut self.proxy, now, socket);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.accept_ready = false,
                Err(error) if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted) => {}
                // Out of descriptors or memory: the client waits in the backlog, the loop does not spin.
                Err(_) => self.accept_again_at = Some(now.mono + ACCEPT_PAUSE),
            }
        }
    }

    /// Performs the proxy's actions and writes, until neither is left.
    fn perform_and_flush(&mut self, now: Now) {
        loop {
            self.perform_actions(now);
            if !self.connections.flush_next(&mut self.proxy, now) {
                return;
            }
        }
    }

    fn perform_actions(&mut self, now: Now) {
        while let Some(action) = self.proxy.next_action() {
            let (connections, proxy) = (&mut self.connections, &mut self.proxy);
            match action {
                Action::Flush(conn) => connections.mark_dirty(conn),
                Action::Read(conn) => connections.resume(proxy, now, conn),
                Action::Look(key) => connections.look(proxy, now, key),
                Action::Connect { up, address } => connections.connect(proxy, now, up, address),
                Action::Close { conn, last, reset } => connections.close(conn, last, reset),
                Action::HalfClose(key) => connections.half_close(key),
                Action::Resolve => self.workers.resolve(),
                Action::Work(work) => self.workers.work(work),
                Action::Ask { ticket, question } => self.ask(now, ticket, question),
            }
        }
    }

    fn ask(&mut self, now: Now, ticket: u64, question: Question) {
        let job = match question {
            Question::Usage(query) => Job::Usage { ticket, query: *query },
            Question::Dashboard(query) => Job::Dashboard { ticket, query },
            Question::Admin(request) => Job::Admin { ticket, request },
            Question::Help(query) => Job::Render { ticket, render: Box::new(move || html::answer(&query)) },
            Question::Metrics(snapshot) => {
                let (export, fleet) = (self.workers.export(), self.workers.fleet());
                let reconciliation = self.workers.reconciliation();
                let render = Box::new(move || {
                    let around = Surroundings {
                        process: process::read(),
                        influx: export.map(|export| export.read()),
                        fleet: fleet.map(|fleet| fleet.read()),
                        reconcile: reconciliation.and_then(|of| of.lock().ok()?.clone()),
                        log_lines_dropped: logger::dropped(),
                    };
                    Answer::new(200, metrics::CONTENT_TYPE, snapshot.render(&around))
                });
                Job::Render { ticket, render }
            }
        };
        if !self.workers.ask(job) {
            let answer = overloaded("too many questions are waiting; ask again in a moment");
            self.proxy.answered(now, ticket, &answer);
        }
    }
}
