//! `GET /dashboard`: a page for a person with a browser, who used what and how it went.
//!
//! In: a query string and `now`; sums and records that the query thread found. Out: an [`Ask`] or the sentence for a
//! 400; from a [`View`], one HTML document that needs nothing else: no script, no picture, no font, no other address,
//! and a policy that has the browser refuse them all.
//!
//! Users choose their own names, and so does whoever answers for models. Every name goes through `maud`, which escapes
//! it, or into a link percent-encoded; none gets into a chart.

mod chart;
mod page;
mod parts;
mod span;

pub use span::{Range, Step};

use super::Answer;
use super::usage::{Entry, Given, Totals};
use crate::usage::record::Outcome;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{SHA256, digest};
use std::collections::BTreeMap;
use std::sync::LazyLock;

/// Models that a chart shows one by one, the dearest; the others are one.
pub const CHARTED_MAX: usize = 5;
/// Rows of a table; the others are one.
pub const ROWS_MAX: usize = 20;
/// The newest requests, of which times and endings are told.
pub const SAMPLE_MAX: u32 = 1000;
/// Of these, so many are shown one by one.
const LATEST_MAX: usize = 20;

/// The page's one style sheet.
const STYLE: &str = include_str!("dashboard/style.css");

/// Header lines of the page. The style is allowed by its hash, so that no other has a chance.
static HEADERS: LazyLock<String> = LazyLock::new(|| {
    let hash = STANDARD.encode(digest(&SHA256, STYLE.as_bytes()));
    format!(
        "content-security-policy: default-src 'none'; style-src 'sha256-{hash}'; img-src data:; form-action 'self'; \
         frame-ancestors 'none'; base-uri 'none'\r\n\
         x-content-type-options: nosniff\r\nreferrer-policy: no-referrer\r\n"
    )
});

/// What is asked of the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Only this user's; everybody's where `None`.
    pub user: Option<String>,
    pub range: Range,
    /// The present, nanoseconds since the Unix epoch.
    pub now: u64,
    /// Whoever asks may see this user's only.
    pub own: bool,
    /// Requests that the proxy itself has refused for a limit since it started, where that is known.
    pub refused: Option<u64>,
    /// Where the proxy was reached, as the browser called it.
    pub host: Option<String>,
}

impl Ask {
    /// Reads the query string of a target. `now` in nanoseconds since the Unix epoch.
    ///
    /// # Errors
    /// Words for the client, naming the parameter that is wrong.
    pub fn parse(raw: &str, now: u64) -> Result<Self, String> {
        let (mut user, mut range) = (None, None);
        for pair in raw.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = Given::decoded(pair)?;
            match name.as_str() {
                // A form sends what was left empty.
                "user_id" if user.is_none() => user = Some(if value.is_empty() { None } else { Some(value) }),
                "range" if range.is_none() => range = Some(Range::parse(&value)?),
                "user_id" | "range" => return Err(format!("`{name}` is given more than once")),
                _ => {
                    let name: String = name.chars().take(40).collect();
                    return Err(format!("unknown parameter `{name}`; known are user_id, range"));
                }
            }
        }
        let user = user.flatten().map(|user| Given::name("user_id", user)).transpose()?;
        Ok(Self { user, range: range.unwrap_or_default(), now, own: false, refused: None, host: None })
    }

    /// The first instant of the range, where it has one.
    pub fn from(&self) -> Option<u64> {
        self.range.from(self.now)
    }
}

/// The largest of many sums, and what is left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranking {
    /// The dearest first.
    pub top: Vec<(String, Totals)>,
    /// How many others there are.
    pub others: usize,
    pub of_others: Totals,
}

/// A model, or all that are not named, and its sums of hours or days by their start (nanoseconds since the Unix epoch).
pub type Series = (Option<String>, BTreeMap<u64, Totals>);

/// What the page shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    pub ask: Ask,
    /// The ledger has a record, whosever it is and whenever.
    pub ever: bool,
    pub totals: Totals,
    pub models: Ranking,
    /// Users; or of one user, the endpoints.
    pub others: Ranking,
    /// Of the dearest models, and last of all others where there are any.
    pub series: Vec<Series>,
    /// The newest requests.
    pub sample: Vec<Entry>,
}

impl View {
    /// The page.
    pub fn answer(&self) -> Answer {
        let body = page::page(self).into_string();
        Answer { headers: &HEADERS, ..Answer::new(200, "text/html; charset=utf-8", body) }
    }

    /// How many of the newest requests ended with each status, or without one: the commonest first.
    fn endings(&self) -> Vec<(String, usize)> {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for Entry { record, .. } in &self.sample {
            *counts.entry(ending(record.status, record.outcome)).or_default() += 1;
        }
        let mut endings: Vec<_> = counts.into_iter().collect();
        endings.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        endings
    }

    /// Microseconds of each of the newest requests that went well, in ascending order. Sessions last as long as they
    /// are wanted: they tell nothing.
    fn times(&self, of: impl Fn(&Entry) -> Option<u64>) -> Vec<u64> {
        let good = |entry: &&Entry| !entry.record.is_error() && !entry.record.endpoint.is_session();
        let mut times: Vec<u64> = self.sample.iter().filter(good).filter_map(of).collect();
        times.sort_unstable();
        times
    }
}

/// How a request ended, in a word or two.
fn ending(status: u16, outcome: Outcome) -> String {
    match (status, outcome) {
        (0, _) => outcome.as_str().replace('_', " "),
        (100..400, Outcome::Completed) | (400.., _) => status.to_string(),
        (_, outcome) => format!("{status}, {}", outcome.as_str().replace('_', " ")),
    }
}

/// The value that so many hundredths of all do not exceed; of a sorted list.
fn percentile(sorted: &[u64], hundredths: usize) -> Option<u64> {
    let place = (sorted.len() * hundredths).div_ceil(100).max(1) - 1;
    sorted.get(place).copied()
}

#[cfg(test)]
mod tests;
