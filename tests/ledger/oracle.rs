//! Random records and questions, and the naive answer: a scan over all records in memory.

use openai_api_proxy::base::civil::{first_day_of_month, month_of_day};
use openai_api_proxy::reporting::{BucketKey, Buckets, Entry, GroupBy, KeyRow, Query, Report, Scope, Totals};
use openai_api_proxy::usage::record::{Correction, Endpoint, Journal, Outcome, Record, Usage, UsageSource};
use proptest::prelude::*;
use proptest::sample::select;
use std::collections::BTreeMap;

pub const HOUR: u64 = 3_600_000_000_000;
/// 2026-11-23T00:00:00Z
pub const START: u64 = 1_795_392_000_000_000_000;
pub const USERS: [&str; 4] = ["user123", "太郎", "o'brien \"x\"", "anonymous"];
/// The second has the name of a user.
const TEAMS: [Option<&str>; 3] = [None, Some("anonymous"), Some("研究")];
const MODELS: [Option<&str>; 4] = [None, Some("gpt-4o"), Some("gpt-4o-2024-08-06"), Some("")];

/// Instants within five hours, or within 70 days before them, often on the edge of an hour or a day or beside it, so
/// that ranges cut where it hurts.
pub fn instant() -> impl Strategy<Value = u64> {
    let beside = (0..5u64, 0..3u64).prop_map(|(hour, beside)| START + hour * HOUR + beside - 1);
    let beside_day = (0..70u64, 0..3u64).prop_map(|(day, beside)| START - day * 24 * HOUR + beside - 1);
    prop_oneof![2 => beside, 2 => START..START + 5 * HOUR, 2 => beside_day, 1 => START - 70 * 24 * HOUR..START]
}

fn usage() -> impl Strategy<Value = Usage> {
    [
        0..1u64 << 20,
        0..1 << 20,
        0..5,
        0..5,
        0..5,
        0..1 << 20,
        0..1 << 20,
        0..5,
        0..5,
        0..1 << 21,
        0..1 << 30,
        0..9,
        0..9,
    ]
    .prop_map(|n| Usage {
        input_tokens: n[0],
        cached_input_tokens: n[1],
        cache_write_tokens: n[2],
        input_audio_tokens: n[3],
        input_image_tokens: n[4],
        output_tokens: n[5],
        reasoning_tokens: n[6],
        output_audio_tokens: n[7],
        output_image_tokens: n[8],
        total_tokens: n[9],
        audio_us: n[10],
        images: n[11],
        tool_calls: n[12],
        ..Usage::default()
    })
}

/// A record with every field drawn, `seq` aside; one of four is a correction.
pub fn record() -> impl Strategy<Value = Record> {
    let less = proptest::option::weighted(0.25, (usage(), 0..1u64 << 40, any::<bool>()));
    (request(), less).prop_map(|(request, less)| match less {
        None => request,
        Some((less, less_nano_usd, gives_price)) => corrected(request, &less, less_nano_usd, gives_price),
    })
}

/// Of each number a row has the difference only.
fn corrected(request: Record, less: &Usage, less_nano_usd: u64, gives_price: bool) -> Record {
    let nano_usd = request.cost_nano_usd;
    let correction = Correction {
        less: less.excess_over(&request.usage),
        less_nano_usd: nano_usd.map_or(0, |nano_usd| less_nano_usd.saturating_sub(nano_usd)),
        gives_price,
    };
    Record {
        usage_source: UsageSource::Correction,
        usage: request.usage.excess_over(less),
        cost_nano_usd: nano_usd.map(|nano_usd| nano_usd.saturating_sub(less_nano_usd)),
        correction: Some(Box::new(correction)),
        ..request
    }
}

fn request() -> impl Strategy<Value = Record> {
    let what = (instant(), select(&USERS[..]), select(&MODELS[..]), select(&MODELS[..]), select(Endpoint::ALL));
    let how = (any::<bool>(), select(&[0u16, 200, 400, 429, 500][..]), select(Outcome::ALL), select(UsageSource::ALL));
    let numbers = (usage(), proptest::option::of(0..1u64 << 40), proptest::array::uniform5(0..1u64 << 32));
    let ids =
        (proptest::option::of(1..9i64), any::<bool>(), proptest::option::of("[a-z0-9_-]{1,40}"), select(&TEAMS[..]));
    (what, how, numbers, ids).prop_map(|(what, how, numbers, ids)| Record {
        seq: 0,
        at_most_nano_usd: None,
        is_retrieval: false,
        journal: Journal::Off,
        started_at: what.0,
        user: what.1.into(),
        team: ids.3.map(Into::into),
        model_requested: what.2.map(Into::into),
        model: what.3.map(Into::into),
        endpoint: what.4,
        stream: how.0,
        status: how.1,
        outcome: how.2,
        usage_source: how.3,
        usage: numbers.0,
        cost_nano_usd: numbers.1,
        duration_us: numbers.2[0],
        proxy_us: numbers.2[1],
        request_bytes: numbers.2[2],
        response_bytes: numbers.2[3],
        first_byte_us: ids.1.then_some(numbers.2[4]),
        key_id: ids.0,
        upstream_request_id: ids.2.clone().map(Into::into),
        response_id: ids.2.map(|id| format!("chatcmpl-{id}").into()),
        correction: None,
    })
}

/// A question about users and models that may or may not exist, with ranges inside, around and outside of the data.
pub fn query() -> impl Strategy<Value = Query> {
    let user = proptest::option::of(select(&["user123", "太郎", "o'brien \"x\"", "nobody"][..]));
    let team = proptest::option::of(select(&["anonymous", "研究", "nobody"][..]));
    let model = proptest::option::of(select(&["gpt-4o", "gpt-4o-2024-08-06", "", "unknown"][..]));
    let time = || proptest::option::of(prop_oneof![4 => instant(), 1 => 0..2 * START]);
    let page = (1..12u32, proptest::option::of(0..80u64), proptest::option::of(select(GroupBy::ALL)));
    ((user, team), model, time(), time(), page).prop_map(|((user, team), model, a, b, (limit, cursor, group_by))| {
        let (from, to) = match (a, b) {
            (Some(a), Some(b)) if a >= b => (Some(b), Some(a + 1)),
            range => range,
        };
        // Neither a team nor the sums by team are asked for of one user, nor of one team those of users, teams and keys.
        let is_of_team = user.is_none() && team.is_some();
        let is_possible = |by: &GroupBy| match by {
            GroupBy::User | GroupBy::Key => !is_of_team,
            GroupBy::Team => user.is_none() && !is_of_team,
            _ => true,
        };
        let group_by = group_by.filter(is_possible);
        let team = team.filter(|_| is_of_team).map(Into::into);
        let (user, model) = (user.map(Into::into), model.map(Into::into));
        Query { user, team, node: None, model, from, to, limit, cursor, group_by }
    })
}

/// Records committed, the first with id 1.
#[derive(Clone)]
pub struct Oracle {
    pub records: Vec<Record>,
    /// The least id that is not pruned.
    pub first: u64,
}

impl Default for Oracle {
    fn default() -> Self {
        Self { records: Vec::new(), first: 1 }
    }
}

impl Oracle {
    pub fn append(&mut self, records: &[Record]) {
        self.records.extend_from_slice(records);
    }

    /// At most `rows_max` of the oldest rows go, up to the first that started at or after `before` or has an id past
    /// `taken`.
    pub fn prune(&mut self, before: u64, rows_max: u64, taken: u64) {
        let end = (self.first + rows_max).min(taken + 1);
        while self.first < end && self.records[self.first as usize - 1].started_at < before {
            self.first += 1;
        }
    }

    /// The beginning or the end of a range, moved to the whole hour where rows of its hour are gone; where sums are by
    /// key, to the whole day where rows are of the hours of it that are asked for.
    fn widened(&self, instant: u64, round_up: u64, group_by: Option<GroupBy>) -> u64 {
        let unit = if group_by == Some(GroupBy::Key) { 24 * HOUR } else { HOUR };
        let start = instant / unit * unit;
        let asked =
            if round_up == 0 { instant / HOUR * HOUR..start + unit } else { start..instant.div_ceil(HOUR) * HOUR };
        let is_cut = self.records.iter().take(self.first as usize - 1).any(|gone| asked.contains(&gone.started_at));
        if is_cut && !instant.is_multiple_of(unit) { start + round_up * unit } else { instant }
    }

    /// The answer, by the definition of each of its fields.
    pub fn report(&self, query: &Query) -> Report {
        let query = &Query {
            from: query.from.map(|from| self.widened(from, 0, query.group_by)),
            to: query.to.map(|to| self.widened(to, 1, query.group_by)),
            ..query.clone()
        };
        let selected = |record: &Record| {
            query.user.as_deref().is_none_or(|user| *user == *record.user)
                && query.team.as_deref().is_none_or(|team| record.team.as_deref() == Some(team))
                && query.model.as_deref().is_none_or(|model| model == record.model_name())
                && query.from.is_none_or(|from| from <= record.started_at)
                && query.to.is_none_or(|to| record.started_at < to)
        };
        let found: Vec<(u64, &Record)> = (1..).zip(&self.records).filter(|(_, record)| selected(record)).collect();
        let mut models = BTreeMap::<&str, Signed>::new();
        let mut buckets = BTreeMap::<BucketKey, Signed>::new();
        let mut all = BTreeMap::<(), Signed>::new();
        for (_, record) in &found {
            add(&mut all, (), record);
            add(&mut models, record.model_name(), record);
            if let Some(group_by) = query.group_by {
                add(&mut buckets, bucket_key(group_by, record), record);
            }
        }
        // The sum of what is told, as an answer has it.
        let mut totals = Totals::default();
        models.values().for_each(|sums| totals.add(&clamped(sums)));
        let is_whole = models.values().flatten().all(|sum| *sum >= 0);
        assert!(!is_whole || all.values().all(|sums| clamped(sums) == totals));
        let mut by_model: Vec<_> = models.into_iter().map(|(name, sums)| (name.to_owned(), clamped(&sums))).collect();
        by_model.sort_by_key(|(_, totals)| std::cmp::Reverse((totals.cost_nano_usd, totals.total_tokens)));
        // What adds up to nothing is told under a name only.
        let is_told = |key: &BucketKey, sums: &Signed| {
            let is_rest = match query.group_by {
                Some(GroupBy::Team) => *key == BucketKey::Name(String::new()),
                _ => *key == BucketKey::Key(None),
            };
            !is_rest || *sums != [0; 9]
        };
        buckets.retain(|key, sums| is_told(key, sums));
        let mut buckets: Vec<_> = buckets.into_iter().map(|(key, sums)| (key, clamped(&sums))).collect();
        if !query.group_by.is_some_and(GroupBy::is_time) {
            buckets.sort_by_key(|(_, totals)| std::cmp::Reverse((totals.cost_nano_usd, totals.total_tokens)));
        }
        let buckets = query.group_by.map(|_| Buckets { list: buckets, truncated: false });
        let is_shown = |id: u64| id >= self.first && query.cursor.is_none_or(|cursor| id < cursor);
        let mut older = found.iter().rev().filter(|(id, _)| is_shown(*id));
        let data: Vec<Entry> = older
            .by_ref()
            .take(query.limit as usize)
            .map(|(id, record)| Entry { id: *id, record: (*record).clone() })
            .collect();
        let next_cursor = older.next().and(data.last()).map(|entry| entry.id);
        let budgets = Vec::new();
        Report { query: query.clone(), totals, by_model, buckets, budgets, data, next_cursor, scope: Scope::Alone }
    }
}

/// Sums in the order of the fields of [`Totals`].
type Signed = [i128; 9];

fn add<K: Ord>(sums: &mut BTreeMap<K, Signed>, key: K, record: &Record) {
    let unpriced = match &record.correction {
        Some(correction) => -i128::from(correction.gives_price),
        None => record.cost_nano_usd.is_none().into(),
    };
    let one = [
        record.is_request().into(),
        record.is_error().into(),
        unpriced,
        record.counted(|usage| usage.input_tokens),
        record.counted(|usage| usage.cached_input_tokens),
        record.counted(|usage| usage.output_tokens),
        record.counted(|usage| usage.reasoning_tokens),
        record.counted(|usage| usage.total_tokens),
        record.counted_nano_usd().unwrap_or(0),
    ];
    sums.entry(key).or_default().iter_mut().zip(one).for_each(|(sum, one)| *sum += one);
}

fn clamped(sums: &Signed) -> Totals {
    let sums = sums.map(|sum| u64::try_from(sum.max(0)).unwrap());
    let [requests, errors, unpriced, input_tokens, cached_input_tokens, output_tokens, ..] = sums;
    let [.., reasoning_tokens, total_tokens, cost_nano_usd] = sums;
    Totals {
        requests,
        errors,
        unpriced,
        input_tokens,
        cached_input_tokens,
        output_tokens,
        reasoning_tokens,
        total_tokens,
        cost_nano_usd,
    }
}

fn bucket_key(group_by: GroupBy, record: &Record) -> BucketKey {
    match group_by {
        GroupBy::Hour => BucketKey::Start(record.started_at / HOUR * HOUR),
        GroupBy::Day => BucketKey::Start(record.started_at / (24 * HOUR) * (24 * HOUR)),
        GroupBy::Month => {
            let month = month_of_day((record.started_at / (24 * HOUR)) as i64);
            BucketKey::Start(first_day_of_month(month) as u64 * 24 * HOUR)
        }
        GroupBy::Key => BucketKey::Key(record.key_id.map(|id| KeyRow { id, ..KeyRow::default() })),
        GroupBy::Model => BucketKey::Name(record.model_name().to_owned()),
        GroupBy::User => BucketKey::Name(record.user.to_string()),
        GroupBy::Team => BucketKey::Name(record.team.as_deref().unwrap_or_default().to_owned()),
        GroupBy::Endpoint => BucketKey::Name(record.endpoint.as_str().to_owned()),
        GroupBy::Node => BucketKey::Name(String::new()), // one, whose name the ledger does not know
    }
}
