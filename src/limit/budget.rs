//! What each user, each team and everybody together have spent in this UTC day and month.
//!
//! Spending counts towards the day and the month in which its request began, as the ledger's rollups have it. The
//! ledger is asked for its sums at start, when somebody gets the first budget, and whenever the clock comes to a day of
//! which not everything is known here: an earlier one, or a later one in which something was recorded while a clock was
//! ahead. Until the sums are here nobody's spending is known, and the answer is `None`, never zero.
//!
//! ```text
//!             first budget            sums of the present period that miss no charge
//!   Unfollowed ─────────▶ Awaited ────────────────────────────────────────────────▶ Known ─┐
//!        ▲                 ▲  │        the clock goes back, or on to a day in use           │
//!        │                 └──│─────────────────────────────────────────────────────────────┘
//!        └────────────────────┘  no budget is left (from Known too)
//! ```
//!
//! What settles between the ledger's sum and its arrival is in neither, so charges are kept with their sequence numbers
//! while a sum is awaited, each until its record is committed: a later sum includes it. What is charged for a record
//! without a cost is in no sum, and is added to each.
//!
//! In: charges, sums, `now`. Out: what was spent, and of which period a sum is wanted. Never: a question to the ledger.

use super::levels::{LimitLevel, Payer};
use crate::base::civil::month_of_day;
use crate::base::table::Table;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Nanoseconds in a day.
const DAY: u64 = 86_400_000_000_000;
/// Sums of what nobody knows, of a user's day, that are kept at most: of the latest days.
const FORFEITED_MAX: usize = 10_000;

/// A day and its month, each counted from the start of 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Period {
    pub day: i64,
    pub month: i64,
}

impl Period {
    /// The day of an instant, nanoseconds since the Unix epoch.
    pub fn of(unix: u64) -> Self {
        let day = day_of(unix);
        Self { day, month: month_of_day(day) }
    }
}

/// What a user, a team or everybody spent, nano-dollars.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// In the day of the period.
    pub day: u64,
    /// In its whole month.
    pub month: u64,
}

/// What was spent in a period, as the ledger sums it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpendSums {
    pub period: Period,
    /// Of this process's records those with `seq <= upto_seq` are in the sums, and no others.
    pub upto_seq: u64,
    /// The first day after the period's in which something is spent: recorded while a clock was ahead.
    pub next_day: Option<i64>,
    /// Users who have spent something in the month.
    pub users: Vec<(Arc<str>, Spent)>,
    /// The same of teams: what their users have spent while they belonged to them.
    pub teams: Vec<(Arc<str>, Spent)>,
    /// Of everybody together.
    pub total: Spent,
}

/// The cost of one record.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    /// The record's sequence number.
    pub seq: u64,
    /// When its request began, nanoseconds since the Unix epoch.
    pub started_at: u64,
    /// Less than nothing where a correction gives back what was charged too much.
    pub nano_usd: i64,
}

/// Whether the ledger's sums are here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Sums {
    /// Nobody has a budget.
    #[default]
    Unfollowed,
    /// They are not here yet.
    Awaited,
    Known,
}

/// The last day of a month on which something was spent, and what was spent until then.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    day: i64,
    spent: Spent,
}

impl Tally {
    /// What was spent, as of this day of the same month.
    fn on(&self, day: i64) -> Spent {
        if day == self.day { self.spent } else { Spent { day: 0, ..self.spent } }
    }

    /// With what was spent in this month, and whether that was today.
    fn with(&self, today: i64, nano_usd: i64, is_today: bool) -> Self {
        let spent = self.on(today);
        let day = if is_today { spent.day.saturating_add_signed(nano_usd) } else { spent.day };
        Self { day: today, spent: Spent { day, month: spent.month.saturating_add_signed(nano_usd) } }
    }
}

/// Who paid: a user, and the team that the user belonged to.
type PaidBy = (Arc<str>, Option<Arc<str>>);

fn paid_by(payer: Payer<'_>) -> PaidBy {
    (payer.user.into(), payer.team.map(Into::into))
}

fn payer((user, team): &PaidBy) -> Payer<'_> {
    Payer { user, team: team.as_deref() }
}

/// All that is spent. Only those who have spent something in this month take memory.
#[derive(Debug, Default)]
pub struct Spending {
    sums: Sums,
    present: Period,
    users: Table<Arc<str>, Tally>,
    /// Few: a walk down the tree is shorter than a hash.
    teams: BTreeMap<Arc<str>, Tally>,
    total: Tally,
    /// While known: the first day after the present one in which something is spent already.
    next_day: Option<i64>,
    /// While awaited: charges whose records are not known to be committed. Bounded by the places in the ledger's queue.
    uncommitted: VecDeque<(PaidBy, Cost)>,
    /// What was charged for records whose cost nobody knows, by day and who paid.
    forfeited: BTreeMap<(i64, PaidBy), u64>,
    /// The largest `seq` charged.
    charged_seq: u64,
    /// While awaited: a sum that does not reach this far misses a charge that is not kept.
    required_seq: u64,
}

impl Spending {
    /// Follows spending, from the ledger's sums on, or no longer.
    pub fn follow(&mut self, wanted: bool) {
        match (wanted, self.sums) {
            (true, Sums::Unfollowed) => self.await_sums(),
            (false, Sums::Awaited | Sums::Known) => {
                *self = Self { charged_seq: self.charged_seq, ..Self::default() };
            }
            _ => {}
        }
    }

    /// The present period, where the ledger's sums of it are awaited. `now` in nanoseconds since the Unix epoch.
    pub fn wants(&mut self, now: u64) -> Option<Period> {
        if self.sums == Sums::Unfollowed {
            return None;
        }
        self.turn_to(now);
        (self.sums == Sums::Awaited).then_some(self.present)
    }

    /// What a level has spent in the present period; `None` where it is not known.
    pub fn of(&mut self, level: LimitLevel, payer: Payer<'_>, now: u64) -> Option<Spent> {
        self.turn_to(now);
        self.last_known(level, payer)
    }

    /// The same at the last instant that was looked at.
    pub fn last_known(&self, level: LimitLevel, payer: Payer<'_>) -> Option<Spent> {
        let tally = match level {
            _ if self.sums != Sums::Known => return None,
            LimitLevel::User => self.users.get(payer.user),
            LimitLevel::Team => self.teams.get(payer.team?),
            LimitLevel::Total => Some(&self.total),
        };
        Some(tally.map_or_else(Spent::default, |tally| tally.on(self.present.day)))
    }

    /// Charges the cost of a record, once.
    pub fn charge(&mut self, payer: Payer<'_>, cost: Cost, now: u64) {
        self.charged_seq = self.charged_seq.max(cost.seq);
        if self.sums == Sums::Unfollowed || cost.nano_usd == 0 {
            return;
        }
        self.turn_to(now);
        match self.sums {
            Sums::Known => self.add(payer, cost),
            _ => self.uncommitted.push_back((paid_by(payer), cost)),
        }
    }

    /// Charges a reservation, once, whose record has no cost.
    pub fn forfeit(&mut self, payer: Payer<'_>, cost: Cost, now: u64) {
        if self.sums == Sums::Unfollowed || cost.nano_usd == 0 {
            return;
        }
        self.turn_to(now);
        let sum = self.forfeited.entry((day_of(cost.started_at), paid_by(payer))).or_default();
        *sum = sum.saturating_add_signed(cost.nano_usd);
        if self.forfeited.len() > FORFEITED_MAX {
            self.forfeited.pop_first();
        }
        if self.sums == Sums::Known {
            self.add(payer, cost);
        }
    }

    /// Every record up to this one is in the ledger: so it is in every sum that comes from now on.
    pub fn committed(&mut self, upto_seq: u64) {
        if self.sums == Sums::Awaited {
            self.required_seq = self.required_seq.max(upto_seq);
            while self.uncommitted.pop_front_if(|(_, cost)| cost.seq <= upto_seq).is_some() {}
        }
    }

    /// Takes over the ledger's sums, with what was charged since. Sums of another period, or that miss a charge, change
    /// nothing: others are still wanted.
    pub fn load(&mut self, summed: SpendSums, now: u64) {
        self.turn_to(now);
        if self.sums != Sums::Awaited || summed.period != self.present || summed.upto_seq < self.required_seq {
            return;
        }
        let day = self.present.day;
        self.sums = Sums::Known;
        self.next_day = summed.next_day;
        let tally = |spent| Tally { day, spent };
        self.users = summed.users.into_iter().map(|(user, spent)| (user, tally(spent))).collect();
        self.teams = summed.teams.into_iter().map(|(team, spent)| (team, tally(spent))).collect();
        self.total = tally(summed.total);
        for (paid_by, cost) in std::mem::take(&mut self.uncommitted) {
            if cost.seq > summed.upto_seq {
                self.add(payer(&paid_by), cost);
            }
        }
        let forfeited = std::mem::take(&mut self.forfeited);
        for ((day, paid_by), &sum) in &forfeited {
            let nano_usd = i64::try_from(sum).unwrap_or(i64::MAX);
            self.add(payer(paid_by), Cost { seq: 0, started_at: day.unsigned_abs() * DAY, nano_usd });
        }
        self.forfeited = forfeited;
    }

    /// How many users' spending is in memory.
    pub fn users(&self) -> usize {
        self.users.len()
    }

    fn add(&mut self, payer: Payer<'_>, cost: Cost) {
        let today = self.present.day;
        let began = if day_of(cost.started_at) == today { self.present } else { Period::of(cost.started_at) };
        if began.day > today {
            self.next_day = Some(self.next_day.map_or(began.day, |next| next.min(began.day)));
        }
        if began.month != self.present.month {
            return;
        }
        let is_today = began.day == today;
        let with = |tally: &Tally| tally.with(today, cost.nano_usd, is_today);
        match self.users.get_mut(payer.user) {
            Some(tally) => *tally = with(tally),
            None => drop(self.users.insert(payer.user.into(), with(&Tally::default()))),
        }
        if let Some(team) = payer.team {
            match self.teams.get_mut(team) {
                Some(tally) => *tally = with(tally),
                None => drop(self.teams.insert(team.into(), with(&Tally::default()))),
            }
        }
        self.total = with(&self.total);
    }

    /// Follows the clock.
    fn turn_to(&mut self, now: u64) {
        if day_of(now) != self.present.day {
            self.change_to(Period::of(now));
        }
    }

    #[cold]
    fn change_to(&mut self, period: Period) {
        if self.sums == Sums::Known {
            let is_same_month = period.month == self.present.month;
            // Nothing is spent on that day yet; nor in its month, where that is another.
            let is_unused = |next| period.day < next && (is_same_month || period.month < month_of_day(next));
            if period.day < self.present.day || !self.next_day.is_none_or(is_unused) {
                self.await_sums();
            } else if !is_same_month {
                self.forget();
            }
        }
        self.present = period;
    }

    /// All that was charged until now must come with the sums; what is charged from now on is kept beside.
    fn await_sums(&mut self) {
        self.sums = Sums::Awaited;
        self.required_seq = self.charged_seq;
        self.forget();
    }

    fn forget(&mut self) {
        (self.users, self.teams) = Default::default();
        self.total = Tally::default();
    }
}

/// The day of an instant, counted from the start of 1970.
fn day_of(unix: u64) -> i64 {
    (unix / DAY) as i64 // at most 213,503
}

#[cfg(test)]
mod tests;
