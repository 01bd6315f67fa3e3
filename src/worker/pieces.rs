//! Cuts a range of time into the fewest pieces that rollups know: months, days, hours, and the parts of hours at its
//! ends, for which only the rows themselves can tell.
//!
//! ```text
//!   from                                                                          to
//!    |-part-|- hours -|- days -|------- months -------|- days -|- hours -|-part-|
//!                                                     ^ months reach so far, days further, hours everywhere
//! ```
//!
//! In: a range and how far the levels reach. Out: pieces, in order, without gap or overlap. Never: a database.

use super::fold::NS_PER_HOUR;
use crate::base::civil::{first_day_of_month, month_of_day};

const NS_PER_DAY: i64 = 24 * NS_PER_HOUR;

/// A level of rollups, the finest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unit {
    Hour,
    Day,
    Month,
}

impl Unit {
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

/// A piece of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Whole hours, days or months, counted from the Unix epoch: from the first to before `after`. At the end of what
    /// its level reaches, the last month is as much of it as is there.
    Whole { unit: Unit, first: i64, after: i64 },
    /// A part of one hour, at either end: nanoseconds since the Unix epoch, half-open.
    Part { from: i64, to: i64 },
}

/// How far the levels reach: days since 1970, exclusive. Hours reach everywhere.
#[derive(Clone, Copy, Debug)]
pub struct Boundaries {
    pub days: i64,
    pub months: i64,
}

/// The pieces of `[from, to)`, from this unit down. Times are nanoseconds since the Unix epoch, not negative;
/// `i64::MAX` as `to` is the end of time.
pub fn pieces(from: i64, to: i64, coarsest: Unit, boundaries: Boundaries) -> Vec<Piece> {
    let mut pieces = Vec::new();
    cut(&mut pieces, from, to, Some(coarsest), boundaries);
    pieces
}

fn cut(pieces: &mut Vec<Piece>, from: i64, to: i64, unit: Option<Unit>, boundaries: Boundaries) {
    if from >= to {
        return;
    }
    let Some(unit) = unit else {
        // Less than two hours, none of them whole: perhaps the end of one and the start of the next.
        let edge = Unit::Hour.start(Unit::Hour.of(from) + 1).min(to);
        pieces.push(Piece::Part { from, to: edge });
        return cut(pieces, edge, to, None, boundaries);
    };
    let reach = match unit {
        Unit::Hour => i64::MAX,
        Unit::Day => Unit::Day.start(boundaries.days),
        Unit::Month => Unit::Day.start(boundaries.months),
    };
    let first = unit.not_before(from);
    // Where the range goes on past what the level reaches, all that is there of the last one counts.
    let after = if to >= reach { unit.not_before(reach) } else { unit.of(to) };
    if first >= after {
        return cut(pieces, from, to, unit.finer(), boundaries);
    }
    cut(pieces, from, unit.start(first), unit.finer(), boundaries);
    pieces.push(Piece::Whole { unit, first, after });
    cut(pieces, unit.start(after).min(reach), to, unit.finer(), boundaries);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The range that a piece stands for.
    fn range(piece: Piece, boundaries: Boundaries) -> (i64, i64) {
        match piece {
            Piece::Part { from, to } => (from, to),
            Piece::Whole { unit, first, after } => {
                let reach = match unit {
                    Unit::Hour => i64::MAX,
                    Unit::Day => boundaries.days * NS_PER_DAY,
                    Unit::Month => boundaries.months * NS_PER_DAY,
                };
                (unit.start(first), unit.start(after).min(reach))
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
        fn pieces_are_the_range_and_as_coarse_as_the_levels_reach(
            (a, b) in (instant(), instant()),
            (days, behind) in (20_000i64..21_100, 0..40i64),
            coarsest in prop::sample::select(vec![Unit::Hour, Unit::Day, Unit::Month]),
        ) {
            let (from, to) = (a.min(b), a.max(b));
            let boundaries = Boundaries { days, months: days - behind };
            let pieces = pieces(from, to, coarsest, boundaries);
            let mut at = from;
            for piece in &pieces {
                let (start, end) = range(*piece, boundaries);
                prop_assert_eq!(start, at, "{:?}", &pieces);
                prop_assert!(start < end, "{:?}", &pieces);
                at = end;
                match *piece {
                    Piece::Part { .. } => {
                        prop_assert!(end - start < NS_PER_HOUR);
                        prop_assert_eq!(Unit::Hour.of(start), Unit::Hour.of(end - 1));
                    }
                    Piece::Whole { unit, first, after } => {
                        prop_assert!(unit <= coarsest);
                        prop_assert!(first < after);
                        let coarser = match unit {
                            Unit::Hour => Some((Unit::Day, days)),
                            Unit::Day => Some((Unit::Month, boundaries.months)),
                            Unit::Month => None,
                        };
                        if let Some((coarser, reach)) = coarser.filter(|(coarser, _)| *coarser <= coarsest) {
                            let whole = coarser.not_before(start);
                            let end = end.min(reach * NS_PER_DAY);
                            prop_assert!(coarser.start(whole + 1) > end, "{coarser:?} in {:?}", &pieces);
                        }
                    }
                }
            }
            prop_assert_eq!(at, to);
            prop_assert!(pieces.len() <= 7);
        }
    }

    #[test]
    fn a_year_that_has_not_ended() {
        // 2026-01-01 to 2027-01-01, asked on 2026-11-23 at 09:30, when months reach to the 21st and days to the 23rd.
        let (from, to) = (20_454, 20_819);
        let boundaries = Boundaries { days: 20_780, months: 20_778 };
        assert_eq!(
            pieces(from * NS_PER_DAY, to * NS_PER_DAY, Unit::Month, boundaries),
            [
                Piece::Whole { unit: Unit::Month, first: 672, after: 683 },
                Piece::Whole { unit: Unit::Day, first: 20_778, after: 20_780 },
                Piece::Whole { unit: Unit::Hour, first: 20_780 * 24, after: to * 24 },
            ]
        );
    }
}
