//! The bound on clients: who comes beyond it waits in the system's backlog, and is told if that does not end.
//!
//! ```text
//!   room ──▶ accepted, served
//!   full ──▶ not accepted ──full for a while──▶ accepted as surplus: local endpoints answer, the rest is 503
//! ```
//!
//! Waiting is the right answer to a peak, and the wrong one to a proxy that is too small: a client that waits sees
//! nothing at all, and nor does whoever watches over the process. A few connections beyond the maximum tell them.
//!
//! In: how many clients there are, as they come and go. Out: when one more may be accepted. Never: a connection.

use crate::base::clock::Now;

/// Connections beyond the maximum at one time. Each is gone after one answer.
const SURPLUS_MAX: usize = 16;

/// How many clients there may be, and since when there have been as many.
pub struct ClientLimit {
    max: usize,
    /// How long a client waits before it is told that there is no place, nanoseconds; 0 is for ever.
    wait: u64,
    /// There have been `max` clients since then, monotonic nanoseconds.
    full_since: Option<u64>,
}

impl ClientLimit {
    /// A bound of `max` clients; `wait` nanoseconds before a surplus client is told, 0 is for ever.
    pub fn new(max: usize, wait: u64) -> Self {
        Self { max, wait, full_since: None }
    }

    /// When one more client may be accepted beside so many, monotonic nanoseconds; `None` while that depends on others'
    /// leaving.
    pub fn accepts_at(&self, clients: usize) -> Option<u64> {
        let has_place = clients < self.max + SURPLUS_MAX;
        match self.full_since {
            None => Some(0),
            Some(since) => (self.wait > 0 && has_place).then(|| since.saturating_add(self.wait)),
        }
    }

    /// One more client than `before` has come; true where it is surplus.
    pub fn came(&mut self, now: Now, before: usize) -> bool {
        if before + 1 >= self.max {
            self.full_since.get_or_insert(now.mono);
        }
        before >= self.max
    }

    /// A client has gone, so many are left.
    pub fn went(&mut self, left: usize) {
        if left < self.max {
            self.full_since = None;
        }
    }

    /// True where there is no place for one more.
    pub fn is_full(&self, clients: usize) -> bool {
        clients >= self.max
    }

    /// True where there are more clients than there may be.
    pub fn is_exceeded(&self, clients: usize) -> bool {
        clients > self.max
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::SECOND;

    fn at(seconds: u64) -> Now {
        Now { mono: seconds * SECOND, unix: 0 }
    }

    #[test]
    fn beyond_the_bound_clients_wait_and_then_a_few_are_told() {
        let mut bound = ClientLimit::new(2, 3 * SECOND);
        assert_eq!(bound.accepts_at(0), Some(0));
        assert!(!bound.came(at(1), 0) && !bound.came(at(2), 1));
        assert_eq!(bound.accepts_at(2), Some(5 * SECOND), "full since 2 s");
        assert!(bound.came(at(5), 2) && bound.is_exceeded(3), "a surplus one");
        assert_eq!(bound.accepts_at(2 + SURPLUS_MAX), None, "no more of these");
        bound.went(2);
        assert_eq!(bound.accepts_at(2), Some(5 * SECOND), "still full, since then");
        bound.went(1);
        assert_eq!(bound.accepts_at(1), Some(0));
    }

    #[test]
    fn without_a_wait_nobody_is_told() {
        let mut bound = ClientLimit::new(1, 0);
        bound.came(at(0), 0);
        assert_eq!(bound.accepts_at(1), None);
    }
}
