//! The bound on clients: who comes beyond it waits in the system's backlog, and is told if that does not end.
//!
//! ```text
//!   room ──▶ accepted, served
//!   full ──▶ not accepted ──full for a while──▶ accepted as surplus: local endpoints answer, the rest is 503
//! ```
//!
//! Waiting is the right answer to a peak, and the wrong one to a proxy that is too small: a client that waits sees
//! nothing at all, and nor does whoever watches over the process. A few connections beyond the maximum tell them.

use super::downstream::Downstream;
use super::{DownKey, Proxy};
use crate::base::clock::Now;

/// Connections beyond the maximum at one time. Each is gone after one answer.
const SURPLUS_MAX: usize = 16;

impl Proxy {
    /// When one more client may be accepted, monotonic nanoseconds; `None` while that depends on others' leaving.
    pub fn accepts_at(&self) -> Option<u64> {
        let wait = self.settings.timeouts.overload;
        let has_place = self.downs.len() < self.settings.connections_max + SURPLUS_MAX;
        match self.full_since {
            _ if self.draining => None,
            None => Some(0),
            Some(since) => (wait > 0 && has_place).then(|| since.saturating_add(wait)),
        }
    }

    /// A client has connected.
    pub fn accepted(&mut self, now: Now) -> DownKey {
        let surplus = self.downs.len() >= self.settings.connections_max;
        let key = self.downs.insert(Downstream { surplus, ..Downstream::default() });
        if self.downs.len() >= self.settings.connections_max {
            self.full_since.get_or_insert(now.mono);
        }
        self.retime_down(now, key, false);
        self.note_client("client connected");
        key
    }

    /// A client's slot is free again.
    pub(super) fn client_left(&mut self) {
        self.note_client("client gone");
        if self.downs.len() < self.settings.connections_max {
            self.full_since = None;
        }
    }

    /// True for a client for whom there is no place.
    pub(super) fn is_too_many(&self, key: DownKey) -> bool {
        self.downs.get(key).is_some_and(|down| down.surplus) && self.downs.len() > self.settings.connections_max
    }
}
