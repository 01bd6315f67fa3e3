//! The thread that holds each day against the provider's books by itself (`RECONCILE=daily`): the day before yesterday,
//! and of the 30 days before it those that are missing.
//!
//! In: a ledger file, and the configuration. Out: what each day came to, by the ledger thread into the ledger; the last
//! of it for `/metrics`. Never: a wait of the loop or of the ledger. Of several processes with one ledger, one does it.

use super::backoff::Retry;
use super::logger::event;
use super::price_fetcher;
use super::process::{lower_priority, spawn, unix_now};
use super::reconciler::Reconciler;
use super::turn::Turn;
use crate::base::clock::DAY;
use crate::base::log::Level;
use crate::config::Config;
use crate::ledger::database;
use crate::ledger::own_books::own_cells;
use crate::ledger::reconciliations::{Reconciliation, latest_missing, recent};
use crate::metrics::ReconcileGauges;
use crate::reconcile::{Summary, Width};
use rusqlite::Connection;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Days behind the present one that are compared: the books of the one before yesterday are closed.
const DAYS_BEHIND: i64 = 2;
/// Days that are made up for.
const DAYS_BACK: i64 = 30;
/// How often it is looked whether a day is due.
const LOOK_EVERY: Duration = Duration::from_secs(600);
/// After a start, until the first look: so long nobody waits for a page.
const FIRST_LOOK: Duration = Duration::from_secs(1);
/// Between tries after failures.
const PAUSE_MIN: Duration = Duration::from_secs(60);
const PAUSE_MAX: Duration = Duration::from_secs(6 * 60 * 60);
/// How long a shutdown waits for the request that is under way.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(2);

/// What the last comparison came to, for `/metrics`.
pub type SharedGauges = Arc<Mutex<Option<ReconcileGauges>>>;

/// The other threads' end of it.
pub struct ReconciliationHandle {
    gauges: SharedGauges,
    /// Dropped, the thread ends.
    stop: Sender<()>,
    ended: Receiver<()>,
}

impl ReconciliationHandle {
    /// Starts the thread for a ledger whose thread is running and `keep`s what it is given.
    ///
    /// # Errors
    /// One sentence: there are no books, the path is none, or the system gives no thread.
    pub fn start(config: Config, keep: impl Fn(Reconciliation) + Send + 'static) -> Result<Self, String> {
        let path = database::absolute(&config.database_path)?;
        let (stop, stopped) = channel();
        let (end, ended) = channel();
        let gauges = SharedGauges::default();
        let failing = "the ledger cannot be compared with OpenAI's books";
        let daily = Daily {
            turn: Turn::new(database::beside(&path, "-reconcile")),
            path,
            config,
            keep: Box::new(keep),
            gauges: Arc::clone(&gauges),
            retry: Retry::new(failing, "the ledger is compared with OpenAI's books").pausing(PAUSE_MIN, PAUSE_MAX),
            stopped,
        };
        spawn("reconcile", move || {
            lower_priority();
            daily.run();
            drop(end);
        })?;
        Ok(Self { gauges, stop, ended })
    }

    /// What the last comparison came to.
    pub fn gauges(&self) -> SharedGauges {
        Arc::clone(&self.gauges)
    }

    /// Ends the thread; a request that takes too long is left to the end of the process. To be called before the ledger
    /// thread is ended.
    pub fn shutdown(self) {
        drop(self.stop);
        let _ = self.ended.recv_timeout(SHUTDOWN_PATIENCE);
    }
}

struct Daily {
    path: PathBuf,
    turn: Turn,
    config: Config,
    keep: Box<dyn Fn(Reconciliation) + Send>,
    gauges: SharedGauges,
    retry: Retry,
    stopped: Receiver<()>,
}

impl Daily {
    fn run(mut self) {
        let mut pause = FIRST_LOOK;
        while self.stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
            pause = match self.look() {
                Ok(true) => FIRST_LOOK,
                Ok(false) => LOOK_EVERY,
                Err(why) => {
                    self.retry.failed(&why);
                    self.retry.pause
                }
            };
        }
    }

    /// Compares a day, if one is due; true where another may be.
    fn look(&mut self) -> Result<bool, String> {
        let is_ours = self.turn.is_ours()?;
        let words = |error: rusqlite::Error| format!("the ledger cannot be read: {error}");
        let conn = database::open_reader(&self.path).map_err(words)?;
        let last = (unix_now() / DAY).cast_signed() - DAYS_BEHIND;
        self.tell(&conn).map_err(words)?;
        let due = latest_missing(&conn, last - DAYS_BACK + 1, last).map_err(words)?;
        let Some(day) = due.filter(|_| is_ours) else { return Ok(false) };
        let summary = self.compare(&conn, day)?;
        if self.stopped.try_recv() == Err(TryRecvError::Disconnected) {
            return Ok(false);
        }
        self.retry.worked();
        let (differing, name) = (summary.differing as usize, crate::local::humanize::day(day.unsigned_abs() * DAY));
        let level = if differing > 0 { Level::Warn } else { Level::Info };
        let fields = [("day", name.as_str().into()), ("differing", differing.into())];
        event(level, "the ledger was compared with OpenAI's books", &fields);
        (self.keep)(Reconciliation { day, summary });
        Ok(self.is_kept(&conn, day))
    }

    fn compare(&self, conn: &Connection, day: i64) -> Result<Summary, String> {
        let start = day.unsigned_abs() * Width::Day.seconds();
        let range = start..start + Width::Day.seconds();
        let prices = price_fetcher::known(&self.config)?;
        let reconciler = Reconciler::new(&self.config, &prices, None)?;
        let mut own = |part: &Range<u64>| own_cells(conn, part, reconciler.width).map_err(|error| error.to_string());
        let wait = |pause, _: &str| self.stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout);
        let found = reconciler.run(&range, &mut own, &wait)?;
        if !reconciler.is_closed(range.end) {
            return Err("this clock is ahead of OpenAI's: the books of the day are not closed yet".to_owned());
        }
        Ok(Summary::of(&found, unix_now()))
    }

    /// Waits until the ledger has what it was given; false where it has not, for it to be done again later.
    fn is_kept(&self, conn: &Connection, day: i64) -> bool {
        let began = Instant::now();
        while began.elapsed() < SHUTDOWN_PATIENCE {
            if latest_missing(conn, day, day).is_ok_and(|missing| missing.is_none()) {
                return true;
            }
            if self.stopped.recv_timeout(Duration::from_millis(20)) != Err(RecvTimeoutError::Timeout) {
                return false;
            }
        }
        false
    }

    /// What the latest day that was compared came to.
    fn tell(&self, conn: &Connection) -> rusqlite::Result<()> {
        let kept = recent(conn, DAYS_BACK as u32)?;
        let gauges = kept.first().map(|Reconciliation { summary, .. }| ReconcileGauges {
            ratios: summary.totals.iter().map(|(quantity, total)| (quantity.label(), total.ratio())).collect(),
            succeeded_at: kept.iter().map(|of| of.summary.at).max().unwrap_or(0) as f64 / 1e9,
        });
        *self.gauges.lock().unwrap_or_else(PoisonError::into_inner) = gauges;
        Ok(())
    }
}
