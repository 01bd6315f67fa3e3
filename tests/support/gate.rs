//! A gate in a mock upstream: requests wait there until a test opens it, so that counts do not depend on who is fast.

use super::DEADLINE;
use std::sync::{Condvar, Mutex};

/// The gate, shut at first.
#[derive(Default)]
pub struct Gate {
    /// Open, and how many requests have come.
    state: Mutex<(bool, usize)>,
    changed: Condvar,
}

impl Gate {
    /// Waits here until it is open.
    pub fn pass(&self) {
        let mut state = self.state.lock().unwrap();
        state.1 += 1;
        self.changed.notify_all();
        drop(self.changed.wait_timeout_while(state, DEADLINE, |state| !state.0).unwrap());
    }

    /// Opens or shuts it.
    pub fn set(&self, open: bool) {
        self.state.lock().unwrap().0 = open;
        self.changed.notify_all();
    }

    /// Waits until so many have come.
    pub fn wait_for(&self, count: usize) {
        let state = self.state.lock().unwrap();
        let (state, _) = self.changed.wait_timeout_while(state, DEADLINE, |state| state.1 < count).unwrap();
        assert_eq!(state.1, count, "requests that reached the target");
    }
}
