//! `RETENTION_DAYS` through the binary: old records go within seconds, sums stay, also where it is killed on the way.

#![allow(clippy::disallowed_methods)] // records have a time, and waiting has an end

mod support;

use rusqlite::{Connection, OpenFlags};
use serde_json::Value;
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use support::DEADLINE;
use support::client::post_json;
use support::proxy::Proxy;
use support::script::Reply;
use support::upstream::Upstream;

const OLD_ROWS: i64 = 30_000;
const YOUNG_ROWS: i64 = 3;
const RETENTION: (&str, &str) = ("RETENTION_DAYS", "1");

/// A ledger, as the binary itself makes it, with records of a user: the old ones began two days ago, the young ones now.
fn ledger_with_history(target: &str) -> tempfile::TempDir {
    let mut proxy = Proxy::start(&[("PROXY_TARGET", target)]);
    assert!(proxy.terminate().success());
    let conn = Connection::open(proxy.database()).unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as i64;
    let two_days_ns = 48 * 3_600_000_000_000;
    conn.execute("INSERT INTO users (id, name) VALUES (1, 'u')", []).unwrap();
    for (rows, started_at) in [(OLD_ROWS, now - two_days_ns), (YOUNG_ROWS, now)] {
        conn.execute(
            "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < ?1)
             INSERT INTO records (started_at, user_id, endpoint, status, outcome, usage_source, stream, cost_nano_usd,
                input_tokens, cached_input_tokens, output_tokens, reasoning_tokens, total_tokens, cache_write_tokens,
                input_audio_tokens, input_image_tokens, output_audio_tokens, output_image_tokens, audio_us, images,
                duration_us, proxy_us, request_bytes, response_bytes)
             SELECT ?2 + n, 1, 0, 200, 0, 0, 0, n, n, 0, 2, 0, n + 2, 0, 0, 0, 0, 0, 0, 0, 1000, 10, 100, 100 FROM n",
            [rows, started_at],
        )
        .unwrap();
    }
    proxy.into_folder()
}

/// Polls until this holds of the least id that is in the ledger, 0 for none.
#[track_caller]
fn wait_for_first_id(proxy: &Proxy, wanted: impl Fn(i64) -> bool) {
    let conn = Connection::open_with_flags(proxy.database(), OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    conn.busy_timeout(DEADLINE).unwrap();
    let start = Instant::now();
    loop {
        let first = conn.query_row("SELECT coalesce(min(id), 0) FROM records", [], |row| row.get(0)).unwrap();
        if wanted(first) {
            return;
        }
        assert!(start.elapsed() < DEADLINE, "the first record is still {first}");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

#[track_caller]
fn assert_sums(usage: &Value, young: i64) {
    let sum_to = |n: i64| n * (n + 1) / 2;
    let input = sum_to(OLD_ROWS) + sum_to(YOUNG_ROWS);
    let totals = &usage["totals"];
    assert_eq!(totals["requests"], OLD_ROWS + young);
    assert_eq!(totals["input_tokens"], input);
    assert_eq!(totals["total_tokens"], input + 2 * (OLD_ROWS + YOUNG_ROWS));
    assert_eq!(totals["cost_usd"].to_string(), format!("0.{input:09}"));
}

#[test]
fn old_records_go_and_their_sums_stay() {
    let upstream = Upstream::plain(|_| Reply::new(200, "{}").steps());
    let target = upstream.url();
    let folder = ledger_with_history(&target);

    // Killed while it prunes: what is gone was counted before.
    let proxy = Proxy::start_in(folder, &[("PROXY_TARGET", &target), RETENTION]);
    wait_for_first_id(&proxy, |first| first > 1);
    let folder = proxy.into_folder();
    let proxy = Proxy::start_in(folder, &[("PROXY_TARGET", &target), RETENTION]);
    assert_sums(&proxy.usage(""), YOUNG_ROWS);

    wait_for_first_id(&proxy, |first| first == OLD_ROWS + 1);
    for query in ["limit=1000", "user_id=u&limit=1000"] {
        let usage = proxy.usage(query);
        assert_sums(&usage, YOUNG_ROWS);
        let ids: Vec<i64> = usage["data"].as_array().unwrap().iter().map(|row| row["id"].as_i64().unwrap()).collect();
        assert_eq!(ids, (OLD_ROWS + 1..=OLD_ROWS + YOUNG_ROWS).rev().collect::<Vec<_>>());
        assert_eq!(usage["next_cursor"], Value::Null);
    }
    post_json(proxy.addr(), "/v1/files", &[("x-user-id", "u")], "{}").expect(200);
    let usage = proxy.usage("user_id=u");
    assert_sums(&usage, YOUNG_ROWS + 1);
    assert_eq!(usage["data"][0]["id"], OLD_ROWS + YOUNG_ROWS + 1);
}
