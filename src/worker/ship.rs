//! The ship thread: sends what is in the ledger to the fleet, in the order of the rows, on a connection of its own.
//!
//! ```text
//!   ledger ──rows past the mark──▶ PostgreSQL: rows, sums and the mark in one transaction
//!     ▲                               │
//!     └── how far rows may be pruned ◀┘ by the ledger thread
//! ```
//!
//! In: a ledger file, and a database. Out: every row of it there, once. Never: a wait of the loop or of the ledger; a
//! row passed over because the database is away, however long: the ledger is the outbox.
//!
//! The mark on the server is the truth. Where it is behind the first row that is there, what was pruned is sent as sums
//! first. Of several processes with one ledger, one ships.

mod fleet_progress;
mod lost_sums;
mod outbox;
mod rows;
mod sender;

pub use fleet_progress::FleetProgress;

use super::backoff::Retry;
use super::event::{EventSender, WorkerEvent};
use super::logger::event;
use super::process::{lower_priority, spawn};
use super::turn::Turn;
use crate::base::log::Level;
use crate::config::{Fleet, PostgresUrl};
use crate::fleet::membership::{BEAT_EVERY, Node};
use crate::ledger::database;
use crate::ledger::marks::{self, LAST_ID};
use crate::postgres::{SqlError, SqlFault};
use outbox::Outbox;
use rusqlite::Connection;
use sender::{FleetSender, Place};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// The pauses after the first failure and after many, at most.
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// How long a shutdown tries to send what was committed last.
const TAIL_PATIENCE: Duration = Duration::from_secs(5);

/// What the thread is told.
enum Order {
    /// Close the ledger: its thread ends next.
    Rest,
    /// Send the rest, leave the fleet, and end.
    Finish,
}

/// The other threads' end of it.
pub struct ShipHandle {
    progress: Arc<FleetProgress>,
    orders: Sender<Order>,
    /// Says that the ledger is closed; then, by its end, that all is done.
    done: Receiver<()>,
}

impl ShipHandle {
    /// Starts the thread for the ledger at `path`, whose ledger thread is running; `mark` tells it what the
    /// fleet has.
    ///
    /// # Errors
    /// One sentence: the path is none, or the system gives no thread.
    pub fn start(
        path: &Path,
        fleet: &Fleet,
        retention_days: u32,
        mark: impl Fn(i64) + Send + 'static,
        events: EventSender,
    ) -> Result<Self, String> {
        let path = database::absolute(path)?;
        let (orders, ordered) = channel();
        let (say_done, done) = channel();
        let progress = Arc::new(FleetProgress::default());
        let node = Node {
            ledger_uuid: String::new(),
            name: fleet.node.clone(),
            host: fleet.host.clone(),
            build: env!("CARGO_PKG_VERSION"),
            retention_days,
        };
        let shipper = Shipper {
            turn: Turn::new(database::beside(&path, "-fleet")),
            outbox: Outbox::new(path),
            url: fleet.url.clone(),
            node,
            sender: None,
            place: None,
            lasts: fleet.lease,
            mark: Box::new(mark),
            retry: Retry::new("fleet is out of reach", "fleet is reached").pausing(PAUSE_MIN, PAUSE_MAX),
            progress: Arc::clone(&progress),
            events,
            orders: ordered,
        };
        spawn("ship", move || {
            lower_priority();
            shipper.run(&say_done);
        })?;
        Ok(Self { progress, orders, done })
    }

    /// How far it is.
    pub fn progress(&self) -> Arc<FleetProgress> {
        Arc::clone(&self.progress)
    }

    /// Has it close the ledger, before the ledger's thread ends: so that this one is the last to do so. A transaction
    /// that takes too long is not waited for.
    pub fn rest(&self) {
        let _ = self.orders.send(Order::Rest);
        let _ = self.done.recv_timeout(TAIL_PATIENCE);
    }

    /// Sends what the ledger has committed last, leaves the fleet, and ends the thread. What cannot be sent in time is
    /// sent after the next start.
    pub fn finish(self) {
        let _ = self.orders.send(Order::Finish);
        while self.done.recv_timeout(TAIL_PATIENCE + PAUSE_MIN).is_ok() {}
    }
}

struct Shipper {
    /// Which process ships.
    turn: Turn,
    outbox: Outbox,
    url: PostgresUrl,
    node: Node,
    /// None before the first connection, and after a failure.
    sender: Option<FleetSender>,
    /// This process in the fleet, once it is in.
    place: Option<Place>,
    /// How long leases last.
    lasts: Duration,
    /// Tells the ledger's thread what the fleet has.
    mark: Box<dyn Fn(i64) + Send>,
    retry: Retry,
    progress: Arc<FleetProgress>,
    events: EventSender,
    orders: Receiver<Order>,
}

impl Shipper {
    fn run(mut self, done: &Sender<()>) {
        let mut pause = Duration::ZERO;
        loop {
            match self.wait(pause) {
                None => pause = self.turn(),
                Some(Order::Finish) => return,
                Some(Order::Rest) => break,
            }
        }
        self.outbox.rest();
        let _ = done.send(());
        if self.orders.recv().is_ok() {
            self.finish();
        }
    }

    /// An order, where one comes before it is time to go on. However long it waits, `/metrics` goes on to say how far
    /// behind it is.
    fn wait(&mut self, pause: Duration) -> Option<Order> {
        let until = Instant::now() + pause;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.orders.recv_timeout(left.min(BEAT_EVERY)) {
                Ok(order) => return Some(order),
                Err(RecvTimeoutError::Disconnected) => return Some(Order::Finish),
                Err(RecvTimeoutError::Timeout) if left <= BEAT_EVERY => return None,
                Err(RecvTimeoutError::Timeout) => self.look(),
            }
        }
    }

    /// One step; how long to pause after it.
    fn turn(&mut self) -> Duration {
        match self.step() {
            Ok(true) => Duration::ZERO,
            Ok(false) => BEAT_EVERY,
            Err(error) => {
                self.failed(&error);
                self.retry.pause
            }
        }
    }

    /// Ships what comes next, up to a batch. True if there may be more.
    fn step(&mut self) -> Result<bool, SqlError> {
        if !self.turn.is_ours().map_err(|why| SqlError::new(SqlFault::Misconfigured, why))? {
            self.look(); // another process ships it
            self.worked();
            return Ok(false);
        }
        let mut sender = match self.sender.take() {
            Some(sender) => sender,
            None => FleetSender::connect(&self.url, (&mut self.node, self.lasts), &mut self.place, &mut self.outbox)?,
        };
        let sent = sender.step(&mut self.outbox, &*self.mark)?;
        let mut progress = self.progress.lock();
        (progress.shipped, progress.nodes, progress.oldest_unix_ns) = (sent.cursor, sent.nodes, sent.oldest_unix_ns);
        progress.membership = Some(sender.membership());
        drop(progress);
        self.sender = Some(sender);
        self.look();
        self.worked();
        Ok(sent.more)
    }

    fn failed(&mut self, error: &SqlError) {
        self.sender = None;
        self.progress.lock().is_up = false;
        if let Some(why) = self.retry.failed(error) {
            self.events.send(WorkerEvent::Fleet { trouble: Some(why) });
        }
        self.look();
    }

    fn worked(&mut self) {
        let was_up = std::mem::replace(&mut self.progress.lock().is_up, true);
        if self.retry.worked() {
            self.events.send(WorkerEvent::Fleet { trouble: None });
        } else if !was_up {
            event(Level::Info, "fleet is reached", &[]);
        }
    }

    /// Takes note of how far the ledger is, and, while nothing is sent from here, how much of it the fleet has.
    fn look(&mut self) {
        let ask =
            |conn: &Connection| Ok((conn.query_row(LAST_ID, [], |row| row.get(0))?, marks::read(conn, marks::FLEET)?));
        let Ok((last, shipped)) = self.outbox.read(ask) else { return };
        let mut progress = self.progress.lock();
        progress.last = last;
        if self.sender.is_none() {
            progress.shipped = shipped;
        }
    }

    /// What the ledger has committed last. What fails here is sent after the next start.
    fn finish(mut self) {
        let until = Instant::now() + TAIL_PATIENCE;
        let mut sent = Ok(true);
        while matches!(sent, Ok(true)) && Instant::now() < until {
            sent = self.step();
        }
        match (sent, self.sender) {
            (Ok(_), Some(sender)) => sender.leave(),
            (Err(error), _) => _ = self.retry.failed(&error),
            (Ok(_), None) => {}
        }
    }
}
