//! Who may ask now, and what is settled when an exchange ends.
//!
//! ```text
//!   admit ──▶ Reservation ──▶ release   the estimate goes back; what was used came in by `charge`
//!                  └──▶ withdraw  never forwarded: as if it had not been asked
//! ```
//!
//! Of more than a few, a user without a debt, a request in flight or spending is forgotten once their buckets are full
//! again, so memory is bounded by the users of the last minutes, whatever names clients make up.

use super::bucket::{Bucket, Rate};
use super::budget::{Period, Spending, Spent};
use super::overrides::{Limits, Overrides};
use super::status::{Level, Limit, RateLimitStatus, Refused};
use crate::base::clock::{MILLISECOND, Now, SECOND};
use crate::base::table::Table;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// How many users are looked at, on each admission, for being forgotten. More than one a request, so that the list of
/// users shrinks faster than it can grow.
const SWEEP_PER_ADMISSION: usize = 2;
/// How many are looked at by [`Limiter::sweep`], which takes well below a millisecond.
const SWEEP_AT_ONCE: usize = 1000;
/// Time between two sweeps.
const SWEEP_EVERY: u64 = 100 * MILLISECOND;
/// So few users are remembered for good: to forget them, and to meet them again, would cost each request more than they
/// take.
const USERS_FEW: usize = 1000;

/// When to try again where that depends on other requests' ends.
const UNCERTAIN: u64 = SECOND;

/// Weight of the newest output in the moving average: one part in so many.
const AVERAGE_WEIGHT: i64 = 8;
/// Parts of a token in which the average is kept.
const AVERAGE_PARTS: i64 = 16;

/// What a request may take, as far as can be told before it is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReservationRequest {
    /// Input and output together.
    pub tokens: u64,
    /// What they cost; `None` for a request that has no cost that the ledger would count.
    pub nano_usd: Option<u64>,
    /// The client set no maximum: where less is left than guessed, what is left will do.
    pub guessed: bool,
}

/// What of a request is to be estimated before it is admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measures {
    pub tokens: bool,
    pub cost: bool,
}

/// What an admitted request has taken. It is given to [`Limiter::release`] or [`Limiter::withdraw`], once.
#[derive(Debug, Default, PartialEq, Eq)]
#[must_use = "what is not settled refuses its user for ever"]
pub struct Reservation {
    tokens: u64,
    nano_usd: u64,
    /// The user was limited in something then.
    tracked: bool,
}

impl Reservation {
    /// True where its user was limited in something.
    pub fn is_tracked(&self) -> bool {
        self.tracked
    }
}

/// What a response has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// Input and output together.
    pub tokens: u64,
    /// The output of one request, for the next one's estimate.
    pub output_tokens: Option<u64>,
    pub nano_usd: u64,
    /// When the request began, nanoseconds since the Unix epoch.
    pub started_at: u64,
}

#[derive(Clone, Copy, Default)]
struct State {
    requests: Option<Bucket>,
    tokens: Option<Bucket>,
    in_flight: u32,
    /// Nano-dollars that requests in flight may cost.
    reserved: u64,
    /// Moving average of outputs, in parts; 0 before the first.
    average: i64,
}

/// All users' limits.
pub struct Limiter {
    limits: Limits,
    own: BTreeMap<Box<str>, Overrides>,
    users: Table<Arc<str>, State>,
    /// Each user once, for being forgotten.
    sweep: VecDeque<Arc<str>>,
    sweep_at: u64,
    spending: Spending,
    /// Somebody has a budget.
    budgets: bool,
    /// What was spent before is known.
    loaded: bool,
}

impl Limiter {
    /// Everybody's limits.
    pub fn new(limits: Limits) -> Self {
        Self {
            budgets: limits.has_budget(),
            limits,
            own: BTreeMap::new(),
            users: Table::default(),
            sweep: VecDeque::new(),
            sweep_at: 0,
            spending: Spending::default(),
            loaded: false,
        }
    }

    /// New limits for everybody, from the next request on.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
        self.reconsider_budgets();
    }

    /// New limits of users' own, in place of all that were there, from the next request on.
    pub fn set_overrides(&mut self, own: BTreeMap<Box<str>, Overrides>) {
        self.own = own;
        self.reconsider_budgets();
    }

    fn reconsider_budgets(&mut self) {
        let own = |own: &Overrides| self.limits.with(own).has_budget();
        self.budgets = self.limits.has_budget() || self.own.values().any(own);
        if !self.budgets {
            self.spending.clear();
            self.loaded = false;
        }
    }

    /// True where somebody has a budget and the spending so far is not known.
    pub fn wants_spending(&self) -> bool {
        self.budgets && !self.loaded
    }

    /// Takes over users' spending so far.
    pub fn load(&mut self, period: Period, users: impl IntoIterator<Item = (Arc<str>, Spent)>) {
        if self.wants_spending() {
            self.loaded = true;
            users.into_iter().for_each(|(user, spent)| self.spending.load(user, period, spent));
        }
    }

    /// What of a request matters to its user's limits.
    pub fn measures(&self, user: &str) -> Measures {
        let limits = self.limits_of(user);
        Measures { tokens: limits.tokens.is_some() || limits.has_budget(), cost: limits.has_budget() }
    }

    /// The moving average of a user's outputs, tokens; `None` before the first.
    pub fn average_output(&self, user: &str) -> Option<u64> {
        let average = self.users.get(user).map(|state| state.average).filter(|&parts| parts > 0);
        average.map(|parts| (parts / AVERAGE_PARTS).cast_unsigned())
    }

    /// Refuses a user who would be refused whatever the request; takes nothing.
    pub fn check(&mut self, user: &str, now: Now) -> Result<(), Refused> {
        let limits = self.limits_of(user);
        if limits.is_free() {
            return Ok(());
        }
        let least = ReservationRequest { tokens: 1, nano_usd: Some(0), guessed: true };
        let spent = self.spent(user, &limits, least, now);
        let mut state = self.users.get(user).copied().unwrap_or_default();
        state.try_take(&limits, spent, least, now).map(|_| ())
    }

    /// The user's name, shared with their other requests where there are any.
    pub fn name(&self, user: &str) -> Arc<str> {
        self.users.get_key(user).map_or_else(|| Arc::from(user), Arc::clone)
    }

    /// Takes what the request may need: the reservation, and the state of its limits after it. All of it, or nothing where any limit
    /// refuses.
    pub fn admit(
        &mut self,
        user: &Arc<str>,
        request: ReservationRequest,
        now: Now,
    ) -> Result<(Reservation, RateLimitStatus), Refused> {
        let limits = self.limits_of(user);
        if limits.is_free() {
            return Ok((Reservation::default(), RateLimitStatus::default()));
        }
        if self.users.len() > USERS_FEW {
            self.forget_some(SWEEP_PER_ADMISSION, now.mono);
        }
        let spent = self.spent(user, &limits, request, now);
        let found = self.users.get_mut(user);
        let mut state = found.as_deref().copied().unwrap_or_default();
        let reservation = state.try_take(&limits, spent, request, now)?;
        let limit_status = state.limit_status(&limits);
        match found {
            Some(found) => *found = state,
            None => self.remember(user, state, now.mono),
        }
        Ok((reservation, limit_status))
    }

    fn remember(&mut self, user: &Arc<str>, state: State, now: u64) {
        if self.users.len() == USERS_FEW {
            self.sweep_at = now + SWEEP_EVERY;
        }
        self.sweep.push_back(Arc::clone(user));
        self.users.insert(Arc::clone(user), state);
    }

    /// The request is over: its estimate is given back. What it used is charged before.
    pub fn release(&mut self, user: &str, reservation: Reservation, now: Now) {
        self.settle(user, reservation, 0, now);
    }

    /// The request is over, and nobody knows what it used: its estimate of tokens stands.
    pub fn forfeit(&mut self, user: &str, reservation: Reservation, now: Now) {
        self.settle(user, Reservation { tokens: 0, ..reservation }, 0, now);
    }

    /// The request was never forwarded: it takes nothing.
    pub fn withdraw(&mut self, user: &str, reservation: Reservation, now: Now) {
        self.settle(user, reservation, 1, now);
    }

    fn settle(&mut self, user: &str, reservation: Reservation, requests: u64, now: Now) {
        let limits = self.limits_of(user);
        let Some(state) = self.users.get_mut(user).filter(|_| reservation.tracked) else { return };
        state.in_flight -= 1;
        state.reserved -= reservation.nano_usd;
        if let (Some(bucket), Some(rate)) = (&mut state.tokens, limits.tokens) {
            bucket.give_back(rate, now.mono, reservation.tokens);
        }
        if let (Some(bucket), Some(rate)) = (&mut state.requests, limits.requests) {
            bucket.give_back(rate, now.mono, requests);
        }
    }

    /// What a response of the user has used. The excess over what is there becomes debt.
    pub fn charge(&mut self, user: &Arc<str>, used: Used, now: Now) {
        if self.budgets {
            self.spending.add(user, used.started_at, used.nano_usd, now.unix);
        }
        let limits = self.limits_of(user);
        let Some(state) = self.users.get_mut(user) else { return };
        if let (Some(bucket), Some(rate)) = (&mut state.tokens, limits.tokens) {
            bucket.take(rate, now.mono, used.tokens);
        }
        if let Some(output) = used.output_tokens {
            let parts = i64::try_from(output).unwrap_or(i64::MAX).saturating_mul(AVERAGE_PARTS).max(1);
            let before = if state.average == 0 { parts } else { state.average };
            state.average = (before + (parts - before) / AVERAGE_WEIGHT).max(1);
        }
    }

    /// When [`Limiter::sweep`] should be called, monotonic nanoseconds; `None` where few are in memory.
    pub fn sweep_due(&self) -> Option<u64> {
        (self.users.len() > USERS_FEW).then_some(self.sweep_at)
    }

    /// Forgets users that need not be remembered, some at a time, so that no turn is long.
    pub fn sweep(&mut self, now: u64) {
        self.forget_some(SWEEP_AT_ONCE, now);
        self.sweep_at = now + SWEEP_EVERY;
    }

    /// Users held in memory: with buckets, and with spending.
    pub fn users(&self) -> (usize, usize) {
        (self.users.len(), self.spending.users())
    }

    /// Requests in flight of all users together, and the nano-dollars reserved for them. For tests of leaks.
    pub fn outstanding(&self) -> (u64, u64) {
        let states = self.sweep.iter().filter_map(|user| self.users.get(user));
        states.fold((0, 0), |(requests, money), state| (requests + u64::from(state.in_flight), money + state.reserved))
    }

    fn limits_of(&self, user: &str) -> Limits {
        if self.own.is_empty() {
            return self.limits;
        }
        self.own.get(user).map_or(self.limits, |own| self.limits.with(own))
    }

    fn forget_some(&mut self, most: usize, now: u64) {
        for _ in 0..most.min(self.sweep.len()) {
            let Some(name) = self.sweep.pop_front() else { return };
            let limits = self.limits_of(&name);
            if self.users.get(&name).is_some_and(|state| state.is_needed(&limits, now)) {
                self.sweep.push_back(name);
            } else {
                self.users.remove(&name);
            }
        }
        if self.users.len() <= USERS_FEW {
            self.sweep.shrink_to(2 * USERS_FEW); // from a crowd's size
            self.users.shrink_to(2 * USERS_FEW);
        }
    }

    /// What the user has spent, where that matters to the request.
    fn spent(&mut self, user: &str, limits: &Limits, request: ReservationRequest, now: Now) -> Option<Spent> {
        (limits.has_budget() && request.nano_usd.is_some()).then(|| self.spending.of(user, now.unix))
    }
}

/// A refusal without the state of the user's limits.
struct Denied {
    limit: Limit,
    most: u64,
    asked: u64,
    retry_after: Option<u64>,
}

impl State {
    /// Checks every limit, then takes from all.
    fn try_take(
        &mut self,
        limits: &Limits,
        spent: Option<Spent>,
        mut request: ReservationRequest,
        now: Now,
    ) -> Result<Reservation, Refused> {
        self.refill(limits, now.mono);
        if let Err(Denied { limit, most, asked, retry_after }) = self.has_room(limits, spent, &mut request, now.mono) {
            return Err(Refused { limit, limit_status: self.limit_status(limits), most, asked, retry_after });
        }
        self.take(limits, &request, now.mono);
        Ok(Reservation { tokens: request.tokens, nano_usd: request.nano_usd.unwrap_or(0), tracked: true })
    }

    /// Checks every limit, and cuts a guess to what may be had.
    fn has_room(
        &mut self,
        limits: &Limits,
        spent: Option<Spent>,
        request: &mut ReservationRequest,
        now: u64,
    ) -> Result<(), Denied> {
        if let Some(most) = limits.concurrent.filter(|&most| self.in_flight >= most) {
            return Err(Denied { limit: Limit::Concurrent, most: most.into(), asked: 1, retry_after: Some(UNCERTAIN) });
        }
        if let Some(spent) = spent {
            within_budgets(limits, spent, self.reserved, request)?;
        }
        self.within_buckets(limits, request, now)
    }

    /// Brings the buckets to the present; those of limits that are new start full.
    fn refill(&mut self, limits: &Limits, now: u64) {
        for (bucket, rate) in [(&mut self.requests, limits.requests), (&mut self.tokens, limits.tokens)] {
            *bucket = rate.map(|rate| {
                let mut bucket = bucket.unwrap_or_else(|| Bucket::full(rate, now));
                bucket.give_back(rate, now, 0);
                bucket
            });
        }
    }

    /// Checks the buckets, and cuts a guess to what a full one holds.
    fn within_buckets(&mut self, limits: &Limits, request: &mut ReservationRequest, now: u64) -> Result<(), Denied> {
        let mut denied: Option<Denied> = None;
        if let (Some(rate), Some(bucket)) = (limits.requests, &mut self.requests)
            && let Err(wait) = bucket.has(rate, now, 1)
        {
            denied = Some(Denied { limit: Limit::Requests, most: rate.per_minute, asked: 1, retry_after: Some(wait) });
        }
        // Who needs no tokens is not kept waiting by a debt of them.
        if let (Some(rate), Some(bucket), true) = (limits.tokens, &mut self.tokens, request.tokens > 0) {
            if request.guessed {
                request.tokens = request.tokens.min(rate.burst);
            }
            let wait = bucket.has(rate, now, request.tokens).err();
            let retry_after = wait.filter(|_| request.tokens <= rate.burst);
            let told = denied.as_ref().and_then(|denied| denied.retry_after);
            if wait.is_some() && (retry_after.is_none() || retry_after > told) {
                denied =
                    Some(Denied { limit: Limit::Tokens, most: rate.per_minute, asked: request.tokens, retry_after });
            }
        }
        denied.map_or(Ok(()), Err)
    }

    fn take(&mut self, limits: &Limits, request: &ReservationRequest, now: u64) {
        for (bucket, rate, tokens) in
            [(&mut self.requests, limits.requests, 1), (&mut self.tokens, limits.tokens, request.tokens)]
        {
            if let (Some(bucket), Some(rate)) = (bucket, rate) {
                bucket.take(rate, now, tokens);
            }
        }
        self.in_flight += 1;
        self.reserved += request.nano_usd.unwrap_or(0);
    }

    fn limit_status(&self, limits: &Limits) -> RateLimitStatus {
        let level = |bucket: Option<Bucket>, rate: Option<Rate>| {
            let (bucket, rate) = (bucket?, rate?);
            Some(Level { limit: rate.burst, remaining: bucket.remaining(), reset: bucket.time_to_full(rate) })
        };
        RateLimitStatus { requests: level(self.requests, limits.requests), tokens: level(self.tokens, limits.tokens) }
    }

    /// False where a new user would stand the same, but for the average.
    fn is_needed(&self, limits: &Limits, now: u64) -> bool {
        let is_short = |bucket: Option<Bucket>, rate: Option<Rate>| {
            bucket.zip(rate).is_some_and(|(bucket, rate)| bucket.full_at(rate) > now)
        };
        self.in_flight > 0 || is_short(self.requests, limits.requests) || is_short(self.tokens, limits.tokens)
    }
}

/// Checks the budgets: what is spent, what requests in flight may cost and this one's estimate are within each. Of a
/// guess only what is left is reserved.
fn within_budgets(
    limits: &Limits,
    spent: Spent,
    reserved: u64,
    request: &mut ReservationRequest,
) -> Result<(), Denied> {
    let budgets =
        [(Limit::BudgetDay, limits.day_nano_usd, spent.day), (Limit::BudgetMonth, limits.month_nano_usd, spent.month)];
    for (limit, most, spent) in budgets {
        let (Some(most), Some(asked)) = (most, request.nano_usd) else { continue };
        let unspent = most.saturating_sub(spent);
        let free = unspent.saturating_sub(reserved);
        let denied = |asked, retry_after| Denied { limit, most, asked, retry_after };
        if unspent == 0 {
            return Err(denied(0, None));
        }
        if free == 0 || !request.guessed && asked > free {
            let in_time = free < unspent && (request.guessed || asked <= unspent);
            return Err(denied(asked, in_time.then_some(UNCERTAIN)));
        }
        request.nano_usd = Some(asked.min(free));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
