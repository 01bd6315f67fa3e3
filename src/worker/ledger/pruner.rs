//! When old rows are removed: on the thread that commits, a few at a time, in moments in which nothing else is done.
//!
//! In: the connection, and when it was last busy. Out: steps. Never: two steps at once.

use crate::ledger::prune::{Cutoff, prune};
use crate::worker::process::unix_now;
use rusqlite::Connection;
use std::time::{Duration, Instant};

/// Rows and index entries, of each kind, that one step removes at most.
const STEP_ROWS_MAX: i64 = 1024;
/// Pause after a step: the shorter where nothing else is to be done, the longer where commits never pause.
const PAUSE_QUIET: Duration = Duration::from_millis(5);
const PAUSE_BUSY: Duration = Duration::from_millis(100);
/// How often the ledger is looked at when nothing was old the last time.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// When the next step is due.
pub struct Pruner {
    days: u32,
    exported: bool,
    shipped: bool,
    next_at: Instant,
}

impl Pruner {
    /// Of a ledger that keeps rows for `days`; 0 is for ever. `exported`: and until they are exported; `shipped`: and
    /// until they are in the fleet.
    pub fn new(days: u32, exported: bool, shipped: bool) -> Self {
        Self { days, exported, shipped, next_at: Instant::now() }
    }

    /// When a step is to be made if nothing else is done from `busy_at` on; `None` for never.
    pub fn due_at(&self, busy_at: Instant) -> Option<Instant> {
        (self.days > 0).then(|| self.next_at.max(busy_at + PAUSE_QUIET))
    }

    /// True if a step is to be made at `now`: in a quiet moment, which is not waited for without end.
    pub fn is_due(&self, now: Instant, busy_at: Instant) -> bool {
        self.due_at(busy_at).is_some_and(|due_at| now >= due_at || now >= self.next_at + PAUSE_BUSY)
    }

    /// Makes a step, and sets the time of the next: soon where there is more to do, in a
    /// minute where there is not, or where it failed.
    ///
    /// # Errors
    /// SQLite's; nothing has changed then.
    pub fn step(&mut self, conn: &Connection) -> rusqlite::Result<()> {
        self.next_at = Instant::now() + LOOK_EVERY;
        let now = i64::try_from(unix_now()).unwrap_or(i64::MAX);
        let cutoff = Cutoff { shipped: self.shipped, ..Cutoff::new(self.days, self.exported, now) };
        if prune(conn, cutoff, STEP_ROWS_MAX)? {
            self.next_at = Instant::now() + PAUSE_QUIET;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_waits_for_quiet_but_not_for_ever() {
        let start = Instant::now();
        let pruner = Pruner { days: 1, exported: false, shipped: false, next_at: start };
        assert_eq!(pruner.due_at(start), Some(start + PAUSE_QUIET));
        assert!(!pruner.is_due(start + PAUSE_QUIET, start + Duration::from_millis(1)));
        assert!(pruner.is_due(start + PAUSE_QUIET, start));
        let busy_at = start + PAUSE_BUSY;
        assert!(!pruner.is_due(busy_at - Duration::from_millis(1), busy_at) && pruner.is_due(busy_at, busy_at));
        let later = Pruner { next_at: start + LOOK_EVERY, ..pruner };
        assert_eq!(later.due_at(start), Some(start + LOOK_EVERY));
        assert!(!later.is_due(start + LOOK_EVERY / 2, start) && later.is_due(start + LOOK_EVERY, start));
        let never = Pruner { days: 0, exported: false, shipped: false, next_at: start };
        assert!(never.due_at(start).is_none() && !never.is_due(start + LOOK_EVERY, start));
    }
}
