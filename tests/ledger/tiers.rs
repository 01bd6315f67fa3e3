//! What follows behind: a ledger of version 1 is right at once and stays so, steps are small, an answer holds no more
//! buckets than it may, and a page is found wherever in the ledger its records are.

use crate::oracle::{HOUR, Oracle, START, query};
use openai_api_proxy::ledger::answer::report;
use openai_api_proxy::ledger::append::Writer;
use openai_api_proxy::ledger::database;
use openai_api_proxy::ledger::fold::fold;
use openai_api_proxy::ledger::tiers::TierBuilder;
use openai_api_proxy::ledger::user_index::{self, BLOCK_SHIFT};
use openai_api_proxy::reporting::{BUCKETS_MAX, BucketKey, GroupBy, Query};
use openai_api_proxy::usage::record::Record;
use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::TestRunner;
use rusqlite::Connection;
use std::path::Path;

const DAY: u64 = 24 * HOUR;

const VERSION_3: &str = concat!(include_str!("versions/2.sql"), include_str!("versions/3.sql"));
const VERSION_4: &str =
    concat!(include_str!("versions/2.sql"), include_str!("versions/3.sql"), include_str!("versions/4.sql"));

fn record(started_at: u64, user: &str, model: &str) -> Record {
    let (user, model) = (user.into(), Some(model.into()));
    Record { started_at, user, model, status: 200, cost_nano_usd: Some(1), ..Record::default() }
}

fn count(conn: &Connection, sql: &str) -> i64 {
    conn.query_row(sql, [], |row| row.get(0)).unwrap()
}

/// All that there is to fold and to follow.
fn catch_up(conn: &Connection) {
    while !fold(conn, 4096).unwrap().is_folded() {}
    let mut tiers = TierBuilder::default();
    while tiers.step(conn, i64::MAX).unwrap() {}
}

fn open(path: &Path) -> (Connection, Connection) {
    (database::open(path).unwrap(), database::open_reader(path).unwrap())
}

#[test]
fn a_ledger_of_version_1_is_right_at_once_and_while_it_catches_up() {
    is_right_from(include_str!("versions/1.sql"));
}

#[test]
fn a_ledger_of_version_2_is_right_at_once_and_while_it_catches_up() {
    is_right_from(include_str!("versions/2.sql"));
}

#[test]
fn a_ledger_of_version_3_is_right_at_once_and_while_it_catches_up() {
    is_right_from(VERSION_3);
}

#[test]
fn a_ledger_of_version_4_is_right_at_once_and_while_it_catches_up() {
    is_right_from(VERSION_4);
}

/// Rows that came with a key, of a version that had no sums by key.
#[test]
fn a_ledger_of_version_4_is_summed_up_by_key() {
    is_right_from(&format!(
        "{VERSION_4}
        INSERT INTO client_keys (id, user, name, hash, created_at) VALUES (1, 'a', 'k', x'00', 0);
        UPDATE records SET key_id = nullif(id % 3, 0);"
    ));
}

/// Version 3 had an entry for each record of a user: some with few of them in a block, one with more than an entry holds.
#[test]
fn the_index_by_user_of_version_3_is_kept() {
    const BLOCK: i64 = 1 << BLOCK_SHIFT;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("usage.db");
    let earlier = Connection::open(&path).unwrap();
    earlier.execute_batch(VERSION_3).unwrap();
    let owner = |id: i64| if id % 10 == 0 { id / 10 % 3 + 10 } else { 9 };
    let ids = (BLOCK..2 * BLOCK + 50).chain([3 * BLOCK - 1, 3 * BLOCK]);
    for id in ids.clone() {
        earlier.execute("INSERT INTO user_records VALUES (?, ?, ?)", [id >> BLOCK_SHIFT, owner(id), id]).unwrap();
    }
    drop(earlier);
    let conn = database::open(&path).unwrap();
    for user in 9..13 {
        let parts =
            user_index::blocks((BLOCK, 4 * BLOCK)).flat_map(|part| user_index::ranges(&conn, user, part).unwrap());
        let mut found: Vec<i64> = parts.flat_map(|(from, to)| from..=to).filter(|id| owner(*id) == user).collect();
        found.sort_unstable();
        assert_eq!(found, ids.clone().filter(|id| owner(*id) == user).collect::<Vec<i64>>(), "{user}");
    }
    assert_eq!(count(&conn, "SELECT count(*) FROM records_by_user WHERE block = 1 AND user_id = 9"), 31);
    assert_eq!(count(&conn, "SELECT count(*) FROM records_by_user WHERE block = 1 AND user_id > 9"), 6);
}

fn is_right_from(earlier: &str) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("usage.db");
    Connection::open(&path).unwrap().execute_batch(earlier).unwrap();
    let (conn, reader) = open(&path);
    let folded = count(&conn, "SELECT sum(requests) FROM rollups WHERE user_id > 0");
    assert!(folded > 0 && count(&conn, "SELECT count(*) FROM records") > folded, "some of it folded, some not");
    assert_eq!(count(&conn, "SELECT sum(requests) FROM rollups WHERE user_id = 0 AND model_id >= 0"), folded);
    assert_eq!(count(&conn, "SELECT sum(requests) FROM rollups WHERE user_id = 0 AND model_id = -1"), folded);

    // The rows themselves say what is right.
    let all = report(&reader, Query { limit: 1000, ..Query::default() }).unwrap().data;
    let mut oracle = Oracle { first: 1, records: all.into_iter().rev().map(|entry| entry.record).collect() };
    let mut runner = TestRunner::deterministic();
    let mut check = |oracle: &Oracle| {
        for _ in 0..40 {
            let query = query().new_tree(&mut runner).unwrap().current();
            assert_eq!(report(&reader, query.clone()).unwrap(), oracle.report(&query));
        }
    };
    check(&oracle);
    let mut writer = Writer::new(&conn).unwrap();
    let later: Vec<Record> = (1..30).map(|day| record(START + day * DAY, "a", "gpt-5")).collect();
    for record in later {
        writer.append(std::slice::from_ref(&record)).unwrap();
        oracle.append(&[record]);
        fold(&conn, 3).unwrap();
        TierBuilder::taking(1).step(&conn, i64::MAX).unwrap();
        check(&oracle);
    }
    catch_up(&conn);
    check(&oracle);
    assert!(count(&conn, "SELECT count(*) FROM months") > 0);
    let [by_key, of_rows] = ["key_days WHERE day >= 0", "records WHERE key_id IS NOT NULL"].map(|from| {
        let sum = if from.starts_with("key_days") { "requests" } else { "1" };
        count(&conn, &format!("SELECT coalesce(sum({sum}), 0) FROM {from}"))
    });
    assert_eq!(by_key, of_rows);
}

/// A row from the future makes nothing late that the present is not past.
#[test]
fn a_day_is_taken_an_hour_after_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let (conn, _) = open(&folder.path().join("usage.db"));
    let mut writer = Writer::new(&conn).unwrap();
    writer.append(&[record(START, "a", "m"), record(START + 300 * DAY, "a", "m")]).unwrap();
    fold(&conn, 10).unwrap();
    let midnight = ((START + DAY) / HOUR).cast_signed();
    let mut tiers = TierBuilder::default();
    for (hour, due) in [(midnight - 10, false), (midnight, false), (midnight + 1, true), (midnight + 1, false)] {
        assert_eq!(tiers.step(&conn, hour).unwrap(), due, "{hour}");
    }
    let days = count(&conn, "SELECT count(*) FROM days WHERE user_id = 1 AND model_id >= 0");
    assert_eq!(days, 1);
}

#[test]
fn a_step_is_small_whatever_a_day_holds() {
    const USERS: usize = 12_000;
    let folder = tempfile::tempdir().unwrap();
    let (conn, _) = open(&folder.path().join("usage.db"));
    let mut writer = Writer::new(&conn).unwrap();
    let mut rows: Vec<Record> = (0..USERS).map(|user| record(START, &format!("u{user}"), "m")).collect();
    rows.push(record(START + 3 * DAY, "u0", "m"));
    writer.append(&rows).unwrap();
    while !fold(&conn, 4096).unwrap().is_folded() {}
    let taken = || count(&conn, "SELECT count(*) FROM days WHERE user_id > 0 AND model_id >= 0");
    let (mut tiers, mut steps, mut before) = (TierBuilder::taking(i64::MAX), 0, 0);
    while tiers.step(&conn, i64::MAX).unwrap() {
        assert!(taken() - before <= 2 * 4096, "{before} and then {}", taken());
        (before, steps) = (taken(), steps + 1);
    }
    assert_eq!(before, USERS as i64);
    assert!(steps > 1);
}

#[test]
fn no_more_buckets_than_an_answer_may_have() {
    let folder = tempfile::tempdir().unwrap();
    let (conn, reader) = open(&folder.path().join("usage.db"));
    let mut writer = Writer::new(&conn).unwrap();
    let hours = BUCKETS_MAX as u64 + 50;
    let at = |hour: u64| Record {
        cost_nano_usd: Some(hour * 1000),
        ..record(START + hour * HOUR, &format!("user {hour}"), &format!("model {hour}"))
    };
    // Some at both ends are not folded yet.
    let (tail, folded): (Vec<u64>, Vec<u64>) = (0..hours).partition(|hour| hour % 300 == 7);
    writer.append(&folded.into_iter().map(at).collect::<Vec<_>>()).unwrap();
    catch_up(&conn);
    writer.append(&tail.into_iter().map(at).collect::<Vec<_>>()).unwrap();

    let buckets = |query: Query| report(&reader, query).unwrap().buckets.unwrap();
    let by = |group_by| Query { group_by: Some(group_by), limit: 1, ..Query::default() };
    let found = buckets(by(GroupBy::Hour));
    assert!(found.truncated);
    let starts: Vec<BucketKey> = found.list.into_iter().map(|(key, _)| key).collect();
    assert_eq!(starts, (0..BUCKETS_MAX as u64).map(|hour| BucketKey::Start(START + hour * HOUR)).collect::<Vec<_>>());
    let found = buckets(Query { from: Some(START + 50 * HOUR), ..by(GroupBy::Hour) });
    assert_eq!((found.list.len(), found.truncated), (BUCKETS_MAX, false), "reading on from a later hour");

    let found = buckets(by(GroupBy::User));
    assert!(found.truncated);
    let names: Vec<BucketKey> = found.list.into_iter().map(|(key, _)| key).collect();
    let dearest = |kind: &str| (50..hours).rev().map(|hour| format!("{kind} {hour}")).collect::<Vec<_>>();
    assert_eq!(names, dearest("user").into_iter().map(BucketKey::Name).collect::<Vec<_>>());
    let found = report(&reader, Query::default()).unwrap();
    assert_eq!(found.totals.requests, hours);
    assert_eq!(found.by_model.into_iter().map(|(name, _)| name).collect::<Vec<_>>(), dearest("model"));
}

/// Of a user and a model that few records are of, far apart, and many of them late: long after later ones began.
#[test]
fn a_page_is_found_wherever_its_records_are() {
    const ROWS: u64 = 150_000;
    let folder = tempfile::tempdir().unwrap();
    let (conn, reader) = open(&folder.path().join("usage.db"));
    let mut writer = Writer::new(&conn).unwrap();
    let mut oracle = Oracle::default();
    for first in (0..ROWS).step_by(5000) {
        let row = |row: u64| {
            let user = if row % 4001 == 9 { "rare" } else { ["a", "b", "c"][row as usize % 3] };
            let model = if row % 4003 == 11 { "seldom" } else { "often" };
            let late = if user == "rare" || model == "seldom" { row % 7 * 10 * HOUR } else { 0 };
            record(START + (row * HOUR / 400).saturating_sub(late), user, model)
        };
        let rows: Vec<Record> = (first..first + 5000).map(row).collect();
        writer.append(&rows).unwrap();
        oracle.append(&rows);
    }
    while !fold(&conn, 4096).unwrap().is_folded() {}
    for followed in [false, true] {
        if followed {
            catch_up(&conn);
            assert!(count(&conn, "SELECT done FROM levels WHERE name = 'days'") > (START / DAY).cast_signed() + 10);
        }
        check_pages(&reader, &oracle);
    }
}

fn check_pages(reader: &Connection, oracle: &Oracle) {
    let some = |name: &str| Some(name.to_owned());
    let range = (Some(START + 30 * HOUR + 1), Some(START + 11 * DAY + HOUR / 2));
    for (user, model) in [(some("rare"), None), (None, some("seldom")), (some("a"), some("seldom"))] {
        for (from, to) in [(None, None), range] {
            let mut query = Query { user: user.clone(), model: model.clone(), from, to, limit: 25, ..Query::default() };
            let mut seen = 0;
            loop {
                let page = report(reader, query.clone()).unwrap();
                assert_eq!(page, oracle.report(&query));
                seen += page.data.len();
                match page.next_cursor {
                    Some(cursor) => query.cursor = Some(cursor),
                    None => break,
                }
            }
            assert!(seen > 5, "{seen}");
        }
    }
}
