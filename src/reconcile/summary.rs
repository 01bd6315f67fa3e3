//! What is kept of a day's comparison: its sums, and the rows that tell most.
//!
//! In: a [`Comparison`], or the text that was made of one. Out: a [`Summary`], or that text. Never: more than
//! [`SUMMARY_ROWS_MAX`] rows of a day.

use super::cells::{Book, CellKey};
use super::comparison::{Comparison, Reason, Row, Total, Verdict};
use super::line_item::PriceDifference;
use super::quantity::Quantity;
use serde_json::{Value, json};
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// Rows that are kept of a day; the largest of each quantity come first.
pub const SUMMARY_ROWS_MAX: usize = 20;

/// What a day came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// When it was compared, nanoseconds since the Unix epoch.
    pub at: u64,
    pub totals: BTreeMap<Quantity, Total>,
    /// Quantities of cells that differ, and that could not be judged.
    pub differing: u64,
    pub unknown: u64,
    /// The largest differences.
    pub rows: Vec<Row>,
    /// Prices that are others.
    pub prices: Vec<ToldPrice>,
}

/// A price that is another: the line of the costs, the unit, the price in US dollars there and in our table.
pub type ToldPrice = (String, String, String, Option<String>);

/// What is kept of a reason: its name, and its number.
const REASONS: [&str; 14] = [
    "open",
    "batch_time",
    "not_known_here",
    "not_known_there",
    "only_there",
    "beside",
    "only_here",
    "fewer",
    "estimated",
    "unknown",
    "unpriced",
    "price",
    "usage",
    "none_known",
];

impl PriceDifference {
    /// What is kept of it.
    pub fn told(&self) -> ToldPrice {
        (self.item.to_string(), self.unit.to_owned(), self.theirs.clone(), self.ours.clone())
    }
}

impl Reason {
    /// Its stable name.
    pub const fn label(&self) -> &'static str {
        REASONS[match self {
            Self::Open => 0,
            Self::BatchTime => 1,
            Self::NotKnownHere => 2,
            Self::NotKnownThere => 3,
            Self::OnlyThere => 4,
            Self::Beside(_) => 5,
            Self::OnlyHere => 6,
            Self::Fewer(_) => 7,
            Self::Estimated(..) => 8,
            Self::Unknown(_) => 9,
            Self::Unpriced(_) => 10,
            Self::Price(_) => 11,
            Self::Usage => 12,
            Self::NoneKnown => 13,
        }]
    }

    /// As it is kept, and as programs read it.
    pub fn document(&self) -> Value {
        let (requests, explains, item) = match self {
            Self::Beside(count) | Self::Fewer(count) | Self::Unknown(count) | Self::Unpriced(count) => {
                (Some(*count), None, None)
            }
            Self::Estimated(count, explains) => (Some(*count), *explains, None),
            Self::Price(item) => (None, None, Some(item)),
            _ => (None, None, None),
        };
        json!({ "reason": self.label(), "requests": requests, "explains": explains, "item": item })
    }

    fn read(document: &Value) -> Option<Self> {
        let count = document["requests"].as_u64().unwrap_or(0);
        let place = REASONS.iter().position(|name| document["reason"] == **name)?;
        Some(match place {
            0 => Self::Open,
            1 => Self::BatchTime,
            2 => Self::NotKnownHere,
            3 => Self::NotKnownThere,
            4 => Self::OnlyThere,
            5 => Self::Beside(count),
            6 => Self::OnlyHere,
            7 => Self::Fewer(count),
            8 => Self::Estimated(count, document["explains"].as_u64()),
            9 => Self::Unknown(count),
            10 => Self::Unpriced(count),
            11 => Self::Price(document["item"].as_str()?.into()),
            12 => Self::Usage,
            _ => Self::NoneKnown,
        })
    }
}

impl Summary {
    /// Of what was compared at this instant (nanoseconds since the Unix epoch).
    pub fn of(found: &Comparison, at: u64) -> Self {
        let mut rows: Vec<&Row> = found.rows.iter().filter(|row| row.verdict == Verdict::Differs).collect();
        // Money before numbers of anything.
        rows.sort_by_key(|row| Reverse((row.quantity, row.difference().unsigned_abs())));
        let prices = found.prices.values().take(SUMMARY_ROWS_MAX);
        Self {
            at,
            totals: found.totals.clone(),
            differing: found.counted(Verdict::Differs),
            unknown: found.counted(Verdict::Unknown),
            rows: rows.into_iter().take(SUMMARY_ROWS_MAX).cloned().collect(),
            prices: prices.map(PriceDifference::told).collect(),
        }
    }

    /// The text that is kept.
    pub fn text(&self) -> String {
        let totals = self.totals.iter().map(|(of, total)| json!([of.label(), total.ours, total.theirs, total.gap]));
        let rows = self.rows.iter().map(|row| {
            let Row { key: CellKey { start, book, model }, quantity, ours, theirs, reasons, .. } = row;
            let reasons: Vec<_> = reasons.iter().map(Reason::document).collect();
            json!([start, book.label(), model, quantity.label(), ours, theirs, reasons])
        });
        json!({
            "at": self.at, "totals": totals.collect::<Vec<_>>(), "differing": self.differing,
            "unknown": self.unknown, "rows": rows.collect::<Vec<_>>(), "prices": self.prices,
        })
        .to_string()
    }

    /// The reverse; `None` for what is no such text. Rows with words of a later version are passed over.
    pub fn read(text: &str) -> Option<Self> {
        let document: Value = serde_json::from_str(text).ok()?;
        let list = |name: &str| document[name].as_array().map(Vec::as_slice).unwrap_or_default();
        let total = |of: &Value| {
            let total = Total { ours: of[1].as_u64()?, theirs: of[2].as_u64()?, gap: of[3].as_u64()? };
            Some((Quantity::named(of[0].as_str()?)?, total))
        };
        let price = |of: &Value| {
            let text = |place: usize| of[place].as_str().map(str::to_owned);
            Some((text(0)?, text(1)?, text(2)?, text(3)))
        };
        Some(Self {
            at: document["at"].as_u64()?,
            totals: list("totals").iter().filter_map(total).collect(),
            differing: document["differing"].as_u64()?,
            unknown: document["unknown"].as_u64()?,
            rows: list("rows").iter().filter_map(row).collect(),
            prices: list("prices").iter().filter_map(price).collect(),
        })
    }
}

fn row(of: &Value) -> Option<Row> {
    Some(Row {
        key: CellKey { start: of[0].as_u64()?, book: Book::named(of[1].as_str()?)?, model: of[2].as_str()?.into() },
        quantity: Quantity::named(of[3].as_str()?)?,
        ours: of[4].as_u64(),
        theirs: of[5].as_u64(),
        verdict: Verdict::Differs,
        reasons: of[6].as_array()?.iter().filter_map(Reason::read).collect(),
    })
}
