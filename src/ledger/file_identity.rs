//! What a ledger is known by in a fleet: an identity in its file, how much of it the fleet has, and when its keys and
//! limits were the fleet's.
//!
//! All are made when a proxy first joins one, so that the file of one that never does stays as it is.
//!
//! In: a connection. Out: the identity, the mark. Never: another identity for the same file.

use super::marks;
use super::prune::first_id;
use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior, params};

/// Gives the ledger an identity and a mark, where it has none. From here on rows stay until they are in the fleet.
///
/// # Errors
/// SQLite's; nothing has changed then.
pub fn begin_fleet(conn: &Connection) -> rusqlite::Result<()> {
    let transaction = Transaction::new_unchecked(conn, TransactionBehavior::Immediate)?;
    transaction.execute_batch(
        "CREATE TABLE IF NOT EXISTS identity (uuid TEXT NOT NULL, policy_seen_at INTEGER);
         INSERT INTO identity (uuid) SELECT lower(hex(randomblob(16))) WHERE NOT EXISTS (SELECT 1 FROM identity);",
    )?;
    let sql = "INSERT OR IGNORE INTO marks VALUES (?, ?)";
    transaction.execute(sql, params![marks::FLEET, first_id(&transaction)? - 1])?;
    transaction.commit()
}

/// The identity: 32 hexadecimal digits; none where it never joined a fleet.
///
/// # Errors
/// SQLite's.
pub fn read(conn: &Connection) -> rusqlite::Result<Option<String>> {
    let exists: bool = conn.query_row(
        "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'identity')",
        [],
        |row| row.get(0),
    )?;
    if !exists {
        return Ok(None);
    }
    conn.query_row("SELECT uuid FROM identity", [], |row| row.get(0)).optional()
}

/// When the keys, limits and teams in the ledger were last known to be the fleet's, nanoseconds since the Unix epoch;
/// none where they never were.
///
/// # Errors
/// SQLite's; it never joined a fleet.
pub fn policy_seen_at(conn: &Connection) -> rusqlite::Result<Option<u64>> {
    let seen: Option<i64> = conn.query_row("SELECT policy_seen_at FROM identity", [], |row| row.get(0))?;
    Ok(seen.map(i64::cast_unsigned))
}

/// They are the fleet's now.
///
/// # Errors
/// SQLite's.
pub fn keep_policy_seen(conn: &Connection, seen: u64) -> rusqlite::Result<()> {
    let mut update = conn.prepare_cached("UPDATE identity SET policy_seen_at = ?")?;
    update.execute([seen.cast_signed()]).map(drop)
}

/// Keeps how much the fleet has: also less than before, where a server was set back; but not less than what is pruned.
///
/// # Errors
/// SQLite's.
pub fn keep_mark(conn: &Connection, shipped: i64) -> rusqlite::Result<()> {
    let mark = shipped.max(first_id(conn)? - 1);
    let mut update = conn.prepare_cached("UPDATE marks SET record_id = ? WHERE name = ? AND record_id <> ?1")?;
    update.execute(params![mark, marks::FLEET]).map(drop)
}
