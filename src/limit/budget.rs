//! What each user has spent in this UTC day and month, beside what requests in flight may still cost.
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

use crate::base::civil::month_of_day;
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

/// What a user spent, nano-dollars.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// In the day of the period.
    pub day: u64,
    /// In its whole month.
    pub month: u64,
}

/// What users have spent in a period, as the ledger sums it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpendByUser {
    pub period: Period,
    /// Of this process's records those with `seq <= upto_seq` are in the sums, and no others.
    pub upto_seq: u64,
    /// The first day after the period's in which something is spent: recorded while a clock was ahead.
    pub next_day: Option<i64>,
    /// Users who have spent something in the month.
    pub users: Vec<(Arc<str>, Spent)>,
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

/// All users' spending. Only users who have spent something in this month take memory.
#[derive(Debug, Default)]
pub struct Spending {
    sums: Sums,
    present: Period,
    /// The day that each user's `day` is of.
    users: BTreeMap<Arc<str>, (i64, Spent)>,
    /// While known: the first day after the present one in which something is spent already.
    next_day: Option<i64>,
    /// While awaited: charges whose records are not known to be committed. Bounded by the places in the ledger's queue.
    uncommitted: VecDeque<(Arc<str>, Cost)>,
    /// What was charged for records whose cost nobody knows, by day and user.
    forfeited: BTreeMap<(i64, Arc<str>), u64>,
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

    /// A user's spending in the present period; `None` where it is not known.
    pub fn of(&mut self, user: &str, now: u64) -> Option<Spent> {
        self.turn_to(now);
        self.last_known(user)
    }

    /// The same at the last instant that was looked at.
    pub fn last_known(&self, user: &str) -> Option<Spent> {
        if self.sums != Sums::Known {
            return None;
        }
        Some(match self.users.get(user) {
            Some(&(day, spent)) if day == self.present.day => spent,
            Some(&(_, spent)) => Spent { day: 0, ..spent },
            None => Spent::default(),
        })
    }

    /// Charges the cost of a record, once.
    pub fn charge(&mut self, user: &Arc<str>, cost: Cost, now: u64) {
        self.charged_seq = self.charged_seq.max(cost.seq);
        if self.sums == Sums::Unfollowed || cost.nano_usd == 0 {
            return;
        }
        self.turn_to(now);
        match self.sums {
            Sums::Known => self.add(user, cost),
            _ => self.uncommitted.push_back((Arc::clone(user), cost)),
        }
    }

    /// Charges a reservation, once, whose record has no cost.
    pub fn forfeit(&mut self, user: &Arc<str>, cost: Cost, now: u64) {
        if self.sums == Sums::Unfollowed || cost.nano_usd == 0 {
            return;
        }
        self.turn_to(now);
        let sum = self.forfeited.entry((day_of(cost.started_at), Arc::clone(user))).or_default();
        *sum = sum.saturating_add_signed(cost.nano_usd);
        if self.forfeited.len() > FORFEITED_MAX {
            self.forfeited.pop_first();
        }
        if self.sums == Sums::Known {
            self.add(user, cost);
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
    pub fn load(&mut self, summed: SpendByUser, now: u64) {
        self.turn_to(now);
        if self.sums != Sums::Awaited || summed.period != self.present || summed.upto_seq < self.required_seq {
            return;
        }
        let day = self.present.day;
        self.sums = Sums::Known;
        self.next_day = summed.next_day;
        self.users = summed.users.into_iter().map(|(user, spent)| (user, (day, spent))).collect();
        for (user, cost) in std::mem::take(&mut self.uncommitted) {
            if cost.seq > summed.upto_seq {
                self.add(&user, cost);
            }
        }
        let forfeited = std::mem::take(&mut self.forfeited);
        for ((day, user), &sum) in &forfeited {
            let nano_usd = i64::try_from(sum).unwrap_or(i64::MAX);
            self.add(user, Cost { seq: 0, started_at: day.unsigned_abs() * DAY, nano_usd });
        }
        self.forfeited = forfeited;
    }

    /// How many users' spending is in memory.
    pub fn users(&self) -> usize {
        self.users.len()
    }

    fn add(&mut self, user: &Arc<str>, cost: Cost) {
        let today = self.present.day;
        let began = if day_of(cost.started_at) == today { self.present } else { Period::of(cost.started_at) };
        if began.day > today {
            self.next_day = Some(self.next_day.map_or(began.day, |next| next.min(began.day)));
        }
        if began.month != self.present.month {
            return;
        }
        let (day, spent) = self.users.entry(Arc::clone(user)).or_default();
        if *day != today {
            (*day, spent.day) = (today, 0);
        }
        spent.month = spent.month.saturating_add_signed(cost.nano_usd);
        if began.day == today {
            spent.day = spent.day.saturating_add_signed(cost.nano_usd);
        }
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
                self.users.clear();
            }
        }
        self.present = period;
    }

    /// All that was charged until now must come with the sums; what is charged from now on is kept beside.
    fn await_sums(&mut self) {
        self.sums = Sums::Awaited;
        self.required_seq = self.charged_seq;
        self.users.clear();
    }
}

/// The day of an instant, counted from the start of 1970.
fn day_of(unix: u64) -> i64 {
    (unix / DAY) as i64 // at most 213,503
}

#[cfg(test)]
mod tests;
