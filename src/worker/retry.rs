//! What a worker tries again after it has failed: with a growing pause, and a line in the log once a change.
//!
//! In: failures and successes, as they come. Out: when to try next; whether to tell anybody. Never: the work itself.

#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // the outside world: clocks and any map

use super::log::event;
use crate::base::log::Level;
use std::fmt::Display;
use std::time::{Duration, Instant};

/// First and longest pause before what has failed is tried again.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// One thing that may fail and is tried again: backs off, and speaks once a change.
pub struct Retry {
    failing: &'static str,
    working: &'static str,
    pause: Duration,
    /// Set while it fails.
    pub retry_at: Option<Instant>,
    /// Why it fails.
    reason: String,
}

impl Retry {
    /// With what the log says when it begins to fail, and when it works again.
    pub fn new(failing: &'static str, working: &'static str) -> Self {
        Self { failing, working, pause: BACKOFF_MIN, retry_at: None, reason: String::new() }
    }

    /// The reason, if it worked until now or failed for another one.
    pub fn failed(&mut self, error: &dyn Display) -> Option<String> {
        let reason = error.to_string();
        self.pause = if self.retry_at.is_none() { BACKOFF_MIN } else { (self.pause * 2).min(BACKOFF_MAX) };
        self.retry_at = Some(Instant::now() + self.pause);
        if self.reason == reason {
            return None;
        }
        event(Level::Error, self.failing, &[("error", reason.as_str().into())]);
        self.reason.clone_from(&reason);
        Some(reason)
    }

    /// True if it failed until now.
    pub fn worked(&mut self) -> bool {
        let changed = self.retry_at.take().is_some();
        if changed {
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
