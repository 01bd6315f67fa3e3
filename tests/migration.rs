//! A large ledger of an earlier schema is taken over whole, however often its first starts are killed: in the middle of
//! the migration the file is as it was, and the next start begins anew; what is made of its rows afterwards goes on where it
//! was. Left to others: what each earlier schema held
//! (`ledger/tiers`), and an earlier version's server beside this one (`versions`).
//!
//! From version 3, whose index by user has an entry for each record: no step after that takes longer for more rows.

#![allow(clippy::disallowed_methods)] // tests are the outside world

mod support;

use openai_api_proxy::ledger::database;
use openai_api_proxy::ledger::migrations::VERSION;
use rusqlite::Connection;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use support::proxy::{Proxy, command};
use support::rows::{assert_sums, reader};
use support::until;

const VERSION_3: &str = concat!(include_str!("ledger/versions/2.sql"), include_str!("ledger/versions/3.sql"));
const ROWS: i64 = 300_000;
const USERS: i64 = 500;
/// One more than there are; a row in so many came without one.
const KEYS: i64 = 50;
const HOUR: i64 = 3_600_000_000_000;
/// The last of them, nanoseconds since the Unix epoch.
const END: i64 = 1_795_426_200_000_000_000;

/// The names of a table's columns.
fn columns(conn: &Connection, table: &str) -> Vec<String> {
    let mut select = conn.prepare("SELECT name FROM pragma_table_info(?)").unwrap();
    select.query_map([table], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

/// A ledger of version 3, all of it folded.
fn make(path: &Path) {
    let conn = Connection::open(path).unwrap();
    conn.pragma_update(None, "journal_mode", "WAL").unwrap();
    conn.execute_batch(VERSION_3).unwrap();
    let number = |sql: &str| conn.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    let (first, user) = (1 + number("SELECT max(id) FROM records"), 1 + number("SELECT max(id) FROM users"));
    let value = |name: &String| match name.as_str() {
        "id" => format!("{first} + n"),
        "started_at" => format!("{END} - ({ROWS} - n) * {}", 20 * HOUR / ROWS),
        "user_id" => format!("{user} + n * 7919 % {USERS}"),
        "status" => "200".to_owned(),
        "outcome" | "usage_source" | "stream" | "endpoint" | "model_id" => "0".to_owned(),
        "key_id" => format!("nullif(n % {KEYS}, 0)"),
        "model_requested_id" | "upstream_request_id" | "response_id" => "NULL".to_owned(),
        _ => "n % 1000".to_owned(),
    };
    let values: Vec<String> = columns(&conn, "records").iter().map(value).collect();
    let sums: Vec<String> = columns(&conn, "rollups")[4..]
        .iter()
        .map(|name| match name.as_str() {
            "requests" => "count(*)".to_owned(),
            "errors" | "unpriced" => "0".to_owned(),
            name => format!("sum({name})"),
        })
        .collect();
    let (values, sums) = (values.join(", "), sums.join(", "));
    let mut sql = format!(
        "BEGIN;
        DELETE FROM records; DELETE FROM rollups; DELETE FROM user_records; DELETE FROM hours;
        WITH RECURSIVE numbers(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < {USERS})
            INSERT INTO users SELECT {user} + n, 'u' || n FROM numbers;
        WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < {KEYS})
            INSERT INTO client_keys (id, user, name, hash, created_at)
            SELECT n, 'u' || n, 'k', randomblob(32), 0 FROM numbers;
        WITH RECURSIVE numbers(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < {ROWS})
            INSERT INTO records SELECT {values} FROM numbers;
        INSERT INTO user_records SELECT id / 16384, user_id, id FROM records WHERE id >= {first};
        INSERT INTO hours SELECT started_at / {HOUR}, min(id), max(id) FROM records WHERE id >= {first} GROUP BY 1;"
    );
    for (of, by) in
        [("user_id, model_id, endpoint", "1, 2, 3, 4"), ("0, model_id, endpoint", "1, 3, 4"), ("0, -1, -1", "1")]
    {
        sql += &format!(
            "INSERT INTO rollups SELECT started_at / {HOUR}, {of}, {sums} FROM records WHERE id >= {first} GROUP BY {by};"
        );
    }
    sql += "UPDATE marks SET record_id = (SELECT max(id) FROM records); COMMIT;";
    conn.execute_batch(&sql).unwrap();
}

fn version(path: &Path) -> u32 {
    reader(path).pragma_query_value(None, "user_version", |row| row.get(0)).unwrap()
}

/// A start that is killed so long after it has begun to migrate.
fn start_and_kill(folder: &Path, after: Duration) {
    let mut child = command(folder, &[]).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let begins = lines.find(|line| line.contains("ledger is brought to the present schema"));
    assert!(begins.is_some_and(|line| line.contains("from=3")), "it begins to migrate");
    std::thread::sleep(after);
    child.kill().unwrap();
    child.wait().unwrap();
}

/// The last record that is in the sums by key, which are exactly those of the records up to it.
fn keyed(path: &Path) -> i64 {
    let conn = reader(path);
    let snapshot = conn.unchecked_transaction().unwrap();
    let mark = snapshot.query_row("SELECT record_id FROM marks WHERE name = 'key_days'", [], |row| row.get(0)).unwrap();
    let sums = |sql: &str, mark: i64| -> Vec<[i64; 4]> {
        let mut select = snapshot.prepare(sql).unwrap();
        let sums = select.query_map([mark], |row| Ok([row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?])).unwrap();
        sums.map(Result::unwrap).collect()
    };
    let told = "SELECT key_id, sum(requests), sum(total_tokens), sum(cost_nano_usd) FROM key_days
        WHERE ? > 0 AND day >= 0 GROUP BY 1 ORDER BY 1";
    let of_rows = "SELECT key_id, count(*), sum(total_tokens), sum(cost_nano_usd) FROM records
        WHERE id <= ? AND key_id IS NOT NULL GROUP BY 1 ORDER BY 1";
    assert_eq!(sums(told, mark), sums(of_rows, mark), "up to {mark}");
    mark
}

#[test]
fn sums_by_key_go_on_where_a_kill_left_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("usage.db");
    make(&path);
    drop(database::open(&path).unwrap());
    let (mut marks, last) = (vec![keyed(&path)], digest(&path).0);
    let first = marks[0];
    for _ in 0..4 {
        let mut child = command(folder.path(), &[]).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
        assert!(lines.any(|line| line.contains("begins to sum up by key")), "it is told");
        let before = marks[marks.len() - 1];
        until("some rows are taken", || keyed(&path) > before);
        child.kill().unwrap();
        child.wait().unwrap();
        marks.push(keyed(&path));
        if marks[marks.len() - 1] - first >= last {
            break; // it was faster
        }
    }
    assert!(marks[1] - first < last, "no start was killed in the middle: {marks:?}");
    assert!(marks.is_sorted_by(|one, next| one < next), "{marks:?}");
    let proxy = Proxy::start_in(folder, &[]);
    assert_sums(&proxy, &reader(&path)); // exact, also while it goes on
    until("all rows are taken", || keyed(&path) - first == last);
    proxy.wait_for_log("has summed up its rows by key");
    assert_sums(&proxy, &reader(&path));
}

/// All records, as one number and their count.
fn digest(path: &Path) -> (i64, i64) {
    let conn = reader(path);
    let columns = "id, started_at, user_id, cost_nano_usd, input_tokens, output_tokens, total_tokens, duration_us";
    let sql = format!("SELECT count(*), sum(id * 31 + {}) FROM records", columns.replace(", ", " % 1000003 + "));
    conn.query_row(&sql, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap()
}

#[test]
fn a_migration_that_is_killed_is_begun_anew_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("usage.db");
    make(&path);
    let before = digest(&path);
    assert_eq!(before.0, ROWS);
    let mut interrupted = 0;
    for after in [0, 5, 25, 100, 25, 5] {
        start_and_kill(folder.path(), Duration::from_millis(after));
        if version(&path) != 3 {
            break; // it was faster
        }
        interrupted += 1;
        assert_eq!(digest(&path), before);
    }
    assert!(interrupted > 0, "no start was killed in the middle");
    if version(&path) != 3 {
        std::fs::remove_file(&path).unwrap();
        make(&path); // so that the rest is of one that was interrupted and is taken up
        start_and_kill(folder.path(), Duration::ZERO);
    }
    let proxy = Proxy::start_in(folder, &[]);
    proxy.wait_for_log("ledger has the present schema");
    assert_eq!((version(&path), digest(&path)), (VERSION, before));
    assert_sums(&proxy, &reader(&path));
    // By each user: from the sums, and from the index of records.
    let of_users = proxy.usage("group_by=user&limit=1");
    let buckets = of_users["buckets"].as_array().unwrap();
    assert_eq!(buckets.len(), USERS as usize);
    for user in ["u0", "u250", "u499"] {
        let usage = proxy.usage(&format!("user_id={user}&limit=1000"));
        assert_eq!(usage["totals"]["requests"], ROWS / USERS, "{user}");
        assert_eq!(usage["data"].as_array().unwrap().len() as i64, ROWS / USERS, "{user}");
        assert!(
            buckets.iter().any(|bucket| bucket["user_id"] == user && bucket["cost_usd"] == usage["totals"]["cost_usd"])
        );
    }
    // Also once the tiers above hours are made.
    until("a day is summed", || {
        reader(&path).query_row("SELECT count(*) FROM days", [], |row| row.get::<_, i64>(0)).unwrap() > 0
    });
    assert_sums(&proxy, &reader(&path));
}
