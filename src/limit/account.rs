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
        self.within_buckets(limits, request, now).map(|()| nano_usd)
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

    /// Checks the buckets. Of two that deny, the one with the longer wait is told.
    fn within_buckets(&mut self, limits: &Limits, request: &ReservationRequest, now: u64) -> Result<(), Refused> {
        let mut denied: Option<Refused> = None;
        if let (Some(rate), Some(bucket)) = (limits.requests, &mut self.requests)
            && let Err(wait) = bucket.has(rate, now, 1)
        {
            denied = Some(refused(Limit::Requests, rate.per_minute, 1, Some(wait)));
        }
        // Who needs no tokens is not kept waiting by a debt of them.
        if let (Some(rate), Some(bucket), true) = (limits.tokens, &mut self.tokens, request.tokens > 0) {
            let wait = bucket.has(rate, now, request.tokens).err();
            let retry_after = wait.filter(|_| request.tokens <= rate.burst);
            let requests_wait = denied.and_then(|denied| denied.retry_after);
            if wait.is_some() && (retry_after.is_none() || retry_after > requests_wait) {
                denied = Some(refused(Limit::Tokens, rate.per_minute, request.tokens, retry_after));
            }
        }
        denied.map_or(Ok(()), Err)
    }

    /// Takes what was checked before.
    pub(super) fn take(&mut self, limits: &Limits, tokens: u64, nano_usd: u64, now: u64) {
        if let (Some(bucket), Some(rate)) = (&mut self.requests, limits.requests) {
            bucket.take(rate, now, 1);
        }
        self.charge(limits, tokens, now);
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
        if let (Some(bucket), Some(rate)) = (&mut self.requests, limits.requests) {
            bucket.give_back(rate, now, requests);
        }
    }

    /// Takes tokens that were used, down into debt: no more at once than flow in within an hour, so that one absurd
    /// number shuts nobody out for days.
    pub(super) fn charge(&mut self, limits: &Limits, tokens: u64, now: u64) {
        if let (Some(bucket), Some(rate)) = (&mut self.tokens, limits.tokens) {
            bucket.take(rate, now, tokens.min(rate.per_minute.saturating_mul(DEBT_MINUTES_MAX)));
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

    pub(super) fn limit_status(&self, limits: &Limits) -> RateLimitStatus {
        let status = |bucket: Option<Bucket>, rate: Option<Rate>| {
            let (bucket, rate) = (bucket?, rate?);
            Some(BucketStatus { limit: rate.burst, remaining: bucket.remaining(), reset: bucket.time_to_full(rate) })
        };
        RateLimitStatus { requests: status(self.requests, limits.requests), tokens: status(self.tokens, limits.tokens) }
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
        let RateLimitStatus { requests, tokens } = self.limit_status(limits);
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
    let mut nano_usd = money.nano_usd;
    let budgets =
        [(Limit::BudgetDay, limits.day_nano_usd, spent.day), (Limit::BudgetMonth, limits.month_nano_usd, spent.month)];
    for (limit, budget, spent) in budgets {
        let Some(budget) = budget else { continue };
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
        nano_usd = nano_usd.min(free);
    }
    Ok(nano_usd)
}

fn refused(limit: Limit, maximum: u64, requested: u64, retry_after: Option<u64>) -> Refused {
    let (level, limit_status) = (LimitLevel::User, RateLimitStatus::default());
    Refused { level, limit, limit_status, maximum, requested, left: 0, retry_after }
}
