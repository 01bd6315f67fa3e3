//! A question with its names as numbers, and the rows and ranges of ids that it selects.
//!
//! In: a connection and a question. Out: conditions for other statements. Never: sums, records.

use crate::ledger::marks;
use crate::ledger::partition::{HOURS_PER_DAY, NS_PER_DAY, NS_PER_HOUR, TierMarks};
use crate::ledger::prune::first_id;
use crate::ledger::rollup::{EVERYBODY, of_team};
use crate::ledger::tiers::{Tier, Watermark};
use crate::ledger::user_index;
use crate::reporting::{GroupBy, Query};
use rusqlite::{Connection, OptionalExtension as _, Row, Rows, Statement, ToSql};

/// A question with its names as numbers, the range half-open, and how far what answers it has come.
pub struct Selection {
    /// A user, or a team by what stands for it in a user's place.
    pub user: Option<i64>,
    pub model: Option<i64>,
    pub from: i64,
    pub to: i64,
    /// The least id that is there.
    pub first: i64,
    /// The last folded record.
    pub folded: i64,
    /// The last record in the sums by key.
    pub keyed: i64,
    /// The first hour that has a folded record: before it nothing need be looked for. `None` where there is none.
    pub first_hour: Option<i64>,
    /// The tiers' watermarks for the user, or for everybody as one.
    pub tiers: TierMarks,
    /// Those that hold for every user.
    pub tiers_of_each: TierMarks,
}

impl Selection {
    /// `None` where the user, the team or the model has no record.
    pub fn new(conn: &Connection, query: &Query) -> rusqlite::Result<Option<Self>> {
        let number = |table: &str, name: &Option<String>| {
            let Some(name) = name else { return Ok(Some(None)) };
            let sql = format!("SELECT id FROM {table} WHERE name = ?");
            conn.prepare_cached(&sql)?.query_row([name], |row| row.get(0)).optional().map(|id| id.map(Some))
        };
        let (user, team) = (number("users", &query.user)?, number("teams", &query.team)?);
        let (Some(user), Some(team), Some(model)) = (user, team, number("models", &query.model)?) else {
            return Ok(None);
        };
        let user = user.or(team.map(of_team));
        let bound = |instant: Option<u64>, open| instant.map_or(open, |ns| i64::try_from(ns).unwrap_or(i64::MAX));
        let (days, months) = (Watermark::read(conn, Tier::Days)?, Watermark::read(conn, Tier::Months)?);
        let whose = user.unwrap_or(EVERYBODY);
        Ok(Some(Self {
            user,
            model,
            from: bound(query.from, 0),
            to: bound(query.to, i64::MAX),
            first: first_id(conn)?,
            folded: marks::read(conn, marks::FOLD)?,
            keyed: marks::read(conn, marks::KEY_DAYS)?,
            first_hour: conn.prepare_cached("SELECT min(hour) FROM hours")?.query_row([], |row| row.get(0))?,
            tiers: TierMarks { days: days.of_user(whose), months: months.of_user(whose) },
            tiers_of_each: TierMarks { days: days.of_each_user(Tier::Days), months: months.of_each_user(Tier::Months) },
        }))
    }

    /// Ranges of ids (inclusive) that hold all rows of the user between two ids: in parts, the newest first, each with
    /// its ranges, the newest first. Those of the index by user, which knows folded rows only, hold some of others,
    /// too.
    fn id_ranges<'c>(
        &self,
        conn: &'c Connection,
        ids: (i64, i64),
    ) -> impl Iterator<Item = rusqlite::Result<Vec<(i64, i64)>>> + use<'c> {
        let user = self.user.filter(|_| ids.1 <= self.folded);
        let of_user = user.map(|user| user_index::blocks(ids).map(move |part| user_index::ranges(conn, user, part)));
        let whole = user.is_none().then(|| Ok(vec![ids]));
        of_user.into_iter().flatten().chain(whole)
    }

    /// Runs a statement of [`rows_sql`] over the rows between two ids (inclusive), all folded or all of the tail, that
    /// started between two instants (half-open), for as long as `take` wants more.
    pub fn each_row(
        &self,
        conn: &Connection,
        sql: &str,
        ids: (i64, i64),
        times: (i64, i64),
        mut take: impl FnMut(&Row<'_>) -> rusqlite::Result<bool>,
    ) -> rusqlite::Result<()> {
        let mut statement = conn.prepare_cached(sql)?;
        for ranges in self.id_ranges(conn, ids) {
            for (least, greatest) in ranges? {
                let params: [(&str, &dyn ToSql); 6] = [
                    (":user", &self.user),
                    (":model", &self.model),
                    (":least", &least),
                    (":greatest", &greatest),
                    (":from", &times.0),
                    (":to", &times.1),
                ];
                let mut rows = query(&mut statement, &params)?;
                while let Some(row) = rows.next()? {
                    if !take(row)? {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }
}

/// Rows that are looked through at most for a part of a day, where sums are by key: a second, about.
pub const PART_ROWS_MAX: i64 = 500_000;

/// The question with a range that can be answered: where an hour that has lost rows is cut, the whole of it. Sums by
/// key are kept of days: where rows are gone of the part of one that is asked for, or there are too many, the whole of
/// that.
pub fn widened(conn: &Connection, mut query: Query) -> rusqlite::Result<Query> {
    let (first, of_days) = (first_id(conn)?, query.group_by == Some(GroupBy::Key));
    let unit = if of_days { NS_PER_DAY } else { NS_PER_HOUR };
    for (instant, round_up) in [(&mut query.from, 0), (&mut query.to, 1)] {
        let Some(ns) = instant.and_then(|ns| i64::try_from(ns).ok()).filter(|ns| ns % unit != 0) else {
            continue;
        };
        let (hour, day) = ((ns - round_up) / NS_PER_HOUR, ns / NS_PER_DAY * HOURS_PER_DAY);
        let hours = match (of_days, round_up) {
            (false, _) => [hour, hour],
            (true, 0) => [hour, day + HOURS_PER_DAY - 1],
            (true, _) => [day, hour],
        };
        let (min_id, rows): (Option<i64>, Option<i64>) = conn
            .prepare_cached("SELECT min(min_id), sum(max_id - min_id + 1) FROM hours WHERE hour BETWEEN ? AND ?")?
            .query_row(hours, |row| Ok((row.get(0)?, row.get(1)?)))?;
        let is_too_long = of_days && rows.is_some_and(|rows| rows > PART_ROWS_MAX);
        if is_too_long || min_id.is_some_and(|min_id| min_id < first) {
            *instant = Some((ns / unit + round_up).saturating_mul(unit).unsigned_abs());
        }
    }
    Ok(query)
}

/// Runs a statement with those of the parameters that it has.
pub fn query<'s>(statement: &'s mut Statement<'_>, params: &[(&str, &dyn ToSql)]) -> rusqlite::Result<Rows<'s>> {
    for (name, value) in params {
        if let Some(index) = statement.parameter_index(name)? {
            statement.raw_bind_parameter(index, value)?;
        }
    }
    Ok(statement.raw_query())
}

/// A table of numbers in a query, from `:first` to `:last`.
pub const SPAN: &str = "span(t) AS (VALUES(:first) UNION ALL SELECT t + 1 FROM span WHERE t < :last)";

/// `SELECT columns` over rows between two ids (inclusive), started between two instants (half-open), of a user or
/// a team, and a model, or of all.
pub fn rows_sql(columns: &str) -> String {
    format!(
        "SELECT {columns} FROM records r WHERE (:user IS NULL OR iif(:user < 0, -r.team_id, r.user_id) = :user)
            AND r.id BETWEEN :least AND :greatest AND r.started_at >= :from AND r.started_at < :to
            AND (:model IS NULL OR coalesce(r.model_id, r.model_requested_id, 0) = :model)"
    )
}
