//! Sums and history equal a scan over all records, wherever the fold and the tiers are, whatever is pruned and wherever
//! the log breaks off.

use crate::oracle::{HOUR, Oracle, START, USERS, instant, query, record};
use openai_api_proxy::ledger::answer::report;
use openai_api_proxy::ledger::append::Writer;
use openai_api_proxy::ledger::database;
use openai_api_proxy::ledger::fold::fold;
use openai_api_proxy::ledger::marks::Progress;
use openai_api_proxy::ledger::numbers::COUNT_MAX;
use openai_api_proxy::ledger::prune::{Cutoff, first_id, prune};
use openai_api_proxy::ledger::tiers::{Tier, TierBuilder, Watermark};
use openai_api_proxy::reporting::{Query, Totals};
use openai_api_proxy::usage::record::{Endpoint, Record, Usage, UsageSource};
use openai_api_proxy::worker::ledger::FOLD_ROLLUPS_FORCED;
use proptest::collection::vec;
use proptest::prelude::*;
use rusqlite::Connection;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

#[derive(Clone, Debug)]
enum Step {
    Append(Vec<Record>),
    /// All but the last of them are inserted when it ends.
    AppendThatFails(Vec<Record>),
    /// By another process.
    AppendElsewhere(Vec<Record>),
    /// By the one that appends, from its memory where it can.
    Fold(i64),
    /// From the file alone.
    FoldElsewhere(i64),
    FoldThatFails,
    Prune(u64, i64),
    PruneThatFails,
    /// Of the tiers: so many steps, each of so many users.
    Follow(usize, i64),
    FollowThatFails,
    /// The sums by key are to be made of the rows that are there, as in a ledger from before there were such.
    KeysAnew,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => vec(record(), 1..12).prop_map(Step::Append),
        1 => vec(record(), 1..4).prop_map(Step::AppendThatFails),
        1 => vec(record(), 1..4).prop_map(Step::AppendElsewhere),
        2 => (1..20i64).prop_map(Step::Fold),
        1 => (1..20i64).prop_map(Step::FoldElsewhere),
        1 => Just(Step::FoldThatFails),
        2 => (instant(), 1..20i64).prop_map(|(before, rows)| Step::Prune(before, rows)),
        1 => Just(Step::PruneThatFails),
        3 => (1..6usize, 1..5i64).prop_map(|(steps, users)| Step::Follow(steps, users)),
        1 => Just(Step::FollowThatFails),
        1 => Just(Step::KeysAnew),
    ]
}

fn apply(path: &Path, writer: &mut Writer<'_>, oracle: &mut Oracle, step: &Step) {
    let elsewhere = || Connection::open(path).unwrap();
    match step {
        Step::Append(records) => {
            writer.append(records).unwrap();
            oracle.append(records);
        }
        Step::AppendThatFails(records) => append_that_fails(writer.conn(), writer, records),
        Step::AppendElsewhere(records) => {
            Writer::new(&elsewhere()).unwrap().append(records).unwrap();
            oracle.append(records);
        }
        Step::Fold(rows) => {
            writer.fold(*rows).unwrap();
        }
        Step::FoldElsewhere(rows) => {
            fold(&elsewhere(), *rows).unwrap();
        }
        Step::FoldThatFails => fold_that_fails(writer.conn(), writer),
        Step::Prune(before, rows) => {
            let conn = writer.conn();
            let Progress { folded, deduplicated, keyed, .. } = Progress::read(conn).unwrap();
            let young = rows_from(conn, *before);
            prune(conn, cutoff(*before), *rows).unwrap();
            assert_eq!(rows_from(conn, *before), young, "what is young stays");
            oracle.prune(*before, *rows as u64, folded.min(deduplicated).min(keyed) as u64);
        }
        Step::PruneThatFails => prune_that_fails(writer.conn()),
        Step::Follow(steps, users) => {
            let conn = writer.conn();
            for _ in 0..*steps {
                TierBuilder::taking(*users).step(conn, i64::MAX).unwrap();
            }
        }
        Step::FollowThatFails => follow_that_fails(writer.conn()),
        Step::KeysAnew if oracle.first > 1 => {} // there are no rows to make them of
        Step::KeysAnew => {
            let sql = "BEGIN; DELETE FROM key_days; UPDATE marks SET record_id = 0 WHERE name = 'key_days'; COMMIT";
            elsewhere().execute_batch(sql).unwrap();
        }
    }
}

fn append_that_fails(conn: &Connection, writer: &mut Writer<'_>, records: &[Record]) {
    let last = Progress::read(conn).unwrap().last + records.len() as i64;
    conn.execute_batch(&format!(
        "CREATE TEMP TRIGGER full BEFORE INSERT ON records WHEN NEW.id = {last}
         BEGIN SELECT RAISE(ABORT, 'disk full'); END"
    ))
    .unwrap();
    writer.append(records).unwrap_err();
    conn.execute_batch("DROP TRIGGER full").unwrap();
}

/// A step of the tiers that has written all but how far it has come when it ends.
fn follow_that_fails(conn: &Connection) {
    let marks = || [Tier::Days, Tier::Months].map(|level| Watermark::read(conn, level).unwrap());
    let before = marks();
    conn.execute_batch("CREATE TEMP TRIGGER full BEFORE UPDATE ON levels BEGIN SELECT RAISE(ABORT, 'disk full'); END")
        .unwrap();
    let failed = TierBuilder::taking(2).step(conn, i64::MAX).is_err();
    conn.execute_batch("DROP TRIGGER full").unwrap();
    assert_eq!(marks(), before);
    assert_eq!(failed, TierBuilder::taking(2).step(conn, i64::MAX).unwrap(), "it fails where there is something to do");
}

fn cutoff(before: u64) -> Cutoff {
    Cutoff { rows: before as i64, remembered: before as i64, exported: false, shipped: false }
}

fn rows_from(conn: &Connection, instant: u64) -> i64 {
    conn.query_row("SELECT count(*) FROM records WHERE started_at >= ?", [instant as i64], |row| row.get(0)).unwrap()
}

/// A fold that has written all but its last table when it ends, as by a full disk. Where no row is pending it does not
/// fail, and moves no more than what is behind: the index of ids that may be repeated, and the sums by key.
fn fold_that_fails(conn: &Connection, writer: &mut Writer<'_>) {
    let mut before = Progress::read(conn).unwrap();
    conn.execute_batch("CREATE TEMP TRIGGER full BEFORE INSERT ON hours BEGIN SELECT RAISE(ABORT, 'disk full'); END")
        .unwrap();
    let failed = writer.fold(10).is_err();
    conn.execute_batch("DROP TRIGGER full").unwrap();
    assert_eq!(failed, before.pending() > 0);
    if !failed {
        before.deduplicated = before.last.min(before.deduplicated + 10);
        before.keyed = before.folded.min(before.keyed + 10);
    }
    assert_eq!(Progress::read(conn).unwrap(), before);
}

/// A step that has removed all that it would when it ends.
fn prune_that_fails(conn: &Connection) {
    let state = || (first_id(conn).unwrap(), Progress::read(conn).unwrap());
    let before = state();
    conn.execute_batch("CREATE TEMP TRIGGER full AFTER DELETE ON records BEGIN SELECT RAISE(ABORT, 'disk full'); END")
        .unwrap();
    let is_there = before.0 <= before.1.folded.min(before.1.keyed);
    assert_eq!(prune(conn, cutoff(u64::MAX >> 1), 10).is_err(), is_there);
    conn.execute_batch("DROP TRIGGER full").unwrap();
    assert_eq!(state(), before);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(160))]

    /// A reader on its own connection, asked after each step.
    #[test]
    fn exact_at_every_instant(steps in vec((step(), vec(query(), 1..5)), 1..16)) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("usage.db");
        let conn = database::open(&path).unwrap();
        let mut writer = Writer::new(&conn).unwrap();
        let reader = database::open_reader(&path).unwrap();
        let mut oracle = Oracle::default();
        for (step, queries) in steps {
            apply(&path, &mut writer, &mut oracle, &step);
            for query in queries {
                prop_assert_eq!(report(&reader, query.clone()).unwrap(), oracle.report(&query));
            }
        }
    }

    /// The log cut at any byte, as a crash leaves it: a whole number of transactions, and every sum exact over them.
    #[test]
    fn exact_after_a_crash_at_any_byte(steps in vec(step(), 1..12), query in query(), cut in 0.0..=1.0) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("usage.db");
        let conn = database::open(&path).unwrap();
        let mut writer = Writer::new(&conn).unwrap();
        let mut after_commits = vec![Oracle::default()];
        for step in &steps {
            let mut next = after_commits.last().unwrap().clone();
            apply(&path, &mut writer, &mut next, step);
            after_commits.push(next);
        }
        let log = fs::read(folder.path().join("usage.db-wal")).unwrap_or_default();
        let copy = folder.path().join("copy.db");
        fs::copy(&path, &copy).unwrap();
        let kept = (log.len() as f64 * cut) as usize;
        fs::write(folder.path().join("copy.db-wal"), &log[..kept]).unwrap();

        let conn = database::open(&copy).unwrap();
        let found = Progress::read(&conn).unwrap();
        let state = |oracle: &Oracle| (oracle.records.len() as i64, oracle.first as i64);
        let found = (found.last, first_id(&conn).unwrap());
        let oracle = after_commits.iter().find(|oracle| state(oracle) == found);
        let oracle = oracle.expect("the log ends between two transactions");
        if cut == 1.0 {
            prop_assert_eq!(found, state(after_commits.last().unwrap()));
        }
        let everything = Query { limit: 1000, ..Query::default() };
        prop_assert_eq!(report(&conn, everything.clone()).unwrap(), oracle.report(&everything));
        while fold(&conn, 7).unwrap().pending() > 0 {
            prop_assert_eq!(report(&conn, query.clone()).unwrap(), oracle.report(&query));
            TierBuilder::taking(1).step(&conn, i64::MAX).unwrap();
            prop_assert_eq!(report(&conn, query.clone()).unwrap(), oracle.report(&query));
        }
        while TierBuilder::taking(2).step(&conn, i64::MAX).unwrap() {
            prop_assert_eq!(report(&conn, query.clone()).unwrap(), oracle.report(&query));
        }
        prop_assert_eq!(report(&conn, everything.clone()).unwrap(), oracle.report(&everything));
    }
}

/// Some of it folded, some not, and over more than two blocks of the index.
#[test]
fn paging_visits_each_record_once() {
    const ROWS: usize = 40_000;
    let folder = tempfile::tempdir().unwrap();
    let conn = database::open(&folder.path().join("usage.db")).unwrap();
    let mut writer = Writer::new(&conn).unwrap();
    let mut oracle = Oracle::default();
    for first in (0..ROWS).step_by(1000) {
        let rows: Vec<Record> = (first..first + 1000)
            .map(|row| Record {
                started_at: START + row as u64 * (HOUR / 4000),
                // The last user is met in the first block and in the tail only.
                user: USERS[if row > 1000 && row < 39_500 { row % 3 } else { row % 4 }].into(),
                model: Some("gpt-4o".into()),
                status: 200,
                cost_nano_usd: Some(row as u64),
                ..Record::default()
            })
            .collect();
        writer.append(&rows).unwrap();
        oracle.append(&rows);
        if first < 38_000 {
            fold(&conn, 4096).unwrap();
        }
    }
    assert_eq!(Progress::read(&conn).unwrap().pending(), 2000);
    for user in USERS.map(Some).into_iter().chain([None]) {
        let range = (Some(START + HOUR / 3), Some(START + 9 * HOUR + HOUR / 2 + 1));
        for (from, to) in [(None, None), range] {
            let mut query = Query { user: user.map(Into::into), from, to, limit: 1000, ..Query::default() };
            let mut seen = BTreeSet::new();
            loop {
                let page = report(&conn, query.clone()).unwrap();
                assert_eq!(page, oracle.report(&query));
                assert!(page.data.iter().all(|entry| seen.insert(entry.id)), "a record is on two pages");
                match page.next_cursor {
                    Some(cursor) => query.cursor = Some(cursor),
                    None => break assert_eq!(seen.len() as u64, page.totals.requests),
                }
            }
        }
    }
}

/// Each way of three steps in which what a writer remembers of its commits and what the file has can part.
#[test]
fn exact_whoever_writes_and_folds_between() {
    let records = || {
        [1, 20, 300].map(|tokens| Record {
            started_at: START,
            usage: Usage { input_tokens: tokens, ..Usage::default() },
            ..Record::default()
        })
    };
    let steps = [
        Step::Append(records().into()),
        Step::AppendThatFails(records().into()),
        Step::AppendElsewhere(records().into()),
        Step::Fold(2),
        Step::FoldElsewhere(2),
        Step::FoldThatFails,
    ];
    for way in 0..steps.len().pow(3) {
        let way = [way / 36, way / 6 % 6, way % 6].map(|step| steps[step].clone());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("usage.db");
        let conn = database::open(&path).unwrap();
        let mut writer = Writer::new(&conn).unwrap();
        let mut oracle = Oracle::default();
        for step in &way {
            apply(&path, &mut writer, &mut oracle, step);
        }
        while !writer.fold(2).unwrap().is_folded() {}
        assert_eq!(report(&conn, Query::default()).unwrap(), oracle.report(&Query::default()), "{way:?}");
    }
}

/// Rows are folded, all at once from memory, before their ids are in the index of ids that may be repeated: a step that fails
/// where no row is pending has that index left to move.
#[test]
fn exact_where_the_index_is_behind_the_fold() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("usage.db");
    let conn = database::open(&path).unwrap();
    let mut writer = Writer::new(&conn).unwrap();
    let mut oracle = Oracle::default();
    let records = |count| vec![Record { started_at: START, ..Record::default() }; count];
    let steps =
        [Step::AppendElsewhere(records(3)), Step::Append(records(5)), Step::Fold(2), Step::Fold(2), Step::Fold(2)];
    for step in &steps {
        apply(&path, &mut writer, &mut oracle, step);
    }
    assert_eq!(Progress::read(&conn).unwrap(), Progress { last: 8, folded: 8, deduplicated: 6, keyed: 8 });
    apply(&path, &mut writer, &mut oracle, &Step::FoldThatFails);
    assert!(Progress::read(&conn).unwrap().is_folded());
    assert_eq!(report(&conn, Query::default()).unwrap(), oracle.report(&Query::default()));
}

/// What was committed is folded from memory: the rows of the file are not read again, and yet all tables agree with it.
#[test]
fn a_fold_does_not_read_back_what_its_writer_committed() {
    let folder = tempfile::tempdir().unwrap();
    let conn = database::open(&folder.path().join("usage.db")).unwrap();
    let mut writer = Writer::new(&conn).unwrap();
    let record = Record { response_id: Some("resp_1".into()), endpoint: Endpoint::Responses, ..Record::default() };
    let record = Record { usage_source: UsageSource::Reported, started_at: START, ..record };
    let mut oracle = Oracle::default();
    let records = vec![record; 5];
    writer.append(&records).unwrap();
    oracle.append(&records);
    // As nobody does; here it shows what is read.
    conn.execute_batch("CREATE TABLE kept AS SELECT * FROM records; DELETE FROM records").unwrap();
    let progress = writer.fold(2).unwrap();
    assert_eq!(
        progress,
        Progress { last: 5, folded: 5, deduplicated: 5, keyed: 5 },
        "all of it, and nothing is left over"
    );
    let count = |table: &str| -> i64 {
        conn.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
    };
    assert_eq!((count("records_by_user"), count("counted")), (1, 5), "of one user");
    conn.execute_batch("INSERT INTO records SELECT * FROM kept").unwrap();
    assert_eq!(report(&conn, Query::default()).unwrap(), oracle.report(&Query::default()));
    assert_eq!(writer.fold(2).unwrap(), progress, "nothing is folded twice");
}

/// More rows than share a rollup before they are grouped, and then more than are kept in memory.
#[test]
fn many_rows_between_two_folds() {
    let folder = tempfile::tempdir().unwrap();
    let conn = database::open(&folder.path().join("usage.db")).unwrap();
    let mut writer = Writer::new(&conn).unwrap();
    let mut oracle = Oracle::default();
    for (rows, folds) in [(5_000, 1), (34_000, 9)] {
        let records: Vec<Record> = (0..rows)
            .map(|row| Record {
                started_at: START + row % 3 * HOUR,
                user: format!("user {}", row * row % 1501).into(),
                usage: Usage { input_tokens: row, ..Usage::default() },
                ..Record::default()
            })
            .collect();
        for records in records.chunks(1_000) {
            writer.append(records).unwrap();
        }
        oracle.append(&records);
        let progress = (0..folds).map(|_| writer.fold(4096).unwrap()).last().unwrap();
        assert!(progress.is_folded(), "{progress:?} after {folds} folds");
        for user in [None, Some("user 0"), Some("user 4")] {
            let query = Query { user: user.map(Into::into), ..Query::default() };
            assert_eq!(report(&conn, query.clone()).unwrap(), oracle.report(&query));
        }
    }
}

/// What a fold has to write is known before it is forced: many users do, and a thousand do not.
#[test]
fn rollups_that_wait_for_a_fold_are_counted_once() {
    let folder = tempfile::tempdir().unwrap();
    let conn = database::open(&folder.path().join("usage.db")).unwrap();
    let mut writer = Writer::new(&conn).unwrap();
    for (users, rows) in [(1_000, 8_000), (FOLD_ROLLUPS_FORCED, FOLD_ROLLUPS_FORCED)] {
        let record = |row: usize| Record {
            started_at: START,
            user: format!("user {}", row % users).into(),
            ..Record::default()
        };
        let records: Vec<Record> = (0..rows).map(record).collect();
        writer.append(&records).unwrap();
        let most = writer.rollups_max();
        assert!((users..=2 * users).contains(&most), "{most} of {users}");
        assert_eq!(most >= FOLD_ROLLUPS_FORCED, users >= FOLD_ROLLUPS_FORCED);
        writer.fold(1).unwrap();
        assert_eq!(writer.rollups_max(), 0);
    }
}

/// A broken upstream's numbers neither stop the fold nor wrap a sum.
#[test]
fn absurd_numbers_are_cut() {
    let folder = tempfile::tempdir().unwrap();
    let conn = database::open(&folder.path().join("usage.db")).unwrap();
    let mut writer = Writer::new(&conn).unwrap();
    let usage = Usage { input_tokens: u64::MAX, total_tokens: u64::MAX, ..Usage::default() };
    let absurd = Record { started_at: u64::MAX, usage, cost_nano_usd: Some(u64::MAX), ..Record::default() };
    writer.append(&vec![absurd; 4096]).unwrap();
    for _ in 0..2 {
        let found = report(&conn, Query { limit: 1, ..Query::default() }).unwrap();
        let sum = 4096 * COUNT_MAX;
        let expected =
            Totals { requests: 4096, input_tokens: sum, total_tokens: sum, cost_nano_usd: sum, ..Totals::default() };
        assert_eq!(found.totals, expected);
        assert_eq!(found.data[0].record.usage.total_tokens, COUNT_MAX);
        fold(&conn, 4096).unwrap();
    }
}

/// Names are remembered for a batch that then fails: its numbers must not be used by the next.
#[test]
fn a_failed_batch_leaves_no_name_behind() {
    let folder = tempfile::tempdir().unwrap();
    let conn = database::open(&folder.path().join("usage.db")).unwrap();
    let mut writer = Writer::new(&conn).unwrap();
    let of = |user: &str| Record { user: user.into(), model: Some(user.into()), ..Record::default() };
    conn.execute_batch(
        "CREATE TEMP TRIGGER full BEFORE INSERT ON records WHEN new.status = 507
         BEGIN SELECT RAISE(ABORT, 'disk full'); END",
    )
    .unwrap();
    writer.append(&[of("a")]).unwrap();
    assert!(writer.append(&[of("b"), Record { status: 507, ..of("c") }]).is_err());
    writer.append(&[of("c"), of("b")]).unwrap();
    let found = report(&conn, Query::default()).unwrap();
    let names: Vec<_> = found.data.iter().map(|entry| (&*entry.record.user, entry.record.model_name())).collect();
    assert_eq!(names, [("b", "b"), ("c", "c"), ("a", "a")]);
}
