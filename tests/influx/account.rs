//! What the ledger holds, per user and model, in the form in which a server is asked for the same; and ledgers full of
//! hostile names.

use super::support::proxy::Proxy;
use super::support::rng::Rng;
use super::support::rows::reader;
use openai_api_proxy::ledger::append::Writer;
use openai_api_proxy::ledger::database;
use openai_api_proxy::usage::record::{Endpoint, Record, Usage, UsageSource};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long a server may take for a long export on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// User and model, as tags: without a model, or with one.
pub type Names = (String, String);

/// Points or rows, input tokens, output tokens, nano-dollars.
pub type Sums = [i64; 4];

/// Sums of all users and models.
pub type Account = BTreeMap<Names, Sums>;

/// Names that mean something to line protocols, query languages, shells and terminals.
const USERS: [&str; 16] = [
    "user",
    "太郎",
    "with space",
    " edges ",
    "a,b=c",
    "\"quoted\" 'too'",
    "ends with \\",
    "\\",
    "\\\\,\\ \\=",
    "#comment",
    "per%25cent %",
    "🦀 e\u{301}",
    "a=b,user=c model=d 1",
    "{x=\"y\"} or $1; drop measurement openai_usage",
    "\u{202e}rtl",
    "i",
];
const MODELS: [&str; 5] = ["", "gpt-4o-mini", "ft:gpt-4o:org, inc\\", "line\nend\tand\u{7f}", "a b=c"];

/// Appends so many records, as another process with the same ledger does. They began in the last two hours, many of a
/// user in the same instant.
pub fn append(database: &Path, count: usize, seed: u64) {
    let conn = database::open(database).unwrap();
    let mut rng = Rng::new(seed);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    let began = now - 2 * 3600 * 1_000_000_000;
    let records: Vec<Record> = (0..count).map(|n| record(&mut rng, began + (n as u64 / 16) * 2_000_000)).collect();
    let mut writer = Writer::new(&conn).unwrap();
    for batch in records.chunks(4096) {
        writer.append(batch).unwrap();
    }
}

fn record(rng: &mut Rng, started_at: u64) -> Record {
    let model = Some(MODELS[rng.below(MODELS.len())]).filter(|model| !model.is_empty());
    let (input_tokens, output_tokens) = (rng.below(100_000) as u64, rng.below(10_000) as u64);
    let usage = Usage { input_tokens, output_tokens, total_tokens: input_tokens + output_tokens, ..Usage::default() };
    Record {
        started_at,
        user: USERS[rng.below(USERS.len())].into(),
        model: model.map(Into::into),
        endpoint: Endpoint::ChatCompletions,
        status: if rng.below(10) == 0 { 500 } else { 200 },
        usage,
        usage_source: UsageSource::Reported,
        cost_nano_usd: (rng.below(5) > 0).then(|| rng.below(1 << 40) as u64),
        duration_us: rng.below(1_000_000) as u64,
        ..Record::default()
    }
}

/// What SQLite says of the ledger.
pub fn of_ledger(database: &Path) -> Account {
    let conn = reader(database);
    let mut statement = conn
        .prepare(
            "SELECT u.name, coalesce(m.name, ''), count(*), sum(input_tokens), sum(output_tokens),
                coalesce(sum(cost_nano_usd), 0)
             FROM records r JOIN users u ON u.id = r.user_id
                LEFT JOIN models m ON m.id = coalesce(r.model_id, r.model_requested_id)
             GROUP BY 1, 2",
        )
        .unwrap();
    let rows = statement
        .query_map([], |row| Ok(((row.get(0)?, row.get(1)?), [row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?])))
        .unwrap();
    rows.collect::<Result<_, _>>().unwrap()
}

/// The name that a tag stands for: percent escapes decoded, and what is none left alone.
pub fn decode(tag: &str) -> String {
    let mut out = Vec::new();
    let mut rest = tag.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let escape = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok()).filter(|_| byte == b'%');
        match escape.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(decoded) => (out.push(decoded), rest = &tail[2..]).1,
            None => (out.push(byte), rest = tail).1,
        }
    }
    String::from_utf8(out).unwrap()
}

/// Waits until the ledger says that all of it is exported.
#[track_caller]
pub fn wait_until_exported(proxy: &Proxy) {
    let conn = reader(&proxy.database());
    let sql = "SELECT (SELECT record_id FROM marks WHERE name = 'export') - max(id) FROM records";
    let start = Instant::now();
    loop {
        let behind: i64 = conn.query_row(sql, [], |row| row.get(0)).unwrap();
        if behind == 0 {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "{behind} records; its log:\n{}", proxy.stderr());
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Waits until a metric has a value.
#[track_caller]
pub fn wait_for_metric(proxy: &Proxy, name: &str, wanted: impl Fn(f64) -> bool) {
    let start = Instant::now();
    loop {
        let value = proxy.metrics()[name];
        if wanted(value) {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "{name} is {value}; the log:\n{}", proxy.stderr());
        std::thread::sleep(Duration::from_millis(10));
    }
}
