//! A server that keeps points as InfluxDB does, over the scripted upstream: the same point again replaces the first.

use super::account::{Account, decode};
use super::support::script::{Reply, Step};
use super::support::upstream::{SeenRequest, Upstream};
use flate2::read::GzDecoder;
use influxdb_line_protocol::{FieldValue, parse_lines};
use std::collections::BTreeMap;
use std::io::Read;
use std::sync::{Arc, Mutex};

/// A point's identity (tags and time) and its whole numbers.
type Points = BTreeMap<(BTreeMap<String, String>, i64), BTreeMap<String, i64>>;

/// The points that were taken, and how many lines came with them.
#[derive(Clone, Default)]
pub struct Store {
    points: Arc<Mutex<Points>>,
}

impl Store {
    /// Takes all the lines of a request, as one.
    pub fn take(&self, request: &SeenRequest) {
        let text = lines(request);
        let mut points = self.points.lock().unwrap();
        for line in parse_lines(&text) {
            let line = line.unwrap();
            assert_eq!(line.series.measurement, "openai_usage");
            let tags = line.series.tag_set.iter().flatten();
            let tags = tags.map(|(key, value)| (key.to_string(), value.to_string())).collect();
            let whole = |(key, value): &(_, FieldValue<'_>)| match value {
                FieldValue::I64(value) => Some((format!("{key}"), *value)),
                _ => None,
            };
            let fields = line.field_set.iter().filter_map(|(key, value)| whole(&(key, value.clone()))).collect();
            points.insert((tags, line.timestamp.unwrap()), fields);
        }
    }

    /// The sums per user and model.
    pub fn account(&self) -> Account {
        let mut account = Account::new();
        for ((tags, _), fields) in &*self.points.lock().unwrap() {
            let tag = |name: &str| tags.get(name).map_or(String::new(), |value| decode(value));
            let field = |name: &str| fields.get(name).copied().unwrap_or(0);
            let sums = account.entry((tag("user"), tag("model"))).or_default();
            let point = [1, field("input_tokens"), field("output_tokens"), field("cost_nano_usd")];
            for (sum, value) in sums.iter_mut().zip(point) {
                *sum += value;
            }
        }
        account
    }
}

/// The lines of a write request.
pub fn lines(request: &SeenRequest) -> String {
    assert_eq!(request.head.get("content-encoding"), Some("gzip"));
    let mut text = String::new();
    GzDecoder::new(request.body.as_slice()).read_to_string(&mut text).unwrap();
    assert!(text.ends_with('\n') && text.lines().count() <= 5_000);
    text
}

/// "Yes", as InfluxDB says it.
pub fn taken() -> Vec<Step> {
    Reply::new(204, "").ending(super::support::script::Ending::Nothing).steps()
}

/// A server that takes what `answer` gives no other answer to. The first argument counts the requests from 0.
pub fn server(answer: impl Fn(usize, &SeenRequest) -> Option<Vec<Step>> + Send + Sync + 'static) -> (Upstream, Store) {
    let store = Store::default();
    let (kept, count) = (store.clone(), Mutex::new(0..));
    let upstream = Upstream::plain(move |request| {
        let nth = count.lock().unwrap().next().unwrap();
        answer(nth, request).unwrap_or_else(|| {
            kept.take(request);
            taken()
        })
    });
    (upstream, store)
}
