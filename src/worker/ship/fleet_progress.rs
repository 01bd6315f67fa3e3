//! How the fleet is as this node sees it: written by the thread that ships, read by whoever renders a scrape, and by
//! the query thread.

use crate::fleet::membership::Membership;
use crate::metrics::FleetGauges;
use crate::worker::process::unix_now;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What the threads share.
#[derive(Debug, Default)]
pub struct FleetProgress(Mutex<Numbers>);

#[derive(Debug, Default)]
pub(super) struct Numbers {
    pub(super) is_up: bool,
    pub(super) nodes: u64,
    /// The last record that is in the fleet, and the last of the ledger.
    pub(super) shipped: i64,
    pub(super) last: i64,
    /// Whose place in the fleet this process has, once it has one.
    pub(super) membership: Option<Membership>,
    /// Exchanges of the lease thread that were answered, and how long they took together.
    asks: u64,
    asks_took: Duration,
    /// When keys and limits here were last known to be the fleet's, nanoseconds since the Unix epoch; 0 before.
    policy_seen: u64,
    /// When the first response after the former ended, nanoseconds since the Unix epoch; 0 where nothing waits.
    pub(super) oldest_unix_ns: i64,
}

impl FleetProgress {
    /// The numbers at this instant.
    pub fn read(&self) -> FleetGauges {
        self.lock().at(i64::try_from(unix_now()).unwrap_or(i64::MAX))
    }

    /// False where the fleet is out of reach, or was not reached yet.
    pub fn is_up(&self) -> bool {
        self.lock().is_up
    }

    /// The place in the fleet, and how many nodes live; `None` before there is one.
    pub fn place(&self) -> Option<(Membership, u64)> {
        let numbers = self.lock();
        numbers.membership.map(|place| (place, numbers.nodes))
    }

    /// The lease thread has had answers after so long.
    pub fn asked(&self, took: Duration) {
        let mut numbers = self.lock();
        numbers.asks += 1;
        numbers.asks_took += took;
    }

    /// At this instant keys and limits here are the fleet's, nanoseconds since the Unix epoch.
    pub fn policy_seen(&self, now: u64) {
        self.lock().policy_seen = now;
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Numbers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Numbers {
    fn at(&self, now_unix_ns: i64) -> FleetGauges {
        let oldest = if self.oldest_unix_ns == 0 { now_unix_ns } else { self.oldest_unix_ns };
        FleetGauges {
            is_up: self.is_up,
            nodes: self.nodes,
            asks: self.asks,
            ask_seconds: self.asks_took.as_secs_f64(),
            policy_timestamp: self.policy_seen as f64 / 1e9,
            lag_rows: (self.last - self.shipped).max(0).unsigned_abs(),
            lag_seconds: now_unix_ns.saturating_sub(oldest).max(0) as f64 / 1e9,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lag_grows_with_the_ledger_and_with_time() {
        let (is_up, nodes, oldest_unix_ns) = (true, 3, 2_000_000_000);
        let mut numbers = Numbers { is_up, nodes, shipped: 10, last: 17, oldest_unix_ns, ..Numbers::default() };
        let gauges = numbers.at(3_500_000_000);
        assert_eq!((gauges.is_up, gauges.nodes, gauges.lag_rows, gauges.lag_seconds), (true, 3, 7, 1.5));
        assert_eq!(numbers.at(1).lag_seconds, 0.0, "a clock that was set back");
        (numbers.shipped, numbers.oldest_unix_ns) = (17, 0);
        let gauges = numbers.at(9_000_000_000);
        assert_eq!((gauges.lag_rows, gauges.lag_seconds), (0, 0.0));
    }
}
