//! The answer to `GET /usage`, rendered. Money and seconds are integers until the last digit: no number passes through
//! a float.

use super::{GroupBy, Query};
use crate::base::civil::{NS_PER_SECOND, write_rfc3339};
use crate::usage::record::{Record, Usage};
use std::io::Write as _;

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
            *sum = sum.saturating_add(value);
        }
    }
}

/// The most buckets, and the most models, in one answer: more than the hours of a year. 10,000 ordinary buckets are 2.5
/// MB. An answer in which all is as large as it can be (every name 128 bytes that JSON lengthens sixfold, every number
/// 20 digits) has 12 MB of buckets, as many of models, and 5 MB of records.
pub const BUCKETS_MAX: usize = 10_000;

/// What a bucket is of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BucketKey {
    /// The start of an hour or a day, nanoseconds since the Unix epoch.
    Start(u64),
    /// A model, a user or an endpoint.
    Name(String),
}

/// A part of the selected records and its sum.
pub type Bucket = (BucketKey, Totals);

/// The buckets of an answer: those that hold anything, hours and days in the order of time, the others the dearest
/// first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Buckets {
    pub list: Vec<Bucket>,
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

/// What `GET /usage` answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// What was asked: the answer repeats it.
    pub query: Query,
    /// The sum over all that the query selects, whatever its `limit` and `cursor`.
    pub totals: Totals,
    /// The same by model, the dearest first, at most [`BUCKETS_MAX`].
    pub by_model: Vec<(String, Totals)>,
    /// Where the query asks for them.
    pub buckets: Option<Buckets>,
    /// Newest first.
    pub data: Vec<Entry>,
    /// The `cursor` that continues `data`; `None` at the end.
    pub next_cursor: Option<u64>,
}

impl Report {
    /// The body of the answer: one line of JSON with its line end, for people at a terminal.
    pub fn to_json(&self) -> Vec<u8> {
        let buckets = self.buckets.as_ref().map_or(0, |buckets| buckets.list.len());
        let mut out = Vec::with_capacity(1024 + 1024 * self.data.len() + 256 * buckets);
        let mut answer = Object::open(&mut out);
        answer.text("user_id", self.query.user.as_deref());
        answer.instant("from", self.query.from);
        answer.instant("to", self.query.to);
        answer.key("totals");
        render_totals(Object::open(answer.out), &self.totals);
        answer.list("by_model", &self.by_model, |mut model, (name, totals)| {
            model.text("model", Some(name));
            render_totals(model, totals);
        });
        // Where there are more models than an answer may have, the cheapest are not named.
        if self.by_model.iter().map(|(_, totals)| totals.requests).sum::<u64>() < self.totals.requests {
            answer.flag("by_model_truncated", true);
        }
        if let (Some(group_by), Some(buckets)) = (self.query.group_by, &self.buckets) {
            answer.text("group_by", Some(group_by.as_str()));
            answer.list("buckets", &buckets.list, |bucket, (key, totals)| {
                render_bucket(bucket, group_by, key, totals);
            });
            answer.flag("buckets_truncated", buckets.truncated);
        }
        answer.list("data", &self.data, render_entry);
        answer.optional("next_cursor", self.next_cursor);
        answer.close();
        out.push(b'\n');
        out
    }
}

fn render_bucket(mut out: Object<'_>, group_by: GroupBy, key: &BucketKey, totals: &Totals) {
    match key {
        BucketKey::Start(start) => out.instant("start", Some(*start)),
        BucketKey::Name(name) => {
            let key = if group_by == GroupBy::User { "user_id" } else { group_by.as_str() };
            out.text(key, Some(name));
        }
    }
    render_totals(out, totals);
}

fn render_totals(mut out: Object<'_>, totals: &Totals) {
    out.number("requests", totals.requests);
    out.number("errors", totals.errors);
    // Present only where it matters, so that a sum is never silently too low.
    if totals.unpriced > 0 {
        out.number("unpriced_requests", totals.unpriced);
    }
    out.number("input_tokens", totals.input_tokens);
    out.number("cached_input_tokens", totals.cached_input_tokens);
    out.number("output_tokens", totals.output_tokens);
    out.number("reasoning_tokens", totals.reasoning_tokens);
    out.number("total_tokens", totals.total_tokens);
    out.decimal("cost_usd", totals.cost_nano_usd, 9);
    out.close();
}

fn render_entry(mut out: Object<'_>, entry: &Entry) {
    let record = &entry.record;
    out.number("id", entry.id);
    out.key("started_at");
    out.out.push(b'"');
    write_rfc3339(out.out, record.started_at, 6);
    out.out.push(b'"');
    out.text("user_id", Some(&record.user));
    out.optional("key_id", record.key_id);
    out.text("endpoint", Some(record.endpoint.as_str()));
    out.text("model_requested", record.model_requested.as_deref());
    out.text("model", record.model.as_deref());
    out.flag("stream", record.stream);
    out.number("status", record.status.into());
    out.text("outcome", Some(record.outcome.as_str()));
    out.text("usage_source", Some(record.usage_source.as_str()));
    render_usage(&mut out, &record.usage);
    out.optional("cost_nano_usd", record.cost_nano_usd);
    out.number("duration_us", record.duration_us);
    out.optional("first_byte_us", record.first_byte_us);
    out.number("proxy_us", record.proxy_us);
    out.number("request_bytes", record.request_bytes);
    out.number("response_bytes", record.response_bytes);
    out.text("upstream_request_id", record.upstream_request_id.as_deref());
    out.text("response_id", record.response_id.as_deref());
    out.close();
}

fn render_usage(out: &mut Object<'_>, usage: &Usage) {
    out.number("input_tokens", usage.input_tokens);
    out.number("cached_input_tokens", usage.cached_input_tokens);
    out.number("cache_write_tokens", usage.cache_write_tokens);
    out.number("input_audio_tokens", usage.input_audio_tokens);
    out.number("input_image_tokens", usage.input_image_tokens);
    out.number("output_tokens", usage.output_tokens);
    out.number("reasoning_tokens", usage.reasoning_tokens);
    out.number("output_audio_tokens", usage.output_audio_tokens);
    out.number("output_image_tokens", usage.output_image_tokens);
    out.number("total_tokens", usage.total_tokens);
    out.decimal("audio_seconds", usage.audio_us, 6);
    out.number("images", usage.images);
}

/// A JSON object being written. Keys are ours and need no escaping.
struct Object<'a> {
    out: &'a mut Vec<u8>,
    empty: bool,
}

impl<'a> Object<'a> {
    fn open(out: &'a mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { out, empty: true }
    }

    fn close(self) {
        self.out.push(b'}');
    }

    fn key(&mut self, key: &'static str) {
        if !std::mem::take(&mut self.empty) {
            self.out.push(b',');
        }
        self.out.push(b'"');
        self.out.extend_from_slice(key.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    fn number(&mut self, key: &'static str, value: u64) {
        self.key(key);
        write_display(self.out, value);
    }

    fn flag(&mut self, key: &'static str, value: bool) {
        self.key(key);
        self.out.extend_from_slice(if value { b"true" } else { b"false" });
    }

    fn optional(&mut self, key: &'static str, value: Option<impl std::fmt::Display>) {
        self.key(key);
        match value {
            Some(value) => write_display(self.out, value),
            None => self.out.extend_from_slice(b"null"),
        }
    }

    /// `value` × 10^-`scale`, exactly, without zeros at its end.
    fn decimal(&mut self, key: &'static str, value: u64, scale: u32) {
        self.key(key);
        let unit = 10u64.pow(scale);
        write_display(self.out, value / unit);
        let fraction = value % unit;
        if fraction > 0 {
            write_display(self.out, format_args!(".{fraction:0width$}", width = scale as usize));
            let zeros = self.out.iter().rev().take_while(|byte| **byte == b'0').count();
            self.out.truncate(self.out.len() - zeros);
        }
    }

    fn text(&mut self, key: &'static str, value: Option<&str>) {
        self.key(key);
        match value {
            Some(value) => {
                serde_json::to_writer(&mut *self.out, value).expect("writing text to memory cannot fail");
            }
            None => self.out.extend_from_slice(b"null"),
        }
    }

    /// An instant with as much of its fraction as it has.
    fn instant(&mut self, key: &'static str, value: Option<u64>) {
        self.key(key);
        let Some(value) = value else { return self.out.extend_from_slice(b"null") };
        self.out.push(b'"');
        write_rfc3339(self.out, value, if value.is_multiple_of(NS_PER_SECOND) { 0 } else { 9 });
        self.out.push(b'"');
    }

    fn list<T>(&mut self, key: &'static str, items: &[T], mut render: impl FnMut(Object<'_>, &T)) {
        self.key(key);
        self.out.push(b'[');
        for (index, item) in items.iter().enumerate() {
            if index > 0 {
                self.out.push(b',');
            }
            render(Object::open(self.out), item);
        }
        self.out.push(b']');
    }
}

fn write_display(out: &mut Vec<u8>, value: impl std::fmt::Display) {
    write!(out, "{value}").expect("writing a number to memory cannot fail");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usage::record::{Endpoint, Outcome, UsageSource};
    use proptest::prelude::*;

    fn cost(nano_usd: u64) -> String {
        let mut out = Vec::new();
        let mut object = Object::open(&mut out);
        object.decimal("c", nano_usd, 9);
        object.close();
        String::from_utf8(out).unwrap().trim_start_matches("{\"c\":").trim_end_matches('}').to_owned()
    }

    #[test]
    fn money_is_exact() {
        for (nano_usd, text) in [
            (0, "0"),
            (1, "0.000000001"),
            (10, "0.00000001"),
            (1_500_000_000, "1.5"),
            (100_000_000_000, "100"),
            (123_456_789, "0.123456789"),
            (u64::MAX, "18446744073.709551615"),
        ] {
            assert_eq!(cost(nano_usd), text);
        }
    }

    fn report() -> Report {
        let usage = Usage { input_tokens: 10, audio_us: 1_250_000, ..Usage::default() };
        let record = Record {
            started_at: 1_795_426_200_123_456_789,
            user: "a\"\n太郎".into(),
            endpoint: Endpoint::ChatCompletions,
            model: Some("gpt-4o".into()),
            stream: true,
            status: 200,
            outcome: Outcome::Completed,
            usage_source: UsageSource::Reported,
            usage,
            cost_nano_usd: Some(25_000),
            response_id: Some("chatcmpl-1".into()),
            ..Record::default()
        };
        let totals = Totals { requests: 2, errors: 1, unpriced: 1, cost_nano_usd: 25_000, ..Totals::default() };
        Report {
            query: Query {
                user: Some("a\"\n太郎".to_owned()),
                from: Some(1_795_392_000 * NS_PER_SECOND),
                to: Some(1_795_426_200_500_000_000),
                ..Query::default()
            },
            totals,
            by_model: vec![("gpt-4o".to_owned(), totals), (String::new(), Totals::default())],
            buckets: None,
            data: vec![Entry { id: 7, record: record.clone() }, Entry { id: 6, record }],
            next_cursor: Some(6),
        }
    }

    #[test]
    fn the_whole_answer() {
        let body = String::from_utf8(report().to_json()).unwrap();
        assert!(body.ends_with("}\n"));
        let sums = r#""unpriced_requests":1,"input_tokens":0,"cached_input_tokens":0,"output_tokens":0,"reasoning_tokens":0,"total_tokens":0,"cost_usd":0.000025}"#;
        assert!(body.starts_with(&format!(
            r#"{{"user_id":"a\"\n太郎","from":"2026-11-23T00:00:00Z","to":"2026-11-23T09:30:00.500000000Z","totals":{{"requests":2,"errors":1,{sums},"by_model":[{{"model":"gpt-4o","requests":2,"errors":1,{sums},{{"model":"","requests":0,"errors":0,"input_tokens":0"#
        )), "{body}");
        let entry = r#"{"id":7,"started_at":"2026-11-23T09:30:00.123456Z","user_id":"a\"\n太郎","key_id":null,"endpoint":"chat/completions","model_requested":null,"model":"gpt-4o","stream":true,"status":200,"outcome":"completed","usage_source":"reported","input_tokens":10,"cached_input_tokens":0,"cache_write_tokens":0,"input_audio_tokens":0,"input_image_tokens":0,"output_tokens":0,"reasoning_tokens":0,"output_audio_tokens":0,"output_image_tokens":0,"total_tokens":0,"audio_seconds":1.25,"images":0,"cost_nano_usd":25000,"duration_us":0,"first_byte_us":null,"proxy_us":0,"request_bytes":0,"response_bytes":0,"upstream_request_id":null,"response_id":"chatcmpl-1"}"#;
        assert!(body.contains(&format!("\"data\":[{entry},{{\"id\":6,")), "{body}");
        assert!(body.ends_with("}],\"next_cursor\":6}\n"), "{body}");
    }

    #[test]
    fn buckets_are_named_as_records_name_it() {
        let sums = r#""requests":3,"errors":0,"input_tokens":0,"cached_input_tokens":0,"output_tokens":0,"reasoning_tokens":0,"total_tokens":0,"cost_usd":0"#;
        let start = || BucketKey::Start(1_795_392_000 * NS_PER_SECOND);
        let name = || BucketKey::Name("a\"b".to_owned());
        for (group_by, key, shown, truncated) in [
            (GroupBy::Hour, start(), r#""start":"2026-11-23T00:00:00Z""#, false),
            (GroupBy::Day, start(), r#""start":"2026-11-23T00:00:00Z""#, false),
            (GroupBy::Model, name(), r#""model":"a\"b""#, false),
            (GroupBy::User, name(), r#""user_id":"a\"b""#, true),
            (GroupBy::Endpoint, name(), r#""endpoint":"a\"b""#, false),
        ] {
            let bucket = (key, Totals { requests: 3, ..Totals::default() });
            let query = Query { group_by: Some(group_by), ..Query::default() };
            let buckets = Some(Buckets { list: vec![bucket.clone(), bucket], truncated });
            let body = String::from_utf8(Report { query, buckets, ..report() }.to_json()).unwrap();
            let bucket = format!("{{{shown},{sums}}}");
            let name = group_by.as_str();
            let expected = format!(
                r#","group_by":"{name}","buckets":[{bucket},{bucket}],"buckets_truncated":{truncated},"data":["#
            );
            assert!(body.contains(&expected), "{body}");
        }
    }

    #[test]
    fn models_that_are_not_named_are_told_of() {
        let whole = String::from_utf8(report().to_json()).unwrap();
        assert!(!whole.contains("truncated"));
        let totals = Totals { requests: 3, ..report().totals };
        let body = String::from_utf8(Report { totals, ..report() }.to_json()).unwrap();
        assert!(body.contains(r#"],"by_model_truncated":true,"data":["#), "{body}");
    }

    #[test]
    fn nothing_found() {
        let empty = Report {
            query: Query::default(),
            totals: Totals::default(),
            by_model: vec![],
            buckets: None,
            data: vec![],
            next_cursor: None,
        };
        assert_eq!(
            String::from_utf8(empty.to_json()).unwrap(),
            "{\"user_id\":null,\"from\":null,\"to\":null,\"totals\":{\"requests\":0,\"errors\":0,\"input_tokens\":0,\
             \"cached_input_tokens\":0,\"output_tokens\":0,\"reasoning_tokens\":0,\"total_tokens\":0,\"cost_usd\":0},\
             \"by_model\":[],\"data\":[],\"next_cursor\":null}\n"
        );
    }

    proptest! {
        #[test]
        fn any_name_is_valid_json(name in "\\PC{0,40}|.{0,40}", nano_usd: u64) {
            let mut report = report();
            report.data[0].record.user = name.as_str().into();
            report.query.user = Some(name.clone());
            report.totals.cost_nano_usd = nano_usd;
            let value: serde_json::Value = serde_json::from_slice(&report.to_json()).unwrap();
            prop_assert_eq!(value["user_id"].as_str(), Some(name.as_str()));
            prop_assert_eq!(value["data"][0]["user_id"].as_str(), Some(name.as_str()));
            let (whole, fraction) = (nano_usd / 1_000_000_000, nano_usd % 1_000_000_000);
            let padded = cost(nano_usd);
            let (left, right) = padded.split_once('.').unwrap_or((&padded, ""));
            prop_assert_eq!(left.parse::<u64>().unwrap(), whole);
            prop_assert_eq!(format!("{right:0<9}").parse::<u64>().unwrap(), fraction);
        }
    }
}
