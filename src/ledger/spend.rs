//! What users, teams and everybody together have spent in a day and a month.
//!
//! In: a connection and a period. Out: sums from the rollups up to their mark, and of the rows after it, in one read
//! transaction. Never: a write.

use super::marks::{self, LAST_ID};
use super::partition::{HOURS_PER_DAY, NS_PER_HOUR};
use super::rollup::{EVERYBODY, of_team};
use crate::base::civil::first_day_of_month;
use crate::limit::budget::{Period, SpendSums, Spent};
use crate::limit::levels::LimitLevel;
use rusqlite::{Connection, params_from_iter};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Under the numbers of the rollups, of a day and its month: negative in a part that has a correction and not what it
/// corrects. Without [`EVERYBODY`].
type SumsById = BTreeMap<i64, [i64; 2]>;

/// What each user, each team and everybody have spent in the day and the month of `period`, and not after them: a clock
/// that was ahead for a while has left records that belong to neither. `upto_seq` says which record of this process was
/// the last to be committed.
pub fn spend_sums(conn: &Connection, period: Period, upto_seq: u64) -> rusqlite::Result<SpendSums> {
    let snapshot = conn.unchecked_transaction()?;
    let (sums, mark) = sums_by_id(&snapshot, period)?;
    let mut found =
        SpendSums { period, upto_seq, next_day: next_day(&snapshot, mark, period.day)?, ..Default::default() };
    let of_users = sums.range(EVERYBODY + 1..).map(|(_, sums)| sums);
    found.total = spent(of_users.fold([0; 2], added));
    for (id, sums) in sums {
        let spent = spent(sums);
        if spent == Spent::default() {
            continue;
        }
        let name = Arc::from(name(&snapshot, id)?);
        if id < EVERYBODY { &mut found.teams } else { &mut found.users }.push((name, spent));
    }
    Ok(found)
}

fn added(all: [i64; 2], one: &[i64; 2]) -> [i64; 2] {
    [0, 1].map(|at: usize| all[at].saturating_add(one[at]))
}

fn spent(sums: [i64; 2]) -> Spent {
    let [day, month] = sums.map(|sum| sum.max(0).cast_unsigned());
    Spent { day, month }
}

/// The name of a user or a team.
fn name(conn: &Connection, id: i64) -> rusqlite::Result<String> {
    let (table, id) = if id < EVERYBODY { ("teams", of_team(id)) } else { ("users", id) };
    conn.prepare_cached(&format!("SELECT name FROM {table} WHERE id = ?"))?.query_row([id], |row| row.get(0))
}

/// The hours of a period's month, and of its day.
fn hours(period: Period) -> [i64; 4] {
    let month = [period.month, period.month + 1].map(|month| first_day_of_month(month) * HOURS_PER_DAY);
    let day = [period.day, period.day + 1].map(|day| day * HOURS_PER_DAY);
    [month[0], month[1], day[0], day[1]]
}

/// The sums, and up to which record they are of the rollups.
fn sums_by_id(snapshot: &Connection, period: Period) -> rusqlite::Result<(SumsById, i64)> {
    let hours = hours(period);
    let mut sums = SumsById::new();
    let mut add = |sql: &str, params: &[i64]| -> rusqlite::Result<()> {
        let mut statement = snapshot.prepare(sql)?;
        let mut rows = statement.query(params_from_iter(params))?;
        while let Some(row) = rows.next()? {
            let sum = sums.entry(row.get(0)?).or_default();
            *sum = added(*sum, &[row.get(1)?, row.get(2)?]);
        }
        Ok(())
    };
    add(
        "SELECT user_id, sum(iif(hour >= ?3 AND hour < ?4, cost_nano_usd, 0)), sum(cost_nano_usd) FROM rollups
        WHERE hour >= ?1 AND hour < ?2 AND user_id <> 0 GROUP BY user_id",
        &hours,
    )?;
    let [month_from, month_to, day_from, day_to] = hours.map(|hour| hour * NS_PER_HOUR);
    let mark = marks::read(snapshot, marks::FOLD)?;
    for id in ["user_id", "-team_id"] {
        let tail = format!(
            "SELECT {id}, sum(iif(started_at >= ?3 AND started_at < ?4, cost_nano_usd, 0)), sum(cost_nano_usd)
            FROM records
            WHERE id > ?5 AND started_at >= ?1 AND started_at < ?2 AND cost_nano_usd <> 0 AND {id} IS NOT NULL
            GROUP BY 1"
        );
        add(&tail, &[month_from, month_to, day_from, day_to, mark])?;
    }
    Ok((sums, mark))
}

/// The sums of a period, to which each look adds the rows that have come since.
#[derive(Debug)]
pub struct SpendWatch {
    pub period: Period,
    /// With [`EVERYBODY`].
    sums: SumsById,
    /// The last record in them.
    last: i64,
}

/// What a user, a team or everybody (whose name is empty) has spent.
pub type SpentBy = (LimitLevel, String, Spent);

impl SpendWatch {
    /// Sums up what is there.
    pub fn new(conn: &Connection, period: Period) -> rusqlite::Result<Self> {
        let snapshot = conn.unchecked_transaction()?;
        let (mut sums, _) = sums_by_id(&snapshot, period)?;
        let total = sums.range(EVERYBODY + 1..).map(|(_, sums)| sums).fold([0; 2], added);
        sums.insert(EVERYBODY, total);
        let last = snapshot.query_row(LAST_ID, [], |row| row.get(0))?;
        Ok(Self { period, sums, last })
    }

    /// Adds what has come since: those who have spent more, and what they have spent in all. After an error this is of
    /// no use any more.
    pub fn look(&mut self, conn: &Connection) -> rusqlite::Result<Vec<SpentBy>> {
        let [month_from, month_to, day_from, day_to] = hours(self.period).map(|hour| hour * NS_PER_HOUR);
        let snapshot = conn.unchecked_transaction()?;
        let last = snapshot.prepare_cached(LAST_ID)?.query_row([], |row| row.get(0))?;
        let mut select = snapshot.prepare_cached(
            "SELECT user_id, -team_id, started_at, cost_nano_usd FROM records
            WHERE id > ?1 AND started_at >= ?2 AND started_at < ?3 AND cost_nano_usd <> 0",
        )?;
        let mut rows = select.query([self.last, month_from, month_to])?;
        let mut changed = BTreeSet::new();
        while let Some(row) = rows.next()? {
            let (user, team): (i64, Option<i64>) = (row.get(0)?, row.get(1)?);
            let (started_at, cost): (i64, i64) = (row.get(2)?, row.get(3)?);
            let is_today = (day_from..day_to).contains(&started_at);
            for id in [Some(user), team, Some(EVERYBODY)].into_iter().flatten() {
                let sum = self.sums.entry(id).or_default();
                *sum = added(*sum, &[if is_today { cost } else { 0 }, cost]);
                changed.insert(id);
            }
        }
        self.last = last;
        changed.into_iter().map(|id| self.spent_by(&snapshot, id)).collect()
    }

    /// All who have spent something.
    pub fn all(&self, conn: &Connection) -> rusqlite::Result<Vec<SpentBy>> {
        self.sums.keys().map(|&id| self.spent_by(conn, id)).collect()
    }

    fn spent_by(&self, conn: &Connection, id: i64) -> rusqlite::Result<SpentBy> {
        let level = match id {
            EVERYBODY => return Ok((LimitLevel::Total, String::new(), spent(self.sums[&id]))),
            ..EVERYBODY => LimitLevel::Team,
            _ => LimitLevel::User,
        };
        Ok((level, name(conn, id)?, spent(self.sums[&id])))
    }
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
