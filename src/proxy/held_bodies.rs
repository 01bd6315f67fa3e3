//! The bound on all request bodies that are held in memory together: beyond it, clients are not read from.
//!
//! ```text
//!   body bytes that fit ──▶ held        ┌──── a body is sent on, withdrawn or aborted: what fits goes on, in order
//!          │ that do not fit            ▼
//!          └──▶ the client is paused, last in the queue ──▶ (reading again)
//!                      │ nobody is favoured: at once
//!                      ▼
//!               favoured: goes on whatever the sum is, until its body is sent on or given up
//! ```
//!
//! Several bodies that are half received could fill the bound and wait for each other for ever. So one exchange, the
//! first of those that wait, goes on up to `MAX_BODY_BYTES`: it ends, and lets the next one go on. What is held is thus
//! at most the bound and one body more. Counted is what a body occupies, not how long it is.
//!
//! A client that is paused here is not timed: it is us whom it waits for. One that is favoured while others wait has
//! to get on as quickly as with a head, or everybody would wait for a client that has fallen silent.
//!
//! In: how the memory of each exchange's body changes. Out: who is paused, and who goes on. Never: a body.

use super::ExchangeKey;
use std::collections::VecDeque;

/// The sum of what is held, and who waits for it to fall.
pub struct HeldBodies {
    /// Bytes of memory that all may take together.
    max: usize,
    /// Bytes of memory that they take.
    bytes: usize,
    /// Exchanges whose client is paused, in the order in which they were.
    paused: VecDeque<ExchangeKey>,
    /// The one exchange that need not fit.
    favoured: Option<ExchangeKey>,
}

impl HeldBodies {
    /// A bound of so many bytes of memory.
    pub fn new(max: usize) -> Self {
        Self { max, bytes: 0, paused: VecDeque::new(), favoured: None }
    }

    /// Bytes of memory that held bodies occupy.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// True where so many bytes more may be taken for the exchange's body now. Of those that do not fit, the first is
    /// favoured from here on.
    #[must_use]
    pub fn admits(&mut self, key: ExchangeKey, growth: usize) -> bool {
        growth == 0 || self.bytes + growth <= self.max || *self.favoured.get_or_insert(key) == key
    }

    /// The exchange's client is not read from until its turn comes.
    pub fn pause(&mut self, key: ExchangeKey) {
        self.paused.push_back(key);
    }

    /// The exchange that others wait for, if any do.
    pub fn holding_up(&self) -> Option<ExchangeKey> {
        self.favoured.filter(|_| !self.paused.is_empty())
    }

    /// True where somebody waits for memory, or the exchange has more than its share: nothing is kept on a chance.
    pub fn is_wanted(&self, key: ExchangeKey) -> bool {
        self.favoured == Some(key) || !self.paused.is_empty()
    }

    /// The memory of a body has changed; true where there may be room for others.
    pub fn change(&mut self, before: usize, after: usize) -> bool {
        self.bytes = self.bytes - before + after;
        after < before
    }

    /// The exchange holds nothing any more, and will not again; true where it was favoured.
    pub fn leave(&mut self, key: ExchangeKey) -> bool {
        self.favoured.take_if(|favoured| *favoured == key).is_some()
    }

    /// The exchange is not there to go on.
    pub fn forget_paused(&mut self, key: ExchangeKey) {
        self.paused.retain(|&paused| paused != key);
    }

    /// Who goes on: in order, as far as what they need fits (`growth`, `None` for one who is gone); the first one in
    /// any case where nobody is favoured.
    pub fn resume(&mut self, growth: impl Fn(ExchangeKey) -> Option<usize>) -> Vec<ExchangeKey> {
        let (mut room, mut resumed) = (self.max.saturating_sub(self.bytes), Vec::new());
        while let Some(&key) = self.paused.front() {
            if let Some(needed) = growth(key) {
                if self.favoured.is_none() {
                    self.favoured = Some(key);
                } else if needed > room {
                    break;
                }
                room = room.saturating_sub(needed);
                resumed.push(key);
            }
            self.paused.pop_front();
        }
        resumed
    }

    /// True where somebody waits although nobody is favoured, whose end would let them go on. For tests of lost
    /// wake-ups.
    pub fn is_stuck(&self) -> bool {
        self.favoured.is_none() && !self.paused.is_empty()
    }
}

#[cfg(test)]
mod tests;
