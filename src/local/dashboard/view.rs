//! What the page shows, and the figures that are made of the newest requests.
//!
//! In: what was asked, and what the ledger found. Out: counts and times.

use super::dashboard_query::DashboardQuery;
use crate::reporting::{Entry, Overview};
use crate::usage::record::Outcome;
use std::collections::BTreeMap;

/// What the page shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    pub query: DashboardQuery,
    pub overview: Overview,
}

impl View {
    /// How many of the newest requests ended with each status, or without one: the commonest first.
    pub fn endings(&self) -> Vec<(String, usize)> {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for Entry { record, .. } in &self.overview.sample {
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
