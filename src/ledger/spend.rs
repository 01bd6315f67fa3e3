//! What users, teams and everybody together have spent in a day and a month.
//!
//! In: a connection and a period. Out: sums from the rollups up to their mark, and of the rows after it, in one read
//! transaction. Never: a write.

use super::marks;
use super::partition::{HOURS_PER_DAY, NS_PER_HOUR};
use super::rollup::{EVERYBODY, of_team};
use crate::base::civil::first_day_of_month;
use crate::limit::budget::{Period, SpendSums, Spent};
use rusqlite::{Connection, Statement, params_from_iter};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What each user, each team and everybody have spent in the day and the month of `period`, and not after them: a clock
/// that was ahead for a while has left records that belong to neither. `upto_seq` says which record of this process was
/// the last to be committed.
pub fn spend_sums(conn: &Connection, period: Period, upto_seq: u64) -> rusqlite::Result<SpendSums> {
    let snapshot = conn.unchecked_transaction()?;
    let month = [period.month, period.month + 1].map(|month| first_day_of_month(month) * HOURS_PER_DAY);
    let day = [period.day, period.day + 1].map(|day| day * HOURS_PER_DAY);
    let hours = [month[0], month[1], day[0], day[1]];
    // Under the numbers of the rollups, of the day and of the month: negative in a part that has a correction and not
    // what it corrects.
    let mut sums: BTreeMap<i64, [i64; 2]> = BTreeMap::new();
    let mut add = |sql: &str, params: &[i64]| -> rusqlite::Result<()> {
        let mut statement = snapshot.prepare(sql)?;
        let mut rows = statement.query(params_from_iter(params))?;
        while let Some(row) = rows.next()? {
            let spent = sums.entry(row.get(0)?).or_default();
            *spent = [spent[0].saturating_add(row.get(1)?), spent[1].saturating_add(row.get(2)?)];
        }
        Ok(())
    };
    add(
        "SELECT user_id, sum(iif(hour >= ?3 AND hour < ?4, cost_nano_usd, 0)), sum(cost_nano_usd) FROM rollups
        WHERE hour >= ?1 AND hour < ?2 AND user_id <> 0 GROUP BY user_id",
        &hours,
    )?;
    let [month_from, month_to, day_from, day_to] = hours.map(|hour| hour * NS_PER_HOUR);
    let mark = marks::read(&snapshot, marks::FOLD)?;
    for id in ["user_id", "-team_id"] {
        let tail = format!(
            "SELECT {id}, sum(iif(started_at >= ?3 AND started_at < ?4, cost_nano_usd, 0)), sum(cost_nano_usd)
            FROM records
            WHERE id > ?5 AND started_at >= ?1 AND started_at < ?2 AND cost_nano_usd <> 0 AND {id} IS NOT NULL
            GROUP BY 1"
        );
        add(&tail, &[month_from, month_to, day_from, day_to, mark])?;
    }
    let mut found =
        SpendSums { period, upto_seq, next_day: next_day(&snapshot, mark, period.day)?, ..Default::default() };
    let mut user = snapshot.prepare("SELECT name FROM users WHERE id = ?")?;
    let mut team = snapshot.prepare("SELECT name FROM teams WHERE id = ?")?;
    let name = |select: &mut Statement<'_>, id| select.query_row([id], |row| row.get::<_, String>(0)).map(Arc::from);
    let spent = |sums: [i64; 2]| {
        let [day, month] = sums.map(|sum| sum.max(0).cast_unsigned());
        Spent { day, month }
    };
    let of_users = sums.range(EVERYBODY + 1..).map(|(_, sums)| sums);
    found.total = spent(of_users.fold([0; 2], |all, one| [0, 1].map(|at: usize| all[at].saturating_add(one[at]))));
    for (id, sums) in sums {
        let spent = spent(sums);
        match id {
            _ if spent == Spent::default() => {}
            ..EVERYBODY => found.teams.push((name(&mut team, of_team(id))?, spent)),
            _ => found.users.push((name(&mut user, id)?, spent)),
        }
    }
    Ok(found)
}

/// The first day after this one in which something is spent: while a clock was ahead.
fn next_day(conn: &Connection, mark: i64, day: i64) -> rusqlite::Result<Option<i64>> {
    let hour = (day + 1) * HOURS_PER_DAY;
    let folded = "SELECT min(hour) FROM rollups WHERE hour >= ? AND cost_nano_usd > 0";
    let folded: Option<i64> = conn.query_row(folded, [hour], |row| row.get(0))?;
    let tail = "SELECT min(started_at) FROM records WHERE id > ? AND started_at >= ? AND cost_nano_usd > 0";
    let tail: Option<i64> = conn.query_row(tail, [mark, hour * NS_PER_HOUR], |row| row.get(0))?;
    let hours = [folded, tail.map(|started_at| started_at / NS_PER_HOUR)];
    Ok(hours.into_iter().flatten().min().map(|hour| hour / HOURS_PER_DAY))
}
