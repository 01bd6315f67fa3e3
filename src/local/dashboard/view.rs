//! What the page shows, and the figures that are made of the newest requests.
//!
//! In: what was asked, and what the ledger found. Out: counts and times.

use super::dashboard_query::DashboardQuery;
use crate::local::humanize::money;
use crate::reporting::{Entry, Overview, Totals};
use crate::usage::record::Outcome;
use std::collections::BTreeMap;

/// Colours that a model may have; others share the one behind them.
pub const COLOURS: u8 = 10;

/// What the page shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    pub query: DashboardQuery,
    pub overview: Overview,
}

impl View {
    /// How many of the newest requests that failed ended with each status, or without one: the commonest first.
    pub fn failures(&self) -> Vec<(String, usize)> {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for Entry { record, .. } in &self.overview.failed {
            *counts.entry(ending(record.status, record.outcome)).or_default() += 1;
        }
        let mut endings: Vec<_> = counts.into_iter().collect();
        endings.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        endings
    }

    /// Microseconds of each of the newest requests that went well, in ascending order. Sessions last as long as they
    /// are wanted: they tell nothing.
    pub fn times(&self, of: impl Fn(&Entry) -> Option<u64>) -> Vec<u64> {
        let good = |entry: &&Entry| !entry.record.is_error() && !entry.record.endpoint.is_session();
        let mut times: Vec<u64> = self.overview.sample.iter().filter(good).filter_map(of).collect();
        times.sort_unstable();
        times
    }

    /// What this month will have cost at its end, at the rate of what is over of it; not before there is a day of it.
    pub fn forecast(&self) -> Option<u64> {
        let (gone, month) = self.query.range.of_month(self.query.now)?;
        let cost = u128::from(self.overview.totals.cost_nano_usd);
        let forecast = (cost * u128::from(month)).checked_div(u128::from(gone))?;
        u64::try_from(forecast).ok().filter(|_| gone >= month / 31)
    }

    /// The colour of each series: a model has the same in every view, unless one before it has that.
    pub fn colours(&self) -> Vec<u8> {
        let mut colours: Vec<u8> = Vec::new();
        for (model, _) in &self.overview.series {
            let Some(model) = model else {
                colours.push(COLOURS);
                continue;
            };
            let sum = model.bytes().fold(0u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
            let mut colour = (sum % u32::from(COLOURS)) as u8;
            while colours.contains(&colour) {
                colour = (colour + 1) % COLOURS;
            }
            colours.push(colour);
        }
        colours
    }
}

/// What something cost as far as that is known.
pub fn cost(totals: &Totals) -> String {
    match (totals.unpriced, totals.cost_nano_usd) {
        (0, cost) => money(cost),
        (_, 0) => "–".to_owned(),
        (_, cost) => format!("≥ {}", money(cost)),
    }
}

/// How a request ended, in a word or two.
pub fn ending(status: u16, outcome: Outcome) -> String {
    match (status, outcome) {
        (0, _) => outcome.as_str().replace('_', " "),
        (100..400, Outcome::Completed) | (400.., _) => status.to_string(),
        (_, outcome) => format!("{status}, {}", outcome.as_str().replace('_', " ")),
    }
}

/// The value that so many hundredths of all do not exceed; of a sorted list.
pub fn percentile(sorted: &[u64], hundredths: usize) -> Option<u64> {
    let place = (sorted.len() * hundredths).div_ceil(100).max(1) - 1;
    sorted.get(place).copied()
}
