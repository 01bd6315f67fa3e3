//! One figure of several runs: the median, and from where to where they went.
//!
//! In: numbers. Out: text of three significant digits. Never: a mean, which one bad run would move.

use std::fmt::{self, Display, Formatter};

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figure {
    pub median: f64,
    min: f64,
    max: f64,
}

impl Figure {
    /// `None` of nothing.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 };
        Some(Self { median, min, max })
    }
}

impl Display for Figure {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let [median, min, max] = [self.median, self.min, self.max].map(short);
        if min == max { f.pad(&median) } else { f.pad(&format!("{median} ({min}-{max})")) }
    }
}

/// Three significant digits, or all before the point.
pub fn short(value: f64) -> String {
    let decimals = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
    format!("{value:.decimals$}")
}

/// A dash for what is not known.
pub fn or_dash(value: Option<impl Display>) -> String {
    value.map_or("-".to_string(), |value| value.to_string())
}
