//! Who may ask now, and what is settled when an exchange ends: all users' state, and their eviction from memory.
//!
//! ```text
//!   admit ──▶ Reservation ──▶ release, forfeit or withdraw, once
//!   charge: what a record says was used, whenever that is known
//! ```
//!
//! Of more than a few, a user without a debt, a request in flight or spending is evicted once their buckets are full
//! again, so memory is bounded by the users of the last minutes, whatever names clients make up.

use super::budget::{Cost, Period, SpendByUser, Spending, Spent};
use super::overrides::{Limits, Overrides};
use super::reservation::{Money, Reservation, ReservationRequest};
use super::status::{RateLimitStatus, Refused};
use super::user::{UserState, within_budgets};
use crate::base::clock::{MILLISECOND, Now};
use crate::base::table::Table;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// How many users are looked at for eviction on each admission. More than one a request, so that the list of users
/// shrinks faster than it can grow.
const SWEEP_PER_ADMISSION: usize = 2;
/// How many are looked at by [`Limiter::sweep`], which takes well below a millisecond.
const SWEEP_AT_ONCE: usize = 1000;
/// Time between two sweeps.
const SWEEP_EVERY: u64 = 100 * MILLISECOND;
/// So few users stay for good: to evict them, and to meet them again, would cost each request more than they take.
const USERS_FEW: usize = 1000;

/// What of a request is to be estimated before it is admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measures {
    pub tokens: bool,
    pub cost: bool,
}

/// What a response has used.
#[derive(Clone, Copy, Debug, Default)]
pub struct Used {
    /// Input and output together.
    pub tokens: u64,
    /// The output of one request, for the next one's estimate.
    pub output_tokens: Option<u64>,
    /// What it cost, by its record.
    pub cost: Cost,
}

/// All users' limits.
#[derive(Default)]
pub struct Limiter {
    limits: Limits,
    overrides: BTreeMap<Box<str>, Overrides>,
    users: Table<Arc<str>, UserState>,
    /// Each user once, in the order in which they are looked at for eviction.
    eviction_queue: VecDeque<Arc<str>>,
    sweep_at: u64,
    spending: Spending,
}

impl Limiter {
    /// Everybody's limits.
    pub fn new(limits: Limits) -> Self {
        let mut limiter = Self::default();
        limiter.set_limits(limits);
        limiter
    }

    /// New limits for everybody, from the next request on.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
        self.follow_spending();
    }

    /// New limits of users' own, in place of all that were there, from the next request on.
    pub fn set_overrides(&mut self, overrides: BTreeMap<Box<str>, Overrides>) {
        self.overrides = overrides;
        self.follow_spending();
    }

    /// Spending is followed where somebody has a budget.
    fn follow_spending(&mut self) {
        let mut overridden = self.overrides.values().map(|overrides| self.limits.with(overrides));
        self.spending.follow(self.limits.has_budget() || overridden.any(|limits| limits.has_budget()));
    }

    /// The period of which the ledger's sums are wanted: somebody has a budget, and what users have spent is not known.
    /// Until [`Limiter::load`] has them, nothing that costs is admitted under a budget.
    pub fn wants_spending(&mut self, now: Now) -> Option<Period> {
        self.spending.wants(now.unix)
    }

    /// Takes over users' spending so far; what has been charged since the ledger summed it is added.
    pub fn load(&mut self, sums: SpendByUser, now: Now) {
        self.spending.load(sums, now.unix);
    }

    /// What of a request matters to its user's limits.
    pub fn measures(&self, user: &str) -> Measures {
        let limits = self.limits_of(user);
        Measures { tokens: limits.tokens.is_some() || limits.has_budget(), cost: limits.has_budget() }
    }

    /// The moving average of a user's outputs, tokens; `None` before the first.
    pub fn average_output(&self, user: &str) -> Option<u64> {
        self.users.get(user).and_then(UserState::average_output)
    }

    /// Refuses a user who would be refused whatever the request; takes nothing. `may_cost` is false for one that may
    /// prove to be free.
    pub fn check(&mut self, user: &str, may_cost: bool, now: Now) -> Result<(), Refused> {
        let limits = self.limits_of(user);
        if limits.is_unlimited() {
            return Ok(());
        }
        let anything = Money { nano_usd: 1, least_nano_usd: 0, may_share: true };
        let smallest = ReservationRequest { tokens: 1, guessed: true, money: may_cost.then_some(anything) };
        let mut state = self.users.get(user).copied().unwrap_or_default();
        state.try_take(&limits, || self.spending.of(user, now.unix), smallest, now).map(|_| ())
    }

    /// How a user is refused whose budget is spent, whatever they ask for; `None` while something is left of it, and
    /// where nobody knows.
    pub fn spent_budget(&mut self, user: &str, now: Now) -> Option<Refused> {
        let limits = self.limits_of(user);
        let spent = limits.has_budget().then(|| self.spending.of(user, now.unix)).flatten()?;
        let mut nothing = Money { nano_usd: 0, least_nano_usd: 0, may_share: true };
        within_budgets(&limits, Some(spent), 0, &mut nothing).err()
    }

    /// The user's name, shared with their other requests where there are any.
    pub fn name(&self, user: &str) -> Arc<str> {
        self.users.get_key(user).map_or_else(|| Arc::from(user), Arc::clone)
    }

    /// Takes what the request may need: the reservation, and the state of its limits after it. All of it, or nothing
    /// where any limit refuses.
    pub fn admit(
        &mut self,
        user: &Arc<str>,
        request: ReservationRequest,
        now: Now,
    ) -> Result<(Reservation, RateLimitStatus), Refused> {
        let limits = self.limits_of(user);
        if limits.is_unlimited() {
            return Ok((Reservation::default(), RateLimitStatus::default()));
        }
        if self.users.len() > USERS_FEW {
            self.evict_some(SWEEP_PER_ADMISSION, now.mono);
        }
        let found = self.users.get_mut(user);
        let mut state = found.as_deref().copied().unwrap_or_default();
        let reservation = state.try_take(&limits, || self.spending.of(user, now.unix), request, now)?;
        let limit_status = state.limit_status(&limits);
        match found {
            Some(found) => *found = state,
            None => self.insert(user, state, now.mono),
        }
        Ok((reservation, limit_status))
    }

    fn insert(&mut self, user: &Arc<str>, state: UserState, now: u64) {
        if self.users.len() == USERS_FEW {
            self.sweep_at = now + SWEEP_EVERY;
        }
        self.eviction_queue.push_back(Arc::clone(user));
        self.users.insert(Arc::clone(user), state);
    }

    /// The request is over: its estimate is given back. What it used is charged before.
    pub fn release(&mut self, user: &str, reservation: Reservation, now: Now) {
        self.settle(user, reservation, 0, now);
    }

    /// The request is over, and nobody knows what it used: its estimates stand, though less of money was held.
    /// `record` says which one it is, and when it began; its own cost is not known.
    pub fn forfeit(&mut self, user: &Arc<str>, reservation: Reservation, record: Cost, now: Now) {
        let nano_usd = i64::try_from(reservation.worst_nano_usd).unwrap_or(i64::MAX);
        self.spending.forfeit(user, Cost { nano_usd, ..record }, now.unix);
        self.settle(user, Reservation { tokens: 0, ..reservation }, 0, now);
    }

    /// The request was never forwarded: it takes nothing.
    pub fn withdraw(&mut self, user: &str, reservation: Reservation, now: Now) {
        self.settle(user, reservation, 1, now);
    }

    fn settle(&mut self, user: &str, reservation: Reservation, requests: u64, now: Now) {
        let limits = self.limits_of(user);
        let Some(state) = self.users.get_mut(user).filter(|_| reservation.tracked) else { return };
        state.give_back(&limits, &reservation, requests, now.mono);
    }

    /// What a record cost at most, whose cost is not certain: the ledger has none of it.
    pub fn charge_at_most(&mut self, user: &Arc<str>, cost: Cost, now: Now) {
        self.spending.forfeit(user, cost, now.unix);
    }

    /// What a record says that its user has used. The excess over what is there becomes debt.
    pub fn charge(&mut self, user: &Arc<str>, used: Used, now: Now) {
        self.spending.charge(user, used.cost, now.unix);
        let limits = self.limits_of(user);
        let Some(state) = self.users.get_mut(user) else { return };
        state.charge(&limits, used.tokens, now.mono);
        if let Some(output) = used.output_tokens {
            state.add_output(output);
        }
    }

    /// Every record with `seq <= upto_seq` is in the ledger, and so in each sum that it sends from now on.
    pub fn committed(&mut self, upto_seq: u64) {
        self.spending.committed(upto_seq);
    }

    /// When [`Limiter::sweep`] should be called, monotonic nanoseconds; `None` where few are in memory.
    pub fn sweep_due(&self) -> Option<u64> {
        (self.users.len() > USERS_FEW).then_some(self.sweep_at)
    }

    /// Evicts users whose state tells nothing, some at a time, so that no turn is long.
    pub fn sweep(&mut self, now: u64) {
        self.evict_some(SWEEP_AT_ONCE, now);
        self.sweep_at = now + SWEEP_EVERY;
    }

    /// Users held in memory: with buckets, and with spending.
    pub fn users(&self) -> (usize, usize) {
        (self.users.len(), self.spending.users())
    }

    /// Requests in flight of all users together, and the nano-dollars reserved for them. For tests of leaks.
    pub fn outstanding(&self) -> (u64, u64) {
        let states = self.eviction_queue.iter().filter_map(|user| self.users.get(user));
        states.map(UserState::outstanding).fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    }

    /// What a user has spent, where that was known when it was last looked at. For tests of budgets.
    pub fn spent(&self, user: &str) -> Option<Spent> {
        self.spending.last_known(user)
    }

    fn limits_of(&self, user: &str) -> Limits {
        if self.overrides.is_empty() {
            return self.limits;
        }
        self.overrides.get(user).map_or(self.limits, |overrides| self.limits.with(overrides))
    }

    /// Looks at so many users, and evicts those of them whose state tells nothing.
    fn evict_some(&mut self, count_max: usize, now: u64) {
        for _ in 0..count_max.min(self.eviction_queue.len()) {
            let Some(name) = self.eviction_queue.pop_front() else { return };
            let limits = self.limits_of(&name);
            if self.users.get(&name).is_none_or(|state| state.is_evictable(&limits, now)) {
                self.users.remove(&name);
            } else {
                self.eviction_queue.push_back(name);
            }
        }
        if self.users.len() <= USERS_FEW {
            self.eviction_queue.shrink_to(2 * USERS_FEW); // from a crowd's size
            self.users.shrink_to(2 * USERS_FEW);
        }
    }
}

#[cfg(test)]
mod tests;
