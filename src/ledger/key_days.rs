//! Sums by client key: `key_days`, by day (UTC), user, key and model, of requests that came with a key of ours.
//!
//! The fold adds to them what it adds to the rollups, in the same transaction, so that they are exactly the sums of
//! the rows up to their mark. In a ledger of an earlier version the mark is behind that of the rollups: each fold then
//! takes some of the rows between the two, which are not pruned before, until the marks are one.
//!
//! They are only of what came with a key, and of no hours: else they would be as large as all other rollups where each
//! user has one key. What that costs: parts of days are summed row by row. Months stand beside the days, under numbers
//! below 0: a thirtieth more rows, and a question about years reads a thirtieth of them. With 1,000 keys and two models
//! over three years, 2.2 million rows of 42 bytes, it would read them all.
//!
//! In: a connection, and what the fold has at hand. Out: rows of `key_days`, and its mark. Never: a transaction of its
//! own.

use super::marks;
use super::partition::NS_PER_DAY;
use super::rollup::{COARSE, Key, Rollups, Sums, grouped, sums, values_of_row};
use crate::base::civil::month_of_day;
use rusqlite::Connection;

/// What stands for a month, counted from January 1970, in the place of a day.
pub const fn of_month(month: i64) -> i64 {
    -1 - month
}

/// Adds sums, each under a day, a user, a key and a model, of the rows from the mark to `to`; moves the mark there.
pub fn add(conn: &Connection, rollups: &Rollups<COARSE>, to: i64) -> rusqlite::Result<i64> {
    let days = grouped(rollups);
    let month = |&([day, user, key, model], sums): &(Key, Sums<COARSE>)| {
        ([of_month(month_of_day(day)), user, key, model], sums)
    };
    grouped(&days.0.iter().map(month).collect()).write(conn, "key_days")?;
    days.write(conn, "key_days")?;
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
