//! The instant of a turn. Read once a turn by the outside world and handed down; no core reads a clock.

use std::time::Duration;

/// Nanoseconds in a microsecond.
pub const MICROSECOND: u64 = 1_000;
/// Nanoseconds in a millisecond.
pub const MILLISECOND: u64 = 1_000_000;
/// Nanoseconds in a second.
pub const SECOND: u64 = 1_000_000_000;
/// Nanoseconds in an hour.
pub const HOUR: u64 = 3_600 * SECOND;
/// Nanoseconds in a day.
pub const DAY: u64 = 24 * HOUR;

/// One instant on both clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Monotonic nanoseconds since the process started: for durations and deadlines. Never steps back.
    pub mono: u64,
    /// Nanoseconds since the Unix epoch: for records. May step.
    pub unix: u64,
}

/// A duration in whole nanoseconds, at most what 64 bits hold: 584 years.
pub fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
