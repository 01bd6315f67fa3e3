//! What workers tell the loop, and the one mailbox for it.
//!
//! In: events of any thread. Out: all that have come, in order, and one wake-up of the loop for those that arrive while
//! it has not looked. Never: a bound of its own: a worker only answers what the loop has asked for.

use crate::limit::budget::SpendSums;
use crate::limit::lease::Heard;
use crate::local::Answer;
use crate::policy::{Change, Policy};
use crate::price::PriceTable;
use crate::tls::Acceptor;
use crate::usage::record::Record;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// What a worker tells the loop.
#[derive(Debug)]
pub enum WorkerEvent {
    /// Every record with `seq <= upto` is committed. Those of them whose numbers might have been recorded before
    /// come back with what is new of them, each before the corrections that it makes.
    Committed { upto: u64, retrieved: Vec<Record> },
    /// The ledger began to fail (`Some(why)`) or works again (`None`). Sent once a change, not once a retry. Where it
    /// does not take records, nothing will be committed any more, unless this is taken back.
    Ledger { trouble: Option<String>, takes_records: bool },
    /// The fleet began to be out of reach (`Some(why)`) or is reached (`None`). Sent once a change.
    Fleet { trouble: Option<String> },
    /// What the fleet says of limits.
    Leases(Heard),
    /// The keys and limits, at start and when a command has changed them.
    Policy(Policy),
    /// The keys and limits are the fleet's, and nobody is let in by them from this instant on, unless a later one is
    /// told: nanoseconds since the Unix epoch.
    PolicyHolds { until: u64 },
    /// What users have spent, where that was asked for.
    SpendSums(SpendSums),
    /// Settings were read anew.
    Reconfigure(Box<Change>),
    /// Prices that were fetched.
    Prices(PriceTable),
    /// The certificate that clients are shown was renewed.
    Certificate(Acceptor),
    /// The answer to the question with this ticket.
    Answered { ticket: u64, answer: Answer },
    /// The piece of work with this ticket is done.
    Worked { ticket: u64 },
    /// The target's addresses, or why they cannot be had.
    Resolved { addresses: Result<Vec<SocketAddr>, String> },
    /// Stop: the first means drain, the next means at once.
    Stop,
}

/// The mailbox to the loop, shared by all workers.
#[derive(Clone)]
pub struct EventSender {
    queue: Arc<Mutex<Vec<WorkerEvent>>>,
    wake: Arc<dyn Fn() + Send + Sync>,
}

impl EventSender {
    /// `wake` makes the loop's poll return; called only when the mailbox was empty.
    pub fn new(wake: impl Fn() + Send + Sync + 'static) -> Self {
        Self { queue: Arc::default(), wake: Arc::new(wake) }
    }

    /// Puts a message in, waking the loop if it may be asleep.
    pub fn send(&self, done: WorkerEvent) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let was_empty = queue.is_empty();
        queue.push(done);
        drop(queue);
        if was_empty {
            (self.wake)();
        }
    }

    /// Moves every message to `into`, in order. Called by the loop, once a turn.
    pub fn take(&self, into: &mut Vec<WorkerEvent>) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        into.append(&mut queue);
    }
}
