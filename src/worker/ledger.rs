//! The ledger thread: commits what settled, acknowledges it, and folds and prunes when nothing waits.
//!
//! In: records, one message for each turn of the loop. Out: [`Done::Committed`], once a commit; [`Done::Ledger`], on
//! each change between failing and working. Never: a record dropped while the process lives, or reordered.
//!
//! There is no timer for batches. While one transaction commits, what settles meanwhile queues; the next transaction
//! takes all of it. A lone record is committed at once, and under load batches grow by themselves.

#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // the outside world: clocks and any map

use super::append::Writer;
use super::checkpoint::Checkpointer;
use super::fold::{FOLD_ROWS_MAX, Progress, fold};
use super::journal::{self, Owner};
use super::prune::Pruner;
use super::{Done, ToLoop, schema};
use crate::usage::record::Record;
use rusqlite::Connection;
use std::path::Path;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Rows in one transaction at most: it bounds how long the first of them waits for the last.
const BATCH_ROWS_MAX: usize = 4096;
/// Rows past the watermark from which on the fold waits for no quiet moment.
const FOLD_ROWS_FORCED: i64 = 2048;
/// Rows past the watermark from which on a short quiet is enough; below, only a long one.
const FOLD_ROWS_WORTHWHILE: i64 = 512;
const QUIET_SHORT: Duration = Duration::from_millis(5);
const QUIET_LONG: Duration = Duration::from_secs(1);
/// First and longest pause before a failed commit or fold is tried again.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// How long a shutdown goes on trying to commit.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(5);
/// Places for records kept allocated between bursts.
const QUEUE_KEPT: usize = 256;

enum Message {
    Records(Vec<Record>),
    Stop,
}

/// The loop's end of the ledger.
#[derive(Debug)]
pub struct LedgerHandle {
    mailbox: Sender<Message>,
    thread: JoinHandle<Result<(), String>>,
}

impl LedgerHandle {
    /// Hands over a turn's records, in the order of their `seq`. Never blocks. The channel has no bound of its own and
    /// needs none: the loop reserves a place for each record before it forwards the request, and frees it only on
    /// [`Done::Committed`].
    pub fn submit(&self, records: Vec<Record>) {
        // The thread ends only after `shutdown`, which takes the handle with it, so there is somebody to receive.
        let _ = self.mailbox.send(Message::Records(records));
    }

    /// Commits all that was submitted, writes the log back into the file, and ends the thread.
    ///
    /// # Errors
    /// One sentence with the number of records lost, if the ledger could not commit for five seconds.
    pub fn shutdown(self) -> Result<(), String> {
        let _ = self.mailbox.send(Message::Stop);
        self.thread.join().unwrap_or_else(|_| Err("the ledger thread has failed".to_owned()))
    }
}

/// What the operator asks of the ledger.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Each commit is on the disk before it is acknowledged: it survives a loss of power.
    pub fsync: bool,
    /// Requests have a row before they are sent.
    pub journaled: bool,
    /// Rows older than that go; 0 is for ever.
    pub retention_days: u32,
}

/// The thread's state beside its connection.
pub struct Ledger {
    inbox: Receiver<Message>,
    to_loop: ToLoop,
    checkpointer: Checkpointer,
    /// This process in the journal, where it keeps one.
    owner: Option<Owner>,
    /// Not committed yet, in order.
    queue: Vec<Record>,
    /// When a message last came in, or a commit or a fold last ended.
    busy_at: Instant,
    progress: Progress,
    commits: Retry,
    folds: Retry,
    pruner: Pruner,
    prunes: Retry,
    /// Set once the loop wants no more.
    stop_by: Option<Instant>,
}

impl Ledger {
    /// Opens (or creates, or migrates) the file, records what a process that is gone has left open, and starts the
    /// thread.
    ///
    /// # Errors
    /// One sentence with the path: see [`schema::open`].
    pub fn start(path: &Path, options: Options, to_loop: ToLoop) -> Result<LedgerHandle, String> {
        let conn = schema::open(path)?;
        let path = &schema::absolute(path)?;
        let unusable = |error: rusqlite::Error| format!("the ledger {} cannot be used: {error}", path.display());
        if options.fsync {
            schema::sync_each_commit(&conn).map_err(unusable)?;
        }
        let interrupted = journal::recover(&conn, path).map_err(unusable)?;
        if interrupted > 0 {
            eprintln!("level=warn msg=\"requests were open when their proxy was killed\" interrupted={interrupted}");
        }
        let owner = options.journaled.then(|| Owner::new(path)).transpose()?;
        let progress = Progress::read(&conn).map_err(unusable)?;
        drop(Writer::new(&conn).map_err(unusable)?);
        let checkpointer = Checkpointer::start(path)?;
        let (mailbox, inbox) = mpsc::channel();
        let ledger = Self {
            inbox,
            to_loop,
            checkpointer,
            owner,
            queue: Vec::new(),
            busy_at: Instant::now(),
            progress,
            commits: Retry::new("ledger cannot commit", "ledger commits again"),
            folds: Retry::new("ledger cannot fold", "ledger folds again"),
            pruner: Pruner::new(options.retention_days),
            prunes: Retry::new("ledger cannot prune", "ledger prunes again"),
            stop_by: None,
        };
        let thread = std::thread::Builder::new()
            .name("ledger".to_owned())
            .spawn(move || ledger.run(&conn))
            .map_err(|error| format!("the ledger thread cannot start: {error}"))?;
        Ok(LedgerHandle { mailbox, thread })
    }

    fn run(mut self, conn: &Connection) -> Result<(), String> {
        // Prepared once at start already; here it can fail only for want of memory.
        let mut writer = Writer::new(conn).map_err(|error| error.to_string())?;
        if let Some(owner) = &self.owner {
            writer = writer.owned_by(owner.id);
        }
        loop {
            self.receive();
            self.commit(&mut writer);
            match self.stop_by {
                None => {
                    self.fold(conn);
                    self.prune(conn);
                }
                Some(stop_by) if self.queue.is_empty() || Instant::now() >= stop_by => break,
                Some(_) => {}
            }
        }
        drop(writer);
        self.finish(conn)
    }

    /// Waits until there is something to do, and takes in all that is there.
    fn receive(&mut self) {
        let quiet_at = self.busy_at + quiet(self.progress.pending());
        let prune_at = self.pruner.due_at(self.busy_at);
        while self.stop_by.is_none() {
            let until = match (self.queue.is_empty(), self.commits.retry_at) {
                (false, None) => break,
                (false, Some(retry_at)) => Some(retry_at),
                (true, _) => {
                    let fold_at = self.folds.retry_at.map_or(quiet_at, |retry_at| retry_at.max(quiet_at));
                    let fold_at = (!self.progress.is_folded()).then_some(fold_at);
                    [fold_at, prune_at].into_iter().flatten().min()
                }
            };
            let message = match until {
                None => self.inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(until) => self.inbox.recv_timeout(until.saturating_duration_since(Instant::now())),
            };
            match message {
                Ok(message) => self.take(message),
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => self.take(Message::Stop),
            }
        }
        if let (Some(stop_by), Some(retry_at)) = (self.stop_by, self.commits.retry_at) {
            std::thread::sleep(retry_at.min(stop_by).saturating_duration_since(Instant::now()));
        }
        while self.queue.len() < BATCH_ROWS_MAX
            && let Ok(message) = self.inbox.try_recv()
        {
            self.take(message);
        }
    }

    fn take(&mut self, message: Message) {
        self.busy_at = Instant::now();
        match message {
            Message::Records(records) if self.queue.is_empty() => self.queue = records,
            Message::Records(mut records) => self.queue.append(&mut records),
            Message::Stop => self.stop_by = self.stop_by.or_else(|| Some(Instant::now() + SHUTDOWN_PATIENCE)),
        }
    }

    /// One transaction with what is queued, up to its cap, acknowledged; or the queue as it was and a time to retry.
    fn commit(&mut self, writer: &mut Writer<'_>) {
        let batch = &self.queue[..self.queue.len().min(BATCH_ROWS_MAX)];
        let Some(last) = batch.last() else { return };
        let retrieved = match writer.append(batch) {
            Ok(retrieved) => retrieved,
            Err(error) => {
                if let Some(reason) = self.commits.failed(&error) {
                    self.to_loop.send(Done::Ledger { trouble: Some(reason) });
                }
                return;
            }
        };
        self.to_loop.send(Done::Committed { upto: last.seq, retrieved });
        self.busy_at = Instant::now();
        self.progress.last = writer.last_id();
        if self.commits.worked() {
            self.to_loop.send(Done::Ledger { trouble: None });
        }
        let rows = batch.len();
        self.queue.drain(..rows);
        if self.queue.is_empty() && self.queue.capacity() > QUEUE_KEPT {
            self.queue = Vec::new();
        }
    }

    /// Folds if nothing waits or too much is pending.
    fn fold(&mut self, conn: &Connection) {
        let pending = self.progress.pending();
        let is_quiet = self.queue.is_empty() && self.busy_at.elapsed() >= quiet(pending);
        let due = pending >= FOLD_ROWS_FORCED || is_quiet && !self.progress.is_folded();
        if !due || self.folds.retry_at.is_some_and(|retry_at| Instant::now() < retry_at) {
            return;
        }
        let folded = fold(conn, FOLD_ROWS_MAX).map(|progress| self.progress = progress);
        match folded.and_then(|()| self.checkpointer.catch_up(conn)) {
            Ok(()) => _ = self.folds.worked(),
            Err(error) => _ = self.folds.failed(&error),
        }
        self.busy_at = Instant::now();
        self.checkpointer.nudge();
    }

    /// Removes a few old rows, if any are due and commits work.
    fn prune(&mut self, conn: &Connection) {
        if self.commits.retry_at.is_some() || !self.pruner.is_due(self.busy_at) {
            return;
        }
        match self.pruner.step(conn).and_then(|()| self.checkpointer.catch_up(conn)) {
            Ok(()) => _ = self.prunes.worked(),
            Err(error) => _ = self.prunes.failed(&error),
        }
        self.checkpointer.nudge();
    }

    fn finish(self, conn: &Connection) -> Result<(), String> {
        self.checkpointer.stop();
        // What this cannot copy, because a reader is still at it, the next start reads from the log.
        let _ = conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        match self.queue.len() {
            0 => Ok(()),
            lost => Err(format!("{lost} records could not be committed before the ledger was stopped")),
        }
    }
}

/// How long nothing must come in before `pending` rows are folded.
fn quiet(pending: i64) -> Duration {
    if pending >= FOLD_ROWS_WORTHWHILE { QUIET_SHORT } else { QUIET_LONG }
}

/// One thing that may fail and is tried again: backs off, and speaks once a change.
struct Retry {
    failing: &'static str,
    working: &'static str,
    pause: Duration,
    /// Set while it fails.
    retry_at: Option<Instant>,
}

impl Retry {
    fn new(failing: &'static str, working: &'static str) -> Self {
        Self { failing, working, pause: BACKOFF_MIN, retry_at: None }
    }

    /// The reason, if it worked until now.
    fn failed(&mut self, error: &rusqlite::Error) -> Option<String> {
        let changed = self.retry_at.is_none();
        self.pause = if changed { BACKOFF_MIN } else { (self.pause * 2).min(BACKOFF_MAX) };
        self.retry_at = Some(Instant::now() + self.pause);
        changed.then(|| {
            let reason = error.to_string();
            eprintln!("level=error msg={:?} error={reason:?}", self.failing);
            reason
        })
    }

    /// True if it failed until now.
    fn worked(&mut self) -> bool {
        let changed = self.retry_at.take().is_some();
        if changed {
            eprintln!("level=info msg={:?}", self.working);
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retry_backs_off_and_speaks_once_a_change() {
        let mut retry = Retry::new("thing fails", "thing works");
        assert!(!retry.worked());
        for _ in 0..2 {
            let mut pauses = Vec::new();
            for attempt in 0..7 {
                let said = retry.failed(&rusqlite::Error::InvalidQuery);
                assert_eq!(said.is_some(), attempt == 0);
                pauses.push(retry.pause.as_millis());
                assert!(retry.retry_at.is_some());
            }
            assert_eq!(pauses, [50, 100, 200, 400, 800, 1000, 1000]);
            assert!(retry.worked());
            assert_eq!(retry.retry_at, None);
            assert!(!retry.worked());
        }
    }
}
