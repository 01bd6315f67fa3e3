//! The ledger's rows, read by a connection of the test's own, and held against an account of what was asked.

use super::load::{Account, Received, number, user};
use super::proxy::Proxy;
use super::usage::columns;
use rusqlite::{Connection, OpenFlags};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// One row, as far as a test looks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub status: u16,
    pub outcome: String,
    pub usage_source: String,
    pub response_id: Option<String>,
    counts: BTreeMap<String, u64>,
}

impl Row {
    /// A row that a crash left open, and the next start ended.
    pub fn is_left_open(&self) -> bool {
        self.outcome == "interrupted" && self.usage_source == "unknown" && self.status == 0
    }

    fn has(&self, usage: &Value) -> bool {
        let expected = columns(usage);
        expected.iter().all(|(name, count)| self.counts.get(*name).is_none_or(|found| found == count))
    }
}

/// All rows by user.
pub type Rows = BTreeMap<String, Vec<Row>>;

/// The columns that are held against `/usage`, and summed.
const SUMMED: [&str; 6] =
    ["input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens", "total_tokens", "cost_nano_usd"];

/// A connection that only looks.
pub fn reader(database: &Path) -> Connection {
    let conn = Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    conn.busy_timeout(super::DEADLINE).unwrap();
    conn
}

/// Every row of users whose requests have numbers.
pub fn read(conn: &Connection) -> Rows {
    use openai_api_proxy::usage::record::{Outcome, UsageSource};
    let sql = format!(
        "SELECT name, status, outcome, usage_source, response_id, {} FROM records r JOIN users u ON u.id = r.user_id
         WHERE name LIKE 'user-%' ORDER BY r.id",
        SUMMED.join(", ")
    );
    let mut statement = conn.prepare(&sql).unwrap();
    let mut rows = Rows::new();
    let mut found = statement.query([]).unwrap();
    while let Some(row) = found.next().unwrap() {
        let count = |column: usize| row.get::<_, Option<i64>>(5 + column).unwrap().unwrap_or(0).unsigned_abs();
        let parsed = Row {
            status: row.get(1).unwrap(),
            outcome: Outcome::from_code(row.get(2).unwrap()).unwrap().as_str().to_owned(),
            usage_source: UsageSource::from_code(row.get(3).unwrap()).unwrap().as_str().to_owned(),
            response_id: row.get(4).unwrap(),
            // Not the last: what it cost is no count that the upstream reports.
            counts: (0..SUMMED.len() - 1).map(|column| (SUMMED[column].to_owned(), count(column))).collect(),
        };
        rows.entry(row.get(0).unwrap()).or_default().push(parsed);
    }
    rows
}

/// Panics unless SQLite finds the file whole, and `/usage` answers with the very sums over the rows.
#[track_caller]
pub fn assert_sums(proxy: &Proxy, conn: &Connection) {
    let verdict: String = conn.query_row("PRAGMA quick_check", [], |row| row.get(0)).unwrap();
    assert_eq!(verdict, "ok");
    let totals = proxy.usage("limit=1")["totals"].clone();
    let sums = SUMMED.map(|column| format!("coalesce(sum({column}), 0)")).join(", ");
    let sql = format!("SELECT count(*), coalesce(sum(status >= 400 OR outcome <> 0), 0), {sums} FROM records");
    let expected: Vec<u64> = conn
        .query_row(&sql, [], |row| (0..2 + SUMMED.len()).map(|column| row.get::<_, i64>(column)).collect())
        .map(|sums: Vec<i64>| sums.into_iter().map(i64::unsigned_abs).collect())
        .unwrap();
    let counts = ["requests", "errors"].iter().chain(&SUMMED[..SUMMED.len() - 1]);
    let mut found: Vec<u64> = counts.map(|name| totals[name].as_u64().unwrap()).collect();
    found.push((totals["cost_usd"].as_f64().unwrap() * 1e9).round() as u64);
    assert_eq!(found, expected, "the totals of /usage, and the sums over the rows");
    assert_eq!(by_key_told(proxy), by_key(conn), "the sums of /usage by key, and those over the rows");
}

/// Requests, and what [`SUMMED`] has, by key; 0 is none.
type ByKey = BTreeMap<i64, Vec<u64>>;

fn by_key_told(proxy: &Proxy) -> ByKey {
    let told = proxy.usage("limit=1&group_by=key");
    let sums = |bucket: &Value| {
        let counts = ["requests"].iter().chain(&SUMMED[..SUMMED.len() - 1]);
        let mut sums: Vec<u64> = counts.map(|name| bucket[name].as_u64().unwrap()).collect();
        sums.push((bucket["cost_usd"].as_f64().unwrap() * 1e9).round() as u64);
        (bucket["key_id"].as_i64().unwrap_or(0), sums)
    };
    told["buckets"].as_array().unwrap().iter().map(sums).collect()
}

fn by_key(conn: &Connection) -> ByKey {
    let sums = SUMMED.map(|column| format!("coalesce(sum({column}), 0)")).join(", ");
    let sql = format!("SELECT coalesce(key_id, 0), count(*), {sums} FROM records GROUP BY 1");
    let mut select = conn.prepare(&sql).unwrap();
    let row = |row: &rusqlite::Row<'_>| {
        let sums = (1..2 + SUMMED.len()).map(|column| row.get::<_, i64>(column).map(i64::unsigned_abs));
        Ok((row.get(0)?, sums.collect::<rusqlite::Result<_>>()?))
    };
    select.query_map([], row).unwrap().map(Result::unwrap).collect()
}

/// How an account and the rows compare. All but the first four are to be zero, or what the mode allows.
#[derive(Clone, Debug, Default)]
pub struct Comparison {
    pub received: usize,
    pub rows: usize,
    /// Rows that a crash left open.
    pub interrupted: usize,
    /// Requests that the upstream saw.
    pub seen: usize,
    /// Received whole, and without its row.
    pub missing: Vec<Received>,
    /// Received whole, and the row says something else.
    pub wrong: Vec<String>,
    pub doubled: Vec<String>,
    /// Rows of requests that the upstream never saw, and that were not left open before they were sent.
    pub unseen: Vec<String>,
    /// Seen by the upstream, and without a row.
    pub unrecorded: Vec<u64>,
}

/// Holds the rows against the account.
pub fn compare(rows: &Rows, account: &Account) -> Comparison {
    let (seen, received, sessions) = (account.seen(), account.received(), account.sessions());
    let mut result = Comparison {
        received: received.len(),
        rows: rows.values().map(Vec::len).sum(),
        interrupted: rows.values().flatten().filter(|row| row.is_left_open()).count(),
        seen: seen.len(),
        ..Comparison::default()
    };
    for (name, rows) in rows {
        let n = number(name).expect("a user of ours");
        if !seen.contains(&n) && !rows.iter().all(Row::is_left_open) {
            result.unseen.push(format!("{name}: {rows:?}"));
        }
        let ids: BTreeSet<_> = rows.iter().map(|row| &row.response_id).collect();
        if ids.len() < rows.len() || rows.len() > 1 && !sessions.contains(&n) {
            result.doubled.push(format!("{name}: {rows:?}"));
        }
    }
    result.unrecorded = seen.into_iter().filter(|&n| !rows.contains_key(&user(n))).collect();
    for received in received {
        let of_user = rows.get(&user(received.n)).map_or(&[][..], Vec::as_slice);
        match of_user.iter().find(|row| row.response_id == received.response_id) {
            None => result.missing.push(received),
            Some(row) => {
                let is_exact = row.status == received.status
                    && row.outcome == "completed"
                    && row.has(&received.usage)
                    && (row.usage_source == "reported") == received.usage.is_object();
                if !is_exact {
                    result.wrong.push(format!("{row:?} of {received:?}"));
                }
            }
        }
    }
    result
}
