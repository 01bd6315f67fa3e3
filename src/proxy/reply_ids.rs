//! `x-request-id` of our own replies: differs between replies and between processes, and marks the answer as ours.

/// The ids of a process.
pub struct ReplyIds {
    /// The same for the life of the process.
    boot: u64,
    replies: u64,
}

impl ReplyIds {
    /// `boot` differs between processes.
    pub fn new(boot: u64) -> Self {
        Self { boot, replies: 0 }
    }

    /// The id of the next reply.
    pub fn next(&mut self) -> String {
        self.replies += 1;
        format!("proxy-{:x}-{:x}", self.boot, self.replies)
    }
}
