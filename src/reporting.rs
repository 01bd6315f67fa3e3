//! Questions about usage and their answers, as plain data: what the endpoints parse and render, and what the ledger
//! finds.
//!
//! Never: a syntax, a database, a clock.

use crate::base::civil::first_day_of_month;
use crate::base::clock::{DAY, HOUR};
use crate::limit::levels::LimitLevel;
use crate::limit::threshold::BudgetPeriod;
use crate::reconcile::Summary;
use crate::usage::record::Record;
use std::collections::BTreeMap;

/// Records in one answer where nobody says how many.
pub const LIMIT_DEFAULT: u32 = 100;
/// Max records in one answer.
pub const LIMIT_MAX: u32 = 1000;
/// Max buckets, and max models, in one answer: more than the hours of a year. 10,000 ordinary buckets are 2.5 MB. An
/// answer in which all is as large as it can be (every name 128 bytes that JSON lengthens sixfold, every number 20
/// digits) has 12 MB of buckets, as many of models, and 5 MB of records.
pub const BUCKETS_MAX: usize = 10_000;

/// What each of the `buckets` of an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupBy {
    /// An hour (UTC).
    Hour,
    /// A day (UTC).
    Day,
    /// A calendar month (UTC).
    Month,
    Model,
    User,
    /// The team that a user belonged to at the time; empty where that was none.
    Team,
    Endpoint,
    /// The client key that a request came with.
    Key,
    /// Of a fleet.
    Node,
}

impl GroupBy {
    /// Every value.
    pub const ALL: &'static [Self] = &[
        Self::Hour,
        Self::Day,
        Self::Month,
        Self::Model,
        Self::User,
        Self::Team,
        Self::Endpoint,
        Self::Key,
        Self::Node,
    ];

    /// As users type it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Month => "month",
            Self::Model => "model",
            Self::User => "user",
            Self::Team => "team",
            Self::Endpoint => "endpoint",
            Self::Key => "key",
            Self::Node => "node",
        }
    }

    /// The level of limits that it sums by.
    pub const fn level(self) -> Option<LimitLevel> {
        match self {
            Self::User => Some(LimitLevel::User),
            Self::Team => Some(LimitLevel::Team),
            _ => None,
        }
    }

    /// It is a time.
    pub const fn is_time(self) -> bool {
        matches!(self, Self::Hour | Self::Day | Self::Month)
    }

    /// The start of an hour, a day or a month that is counted from the Unix epoch, nanoseconds since then.
    pub fn start(self, count: i64) -> u64 {
        match self {
            Self::Hour => count.unsigned_abs().saturating_mul(HOUR),
            Self::Month => first_day_of_month(count).unsigned_abs().saturating_mul(DAY),
            _ => count.unsigned_abs().saturating_mul(DAY),
        }
    }
}

/// What is asked of the ledger. Times are nanoseconds since the Unix epoch, at most `i64::MAX`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// Only this user's; all users where `None`.
    pub user: Option<String>,
    /// Only what counted to this team; not beside a user.
    pub team: Option<String>,
    /// Only what this node of a fleet has relayed.
    pub node: Option<String>,
    /// Only what started at or after this.
    pub from: Option<u64>,
    /// Only what started before this.
    pub to: Option<u64>,
    /// Only this model (see [`Record::model_name`]).
    pub model: Option<String>,
    /// Records in `data`: 1 to [`LIMIT_MAX`].
    pub limit: u32,
    /// Only records older than this id in `data`; the sums do not change.
    pub cursor: Option<u64>,
    /// What to sum the selected records by, beside the totals.
    pub group_by: Option<GroupBy>,
}

impl Query {
    /// It can be answered by the fleet alone.
    pub fn is_of_nodes(&self) -> bool {
        self.node.is_some() || self.group_by == Some(GroupBy::Node)
    }
}

impl Default for Query {
    fn default() -> Self {
        Self {
            user: None,
            team: None,
            node: None,
            from: None,
            to: None,
            model: None,
            limit: LIMIT_DEFAULT,
            cursor: None,
            group_by: None,
        }
    }
}

/// Sums over records. Each saturates rather than wraps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub requests: u64,
    /// Of the requests, those for which [`Record::is_error`] holds.
    pub errors: u64,
    /// Of the requests, those whose cost is not known, and so is not in `cost_nano_usd`.
    pub unpriced: u64,
    pub input_tokens: u64,
    pub cached_input_tokens: u64,
    pub output_tokens: u64,
    pub reasoning_tokens: u64,
    pub total_tokens: u64,
    /// Nano-dollars (10⁻⁹ USD).
    pub cost_nano_usd: u64,
}

impl Totals {
    /// Adds another sum to this one.
    pub fn add(&mut self, other: &Self) {
        self.change(other, u64::saturating_add);
    }

    /// What is left of this sum without a part of it.
    pub fn without(mut self, part: &Self) -> Self {
        self.change(part, u64::saturating_sub);
        self
    }

    fn change(&mut self, other: &Self, by: fn(u64, u64) -> u64) {
        for (sum, value) in [
            (&mut self.requests, other.requests),
            (&mut self.errors, other.errors),
            (&mut self.unpriced, other.unpriced),
            (&mut self.input_tokens, other.input_tokens),
            (&mut self.cached_input_tokens, other.cached_input_tokens),
            (&mut self.output_tokens, other.output_tokens),
            (&mut self.reasoning_tokens, other.reasoning_tokens),
            (&mut self.total_tokens, other.total_tokens),
            (&mut self.cost_nano_usd, other.cost_nano_usd),
        ] {
            *sum = by(*sum, value);
        }
    }
}

/// What a bucket is of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BucketKey {
    /// The start of an hour, a day or a month, nanoseconds since the Unix epoch.
    Start(u64),
    /// A model, a user, a team or an endpoint.
    Name(String),
    /// A client key, or none: what came without one.
    Key(Option<KeyRow>),
}

/// A client key as an operator sees it. Instants in nanoseconds since the Unix epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyRow {
    pub id: i64,
    pub user: String,
    /// The team that its requests count to, whatever team the user belongs to.
    pub team: Option<String>,
    pub name: String,
    pub created_at: u64,
    pub expires_at: Option<u64>,
    pub revoked_at: Option<u64>,
    /// The day of its last use, counted from 1970-01-01, where one is known.
    pub last_used_day: Option<u64>,
}

impl KeyRow {
    /// `valid`, `expired` or `revoked`, at `now`.
    pub fn state(&self, now: u64) -> &'static str {
        match self {
            Self { revoked_at: Some(_), .. } => "revoked",
            Self { expires_at: Some(expires_at), .. } if *expires_at <= now => "expired",
            _ => "valid",
        }
    }

    /// The start of the day of its last use.
    pub fn last_used(&self) -> Option<u64> {
        self.last_used_day.map(|day| day.saturating_mul(DAY))
    }
}

/// The buckets of an answer: those that hold anything, times in their order, the others by cost, the highest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Buckets {
    pub list: Vec<(BucketKey, Totals)>,
    /// There are more than [`BUCKETS_MAX`]: later ones, or cheaper ones.
    pub truncated: bool,
}

/// One record of the history, with its number in the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Grows with the order of commits.
    pub id: u64,
    /// As committed; its `seq` is 0, for that is not stored.
    pub record: Record,
}

/// How much of a budget is spent in the present day or month.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BudgetUse {
    pub level: LimitLevel,
    /// Empty for everybody.
    pub name: String,
    pub period: BudgetPeriod,
    pub budget_nano_usd: u64,
    pub spent_nano_usd: u64,
    /// When the next period begins, nanoseconds since the Unix epoch.
    pub resets_at: u64,
}

/// How often a user was refused for a limit, since the proxy started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusals {
    pub user: String,
    /// Whose limit it was, and which, by the labels of the metrics.
    pub level: &'static str,
    pub limit: &'static str,
    pub count: u64,
}

/// Whose usage an answer is of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// Of this proxy, which is in no fleet.
    #[default]
    Alone,
    /// Of this node alone: its fleet is out of reach.
    Node,
    /// Of the whole fleet.
    Fleet {
        /// Nodes that live.
        nodes: u64,
        /// All that was committed anywhere before this instant is in it, nanoseconds since the Unix epoch.
        fresh_to: u64,
    },
}

/// The answer to a [`Query`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What was asked: the answer repeats it.
    pub query: Query,
    /// The sum over all that the query selects, whatever its `limit` and `cursor`.
    pub totals: Totals,
    /// The same by model, by cost, the highest first, max [`BUCKETS_MAX`].
    pub by_model: Vec<(String, Totals)>,
    /// Where the query asks for them.
    pub buckets: Option<Buckets>,
    /// Of whom the question is, and of the users or teams of `buckets`; where they are looked for, and there are any.
    pub budgets: Vec<BudgetUse>,
    /// Newest first.
    pub data: Vec<Entry>,
    /// The `cursor` that continues `data`; `None` at the end.
    pub next_cursor: Option<u64>,
    pub scope: Scope,
}

/// Asks for all that one page shows. `from` is the start of an hour or, where days are summed, of a day.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OverviewQuery {
    /// Only this user's; everybody's where `None`.
    pub user: Option<String>,
    /// Only this team's; not beside a user.
    pub team: Option<String>,
    /// Only this model's.
    pub model: Option<String>,
    pub from: Option<u64>,
    /// Only what started before this.
    pub to: Option<u64>,
    /// The range that this one is compared with.
    pub previous: Option<(u64, u64)>,
    /// Sums over time are of hours, else of days.
    pub hourly: bool,
}

/// Models with a time series of their own, those of the highest cost; the others share one.
pub const SERIES_MODELS_MAX: usize = 5;
/// Named sums of a ranking; the others are one.
pub const RANKED_MAX: usize = 20;
/// The newest records of an overview.
pub const SAMPLE_MAX: u32 = 1000;

/// The largest of many sums, and what is left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranking<N = String> {
    /// By cost, the highest first; max [`RANKED_MAX`].
    pub top: Vec<(N, Totals)>,
    /// How many others there are.
    pub others: usize,
    pub of_others: Totals,
}

/// A model, or all that are not named, and its sums of hours or days by their start (nanoseconds since the Unix epoch).
pub type Series = (Option<String>, BTreeMap<u64, Totals>);

/// The answer to an [`OverviewQuery`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overview {
    /// The ledger has a record, whosever it is and whenever.
    pub ever: bool,
    pub totals: Totals,
    /// Of the range before, where that was asked for.
    pub previous: Option<Totals>,
    pub models: Ranking,
    /// Users; or of one user or team, the endpoints.
    pub others: Ranking,
    /// Teams, where there are any and everybody was asked for.
    pub teams: Ranking,
    /// Keys, and what came without one (`None`); empty where no key was used, of a team, and while the sums by key of
    /// an earlier ledger are being made.
    pub keys: Ranking<Option<KeyRow>>,
    /// Where the sums by key begin: earlier than was asked where they are of whole days.
    pub keys_from: Option<u64>,
    /// Of the models of the highest cost, and last of all others where there are any.
    pub series: Vec<Series>,
    /// What the last days came to that were held against the provider's own books, the latest first; where everybody
    /// was asked for.
    pub reconciliations: Vec<(i64, Summary)>,
    /// The newest records, max [`SAMPLE_MAX`].
    pub sample: Vec<Entry>,
    /// The newest of those that failed ([`Record::is_error`]), max [`SAMPLE_MAX`]: of all, as far as their records are
    /// kept and not too many others lie between them.
    pub failed: Vec<Entry>,
    pub scope: Scope,
}
