//! Answers a usage question from the database, all of it in one read transaction. So an answer equals the sum over the
//! rows at one instant, and costs what is returned, not what is stored.
//!
//! Sums come from the coarsest rollups that know them (see `pieces`), from the rows themselves for the parts of hours
//! at the ends of a range, and for the short tail that is not folded yet. Pages of history seek by id.
//!
//! In: a connection and a question. Out: a [`Report`]. Never: a write; a number for a part of an hour that has lost
//! rows. A range that begins or ends inside such an hour is widened to the whole of it, and the answer says so in its
//! `from` and `to`.
//!
//! ```text
//!   from                                            to
//!    |-part-|----- months, days, hours -----|-part-|       of what is folded (id <= mark)
//!    |-------------------- rows -------------------|       of the tail       (id >  mark)
//! ```

mod history;
mod overview;
mod sums;

use super::by_user;
use super::fold::{NS_PER_HOUR, read_mark};
use super::levels::{Level, Reach};
use super::pieces::Boundaries;
use super::prune::first_id;
use super::rollup::EVERYBODY;
use crate::local::usage::{BUCKETS_MAX, BucketKey, Buckets, GroupBy, Query, Report, Totals};
use crate::usage::record::Endpoint;
pub use overview::dashboard;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension as _, Row, Rows, Statement, ToSql};
use std::cmp::Reverse;
use sums::{Sums, sums};

/// Computes the answer.
///
/// # Errors
/// SQLite's; `OperationInterrupted` if the connection's progress handler gave up.
pub fn report(conn: &Connection, query: Query) -> rusqlite::Result<Report> {
    let transaction = conn.unchecked_transaction()?;
    let query = widened(&transaction, query)?;
    let buckets = query.group_by.map(|_| Buckets::default());
    let (totals, by_model, data) = (Totals::default(), Vec::new(), Vec::new());
    let mut found = Report { query, totals, by_model, buckets, data, next_cursor: None };
    if let Some(selection) = Selection::new(&transaction, &found.query)? {
        let mut summed = sums(&transaction, &selection, found.query.group_by)?;
        if let (Some(group_by), Some(last)) = (found.query.group_by, summed.last()) {
            found.buckets = Some(buckets_of(&transaction, group_by, last.sums.clone())?);
        }
        let by_model = std::mem::take(&mut summed[0].sums);
        for totals in by_model.values() {
            found.totals.add(totals);
        }
        found.by_model = named(&transaction, GroupBy::Model, dearest(by_model))?;
        found.data = history::page(&transaction, &selection, &found.query)?;
        let limit = found.query.limit as usize;
        if found.data.len() > limit {
            found.data.truncate(limit);
            found.next_cursor = found.data.last().map(|entry| entry.id);
        }
    }
    transaction.commit()?;
    Ok(found)
}

/// The question with a range that can be answered: where an hour that has lost rows is cut, the whole of it.
fn widened(conn: &Connection, mut query: Query) -> rusqlite::Result<Query> {
    let first = first_id(conn)?;
    for (instant, round_up) in [(&mut query.from, 0), (&mut query.to, 1)] {
        let Some(ns) = instant.and_then(|ns| i64::try_from(ns).ok()).filter(|ns| ns % NS_PER_HOUR != 0) else {
            continue;
        };
        let hour = ns / NS_PER_HOUR;
        let min_id: Option<i64> = conn
            .prepare_cached("SELECT min_id FROM hours WHERE hour = ?")?
            .query_row([hour], |row| row.get(0))
            .optional()?;
        if min_id.is_some_and(|min_id| min_id < first) {
            *instant = Some((hour + round_up).saturating_mul(NS_PER_HOUR).unsigned_abs());
        }
    }
    Ok(query)
}

/// Sums as an answer has them, no more than it may have.
fn buckets_of(conn: &Connection, group_by: GroupBy, sums: Sums) -> rusqlite::Result<Buckets> {
    let truncated = sums.len() > BUCKETS_MAX;
    let list = if let Some(ns) = group_by.ns() {
        let start = |count: i64| BucketKey::Start(count.unsigned_abs().saturating_mul(ns));
        sums.into_iter().take(BUCKETS_MAX).map(|(count, totals)| (start(count), totals)).collect()
    } else {
        let named = named(conn, group_by, dearest(sums))?;
        named.into_iter().map(|(name, totals)| (BucketKey::Name(name), totals)).collect()
    };
    Ok(Buckets { list, truncated })
}

/// The dearest, as many as an answer may have.
fn dearest(sums: Sums) -> Vec<(i64, Totals)> {
    let mut dearest: Vec<(i64, Totals)> = sums.into_iter().collect();
    dearest.sort_by_key(|(_, totals)| Reverse((totals.cost_nano_usd, totals.total_tokens)));
    dearest.truncate(BUCKETS_MAX);
    dearest
}

/// Sums by name, the dearest first.
fn named(conn: &Connection, group_by: GroupBy, sums: Vec<(i64, Totals)>) -> rusqlite::Result<Vec<(String, Totals)>> {
    let table = if group_by == GroupBy::User { "users" } else { "models" };
    let mut select = conn.prepare_cached(&format!("SELECT name FROM {table} WHERE id = ?"))?;
    let mut named = Vec::new();
    for (number, totals) in sums {
        let name = if group_by == GroupBy::Endpoint {
            let endpoint = u8::try_from(number).ok().and_then(Endpoint::from_code);
            endpoint.unwrap_or_default().as_str().to_owned()
        } else {
            select.query_row([number], |row| row.get(0))?
        };
        named.push((name, totals));
    }
    named.sort_by(|(name_a, a), (name_b, b)| {
        (b.cost_nano_usd, b.total_tokens, name_a).cmp(&(a.cost_nano_usd, a.total_tokens, name_b))
    });
    Ok(named)
}

/// A question with its names as numbers, the range half-open, and how far what answers it has come.
struct Selection {
    user: Option<i64>,
    model: Option<i64>,
    from: i64,
    to: i64,
    /// The least id that is there.
    first: i64,
    /// The last folded record.
    mark: i64,
    /// The first hour that has a folded record: before it nothing need be looked for. `None` where there is none.
    first_hour: Option<i64>,
    /// The levels' boundaries for the user, or for everybody as one.
    boundaries: Boundaries,
    /// Those that hold for every user.
    boundaries_of_each: Boundaries,
}

impl Selection {
    /// `None` where the user or the model has no record.
    fn new(conn: &Connection, query: &Query) -> rusqlite::Result<Option<Self>> {
        let number = |table: &str, name: &Option<String>| {
            let Some(name) = name else { return Ok(Some(None)) };
            let sql = format!("SELECT id FROM {table} WHERE name = ?");
            conn.prepare_cached(&sql)?.query_row([name], |row| row.get(0)).optional().map(|id| id.map(Some))
        };
        let (Some(user), Some(model)) = (number("users", &query.user)?, number("models", &query.model)?) else {
            return Ok(None);
        };
        let bound = |instant: Option<u64>, open| instant.map_or(open, |ns| i64::try_from(ns).unwrap_or(i64::MAX));
        let (days, months) = (Reach::read(conn, Level::Days)?, Reach::read(conn, Level::Months)?);
        let whose = user.unwrap_or(EVERYBODY);
        Ok(Some(Self {
            user,
            model,
            from: bound(query.from, 0),
            to: bound(query.to, i64::MAX),
            first: first_id(conn)?,
            mark: read_mark(conn)?,
            first_hour: conn.prepare_cached("SELECT min(hour) FROM hours")?.query_row([], |row| row.get(0))?,
            boundaries: Boundaries { days: days.of_user(whose), months: months.of_user(whose) },
            boundaries_of_each: Boundaries {
                days: days.of_each_user(Level::Days),
                months: months.of_each_user(Level::Months),
            },
        }))
    }

    /// Where the rows between two ids (inclusive) are: in parts, the newest first, each with its ranges, the newest
    /// first. Those of the index by user, which knows folded rows only, hold some of others, too.
    fn places<'c>(
        &self,
        conn: &'c Connection,
        ids: (i64, i64),
    ) -> impl Iterator<Item = rusqlite::Result<Vec<(i64, i64)>>> + use<'c> {
        let user = self.user.filter(|_| ids.1 <= self.mark);
        let of_user = user.map(|user| by_user::blocks(ids).map(move |part| by_user::ranges(conn, user, part)));
        let whole = user.is_none().then(|| Ok(vec![ids]));
        of_user.into_iter().flatten().chain(whole)
    }
}

/// Runs a statement with those of the parameters that it has.
fn query<'s>(statement: &'s mut Statement<'_>, params: &[(&str, &dyn ToSql)]) -> rusqlite::Result<Rows<'s>> {
    for (name, value) in params {
        if let Some(index) = statement.parameter_index(name)? {
            statement.raw_bind_parameter(index, value)?;
        }
    }
    Ok(statement.raw_query())
}

/// A table of numbers in a query, from `:first` to `:last`.
const SPAN: &str = "span(t) AS (VALUES(:first) UNION ALL SELECT t + 1 FROM span WHERE t < :last)";

/// `SELECT columns` over rows between two ids (inclusive), started between two instants (half-open), of a user and a
/// model or of all.
fn rows_sql(columns: &str) -> String {
    format!(
        "SELECT {columns} FROM records r WHERE (:user IS NULL OR r.user_id = :user)
            AND r.id BETWEEN :least AND :greatest AND r.started_at >= :from AND r.started_at < :to
            AND (:model IS NULL OR coalesce(r.model_id, r.model_requested_id, 0) = :model)"
    )
}

/// The parameters of [`rows_sql`].
fn row_params<'a>(
    selection: &'a Selection,
    ids: &'a (i64, i64),
    times: &'a (i64, i64),
) -> [(&'static str, &'a dyn ToSql); 6] {
    [
        (":user", &selection.user),
        (":model", &selection.model),
        (":least", &ids.0),
        (":greatest", &ids.1),
        (":from", &times.0),
        (":to", &times.1),
    ]
}

/// A count of ours: never negative. A sum past an `i64` has become a float in the rollups, and saturates here.
fn count(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    match row.get_ref(column)? {
        ValueRef::Integer(value) => Ok(u64::try_from(value).unwrap_or(0)),
        ValueRef::Real(value) => Ok(value as u64),
        other => Err(rusqlite::Error::InvalidColumnType(column, String::new(), other.data_type())),
    }
}
