//! The limiter of a node in a fleet: each limit is an account that the fleet's engine keeps, and a request takes from
//! what this node holds of it.
//!
//! The accounts of [`Limiter`] go on to count requests in flight and reserved money; purses take the place of its
//! buckets, and of what is left of budgets. Who finds a purse cold waits; [`NoRoom::Asked`] says so.

use super::{Limiter, is_longer, reserved, smallest, take_all, within_bursts};
use crate::base::clock::Now;
use crate::limit::account::Limited;
use crate::limit::accounts::NewAccounts;
use crate::limit::budget::{Spending, Spent};
use crate::limit::holdings::{Claim, Holdings, JOIN_MAX, NOTHING, NoRoom, claims, never, spent_of, unknown};
use crate::limit::lease::{Answer, Ask, Heard, Kind, Terms};
use crate::limit::levels::{LimitLevel, Payer};
use crate::limit::purse::{BEAT, OnOutage, Room};
use crate::limit::reservation::{Reservation, ReservationRequest};
use crate::limit::status::{Limit, RateLimitStatus, Refused};
use std::sync::Arc;

/// The accounts that a payer takes from, by their levels.
type Found<'a> = [Option<Limited<'a>>; 3];

impl Limiter {
    /// From here on the limits are the fleet's: a lease lasts so long, and a request waits so long at most,
    /// nanoseconds.
    pub fn join_fleet(&mut self, lasts: u64, wait: u64, policy: OnOutage) {
        self.holdings = Some(Box::new(Holdings::new(lasts, wait, policy)));
    }

    /// True where the limits are a fleet's.
    pub fn is_in_fleet(&self) -> bool {
        self.holdings.is_some()
    }

    /// The same as [`Limiter::admit`], of a fleet's limits where there is one. `has_waited` is true for one that has
    /// waited for the engine as long as it may.
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
        if self.holdings.is_none() {
            return self.admit(payer, request, now).map_err(NoRoom::Refused);
        }
        let (payer, mut new) = (payer.into(), NewAccounts::default());
        self.evict_for_admission(now);
        let Some(holdings) = self.holdings.as_deref_mut() else { return Ok(Default::default()) };
        let mut found = self.accounts.find(&self.in_force, payer, &mut new);
        let request = within_bursts(&found, request);
        let nano_usd = holdings.find_room(&mut self.spending, payer, &found, &request, has_waited, now)?;
        let reservation = reserved(&found, &request, nano_usd);
        found.iter_mut().flatten().for_each(|of| of.account.refill(of.limits, now.mono));
        take_all(&mut found, &reservation);
        holdings.take_leased(&self.spending, payer, &found, &request, now);
        let limit_status = holdings.leased_status(payer, &found, now);
        self.accounts.keep(&self.in_force, payer, new, now.mono);
        Ok((reservation, limit_status))
    }

    /// The same as [`Limiter::check`], of a fleet's limits where there is one: the engine is asked for what is cold.
    ///
    /// # Errors
    /// The limit that refuses; or [`NoRoom::OutOfReach`].
    pub fn may_come<'a>(&mut self, payer: impl Into<Payer<'a>>, may_cost: bool, now: Now) -> Result<(), NoRoom> {
        let (payer, mut new) = (payer.into(), NewAccounts::default());
        let Some(holdings) = self.holdings.as_deref_mut() else {
            return self.check(payer, may_cost, now).map_err(NoRoom::Refused);
        };
        let found = self.accounts.find(&self.in_force, payer, &mut new);
        match holdings.find_room(&mut self.spending, payer, &found, &smallest(may_cost), false, now) {
            Ok(_) | Err(NoRoom::Asked) => Ok(()),
            Err(why) => Err(why),
        }
    }

    /// Gives back so many requests and tokens of a level, or charges tokens, and tells the purses of slots and money
    /// how its account is.
    pub(super) fn settle_leased(
        &mut self,
        payer: Payer<'_>,
        level: LimitLevel,
        [requests, tokens, charged]: [u64; 3],
        now: Now,
    ) {
        let Some(holdings) = &mut self.holdings else { return };
        let Some(limits) = self.in_force.limited(level, payer) else { return };
        let units = |count: u64| i64::try_from(count).unwrap_or(i64::MAX / 4);
        let account = self.accounts.get(level, payer).copied().unwrap_or_default();
        let every = ReservationRequest { tokens: 1, guessed: false, money: Some(NOTHING) };
        for Claim { limit, terms, .. } in claims(limits, &every) {
            holdings.at(limit, terms.kind, level, payer, now);
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
                    match holdings.purses.get_mut(&holdings.account) {
                        Some(purse) => purse.set_spent(spent, held),
                        None if spent == 0 => {}
                        None => holdings.purses.purse(&holdings.account, terms, now).set_spent(spent, held),
                    }
                    continue;
                }
            };
            if more > 0 {
                holdings.purses.purse(&holdings.account, terms, now).charge(units(more), now);
            }
            if back > 0 {
                holdings.purses.purse(&holdings.account, terms, now).give_back(units(back));
            }
        }
    }

    /// How somebody is refused where a budget of the fleet is spent, as far as this node has been told.
    pub(super) fn spent_leased(&mut self, level: LimitLevel, payer: Payer<'_>, now: Now) -> Option<Refused> {
        let (holdings, limits) = (self.holdings.as_mut()?, self.in_force.at(level, payer));
        let nothing = ReservationRequest { money: Some(NOTHING), ..ReservationRequest::default() };
        claims(limits, &nothing).filter(|claim| claim.terms.kind == Kind::Budget).find_map(|claim| {
            holdings.at(claim.limit, Kind::Budget, level, payer, now);
            let left = holdings.purses.get_mut(&holdings.account)?.left()?;
            (left == 0).then(|| holdings.refusal(level, &claim, 0))
        })
    }

    // ------------------------------------------------------------------------------------------------- messages

    /// When [`Limiter::beat`] should be called, monotonic nanoseconds; `None` without a fleet.
    pub fn beat_due(&self) -> Option<u64> {
        self.holdings.as_ref().map(|holdings| holdings.beat_at)
    }

    /// Looks at all that is held.
    pub fn beat(&mut self, now: Now) {
        let Some(holdings) = &mut self.holdings else { return };
        holdings.joins_until = holdings.joins_until.min(now.mono + JOIN_MAX);
        holdings.beat_at = now.mono + BEAT;
        holdings.is_beating = true;
        holdings.purses.beat(now, &mut holdings.asks);
    }

    /// The messages of this turn to the engine; at each beat, though there may be none.
    pub fn take_asks(&mut self, now: Now) -> Option<Vec<Ask>> {
        let holdings = self.holdings.as_mut()?;
        holdings.purses.ask(now, &mut holdings.asks);
        let is_beating = std::mem::take(&mut holdings.is_beating);
        (is_beating || !holdings.asks.is_empty()).then(|| std::mem::take(&mut holdings.asks))
    }

    /// All that is held goes back: this process ends.
    pub fn return_all(&mut self, now: Now) {
        if let Some(holdings) = &mut self.holdings {
            holdings.purses.return_all(now, &mut holdings.asks);
        }
    }

    /// What the engine has said. True where who waits may look again.
    pub fn heard(&mut self, heard: Heard, now: Now) -> bool {
        let Some(holdings) = &mut self.holdings else { return false };
        let is_silent = now.mono >= holdings.joins_until.max(holdings.heard_at + holdings.wait);
        holdings.is_away = is_silent && matches!(heard, Heard::Nothing { .. });
        let may_look = holdings.is_away || !matches!(heard, Heard::Nothing { .. });
        match heard {
            Heard::Nothing { asks } => asks.iter().for_each(|(account, seq)| holdings.purses.unanswered(account, *seq)),
            Heard::Answers { answers, recalled, nodes } => {
                (holdings.nodes, holdings.joins_until, holdings.heard_at) = (nodes.max(1), 0, now.mono);
                let mut told = |(account, seq, answer): (Arc<str>, i64, Answer)| {
                    holdings.purses.answered(&account, seq, answer, now);
                };
                answers.into_iter().for_each(&mut told);
                recalled.iter().for_each(|account| self.recall(account, now));
            }
        }
        may_look
    }

    /// Others need what this ledger holds of an account: also what a process before this one held.
    fn recall(&mut self, account: &str, now: Now) {
        let Some(holdings) = &mut self.holdings else { return };
        if let Some(purse) = holdings.purses.get_mut(account) {
            return purse.recall();
        }
        let mut parts = account.splitn(4, ':');
        let (Some("b"), Some(level), Some(period), Some(name)) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return; // what expires does so
        };
        let Some(level) = LimitLevel::named(level) else { return };
        holdings.dates.turn_to(now);
        let of_day = period == holdings.dates.of(Limit::BudgetDay);
        if !of_day && period != holdings.dates.of(Limit::BudgetMonth) {
            return; // it is over
        }
        let payer = Payer { user: name, team: Some(name).filter(|_| level == LimitLevel::Team) };
        let limits = *self.in_force.at(level, payer);
        self.settle_leased(payer, level, [0; 3], now);
        let cap = if of_day { limits.day_nano_usd } else { limits.month_nano_usd };
        let Some((holdings, cap)) = self.holdings.as_mut().zip(cap) else { return };
        let is_known = self.spending.last_known(level, payer).is_some();
        if is_known {
            holdings.purses.purse(account, Terms::of_stock(Kind::Budget, cap), now).recall();
        }
    }

    /// True for a process that begins and has had no answer of the engine yet: requests wait on for the first.
    pub fn is_joining(&self, now: Now) -> bool {
        self.holdings.as_ref().is_some_and(|holdings| now.mono < holdings.joins_until)
    }

    /// Accounts that something is held of.
    pub fn purses(&self) -> usize {
        self.holdings.as_ref().map_or(0, |holdings| holdings.purses.len())
    }
}

impl Holdings {
    /// Whether every account has room: the nano-dollars that the request may hold. Of several limits that refuse it,
    /// the one with the longest wait is told.
    fn find_room(
        &mut self,
        spending: &mut Spending,
        payer: Payer<'_>,
        found: &Found<'_>,
        request: &ReservationRequest,
        has_waited: bool,
        now: Now,
    ) -> Result<u64, NoRoom> {
        let (mut nano_usd, mut denied, mut why) = (request.nano_usd(), None::<Refused>, None);
        for &Limited { level, limits, ref account } in found.iter().flatten() {
            for claim in claims(limits, request) {
                let kind = claim.terms.kind;
                let spent = match kind {
                    Kind::Budget => spending.of(level, payer, now.unix),
                    _ => Some(Spent::default()),
                };
                self.at(claim.limit, kind, level, payer, now);
                let refused = match spent {
                    None => Some(unknown(level)),
                    Some(_) if claim.demand.least > claim.terms.cap => Some(never(level, &claim)),
                    Some(spent) => {
                        let spent = spent_of(claim.limit, account, spent);
                        match self.room(&claim, spent, has_waited, now) {
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
                            Room::Refused(wait) => Some(self.refusal(level, &claim, wait)),
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
            let limit_status = self.leased_status(payer, found, now);
            return Err(NoRoom::Refused(Refused { limit_status, ..denied }));
        }
        why.map_or(Ok(nano_usd), Err)
    }

    /// Takes from the purses what there was room for.
    fn take_leased(
        &mut self,
        spending: &Spending,
        payer: Payer<'_>,
        found: &Found<'_>,
        request: &ReservationRequest,
        now: Now,
    ) {
        for &Limited { level, limits, ref account } in found.iter().flatten() {
            for claim in claims(limits, request) {
                self.at(claim.limit, claim.terms.kind, level, payer, now);
                let purse = self.purses.purse(&self.account, claim.terms, now);
                if claim.terms.kind.decays() {
                    purse.take(claim.demand.need, now);
                } else {
                    let spent = spending.last_known(level, payer).unwrap_or_default();
                    let (spent, held) = spent_of(claim.limit, account, spent);
                    purse.set_spent(spent, held);
                }
            }
        }
    }

    /// The state of the limits of a minute, as the purses know it.
    fn leased_status(&mut self, payer: Payer<'_>, found: &Found<'_>, now: Now) -> RateLimitStatus {
        let mut limit_status = RateLimitStatus::default();
        for &Limited { level, limits, .. } in found.iter().flatten() {
            let [requests, tokens] =
                [(Limit::Requests, Kind::Requests, limits.requests), (Limit::Tokens, Kind::Tokens, limits.tokens)].map(
                    |(limit, kind, rate)| {
                        let terms = Terms::of_rate(kind, rate?);
                        self.at(limit, kind, level, payer, now);
                        Some(self.purses.purse(&self.account, terms, now).status())
                    },
                );
            limit_status = limit_status.tighter(RateLimitStatus { requests, tokens });
        }
        limit_status
    }
}
