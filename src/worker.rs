//! The threads that may block (ledger, query, export, resolver), each behind a bounded mailbox, and the one mailbox
//! back.
//!
//! In: records, questions and names from the loop. Out: [`WorkerEvent`] messages, and one wake-up of the loop for all that
//! arrive while it has not looked. Never: a decision about an exchange.

#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // the outside world: clocks and any map

pub mod append;
pub mod by_user;
pub mod checkpoint;
pub mod counted;
pub mod export;
pub mod file;
pub mod fold;
pub mod journal;
pub mod ledger;
pub mod levels;
pub mod logger;
pub mod pieces;
pub mod policy;
pub mod process;
pub mod prune;
pub mod query;
pub mod reading;
pub mod report;
pub mod resolver;
mod retry;
pub mod rollup;
pub mod schema;
pub mod snapshot;
pub mod threads;

use crate::base::log::Note;
use crate::limit::budget::{Period, SpendByUser};
use crate::local::Answer;
use crate::policy::{Change, Policy};
use crate::usage::record::Record;
use query::Job;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

/// The present, in nanoseconds since the Unix epoch.
pub fn unix_now() -> u64 {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX)
}

/// What a worker tells the loop.
#[derive(Debug)]
pub enum WorkerEvent {
    /// Every record with `seq <= upto` is committed. Those of them whose numbers might have been counted before come
    /// back as they count.
    Committed { upto: u64, retrieved: Vec<Record> },
    /// The ledger began to fail (`Some(why)`) or works again (`None`). Sent once a change, not once a retry.
    Ledger { trouble: Option<String> },
    /// The keys and limits, at start and when a command has changed them.
    Policy(Policy),
    /// What users have spent, where that was asked for.
    SpendByUser(SpendByUser),
    /// Settings were read anew.
    Reconfigure(Box<Change>),
    /// The answer to the question with this ticket.
    Answered { ticket: u64, answer: Answer },
    /// The target's addresses, or why they cannot be had.
    Resolved { addresses: Result<Vec<SocketAddr>, String> },
    /// Stop: the first means drain, the next means at once.
    Stop,
}

/// The mailbox to the loop, shared by all workers. Bounded by what the loop itself asked for: a worker only answers.
#[derive(Clone)]
pub struct EventSender {
    inner: Arc<Inner>,
}

struct Inner {
    queue: Mutex<Vec<WorkerEvent>>,
    wake: Box<dyn Fn() + Send + Sync>,
}

impl EventSender {
    /// `wake` makes the loop's poll return; called only when the mailbox was empty.
    pub fn new(wake: impl Fn() + Send + Sync + 'static) -> Self {
        Self { inner: Arc::new(Inner { queue: Mutex::new(Vec::new()), wake: Box::new(wake) }) }
    }

    /// Puts a message in, waking the loop if it may be asleep.
    pub fn send(&self, done: WorkerEvent) {
        let mut queue = self.inner.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let was_empty = queue.is_empty();
        queue.push(done);
        drop(queue);
        if was_empty {
            (self.inner.wake)();
        }
    }

    /// Moves every message to `into`, in order. Called by the loop, once a turn.
    pub fn take(&self, into: &mut Vec<WorkerEvent>) {
        let mut queue = self.inner.queue.lock().unwrap_or_else(PoisonError::into_inner);
        into.append(&mut queue);
    }
}

/// The workers as the loop sees them. Nothing here blocks.
pub trait Workers {
    /// A turn's records, in order; each is acknowledged by [`WorkerEvent::Committed`].
    fn submit(&mut self, records: Vec<Record>);

    /// A question, answered by [`WorkerEvent::Answered`]; it comes back where too many wait.
    fn ask(&mut self, job: Job) -> Result<(), Job>;

    /// What the log is told of this turn.
    fn tell(&mut self, notes: Vec<Note>) {
        drop(notes);
    }

    /// Sum up what users have spent in a period; answered by [`WorkerEvent::SpendByUser`].
    fn sum_spend_by_user(&mut self, period: Period);

    /// Look the target up again; answered by [`WorkerEvent::Resolved`].
    fn resolve(&mut self);

    /// Moves every message to `into`, in order.
    fn collect(&mut self, into: &mut Vec<WorkerEvent>);

    /// How the export is, where there is one; to be read on another thread.
    fn export(&self) -> Option<Arc<export::ExportProgress>> {
        None
    }
}
