//! When what is spent of a budget is worth telling: as it passes 80 and 100 per cent.
//!
//! In: budgets and what is spent of them. Out: thresholds that are passed, and how that is said. Never: a memory of
//! what was told.

use super::budget::{Period, Spent};
use super::levels::LimitLevel;
use super::overrides::Limits;
use super::status::dollars;
use crate::base::civil::{civil_from_days, first_day_of_month};

/// Per cent of a budget.
pub const THRESHOLDS: [u8; 2] = [80, 100];

/// What a budget is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BudgetPeriod {
    Day,
    Month,
}

impl BudgetPeriod {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Day, Self::Month];

    /// The stable name.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Month => "month",
        }
    }

    /// The one of this label.
    pub fn named(label: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|period| period.label() == label)
    }

    /// The budget for it, nano-dollars.
    pub const fn budget(self, limits: &Limits) -> Option<u64> {
        match self {
            Self::Day => limits.day_nano_usd,
            Self::Month => limits.month_nano_usd,
        }
    }

    /// What is spent in it, nano-dollars.
    pub const fn spent(self, spent: Spent) -> u64 {
        match self {
            Self::Day => spent.day,
            Self::Month => spent.month,
        }
    }

    /// Its number, from January 1970 on.
    pub const fn number(self, present: Period) -> i64 {
        match self {
            Self::Day => present.day,
            Self::Month => present.month,
        }
    }

    /// The date of the first day of the one with this number.
    pub fn start(self, number: i64) -> String {
        let first = match self {
            Self::Day => number,
            Self::Month => first_day_of_month(number),
        };
        let (year, month, day) = civil_from_days(first);
        format!("{year:04}-{month:02}-{day:02}")
    }
}

/// Per cent of a budget that is spent, in hundredths, rounded down.
pub fn hundredths_used(spent: u64, budget: u64) -> u64 {
    let hundredths = u128::from(spent) * 10_000 / u128::from(budget.max(1));
    u64::try_from(hundredths).unwrap_or(u64::MAX)
}

/// The thresholds that so much spending has passed.
pub fn passed(spent: u64, budget: u64) -> impl Iterator<Item = u8> {
    let is_passed = move |&threshold: &u8| u128::from(spent) * 100 >= u128::from(budget) * u128::from(threshold);
    THRESHOLDS.into_iter().filter(is_passed)
}

/// A budget that has passed a threshold.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Crossing {
    pub period: BudgetPeriod,
    /// Of the period.
    pub number: i64,
    pub level: LimitLevel,
    /// Empty for everybody.
    pub name: String,
    /// One of [`THRESHOLDS`].
    pub threshold: u8,
    pub budget_nano_usd: u64,
}

impl Crossing {
    /// For people, in the manner of Slack's messages: what its markup means something to is written as it must be, and
    /// a name stands as code, in which nobody is mentioned.
    pub fn text(&self, spent_nano_usd: u64) -> String {
        let name = self.name.replace('`', "'").replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let (whose, have) = match self.level {
            LimitLevel::User => (format!("User `{name}` has"), "the budget"),
            LimitLevel::Team => (format!("Team `{name}` has"), "the budget"),
            LimitLevel::Total => ("All users together have".to_owned(), "their budget"),
        };
        let start = self.period.start(self.number);
        let when = match self.period {
            BudgetPeriod::Day => &start[..],
            BudgetPeriod::Month => &start[..start.len() - "-01".len()],
        };
        let percent = hundredths_used(spent_nano_usd, self.budget_nano_usd) / 100;
        let (spent, budget) = (dollars(spent_nano_usd), dollars(self.budget_nano_usd));
        format!("{whose} spent {percent} % of {have} for {when} (UTC): ${spent} of ${budget}.")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threshold_is_passed_to_the_nano_dollar() {
        let at = |spent, budget| passed(spent, budget).collect::<Vec<_>>();
        assert_eq!(at(799_999_999, 1_000_000_000), [0; 0]);
        assert_eq!(at(800_000_000, 1_000_000_000), [80]);
        assert_eq!(at(999_999_999, 1_000_000_000), [80]);
        assert_eq!(at(1_000_000_000, 1_000_000_000), [80, 100]);
        assert_eq!(at(u64::MAX, u64::MAX), [80, 100]);
        assert_eq!(at(0, u64::MAX), [0; 0]);
        assert_eq!((hundredths_used(u64::MAX, 1), hundredths_used(2, 3)), (u64::MAX, 6_666));
    }

    #[test]
    fn a_name_in_a_message_mentions_nobody() {
        let mut crossing = Crossing {
            period: BudgetPeriod::Day,
            number: 20_786,
            level: LimitLevel::User,
            name: "<!channel> \"太郎\" `x` & @all".to_owned(),
            threshold: 80,
            budget_nano_usd: 10_000_000_000,
        };
        let text = "User `&lt;!channel&gt; \"太郎\" 'x' &amp; @all` has spent 83 % of the budget for 2026-11-29 (UTC): \
                    $8.314000001 of $10.";
        assert_eq!(crossing.text(8_314_000_001), text);
        crossing = Crossing {
            period: BudgetPeriod::Month,
            number: (2026 - 1970) * 12 + 10,
            level: LimitLevel::Total,
            name: String::new(),
            ..crossing
        };
        let text = "All users together have spent 120 % of their budget for 2026-11 (UTC): $12 of $10.";
        assert_eq!(crossing.text(12_000_000_000), text);
    }
}
