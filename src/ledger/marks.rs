//! The watermarks: how far each thing that follows behind the rows has come, as the id of the last record it has taken.
//!
//! In: a connection. Out: marks, and the last id. Never: a transaction of its own.

use rusqlite::{Connection, OptionalExtension as _, params};

/// Of the rollups, and the indexes by user and by hour: every record up to it is folded, and none after it.
pub const FOLD: &str = "fold";
/// Of the index of ids that may be repeated; it has the name of its table.
pub const DEDUPLICATION: &str = "counted";
/// Of the sums by key; it has the name of its table. Never past that of the rollups.
pub const KEY_DAYS: &str = "key_days";
/// Of the export: all rows up to it are at the server, or were refused by it.
pub const EXPORT: &str = "export";

/// Of what a fleet has: all rows up to it are there. It may go back.
pub const FLEET: &str = "fleet";

/// The last id that was given to a record. Where all of them are pruned, the mark remembers it: an id that came back
/// would never be folded, and be taken for another record.
pub const LAST_ID: &str =
    "SELECT max(coalesce((SELECT max(id) FROM records), 0), (SELECT record_id FROM marks WHERE name = 'fold'))";

/// How far the ledger and what follows behind it are, as record ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The last record committed.
    pub last: i64,
    /// The last record folded.
    pub folded: i64,
    /// The last record whose id is in the index of ids that may be repeated.
    pub deduplicated: i64,
    /// The last record that is in the sums by key.
    pub keyed: i64,
}

impl Progress {
    /// Reads all of it.
    pub fn read(conn: &Connection) -> rusqlite::Result<Self> {
        let last = conn.prepare_cached(LAST_ID)?.query_row([], |row| row.get(0))?;
        let (folded, deduplicated) = (read(conn, FOLD)?, read(conn, DEDUPLICATION)?);
        Ok(Self { last, folded, deduplicated, keyed: read(conn, KEY_DAYS)? })
    }

    /// Rows that the next folds will take.
    pub fn pending(&self) -> i64 {
        self.last - self.folded
    }

    /// Rows that are in the rollups, and not in the sums by key: of a ledger from before there were these.
    pub fn unkeyed(&self) -> i64 {
        (self.folded - self.keyed).max(0)
    }

    /// True where all that follows behind the rows has caught up with them.
    pub fn is_folded(&self) -> bool {
        self.last == self.folded.min(self.deduplicated).min(self.keyed)
    }
}

/// A mark; 0 where there is none of this name yet.
pub fn read(conn: &Connection, name: &str) -> rusqlite::Result<i64> {
    let mut select = conn.prepare_cached("SELECT record_id FROM marks WHERE name = ?")?;
    Ok(select.query_row([name], |row| row.get(0)).optional()?.unwrap_or(0))
}

/// Moves a mark that is there; never back.
pub fn advance(conn: &Connection, name: &str, to: i64) -> rusqlite::Result<()> {
    let mut update = conn.prepare_cached("UPDATE marks SET record_id = max(record_id, ?) WHERE name = ?")?;
    update.execute(params![to, name]).map(drop)
}

/// Gives a ledger that was never exported its mark: at its first row (`backfill`), or behind its last.
pub fn begin_export(conn: &Connection, backfill: bool) -> rusqlite::Result<()> {
    let sql = format!("INSERT OR IGNORE INTO marks SELECT ?1, CASE WHEN ?2 THEN 0 ELSE ({LAST_ID}) END");
    conn.execute(&sql, params![EXPORT, backfill]).map(drop)
}
