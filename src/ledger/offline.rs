//! Reads the ledger's file for a command: whether a server runs on it, has ended, or was killed.
//!
//! Never: a byte written to the file, or a file made beside it. A ledger that nobody has open has no write-ahead log,
//! and to read it as others do SQLite would make one; so it is read as a file that does not change, and once more,
//! as others do, where it did change meanwhile.

use super::database;
use super::migrations::VERSION;
use rusqlite::Connection;
use std::path::Path;
use std::time::SystemTime;

/// What `ask` finds in the ledger at `path`.
///
/// # Errors
/// One sentence: there is no such file, it is no ledger or one of another version, or it cannot be read.
pub fn read<T>(path: &Path, ask: impl Fn(&Connection) -> rusqlite::Result<T>) -> Result<T, String> {
    let path = database::existing(path)?;
    let cannot = |why: String| format!("the ledger {} {why}", path.display());
    database::inspect_header(&path).map_err(cannot)?;
    if let Some(before) = stamp_at_rest(&path) {
        let answered = read_from(database::open_at_rest(&path), &ask);
        if stamp_at_rest(&path) == Some(before) {
            return answered.map_err(cannot);
        }
    }
    read_from(database::open_reader(&path), &ask).map_err(cannot)
}

fn read_from<T>(
    conn: rusqlite::Result<Connection>,
    ask: impl Fn(&Connection) -> rusqlite::Result<T>,
) -> Result<T, String> {
    let unreadable = |error: rusqlite::Error| format!("cannot be read: {error}");
    let conn = conn.map_err(unreadable)?;
    // Not the header's: after a crash the log is newer.
    let version: u32 = conn.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(unreadable)?;
    if version < VERSION {
        return Err(format!("has schema version {version}; a start of this build's server brings it to {VERSION}"));
    }
    ask(&conn).map_err(unreadable)
}

/// What would be different had anybody written: nothing where there is a log, else the file's length and time.
fn stamp_at_rest(path: &Path) -> Option<(u64, Option<SystemTime>)> {
    let file = path.metadata().ok()?;
    (!database::beside(path, "-wal").exists()).then(|| (file.len(), file.modified().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::answer::report;
    use crate::ledger::append::Writer;
    use crate::reporting::Query;
    use crate::usage::record::Record;
    use std::collections::BTreeMap;
    use std::ffi::OsString;

    fn files(folder: &Path) -> BTreeMap<OsString, Vec<u8>> {
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
        entries.map(|entry| (entry.file_name(), std::fs::read(entry.path()).unwrap())).collect()
    }

    fn requests(path: &Path) -> Result<u64, String> {
        read(path, |conn| report(conn, Query::default())).map(|report| report.totals.requests)
    }

    #[test]
    fn a_ledger_at_rest_is_left_as_it_is_and_an_open_one_read_with_its_log() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("usage ?#%.db");
        let conn = database::open(&path).unwrap();
        Writer::new(&conn).unwrap().append(&vec![Record::default(); 3]).unwrap();
        assert_eq!(requests(&path), Ok(3), "what only the log has, too");
        drop(conn);
        let before = files(folder.path());
        assert_eq!(before.len(), 1, "nobody has it open");
        assert_eq!(requests(&path), Ok(3));
        assert!(files(folder.path()) == before);
    }

    #[test]
    fn what_is_no_ledger_of_this_build_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        assert!(requests(&at("none.db")).unwrap_err().contains("there is no ledger"));
        std::fs::write(at("text.db"), "no database").unwrap();
        assert!(requests(&at("text.db")).unwrap_err().ends_with("is not a SQLite database"));
        let foreign = Connection::open(at("foreign.db")).unwrap();
        foreign.execute_batch("CREATE TABLE t (x)").unwrap();
        assert!(requests(&at("foreign.db")).unwrap_err().ends_with("is a database of another application"));
        drop(database::open(&at("old.db")).unwrap());
        Connection::open(at("old.db")).unwrap().pragma_update(None, "user_version", VERSION - 1).unwrap();
        assert!(requests(&at("old.db")).unwrap_err().contains("a start of this build's server brings it"));
        let mut names: Vec<_> = files(folder.path()).into_keys().collect();
        names.sort();
        assert_eq!(names, ["foreign.db", "old.db", "text.db"], "nothing is made");
    }
}
