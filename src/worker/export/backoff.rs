//! When a server that fails is tried again: later each time, as it asks, and not at the same instant as its other
//! clients. A line in the log once a change.

#![allow(clippy::disallowed_methods)] // the outside world: clocks

use super::server::Trouble;
use crate::base::log::Level;
use crate::worker::log::event;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The longest pauses after the first failure and after many.
const FIRST: Duration = Duration::from_millis(500);
const LAST: Duration = Duration::from_secs(60);

/// Pauses after failures in a row.
#[derive(Debug, Default)]
pub struct Backoff {
    failures: u32,
    /// Why it fails; empty while it works.
    reason: String,
}

impl Backoff {
    /// How long to wait before the next try.
    pub fn failed(&mut self, trouble: &Trouble) -> Duration {
        if self.reason != trouble.why {
            self.reason.clone_from(&trouble.why);
            event(Level::Error, "influx export fails", &[("error", trouble.why.as_str().into())]);
        }
        let longest = FIRST.saturating_mul(1_u32 << self.failures.min(16)).min(LAST);
        self.failures = self.failures.saturating_add(1);
        longest.mul_f64(jitter()).max(trouble.retry_after.unwrap_or_default())
    }

    /// It works: a later failure starts over.
    pub fn worked(&mut self) {
        self.failures = 0;
        if !self.reason.is_empty() {
            self.reason.clear();
            event(Level::Info, "influx export works again", &[]);
        }
    }
}

/// Between a half and one. The clock's last digits are chance enough to keep clients apart.
fn jitter() -> f64 {
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().subsec_nanos();
    0.5 + f64::from(nanos % 1_000) / 2_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_obey_the_server() {
        let mut backoff = Backoff::default();
        let mut trouble = Trouble::new("down".into());
        for _ in 0..2 {
            for longest_ms in [500, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000] {
                let pause = backoff.failed(&trouble).as_millis();
                assert!((longest_ms / 2..=longest_ms).contains(&pause), "{pause} ms, {longest_ms} ms at most");
            }
            trouble.retry_after = Some(Duration::from_secs(100));
            assert_eq!(backoff.failed(&trouble).as_secs(), 100);
            trouble.retry_after = None;
            backoff.worked();
        }
    }
}
