//! What an answer's parts consist of: names and values, in their order, whatever they are written as.
//!
//! In: sums and records. Out: calls to [`Columns`], which writes them. Never: a syntax.

use crate::local::humanize::day;
use crate::reporting::{BucketKey, BudgetUse, Entry, GroupBy, KeyRow, Totals};
use crate::usage::record::Usage;

/// A value of a column.
#[derive(Clone, Copy, Debug)]
pub enum Value<'a> {
    Unknown,
    Number(i128),
    Flag(bool),
    /// The first × 10^-the second.
    Decimal(i128, u32),
    Text(&'a str),
    /// Nanoseconds since the Unix epoch, with so many digits of its fraction of a second.
    Instant(u64, u32),
}

/// Takes names with their values. Names are ours and need no escaping.
pub trait Columns {
    fn put(&mut self, name: &'static str, value: Value<'_>);
    /// A number that is seldom other than zero.
    fn rare(&mut self, name: &'static str, value: u64);
    /// What one record costs, nano-dollars, where it is known.
    fn cost(&mut self, nano_usd: Option<i128>);

    fn number(&mut self, name: &'static str, value: u64) {
        self.put(name, Value::Number(value.into()));
    }

    fn optional<T: Into<i128>>(&mut self, name: &'static str, value: Option<T>) {
        self.put(name, value.map_or(Value::Unknown, |value| Value::Number(value.into())));
    }

    fn text(&mut self, name: &'static str, value: Option<&str>) {
        self.put(name, value.map_or(Value::Unknown, Value::Text));
    }
}

/// What a bucket is of.
pub fn bucket_key(out: &mut impl Columns, group_by: GroupBy, key: &BucketKey) {
    match key {
        BucketKey::Start(start) => out.put("start", Value::Instant(*start, 0)),
        BucketKey::Name(name) => {
            out.text(if group_by == GroupBy::User { "user_id" } else { group_by.as_str() }, Some(name));
        }
        BucketKey::Key(key) => client_key(out, key.as_ref()),
    }
}

/// A key as far as it is known; all of it unknown for what came without one.
fn client_key(out: &mut impl Columns, key: Option<&KeyRow>) {
    let known = |of: fn(&KeyRow) -> &str| key.map(of).filter(|text| !text.is_empty());
    let instant = |at: Option<u64>| at.map_or(Value::Unknown, |at| Value::Instant(at, 0));
    out.optional("key_id", key.map(|key| key.id));
    out.text("user_id", known(|key| &key.user));
    out.text("key_name", known(|key| &key.name));
    out.put("expires_at", instant(key.and_then(|key| key.expires_at)));
    out.put("revoked_at", instant(key.and_then(|key| key.revoked_at)));
    out.text("last_used", key.and_then(KeyRow::last_used).map(day).as_deref());
}

/// A sum.
pub fn totals(out: &mut impl Columns, totals: &Totals) {
    out.number("requests", totals.requests);
    out.number("errors", totals.errors);
    out.rare("unpriced_requests", totals.unpriced);
    out.number("input_tokens", totals.input_tokens);
    out.number("cached_input_tokens", totals.cached_input_tokens);
    out.number("output_tokens", totals.output_tokens);
    out.number("reasoning_tokens", totals.reasoning_tokens);
    out.number("total_tokens", totals.total_tokens);
    out.put("cost_usd", Value::Decimal(totals.cost_nano_usd.into(), 9));
}

/// How much of a budget is spent.
pub fn budget(out: &mut impl Columns, budget: &BudgetUse) {
    let usd = |nano_usd: u64| Value::Decimal(nano_usd.into(), 9);
    out.text("level", Some(budget.level.label()));
    out.text("name", Some(&budget.name));
    out.text("period", Some(budget.period.label()));
    out.put("budget_usd", usd(budget.budget_nano_usd));
    out.put("spent_usd", usd(budget.spent_nano_usd));
    out.put("left_usd", usd(budget.budget_nano_usd.saturating_sub(budget.spent_nano_usd)));
    out.put("resets_at", Value::Instant(budget.resets_at, 0));
}

/// A record.
pub fn entry(out: &mut impl Columns, entry: &Entry) {
    let record = &entry.record;
    let counted = |number: fn(&Usage) -> u64| Value::Number(record.counted(number));
    out.number("id", entry.id);
    out.put("started_at", Value::Instant(record.started_at, 6));
    out.text("user_id", Some(&record.user));
    out.text("team", record.team.as_deref());
    out.optional("key_id", record.key_id);
    out.text("endpoint", Some(record.endpoint.as_str()));
    out.text("model_requested", record.model_requested.as_deref());
    out.text("model", record.model.as_deref());
    out.put("stream", Value::Flag(record.stream));
    out.number("status", record.status.into());
    out.text("outcome", Some(record.outcome.as_str()));
    out.text("usage_source", Some(record.usage_source.as_str()));
    out.put("input_tokens", counted(|usage| usage.input_tokens));
    out.put("cached_input_tokens", counted(|usage| usage.cached_input_tokens));
    out.put("cache_write_tokens", counted(|usage| usage.cache_write_tokens));
    out.put("input_audio_tokens", counted(|usage| usage.input_audio_tokens));
    out.put("input_image_tokens", counted(|usage| usage.input_image_tokens));
    out.put("output_tokens", counted(|usage| usage.output_tokens));
    out.put("reasoning_tokens", counted(|usage| usage.reasoning_tokens));
    out.put("output_audio_tokens", counted(|usage| usage.output_audio_tokens));
    out.put("output_image_tokens", counted(|usage| usage.output_image_tokens));
    out.put("total_tokens", counted(|usage| usage.total_tokens));
    out.put("audio_seconds", Value::Decimal(record.counted(|usage| usage.audio_us), 6));
    out.put("images", counted(|usage| usage.images));
    out.put("tool_calls", counted(|usage| usage.tool_calls));
    out.cost(record.counted_nano_usd());
    out.number("duration_us", record.duration_us);
    out.optional("first_byte_us", record.first_byte_us);
    out.number("proxy_us", record.proxy_us);
    out.number("request_bytes", record.request_bytes);
    out.number("response_bytes", record.response_bytes);
    out.text("upstream_request_id", record.upstream_request_id.as_deref());
    out.text("response_id", record.response_id.as_deref());
}
