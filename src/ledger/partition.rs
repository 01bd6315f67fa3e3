//! Time partitions: cuts a range of time into the fewest parts that rollups know (months, days, hours), and the parts
//! of hours at its ends, for which only the rows themselves can tell.
//!
//! ```text
//!   from                                                                          to
//!    |-part-|- hours -|- days -|------- months -------|- days -|- hours -|-part-|
//!                                    watermarks: months ^, days further on, hours everywhere
//! ```
//!
//! In: a range and the tiers' watermarks. Out: partitions, in order, without gap or overlap. Never: a database.

use crate::base::civil::{first_day_of_month, month_of_day};

/// Nanoseconds of an hour and of a day; both are counted from the Unix epoch, in UTC.
pub const NS_PER_HOUR: i64 = 3_600_000_000_000;
pub const HOURS_PER_DAY: i64 = 24;
pub const NS_PER_DAY: i64 = HOURS_PER_DAY * NS_PER_HOUR;

/// How fine a tier of rollups is, the finest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Granularity {
    Hour,
    Day,
    Month,
}

impl Granularity {
    /// The one in which an instant is, counted from the one at the Unix epoch.
    fn of(self, ns: i64) -> i64 {
        match self {
            Self::Hour => ns / NS_PER_HOUR,
            Self::Day => ns / NS_PER_DAY,
            Self::Month => month_of_day(ns / NS_PER_DAY),
        }
    }

    /// The first instant of one; `i64::MAX` where that is past the end of time.
    fn start(self, count: i64) -> i64 {
        match self {
            Self::Hour => count.saturating_mul(NS_PER_HOUR),
            Self::Day => count.saturating_mul(NS_PER_DAY),
            Self::Month => first_day_of_month(count).saturating_mul(NS_PER_DAY),
        }
    }

    /// The first one that starts at an instant or after it.
    fn not_before(self, ns: i64) -> i64 {
        let count = self.of(ns);
        if self.start(count) == ns { count } else { count + 1 }
    }

    fn finer(self) -> Option<Self> {
        match self {
            Self::Hour => None,
            Self::Day => Some(Self::Hour),
            Self::Month => Some(Self::Day),
        }
    }
}

/// A partition of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Partition {
    /// Whole hours, days or months, counted from the Unix epoch: from the first to before `after`. At its tier's
    /// watermark, the last month is as much of it as is there.
    Whole { granularity: Granularity, first: i64, after: i64 },
    /// A part of one hour, at either end: nanoseconds since the Unix epoch, half-open.
    Part { from: i64, to: i64 },
}

/// The tiers' watermarks: every day (since 1970) before one is in the tier. Hours are always there.
#[derive(Clone, Copy, Debug)]
pub struct TierMarks {
    pub days: i64,
    pub months: i64,
}

/// The partitions of `[from, to)`, from this granularity down. Times are nanoseconds since the Unix epoch, not
/// negative; `i64::MAX` as `to` is the end of time.
pub fn partitions(from: i64, to: i64, coarsest: Granularity, marks: TierMarks) -> Vec<Partition> {
    let mut partitions = Vec::new();
    cut(&mut partitions, from, to, Some(coarsest), marks);
    partitions
}

fn cut(partitions: &mut Vec<Partition>, from: i64, to: i64, granularity: Option<Granularity>, marks: TierMarks) {
    if from >= to {
        return;
    }
    let Some(granularity) = granularity else {
        // Less than two hours, none of them whole: perhaps the end of one and the start of the next.
        let edge = Granularity::Hour.start(Granularity::Hour.of(from) + 1).min(to);
        partitions.push(Partition::Part { from, to: edge });
        return cut(partitions, edge, to, None, marks);
    };
    let mark = match granularity {
        Granularity::Hour => i64::MAX,
        Granularity::Day => Granularity::Day.start(marks.days),
        Granularity::Month => Granularity::Day.start(marks.months),
    };
    let first = granularity.not_before(from);
    // Where the range goes on past the tier's watermark, all that is there of the last one counts.
    let after = if to >= mark { granularity.not_before(mark) } else { granularity.of(to) };
    if first >= after {
        return cut(partitions, from, to, granularity.finer(), marks);
    }
    cut(partitions, from, granularity.start(first), granularity.finer(), marks);
    partitions.push(Partition::Whole { granularity, first, after });
    cut(partitions, granularity.start(after).min(mark), to, granularity.finer(), marks);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The range that a partition stands for.
    fn range(partition: Partition, marks: TierMarks) -> (i64, i64) {
        match partition {
            Partition::Part { from, to } => (from, to),
            Partition::Whole { granularity, first, after } => {
                let mark = match granularity {
                    Granularity::Hour => i64::MAX,
                    Granularity::Day => marks.days * NS_PER_DAY,
                    Granularity::Month => marks.months * NS_PER_DAY,
                };
                (granularity.start(first), granularity.start(after).min(mark))
            }
        }
    }

    /// Instants of three years, often at the start of an hour, a day or a month, or beside it.
    fn instant() -> impl Strategy<Value = i64> {
        let days = 20_000i64..21_100;
        let edge = prop_oneof![
            days.clone().prop_map(|day| day * NS_PER_DAY),
            days.clone().prop_map(|day| first_day_of_month(month_of_day(day)) * NS_PER_DAY),
            (days.clone(), 0..24i64).prop_map(|(day, hour)| day * NS_PER_DAY + hour * NS_PER_HOUR),
        ];
        prop_oneof![
            4 => (edge, -1..=1i64).prop_map(|(edge, beside)| edge + beside),
            1 => days.prop_flat_map(|day| day * NS_PER_DAY..(day + 1) * NS_PER_DAY),
            1 => prop::sample::select(vec![0, i64::MAX]),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn partitions_are_the_range_and_as_coarse_as_the_watermarks_allow(
            (a, b) in (instant(), instant()),
            (days, behind) in (20_000i64..21_100, 0..40i64),
            coarsest in prop::sample::select(vec![Granularity::Hour, Granularity::Day, Granularity::Month]),
        ) {
            let (from, to) = (a.min(b), a.max(b));
            let marks = TierMarks { days, months: days - behind };
            let partitions = partitions(from, to, coarsest, marks);
            let mut at = from;
            for partition in &partitions {
                let (start, end) = range(*partition, marks);
                prop_assert_eq!(start, at, "{:?}", &partitions);
                prop_assert!(start < end, "{:?}", &partitions);
                at = end;
                match *partition {
                    Partition::Part { .. } => {
                        prop_assert!(end - start < NS_PER_HOUR);
                        prop_assert_eq!(Granularity::Hour.of(start), Granularity::Hour.of(end - 1));
                    }
                    Partition::Whole { granularity, first, after } => {
                        prop_assert!(granularity <= coarsest);
                        prop_assert!(first < after);
                        let coarser = match granularity {
                            Granularity::Hour => Some((Granularity::Day, days)),
                            Granularity::Day => Some((Granularity::Month, marks.months)),
                            Granularity::Month => None,
                        };
                        if let Some((coarser, mark)) = coarser.filter(|(coarser, _)| *coarser <= coarsest) {
                            let whole = coarser.not_before(start);
                            let end = end.min(mark * NS_PER_DAY);
                            prop_assert!(coarser.start(whole + 1) > end, "{coarser:?} in {:?}", &partitions);
                        }
                    }
                }
            }
            prop_assert_eq!(at, to);
            prop_assert!(partitions.len() <= 7);
        }
    }

    #[test]
    fn a_year_that_has_not_ended() {
        // 2026-01-01 to 2027-01-01, asked on 2026-11-23 at 09:30, when months mark to the 21st and days to the 23rd.
        let (from, to) = (20_454, 20_819);
        let marks = TierMarks { days: 20_780, months: 20_778 };
        assert_eq!(
            partitions(from * NS_PER_DAY, to * NS_PER_DAY, Granularity::Month, marks),
            [
                Partition::Whole { granularity: Granularity::Month, first: 672, after: 683 },
                Partition::Whole { granularity: Granularity::Day, first: 20_778, after: 20_780 },
                Partition::Whole { granularity: Granularity::Hour, first: 20_780 * 24, after: to * 24 },
            ]
        );
    }
}
