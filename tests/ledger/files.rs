//! Which files are taken, and that a refused one is left as it was.

use openai_api_proxy::ledger::append::Writer;
use openai_api_proxy::ledger::database;
use openai_api_proxy::ledger::fold::fold;
use openai_api_proxy::ledger::marks::Progress;
use openai_api_proxy::ledger::migrations;
use openai_api_proxy::usage::record::Record;
use rusqlite::Connection;
use rusqlite::config::DbConfig;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Every file of a folder with its bytes. The index of the log (`-shm`) is rebuilt by whoever reads, so only that it
/// was there already counts.
fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), if path.to_string_lossy().ends_with("-shm") { vec![] } else { read(&path) }))
        .collect()
}

fn read(path: &Path) -> Vec<u8> {
    if path.is_file() { fs::read(path).unwrap() } else { vec![] }
}

fn assert_refused(path: &Path, why: &str) {
    let folder = path.parent().unwrap();
    let before = contents(folder);
    let error = database::open(path).unwrap_err();
    assert!(error.contains(why), "{error}");
    assert!(error.contains(&*path.to_string_lossy()), "{error}");
    assert!(!error.contains('\n'), "{error}");
    assert_eq!(contents(folder), before);
}

/// A ledger with rows and folds, closed cleanly: one file.
fn ledger(path: &Path) {
    let conn = database::open(path).unwrap();
    let mut writer = Writer::new(&conn).unwrap();
    writer.append(&vec![Record { response_id: Some("r".repeat(100).into()), ..Record::default() }; 500]).unwrap();
    fold(&conn, 100).unwrap();
}

/// SQLite's own word for what a commit waits for: 1 is the kernel, 2 the disk.
#[test]
fn each_commit_waits_for_the_disk_where_that_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let conn = database::open(&folder.path().join("usage.db")).unwrap();
    let synchronous = || conn.pragma_query_value(None, "synchronous", |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(synchronous(), 1);
    database::sync_each_commit(&conn).unwrap();
    assert_eq!(synchronous(), 2);
}

#[test]
fn not_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("usage.db");
    for bytes in [&b"x"[..], b"user,tokens\n", b"SQLite format 3\0", &[0; 4096]] {
        fs::write(&path, bytes).unwrap();
        assert_refused(&path, "is not a SQLite database");
    }
}

#[test]
fn not_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("usage.db");
    fs::create_dir(&path).unwrap();
    assert_refused(&path, "is not a file");
}

#[test]
fn no_folder() {
    let folder = tempfile::tempdir().unwrap();
    let error = database::open(&folder.path().join("missing/usage.db")).unwrap_err();
    assert!(error.contains("missing/usage.db cannot be opened: its folder "), "{error}");
    assert!(error.contains("is not there; make it, or set DATABASE_PATH"), "{error}");
    assert_eq!(contents(folder.path()), BTreeMap::new());
}

#[test]
fn of_another_application() {
    for journal in ["DELETE", "WAL"] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("usage.db");
        let other = Connection::open(&path).unwrap();
        other.pragma_update_and_check(None, "journal_mode", journal, |_| Ok(())).unwrap();
        other.execute_batch("CREATE TABLE records (id INTEGER PRIMARY KEY); PRAGMA user_version = 1").unwrap();
        other.execute_batch("PRAGMA wal_checkpoint(PASSIVE)").unwrap();
        // Still open in that application.
        assert_refused(&path, "is a database of another application");
        drop(other);
        assert_refused(&path, "is a database of another application");
    }
}

#[test]
fn newer_than_this_build() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("usage.db");
    ledger(&path);
    let newer = Connection::open(&path).unwrap();
    newer.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
    newer.pragma_update(None, "user_version", migrations::VERSION + 1).unwrap();
    drop(newer);
    // The file still says the old version; the log beside it the new one.
    assert!(folder.path().join("usage.db-wal").exists());
    assert_refused(&path, "newer than this build");
    drop(Connection::open(&path).unwrap().execute_batch("PRAGMA wal_checkpoint(TRUNCATE)"));
    assert!(!folder.path().join("usage.db-wal").exists());
    assert_refused(&path, "newer than this build");
}

#[test]
fn corrupt() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("usage.db");
    ledger(&path);
    let whole = fs::read(&path).unwrap();
    assert!(whole.len() > 10 * 4096);
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    assert_refused(&path, "is corrupt");
    // As where a backup was put in the place of the file alone.
    let log = folder.path().join("usage.db-wal");
    fs::write(&log, b"").unwrap();
    assert!(database::open(&path).unwrap_err().contains("usage.db-wal is of the file before it: remove that"));
    fs::remove_file(&log).unwrap();
    for page in 0..whole.len() / 4096 {
        let mut damaged = whole.clone();
        // Its B-tree header; on the first page, after the file's own.
        let at = page * 4096 + if page == 0 { 100 } else { 0 };
        damaged[at..at + 12].fill(0xff);
        fs::write(&path, damaged).unwrap();
        assert_refused(&path, "is corrupt");
    }
    fs::write(&path, whole).unwrap();
    assert_eq!(
        Progress::read(&database::open(&path).unwrap()).unwrap(),
        Progress { last: 500, folded: 100, deduplicated: 100, keyed: 100 }
    );
}

/// Names that mean something else to SQLite, or to a URI, are files all the same.
#[test]
fn odd_names_are_files() {
    let folder = tempfile::tempdir().unwrap();
    for name in [":memory:", "file:x?mode=memory", "a b%20#?.db", "使用量.db"] {
        let path = folder.path().join(name);
        ledger(&path);
        assert_eq!(Progress::read(&database::open(&path).unwrap()).unwrap().last, 500);
        assert!(path.is_file());
    }
}

/// An empty file, as `mktemp` makes it, is a new ledger.
#[test]
fn empty_is_new() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("usage.db");
    fs::write(&path, b"").unwrap();
    ledger(&path);
    assert_eq!(Progress::read(&database::open(&path).unwrap()).unwrap().last, 500);
}
