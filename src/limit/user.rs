//! One user's token buckets, requests in flight and reserved money: the checks of an admission, and its settlement.
//!
//! In: the user's limits as they are now, and what a request may take. Out: a reservation, or which limit denies it.
//! Never: a name, or who else there is.

use super::bucket::{Bucket, Rate};
use super::budget::Spent;
use super::overrides::Limits;
use super::reservation::{Money, Reservation, ReservationRequest};
use super::status::{BucketStatus, Limit, RateLimitStatus, Refused};
use crate::base::clock::{Now, SECOND};

/// When to try again where that depends on other requests' ends, or on the ledger.
const UNCERTAIN: u64 = SECOND;

/// What one report may put a user into debt of tokens, minutes.
const DEBT_MINUTES_MAX: u64 = 60;

/// Weight of the newest output in the moving average: one part in so many.
const AVERAGE_WEIGHT: i64 = 8;
/// Parts of a token in which the average is kept.
const AVERAGE_PARTS: i64 = 16;

/// What a user has taken of their limits.
#[derive(Clone, Copy, Default)]
pub(super) struct UserState {
    requests: Option<Bucket>,
    tokens: Option<Bucket>,
    in_flight: u32,
    /// Nano-dollars that requests in flight may cost.
    reserved: u64,
    /// Moving average of outputs, in parts; 0 before the first.
    average: i64,
}

impl UserState {
    /// Checks every limit, then takes from all.
    pub(super) fn try_take(
        &mut self,
        limits: &Limits,
        spent: impl FnOnce() -> Option<Spent>,
        mut request: ReservationRequest,
        now: Now,
    ) -> Result<Reservation, Refused> {
        self.refill(limits, now.mono);
        let asked = request.nano_usd();
        let checked = self.has_room(limits, spent, &mut request, now.mono);
        checked.map_err(|refused| Refused { limit_status: self.limit_status(limits), ..refused })?;
        self.take(limits, &request, now.mono);
        let nano_usd = request.nano_usd();
        let worst_nano_usd = if asked == u64::MAX { nano_usd } else { asked };
        Ok(Reservation { tokens: request.tokens, nano_usd, worst_nano_usd, tracked: true })
    }

    /// Checks every limit, and cuts a guess to what may be had. A refusal is yet without the state of the limits.
    fn has_room(
        &mut self,
        limits: &Limits,
        spent: impl FnOnce() -> Option<Spent>,
        request: &mut ReservationRequest,
        now: u64,
    ) -> Result<(), Refused> {
        if let Some(maximum) = limits.concurrent.filter(|&maximum| self.in_flight >= maximum) {
            return Err(refused(Limit::Concurrent, maximum.into(), 1, Some(UNCERTAIN)));
        }
        // What costs nothing is not refused for money.
        if let Some(money) = request.money.as_mut().filter(|_| limits.has_budget()) {
            within_budgets(limits, spent(), self.reserved, money)?;
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

    /// Checks the buckets, and cuts a guess to what a full one holds. Of two that deny, the one with the longer wait
    /// is told.
    fn within_buckets(&mut self, limits: &Limits, request: &mut ReservationRequest, now: u64) -> Result<(), Refused> {
        let mut denied: Option<Refused> = None;
        if let (Some(rate), Some(bucket)) = (limits.requests, &mut self.requests)
            && let Err(wait) = bucket.has(rate, now, 1)
        {
            denied = Some(refused(Limit::Requests, rate.per_minute, 1, Some(wait)));
        }
        // Who needs no tokens is not kept waiting by a debt of them.
        if let (Some(rate), Some(bucket), true) = (limits.tokens, &mut self.tokens, request.tokens > 0) {
            if request.guessed {
                request.tokens = request.tokens.min(rate.burst);
            }
            let wait = bucket.has(rate, now, request.tokens).err();
            let retry_after = wait.filter(|_| request.tokens <= rate.burst);
            let requests_wait = denied.and_then(|denied| denied.retry_after);
            if wait.is_some() && (retry_after.is_none() || retry_after > requests_wait) {
                denied = Some(refused(Limit::Tokens, rate.per_minute, request.tokens, retry_after));
            }
        }
        denied.map_or(Ok(()), Err)
    }

    fn take(&mut self, limits: &Limits, request: &ReservationRequest, now: u64) {
        if let (Some(bucket), Some(rate)) = (&mut self.requests, limits.requests) {
            bucket.take(rate, now, 1);
        }
        self.charge(limits, request.tokens, now);
        self.in_flight += 1;
        self.reserved += request.nano_usd();
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

    /// Requests in flight, and the nano-dollars reserved for them.
    pub(super) fn outstanding(&self) -> (u64, u64) {
        (self.in_flight.into(), self.reserved)
    }

    /// True where a new user would be in the same state, but for the average.
    pub(super) fn is_evictable(&self, limits: &Limits, now: u64) -> bool {
        let is_full = |bucket: Option<Bucket>, rate: Option<Rate>| {
            bucket.zip(rate).is_none_or(|(bucket, rate)| bucket.full_at(rate) <= now)
        };
        self.in_flight == 0 && is_full(self.requests, limits.requests) && is_full(self.tokens, limits.tokens)
    }
}

/// Checks the budgets: what is spent, what requests in flight may cost and what this one may are within each. Where it
/// is the only one, or shares by its average, what is left will do. Where nobody knows what is spent, nothing is let
/// through.
pub(super) fn within_budgets(
    limits: &Limits,
    spent: Option<Spent>,
    reserved: u64,
    money: &mut Money,
) -> Result<(), Refused> {
    let Some(spent) = spent else { return Err(refused(Limit::BudgetUnknown, 0, 0, Some(UNCERTAIN))) };
    let budgets =
        [(Limit::BudgetDay, limits.day_nano_usd, spent.day), (Limit::BudgetMonth, limits.month_nano_usd, spent.month)];
    for (limit, budget, spent) in budgets {
        let Some(budget) = budget else { continue };
        let unspent = budget.saturating_sub(spent);
        let free = unspent.saturating_sub(reserved);
        if unspent == 0 {
            return Err(refused(limit, budget, 0, None));
        }
        if money.least_nano_usd > unspent {
            return Err(refused(limit, budget, money.least_nano_usd, None));
        }
        let fits = money.nano_usd <= free;
        let will_do = free >= money.least_nano_usd.max(1) && (reserved == 0 || money.may_share);
        if !fits && !will_do {
            return Err(refused(limit, budget, money.nano_usd, Some(UNCERTAIN)));
        }
        money.nano_usd = money.nano_usd.min(free);
    }
    Ok(())
}

fn refused(limit: Limit, maximum: u64, requested: u64, retry_after: Option<u64>) -> Refused {
    Refused { limit, limit_status: RateLimitStatus::default(), maximum, requested, retry_after }
}
