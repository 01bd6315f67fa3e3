//! What users have spent in a day and a month.
//!
//! In: a connection and a period. Out: sums from the rollups up to their mark, and of the rows after it, in one read
//! transaction. Never: a write.

use super::marks;
use super::partition::{HOURS_PER_DAY, NS_PER_HOUR};
use crate::base::civil::first_day_of_month;
use crate::limit::budget::{Period, Spent};
use crate::policy::SpendByUser;
use rusqlite::{Connection, Row};
use std::collections::BTreeMap;

/// What each user has spent in the day and the month of `period`: the rollups up to the mark, and the rows after it.
///
/// # Errors
/// SQLite's.
pub fn spend_by_user(conn: &Connection, period: Period) -> rusqlite::Result<SpendByUser> {
    let snapshot = conn.unchecked_transaction()?;
    let month_hour = first_day_of_month(period.month) * HOURS_PER_DAY;
    let day_hour = period.day * HOURS_PER_DAY;
    let mut sums: BTreeMap<i64, Spent> = BTreeMap::new();
    let mut add = |row: &Row<'_>| -> rusqlite::Result<()> {
        let spent = sums.entry(row.get(0)?).or_default();
        spent.day = spent.day.saturating_add(row.get::<_, i64>(1)?.max(0).cast_unsigned());
        spent.month = spent.month.saturating_add(row.get::<_, i64>(2)?.max(0).cast_unsigned());
        Ok(())
    };
    let mut folded = snapshot.prepare(
        "SELECT user_id, sum(iif(hour >= ?2, cost_nano_usd, 0)), sum(cost_nano_usd) FROM rollups
        WHERE hour >= ?1 AND user_id > 0 GROUP BY user_id",
    )?;
    let mut rows = folded.query([month_hour, day_hour])?;
    while let Some(row) = rows.next()? {
        add(row)?;
    }
    let mut tail = snapshot.prepare(
        "SELECT user_id, sum(iif(started_at >= ?3, cost_nano_usd, 0)), sum(cost_nano_usd) FROM records
        WHERE id > ?1 AND started_at >= ?2 AND cost_nano_usd > 0 GROUP BY user_id",
    )?;
    let mut rows =
        tail.query([marks::read(&snapshot, marks::FOLD)?, month_hour * NS_PER_HOUR, day_hour * NS_PER_HOUR])?;
    while let Some(row) = rows.next()? {
        add(row)?;
    }
    let mut name = snapshot.prepare("SELECT name FROM users WHERE id = ?")?;
    let users = sums.into_iter().filter(|(_, spent)| *spent != Spent::default());
    let users = users.map(|(id, spent)| Ok((name.query_row([id], |row| row.get::<_, String>(0))?.into(), spent)));
    Ok(SpendByUser { period, users: users.collect::<rusqlite::Result<_>>()? })
}
