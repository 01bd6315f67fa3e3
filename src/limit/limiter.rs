//! Who may ask now, and what is settled when an exchange ends: the accounts of users, of teams and of everybody
//! together, and the eviction of users from memory. A request takes from all three, or from none.
//!
//! ```text
//!   admit ──▶ Reservation ──▶ release, forfeit or withdraw, once
//!   charge: what a record says was used, whenever that is known
//! ```
//!
//! Of more than a few, a user without a debt, a request in flight or spending is evicted once their buckets are full
//! again, so memory is bounded by the users of the last minutes, whatever names clients make up.

use super::account::Account;
use super::budget::{Cost, Period, SpendSums, Spending};
use super::holdings::Holdings;
use super::in_force::SettingsLimits;
use super::levels::{Levels, LimitLevel, Payer};
use super::overrides::{Limits, Overrides};
use super::reservation::{Money, Reservation, ReservationRequest};
use super::status::{RateLimitStatus, Refused};
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

/// All limits, and what is taken of them.
#[derive(Default)]
pub struct Limiter {
    settings: SettingsLimits,
    overrides: Levels<Overrides>,
    /// At which levels anybody may be limited: the others cost a request nothing.
    limited: [bool; 3],
    users: Table<Arc<str>, Account>,
    /// Of teams that are limited, or were with a request in flight.
    teams: BTreeMap<Box<str>, Account>,
    total: Account,
    /// Each user once, in the order in which they are looked at for eviction.
    eviction_queue: VecDeque<Arc<str>>,
    sweep_at: u64,
    spending: Spending,
    /// In a fleet: what this node holds of its limits.
    holdings: Option<Box<Holdings>>,
}

/// An account as it will be, with its limits; `None` where nothing is limited.
type Drafts = [Option<(Limits, Account)>; 3];

impl Limiter {
    /// The limits of each user, and of everybody together.
    pub fn new(limits: Limits, total_limits: Limits) -> Self {
        let mut limiter = Self::default();
        limiter.set_limits(limits, total_limits);
        limiter
    }

    /// New limits of each user and of everybody together, from the next request on.
    pub fn set_limits(&mut self, limits: Limits, total_limits: Limits) {
        self.settings = SettingsLimits { user: limits, total: total_limits };
        self.follow_spending();
    }

    /// What is set for users, teams and everybody, in place of all that was there, from the next request on.
    pub fn set_overrides(&mut self, overrides: Levels<Overrides>) {
        self.overrides = overrides;
        let limited = &self.overrides.teams;
        self.teams.retain(|team, account| limited.contains_key(team) || account.outstanding().0 > 0);
        self.follow_spending();
    }

    /// Levels are looked at where somebody is limited, and spending is followed where there is a budget.
    fn follow_spending(&mut self) {
        let (settings, own) = (&self.settings, &self.overrides);
        self.limited = [
            !settings.user.is_unlimited() || !own.users.is_empty(),
            !own.teams.is_empty(),
            !settings.total.is_unlimited() || own.total.is_some(),
        ];
        self.spending.follow(LimitLevel::ALL.into_iter().any(|level| settings.has_budget(own, level)));
    }

    /// The period of which the ledger's sums are wanted: somebody has a budget, and what users have spent is not known.
    /// Until [`Limiter::load`] has them, nothing that costs is admitted under a budget.
    pub fn wants_spending(&mut self, now: Now) -> Option<Period> {
        self.spending.wants(now.unix)
    }

    /// Takes over what was spent so far; what has been charged since the ledger summed it is added.
    pub fn load(&mut self, sums: SpendSums, now: Now) {
        self.spending.load(sums, now.unix);
    }

    /// What of a request matters to the limits that it is under.
    pub fn measures<'a>(&self, payer: impl Into<Payer<'a>>) -> Measures {
        let payer = payer.into();
        let (mut tokens, mut cost) = (false, false);
        for level in self.limited() {
            let limits = self.limits_at(level, payer);
            (tokens, cost) = (tokens || limits.tokens.is_some(), cost || limits.has_budget());
        }
        Measures { tokens: tokens || cost, cost }
    }

    /// The moving average of a user's outputs, tokens; `None` before the first.
    pub fn average_output(&self, user: &str) -> Option<u64> {
        self.users.get(user).and_then(Account::average_output)
    }

    /// Refuses who would be refused whatever the request; takes nothing. `may_cost` is false for one that may prove to
    /// be free.
    pub fn check<'a>(&mut self, payer: impl Into<Payer<'a>>, may_cost: bool, now: Now) -> Result<(), Refused> {
        self.try_take(payer.into(), smallest(may_cost), now).map(|_| ())
    }

    /// The user's name, shared with their other requests where there are any.
    pub fn name(&self, user: &str) -> Arc<str> {
        self.users.get_key(user).map_or_else(|| Arc::from(user), Arc::clone)
    }

    /// Takes what the request may need at each level: the reservation, and the state of its limits after it. All of
    /// it, or nothing where any limit refuses.
    pub fn admit<'a>(
        &mut self,
        payer: impl Into<Payer<'a>>,
        request: ReservationRequest,
        now: Now,
    ) -> Result<(Reservation, RateLimitStatus), Refused> {
        let payer = payer.into();
        self.evict_for_admission(now);
        let (reservation, drafts) = self.try_take(payer, request, now)?;
        let limit_status = status(&drafts);
        self.put_back(payer, drafts, now.mono);
        Ok((reservation, limit_status))
    }

    fn evict_for_admission(&mut self, now: Now) {
        if self.users.len() > USERS_FEW {
            self.evict_some(SWEEP_PER_ADMISSION, now.mono);
        }
    }

    /// The accounts are as they were to be.
    fn put_back(&mut self, payer: Payer<'_>, [user, team, total]: Drafts, now: u64) {
        if let Some((_, account)) = user {
            match self.users.get_mut(payer.user) {
                Some(found) => *found = account,
                None => self.insert(payer.user.into(), account, now),
            }
        }
        if let Some((team, (_, account))) = payer.team.zip(team) {
            match self.teams.get_mut(team) {
                Some(found) => *found = account,
                None => drop(self.teams.insert(team.into(), account)),
            }
        }
        if let Some((_, account)) = total {
            self.total = account;
        }
    }

    /// What a request would take, and how the accounts are with it; nothing is taken yet. Of several limits that refuse
    /// it, the one with the longest wait is told.
    fn try_take(
        &mut self,
        payer: Payer<'_>,
        request: ReservationRequest,
        now: Now,
    ) -> Result<(Reservation, Drafts), Refused> {
        let mut drafts = self.drafts(payer);
        let request = within_bursts(&drafts, request);
        let asked = request.nano_usd();
        let (mut nano_usd, mut denied) = (asked, None::<Refused>);
        for (level, draft) in LimitLevel::ALL.into_iter().zip(&mut drafts) {
            let Some((limits, account)) = draft else { continue };
            let spent = || self.spending.of(level, payer, now.unix);
            match account.has_room(limits, spent, &request, now.mono) {
                Ok(may_hold) => nano_usd = nano_usd.min(may_hold),
                Err(refused) if denied.is_none_or(|denied| is_longer(refused.retry_after, denied.retry_after)) => {
                    denied = Some(Refused { level, ..refused });
                }
                Err(_) => {}
            }
        }
        if let Some(denied) = denied {
            return Err(Refused { limit_status: status(&drafts), ..denied });
        }
        for (limits, account) in drafts.iter_mut().flatten() {
            account.take(limits, request.tokens, nano_usd, now.mono);
        }
        let levels = std::array::from_fn(|level| drafts[level].is_some());
        if levels == [false; 3] {
            return Ok((Reservation::default(), drafts));
        }
        let worst_nano_usd = if asked == u64::MAX { nano_usd } else { asked };
        Ok((Reservation { tokens: request.tokens, nano_usd, worst_nano_usd, levels }, drafts))
    }

    /// The accounts that a payer takes from, as they are.
    fn drafts(&self, payer: Payer<'_>) -> Drafts {
        let mut drafts = [None; 3];
        for level in self.limited() {
            let limits = self.limits_at(level, payer);
            if limits.is_unlimited() {
                continue;
            }
            drafts[level as usize] = Some((limits, self.copy_of(level, payer)));
        }
        drafts
    }

    fn insert(&mut self, user: Arc<str>, account: Account, now: u64) {
        if self.users.len() == USERS_FEW {
            self.sweep_at = now + SWEEP_EVERY;
        }
        self.eviction_queue.push_back(Arc::clone(&user));
        self.users.insert(user, account);
    }

    /// The request is over: its estimate is given back. What it used is charged before.
    pub fn release<'a>(&mut self, payer: impl Into<Payer<'a>>, reservation: Reservation, now: Now) {
        self.settle(payer.into(), reservation, 0, now);
    }

    /// The request is over, and nobody knows what it used: its estimates stand, though less of money was held.
    /// `record` says which one it is, and when it began; its own cost is not known.
    pub fn forfeit<'a>(&mut self, payer: impl Into<Payer<'a>>, reservation: Reservation, record: Cost, now: Now) {
        let payer = payer.into();
        let nano_usd = i64::try_from(reservation.worst_nano_usd).unwrap_or(i64::MAX);
        self.spending.forfeit(payer, Cost { nano_usd, ..record }, now.unix);
        self.settle(payer, Reservation { tokens: 0, ..reservation }, 0, now);
    }

    /// The request was never forwarded: it takes nothing.
    pub fn withdraw<'a>(&mut self, payer: impl Into<Payer<'a>>, reservation: Reservation, now: Now) {
        self.settle(payer.into(), reservation, 1, now);
    }

    fn settle(&mut self, payer: Payer<'_>, reservation: Reservation, requests: u64, now: Now) {
        for level in LimitLevel::ALL.into_iter().filter(|level| reservation.levels[*level as usize]) {
            let limits = self.limits_at(level, payer);
            if let Some(account) = self.account(level, payer) {
                account.give_back(&limits, &reservation, requests, now.mono);
                self.settle_leased(payer, level, &limits, [requests, reservation.tokens, 0], now);
            }
        }
    }

    /// What a record cost at most, whose cost is not certain: the ledger has none of it.
    pub fn charge_at_most<'a>(&mut self, payer: impl Into<Payer<'a>>, cost: Cost, now: Now) {
        self.spending.forfeit(payer.into(), cost, now.unix);
    }

    /// What a record says was used. The excess over what is there becomes debt.
    pub fn charge<'a>(&mut self, payer: impl Into<Payer<'a>>, used: Used, now: Now) {
        let payer = payer.into();
        self.spending.charge(payer, used.cost, now.unix);
        for level in self.limited() {
            let limits = self.limits_at(level, payer);
            if let Some(account) = self.account(level, payer) {
                account.charge(&limits, used.tokens, now.mono);
            }
            self.settle_leased(payer, level, &limits, [0, 0, used.tokens], now);
        }
        if let Some((account, output)) = self.users.get_mut(payer.user).zip(used.output_tokens) {
            account.add_output(output);
        }
    }

    /// The account of a level as it is: untouched where there is none.
    fn copy_of(&self, level: LimitLevel, payer: Payer<'_>) -> Account {
        let account = match level {
            LimitLevel::User => self.users.get(payer.user),
            LimitLevel::Team => payer.team.and_then(|team| self.teams.get(team)),
            LimitLevel::Total => Some(&self.total),
        };
        account.copied().unwrap_or_default()
    }

    /// The same, where there is one, to be changed.
    fn account(&mut self, level: LimitLevel, payer: Payer<'_>) -> Option<&mut Account> {
        match level {
            LimitLevel::User => self.users.get_mut(payer.user),
            LimitLevel::Team => self.teams.get_mut(payer.team?),
            LimitLevel::Total => Some(&mut self.total),
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

    /// The levels at which anybody may be limited.
    fn limited(&self) -> impl Iterator<Item = LimitLevel> + use<> {
        let limited = self.limited;
        LimitLevel::ALL.into_iter().filter(move |level| limited[*level as usize])
    }

    /// The limits at a level.
    fn limits_at(&self, level: LimitLevel, payer: Payer<'_>) -> Limits {
        self.settings.of_payer(&self.overrides, level, payer)
    }

    /// Looks at so many users, and evicts those of them whose state tells nothing.
    fn evict_some(&mut self, count_max: usize, now: u64) {
        for _ in 0..count_max.min(self.eviction_queue.len()) {
            let Some(name) = self.eviction_queue.pop_front() else { return };
            let limits = self.limits_at(LimitLevel::User, Payer::from(&*name));
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

/// Less than any request needs. `may_cost` is false for one that may prove to be free.
fn smallest(may_cost: bool) -> ReservationRequest {
    let anything = Money { nano_usd: 1, least_nano_usd: 0, may_share: true };
    ReservationRequest { tokens: 1, guessed: true, money: may_cost.then_some(anything) }
}

/// The request with no more tokens than each bucket holds, where they are only guessed.
fn within_bursts(drafts: &Drafts, mut request: ReservationRequest) -> ReservationRequest {
    if request.guessed {
        let bursts = drafts.iter().flatten().filter_map(|(limits, _)| limits.tokens).map(|rate| rate.burst);
        request.tokens = bursts.fold(request.tokens, u64::min);
    }
    request
}

/// How the limits stand: of each kind the tightest.
fn status(drafts: &Drafts) -> RateLimitStatus {
    let statuses = drafts.iter().flatten().map(|(limits, account)| account.limit_status(limits));
    statuses.reduce(RateLimitStatus::tighter).unwrap_or_default()
}

/// True for the longer wait; never is longer than any.
fn is_longer(one: Option<u64>, other: Option<u64>) -> bool {
    other.is_some_and(|other| one.is_none_or(|one| one > other))
}

mod leased;
mod told;

#[cfg(test)]
mod tests;
