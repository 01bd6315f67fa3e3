//! Tells in the log how far the sums by key are, which a ledger of an earlier version has not: at first, now and then,
//! and when they are whole.
//!
//! In: how far the ledger is, after each fold. Out: lines. Never: a line for a ledger that has them.

use crate::base::log::Level;
use crate::ledger::marks::Progress;
use crate::worker::logger;
use std::time::{Duration, Instant};

/// How often it is told how many rows are left.
const NEWS_EVERY: Duration = Duration::from_secs(5);

/// Since when they are being made, and when that was told last.
pub struct CatchUp {
    under_way: Option<[Instant; 2]>,
}

impl CatchUp {
    /// At the start.
    pub fn new(progress: &Progress) -> Self {
        let rows = progress.unkeyed();
        if rows > 0 {
            tell("ledger begins to sum up by key the rows that are there", "rows", rows.unsigned_abs());
        }
        Self { under_way: (rows > 0).then(|| [Instant::now(); 2]) }
    }

    /// After a fold.
    pub fn look(&mut self, progress: &Progress) {
        let Some([began, told]) = &mut self.under_way else { return };
        let rows = progress.unkeyed();
        if rows == 0 {
            tell("ledger has summed up its rows by key", "seconds", began.elapsed().as_secs());
            self.under_way = None;
        } else if told.elapsed() >= NEWS_EVERY {
            tell("ledger still sums up its rows by key", "rows_left", rows.unsigned_abs());
            *told = Instant::now();
        }
    }
}

fn tell(what: &'static str, name: &'static str, number: u64) {
    logger::event(Level::Info, what, &[(name, (number as usize).into())]);
}
