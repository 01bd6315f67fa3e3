//! The other threads' end of the ledger: what it is sent, and what the operator asks of it.
//!
//! In: records, and how far the export is. Out: messages for the thread. Never: a wait.

use super::mailbox::Mailbox;
use crate::ledger::alert_outbox::AlertChange;
use crate::ledger::reconciliations::Reconciliation;
use crate::limit::budget::Period;
use crate::metrics::FormerSeries;
use crate::usage::record::Record;
use crate::worker::policy_follower::PolicyNews;
use std::sync::Arc;
use std::thread::JoinHandle;

/// What the thread is sent.
pub(super) enum Message {
    Records(Vec<Record>),
    /// All up to this record is exported.
    Exported(i64),
    /// Of budgets that have passed a threshold.
    Alerts(Vec<AlertChange>),
    /// All up to this record is in the fleet, and what comes after it is not.
    Shipped(i64),
    /// Of the fleet's keys, limits and teams.
    Policy(PolicyNews),
    /// What a day's comparison with the provider's books came to.
    Reconciled(Reconciliation),
    /// What was spent in this period is asked for.
    SpendSums(Period),
    Stop,
}

/// The loop's end of the ledger.
pub struct LedgerHandle {
    pub(super) mailbox: Arc<Mailbox<Message>>,
    /// Until it is to end.
    pub(super) thread: Option<JoinHandle<Result<(), String>>>,
    /// What the ledger had when it was opened; until it is taken.
    pub former_series: Vec<FormerSeries>,
}

impl LedgerHandle {
    /// Hands over a turn's records, in the order of their `seq`. Never blocks. The mailbox has no bound of its own and
    /// needs none: the loop reserves a place for each record before it forwards the request, and frees it only on
    /// [`WorkerEvent::Committed`].
    pub fn submit(&self, records: Vec<Record>) {
        // The thread ends only with the handle, so there is somebody to receive.
        self.mailbox.send(Message::Records(records));
    }

    /// How the export says up to which record everything is exported. Never blocks; the ledger thread keeps it in its
    /// next turn: a commit never waits for another writer of this process.
    pub fn marker(&self) -> impl Fn(i64) + Send + use<> {
        let mailbox = Arc::clone(&self.mailbox);
        move |record_id| mailbox.send(Message::Exported(record_id)) // after its end, the next start exports it again
    }

    /// How the thread of budget alerts has kept what it noticed and sent. Never blocks; as for [`Self::marker`].
    pub fn alert_keeper(&self) -> impl Fn(Vec<AlertChange>) + Send + use<> {
        let mailbox = Arc::clone(&self.mailbox);
        move |changes| mailbox.send(Message::Alerts(changes))
    }

    /// How the sender to the fleet says the same of what that has. Never blocks.
    pub fn shipped_marker(&self) -> impl Fn(i64) + Send + use<> {
        let mailbox = Arc::clone(&self.mailbox);
        move |record_id| mailbox.send(Message::Shipped(record_id))
    }

    /// How the thread that follows the fleet's keys, limits and teams has them kept. Never blocks.
    pub fn policy_keeper(&self) -> impl Fn(PolicyNews) + Send + use<> {
        let mailbox = Arc::clone(&self.mailbox);
        move |news| mailbox.send(Message::Policy(news))
    }

    /// How the thread that compares with the provider's books has kept what it found. Never blocks.
    pub fn reconciliation_keeper(&self) -> impl Fn(Reconciliation) + Send + use<> {
        let mailbox = Arc::clone(&self.mailbox);
        move |found| mailbox.send(Message::Reconciled(found))
    }

    /// Asks for [`WorkerEvent::SpendSums`]: of all that was submitted before.
    pub fn sum_spend_sums(&self, period: Period) {
        self.mailbox.send(Message::SpendSums(period));
    }

    /// Commits all that was submitted, writes the log back into the file, and ends the thread.
    ///
    /// # Errors
    /// One sentence with the number of records lost, if the ledger could not commit for five seconds.
    pub fn shutdown(mut self) -> Result<(), String> {
        let thread = self.thread.take();
        drop(self);
        let ended = thread.map(JoinHandle::join).unwrap_or(Ok(Ok(())));
        ended.unwrap_or_else(|_| Err("the ledger thread has failed".to_owned()))
    }
}

impl Drop for LedgerHandle {
    fn drop(&mut self) {
        self.mailbox.send(Message::Stop);
    }
}

/// What the operator asks of the ledger.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Each commit is on the disk before it is acknowledged: it survives a loss of power.
    pub fsync: bool,
    /// Requests have a row before they are sent.
    pub journaled: bool,
    /// Nobody waits for a commit: records gather for a moment.
    pub relaxed: bool,
    /// Rows older than that go; 0 is for ever.
    pub retention_days: u32,
    /// Everybody has a budget: what was spent is told at start.
    pub budgets: bool,
    /// Rows are exported, and stay until they are.
    pub export: bool,
    /// Of a ledger that was never exported, also the rows that are there.
    pub backfill: bool,
    /// Rows are sent to a fleet, and stay until they are there.
    pub fleet: bool,
}
