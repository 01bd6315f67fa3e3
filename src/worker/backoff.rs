//! What a worker tries again after it has failed: with a pause that grows, and a line in the log once a change.
//!
//! In: failures and successes, as they come. Out: when to try next; whether that is news. Never: the work itself.

use super::logger::event;
use super::process::unix_now;
use crate::base::log::Level;
use std::fmt::Display;
use std::time::{Duration, Instant};

/// The pauses of a worker that nothing but its own machine keeps from its work.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Pauses after failures in a row: each twice the one before, up to a maximum.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    failures: u32,
}

impl Backoff {
    /// With the first pause and the longest.
    pub const fn new(min: Duration, max: Duration) -> Self {
        Self { min, max, failures: 0 }
    }

    /// The pause after one failure more.
    pub fn failed(&mut self) -> Duration {
        let pause = self.min.saturating_mul(1 << self.failures.min(16)).min(self.max);
        self.failures = self.failures.saturating_add(1);
        pause
    }

    /// The next failure is a first one again.
    pub fn worked(&mut self) {
        self.failures = 0;
    }
}

/// One thing that may fail and is tried again: backs off, and writes to the log once a change.
pub struct Retry {
    failing: &'static str,
    working: &'static str,
    backoff: Backoff,
    /// The last pause.
    pub pause: Duration,
    /// Set while it fails.
    pub retry_at: Option<Instant>,
    /// Why it fails.
    reason: String,
}

impl Retry {
    /// With what the log says when it begins to fail, and when it works again.
    pub fn new(failing: &'static str, working: &'static str) -> Self {
        let backoff = Backoff::new(PAUSE_MIN, PAUSE_MAX);
        Self { failing, working, backoff, pause: Duration::ZERO, retry_at: None, reason: String::new() }
    }

    /// The same with other pauses.
    #[must_use]
    pub fn pausing(self, min: Duration, max: Duration) -> Self {
        Self { backoff: Backoff::new(min, max), ..self }
    }

    /// The reason, if it worked until now or failed for another one.
    pub fn failed(&mut self, error: &dyn Display) -> Option<String> {
        let reason = error.to_string();
        self.pause = self.backoff.failed();
        self.retry_at = Some(Instant::now() + self.pause);
        if self.reason == reason {
            return None;
        }
        event(Level::Error, self.failing, &[("error", reason.as_str().into())]);
        self.reason.clone_from(&reason);
        Some(reason)
    }

    /// The last pause or down to half of it, so that a server which comes back does not meet all of its clients at
    /// once. The clock's last digits are chance enough for that.
    pub fn jittered(&self) -> Duration {
        self.pause.mul_f64(0.5 + (unix_now() % 1_000_000) as f64 / 2_000_000.0)
    }

    /// True if it failed until now.
    pub fn worked(&mut self) -> bool {
        let changed = self.retry_at.take().is_some();
        if changed {
            self.backoff.worked();
            self.reason.clear();
            event(Level::Info, self.working, &[]);
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
