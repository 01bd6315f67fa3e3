//! The limiter of a node in a fleet: each limit is an account that the fleet's engine keeps, and a request takes from what
//! this node holds of it.
//!
//! The accounts of [`Limiter`] go on to count requests in flight and reserved money; purses take the place of its
//! buckets, and of what is left of budgets. Who finds a purse cold waits; [`NoRoom::Asked`] says so.

use super::{Drafts, Limiter, is_longer, smallest, within_bursts};
use crate::base::civil::write_rfc3339;
use crate::base::clock::{DAY, Now};
use crate::limit::account::Account;
use crate::limit::budget::{Period, Spent};
use crate::limit::lease::{Answer, Ask, Heard, Kind, Terms, write_account};
use crate::limit::levels::{LimitLevel, Payer};
use crate::limit::overrides::Limits;
use crate::limit::purse::{BEAT, Demand, OnOutage, Outage, Room};
use crate::limit::purses::Purses;
use crate::limit::reservation::{Money, Reservation, ReservationRequest};
use crate::limit::status::{Limit, RateLimitStatus, Refused};
use std::sync::Arc;

/// What this node holds of the fleet's limits.
pub(super) struct Leases {
    purses: Purses,
    policy: OnOutage,
    /// Nodes that live, this one included.
    nodes: i64,
    is_away: bool,
    beat_at: u64,
    /// A message is due, though it may say nothing: so that the engine can.
    is_beating: bool,
    asks: Vec<Ask>,
    /// The name of the account at hand.
    account: String,
    dates: Dates,
}

/// The names of the present day and month.
#[derive(Default)]
struct Dates {
    day: i64,
    text: String,
}

impl Dates {
    fn turn_to(&mut self, now: Now) {
        let day = Period::of(now.unix).day;
        if day != self.day || self.text.is_empty() {
            let mut text = Vec::new();
            write_rfc3339(&mut text, day.unsigned_abs().saturating_mul(DAY), 0);
            text.truncate("2026-12-01".len());
            (self.day, self.text) = (day, String::from_utf8_lossy(&text).into_owned());
        }
    }

    /// What the accounts of a limit are called by, beside their name.
    fn of(&self, limit: Limit) -> &str {
        match limit {
            Limit::BudgetDay => &self.text,
            Limit::BudgetMonth => &self.text[.."2026-12".len()],
            _ => "",
        }
    }
}

/// No money at all.
const NOTHING: Money = Money { nano_usd: 0, least_nano_usd: 0, may_share: true };

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
struct Claim {
    limit: Limit,
    terms: Terms,
    demand: Demand,
}

/// The limits of a level that a request is under.
fn claims(limits: &Limits, request: &ReservationRequest) -> impl Iterator<Item = Claim> {
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
fn spent_of(limit: Limit, account: &Account, spent: Spent) -> (i64, i64) {
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

impl Leases {
    fn outage(&self, has_waited: bool) -> Option<Outage> {
        (self.is_away || has_waited).then_some(Outage { policy: self.policy, nodes: self.nodes })
    }

    /// Names the account at hand.
    fn at(&mut self, limit: Limit, kind: Kind, level: LimitLevel, payer: Payer<'_>, now: Now) {
        self.dates.turn_to(now);
        write_account(&mut self.account, kind, level, self.dates.of(limit), name(level, payer));
    }

    /// Whether there is room in one account, which has spent so much of what does not decay.
    fn room(&mut self, claim: &Claim, spent: (i64, i64), has_waited: bool, now: Now) -> Room {
        let outage = self.outage(has_waited);
        if !claim.terms.kind.decays() {
            self.purses.purse(&self.account, claim.terms, now).set_spent(spent.0, spent.1);
        }
        self.purses.room(&self.account, claim.terms, claim.demand, outage, now)
    }

    /// How a request is refused for what the account at hand says.
    fn refusal(&mut self, level: LimitLevel, claim: &Claim, wait: u64) -> Refused {
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

impl Limiter {
    /// From here on the limits are the fleet's: a lease lasts so long, nanoseconds.
    pub fn join_fleet(&mut self, lasts: u64, policy: OnOutage) {
        self.leases = Some(Box::new(Leases {
            purses: Purses::new(0, lasts),
            policy,
            nodes: 1,
            is_away: false,
            beat_at: 0,
            is_beating: false,
            asks: Vec::new(),
            account: String::new(),
            dates: Dates::default(),
        }));
    }

    /// True where the limits are a fleet's.
    pub fn is_in_fleet(&self) -> bool {
        self.leases.is_some()
    }

    /// The same as [`Limiter::admit`], of a fleet's limits where there is one. `has_waited` is true for one that has waited
    /// for the engine as long as it may.
    ///
    /// # Errors
    /// Why it gets nothing now.
    pub fn take<'a>(
        &mut self,
        payer: impl Into<Payer<'a>>,
        request: ReservationRequest,
        has_waited: bool,
        now: Now,
    ) -> Result<(Reservation, RateLimitStatus), NoRoom> {
        if self.leases.is_none() {
            return self.admit(payer, request, now).map_err(NoRoom::Refused);
        }
        let payer = payer.into();
        self.evict_for_admission(now);
        let mut drafts = self.drafts(payer);
        let request = within_bursts(&drafts, request);
        let nano_usd = self.find_room(payer, &drafts, &request, has_waited, now)?;
        let levels = std::array::from_fn(|level| drafts[level].is_some());
        if levels == [false; 3] {
            return Ok(Default::default());
        }
        for (limits, account) in drafts.iter_mut().flatten() {
            account.take(limits, request.tokens, nano_usd, now.mono);
        }
        self.take_leased(payer, &drafts, &request, now);
        let limit_status = self.leased_status(payer, &drafts, now);
        self.put_back(payer, drafts, now.mono);
        let asked = request.nano_usd();
        let worst_nano_usd = if asked == u64::MAX { nano_usd } else { asked };
        Ok((Reservation { tokens: request.tokens, nano_usd, worst_nano_usd, levels }, limit_status))
    }

    /// The same as [`Limiter::check`], of a fleet's limits where there is one: the engine is asked for what is cold.
    ///
    /// # Errors
    /// The limit that refuses; or [`NoRoom::OutOfReach`].
    pub fn may_come<'a>(&mut self, payer: impl Into<Payer<'a>>, may_cost: bool, now: Now) -> Result<(), NoRoom> {
        if self.leases.is_none() {
            return self.check(payer, may_cost, now).map_err(NoRoom::Refused);
        }
        let payer = payer.into();
        let drafts = self.drafts(payer);
        match self.find_room(payer, &drafts, &smallest(may_cost), false, now) {
            Ok(_) | Err(NoRoom::Asked) => Ok(()),
            Err(why) => Err(why),
        }
    }

    /// Whether every account has room: the nano-dollars that the request may hold. Of several limits that refuse it, the
    /// one with the longest wait is told.
    fn find_room(
        &mut self,
        payer: Payer<'_>,
        drafts: &Drafts,
        request: &ReservationRequest,
        has_waited: bool,
        now: Now,
    ) -> Result<u64, NoRoom> {
        let Some(leases) = &mut self.leases else { return Ok(request.nano_usd()) };
        let (mut nano_usd, mut denied, mut why) = (request.nano_usd(), None::<Refused>, None);
        let levels = LimitLevel::ALL.into_iter().zip(drafts);
        for (level, (limits, account)) in levels.filter_map(|(level, draft)| Some((level, draft.as_ref()?))) {
            for claim in claims(limits, request) {
                let kind = claim.terms.kind;
                let spent = match kind {
                    Kind::Budget => self.spending.of(level, payer, now.unix),
                    _ => Some(Spent::default()),
                };
                leases.at(claim.limit, kind, level, payer, now);
                let refused = match spent {
                    None => Some(unknown(level)),
                    Some(_) if claim.demand.least > claim.terms.cap => Some(never(level, &claim)),
                    Some(spent) => {
                        let spent = spent_of(claim.limit, account, spent);
                        match leases.room(&claim, spent, has_waited, now) {
                            Room::Enough(units) if kind == Kind::Budget => {
                                nano_usd = nano_usd.min(units.unsigned_abs());
                                None
                            }
                            Room::Enough(_) => None,
                            Room::Cold => {
                                why = Some(NoRoom::Asked);
                                None
                            }
                            Room::OutOfReach => {
                                why = why.or(Some(NoRoom::OutOfReach));
                                None
                            }
                            Room::Refused(wait) => Some(leases.refusal(level, &claim, wait)),
                        }
                    }
                };
                if let Some(refused) = refused
                    && denied.is_none_or(|denied| is_longer(refused.retry_after, denied.retry_after))
                {
                    denied = Some(refused);
                }
            }
        }
        if let Some(denied) = denied {
            let limit_status = self.leased_status(payer, drafts, now);
            return Err(NoRoom::Refused(Refused { limit_status, ..denied }));
        }
        why.map_or(Ok(nano_usd), Err)
    }

    /// Takes from the purses what there was room for.
    fn take_leased(&mut self, payer: Payer<'_>, drafts: &Drafts, request: &ReservationRequest, now: Now) {
        let Some(leases) = &mut self.leases else { return };
        for (level, draft) in LimitLevel::ALL.into_iter().zip(drafts) {
            let Some((limits, account)) = draft else { continue };
            for claim in claims(limits, request) {
                leases.at(claim.limit, claim.terms.kind, level, payer, now);
                let purse = leases.purses.purse(&leases.account, claim.terms, now);
                if claim.terms.kind.decays() {
                    purse.take(claim.demand.need, now);
                } else {
                    let spent = self.spending.last_known(level, payer).unwrap_or_default();
                    let (spent, held) = spent_of(claim.limit, account, spent);
                    purse.set_spent(spent, held);
                }
            }
        }
    }

    /// Gives back so many requests and tokens of a level, or charges tokens, and tells the purses of slots and money how
    /// its account is.
    pub(super) fn settle_leased(
        &mut self,
        payer: Payer<'_>,
        level: LimitLevel,
        limits: &Limits,
        [requests, tokens, charged]: [u64; 3],
        now: Now,
    ) {
        let Some(leases) = &mut self.leases else { return };
        let units = |count: u64| i64::try_from(count).unwrap_or(i64::MAX / 4);
        let account = match level {
            LimitLevel::User => self.users.get(payer.user),
            LimitLevel::Team => payer.team.and_then(|team| self.teams.get(team)),
            LimitLevel::Total => Some(&self.total),
        };
        let account = account.copied().unwrap_or_default();
        let every = ReservationRequest { tokens: 1, guessed: false, money: Some(NOTHING) };
        for Claim { limit, terms, .. } in claims(limits, &every) {
            leases.at(limit, terms.kind, level, payer, now);
            let (back, more) = match terms.kind {
                Kind::Requests => (requests, 0),
                Kind::Tokens => (tokens, charged),
                Kind::Slots | Kind::Budget => {
                    // Where that is not known it is told with the next request.
                    let spent = match terms.kind {
                        Kind::Budget => self.spending.of(level, payer, now.unix),
                        _ => Some(Spent::default()),
                    };
                    let Some((spent, held)) = spent.map(|spent| spent_of(limit, &account, spent)) else { continue };
                    match leases.purses.get_mut(&leases.account) {
                        Some(purse) => purse.set_spent(spent, held),
                        None if spent == 0 => {}
                        None => leases.purses.purse(&leases.account, terms, now).set_spent(spent, held),
                    }
                    continue;
                }
            };
            if more > 0 {
                leases.purses.purse(&leases.account, terms, now).charge(units(more), now);
            }
            if back > 0 {
                leases.purses.purse(&leases.account, terms, now).give_back(units(back));
            }
        }
    }

    /// The state of the limits of a minute, as the purses know it.
    fn leased_status(&mut self, payer: Payer<'_>, drafts: &Drafts, now: Now) -> RateLimitStatus {
        let Some(leases) = &mut self.leases else { return RateLimitStatus::default() };
        let mut limit_status = RateLimitStatus::default();
        for (level, draft) in LimitLevel::ALL.into_iter().zip(drafts) {
            let Some((limits, _)) = draft else { continue };
            let [requests, tokens] =
                [(Limit::Requests, Kind::Requests, limits.requests), (Limit::Tokens, Kind::Tokens, limits.tokens)].map(
                    |(limit, kind, rate)| {
                        let terms = Terms::of_rate(kind, rate?);
                        leases.at(limit, kind, level, payer, now);
                        Some(leases.purses.purse(&leases.account, terms, now).status())
                    },
                );
            limit_status = limit_status.tighter(RateLimitStatus { requests, tokens });
        }
        limit_status
    }

    /// How somebody is refused where a budget of the fleet is spent, as far as this node has been told.
    pub(super) fn spent_leased(
        &mut self,
        level: LimitLevel,
        limits: &Limits,
        payer: Payer<'_>,
        now: Now,
    ) -> Option<Refused> {
        let leases = self.leases.as_mut()?;
        let nothing = ReservationRequest { money: Some(NOTHING), ..ReservationRequest::default() };
        claims(limits, &nothing).filter(|claim| claim.terms.kind == Kind::Budget).find_map(|claim| {
            leases.at(claim.limit, Kind::Budget, level, payer, now);
            let left = leases.purses.get_mut(&leases.account)?.left()?;
            (left == 0).then(|| leases.refusal(level, &claim, 0))
        })
    }

    // ------------------------------------------------------------------------------------------------- messages

    /// When [`Limiter::beat`] should be called, monotonic nanoseconds; `None` without a fleet.
    pub fn beat_due(&self) -> Option<u64> {
        self.leases.as_ref().map(|leases| leases.beat_at)
    }

    /// Looks at all that is held.
    pub fn beat(&mut self, now: Now) {
        let Some(leases) = &mut self.leases else { return };
        leases.beat_at = now.mono + BEAT;
        leases.is_beating = true;
        leases.purses.beat(now, &mut leases.asks);
    }

    /// The messages of this turn to the engine; at each beat, though there may be none.
    pub fn take_asks(&mut self, now: Now) -> Option<Vec<Ask>> {
        let leases = self.leases.as_mut()?;
        leases.purses.ask(now, &mut leases.asks);
        let is_beating = std::mem::take(&mut leases.is_beating);
        (is_beating || !leases.asks.is_empty()).then(|| std::mem::take(&mut leases.asks))
    }

    /// All that is held goes back: this process ends.
    pub fn return_all(&mut self, now: Now) {
        if let Some(leases) = &mut self.leases {
            leases.purses.return_all(now, &mut leases.asks);
        }
    }

    /// What the engine has said: who waits may look again.
    pub fn heard(&mut self, heard: Heard, now: Now) {
        let Some(leases) = &mut self.leases else { return };
        leases.is_away = matches!(heard, Heard::Nothing { .. });
        match heard {
            Heard::Nothing { asks } => asks.iter().for_each(|(account, seq)| leases.purses.unanswered(account, *seq)),
            Heard::Answers { answers, recalled, nodes } => {
                leases.nodes = nodes.max(1);
                let mut told = |(account, seq, answer): (Arc<str>, i64, Answer)| {
                    leases.purses.answered(&account, seq, answer, now);
                };
                answers.into_iter().for_each(&mut told);
                recalled.iter().for_each(|account| self.recall(account, now));
            }
        }
    }

    /// Others need what this ledger holds of an account: also what a process before this one held.
    fn recall(&mut self, account: &str, now: Now) {
        let Some(leases) = &mut self.leases else { return };
        if let Some(purse) = leases.purses.get_mut(account) {
            return purse.recall();
        }
        let mut parts = account.splitn(4, ':');
        let (Some("b"), Some(level), Some(period), Some(name)) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return; // what expires does so
        };
        let Some(level) = LimitLevel::named(level) else { return };
        leases.dates.turn_to(now);
        let of_day = period == leases.dates.of(Limit::BudgetDay);
        if !of_day && period != leases.dates.of(Limit::BudgetMonth) {
            return; // it is over
        }
        let payer = Payer { user: name, team: Some(name).filter(|_| level == LimitLevel::Team) };
        let limits = self.limits_of(payer)[level as usize];
        self.settle_leased(payer, level, &limits, [0; 3], now);
        let cap = if of_day { limits.day_nano_usd } else { limits.month_nano_usd };
        let Some((leases, cap)) = self.leases.as_mut().zip(cap) else { return };
        let is_known = self.spending.last_known(level, payer).is_some();
        if is_known {
            leases.purses.purse(account, Terms::of_stock(Kind::Budget, cap), now).recall();
        }
    }

    /// Accounts that something is held of.
    pub fn purses(&self) -> usize {
        self.leases.as_ref().map_or(0, |leases| leases.purses.len())
    }
}

/// Nobody knows yet what is spent of a budget.
fn unknown(level: LimitLevel) -> Refused {
    Refused {
        level,
        limit: Limit::BudgetUnknown,
        limit_status: RateLimitStatus::default(),
        maximum: 0,
        requested: 0,
        left: 0,
        retry_after: Some(crate::base::clock::SECOND),
    }
}

/// More is needed than there ever is.
fn never(level: LimitLevel, claim: &Claim) -> Refused {
    Refused {
        limit: claim.limit,
        maximum: claim.terms.cap.unsigned_abs(),
        requested: claim.demand.least.unsigned_abs(),
        retry_after: None,
        ..unknown(level)
    }
}
