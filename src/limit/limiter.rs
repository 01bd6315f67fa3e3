//! Who may ask now, and what is settled when an exchange ends, by the accounts of users, of teams and of everybody
//! together. A request takes from all three, or from none.
//!
//! ```text
//!   admit ──▶ Reservation ──▶ release, forfeit or withdraw, once
//!   charge: what a record says was used, whenever that is known
//! ```

use super::account::{Account, Limited, tightest};
use super::accounts::{Accounts, NewAccounts, USERS_FEW};
use super::budget::{Cost, Period, SpendSums, Spending};
use super::holdings::Holdings;
use super::in_force::{LimitsInForce, SettingsLimits};
use super::levels::{Levels, LimitLevel, Payer};
use super::overrides::{Limits, Overrides};
use super::reservation::{Money, Reservation, ReservationRequest};
use super::status::{RateLimitStatus, Refused};
use crate::base::clock::Now;
use std::sync::Arc;

/// How many users are looked at for eviction on each admission. More than one a request, so that the list of users
/// shrinks faster than it can grow.
const SWEEP_PER_ADMISSION: usize = 2;
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
    /// Both together.
    in_force: LimitsInForce,
    accounts: Accounts,
    spending: Spending,
    /// In a fleet: what this node holds of its limits.
    holdings: Option<Box<Holdings>>,
}

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
        self.put_in_force();
    }

    /// What is set for users, teams and everybody, in place of all that was there, from the next request on.
    pub fn set_overrides(&mut self, overrides: Levels<Overrides>) {
        self.overrides = overrides;
        self.put_in_force();
    }

    /// Spending is followed where there is a budget.
    fn put_in_force(&mut self) {
        let (settings, own) = (&self.settings, &self.overrides);
        self.in_force = LimitsInForce::new(*settings, own);
        self.accounts.follow(&self.in_force);
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
        for limits in LimitLevel::ALL.into_iter().filter_map(|level| self.in_force.limited(level, payer)) {
            (tokens, cost) = (tokens || limits.tokens.is_some(), cost || limits.has_budget());
        }
        Measures { tokens: tokens || cost, cost }
    }

    /// The moving average of a user's outputs, tokens; `None` before the first.
    pub fn average_output(&self, user: &str) -> Option<u64> {
        self.accounts.users.get(user).and_then(Account::average_output)
    }

    /// Refuses who would be refused whatever the request; takes nothing. `may_cost` is false for one that may prove to
    /// be free.
    pub fn check<'a>(&mut self, payer: impl Into<Payer<'a>>, may_cost: bool, now: Now) -> Result<(), Refused> {
        let (payer, mut new) = (payer.into(), NewAccounts::default());
        let mut found = self.accounts.find(&self.in_force, payer, &mut new);
        check_all(&mut found, &mut self.spending, payer, smallest(may_cost), now).map(|_| ())
    }

    /// The user's name, shared with their other requests where there are any.
    pub fn name(&self, user: &str) -> Arc<str> {
        self.accounts.users.get_key(user).map_or_else(|| Arc::from(user), Arc::clone)
    }

    /// Takes what the request may need at each level: the reservation, and the state of its limits after it. All of
    /// it, or nothing where any limit refuses.
    pub fn admit<'a>(
        &mut self,
        payer: impl Into<Payer<'a>>,
        request: ReservationRequest,
        now: Now,
    ) -> Result<(Reservation, RateLimitStatus), Refused> {
        let (payer, mut new) = (payer.into(), NewAccounts::default());
        self.evict_for_admission(now);
        let mut found = self.accounts.find(&self.in_force, payer, &mut new);
        let reservation = check_all(&mut found, &mut self.spending, payer, request, now)?;
        take_all(&mut found, &reservation);
        let limit_status = tightest(&found);
        self.accounts.keep(&self.in_force, payer, new, now.mono);
        Ok((reservation, limit_status))
    }

    fn evict_for_admission(&mut self, now: Now) {
        if self.accounts.users.len() > USERS_FEW {
            self.accounts.evict_some(SWEEP_PER_ADMISSION, &self.in_force, now.mono);
        }
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
            if let Some(of) = self.accounts.get_mut(&self.in_force, level, payer) {
                of.account.give_back(of.limits, &reservation, requests, now.mono);
                self.settle_leased(payer, level, [requests, reservation.tokens, 0], now);
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
        for level in LimitLevel::ALL {
            self.settle_leased(payer, level, [0, 0, used.tokens], now);
            let Some(of) = self.accounts.get_mut(&self.in_force, level, payer) else { continue };
            of.account.charge(of.limits, used.tokens, now.mono);
            if let Some(output) = used.output_tokens.filter(|_| level == LimitLevel::User) {
                of.account.add_output(output);
            }
        }
    }

    /// Every record with `seq <= upto_seq` is in the ledger, and so in each sum that it sends from now on.
    pub fn committed(&mut self, upto_seq: u64) {
        self.spending.committed(upto_seq);
    }

    /// When [`Limiter::sweep`] should be called, monotonic nanoseconds; `None` where few are in memory.
    pub fn sweep_due(&self) -> Option<u64> {
        self.accounts.sweep_due()
    }

    /// Evicts users whose state tells nothing, some at a time, so that no turn is long.
    pub fn sweep(&mut self, now: u64) {
        self.accounts.sweep(&self.in_force, now);
    }
}

/// What a request would take of all accounts. Nothing is taken yet: they are brought to the present, no more. Of
/// several limits that refuse it, the one with the longest wait is told.
fn check_all(
    accounts: &mut [Option<Limited<'_>>; 3],
    spending: &mut Spending,
    payer: Payer<'_>,
    request: ReservationRequest,
    now: Now,
) -> Result<Reservation, Refused> {
    let request = within_bursts(accounts, request);
    let (mut nano_usd, mut denied) = (request.nano_usd(), None::<Refused>);
    for Limited { level, limits, account } in accounts.iter_mut().flatten() {
        let level = *level;
        let spent = || spending.of(level, payer, now.unix);
        match account.has_room(limits, spent, &request, now.mono) {
            Ok(may_hold) => nano_usd = nano_usd.min(may_hold),
            Err(refused) if denied.is_none_or(|denied| is_longer(refused.retry_after, denied.retry_after)) => {
                denied = Some(Refused { level, ..refused });
            }
            Err(_) => {}
        }
    }
    if let Some(denied) = denied {
        return Err(Refused { limit_status: tightest(accounts), ..denied });
    }
    Ok(reserved(accounts, &request, nano_usd))
}

/// Less than any request needs. `may_cost` is false for one that may prove to be free.
fn smallest(may_cost: bool) -> ReservationRequest {
    let anything = Money { nano_usd: 1, least_nano_usd: 0, may_share: true };
    ReservationRequest { tokens: 1, guessed: true, money: may_cost.then_some(anything) }
}

/// The request with no more tokens than each bucket holds, where they are only guessed.
fn within_bursts(accounts: &[Option<Limited<'_>>; 3], mut request: ReservationRequest) -> ReservationRequest {
    if request.guessed {
        let bursts = accounts.iter().flatten().filter_map(|of| of.limits.tokens).map(|rate| rate.burst);
        request.tokens = bursts.fold(request.tokens, u64::min);
    }
    request
}

/// What a request takes of all accounts that may hold so much money.
fn reserved(accounts: &[Option<Limited<'_>>; 3], request: &ReservationRequest, nano_usd: u64) -> Reservation {
    let levels = std::array::from_fn(|level| accounts[level].is_some());
    if levels == [false; 3] {
        return Reservation::default();
    }
    let asked = request.nano_usd();
    let worst_nano_usd = if asked == u64::MAX { nano_usd } else { asked };
    Reservation { tokens: request.tokens, nano_usd, worst_nano_usd, levels }
}

/// Takes from all accounts what was found to be there.
fn take_all(accounts: &mut [Option<Limited<'_>>; 3], reservation: &Reservation) {
    for of in accounts.iter_mut().flatten() {
        of.account.take(of.limits, reservation.tokens, reservation.nano_usd);
    }
}

/// True for the longer wait; never is longer than any.
fn is_longer(one: Option<u64>, other: Option<u64>) -> bool {
    other.is_some_and(|other| one.is_none_or(|one| one > other))
}

mod leased;
mod told;

#[cfg(test)]
mod tests;
