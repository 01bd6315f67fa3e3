//! Pruning: what is old and folded goes in small steps, what is young stays, and sums lose nothing by it.

use crate::oracle::{HOUR, START};
use openai_api_proxy::ledger::answer::report;
use openai_api_proxy::ledger::append::Writer;
use openai_api_proxy::ledger::database;
use openai_api_proxy::ledger::fold::fold;
use openai_api_proxy::ledger::marks::Progress;
use openai_api_proxy::ledger::marks::begin_export;
use openai_api_proxy::ledger::prune::{Cutoff, first_id, prune};
use openai_api_proxy::reporting::Query;
use openai_api_proxy::usage::record::{Endpoint, Record, Usage, UsageSource};
use rusqlite::Connection;
use std::path::Path;

/// An id that came back would be below the marks: never folded, and taken for another record by the indexes.
#[test]
fn an_id_is_never_given_twice() {
    let folder = tempfile::tempdir().unwrap();
    let conn = open(folder.path());
    let mut writer = Writer::new(&conn).unwrap();
    let row = Record { started_at: START, user: "u".into(), status: 200, ..Record::default() };
    writer.append(&vec![row.clone(); 5]).unwrap();
    fold(&conn, 4096).unwrap();
    conn.execute("DELETE FROM records", []).unwrap();
    assert_eq!(Progress::read(&conn).unwrap(), Progress { last: 5, folded: 5, deduplicated: 5, keyed: 5 });
    writer.append(&vec![row; 2]).unwrap();
    assert_eq!(Progress::read(&conn).unwrap(), Progress { last: 7, folded: 5, deduplicated: 5, keyed: 5 });
    for _ in 0..2 {
        let found = report(&conn, Query::default()).unwrap();
        assert_eq!(found.totals.requests, 7);
        assert_eq!(found.data.iter().map(|entry| entry.id).collect::<Vec<_>>(), [7, 6]);
        assert!(fold(&conn, 4096).unwrap().is_folded());
    }
}

fn open(folder: &Path) -> Connection {
    database::open(&folder.join("usage.db")).unwrap()
}

fn cutoff(rows: i64, remembered: i64) -> Cutoff {
    Cutoff { rows, remembered, exported: false, shipped: false }
}

fn count(conn: &Connection, table: &str) -> i64 {
    conn.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
}

/// The next record gets the id after this one.
fn start_after(conn: &Connection, id: i64) {
    conn.execute("UPDATE marks SET record_id = ?", [id]).unwrap();
}

fn response(id: &str, started_at: u64) -> Record {
    let usage = Usage { input_tokens: 7, ..Usage::default() };
    Record {
        started_at,
        usage,
        endpoint: Endpoint::Responses,
        usage_source: UsageSource::Reported,
        response_id: Some(id.into()),
        ..Record::default()
    }
}

/// What is not folded, not in the index of ids or not in the sums by key is not taken by anything yet; nor does an old row go before a young
/// one that stands before it.
#[test]
fn a_row_that_something_has_yet_to_take_stays() {
    let folder = tempfile::tempdir().unwrap();
    let conn = open(folder.path());
    let mut writer = Writer::new(&conn).unwrap();
    let rows: Vec<Record> = [1, 1, 9, 1].map(|hour| response("r", START + hour * HOUR)).into();
    writer.append(&rows).unwrap();
    let all_old = cutoff(i64::MAX, 0);
    begin_export(&conn, false).unwrap();
    let all_exported = Cutoff { exported: true, ..all_old };
    for mark in ["fold", "counted", "key_days", "export"] {
        fold(&conn, 4).unwrap();
        conn.execute("UPDATE marks SET record_id = 0 WHERE name = ?", [mark]).unwrap();
        assert!(!prune(&conn, all_exported, 10).unwrap());
        assert_eq!(first_id(&conn).unwrap(), 1, "{mark}");
        conn.execute("UPDATE marks SET record_id = 4 WHERE name = ?", [mark]).unwrap();
    }
    conn.execute("UPDATE marks SET record_id = 0 WHERE name = 'export'", []).unwrap(); // where nothing is exported
    let middle = cutoff((START + 5 * HOUR) as i64, 0);
    assert!(prune(&conn, middle, 1).unwrap(), "a step that was filled says that there may be more");
    assert_eq!(first_id(&conn).unwrap(), 2);
    assert!(!prune(&conn, middle, 10).unwrap());
    assert_eq!(first_id(&conn).unwrap(), 3);
    assert!(!prune(&conn, all_old, 10).unwrap());
    assert_eq!((first_id(&conn).unwrap(), count(&conn, "records")), (5, 0));
}

/// Each index keeps its entries until the last row of their block is gone, and then loses them, in steps.
#[test]
fn the_entries_of_a_block_go_after_its_last_row() {
    const BLOCK: i64 = 1 << 16;
    let folder = tempfile::tempdir().unwrap();
    let conn = open(folder.path());
    start_after(&conn, BLOCK - 5);
    let mut writer = Writer::new(&conn).unwrap();
    let rows: Vec<Record> = (0..8).map(|n| response(&format!("r{n}"), START + n * HOUR)).collect();
    writer.append(&rows).unwrap();
    assert!(fold(&conn, 100).unwrap().is_folded());
    let state = || [first_id(&conn).unwrap() - BLOCK, count(&conn, "records_by_user"), count(&conn, "counted")];
    let before = |hours: u64| (START + hours * HOUR) as i64;
    assert_eq!(state(), [-4, 2, 8]);

    assert!(!prune(&conn, cutoff(before(3), before(3)), 100).unwrap());
    assert_eq!(state(), [-1, 2, 8], "one row of the block is there");
    assert!(!prune(&conn, cutoff(before(6), before(3)), 100).unwrap());
    assert_eq!(state(), [2, 1, 8], "what was counted is remembered for longer than its row");
    let replay = Record { endpoint: Endpoint::ResponsesRetrieve, is_retrieval: true, ..response("r0", START) };
    assert_eq!(writer.append(std::slice::from_ref(&replay)).unwrap()[0].usage, Usage::default());
    for left in [6, 4] {
        assert!(prune(&conn, cutoff(before(6), before(4)), 2).unwrap());
        assert_eq!(state(), [2, 1, left]);
    }
    assert!(!prune(&conn, cutoff(before(6), before(4)), 2).unwrap());
    assert_eq!(writer.append(&[replay]).unwrap()[0].usage.input_tokens, 7, "and then it is forgotten");
    let later = Record { endpoint: Endpoint::ResponsesRetrieve, is_retrieval: true, ..response("r5", START) };
    assert_eq!(writer.append(&[later]).unwrap()[0].usage, Usage::default(), "unlike what is in a later block");
}

#[test]
fn the_limits_are_whole_days_back_from_now() {
    let (now, day) = (START as i64, 24 * HOUR as i64);
    assert_eq!(Cutoff::new(1, false, now), cutoff(now - day, now - 60 * day));
    assert_eq!(Cutoff::new(90, false, now), cutoff(now - 90 * day, now - 90 * day));
    let (rows, of_1970) = (now - 36_500 * day, Cutoff::new(36_500, false, 0));
    assert_eq!(Cutoff::new(36_500, false, now), cutoff(rows, rows));
    assert_eq!(of_1970.rows, -36_500 * day, "nothing is older than that");
}
