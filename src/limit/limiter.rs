//! Who may ask now, and what is settled when an exchange ends.
//!
//! ```text
//!   admit ──▶ Grant ──▶ release   the estimate goes back; what was used came in by `charge`
//!                  └──▶ withdraw  never forwarded: as if it had not been asked
//! ```
//!
//! Of more than a few, a user without a debt, a request in flight or spending is forgotten once their buckets are full
//! again, so memory is bounded by the users of the last minutes, whatever names clients make up.

use super::bucket::{Bucket, Rate};
use super::budget::{Period, Spending, Spent};
use super::standing::{Level, Limit, Refused, Standing};
use super::terms::{Own, Terms};
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
pub struct Ask {
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
pub struct Grant {
    tokens: u64,
    nano_usd: u64,
    /// The user was limited in something then.
    tracked: bool,
}

impl Grant {
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
    terms: Terms,
    own: BTreeMap<Box<str>, Own>,
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
    /// Everybody's terms.
    pub fn new(terms: Terms) -> Self {
        Self {
            budgets: terms.has_budget(),
            terms,
            own: BTreeMap::new(),
            users: Table::default(),
            sweep: VecDeque::new(),
            sweep_at: 0,
            spending: Spending::default(),
            loaded: false,
        }
    }

    /// New terms for everybody, from the next request on.
    pub fn set_terms(&mut self, terms: Terms) {
        self.terms = terms;
        self.reconsider_budgets();
    }

    /// New terms of users' own, in place of all that were there, from the next request on.
    pub fn set_own(&mut self, own: BTreeMap<Box<str>, Own>) {
        self.own = own;
        self.reconsider_budgets();
    }

    fn reconsider_budgets(&mut self) {
        let own = |own: &Own| self.terms.with(own).has_budget();
        self.budgets = self.terms.has_budget() || self.own.values().any(own);
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
        let terms = self.terms_of(user);
        Measures { tokens: terms.tokens.is_some() || terms.has_budget(), cost: terms.has_budget() }
    }

    /// The moving average of a user's outputs, tokens; `None` before the first.
    pub fn average_output(&self, user: &str) -> Option<u64> {
        let average = self.users.get(user).map(|state| state.average).filter(|&parts| parts > 0);
        average.map(|parts| (parts / AVERAGE_PARTS).cast_unsigned())
    }

    /// Refuses a user who would be refused whatever the request; takes nothing.
    pub fn check(&mut self, user: &str, now: Now) -> Result<(), Refused> {
        let terms = self.terms_of(user);
        if terms.is_free() {
            return Ok(());
        }
        let least = Ask { tokens: 1, nano_usd: Some(0), guessed: true };
        let spent = self.spent(user, &terms, least, now);
        let mut state = self.users.get(user).copied().unwrap_or_default();
        state.try_take(&terms, spent, least, now).map(|_| ())
    }

    /// The user's name, shared with their other requests where there are any.
    pub fn name(&self, user: &str) -> Arc<str> {
        self.users.get_key(user).map_or_else(|| Arc::from(user), Arc::clone)
    }

    /// Takes what the request may need: the grant, and the standing after it. All of it, or nothing where any limit
    /// refuses.
    pub fn admit(&mut self, user: &Arc<str>, ask: Ask, now: Now) -> Result<(Grant, Standing), Refused> {
        let terms = self.terms_of(user);
        if terms.is_free() {
            return Ok((Grant::default(), Standing::default()));
        }
        if self.users.len() > USERS_FEW {
            self.forget_some(SWEEP_PER_ADMISSION, now.mono);
        }
        let spent = self.spent(user, &terms, ask, now);
        let found = self.users.get_mut(user);
        let mut state = found.as_deref().copied().unwrap_or_default();
        let grant = state.try_take(&terms, spent, ask, now)?;
        let standing = state.standing(&terms);
        match found {
            Some(found) => *found = state,
            None => self.remember(user, state, now.mono),
        }
        Ok((grant, standing))
    }

    fn remember(&mut self, user: &Arc<str>, state: State, now: u64) {
        if self.users.len() == USERS_FEW {
            self.sweep_at = now + SWEEP_EVERY;
        }
        self.sweep.push_back(Arc::clone(user));
        self.users.insert(Arc::clone(user), state);
    }

    /// The request is over: its estimate is given back. What it used is charged before.
    pub fn release(&mut self, user: &str, grant: Grant, now: Now) {
        self.settle(user, grant, 0, now);
    }

    /// The request is over, and nobody knows what it used: its estimate of tokens stands.
    pub fn forfeit(&mut self, user: &str, grant: Grant, now: Now) {
        self.settle(user, Grant { tokens: 0, ..grant }, 0, now);
    }

    /// The request was never forwarded: it takes nothing.
    pub fn withdraw(&mut self, user: &str, grant: Grant, now: Now) {
        self.settle(user, grant, 1, now);
    }

    fn settle(&mut self, user: &str, grant: Grant, requests: u64, now: Now) {
        let terms = self.terms_of(user);
        let Some(state) = self.users.get_mut(user).filter(|_| grant.tracked) else { return };
        state.in_flight -= 1;
        state.reserved -= grant.nano_usd;
        if let (Some(bucket), Some(rate)) = (&mut state.tokens, terms.tokens) {
            bucket.give_back(rate, now.mono, grant.tokens);
        }
        if let (Some(bucket), Some(rate)) = (&mut state.requests, terms.requests) {
            bucket.give_back(rate, now.mono, requests);
        }
    }

    /// What a response of the user has used. The excess over what is there becomes debt.
    pub fn charge(&mut self, user: &Arc<str>, used: Used, now: Now) {
        if self.budgets {
            self.spending.add(user, used.started_at, used.nano_usd, now.unix);
        }
        let terms = self.terms_of(user);
        let Some(state) = self.users.get_mut(user) else { return };
        if let (Some(bucket), Some(rate)) = (&mut state.tokens, terms.tokens) {
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

    fn terms_of(&self, user: &str) -> Terms {
        if self.own.is_empty() {
            return self.terms;
        }
        self.own.get(user).map_or(self.terms, |own| self.terms.with(own))
    }

    fn forget_some(&mut self, most: usize, now: u64) {
        for _ in 0..most.min(self.sweep.len()) {
            let Some(name) = self.sweep.pop_front() else { return };
            let terms = self.terms_of(&name);
            if self.users.get(&name).is_some_and(|state| state.is_needed(&terms, now)) {
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
    fn spent(&mut self, user: &str, terms: &Terms, ask: Ask, now: Now) -> Option<Spent> {
        (terms.has_budget() && ask.nano_usd.is_some()).then(|| self.spending.of(user, now.unix))
    }
}

/// A refusal without the user's standing.
struct No {
    limit: Limit,
    most: u64,
    asked: u64,
    retry_after: Option<u64>,
}

impl State {
    /// Checks every limit, then takes from all.
    fn try_take(&mut self, terms: &Terms, spent: Option<Spent>, mut ask: Ask, now: Now) -> Result<Grant, Refused> {
        self.refill(terms, now.mono);
        if let Err(No { limit, most, asked, retry_after }) = self.has_room(terms, spent, &mut ask, now.mono) {
            return Err(Refused { limit, standing: self.standing(terms), most, asked, retry_after });
        }
        self.take(terms, &ask, now.mono);
        Ok(Grant { tokens: ask.tokens, nano_usd: ask.nano_usd.unwrap_or(0), tracked: true })
    }

    /// Checks every limit, and cuts a guess to what may be had.
    fn has_room(&mut self, terms: &Terms, spent: Option<Spent>, ask: &mut Ask, now: u64) -> Result<(), No> {
        if let Some(most) = terms.concurrent.filter(|&most| self.in_flight >= most) {
            return Err(No { limit: Limit::Concurrent, most: most.into(), asked: 1, retry_after: Some(UNCERTAIN) });
        }
        if let Some(spent) = spent {
            within_budgets(terms, spent, self.reserved, ask)?;
        }
        self.within_buckets(terms, ask, now)
    }

    /// Brings the buckets to the present; those of limits that are new start full.
    fn refill(&mut self, terms: &Terms, now: u64) {
        for (bucket, rate) in [(&mut self.requests, terms.requests), (&mut self.tokens, terms.tokens)] {
            *bucket = rate.map(|rate| {
                let mut bucket = bucket.unwrap_or_else(|| Bucket::full(rate, now));
                bucket.give_back(rate, now, 0);
                bucket
            });
        }
    }

    /// Checks the buckets, and cuts a guess to what a full one holds.
    fn within_buckets(&mut self, terms: &Terms, ask: &mut Ask, now: u64) -> Result<(), No> {
        let mut no: Option<No> = None;
        if let (Some(rate), Some(bucket)) = (terms.requests, &mut self.requests)
            && let Err(wait) = bucket.has(rate, now, 1)
        {
            no = Some(No { limit: Limit::Requests, most: rate.per_minute, asked: 1, retry_after: Some(wait) });
        }
        // Who needs no tokens is not kept waiting by a debt of them.
        if let (Some(rate), Some(bucket), true) = (terms.tokens, &mut self.tokens, ask.tokens > 0) {
            if ask.guessed {
                ask.tokens = ask.tokens.min(rate.burst);
            }
            let wait = bucket.has(rate, now, ask.tokens).err();
            let retry_after = wait.filter(|_| ask.tokens <= rate.burst);
            let told = no.as_ref().and_then(|no| no.retry_after);
            if wait.is_some() && (retry_after.is_none() || retry_after > told) {
                no = Some(No { limit: Limit::Tokens, most: rate.per_minute, asked: ask.tokens, retry_after });
            }
        }
        no.map_or(Ok(()), Err)
    }

    fn take(&mut self, terms: &Terms, ask: &Ask, now: u64) {
        for (bucket, rate, tokens) in
            [(&mut self.requests, terms.requests, 1), (&mut self.tokens, terms.tokens, ask.tokens)]
        {
            if let (Some(bucket), Some(rate)) = (bucket, rate) {
                bucket.take(rate, now, tokens);
            }
        }
        self.in_flight += 1;
        self.reserved += ask.nano_usd.unwrap_or(0);
    }

    fn standing(&self, terms: &Terms) -> Standing {
        let level = |bucket: Option<Bucket>, rate: Option<Rate>| {
            let (bucket, rate) = (bucket?, rate?);
            Some(Level { limit: rate.burst, remaining: bucket.remaining(), reset: bucket.time_to_full(rate) })
        };
        Standing { requests: level(self.requests, terms.requests), tokens: level(self.tokens, terms.tokens) }
    }

    /// False where a new user would stand the same, but for the average.
    fn is_needed(&self, terms: &Terms, now: u64) -> bool {
        let is_short = |bucket: Option<Bucket>, rate: Option<Rate>| {
            bucket.zip(rate).is_some_and(|(bucket, rate)| bucket.full_at(rate) > now)
        };
        self.in_flight > 0 || is_short(self.requests, terms.requests) || is_short(self.tokens, terms.tokens)
    }
}

/// Checks the budgets: what is spent, what requests in flight may cost and this one's estimate are within each. Of a
/// guess only what is left is reserved.
fn within_budgets(terms: &Terms, spent: Spent, reserved: u64, ask: &mut Ask) -> Result<(), No> {
    let budgets =
        [(Limit::BudgetDay, terms.day_nano_usd, spent.day), (Limit::BudgetMonth, terms.month_nano_usd, spent.month)];
    for (limit, most, spent) in budgets {
        let (Some(most), Some(asked)) = (most, ask.nano_usd) else { continue };
        let unspent = most.saturating_sub(spent);
        let free = unspent.saturating_sub(reserved);
        let no = |asked, retry_after| No { limit, most, asked, retry_after };
        if unspent == 0 {
            return Err(no(0, None));
        }
        if free == 0 || !ask.guessed && asked > free {
            let in_time = free < unspent && (ask.guessed || asked <= unspent);
            return Err(no(asked, in_time.then_some(UNCERTAIN)));
        }
        ask.nano_usd = Some(asked.min(free));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
