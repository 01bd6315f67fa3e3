//! The token buckets, requests in flight and reserved money of one user, of a team, or of everybody together: the
//! checks of an admission, and its settlement.
//!
//! In: the limits as they are now, and what a request may take. Out: what it may have, or which limit denies it.
//! Never: a name, or who else there is.

use super::bucket::{Bucket, Rate};
use super::budget::{Period, Spent};
use super::levels::LimitLevel;
use super::overrides::Limits;
use super::reservation::{Money, Reservation, ReservationRequest};
use super::status::{BucketStatus, Limit, LimitUse, RateLimitStatus, Refused};
use crate::base::civil::first_day_of_month;
use crate::base::clock::{DAY, Now, SECOND};

/// When to try again where that depends on other requests' ends, or on the ledger.
const UNCERTAIN: u64 = SECOND;

/// What one report may put an account into debt of tokens, minutes.
const DEBT_MINUTES_MAX: u64 = 60;

/// Weight of the newest output in the moving average: one part in so many.
const AVERAGE_WEIGHT: i64 = 8;
/// Parts of a token in which the average is kept.
const AVERAGE_PARTS: i64 = 16;

/// What is taken of the limits.
#[derive(Clone, Copy, Default)]
pub(super) struct Account {
    requests: Option<Bucket>,
    tokens: Option<Bucket>,
    in_flight: u32,
    /// Nano-dollars that requests in flight may cost.
    reserved: u64,
    /// Moving average of outputs, in parts; 0 before the first.
    average: i64,
}

impl Account {
    /// Checks every limit: the nano-dollars that the request may hold, no more than it asks for. A refusal is yet
    /// without its level and the state of the limits.
    pub(super) fn has_room(
        &mut self,
        limits: &Limits,
        spent: impl FnOnce() -> Option<Spent>,
        request: &ReservationRequest,
        now: u64,
    ) -> Result<u64, Refused> {
        self.refill(limits, now);
        if let Some(maximum) = limits.concurrent.filter(|&maximum| self.in_flight >= maximum) {
            return Err(refused(Limit::Concurrent, maximum.into(), 1, Some(UNCERTAIN)));
        }
        // What costs nothing is not refused for money.
        let nano_usd = match request.money.filter(|_| limits.has_budget()) {
            Some(money) => within_budgets(limits, spent(), self.reserved, money)?,
            None => request.nano_usd(),
        };
        self.within_buckets(limits, request).map(|()| nano_usd)
    }

    /// Brings the buckets to the present; those of limits that are new start full.
    pub(super) fn refill(&mut self, limits: &Limits, now: u64) {
        let refill = |bucket: &mut Option<Bucket>, rate: Option<Rate>| {
            if let Some(rate) = rate {
                bucket.get_or_insert_with(|| Bucket::full(rate, now)).refill(rate, now);
            }
        };
        refill(&mut self.requests, limits.requests);
        refill(&mut self.tokens, limits.tokens);
    }

    /// Checks the buckets.
    #[inline]
    fn within_buckets(&self, limits: &Limits, request: &ReservationRequest) -> Result<(), Refused> {
        let wait = |rate: &Option<Rate>, bucket: &Option<Bucket>, tokens| match (rate, bucket) {
            (Some(rate), Some(bucket)) => bucket.has_now(*rate, tokens).err(),
            _ => None,
        };
        let requests_wait = wait(&limits.requests, &self.requests, 1);
        // Who needs no tokens is not kept waiting by a debt of them.
        let tokens_wait = if request.tokens > 0 { wait(&limits.tokens, &self.tokens, request.tokens) } else { None };
        match (requests_wait, tokens_wait) {
            (None, None) => Ok(()),
            _ => Err(longer_wait(limits, request, requests_wait, tokens_wait)),
        }
    }

    /// Takes what was checked at the same instant. What was taken of limits that are lifted is forgotten.
    pub(super) fn take(&mut self, limits: &Limits, tokens: u64, nano_usd: u64) {
        let take = |bucket: &mut Option<Bucket>, rate: Option<Rate>, count: u64| match (&mut *bucket, rate) {
            (Some(bucket), Some(_)) => bucket.take_now(count),
            _ => *bucket = None,
        };
        take(&mut self.requests, limits.requests, 1);
        take(&mut self.tokens, limits.tokens, limits.tokens.map_or(0, |rate| tokens.min(debt_max(rate))));
        self.in_flight += 1;
        self.reserved += nano_usd;
    }

    /// Ends a request in flight: gives back its reservation's money and tokens, and so many requests.
    pub(super) fn give_back(&mut self, limits: &Limits, reservation: &Reservation, requests: u64, now: u64) {
        self.in_flight -= 1;
        self.reserved -= reservation.nano_usd;
        if let (Some(bucket), Some(rate)) = (&mut self.tokens, limits.tokens) {
            bucket.give_back(rate, now, reservation.tokens);
        }
        if let (Some(bucket), Some(rate), true) = (&mut self.requests, limits.requests, requests > 0) {
            bucket.give_back(rate, now, requests);
        }
    }

    /// Takes tokens that were used, down into debt: no more at once than flow in within an hour, so that one absurd
    /// number shuts nobody out for days.
    pub(super) fn charge(&mut self, limits: &Limits, tokens: u64, now: u64) {
        if let (Some(bucket), Some(rate)) = (&mut self.tokens, limits.tokens) {
            bucket.take(rate, now, tokens.min(debt_max(rate)));
        }
    }

    /// The moving average of outputs, tokens; `None` before the first.
    pub(super) fn average_output(&self) -> Option<u64> {
        (self.average > 0).then(|| (self.average / AVERAGE_PARTS).cast_unsigned())
    }

    /// Adds an output to the average.
    pub(super) fn add_output(&mut self, tokens: u64) {
        let parts = i64::try_from(tokens).unwrap_or(i64::MAX).saturating_mul(AVERAGE_PARTS).max(1);
        let before = if self.average == 0 { parts } else { self.average };
        self.average = (before + (parts - before) / AVERAGE_WEIGHT).max(1);
    }

    /// How much of each limit is used; of budgets where what is spent is known.
    pub(super) fn uses(
        mut self,
        level: LimitLevel,
        name: &str,
        limits: &Limits,
        spent: Option<Spent>,
        now: Now,
    ) -> Vec<LimitUse> {
        self.refill(limits, now.mono);
        let RateLimitStatus { requests, tokens } = tightest(&[Some(Limited { level, limits, account: &mut self })]);
        let period = Period::of(now.unix);
        let end = |day: i64| Some(day.unsigned_abs() * DAY);
        let of_bucket = |limit, bucket: Option<BucketStatus>| {
            let BucketStatus { limit: maximum, remaining, reset } = bucket?;
            Some((limit, maximum.saturating_sub(remaining), maximum, Some(now.unix.saturating_add(reset))))
        };
        let of_budget = |limit, spent: Option<u64>, budget: Option<u64>, reset| Some((limit, spent?, budget?, reset));
        let in_flight = self.in_flight.into();
        let uses = [
            of_bucket(Limit::Requests, requests),
            of_bucket(Limit::Tokens, tokens),
            limits.concurrent.map(|maximum| (Limit::Concurrent, in_flight, maximum.into(), None)),
            of_budget(Limit::BudgetDay, spent.map(|spent| spent.day), limits.day_nano_usd, end(period.day + 1)),
            of_budget(
                Limit::BudgetMonth,
                spent.map(|spent| spent.month),
                limits.month_nano_usd,
                end(first_day_of_month(period.month + 1)),
            ),
        ];
        let use_of = |(limit, used, maximum, reset_at)| LimitUse {
            level,
            name: name.to_owned(),
            limit,
            used,
            maximum,
            reset_at,
        };
        uses.into_iter().flatten().map(use_of).collect()
    }

    /// Requests in flight, and the nano-dollars reserved for them.
    pub(super) fn outstanding(&self) -> (u64, u64) {
        (self.in_flight.into(), self.reserved)
    }

    /// True where a new account would be in the same state, but for the average.
    pub(super) fn is_evictable(&self, limits: &Limits, now: u64) -> bool {
        let is_full = |bucket: Option<Bucket>, rate: Option<Rate>| {
            bucket.zip(rate).is_none_or(|(bucket, rate)| bucket.full_at(rate) <= now)
        };
        self.in_flight == 0 && is_full(self.requests, limits.requests) && is_full(self.tokens, limits.tokens)
    }
}

/// An account to check or to take from, with its limits.
pub(super) struct Limited<'a> {
    pub(super) level: LimitLevel,
    pub(super) limits: &'a Limits,
    pub(super) account: &'a mut Account,
}

/// How the limits stand: of each kind the tightest, by the whole requests or tokens that are left.
pub(super) fn tightest<'a>(accounts: &'a [Option<Limited<'_>>]) -> RateLimitStatus {
    let of_kind = |kind: fn(&Limits) -> &Option<Rate>, bucket: fn(&Account) -> &Option<Bucket>| {
        let both = |of: &'a Limited<'_>| kind(of.limits).as_ref().zip(bucket(of.account).as_ref());
        let buckets = accounts.iter().flatten().filter_map(both);
        let (rate, bucket) = buckets.reduce(|one, other| if other.1.has_less(one.1) { other } else { one })?;
        Some(BucketStatus { limit: rate.burst, remaining: bucket.remaining(), reset: bucket.time_to_full(*rate) })
    };
    RateLimitStatus {
        requests: of_kind(|limits| &limits.requests, |account| &account.requests),
        tokens: of_kind(|limits| &limits.tokens, |account| &account.tokens),
    }
}

/// Checks the budgets: what is spent, what requests in flight may cost and what this one may are within each. Where it
/// is the only one, or shares by its average, what is left will do. Where nobody knows what is spent, nothing is let
/// through. Returns what it may hold, nano-dollars.
pub(super) fn within_budgets(
    limits: &Limits,
    spent: Option<Spent>,
    reserved: u64,
    money: Money,
) -> Result<u64, Refused> {
    let Some(spent) = spent else { return Err(refused(Limit::BudgetUnknown, 0, 0, Some(UNCERTAIN))) };
    let may_hold = within_budget(Limit::BudgetDay, limits.day_nano_usd, spent.day, reserved, money)?;
    Ok(may_hold.min(within_budget(Limit::BudgetMonth, limits.month_nano_usd, spent.month, reserved, money)?))
}

fn within_budget(limit: Limit, budget: Option<u64>, spent: u64, reserved: u64, money: Money) -> Result<u64, Refused> {
    let Some(budget) = budget else { return Ok(money.nano_usd) };
    let unspent = budget.saturating_sub(spent);
    let free = unspent.saturating_sub(reserved);
    let refused =
        |requested, retry_after| Err(Refused { left: unspent, ..refused(limit, budget, requested, retry_after) });
    if unspent == 0 {
        return refused(0, None);
    }
    if money.least_nano_usd > unspent {
        return refused(money.least_nano_usd, None);
    }
    let fits = money.nano_usd <= free;
    let will_do = free >= money.least_nano_usd.max(1) && (reserved == 0 || money.may_share);
    if !fits && !will_do {
        return refused(money.nano_usd, Some(UNCERTAIN));
    }
    Ok(money.nano_usd.min(free))
}

/// Of two buckets that deny, the one with the longer wait is told.
#[cold]
fn longer_wait(
    limits: &Limits,
    request: &ReservationRequest,
    requests_wait: Option<u64>,
    tokens_wait: Option<u64>,
) -> Refused {
    let per_minute = |rate: Option<Rate>| rate.map_or(0, |rate| rate.per_minute);
    if tokens_wait.is_some() {
        // What is more than a full bucket never is there.
        let retry_after = tokens_wait.filter(|_| limits.tokens.is_none_or(|rate| request.tokens <= rate.burst));
        if retry_after.is_none() || retry_after > requests_wait {
            return refused(Limit::Tokens, per_minute(limits.tokens), request.tokens, retry_after);
        }
    }
    refused(Limit::Requests, per_minute(limits.requests), 1, requests_wait)
}

/// Most tokens by which one report may take a bucket down.
fn debt_max(rate: Rate) -> u64 {
    rate.per_minute.saturating_mul(DEBT_MINUTES_MAX)
}

#[cold]
fn refused(limit: Limit, maximum: u64, requested: u64, retry_after: Option<u64>) -> Refused {
    let (level, limit_status) = (LimitLevel::User, RateLimitStatus::default());
    Refused { level, limit, limit_status, maximum, requested, left: 0, retry_after }
}
