//! The ledger and query threads, as the loop sees them.

use crate::oracle::{START, query};
use openai_api_proxy::ledger::answer::report;
use openai_api_proxy::ledger::database;
use openai_api_proxy::local::Answer;
use openai_api_proxy::local::usage_report::{UsageQuery, to_json};
use openai_api_proxy::reporting::Query;
use openai_api_proxy::usage::record::Record;
use openai_api_proxy::worker::ledger::{Ledger, LedgerHandle, Options};
use openai_api_proxy::worker::query::{Job, QueryHandle};
use openai_api_proxy::worker::settings_in_force::SettingsInForce;
use openai_api_proxy::worker::{EventSender, WorkerEvent};
use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::TestRunner;
use rusqlite::Connection;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// The loop's side: sleeps until it is woken, and hands out one message at a time.
struct Loop {
    events: EventSender,
    woken: Receiver<()>,
    messages: Vec<WorkerEvent>,
}

impl Loop {
    fn new() -> Self {
        let (wake, woken) = channel();
        let events = EventSender::new(move || wake.send(()).unwrap());
        Self { events, woken, messages: Vec::new() }
    }

    /// The next message. A minute of silence is a hang.
    fn next(&mut self) -> WorkerEvent {
        while self.messages.is_empty() {
            self.woken.recv_timeout(Duration::from_secs(60)).expect("a message");
            self.events.take(&mut self.messages);
            self.messages.retain(|message| !matches!(message, WorkerEvent::Policy(_))); // told at start
        }
        self.messages.remove(0)
    }

    fn wait_for_commit(&mut self, seq: u64) {
        let mut acknowledged = 0;
        while acknowledged < seq {
            match self.next() {
                WorkerEvent::Committed { upto, .. } => {
                    assert!(upto > acknowledged, "acknowledged in order, once a commit");
                    acknowledged = upto;
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(acknowledged, seq);
    }
}

fn records(seqs: std::ops::RangeInclusive<u64>) -> Vec<Record> {
    let one = |seq| Record { seq, started_at: START + seq, user: "u".into(), status: 200, ..Record::default() };
    seqs.map(one).collect()
}

fn start(path: &Path) -> (LedgerHandle, Loop) {
    let own = Loop::new();
    (Ledger::start(path, Options::default(), own.events.clone()).unwrap(), own)
}

/// What `/usage` would show, oldest first.
fn committed(path: &Path) -> Vec<u64> {
    let reader = database::open_reader(path).unwrap();
    let found = report(&reader, Query { limit: 1000, ..Query::default() }).unwrap();
    assert_eq!(found.totals.requests, found.data.len() as u64);
    found.data.iter().rev().map(|entry| entry.record.started_at - START).collect()
}

#[test]
fn what_is_acknowledged_can_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("usage.db");
    let (ledger, mut own) = start(&path);
    for seq in 1..=20 {
        ledger.submit(records(seq..=seq));
        own.wait_for_commit(seq);
        assert_eq!(committed(&path), (1..=seq).collect::<Vec<_>>());
    }
    ledger.shutdown().unwrap();
}

#[test]
fn what_was_submitted_is_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("usage.db");
    let (ledger, _own) = start(&path);
    for first in (1..=400).step_by(4) {
        ledger.submit(records(first..=first + 3));
    }
    ledger.submit(vec![]);
    ledger.shutdown().unwrap();
    assert!(!folder.path().join("usage.db-wal").exists(), "a clean shutdown leaves one file");
    let (ledger, mut own) = start(&path);
    ledger.submit(records(401..=401));
    own.wait_for_commit(401);
    assert_eq!(committed(&path), (1..=401).collect::<Vec<_>>());
    ledger.shutdown().unwrap();
}

/// More than one transaction's worth, and enough for forced folds and checkpoints.
#[test]
fn a_flood_is_acknowledged_to_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("usage.db");
    let (ledger, mut own) = start(&path);
    ledger.submit(records(1..=10_000));
    for first in (10_001..=20_000).step_by(5) {
        ledger.submit(records(first..=first + 4));
    }
    own.wait_for_commit(20_000);
    let reader = database::open_reader(&path).unwrap();
    assert_eq!(report(&reader, Query::default()).unwrap().totals.requests, 20_000);
    ledger.shutdown().unwrap();
}

#[test]
fn trouble_is_told_once_and_passes_without_loss() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("usage.db");
    let (ledger, mut own) = start(&path);
    for round in 0..2u64 {
        let other = Connection::open(&path).unwrap();
        other.execute_batch("BEGIN EXCLUSIVE").unwrap();
        let first = round * 20;
        ledger.submit(records(first + 1..=first + 10));
        match own.next() {
            WorkerEvent::Ledger { trouble: Some(reason), takes_records: true } => {
                assert!(reason.contains("locked"), "{reason}")
            }
            other => panic!("{other:?}"),
        }
        ledger.submit(records(first + 11..=first + 20));
        other.execute_batch("ROLLBACK").unwrap();
        let mut recovered = false;
        let mut acknowledged = 0;
        while !recovered || acknowledged < first + 20 {
            match own.next() {
                WorkerEvent::Committed { upto, .. } => acknowledged = upto,
                WorkerEvent::Ledger { trouble: None, .. } if !recovered => recovered = true,
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(committed(&path), (1..=40).collect::<Vec<_>>());
    ledger.shutdown().unwrap();
}

#[test]
fn a_shutdown_in_trouble_says_what_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("usage.db");
    let (ledger, mut own) = start(&path);
    ledger.submit(records(1..=1));
    own.wait_for_commit(1);
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    ledger.submit(records(2..=4));
    ledger.submit(records(5..=5));
    let error = ledger.shutdown().unwrap_err();
    assert!(error.starts_with("4 records could not be committed"), "{error}");
    other.execute_batch("ROLLBACK").unwrap();
    assert_eq!(committed(&path), [1]);
}

#[test]
fn a_refused_file_is_an_error_at_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("usage.db");
    std::fs::write(&path, b"not a database").unwrap();
    let error = Ledger::start(&path, Options::default(), EventSender::new(|| {})).err().unwrap();
    assert!(error.contains("is not a SQLite database"), "{error}");
}

fn answer(own: &mut Loop) -> (u64, Answer) {
    match own.next() {
        WorkerEvent::Answered { ticket, answer } => (ticket, answer),
        other => panic!("{other:?}"),
    }
}

#[test]
fn questions_are_answered() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("usage.db");
    let mut own = Loop::new();
    let queries = QueryHandle::start(&path, None, SettingsInForce::default(), own.events.clone()).unwrap();
    let ask = |ticket, query| {
        let query = UsageQuery { query, ..UsageQuery::default() };
        assert!(queries.ask(Job::Usage { ticket, query }));
    };

    ask(1, Query::default());
    let (ticket, unavailable) = answer(&mut own);
    assert_eq!((ticket, unavailable.status), (1, 503));
    let error: serde_json::Value = serde_json::from_slice(&unavailable.body).unwrap();
    assert_eq!(error["error"]["code"], "ledger_unavailable");
    assert_eq!(error["error"]["type"], "proxy_error");
    assert!(!path.exists(), "a reader makes no file");

    let (ledger, mut ledger_own) = start(&path);
    ledger.submit(records(1..=10));
    ledger_own.wait_for_commit(10);
    let mut runner = TestRunner::deterministic();
    for ticket in 2..50 {
        let query = query().new_tree(&mut runner).unwrap().current();
        ask(ticket, query.clone());
        let (answered, found) = answer(&mut own);
        let status = if query.is_of_nodes() { 400 } else { 200 }; // there is no fleet
        assert_eq!((answered, found.status, found.content_type), (ticket, status, "application/json"));
        if status == 400 {
            continue;
        }
        let reader = database::open_reader(&path).unwrap();
        assert_eq!(found.body, to_json(&report(&reader, query).unwrap()));
    }
    queries.shutdown();
    ledger.shutdown().unwrap();
    assert!(!folder.path().join("usage.db-wal").exists(), "no reader is left to hold the log");
}

#[test]
fn a_full_mailbox_takes_no_job() {
    let folder = tempfile::tempdir().unwrap();
    let mut own = Loop::new();
    let queries =
        QueryHandle::start(&folder.path().join("usage.db"), None, SettingsInForce::default(), own.events.clone())
            .unwrap();
    let (started, has_started) = channel();
    let (release, released) = channel::<()>();
    let empty = || Answer::new(200, "text/plain", vec![]);
    let render = Box::new(move || {
        started.send(()).unwrap();
        released.recv().unwrap();
        empty()
    });
    assert!(queries.ask(Job::Render { ticket: 0, render }));
    has_started.recv().unwrap();
    for ticket in 1..=8 {
        assert!(queries.ask(Job::Render { ticket, render: Box::new(empty) }));
    }
    assert!(!queries.ask(Job::Render { ticket: 9, render: Box::new(empty) }), "the mailbox is full");
    release.send(()).unwrap();
    for ticket in 0..=8 {
        assert_eq!(answer(&mut own), (ticket, empty()));
    }
    queries.shutdown();
}

/// Each question waits for a second for a lock that somebody else holds; a scrape does not wait for any of them.
#[test]
fn a_scrape_waits_for_no_question() {
    const QUESTIONS: u64 = 30;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("usage.db");
    let other = Connection::open(&path).unwrap();
    other.execute_batch("CREATE TABLE t (x); BEGIN EXCLUSIVE").unwrap();
    let mut own = Loop::new();
    let queries = QueryHandle::start(&path, None, SettingsInForce::default(), own.events.clone()).unwrap();
    for ticket in 1..=QUESTIONS {
        assert!(queries.ask(Job::Usage { ticket, query: UsageQuery::default() }));
    }
    let render = Box::new(|| Answer::new(200, "text/plain", "scraped"));
    assert!(queries.ask(Job::Render { ticket: 0, render }));
    let mut before = 0;
    while answer(&mut own).0 != 0 {
        before += 1;
    }
    assert!(before < QUESTIONS, "it came after all of them");
    other.execute_batch("ROLLBACK").unwrap();
    queries.shutdown();
}
