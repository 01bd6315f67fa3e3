//! What a node of a fleet holds of its limits: a purse of each account, how accounts are called, and what a request
//! needs of which.
//!
//! In: limits, a payer, `now`. Out: rooms, refusals. Never: what is in flight or spent, which it is told.

use super::account::Account;
use super::budget::{Period, Spent};
use super::lease::{Ask, Kind, Terms, write_account};
use super::levels::{LimitLevel, Payer};
use super::overrides::Limits;
use super::purse::{Demand, OnOutage, Outage, Room};
use super::purses::Purses;
use super::reservation::{Money, ReservationRequest};
use super::status::{Limit, RateLimitStatus, Refused};
use crate::base::civil::write_rfc3339;
use crate::base::clock::{DAY, Now, SECOND};

/// What this node holds of the fleet's limits.
pub(super) struct Holdings {
    pub(super) purses: Purses,
    pub(super) policy: OnOutage,
    /// Nodes that live, this one included.
    pub(super) nodes: i64,
    pub(super) is_away: bool,
    /// When the engine was heard of last, and for how long it must not have been to be out of reach: a request waits so
    /// long.
    pub(super) heard_at: u64,
    pub(super) wait: u64,
    /// Until then this node is joining: that no answer comes is no outage yet. 0 once one has come.
    pub(super) joins_until: u64,
    pub(super) beat_at: u64,
    /// A message is due, though it may say nothing: so that the engine can.
    pub(super) is_beating: bool,
    pub(super) asks: Vec<Ask>,
    /// The name of the account at hand.
    pub(super) account: String,
    pub(super) dates: Dates,
}

/// The names of the present day and month.
#[derive(Default)]
pub(super) struct Dates {
    day: i64,
    text: String,
}

impl Dates {
    pub(super) fn turn_to(&mut self, now: Now) {
        let day = Period::of(now.unix).day;
        if day != self.day || self.text.is_empty() {
            let mut text = Vec::new();
            write_rfc3339(&mut text, day.unsigned_abs().saturating_mul(DAY), 0);
            text.truncate("2026-12-01".len());
            (self.day, self.text) = (day, String::from_utf8_lossy(&text).into_owned());
        }
    }

    /// What the accounts of a limit are called by, beside their name.
    pub(super) fn of(&self, limit: Limit) -> &str {
        match limit {
            Limit::BudgetDay => &self.text,
            Limit::BudgetMonth => &self.text[.."2026-12".len()],
            _ => "",
        }
    }
}

/// How long a process that begins waits for the first answer of the engine, whose schema it may have to make.
pub(super) const JOIN_MAX: u64 = 5 * SECOND;

/// No money at all.
pub(super) const NOTHING: Money = Money { nano_usd: 0, least_nano_usd: 0, may_share: true };

/// Why a request gets nothing now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRoom {
    /// A limit is reached.
    Refused(Refused),
    /// The engine is asked: worth another try when it has answered.
    Asked,
    /// The engine is out of reach, and nothing is let through without it.
    OutOfReach,
}

/// One limit of a level: what stands for it in a fleet, and what a request needs of it.
pub(super) struct Claim {
    pub(super) limit: Limit,
    pub(super) terms: Terms,
    pub(super) demand: Demand,
}

/// The limits of a level that a request is under.
pub(super) fn claims(limits: &Limits, request: &ReservationRequest) -> impl Iterator<Item = Claim> {
    let tokens = limits.tokens.filter(|_| request.tokens > 0);
    let money = request.money;
    let budget = |limit, cap: Option<u64>| {
        let (cap, money) = (cap?, money?);
        let terms = Terms::of_stock(Kind::Budget, cap);
        let units = |nano_usd: u64| i64::try_from(nano_usd).unwrap_or(i64::MAX);
        let need = units(money.nano_usd).min(terms.cap);
        let demand = Demand { need, least: units(money.least_nano_usd), may_share: money.may_share };
        Some(Claim { limit, terms, demand })
    };
    let all = |limit, terms, need: u64| {
        let need = i64::try_from(need).unwrap_or(i64::MAX);
        Claim { limit, terms, demand: Demand::all(need) }
    };
    [
        limits.concurrent.map(|count| all(Limit::Concurrent, Terms::of_stock(Kind::Slots, count.into()), 1)),
        budget(Limit::BudgetDay, limits.day_nano_usd),
        budget(Limit::BudgetMonth, limits.month_nano_usd),
        limits.requests.map(|rate| all(Limit::Requests, Terms::of_rate(Kind::Requests, rate), 1)),
        tokens.map(|rate| all(Limit::Tokens, Terms::of_rate(Kind::Tokens, rate), request.tokens)),
    ]
    .into_iter()
    .flatten()
}

/// What is spent of slots or money by an account, and how much of it may come back.
pub(super) fn spent_of(limit: Limit, account: &Account, spent: Spent) -> (i64, i64) {
    let (in_flight, reserved) = account.outstanding();
    let (spent, held) = match limit {
        Limit::BudgetDay => (spent.day.saturating_add(reserved), reserved),
        Limit::BudgetMonth => (spent.month.saturating_add(reserved), reserved),
        _ => (in_flight, in_flight),
    };
    let units = |count: u64| i64::try_from(count).unwrap_or(i64::MAX / 4).min(i64::MAX / 4);
    (units(spent), units(held))
}

/// The name of a level's account.
fn name<'a>(level: LimitLevel, payer: Payer<'a>) -> &'a str {
    match level {
        LimitLevel::User => payer.user,
        LimitLevel::Team => payer.team.unwrap_or_default(),
        LimitLevel::Total => "",
    }
}

impl Holdings {
    /// Nothing; a lease lasts so many nanoseconds, and a request waits so many at most.
    pub(super) fn new(lasts: u64, wait: u64, policy: OnOutage) -> Self {
        Self {
            purses: Purses::new(0, lasts),
            policy,
            nodes: 1,
            is_away: false,
            heard_at: 0,
            wait,
            joins_until: u64::MAX,
            beat_at: 0,
            is_beating: false,
            asks: Vec::new(),
            account: String::new(),
            dates: Dates::default(),
        }
    }

    fn outage(&self, has_waited: bool) -> Option<Outage> {
        (self.is_away || has_waited).then_some(Outage { policy: self.policy, nodes: self.nodes })
    }

    /// Names the account at hand.
    pub(super) fn at(&mut self, limit: Limit, kind: Kind, level: LimitLevel, payer: Payer<'_>, now: Now) {
        self.dates.turn_to(now);
        write_account(&mut self.account, kind, level, self.dates.of(limit), name(level, payer));
    }

    /// Whether there is room in one account, which has spent so much of what does not decay.
    pub(super) fn room(&mut self, claim: &Claim, spent: (i64, i64), has_waited: bool, now: Now) -> Room {
        let outage = self.outage(has_waited);
        if !claim.terms.kind.decays() {
            self.purses.purse(&self.account, claim.terms, now).set_spent(spent.0, spent.1);
        }
        self.purses.room(&self.account, claim.terms, claim.demand, outage, now)
    }

    /// How a request is refused for what the account at hand says.
    pub(super) fn refusal(&mut self, level: LimitLevel, claim: &Claim, wait: u64) -> Refused {
        let (terms, demand) = (claim.terms, claim.demand);
        let refused = Refused {
            level,
            limit: claim.limit,
            limit_status: RateLimitStatus::default(),
            maximum: if terms.kind.decays() { terms.per_minute } else { terms.cap }.unsigned_abs(),
            requested: demand.need.unsigned_abs(),
            left: 0,
            retry_after: Some(wait),
        };
        let left = self.purses.get_mut(&self.account).and_then(|purse| purse.left());
        let Some(left) = left.filter(|_| terms.kind == Kind::Budget) else { return refused };
        let refused = Refused { left: left.unsigned_abs(), ..refused };
        match left {
            0 => Refused { requested: 0, retry_after: None, ..refused },
            left if demand.least > left => {
                Refused { requested: demand.least.unsigned_abs(), retry_after: None, ..refused }
            }
            _ => refused,
        }
    }
}

/// Nobody knows yet what is spent of a budget.
pub(super) fn unknown(level: LimitLevel) -> Refused {
    Refused {
        level,
        limit: Limit::BudgetUnknown,
        limit_status: RateLimitStatus::default(),
        maximum: 0,
        requested: 0,
        left: 0,
        retry_after: Some(SECOND),
    }
}

/// More is needed than there ever is.
pub(super) fn never(level: LimitLevel, claim: &Claim) -> Refused {
    Refused {
        limit: claim.limit,
        maximum: claim.terms.cap.unsigned_abs(),
        requested: claim.demand.least.unsigned_abs(),
        retry_after: None,
        ..unknown(level)
    }
}
