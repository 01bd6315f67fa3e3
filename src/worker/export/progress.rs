//! How far the export is, for `/metrics`: written by the export thread, read by whoever renders a scrape.

use crate::metrics::ExportGauges;
use crate::worker::process::unix_now;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What both threads share.
#[derive(Debug, Default)]
pub struct ExportProgress(Mutex<Numbers>);

#[derive(Debug, Default)]
pub(super) struct Numbers {
    pub(super) is_failing: bool,
    /// The last record that is done with, and the last of the ledger.
    pub(super) cursor: i64,
    pub(super) last: i64,
    /// When the first request after the cursor ended, nanoseconds since the Unix epoch; 0 where nothing waits.
    pub(super) oldest_unix_ns: i64,
    pub(super) lines_sent: u64,
    pub(super) lines_refused: u64,
    pub(super) failures: u64,
}

impl ExportProgress {
    /// The numbers at this instant.
    pub fn read(&self) -> ExportGauges {
        self.lock().at(i64::try_from(unix_now()).unwrap_or(i64::MAX))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Numbers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Numbers {
    fn at(&self, now_unix_ns: i64) -> ExportGauges {
        let oldest = if self.oldest_unix_ns == 0 { now_unix_ns } else { self.oldest_unix_ns };
        ExportGauges {
            is_up: !self.is_failing,
            lag_records: (self.last - self.cursor).max(0).unsigned_abs(),
            lag_seconds: now_unix_ns.saturating_sub(oldest).max(0) as f64 / 1e9,
            lines_sent: self.lines_sent,
            lines_refused: self.lines_refused,
            failures: self.failures,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lag_grows_with_the_ledger_and_with_time() {
        let mut state = Numbers::default();
        assert_eq!(state.at(5), ExportGauges { is_up: true, ..ExportGauges::default() });
        (state.cursor, state.last, state.oldest_unix_ns) = (10, 17, 2_000_000_000);
        (state.is_failing, state.failures, state.lines_sent, state.lines_refused) = (true, 1, 6, 2);
        let influx = state.at(3_500_000_000);
        assert_eq!((influx.is_up, influx.lag_records, influx.lag_seconds, influx.failures), (false, 7, 1.5, 1));
        assert_eq!((influx.lines_sent, influx.lines_refused), (6, 2));
        assert_eq!(state.at(1).lag_seconds, 0.0, "a clock that was set back");
        (state.cursor, state.oldest_unix_ns, state.is_failing) = (17, 0, false);
        let influx = state.at(9_000_000_000);
        assert_eq!((influx.is_up, influx.lag_records, influx.lag_seconds), (true, 0, 0.0));
    }
}
