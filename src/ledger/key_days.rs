//! Sums by client key: `key_days`, by day (UTC), user, key and model, of requests that came with a key of ours.
//!
//! The fold adds to them what it adds to the rollups, in the same transaction, so that they are exactly the sums of the
//! rows up to their mark. In a ledger of an earlier version the mark is behind that of the rollups: each fold then takes
//! some of the rows between the two, which are not pruned before, until the marks are one.
//!
//! They are of days alone, and only of what came with a key: with hours, and months beside them, they would be as large
//! as all other rollups where each user has one key. What they cost: parts of days are summed row by row.
//!
//! In: a connection, and what the fold has at hand. Out: rows of `key_days`, and its mark. Never: a transaction of its
//! own.

use super::marks;
use super::partition::NS_PER_DAY;
use super::rollup::{COARSE, Rollups, grouped, sums, values_of_row};
use rusqlite::Connection;

/// Adds sums, each under a day, a user, a key and a model, of the rows from the mark to `to`; moves the mark there.
pub fn add(conn: &Connection, rollups: &Rollups<COARSE>, to: i64) -> rusqlite::Result<i64> {
    grouped(rollups).write(conn, "key_days")?;
    marks::advance(conn, marks::KEY_DAYS, to)?;
    Ok(to)
}

/// Takes up to `rows_max` rows past the mark, none after `folded`; how far the mark now is.
pub fn follow(conn: &Connection, folded: i64, rows_max: i64) -> rusqlite::Result<i64> {
    let mark = marks::read(conn, marks::KEY_DAYS)?;
    let to = folded.min(mark.saturating_add(rows_max));
    if to <= mark {
        return Ok(mark);
    }
    let mut select = conn.prepare_cached(&format!(
        "SELECT started_at / {NS_PER_DAY}, user_id, key_id, coalesce(model_id, model_requested_id, 0), {}
            FROM records WHERE id > ? AND id <= ? AND key_id IS NOT NULL",
        values_of_row::<COARSE>()
    ))?;
    let rows = select
        .query_map([mark, to], |row| Ok(([row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?], sums(row, 4)?)))?;
    add(conn, &rows.collect::<rusqlite::Result<_>>()?, to)
}
