//! The wall clock, for the threads of this layer.

#![allow(clippy::disallowed_methods)] // the outside world: clocks

use std::time::SystemTime;

/// The present, in nanoseconds since the Unix epoch.
pub fn unix_now() -> u64 {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX)
}
