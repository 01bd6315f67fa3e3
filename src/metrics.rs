//! What an operator's monitoring scrapes: plain integers in the loop, the Prometheus text format elsewhere.
//!
//! In: finished records, refusals and errors, as they happen. Out: a [`Snapshot`], cheap to take, that another thread
//! renders. Nothing here reads a clock, a file or a lock, and no peer can make it grow without bound: label values and
//! series past their limits are counted under `_other`, so every sum stays true.

mod exposition;
mod histogram;
mod series;

pub use exposition::{CONTENT_TYPE, ExportGauges, Process, Surroundings};

use crate::price::PriceDates;
use crate::usage::record::{Endpoint, Record, Usage, UsageSource};
use histogram::Histogram;
use series::{Cells, Labels, OTHER, Series};
use std::sync::Arc;

/// Bounds of a request's duration and of its first byte, microseconds: 50 ms to 10 min.
const SECONDS_BOUNDS_US: &[u64] = &[
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    20_000_000,
    30_000_000,
    60_000_000,
    120_000_000,
    300_000_000,
    600_000_000,
];

/// Bounds of the time that the proxy itself adds, microseconds: 10 us to 100 ms.
const OVERHEAD_BOUNDS_US: &[u64] = &[10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000];

/// Limits of what peers can make us remember.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LabelLimits {
    /// User label values beside `_other`.
    pub users_max: usize,
    /// Model label values beside `_other`.
    pub models_max: usize,
    /// Label sets of one metric; beyond it, user and model are both `_other`.
    pub series_max: usize,
}

impl Default for LabelLimits {
    fn default() -> Self {
        Self { users_max: 1_000, models_max: 200, series_max: 20_000 }
    }
}

/// What the loop knows at the instant of a scrape.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gauges {
    /// Exchanges admitted and not yet settled.
    pub requests_in_flight: u64,
    /// Open connections from clients.
    pub downstream_connections: u64,
    /// Open connections to the target, idle ones included.
    pub upstream_connections: u64,
    /// The ledger commits.
    pub ledger_up: bool,
    /// Records settled and not yet committed.
    pub ledger_queue_records: u64,
    /// Memory that held request bodies occupy.
    pub buffered_bytes: u64,
    /// Of when the prices are.
    pub prices: PriceDates,
    /// When the certificate that clients see expires, seconds since the Unix epoch.
    pub certificate_expires_at: Option<u64>,
}

/// The counters of one process.
#[derive(Debug)]
pub struct Metrics {
    users: Labels,
    models: Labels,
    requests: Series<RequestKey, u64>,
    consumption: Series<ModelKey, Consumption>,
    rate_limited: Series<(u32, &'static str), u64>,
    upstream_errors: Series<&'static str, u64>,
    refused: Series<&'static str, u64>,
    totals: Totals,
}

/// The part of the counters whose size is fixed.
#[derive(Clone, Debug)]
struct Totals {
    /// Nanoseconds since the Unix epoch.
    started_at: u64,
    records: [u64; UsageSource::ALL.len()],
    duration: Histogram,
    first_byte: Histogram,
    overhead: Histogram,
    connections_evicted: u64,
    ledger_committed: u64,
    ledger_released: u64,
    ledger_failures: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct RequestKey {
    user: u32,
    model: u32,
    endpoint: Endpoint,
    status: u16,
}

/// A user and a model.
type ModelKey = (u32, u32);

/// What one user consumed of one model.
#[derive(Clone, Debug, Default)]
struct Consumption {
    tokens: [u64; TOKEN_TYPES],
    /// Nano-dollars; `None` until a request had a known cost.
    cost_nano_usd: Option<u64>,
    /// What corrections have taken back. A counter never goes down, so what comes next makes up for it first.
    owed: Option<Box<Owed>>,
}

/// What counters stand above the truth.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Owed {
    tokens: [u64; TOKEN_TYPES],
    nano_usd: u64,
}

impl Consumption {
    fn add(&mut self, record: &Record, tokens: [u64; TOKEN_TYPES]) {
        let mut cost_nano_usd = record.cost_nano_usd;
        let mut tokens = tokens;
        if self.owed.is_some() || record.correction.is_some() {
            self.make_up(record, &mut tokens, &mut cost_nano_usd);
        }
        for (sum, count) in self.tokens.iter_mut().zip(tokens) {
            *sum = sum.saturating_add(count);
        }
        if let Some(cost) = cost_nano_usd {
            self.cost_nano_usd = Some(self.cost_nano_usd.unwrap_or(0).saturating_add(cost));
        }
    }

    /// Takes from what is to be added what is owed, and notes what is taken back.
    #[cold]
    fn make_up(&mut self, record: &Record, tokens: &mut [u64; TOKEN_TYPES], cost_nano_usd: &mut Option<u64>) {
        let mut owed = *self.owed.take().unwrap_or_default();
        if let Some(correction) = &record.correction {
            for (owed, (_, less)) in owed.tokens.iter_mut().zip(token_counts(&correction.less)) {
                *owed = owed.saturating_add(less);
            }
            owed.nano_usd = owed.nano_usd.saturating_add(correction.less_nano_usd);
        }
        let counts = tokens.iter_mut().zip(&mut owed.tokens);
        for (count, owed) in counts.chain(cost_nano_usd.as_mut().map(|cost| (cost, &mut owed.nano_usd))) {
            let made_up = (*count).min(*owed);
            (*count, *owed) = (*count - made_up, *owed - made_up);
        }
        self.owed = (owed != Owed::default()).then(|| Box::new(owed));
    }
}

/// Number of values of the `type` label.
const TOKEN_TYPES: usize = 9;

/// Each value of the `type` label, with its count.
fn token_counts(usage: &Usage) -> [(&'static str, u64); TOKEN_TYPES] {
    [
        ("input", usage.input_tokens),
        ("cached_input", usage.cached_input_tokens),
        ("cache_write", usage.cache_write_tokens),
        ("input_audio", usage.input_audio_tokens),
        ("input_image", usage.input_image_tokens),
        ("output", usage.output_tokens),
        ("reasoning", usage.reasoning_tokens),
        ("output_audio", usage.output_audio_tokens),
        ("output_image", usage.output_image_tokens),
    ]
}

impl Metrics {
    /// `started_at`: when the process started, nanoseconds since the Unix epoch.
    pub fn new(limits: LabelLimits, started_at: u64) -> Self {
        Self {
            users: Labels::new(limits.users_max),
            models: Labels::new(limits.models_max),
            requests: Series::new(limits.series_max),
            consumption: Series::new(limits.series_max),
            rate_limited: Series::new(limits.series_max),
            upstream_errors: Series::new(limits.series_max),
            refused: Series::new(limits.series_max),
            totals: Totals {
                started_at,
                records: [0; UsageSource::ALL.len()],
                duration: Histogram::new(SECONDS_BOUNDS_US),
                first_byte: Histogram::new(SECONDS_BOUNDS_US),
                overhead: Histogram::new(OVERHEAD_BOUNDS_US),
                connections_evicted: 0,
                ledger_committed: 0,
                ledger_released: 0,
                ledger_failures: 0,
            },
        }
    }

    /// Counts a settled exchange, or a correction. Allocates only for a user, model or series that is new.
    pub fn record(&mut self, record: &Record) {
        let (user, model) = (self.users.number(&record.user), self.models.number(record.model_name()));
        let tokens = token_counts(&record.usage).map(|(_, count)| count);
        if record.cost_nano_usd.is_some() || !record.is_request() || tokens.iter().any(|&count| count > 0) {
            let cell = self.consumption.cell((user, model), (OTHER, OTHER));
            cell.add(record, tokens);
        }
        self.totals.records[usize::from(record.usage_source.code())] += 1;
        if !record.is_request() {
            return;
        }

        // Three digits are a status (RFC 9110 section 15); anything longer is counted as none.
        let status = if record.status <= 999 { record.status } else { 0 };
        let key = RequestKey { user, model, endpoint: record.endpoint, status };
        *self.requests.cell(key, RequestKey { user: OTHER, model: OTHER, ..key }) += 1;
        self.totals.duration.observe(record.duration_us);
        self.totals.overhead.observe(record.proxy_us);
        if let Some(us) = record.first_byte_us {
            self.totals.first_byte.observe(us);
        }
    }

    /// Requests refused because a limit was reached: of all users, or of one. `None` where this user's are counted
    /// under `_other` with those of others.
    pub fn rate_limited_of(&self, user: Option<&str>) -> Option<u64> {
        let number = match user.map(|user| self.users.find(user)) {
            Some(None) if self.users.is_full() => return None,
            Some(None) => return Some(0),
            Some(found) => found,
            None => None,
        };
        let cells = self.rate_limited.cells();
        let of_user = cells.iter().filter(|((user, _), _)| number.is_none_or(|number| *user == number));
        Some(of_user.map(|(_, count)| count).sum())
    }

    /// Counts a request refused because a user's limit was reached; `limit` names it (`requests`, `tokens`, …).
    pub fn rate_limited(&mut self, user: &str, limit: &'static str) {
        let user = self.users.number(user);
        *self.rate_limited.cell((user, limit), (OTHER, limit)) += 1;
    }

    /// Counts a failed attempt at the upstream.
    pub fn upstream_error(&mut self, reason: &'static str) {
        *self.upstream_errors.cell(reason, reason) += 1;
    }

    /// Counts a request that was answered with an error of our own and never relayed.
    pub fn refused(&mut self, reason: &'static str) {
        *self.refused.cell(reason, reason) += 1;
    }

    /// Counts a connection that was closed for another one.
    pub fn connection_evicted(&mut self) {
        self.totals.connections_evicted += 1;
    }

    /// So many records are committed by now.
    pub fn ledger_committed(&mut self, records: u64) {
        self.totals.ledger_committed = records;
    }

    /// Counts a reply that was let go before its record was committed.
    pub fn ledger_released_uncommitted(&mut self) {
        self.totals.ledger_released += 1;
    }

    /// The ledger has begun to fail, or fails for another reason.
    pub fn ledger_failed(&mut self) {
        self.totals.ledger_failures += 1;
    }

    /// A copy to render elsewhere, which shares the tables with this.
    pub fn snapshot(&self, gauges: Gauges) -> Snapshot {
        Snapshot {
            users: self.users.values().into(),
            models: self.models.values().into(),
            requests: self.requests.cells(),
            consumption: self.consumption.cells(),
            rate_limited: self.rate_limited.cells(),
            upstream_errors: self.upstream_errors.cells(),
            refused: self.refused.cells(),
            totals: self.totals.clone(),
            gauges,
        }
    }
}

/// The counters at one instant. [`Snapshot::render`] makes the scrape's body of it, on any thread.
#[derive(Clone, Debug)]
pub struct Snapshot {
    users: Vec<Arc<str>>,
    models: Vec<Arc<str>>,
    requests: Cells<RequestKey, u64>,
    consumption: Cells<ModelKey, Consumption>,
    rate_limited: Cells<(u32, &'static str), u64>,
    upstream_errors: Cells<&'static str, u64>,
    refused: Cells<&'static str, u64>,
    totals: Totals,
    gauges: Gauges,
}

#[cfg(test)]
mod tests;
