//! What an operator's monitoring scrapes: plain integers in the loop, the Prometheus text format elsewhere.
//!
//! In: finished records, refusals and errors, as they happen, and what the ledger had before. Out: a [`Snapshot`],
//! cheap to take, that another thread renders. Nothing here reads a clock, a file or a lock, and no peer can make it
//! grow without bound: label values and series past their limits are counted under `_other`, so every sum stays true.

mod exposition;
mod first_zero;
mod histogram;
mod series;

pub use exposition::{CONTENT_TYPE, ExportGauges, FleetGauges, Process, ReconcileGauges, Surroundings};

use crate::limit::levels::Payer;
use crate::limit::status::LimitUse;
use crate::price::PriceDates;
use crate::reporting::Refusals;
use crate::usage::record::{Correction, Endpoint, Record, Usage, UsageSource};
use first_zero::{Counters, Moment, Scrapers};
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
    /// In a fleet: requests that wait for its database, and accounts of limits that something is held of.
    pub leases: Option<[u64; 2]>,
    /// Of when the prices are.
    pub prices: PriceDates,
    /// When the certificate that clients see expires, seconds since the Unix epoch.
    pub certificate_expires_at: Option<u64>,
    /// What is spent of budgets.
    pub budgets: Vec<LimitUse>,
}

/// The labels of a limit: its level, and its name. There are as many as the code has.
type LimitLabels = [&'static str; 2];

/// The counters of one process.
#[derive(Debug)]
pub struct Metrics {
    /// Users, each with the team where there is one (see [`TEAM_MARK`]).
    users: Labels,
    /// Room for such a name.
    user_and_team: String,
    models: Labels,
    requests: Series<RequestKey, Counters<1>>,
    consumption: Series<ModelKey, Consumption>,
    rate_limited: Series<(u32, LimitLabels), Counters<1>>,
    upstream_errors: Series<&'static str, Counters<1>>,
    refused: Series<&'static str, Counters<1>>,
    totals: Totals,
    scrapers: Scrapers,
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

/// What one user consumed of one model: each type of token, and at [`COST`] nano-dollars.
#[derive(Clone, Debug, Default)]
struct Consumption {
    counters: Counters<AMOUNTS>,
    /// What corrections have taken back, so that counters stand above the truth. A counter never goes down, so what
    /// comes next makes up for it first.
    owed: Option<Box<[u64; AMOUNTS]>>,
}

impl Consumption {
    fn add(&mut self, record: &Record, now: Moment) {
        let mut amounts = amounts(&record.usage, record.cost_nano_usd.unwrap_or(0));
        if self.owed.is_some() || record.correction.is_some() {
            self.make_up(record, &mut amounts);
        }
        for (place, amount) in amounts.into_iter().enumerate() {
            if amount > 0 || place == COST && record.cost_nano_usd.is_some() {
                self.counters.add(place, amount, now);
            }
        }
    }

    /// Takes from what is to be added what is owed, and notes what is taken back.
    #[cold]
    fn make_up(&mut self, record: &Record, amounts: &mut [u64; AMOUNTS]) {
        let mut owed = self.owed.take().map_or([0; AMOUNTS], |owed| *owed);
        if let Some(Correction { less, less_nano_usd, .. }) = record.correction.as_deref() {
            for (owed, less) in owed.iter_mut().zip(self::amounts(less, *less_nano_usd)) {
                *owed = owed.saturating_add(less);
            }
        }
        for (amount, owed) in amounts.iter_mut().zip(&mut owed) {
            let made_up = (*amount).min(*owed);
            (*amount, *owed) = (*amount - made_up, *owed - made_up);
        }
        self.owed = (owed != [0; AMOUNTS]).then(|| Box::new(owed));
    }
}

/// What the ledger had of a user before this process began: series that will probably be counted in again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormerSeries {
    user: Box<str>,
    model: Box<str>,
    endpoint: Endpoint,
    status: Option<u16>,
    /// The amounts that were counted.
    counted: [bool; AMOUNTS],
}

impl FormerSeries {
    /// `user_and_model`: as in [`Record::user`], with the team behind [`TEAM_MARK`], and of [`Record::model_name`];
    /// `status`: that was sent, where it is known; of `usage`, the types of tokens that are not 0 were counted.
    pub fn new(
        user_and_model: [Box<str>; 2],
        endpoint: Endpoint,
        status: Option<u16>,
        usage: &Usage,
        is_priced: bool,
    ) -> Self {
        let [user, model] = user_and_model;
        let counted = amounts(usage, is_priced.into()).map(|amount| amount > 0);
        Self { user, model, endpoint, status, counted }
    }
}

/// What parts a user's name from the team's in a label: no name has a control character.
pub const TEAM_MARK: char = '\u{1f}';

/// A user, and the team.
fn split_team(label: &str) -> (&str, Option<&str>) {
    label.split_once(TEAM_MARK).map_or((label, None), |(user, team)| (user, Some(team)))
}

/// The place of the cost behind the types of tokens.
const COST: usize = TOKEN_TYPES;
/// How many amounts there are of a user and a model.
const AMOUNTS: usize = TOKEN_TYPES + 1;

/// What a record counts, in places.
fn amounts(usage: &Usage, nano_usd: u64) -> [u64; AMOUNTS] {
    let mut amounts = [nano_usd; AMOUNTS];
    amounts.iter_mut().zip(token_counts(usage)).for_each(|(amount, (_, count))| *amount = count);
    amounts
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
            user_and_team: String::new(),
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
            scrapers: Scrapers::default(),
        }
    }

    /// Counts a settled exchange, or a correction. Allocates only for a user, model or series that is new.
    ///
    /// `now_mono`, here and below: monotonic nanoseconds since the process started.
    pub fn record(&mut self, record: &Record, now_mono: u64) {
        let now = Moment::of(now_mono);
        let (user, model) = (self.user(record.payer()), self.models.number(record.model_name()));
        let has_tokens = token_counts(&record.usage).iter().any(|&(_, count)| count > 0);
        if record.cost_nano_usd.is_some() || !record.is_request() || has_tokens {
            self.consumption.cell((user, model), (OTHER, OTHER)).add(record, now);
        }
        self.totals.records[usize::from(record.usage_source.code())] += 1;
        if !record.is_request() {
            return;
        }

        // Three digits are a status (RFC 9110 section 15); anything longer is counted as none.
        let status = if record.status <= 999 { record.status } else { 0 };
        let key = RequestKey { user, model, endpoint: record.endpoint, status };
        self.requests.cell(key, RequestKey { user: OTHER, model: OTHER, ..key }).add(0, 1, now);
        self.totals.duration.observe(record.duration_us);
        self.totals.overhead.observe(record.proxy_us);
        if let Some(us) = record.first_byte_us {
            self.totals.first_byte.observe(us);
        }
    }

    /// Has series that the ledger knows be there at 0, the first ones of a list, as far as half of the places go: the
    /// others are for users, models and label sets that nobody knows yet.
    pub fn expose(&mut self, former: &[FormerSeries], now_mono: u64) {
        let now = Moment::of(now_mono);
        for series in former {
            let numbers = self.users.number_early(&series.user).zip(self.models.number_early(&series.model));
            let Some((user, model)) = numbers else { continue };
            let is_consumer = series.counted.contains(&true);
            if let Some(consumption) = is_consumer.then(|| self.consumption.cell_early((user, model))).flatten() {
                let places = series.counted.iter().enumerate().filter(|(_, is_counted)| **is_counted);
                places.for_each(|(place, _)| consumption.counters.add(place, 0, now));
            }
            let Some(status) = series.status else { continue };
            let key = RequestKey { user, model, endpoint: series.endpoint, status };
            self.requests.cell_early(key).into_iter().for_each(|requests| requests.add(0, 0, now));
        }
    }

    /// Requests refused because a limit was reached, by user and limit, the most first: of all users, or of one. `None`
    /// where this user's are counted under `_other` with those of others.
    pub fn refusals_of(&self, user: Option<&str>) -> Option<Vec<Refusals>> {
        let is_of = |label: &str, user: &str| split_team(label).0 == user;
        if let Some(user) = user
            && self.users.is_full()
            && !self.users.values().iter().any(|label| is_of(label, user))
        {
            return None;
        }
        let cells = self.rate_limited.cells();
        let label = |number: u32| &*self.users.values()[number as usize];
        let of_user = cells.iter().filter(|((number, _), _)| user.is_none_or(|user| is_of(label(*number), user)));
        let mut refusals: Vec<Refusals> = of_user
            .map(|((number, [level, limit]), count)| Refusals {
                user: split_team(label(*number)).0.to_owned(),
                level,
                limit,
                count: count.value(0),
            })
            .collect();
        refusals.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.user.cmp(&b.user)));
        Some(refusals)
    }

    /// Counts a request refused because a limit was reached: whose it is (`user`, `team`, `total`), and which
    /// (`requests`, `tokens`, …).
    pub fn rate_limited(&mut self, payer: Payer<'_>, limit: LimitLabels, now_mono: u64) {
        let user = self.user(payer);
        self.rate_limited.cell((user, limit), (OTHER, limit)).add(0, 1, Moment::of(now_mono));
    }

    /// The number of a user with the team.
    fn user(&mut self, payer: Payer<'_>) -> u32 {
        let Some(team) = payer.team else { return self.users.number(payer.user) };
        self.user_and_team.clear();
        self.user_and_team.push_str(payer.user);
        self.user_and_team.push(TEAM_MARK);
        self.user_and_team.push_str(team);
        self.users.number(&self.user_and_team)
    }

    /// Users who have a label, each with the team.
    pub fn payers(&self) -> impl Iterator<Item = Payer<'_>> {
        self.users.values().iter().map(|label| {
            let (user, team) = split_team(label);
            Payer { user, team }
        })
    }

    /// Counts a failed attempt at the upstream.
    pub fn upstream_error(&mut self, reason: &'static str, now_mono: u64) {
        self.upstream_errors.cell(reason, reason).add(0, 1, Moment::of(now_mono));
    }

    /// Counts a request that was answered with an error of our own and never relayed.
    pub fn refused(&mut self, reason: &'static str, now_mono: u64) {
        self.refused.cell(reason, reason).add(0, 1, Moment::of(now_mono));
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

    /// A copy to render elsewhere, which shares the tables with this: for a server that scrapes and has this name, with
    /// 0 for series that are new (see [`first_zero`]); with every value for anybody else.
    pub fn snapshot(&mut self, gauges: Gauges, scraper: Option<&str>, now_mono: u64) -> Snapshot {
        let upto = scraper.map_or(Moment::END, |name| self.scrapers.scraped(name, Moment::of(now_mono)));
        Snapshot {
            upto,
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
    /// Series from before show their values, newer ones 0.
    upto: Moment,
    users: Vec<Arc<str>>,
    models: Vec<Arc<str>>,
    requests: Cells<RequestKey, Counters<1>>,
    consumption: Cells<ModelKey, Consumption>,
    rate_limited: Cells<(u32, LimitLabels), Counters<1>>,
    upstream_errors: Cells<&'static str, Counters<1>>,
    refused: Cells<&'static str, Counters<1>>,
    totals: Totals,
    gauges: Gauges,
}

#[cfg(test)]
mod tests;
