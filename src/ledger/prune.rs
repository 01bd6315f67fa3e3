//! Retention: rows that are old enough go, in steps that hold the writer for a few milliseconds each. Rollups stay, so
//! sums over whole hours do not change.
//!
//! In: a connection and the instants before which things are old. Out: whether more is left to do. Never: a row that
//! something which follows behind the rows has yet to take; a row behind one that stays.
//!
//! What goes, and when:
//!
//! - `records`, from the lowest id on, up to the first that is young or not taken. So the ids that are there have no
//!   gap, and the lowest of them ([`first_id`]) says which are gone. Rows are appended as requests end, so that
//!   `started_at` grows only roughly with the id: an old row behind a younger one goes with that one.
//! - `records_by_user`, by block, once all rows of the block are gone. Until then its entries point at nothing, which
//!   costs a reader nothing: it starts at the first row.
//! - `counted` (see `deduplication`), by block, once all rows of the block are gone and are older than any upstream
//!   keeps what could be retrieved again.
//! - `hours` and `rollups` stay. An hour that has lost rows is known by its `min_id`, which is before the first row.
//!
//! The file does not shrink: its free pages are used again.

use super::marks::Progress;
use super::partition::{NS_PER_DAY, NS_PER_HOUR};
use super::{deduplication, user_index};
use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior};

/// An id that may be repeated is remembered for this long at least: OpenAI keeps a response for 30 days.
const REMEMBERED_DAYS_MIN: u32 = 60;

/// What is old: instants in nanoseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cutoff {
    /// A row that started before this is old.
    pub rows: i64,
    /// That something was recorded under an id is forgotten with a row that started before this; not after `rows`.
    pub remembered: i64,
    /// A row that is not exported is not old, whenever it started.
    pub exported: bool,
    /// Nor is one that is not in the fleet yet.
    pub shipped: bool,
}

impl Cutoff {
    /// Of a ledger that keeps rows for `days` (at least 1), at `now_unix_ns`, and is in no fleet.
    pub fn new(days: u32, exported: bool, now_unix_ns: i64) -> Self {
        let before = |days: u32| now_unix_ns.saturating_sub(i64::from(days).saturating_mul(NS_PER_DAY));
        let remembered = before(days.max(REMEMBERED_DAYS_MIN));
        Self { rows: before(days), remembered, exported, shipped: false }
    }
}

/// The least id whose row has not been pruned, be it there or yet to come.
pub fn first_id(conn: &Connection) -> rusqlite::Result<i64> {
    let least = conn.prepare_cached("SELECT min(id) FROM records")?.query_row([], |row| row.get(0))?;
    match least {
        Some(id) => Ok(id),
        None => Progress::read(conn).map(|progress| progress.last + 1),
    }
}

/// One step: removes up to `rows_max` rows and as many entries of each index. True if it reached that number anywhere,
/// so that another step may find more.
///
/// # Errors
/// SQLite's; nothing has changed then.
pub fn prune(conn: &Connection, cutoff: Cutoff, rows_max: i64) -> rusqlite::Result<bool> {
    let transaction = Transaction::new_unchecked(conn, TransactionBehavior::Immediate)?;
    let first = first_id(&transaction)?;
    let until = first_kept(&transaction, first, cutoff, rows_max)?;
    transaction.prepare_cached("DELETE FROM records WHERE id < ?")?.execute([until])?;
    let by_user = forget(&transaction, "records_by_user", "user_id", until >> user_index::BLOCK_SHIFT, rows_max)?;
    let forgotten = forgettable(&transaction, until, cutoff.remembered)?;
    let by_hash = forget(&transaction, "counted", "hash", forgotten >> deduplication::BLOCK_SHIFT, rows_max)?;
    transaction.commit()?;
    Ok([until - first, by_user, by_hash].contains(&rows_max))
}

/// The first id after `first` whose row stays in this step.
fn first_kept(conn: &Connection, first: i64, cutoff: Cutoff, rows_max: i64) -> rusqlite::Result<i64> {
    // What has a mark must have taken a row before it goes; the export and the fleet only where there is one.
    let taken: i64 = conn
        .prepare_cached("SELECT min(record_id) FROM marks WHERE (name <> 'export' OR ?) AND (name <> 'fleet' OR ?)")?
        .query_row([cutoff.exported, cutoff.shipped], |row| row.get(0))?;
    let end = (taken + 1).min(first + rows_max).max(first);
    let young = conn
        .prepare_cached("SELECT id FROM records WHERE id >= ? AND id < ? AND started_at >= ? ORDER BY id LIMIT 1")?
        .query_row([first, end, cutoff.rows], |row| row.get(0))
        .optional()?;
    Ok(young.unwrap_or(end))
}

/// The first id, up to `until`, under which something must still be known to have been recorded. Where the row is gone,
/// only its hour tells how old it was.
fn forgettable(conn: &Connection, until: i64, before: i64) -> rusqlite::Result<i64> {
    let least: Option<i64> = conn
        .prepare_cached("SELECT min(min_id) FROM hours WHERE hour >= ?")?
        .query_row([before.div_euclid(NS_PER_HOUR)], |row| row.get(0))?;
    Ok(least.map_or(until, |least| least.min(until)))
}

/// Removes up to `rows_max` entries of an index from the blocks before this one; how many there were.
fn forget(conn: &Connection, table: &str, key: &str, blocks_before: i64, rows_max: i64) -> rusqlite::Result<i64> {
    let entry = format!("block, {key}, record_id");
    let removed = conn
        .prepare_cached(&format!(
            "DELETE FROM {table} WHERE ({entry}) IN
                (SELECT {entry} FROM {table} WHERE block < ? ORDER BY {entry} LIMIT ?)"
        ))?
        .execute([blocks_before, rows_max])?;
    Ok(removed as i64)
}
