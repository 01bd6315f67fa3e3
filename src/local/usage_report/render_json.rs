//! An answer of `/usage` as JSON. Money and seconds are integers until the last digit: no number passes through a
//! float.

use super::columns::{self, Columns, Value};
use crate::base::civil::write_rfc3339;
use crate::base::clock::SECOND;
use crate::base::digits::write_signed_decimal;
use crate::reporting::{Report, Scope};

/// The body of the answer: one line with its line end, for people at a terminal.
pub fn render(report: &Report) -> Vec<u8> {
    let buckets = report.buckets.as_ref().map_or(0, |buckets| buckets.list.len());
    let mut out = Vec::with_capacity(1024 + 1024 * report.data.len() + 256 * buckets);
    let mut answer = Object::open(&mut out);
    answer.text("user_id", report.query.user.as_deref());
    if let Some(team) = &report.query.team {
        answer.text("team", Some(team));
    }
    if let Some(node) = &report.query.node {
        answer.text("node", Some(node));
    }
    match report.scope {
        Scope::Alone => {}
        Scope::Node => answer.text("scope", Some("node")),
        Scope::Fleet { nodes, fresh_to } => {
            answer.key("fleet");
            let mut fleet = Object::open(answer.out);
            fleet.number("nodes", nodes);
            fleet.put("fresh_to", Value::Instant(fresh_to, 3));
            fleet.close();
        }
    }
    answer.bound("from", report.query.from);
    answer.bound("to", report.query.to);
    answer.key("totals");
    let mut totals = Object::open(answer.out);
    columns::totals(&mut totals, &report.totals);
    totals.close();
    answer.list("by_model", &report.by_model, |model, (name, totals)| {
        model.text("model", Some(name));
        columns::totals(model, totals);
    });
    // Where there are more models than an answer may have, the cheapest are not named.
    if report.by_model.iter().map(|(_, totals)| totals.requests).sum::<u64>() < report.totals.requests {
        answer.put("by_model_truncated", Value::Flag(true));
    }
    if let (Some(group_by), Some(buckets)) = (report.query.group_by, &report.buckets) {
        answer.text("group_by", Some(group_by.as_str()));
        answer.list("buckets", &buckets.list, |bucket, (key, totals)| {
            columns::bucket_key(bucket, group_by, key);
            columns::totals(bucket, totals);
        });
        answer.put("buckets_truncated", Value::Flag(buckets.truncated));
    }
    if !report.budgets.is_empty() {
        answer.list("budgets", &report.budgets, |out, budget| columns::budget(out, budget));
    }
    answer.list("data", &report.data, |out, entry| columns::entry(out, entry));
    answer.optional("next_cursor", report.next_cursor);
    answer.close();
    out.push(b'\n');
    out
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
        let digits = |unix_ns: u64| if unix_ns.is_multiple_of(SECOND) { 0 } else { 9 };
        self.put(key, value.map_or(Value::Unknown, |unix_ns| Value::Instant(unix_ns, digits(unix_ns))));
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

impl Columns for Object<'_> {
    fn put(&mut self, key: &'static str, value: Value<'_>) {
        self.key(key);
        match value {
            Value::Unknown => self.out.extend_from_slice(b"null"),
            Value::Number(value) => self.out.extend_from_slice(value.to_string().as_bytes()),
            Value::Flag(value) => self.out.extend_from_slice(value.to_string().as_bytes()),
            Value::Decimal(value, scale) => write_signed_decimal(self.out, value, scale),
            Value::Text(text) => {
                serde_json::to_writer(&mut *self.out, text).expect("writing text to memory cannot fail");
            }
            Value::Instant(unix_ns, digits) => {
                self.out.push(b'"');
                write_rfc3339(self.out, unix_ns, digits);
                self.out.push(b'"');
            }
        }
    }

    // Present only where it matters, so that a sum is never silently too low.
    fn rare(&mut self, key: &'static str, value: u64) {
        if value > 0 {
            self.number(key, value);
        }
    }

    fn cost(&mut self, nano_usd: Option<i128>) {
        self.optional("cost_nano_usd", nano_usd);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reporting::{BucketKey, Buckets, Entry, GroupBy, KeyRow, Query, Totals};
    use crate::usage::record::{Endpoint, Outcome, Record, Usage, UsageSource};
    use proptest::prelude::*;

    fn cost(nano_usd: u64) -> String {
        let mut out = Vec::new();
        let mut object = Object::open(&mut out);
        object.put("c", Value::Decimal(nano_usd.into(), 9));
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
                from: Some(1_795_392_000 * SECOND),
                to: Some(1_795_426_200_500_000_000),
                ..Query::default()
            },
            totals,
            by_model: vec![("gpt-4o".to_owned(), totals), (String::new(), Totals::default())],
            buckets: None,
            budgets: Vec::new(),
            data: vec![Entry { id: 7, record: record.clone() }, Entry { id: 6, record }],
            next_cursor: Some(6),
            scope: Scope::Alone,
        }
    }

    #[test]
    fn the_whole_answer() {
        let body = String::from_utf8(render(&report())).unwrap();
        assert!(body.ends_with("}\n"));
        let sums = r#""unpriced_requests":1,"input_tokens":0,"cached_input_tokens":0,"output_tokens":0,"reasoning_tokens":0,"total_tokens":0,"cost_usd":0.000025}"#;
        assert!(body.starts_with(&format!(
            r#"{{"user_id":"a\"\n太郎","from":"2026-11-23T00:00:00Z","to":"2026-11-23T09:30:00.500000000Z","totals":{{"requests":2,"errors":1,{sums},"by_model":[{{"model":"gpt-4o","requests":2,"errors":1,{sums},{{"model":"","requests":0,"errors":0,"input_tokens":0"#
        )), "{body}");
        let entry = r#"{"id":7,"started_at":"2026-11-23T09:30:00.123456Z","user_id":"a\"\n太郎","team":null,"key_id":null,"endpoint":"chat/completions","model_requested":null,"model":"gpt-4o","stream":true,"status":200,"outcome":"completed","usage_source":"reported","input_tokens":10,"cached_input_tokens":0,"cache_write_tokens":0,"input_audio_tokens":0,"input_image_tokens":0,"output_tokens":0,"reasoning_tokens":0,"output_audio_tokens":0,"output_image_tokens":0,"total_tokens":0,"audio_seconds":1.25,"images":0,"tool_calls":0,"cost_nano_usd":25000,"duration_us":0,"first_byte_us":null,"proxy_us":0,"request_bytes":0,"response_bytes":0,"upstream_request_id":null,"response_id":"chatcmpl-1"}"#;
        assert!(body.contains(&format!("\"data\":[{entry},{{\"id\":6,")), "{body}");
        assert!(body.ends_with("}],\"next_cursor\":6}\n"), "{body}");
    }

    #[test]
    fn buckets_are_named_as_records_name_it() {
        let sums = r#""requests":3,"errors":0,"input_tokens":0,"cached_input_tokens":0,"output_tokens":0,"reasoning_tokens":0,"total_tokens":0,"cost_usd":0"#;
        let start = || BucketKey::Start(1_795_392_000 * SECOND);
        let name = || BucketKey::Name("a\"b".to_owned());
        let key = KeyRow {
            id: 3,
            user: "太郎".to_owned(),
            name: "a\"b".to_owned(),
            expires_at: Some(0),
            last_used_day: Some(1),
            ..KeyRow::default()
        };
        for (group_by, key, shown, truncated) in [
            (GroupBy::Month, start(), r#""start":"2026-11-23T00:00:00Z""#, false),
            (
                GroupBy::Key,
                BucketKey::Key(Some(key)),
                r#""key_id":3,"user_id":"太郎","key_name":"a\"b","expires_at":"1970-01-01T00:00:00Z","revoked_at":null,"last_used":"1970-01-02""#,
                false,
            ),
            (
                GroupBy::Key,
                BucketKey::Key(None),
                r#""key_id":null,"user_id":null,"key_name":null,"expires_at":null,"revoked_at":null,"last_used":null"#,
                false,
            ),
            (GroupBy::Hour, start(), r#""start":"2026-11-23T00:00:00Z""#, false),
            (GroupBy::Day, start(), r#""start":"2026-11-23T00:00:00Z""#, false),
            (GroupBy::Model, name(), r#""model":"a\"b""#, false),
            (GroupBy::User, name(), r#""user_id":"a\"b""#, true),
            (GroupBy::Endpoint, name(), r#""endpoint":"a\"b""#, false),
        ] {
            let bucket = (key, Totals { requests: 3, ..Totals::default() });
            let query = Query { group_by: Some(group_by), ..Query::default() };
            let buckets = Some(Buckets { list: vec![bucket.clone(), bucket], truncated });
            let body = String::from_utf8(render(&Report { query, buckets, ..report() })).unwrap();
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
        let whole = String::from_utf8(render(&report())).unwrap();
        assert!(!whole.contains("truncated"));
        let totals = Totals { requests: 3, ..report().totals };
        let body = String::from_utf8(render(&Report { totals, ..report() })).unwrap();
        assert!(body.contains(r#"],"by_model_truncated":true,"data":["#), "{body}");
    }

    #[test]
    fn nothing_found() {
        let empty = Report {
            query: Query::default(),
            totals: Totals::default(),
            by_model: vec![],
            buckets: None,
            budgets: Vec::new(),
            data: vec![],
            next_cursor: None,
            scope: Scope::Alone,
        };
        assert_eq!(
            String::from_utf8(render(&empty)).unwrap(),
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
            let value: serde_json::Value = serde_json::from_slice(&render(&report)).unwrap();
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
