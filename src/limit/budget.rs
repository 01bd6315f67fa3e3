//! What each user has spent in this UTC day and month, beside what requests in flight may still cost.
//!
//! Spending counts towards the day and the month in which its request began, as the ledger's rollups have it: a
//! restart, which loads them, forgives nothing and invents nothing.

use crate::base::civil::month_of_day;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Nanoseconds in a day.
const DAY: u64 = 86_400_000_000_000;

/// A day and its month, each counted from the start of 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Period {
    pub day: i64,
    pub month: i64,
}

impl Period {
    /// The day of an instant, nanoseconds since the Unix epoch.
    pub fn of(unix: u64) -> Self {
        let day = (unix / DAY) as i64; // at most 213,503
        Self { day, month: month_of_day(day) }
    }
}

/// What a user spent, nano-dollars.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// In the present day.
    pub day: u64,
    /// In the present month, that day included.
    pub month: u64,
}

/// All users' spending. Only users who have spent something in this month take memory.
#[derive(Debug, Default)]
pub struct Spending {
    present: Period,
    /// The day that each user's `day` is of.
    users: BTreeMap<Arc<str>, (i64, Spent)>,
}

impl Spending {
    /// A user's spending in the present period.
    pub fn of(&mut self, user: &str, now: u64) -> Spent {
        self.turn_to(Period::of(now));
        match self.users.get(user) {
            Some(&(day, spent)) if day == self.present.day => spent,
            Some(&(_, spent)) => Spent { day: 0, ..spent },
            None => Spent::default(),
        }
    }

    /// Adds the cost of a request that began at `started_at`. Both instants in nanoseconds since the Unix epoch.
    pub fn add(&mut self, user: &Arc<str>, started_at: u64, nano_usd: u64, now: u64) {
        self.turn_to(Period::of(now));
        let began = Period::of(started_at);
        if nano_usd == 0 || began.month < self.present.month {
            return;
        }
        let today = self.present.day;
        let (day, spent) = self.users.entry(Arc::clone(user)).or_default();
        if *day != today {
            (*day, spent.day) = (today, 0);
        }
        spent.month = spent.month.saturating_add(nano_usd);
        if began.day >= today {
            spent.day = spent.day.saturating_add(nano_usd);
        }
    }

    /// Takes over what the ledger says of a user whose spending was not followed until now.
    pub fn load(&mut self, user: Arc<str>, period: Period, spent: Spent) {
        self.turn_to(period);
        if period == self.present && spent != Spent::default() {
            self.users.insert(user, (period.day, spent));
        }
    }

    /// Forgets everything, where nobody has a budget any more.
    pub fn clear(&mut self) {
        self.users.clear();
    }

    /// How many users' spending is in memory.
    pub fn users(&self) -> usize {
        self.users.len()
    }

    /// Never to the past: a clock that steps back must not give a day's budget twice.
    fn turn_to(&mut self, period: Period) {
        if period.month > self.present.month {
            self.users.clear();
        }
        if period.day > self.present.day {
            self.present = period;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::civil::days_from_civil;

    fn at(month: u64, day: u64, hour: u64) -> u64 {
        days_from_civil(2026, month, day) as u64 * DAY + hour * DAY / 24
    }

    #[test]
    fn a_day_and_a_month_begin_with_nothing() {
        let (mut spending, user) = (Spending::default(), Arc::from("a"));
        spending.add(&user, at(1, 30, 1), 5, at(1, 30, 1));
        spending.add(&user, at(1, 30, 23), 2, at(1, 30, 23));
        assert_eq!(spending.of("a", at(1, 30, 23)), Spent { day: 7, month: 7 });
        assert_eq!(spending.of("a", at(1, 31, 0)), Spent { day: 0, month: 7 });
        spending.add(&user, at(1, 30, 23), 3, at(1, 31, 0));
        spending.add(&user, at(1, 31, 0), 1, at(1, 31, 0));
        assert_eq!(spending.of("a", at(1, 31, 1)), Spent { day: 1, month: 11 }, "what began yesterday is yesterday's");
        assert_eq!(spending.of("a", at(2, 1, 0)), Spent::default());
        spending.add(&user, at(1, 31, 23), 9, at(2, 1, 0));
        assert_eq!((spending.of("a", at(2, 1, 0)), spending.users()), (Spent::default(), 0));
    }

    #[test]
    fn a_clock_that_steps_back_gives_nothing_twice() {
        let (mut spending, user) = (Spending::default(), Arc::from("a"));
        spending.add(&user, at(3, 1, 0), 5, at(3, 1, 0));
        assert_eq!(spending.of("a", at(2, 28, 23)), Spent { day: 5, month: 5 });
        spending.add(&user, at(2, 28, 23), 2, at(2, 28, 23));
        assert_eq!(spending.of("a", at(3, 1, 0)), Spent { day: 5, month: 5 }, "the ledger has it in February too");
    }

    #[test]
    fn the_ledgers_sums_are_taken_over() {
        let mut spending = Spending::default();
        spending.load("a".into(), Period::of(at(5, 5, 5)), Spent { day: 1, month: 4 });
        spending.load("b".into(), Period::of(at(5, 5, 5)), Spent::default());
        assert_eq!((spending.of("a", at(5, 5, 6)), spending.users()), (Spent { day: 1, month: 4 }, 1));
        spending.clear();
        assert_eq!(spending.of("a", at(5, 5, 6)), Spent::default());
    }
}
