//! A piece of work that takes too long for the loop, on its way to a thread.

use std::fmt;
use std::sync::Arc;

/// A piece of work, for a user. `ticket` comes back when it is done.
pub struct LongWork {
    pub ticket: u64,
    pub user: Arc<str>,
    pub work: Box<dyn FnOnce() + Send>,
}

impl fmt::Debug for LongWork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LongWork").field("ticket", &self.ticket).field("user", &self.user).finish_non_exhaustive()
    }
}
