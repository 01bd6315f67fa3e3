//! Requests that wait for the fleet's engine: they have found nothing of a limit here, and look again when it has
//! answered, in the order in which they came; or when they have waited long enough.
//!
//! In: exchanges, `now`. Out: those to look at again. Never: a decision about a limit.

use super::ExchangeKey;
use super::request_estimate::Size;
use std::collections::VecDeque;

/// One that waits.
pub struct Waiting {
    pub exchange: ExchangeKey,
    pub size: Size,
    /// When it has waited long enough, monotonic nanoseconds.
    until: u64,
}

/// All that wait.
#[derive(Default)]
pub struct Parked {
    queue: VecDeque<Waiting>,
    /// How long one waits at most, nanoseconds.
    wait: u64,
}

impl Parked {
    /// Each waits so many nanoseconds at most.
    pub fn new(wait: u64) -> Self {
        Self { queue: VecDeque::new(), wait }
    }

    /// An exchange of such a size begins to wait.
    pub fn begin(&mut self, exchange: ExchangeKey, size: Size, now: u64) {
        self.queue.push_back(Waiting { exchange, size, until: now.saturating_add(self.wait) });
    }

    /// One that was looked at waits on, behind those that were looked at before it.
    pub fn go_on(&mut self, waiting: Waiting) {
        self.queue.push_back(waiting);
    }

    /// All of them, to be looked at in this order.
    pub fn take_all(&mut self) -> VecDeque<Waiting> {
        std::mem::take(&mut self.queue)
    }

    /// The next one that has waited long enough.
    pub fn take_due(&mut self, now: u64) -> Option<Waiting> {
        self.queue.pop_front_if(|waiting| waiting.until <= now)
    }

    /// When that will be, monotonic nanoseconds.
    pub fn due(&self) -> Option<u64> {
        self.queue.front().map(|waiting| waiting.until)
    }

    /// True while this one waits.
    pub fn has(&self, exchange: ExchangeKey) -> bool {
        self.queue.iter().any(|waiting| waiting.exchange == exchange)
    }

    /// How many wait, those who have left meanwhile among them.
    pub fn len(&self) -> usize {
        self.queue.len()
    }
}
