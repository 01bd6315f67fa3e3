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
//! The bound is shared: who holds more than half of it gets no more while another user waits, and users take turns. A
//! client that is paused here is not timed: it is us whom it waits for. One that is favoured while others wait has one
//! deadline in all. And where somebody starves, the slowest goes: see [`super::slow_holders`].
//!
//! In: how the memory of each exchange's body changes. Out: who is paused, and who goes on. Never: a body.

use super::ExchangeKey;
use crate::base::table::Table;
use std::collections::VecDeque;
use std::sync::Arc;

/// Looks at all holders in which one that is not slow would be done with the rest of its body.
const LOOKS_TO_FINISH: u64 = 4;

/// The sum of what is held, and who waits for it to fall.
pub struct HeldBodies {
    /// Bytes of memory that all may take together.
    max: usize,
    /// Bytes of memory that they take.
    bytes: usize,
    /// Those who hold something, or wait.
    holders: Table<Arc<str>, Holder>,
    /// Users of whom an exchange is paused, in the order of their turns.
    turns: VecDeque<Arc<str>>,
    /// The one exchange that need not fit.
    favoured: Option<ExchangeKey>,
    /// Time between two looks at the holders, nanoseconds.
    look_every: u64,
    /// When they are looked at next, monotonic nanoseconds, while somebody waits.
    look_at: u64,
}

/// What one user holds, and waits for.
#[derive(Default)]
struct Holder {
    bytes: usize,
    /// Exchanges whose client is paused, and since when, in that order.
    paused: VecDeque<(ExchangeKey, u64)>,
}

impl HeldBodies {
    /// A bound of so many bytes of memory. While somebody waits, a body is to be done within `patience`, nanoseconds.
    pub fn new(max: usize, patience: u64) -> Self {
        Self {
            max,
            bytes: 0,
            holders: Table::default(),
            turns: VecDeque::new(),
            favoured: None,
            look_every: (patience / LOOKS_TO_FINISH).max(1),
            look_at: 0,
        }
    }

    /// Bytes of memory that held bodies occupy.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// True where so many bytes more may be taken for the body of a user's exchange now. Of those that do not fit, the
    /// first is favoured from here on.
    #[must_use]
    pub fn admits(&mut self, key: ExchangeKey, user: &str, growth: usize) -> bool {
        growth == 0
            || self.bytes + growth <= self.max && !self.has_enough(user)
            || *self.favoured.get_or_insert(key) == key
    }

    /// True for a user who holds more than half while another waits.
    fn has_enough(&self, user: &str) -> bool {
        self.turns.iter().take(2).any(|waiting| **waiting != *user)
            && self.holders.get(user).is_some_and(|holder| holder.bytes > self.max / 2)
    }

    /// The exchange's client is not read from until its turn comes.
    pub fn pause(&mut self, key: ExchangeKey, user: &Arc<str>, now: u64) {
        if self.turns.is_empty() {
            self.look_at = now + self.look_every;
        }
        let holder = self.holder(user);
        holder.paused.push_back((key, now));
        if holder.paused.len() == 1 {
            self.turns.push_back(Arc::clone(user));
        }
    }

    fn holder(&mut self, user: &Arc<str>) -> &mut Holder {
        if self.holders.get(user).is_none() {
            self.holders.insert(Arc::clone(user), Holder::default());
        }
        self.holders.get_mut(user).expect("inserted where it was missing")
    }

    fn forget_idle(&mut self, user: &str) {
        if self.holders.get(user).is_some_and(|holder| holder.bytes == 0 && holder.paused.is_empty()) {
            self.holders.remove(user);
        }
    }

    /// The exchange that others wait for, if any do.
    pub fn holding_up(&self) -> Option<ExchangeKey> {
        self.favoured.filter(|_| !self.turns.is_empty())
    }

    /// True where somebody waits for memory, or the exchange has more than its share: nothing is kept on a chance.
    pub fn is_wanted(&self, key: ExchangeKey) -> bool {
        self.favoured == Some(key) || !self.turns.is_empty()
    }

    /// The memory of a user's body has changed; true where there may be room for others.
    pub fn change(&mut self, user: &Arc<str>, before: usize, after: usize) -> bool {
        if before != after {
            self.bytes = self.bytes - before + after;
            let holder = self.holder(user);
            holder.bytes = holder.bytes - before + after;
            self.forget_idle(user);
        }
        after < before
    }

    /// The exchange holds nothing any more, and will not again; true where it was favoured.
    pub fn leave(&mut self, key: ExchangeKey) -> bool {
        self.favoured.take_if(|favoured| *favoured == key).is_some()
    }

    /// The exchange is not there to go on; others may go on that waited because of its user.
    pub fn forget_paused(&mut self, key: ExchangeKey, user: &str) {
        let Some(holder) = self.holders.get_mut(user) else { return };
        holder.paused.retain(|&(paused, _)| paused != key);
        if holder.paused.is_empty() {
            self.turns.retain(|waiting| **waiting != *user);
            self.forget_idle(user);
        }
    }

    /// Who goes on: one of each user in turn, as far as what they need fits (`growth`, `None` for one who is gone), but
    /// for users who have enough; the first one in any case where nobody is favoured.
    pub fn resume(&mut self, growth: impl Fn(ExchangeKey) -> Option<usize>) -> Vec<ExchangeKey> {
        let (mut room, mut resumed) = (self.max.saturating_sub(self.bytes), Vec::new());
        while let Some(turn) = self.next_turn() {
            let user = Arc::clone(&self.turns[turn]);
            let first = self.holders.get(&user).and_then(|holder| holder.paused.front().copied());
            let needed = first.and_then(|(key, _)| growth(key));
            if let (Some((key, _)), Some(needed)) = (first, needed) {
                if self.favoured.is_none() {
                    self.favoured = Some(key);
                } else if needed > room {
                    break;
                }
                room = room.saturating_sub(needed);
                resumed.push(key);
            }
            self.turns.remove(turn);
            if let Some(holder) = self.holders.get_mut(&user) {
                holder.paused.pop_front();
                if !holder.paused.is_empty() {
                    self.turns.push_back(Arc::clone(&user));
                }
            }
            self.forget_idle(&user);
        }
        resumed
    }

    /// Whose turn it is: users who have enough are passed over, which are two at most, unless nobody else is there and
    /// nobody is favoured.
    fn next_turn(&self) -> Option<usize> {
        let next = self.turns.iter().position(|user| !self.has_enough(user));
        next.or((self.favoured.is_none() && !self.turns.is_empty()).then_some(0))
    }

    /// Exchanges that are paused.
    pub fn waiting(&self) -> usize {
        self.turns.iter().filter_map(|user| self.holders.get(user)).map(|holder| holder.paused.len()).sum()
    }

    /// When the holders are to be looked at, monotonic nanoseconds; `None` while nobody waits.
    pub fn look_due(&self) -> Option<u64> {
        (!self.turns.is_empty()).then_some(self.look_at)
    }

    /// The holders are looked at: true where somebody has waited since the last time, and starves.
    pub fn look(&mut self, now: u64) -> bool {
        let fronts = self.turns.iter().filter_map(|user| self.holders.get(user)?.paused.front());
        let longest = fronts.map(|(_, since)| now.saturating_sub(*since)).max().unwrap_or(0);
        self.look_at = now + self.look_every;
        longest >= 2 * self.look_every
    }

    /// True for a holder that has got on by `moved` bytes since the last look, and would take longer for the rest than
    /// others can be asked to wait.
    pub fn is_slow(moved: u64, rest: u64) -> bool {
        rest > moved.saturating_mul(LOOKS_TO_FINISH)
    }

    /// True where somebody waits although nobody is favoured, whose end would let them go on. For tests of lost
    /// wake-ups.
    pub fn is_stuck(&self) -> bool {
        self.favoured.is_none() && !self.turns.is_empty()
    }
}

#[cfg(test)]
mod tests;
