//! The answer to `GET /usage`, rendered. Money and seconds are integers until the last digit: no number passes through
//! a float.

use super::fields::{self, Fields};
use super::{Format, Query, csv, text};
use crate::base::civil::{NS_PER_SECOND, write_rfc3339};
use crate::base::digits::write_decimal;
use crate::local::Answer;
use crate::usage::record::Record;

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
    /// The answer as its question wants it written.
    pub fn answer(&self) -> Answer {
        let body = match self.query.format {
            Format::Json => self.to_json(),
            Format::Text => text::render(self).into_bytes(),
            Format::Csv => csv::render(self),
        };
        Answer { headers: "vary: accept\r\n", ..Answer::new(200, self.query.format.content_type(), body) }
    }

    /// The body of the answer: one line of JSON with its line end, for people at a terminal.
    pub fn to_json(&self) -> Vec<u8> {
        let buckets = self.buckets.as_ref().map_or(0, |buckets| buckets.list.len());
        let mut out = Vec::with_capacity(1024 + 1024 * self.data.len() + 256 * buckets);
        let mut answer = Object::open(&mut out);
        answer.text("user_id", self.query.user.as_deref());
        answer.bound("from", self.query.from);
        answer.bound("to", self.query.to);
        answer.key("totals");
        let mut totals = Object::open(answer.out);
        fields::totals(&mut totals, &self.totals);
        totals.close();
        answer.list("by_model", &self.by_model, |model, (name, totals)| {
            model.text("model", Some(name));
            fields::totals(model, totals);
        });
        // Where there are more models than an answer may have, the cheapest are not named.
        if self.by_model.iter().map(|(_, totals)| totals.requests).sum::<u64>() < self.totals.requests {
            answer.flag("by_model_truncated", true);
        }
        if let (Some(group_by), Some(buckets)) = (self.query.group_by, &self.buckets) {
            answer.text("group_by", Some(group_by.as_str()));
            answer.list("buckets", &buckets.list, |bucket, (key, totals)| {
                fields::bucket_key(bucket, group_by, key);
                fields::totals(bucket, totals);
            });
            answer.flag("buckets_truncated", buckets.truncated);
        }
        answer.list("data", &self.data, |out, entry| fields::entry(out, entry));
        answer.optional("next_cursor", self.next_cursor.map(i128::from));
        answer.close();
        out.push(b'\n');
        out
    }
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

    /// An instant with as much of its fraction as it has.
    fn bound(&mut self, key: &'static str, value: Option<u64>) {
        match value {
            Some(value) => self.instant(key, value, if value.is_multiple_of(NS_PER_SECOND) { 0 } else { 9 }),
            None => self.text(key, None),
        }
    }

    fn list<T>(&mut self, key: &'static str, items: &[T], mut render: impl FnMut(&mut Object<'_>, &T)) {
        self.key(key);
        self.out.push(b'[');
        for (index, item) in items.iter().enumerate() {
            if index > 0 {
                self.out.push(b',');
            }
            let mut object = Object::open(self.out);
            render(&mut object, item);
            object.close();
        }
        self.out.push(b']');
    }
}

impl Fields for Object<'_> {
    fn number(&mut self, key: &'static str, value: u64) {
        self.key(key);
        self.out.extend_from_slice(value.to_string().as_bytes());
    }

    // Present only where it matters, so that a sum is never silently too low.
    fn rare(&mut self, key: &'static str, value: u64) {
        if value > 0 {
            self.number(key, value);
        }
    }

    fn flag(&mut self, key: &'static str, value: bool) {
        self.key(key);
        self.out.extend_from_slice(if value { b"true" } else { b"false" });
    }

    fn optional(&mut self, key: &'static str, value: Option<i128>) {
        self.key(key);
        self.out.extend_from_slice(value.map_or_else(|| "null".to_owned(), |value| value.to_string()).as_bytes());
    }

    fn decimal(&mut self, key: &'static str, value: u64, scale: u32) {
        self.key(key);
        write_decimal(self.out, value, scale);
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

    fn instant(&mut self, key: &'static str, value: u64, digits: u32) {
        self.key(key);
        self.out.push(b'"');
        write_rfc3339(self.out, value, digits);
        self.out.push(b'"');
    }

    fn cost(&mut self, nano_usd: Option<u64>) {
        self.optional("cost_nano_usd", nano_usd.map(i128::from));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::usage::GroupBy;
    use crate::usage::record::{Endpoint, Outcome, Usage, UsageSource};
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
