//! The ledger thread: commits what settled, acknowledges it, and folds and prunes when nothing waits.
//!
//! In: records, one message for each turn of the loop. Out: [`WorkerEvent::Committed`], once a commit;
//! [`WorkerEvent::Ledger`], on each change between failing and working. Never: a record dropped while the process
//! lives, or reordered.
//!
//! There is no timer for batches that somebody waits for. While one transaction commits, what settles meanwhile queues;
//! the next transaction takes all of it. A lone record is committed at once, and under load batches grow by themselves.
//! Where nobody waits (`relaxed`), records gather for a moment first.

mod catch_up;
mod handle;
mod mailbox;
mod policy_watch;
mod pruner;

pub use handle::{LedgerHandle, Options};

use super::backoff::Retry;
use super::checkpoint::Checkpointer;
use super::event::{EventSender, WorkerEvent};
use super::logger;
use super::policy_follower::PolicyNews;
use super::process::{spawn, unix_now};
use crate::base::log::Level;
use crate::ledger::alert_outbox::{self, AlertChange};
use crate::ledger::append::Writer;
use crate::ledger::database;
use crate::ledger::file_identity;
use crate::ledger::file_watch::FileWatch;
use crate::ledger::fold::FOLD_ROWS_MAX;
use crate::ledger::journal::{self, Owner};
use crate::ledger::marks::{self, Progress};
use crate::ledger::migrations::{self, MigrationNews};
use crate::ledger::partition::NS_PER_HOUR;
use crate::ledger::recent_series::recent_series;
use crate::ledger::reconciliations::{self, Reconciliation};
use crate::ledger::spend::spend_sums;
use crate::ledger::tiers::TierBuilder;
use crate::limit::budget::Period;
use crate::usage::record::Record;
use catch_up::CatchUp;
use handle::Message;
use mailbox::Inbox;
use policy_watch::PolicyWatch;
use pruner::Pruner;
use rusqlite::Connection;
use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Rows in one transaction at most: it bounds how long the first of them waits for the last.
const BATCH_ROWS_MAX: usize = 4096;
/// Rows past the watermark from which on the fold waits for no quiet moment. Who settles while it folds waits for some
/// milliseconds; the more rows it takes the fewer do, and the more of them share a rollup. A reader sums up those that
/// are left, which costs it less than 1 us a row.
const FOLD_ROWS_FORCED: i64 = 16384;
/// The same of rollups, which cost a fold more than rows do: many users at once make it no longer than few.
pub const FOLD_ROLLUPS_FORCED: usize = 3072;
/// Rows past the watermark from which on a short quiet is enough; below, only a long one.
const FOLD_ROWS_WORTHWHILE: i64 = 1024;
const QUIET_SHORT: Duration = Duration::from_millis(5);
const QUIET_LONG: Duration = Duration::from_secs(1);
/// How long records gather where nobody waits for their commit, of the 100 ms that are promised. Longer saves little,
/// and on a host with one core the loop waits for a whole batch: with 10 ms the 99th percentile was half as high again.
const GATHER: Duration = Duration::from_millis(3);
/// How long a shutdown goes on trying to commit.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(5);

/// The thread's state beside its connection.
pub struct Ledger {
    options: Options,
    inbox: Inbox<Message>,
    /// Taken from there, and soon dealt with: empty between two turns.
    messages: Vec<Message>,
    events: EventSender,
    checkpointer: Checkpointer,
    watch: FileWatch,
    /// The path does not name the file that is open: nothing is committed, unless it does again.
    lost: bool,
    /// This process in the journal, where it keeps one.
    owner: Option<Owner>,
    /// Not committed yet, in order.
    queue: Vec<Record>,
    /// The last record that is.
    committed_seq: u64,
    /// When a message last came in, or a commit or a fold last ended.
    busy_at: Instant,
    progress: Progress,
    keys: CatchUp,
    tiers: TierBuilder,
    policy: PolicyWatch,
    /// The loop wants to know what was spent in this period; told when nothing waits to be committed.
    spend_wanted: Option<Period>,
    /// The tiers may have a step to take.
    tiers_behind: bool,
    /// A fold did not wait for a quiet moment, so a step of the tiers must not either.
    step_owed: bool,
    commits: Retry,
    folds: Retry,
    pruner: Pruner,
    prunes: Retry,
    /// How far the export is, where the file does not say so yet.
    exported: Option<i64>,
    /// Of budgets that have passed a threshold, what is to be kept.
    alerts: Vec<AlertChange>,
    /// The same of what the fleet has.
    shipped: Option<i64>,
    /// The same of what the fleet says of keys, limits and teams, in order.
    fleet_policy: Vec<PolicyNews>,
    /// The same of a comparison with the provider's books.
    reconciled: Option<Reconciliation>,
    /// Set once the loop wants no more.
    stop_by: Option<Instant>,
}

impl Ledger {
    /// Opens (or creates, or migrates) the file, records what a process that is gone has left open, and starts the
    /// thread.
    ///
    /// # Errors
    /// One sentence with the path: see [`database::open`].
    pub fn start(path: &Path, options: Options, events: EventSender) -> Result<LedgerHandle, String> {
        let conn = database::open_telling(path, tell_of_migration)?;
        let path = &database::absolute(path)?;
        let unusable = |error: rusqlite::Error| format!("the ledger {} cannot be used: {error}", path.display());
        if options.fsync {
            database::sync_each_commit(&conn).map_err(unusable)?;
        }
        let interrupted = journal::recover(&conn, path).map_err(unusable)?;
        if interrupted > 0 {
            let fields = [("interrupted", interrupted.into())];
            logger::event(Level::Warn, "requests were open when their proxy was killed", &fields);
        }
        let owner = options.journaled.then(|| Owner::new(path, unix_now())).transpose()?;
        if options.export {
            marks::begin_export(&conn, options.backfill).map_err(unusable)?;
        }
        if options.fleet {
            file_identity::begin_fleet(&conn).map_err(unusable)?;
        }
        let progress = Progress::read(&conn).map_err(unusable)?;
        drop(Writer::new(&conn).map_err(unusable)?);
        let former_series = recent_series(&conn).map_err(unusable)?;
        let policy = PolicyWatch::start(&conn, options.budgets, &events).map_err(unusable)?;
        let watch = FileWatch::new(path).map_err(|error| format!("the ledger {} is gone: {error}", path.display()))?;
        let checkpointer = Checkpointer::start(path)?;
        let inbox = Inbox::new();
        let mailbox = inbox.mailbox();
        let ledger = Self {
            options,
            inbox,
            messages: Vec::new(),
            events,
            checkpointer,
            watch,
            lost: false,
            owner,
            queue: Vec::new(),
            committed_seq: 0,
            busy_at: Instant::now(),
            progress,
            keys: CatchUp::new(&progress),
            tiers: TierBuilder::default(),
            policy,
            spend_wanted: None,
            tiers_behind: true,
            step_owed: false,
            commits: Retry::new("ledger cannot commit", "ledger commits again"),
            folds: Retry::new("ledger cannot fold", "ledger folds again"),
            pruner: Pruner::new(options.retention_days, options.export, options.fleet),
            prunes: Retry::new("ledger cannot prune", "ledger prunes again"),
            exported: None,
            alerts: Vec::new(),
            shipped: None,
            fleet_policy: Vec::new(),
            reconciled: None,
            stop_by: None,
        };
        let thread = spawn("ledger", move || ledger.run(&conn))?;
        Ok(LedgerHandle { mailbox: Arc::new(mailbox(thread.thread())), thread: Some(thread), former_series })
    }

    fn run(mut self, conn: &Connection) -> Result<(), String> {
        // Prepared once at start already; here it can fail only for want of memory.
        let mut writer = Writer::new(conn).map_err(|error| error.to_string())?;
        if let Some(owner) = &self.owner {
            writer = writer.owned_by(owner.id);
        }
        loop {
            self.receive();
            self.look_at_file();
            if !self.lost {
                self.commit(&mut writer);
                self.keep_marks(&mut writer);
                self.keep_alerts(&mut writer);
                self.tell(&mut writer);
            }
            self.keep_fleet_policy(&mut writer);
            match self.stop_by {
                None if self.lost => {}
                None => {
                    self.fold(&mut writer);
                    self.prune(&mut writer);
                }
                Some(stop_by) if self.lost || self.queue.is_empty() || Instant::now() >= stop_by => break,
                Some(_) => {}
            }
        }
        drop(writer);
        self.lost |= !self.watch.is_in_place_now();
        self.finish(conn)
    }

    /// Notices that the path does not name the open file any more, and that it does again.
    fn look_at_file(&mut self) {
        let in_place = if self.lost { self.watch.is_in_place_now() } else { self.watch.is_in_place() };
        if !in_place {
            self.lost = true;
            self.failed(&self.watch.why());
        } else if self.lost {
            self.lost = false;
            self.worked();
        }
    }

    /// Waits until there is something to do, and takes in all that is there.
    fn receive(&mut self) {
        let is_folded = self.progress.is_folded();
        let quiet_at = self.busy_at + quiet(&self.progress);
        let prune_at = self.pruner.due_at(self.busy_at);
        let look_at = self.policy.look_at;
        while self.stop_by.is_none() {
            let is_marked = self.exported.or(self.shipped).is_none() && self.alerts.is_empty();
            let nothing_to_keep = is_marked && self.reconciled.is_none() && self.fleet_policy.is_empty();
            let is_idle = self.queue.is_empty() && nothing_to_keep && !self.lost;
            let until = match (is_idle, self.commits.retry_at) {
                (false, None) => break,
                // Also where messages keep coming.
                (false, Some(retry_at)) if retry_at <= Instant::now() => break,
                (false, Some(retry_at)) => retry_at,
                (true, _) => {
                    let fold_at = self.folds.retry_at.map_or(quiet_at, |retry_at| retry_at.max(quiet_at));
                    let fold_at = (!is_folded || self.tiers_behind).then_some(fold_at);
                    [fold_at, prune_at].into_iter().flatten().fold(look_at, Instant::min)
                }
            };
            if !self.inbox.wait(&mut self.messages, until) {
                break;
            }
            self.take_messages();
            self.gather();
        }
        if let (Some(stop_by), Some(retry_at)) = (self.stop_by, self.commits.retry_at) {
            std::thread::sleep(retry_at.min(stop_by).saturating_duration_since(Instant::now()));
        }
        self.inbox.take(&mut self.messages);
        self.take_messages();
    }

    /// Lets more come for the commit that is due.
    fn gather(&self) {
        if self.commits.retry_at.is_some() || self.stop_by.is_some() {
            return; // it is not due
        }
        if self.options.relaxed {
            std::thread::sleep(GATHER);
        } else if self.queue.len() > 1 {
            // Where the loop needs this core it goes on first, and what it settles until it waits for us shares one
            // commit. Where cores are free this is no pause. A record that comes alone has nobody to wait for.
            std::thread::yield_now();
        }
    }

    fn take_messages(&mut self) {
        let mut messages = std::mem::take(&mut self.messages);
        for message in messages.drain(..) {
            self.take(message);
        }
        self.messages = messages;
    }

    fn take(&mut self, message: Message) {
        let is_work = !matches!(
            message,
            Message::Exported(_) | Message::Alerts(_) | Message::Reconciled(_) | Message::Shipped(_)
        );
        if is_work {
            self.busy_at = Instant::now();
        }
        match message {
            Message::Exported(id) => self.exported = Some(id),
            Message::Alerts(_) | Message::Reconciled(_) if self.lost => {} // they are said again
            Message::Reconciled(found) => self.reconciled = Some(found),
            Message::Alerts(mut changes) => self.alerts.append(&mut changes),
            Message::Shipped(id) => self.shipped = Some(id),
            Message::Records(records) if self.queue.is_empty() => self.queue = records,
            Message::Records(mut records) => self.queue.append(&mut records),
            Message::Policy(news) => match self.fleet_policy.last_mut() {
                Some((_, seen)) if news.0.is_none() => *seen = news.1,
                _ => self.fleet_policy.push(news),
            },
            Message::SpendSums(period) => self.spend_wanted = Some(period),
            Message::Stop => self.stop_by = self.stop_by.or_else(|| Some(Instant::now() + SHUTDOWN_PATIENCE)),
        }
    }

    /// One transaction with what is queued, up to its cap, acknowledged; or the queue as it was and a time to retry.
    fn commit(&mut self, writer: &mut Writer<'_>) {
        let batch = &self.queue[..self.queue.len().min(BATCH_ROWS_MAX)];
        let Some(last) = batch.last() else {
            writer.conn(); // no commit follows on another: nothing is to be held
            return;
        };
        let retrieved = match writer.append(batch) {
            Ok(retrieved) => retrieved,
            Err(error) => return self.failed(&error),
        };
        let (rows, upto) = (batch.len(), last.seq);
        // The log tells what they count.
        for new_part in retrieved.iter().filter(|counted| counted.is_request()) {
            if let Ok(at) = self.queue[..rows].binary_search_by_key(&new_part.seq, |record| record.seq) {
                self.queue[at].clone_from(new_part);
            }
        }
        let corrections = retrieved.iter().filter(|counted| !counted.is_request()).cloned().collect();
        self.committed_seq = upto;
        self.events.send(WorkerEvent::Committed { upto, retrieved });
        self.busy_at = Instant::now();
        self.progress.last = writer.last_id();
        if self.checkpointer.count_commit() {
            writer.conn(); // nothing is held
        }
        self.worked();
        let behind = self.queue.split_off(rows);
        logger::requests(std::mem::replace(&mut self.queue, behind));
        logger::requests(corrections);
    }

    /// Keeps how far the export and the fleet are. Where that fails, the next mark says it too; until then rows are
    /// sent again if the process is killed, or stay longer.
    fn keep_marks(&mut self, writer: &mut Writer<'_>) {
        if let Some(id) = self.exported.take() {
            let _ = marks::advance(writer.conn(), marks::EXPORT, id);
        }
        if let Some(id) = self.shipped.take() {
            let _ = file_identity::keep_mark(writer.conn(), id);
        }
    }

    /// Keeps what budgets have passed, and what a comparison came to. Where that fails, it is said again by who has
    /// noticed it.
    fn keep_alerts(&mut self, writer: &mut Writer<'_>) {
        let changes = std::mem::take(&mut self.alerts);
        if !changes.is_empty() {
            let _ = alert_outbox::keep(writer.conn(), &changes);
        }
        if let Some(found) = self.reconciled.take() {
            let _ = reconciliations::keep(writer.conn(), &found);
        }
    }

    /// Keeps what the fleet says of keys, limits and teams, and tells the loop. What fails is kept later. A file that
    /// is lost will do: it is the loop that must know.
    fn keep_fleet_policy(&mut self, writer: &mut Writer<'_>) {
        while let Some((copy, seen)) = self.fleet_policy.first() {
            let conn = writer.conn();
            let tell = |policy| self.events.send(WorkerEvent::Policy(policy));
            let kept = copy.as_ref().map_or(Ok(()), |copy| copy.keep(conn, tell));
            if let Err(error) = kept.and_then(|()| file_identity::keep_policy_seen(conn, *seen)) {
                return self.failed(&error);
            }
            self.fleet_policy.remove(0);
            if self.queue.is_empty() && !self.lost {
                self.worked();
            }
        }
    }

    /// Tells the loop of keys and limits that have changed, and of what was spent.
    fn tell(&mut self, writer: &mut Writer<'_>) {
        if let Some(policy) = self.policy.look(|| writer.conn()) {
            self.events.send(WorkerEvent::Policy(policy));
        }
        if let Some(period) = self.spend_wanted.filter(|_| self.queue.is_empty()) {
            match spend_sums(writer.conn(), period, self.committed_seq) {
                Ok(spend_sums) => {
                    self.spend_wanted = None;
                    self.worked(); // what failed may have been this: nothing waits to be committed
                    self.events.send(WorkerEvent::SpendSums(spend_sums));
                }
                Err(error) => self.failed(&error),
            }
        }
    }

    fn failed(&mut self, why: &dyn Display) {
        if let Some(reason) = self.commits.failed(why) {
            self.events.send(WorkerEvent::Ledger { trouble: Some(reason), takes_records: !self.lost });
        }
    }

    fn worked(&mut self) {
        if self.commits.worked() {
            self.events.send(WorkerEvent::Ledger { trouble: None, takes_records: true });
        }
    }

    /// Folds if nothing waits or too much is pending, or takes a step of the tiers: one of them between two commits.
    fn fold(&mut self, writer: &mut Writer<'_>) {
        let (pending, is_folded) = (self.progress.pending(), self.progress.is_folded());
        let is_quiet = self.queue.is_empty() && self.busy_at.elapsed() >= quiet(&self.progress);
        let is_forced = pending >= FOLD_ROWS_FORCED || writer.rollups_max() >= FOLD_ROLLUPS_FORCED;
        let fold_due = is_forced || is_quiet && !is_folded;
        let step_due = self.tiers_behind && (self.step_owed || is_quiet);
        let copy_due = self.checkpointer.is_behind();
        if !(fold_due || step_due || copy_due) || self.folds.retry_at.is_some_and(|retry_at| Instant::now() < retry_at)
        {
            return;
        }
        let done = if fold_due {
            self.step_owed = is_forced;
            self.tiers_behind = true;
            writer.fold(FOLD_ROWS_MAX).map(|progress| {
                self.keys.look(&progress);
                self.progress = progress;
            })
        } else if step_due {
            self.step_owed = false;
            let hour = unix_now().cast_signed() / NS_PER_HOUR;
            self.tiers.step(writer.conn(), hour).map(|taken| self.tiers_behind = taken)
        } else {
            Ok(())
        };
        match done.and_then(|()| self.checkpointer.catch_up(writer.conn())) {
            Ok(()) => _ = self.folds.worked(),
            Err(error) => _ = self.folds.failed(&error),
        }
        self.busy_at = Instant::now();
        if fold_due || step_due {
            self.checkpointer.nudge();
        } // else the next look is some commits away: where a reader holds the log, more cannot be copied soon
    }

    /// Removes a few old rows, if any are due and commits work.
    fn prune(&mut self, writer: &mut Writer<'_>) {
        if self.commits.retry_at.is_some() || !self.pruner.is_due(Instant::now(), self.busy_at) {
            return;
        }
        let conn = writer.conn();
        match self.pruner.step(conn).and_then(|()| self.checkpointer.catch_up(conn)) {
            Ok(()) => _ = self.prunes.worked(),
            Err(error) => _ = self.prunes.failed(&error),
        }
        self.checkpointer.nudge();
    }

    fn finish(self, conn: &Connection) -> Result<(), String> {
        let Self { checkpointer, queue, owner, .. } = self;
        logger::requests(queue.clone()); // what is lost is at least told
        checkpointer.stop();
        if self.lost {
            return Err(self.watch.keep(conn, &queue, owner.map_or(0, |owner| owner.id)));
        }
        // What this cannot copy, because a reader is still at it, the next start reads from the log.
        let _ = conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        match queue.len() {
            0 => Ok(()),
            lost => Err(format!("{lost} records could not be committed before the ledger was stopped")),
        }
    }
}

fn tell_of_migration(news: MigrationNews) {
    let seconds = |took: Duration| [("seconds", (took.as_secs() as usize).into())];
    match news {
        MigrationNews::Begins(from) => {
            let versions = [("from", (from as usize).into()), ("to", (migrations::VERSION as usize).into())];
            logger::event(Level::Info, "ledger is brought to the present schema", &versions);
        }
        MigrationNews::GoesOn(took) => {
            let why = "ledger is still brought to the present schema: nothing is served until then";
            logger::event(Level::Info, why, &seconds(took));
        }
        MigrationNews::Ended(took) => {
            logger::event(Level::Info, "ledger has the present schema", &seconds(took));
        }
    }
}

/// How long nothing must come in before rows are folded, or, where all are, before the tiers take a step.
fn quiet(progress: &Progress) -> Duration {
    let waiting = progress.pending().max(progress.unkeyed());
    let short = progress.is_folded() || waiting >= FOLD_ROWS_WORTHWHILE;
    if short { QUIET_SHORT } else { QUIET_LONG }
}
