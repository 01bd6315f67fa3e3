//! The ranges of time that the page offers, and the steps in which a chart of each goes.

use crate::base::civil::{civil_from_days, first_day_of_month, month_of_day};
use crate::base::clock::{DAY, HOUR};
use crate::local::humanize::day;

/// Bars of a chart by days; of a longer time, they are months, then years.
const DAYS_MAX: u64 = 92;
const MONTHS_MAX: i64 = 60;

/// A range of time. All start with a whole hour or day (UTC), as the ledger sums them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Range {
    /// This hour and the 23 before it.
    Hours24,
    /// Today and the six days before it.
    Days7,
    /// Today and the 29 days before it.
    #[default]
    Days30,
    /// This calendar month.
    Month,
    /// The calendar month before it.
    LastMonth,
    All,
    /// Whole days from one until another, which is not among them; either is open where it is `None`. Nanoseconds since
    /// the Unix epoch.
    Between {
        from: Option<u64>,
        to: Option<u64>,
    },
}

impl Range {
    /// Those with a name.
    pub const NAMED: [Self; 6] = [Self::Hours24, Self::Days7, Self::Days30, Self::Month, Self::LastMonth, Self::All];

    /// As a link names it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hours24 => "24h",
            Self::Days7 => "7d",
            Self::Days30 => "30d",
            Self::Month => "month",
            Self::LastMonth => "last_month",
            Self::All => "all",
            Self::Between { .. } => "",
        }
    }

    /// As people call it.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Hours24 => "24 hours",
            Self::Days7 => "7 days",
            Self::Days30 => "30 days",
            Self::Month => "This month",
            Self::LastMonth => "Last month",
            Self::All => "All time",
            Self::Between { .. } => "",
        }
    }

    /// The parameters of a link to it.
    pub fn parameters(self) -> String {
        match self {
            Self::Between { from, to } => {
                let ends = [("from", from), ("to", to)];
                let ends = ends.into_iter().filter_map(|(name, end)| Some(format!("{name}={}", day(end?))));
                ends.collect::<Vec<_>>().join("&")
            }
            named => format!("range={}", named.as_str()),
        }
    }

    /// Reads what a link names.
    ///
    /// # Errors
    /// Words for the client.
    pub fn parse(text: &str) -> Result<Self, String> {
        let found = Self::NAMED.into_iter().find(|range| range.as_str() == text);
        found.ok_or_else(|| "`range` must be one of 24h, 7d, 30d, month, last_month, all".to_owned())
    }

    /// The first instant, nanoseconds since the Unix epoch.
    pub fn from(self, now: u64) -> Option<u64> {
        let today = now / DAY;
        match self {
            Self::Hours24 => Some((now / HOUR).saturating_sub(23) * HOUR),
            Self::Days7 => Some(today.saturating_sub(6) * DAY),
            Self::Days30 => Some(today.saturating_sub(29) * DAY),
            Self::Month => Some(start_of_month(now, 0)),
            Self::LastMonth => Some(start_of_month(now, -1)),
            Self::All => None,
            Self::Between { from, .. } => from,
        }
    }

    /// The first instant that is not in it any more, where it does not end now.
    pub fn to(self, now: u64) -> Option<u64> {
        match self {
            Self::LastMonth => Some(start_of_month(now, 0)),
            Self::Between { to, .. } => to,
            _ => None,
        }
    }

    /// The range before it, of the same length or the calendar month before: from, and to.
    pub fn previous(self, now: u64) -> Option<(u64, u64)> {
        let from = self.from(now)?;
        let length = match self {
            Self::Month | Self::LastMonth => from - start_of_month(from, -1),
            Self::Hours24 => 24 * HOUR,
            Self::Days7 => 7 * DAY,
            Self::Days30 => 30 * DAY,
            Self::All => return None,
            Self::Between { to, .. } => to?.saturating_sub(from),
        };
        (length > 0 && length <= from).then(|| (from - length, from))
    }

    /// How much of the calendar month is over, nanoseconds, and how long it is; of this month only.
    pub fn of_month(self, now: u64) -> Option<(u64, u64)> {
        let from = start_of_month(now, 0);
        (self == Self::Month).then(|| (now - from, start_of_month(now, 1) - from))
    }

    /// True where the ledger is asked for the sums of hours, not of days.
    pub const fn is_of_hours(self) -> bool {
        matches!(self, Self::Hours24)
    }
}

/// The first instant of a calendar month, so many after the one in which an instant is.
fn start_of_month(ns: u64, months: i64) -> u64 {
    first_day_of_month(month_of_day((ns / DAY) as i64) + months).max(0).unsigned_abs() * DAY
}

/// What a bar of a chart is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Hour,
    Day,
    Month,
    Year,
}

impl Step {
    /// The finest one with few enough bars from an instant until another.
    pub fn of(range: Range, first: u64, last: u64) -> Self {
        let month = |ns: u64| month_of_day((ns / DAY) as i64);
        match () {
            () if range.is_of_hours() => Self::Hour,
            () if last / DAY - (first / DAY).min(last / DAY) < DAYS_MAX => Self::Day,
            () if month(last) - month(first) < MONTHS_MAX => Self::Month,
            () => Self::Year,
        }
    }

    /// The number of the step in which an instant is.
    pub fn number(self, ns: u64) -> i64 {
        match self {
            Self::Hour => (ns / HOUR) as i64,
            Self::Day => (ns / DAY) as i64,
            Self::Month => month_of_day((ns / DAY) as i64),
            Self::Year => civil_from_days((ns / DAY) as i64).0,
        }
    }

    /// What a bar is called in a table.
    pub fn name(self, number: i64) -> String {
        match self {
            Self::Hour => format!("{} {:02}:00", Self::Day.name(number.div_euclid(24)), number.rem_euclid(24)),
            Self::Day => {
                let (year, month, day) = civil_from_days(number);
                format!("{year}-{month:02}-{day:02}")
            }
            Self::Month => format!("{}-{:02}", 1970 + number.div_euclid(12), number.rem_euclid(12) + 1),
            Self::Year => number.to_string(),
        }
    }

    /// What it is called where there is little room.
    pub fn short(self, number: i64) -> String {
        let name = self.name(number);
        match self {
            Self::Hour => name[11..].to_owned(),
            Self::Day => name[5..].to_owned(),
            Self::Month | Self::Year => name,
        }
    }

    /// What it is.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Month => "month",
            Self::Year => "year",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_795_426_200_000_000_000; // 2026-11-23T09:30:00Z

    #[test]
    fn ranges_start_with_a_whole_hour_or_day() {
        let name = |range: Range| range.from(NOW).map(|from| Step::Hour.name(Step::Hour.number(from)));
        assert_eq!(name(Range::Hours24).as_deref(), Some("2026-11-22 10:00"));
        assert_eq!(name(Range::Days7).as_deref(), Some("2026-11-17 00:00"));
        assert_eq!(name(Range::Days30).as_deref(), Some("2026-10-25 00:00"));
        assert_eq!(name(Range::Month).as_deref(), Some("2026-11-01 00:00"));
        assert_eq!(name(Range::All), None);
        assert_eq!(name(Range::LastMonth).as_deref(), Some("2026-10-01 00:00"));
        for range in Range::NAMED {
            assert_eq!(Range::parse(range.as_str()), Ok(range));
        }
        assert!(Range::parse("1y").unwrap_err().contains("24h, 7d, 30d, month, last_month, all"));
    }

    #[test]
    fn what_came_before_is_as_long() {
        let days = |range: Range| range.previous(NOW).map(|(from, to)| [from, to].map(day).join(" "));
        assert_eq!(days(Range::Days7).as_deref(), Some("2026-11-10 2026-11-17"));
        assert_eq!(days(Range::Month).as_deref(), Some("2026-10-01 2026-11-01"));
        assert_eq!(days(Range::LastMonth).as_deref(), Some("2026-09-01 2026-10-01"));
        assert_eq!(days(Range::All), None);
        let between = |from, to| Range::Between { from, to };
        assert_eq!(days(between(Some(3 * DAY), Some(5 * DAY))).as_deref(), Some("1970-01-02 1970-01-04"));
        assert_eq!(days(between(Some(3 * DAY), Some(9 * DAY))), None, "there is none before 1970");
        assert_eq!(days(between(None, Some(9 * DAY))), None);
        let (gone, month) = Range::Month.of_month(NOW).unwrap();
        assert_eq!((gone / DAY, month / DAY), (22, 30));
        assert_eq!(Range::LastMonth.to(NOW), Range::Month.from(NOW));
        assert_eq!(between(Some(0), None).parameters(), "from=1970-01-01");
    }

    #[test]
    fn steps_grow_with_the_time() {
        let ago = |days: u64| NOW - days * DAY;
        assert_eq!(Step::of(Range::Hours24, ago(1), NOW), Step::Hour);
        for (days, step, name, short) in [
            (91, Step::Day, "2026-11-23", "11-23"),
            (92, Step::Month, "2026-11", "2026-11"),
            (365 * 4, Step::Month, "2026-11", "2026-11"),
            (365 * 6, Step::Year, "2026", "2026"),
        ] {
            assert_eq!(Step::of(Range::All, ago(days), NOW), step, "{days}");
            assert_eq!((step.name(step.number(NOW)).as_str(), step.short(step.number(NOW)).as_str()), (name, short));
        }
        assert_eq!(Step::Hour.short(Step::Hour.number(NOW)), "09:00");
        assert_eq!(Step::of(Range::All, NOW, ago(1)), Step::Day, "a clock that was set back");
    }
}
