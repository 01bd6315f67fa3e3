//! How far the export is, for `/metrics`: written by the export thread, read by whoever renders a scrape.

use crate::metrics::ExportGauges;
use crate::worker::time::unix_now;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

/// Numbers that belong together are read one after the other: a scrape may see a batch half counted.
#[derive(Debug, Default)]
pub struct ExportProgress {
    is_failing: AtomicBool,
    /// The last record that is done with, and the last of the ledger.
    cursor: AtomicI64,
    last: AtomicI64,
    /// When the first request after the cursor ended, nanoseconds since the Unix epoch; 0 where nothing waits.
    oldest_unix_ns: AtomicI64,
    lines_sent: AtomicU64,
    lines_refused: AtomicU64,
    failures: AtomicU64,
}

impl ExportProgress {
    /// The numbers at this instant.
    pub fn read(&self) -> ExportGauges {
        self.at(i64::try_from(unix_now()).unwrap_or(i64::MAX))
    }

    fn at(&self, now_unix_ns: i64) -> ExportGauges {
        let oldest = self.oldest_unix_ns.load(Ordering::Relaxed);
        let waited_ns = if oldest == 0 { 0 } else { now_unix_ns.saturating_sub(oldest).max(0) };
        let lag = self.last.load(Ordering::Relaxed) - self.cursor.load(Ordering::Relaxed);
        ExportGauges {
            is_up: !self.is_failing.load(Ordering::Relaxed),
            lag_records: lag.max(0).unsigned_abs(),
            lag_seconds: waited_ns as f64 / 1e9,
            lines_sent: self.lines_sent.load(Ordering::Relaxed),
            lines_refused: self.lines_refused.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
        }
    }

    pub(super) fn ledger_is_at(&self, last: i64) {
        self.last.store(last, Ordering::Relaxed);
    }

    pub(super) fn reached(&self, cursor: i64, oldest_unix_ns: i64) {
        self.cursor.store(cursor, Ordering::Relaxed);
        self.oldest_unix_ns.store(oldest_unix_ns, Ordering::Relaxed);
    }

    pub(super) fn nothing_waits(&self) {
        self.oldest_unix_ns.store(0, Ordering::Relaxed);
    }

    pub(super) fn settled(&self, cursor: i64, sent: usize, refused: usize) {
        self.cursor.store(cursor, Ordering::Relaxed);
        self.lines_sent.fetch_add(sent as u64, Ordering::Relaxed);
        self.lines_refused.fetch_add(refused as u64, Ordering::Relaxed);
    }

    pub(super) fn failed(&self) {
        self.is_failing.store(true, Ordering::Relaxed);
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn worked(&self) {
        self.is_failing.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lag_grows_with_the_ledger_and_with_time() {
        let state = ExportProgress::default();
        assert_eq!(state.at(5), ExportGauges { is_up: true, ..ExportGauges::default() });
        state.reached(10, 2_000_000_000);
        state.ledger_is_at(17);
        state.failed();
        let influx = state.at(3_500_000_000);
        assert_eq!((influx.is_up, influx.lag_records, influx.lag_seconds, influx.failures), (false, 7, 1.5, 1));
        assert_eq!(state.at(1).lag_seconds, 0.0, "a clock that was set back");
        state.settled(17, 6, 1);
        state.nothing_waits();
        state.worked();
        let influx = state.at(9_000_000_000);
        assert_eq!((influx.is_up, influx.lag_records, influx.lag_seconds), (true, 0, 0.0));
        assert_eq!((influx.lines_sent, influx.lines_refused), (6, 1));
    }
}
