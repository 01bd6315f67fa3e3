//! Sums over a selection by model, user, endpoint, hour or day, each from the coarsest rollups that know it.
//!
//! In: a selection. Out: sums under numbers. Never: names, an order of cost.

use super::{SPAN, Selection, count, query, row_params, rows_sql, slices};
use crate::local::usage::{BUCKETS_MAX, GroupBy, Totals};
use crate::worker::fold::NS_PER_HOUR;
use crate::worker::levels::HOURS_PER_DAY;
use crate::worker::pieces::{Piece, Unit, pieces};
use crate::worker::rollup::{ALL, EVERYBODY};
use rusqlite::{Connection, OptionalExtension as _, ToSql};
use std::collections::BTreeMap;

/// Under the number of a model, user or endpoint, or of an hour or day since 1970.
pub type Sums = BTreeMap<i64, Totals>;

/// The sums. Of more hours or days than an answer may have, at least the first ones and one more.
pub fn sum(conn: &Connection, selection: &Selection, group_by: GroupBy) -> rusqlite::Result<Sums> {
    let coarsest = match group_by {
        GroupBy::Hour => Unit::Hour,
        GroupBy::Day => Unit::Day,
        GroupBy::Model | GroupBy::User | GroupBy::Endpoint => Unit::Month,
    };
    let each_user = selection.user.is_none() && group_by == GroupBy::User;
    let boundaries = if each_user { selection.boundaries_of_each } else { selection.boundaries };
    let mut summing = Summing { conn, selection, group_by, each_user, sums: Sums::new() };
    let earliest = selection.first_hour.map_or(selection.to, |hour| hour.saturating_mul(NS_PER_HOUR));
    for piece in pieces(selection.from.max(earliest), selection.to, coarsest, boundaries) {
        match piece {
            Piece::Whole { unit, first, after } => summing.add_rollups(unit, first, after)?,
            Piece::Part { from, to } => summing.add_part(from, to)?,
        }
    }
    summing.add_rows((selection.mark + 1, i64::MAX), (selection.from, selection.to))?;
    Ok(summing.sums)
}

struct Summing<'a> {
    conn: &'a Connection,
    selection: &'a Selection,
    group_by: GroupBy,
    /// Sums of each user are asked for, not of one or of everybody.
    each_user: bool,
    sums: Sums,
}

impl Summing<'_> {
    /// Whole hours, days or months `[first, after)`.
    fn add_rollups(&mut self, unit: Unit, first: i64, after: i64) -> rusqlite::Result<()> {
        let &Selection { user, model, .. } = self.selection;
        // One rollup holds all models, where these are not asked for; of an hour, only everybody's.
        let of_all_models = model.is_none()
            && !matches!(self.group_by, GroupBy::Model | GroupBy::Endpoint)
            && (unit != Unit::Hour || user.is_none() && !self.each_user);
        let number = match (self.group_by, unit) {
            (GroupBy::Model, _) => "r.model_id".to_owned(),
            (GroupBy::User, _) => "r.user_id".to_owned(),
            (GroupBy::Endpoint, _) => "r.endpoint".to_owned(),
            (GroupBy::Hour, _) => "r.hour".to_owned(),
            (GroupBy::Day, Unit::Hour) => format!("r.hour / {HOURS_PER_DAY}"),
            (GroupBy::Day, _) => "r.day".to_owned(),
        };
        let models = match model {
            None if of_all_models => format!("r.model_id = {ALL} AND r.endpoint = {ALL}"),
            None => "r.model_id >= 0".to_owned(),
            Some(_) => "r.model_id = :model".to_owned(),
        };
        let (with, source) = source(unit, self.each_user, of_all_models || model.is_some());
        let sql = format!("{with}SELECT {number}, {TOTALS} FROM {source} AND {models}");
        let (user, last) = (user.unwrap_or(EVERYBODY), after - 1);
        self.add(&sql, &[(":user", &user), (":model", &model), (":first", &first), (":last", &last)])
    }

    /// Part of an hour, from its folded rows.
    fn add_part(&mut self, from: i64, to: i64) -> rusqlite::Result<()> {
        let ids = self
            .conn
            .prepare_cached("SELECT min_id, max_id FROM hours WHERE hour = ?")?
            .query_row([from / NS_PER_HOUR], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        ids.map_or(Ok(()), |ids| self.add_rows(ids, (from, to)))
    }

    /// Rows with an id in `[ids.0, ids.1]` that started in `[times.0, times.1)`: all folded, or all of the tail.
    fn add_rows(&mut self, ids: (i64, i64), times: (i64, i64)) -> rusqlite::Result<()> {
        const TOTALS: &str = "1, r.status >= 400 OR r.outcome <> 0, r.cost_nano_usd IS NULL,
            coalesce(r.cost_nano_usd, 0), r.input_tokens, r.cached_input_tokens, r.output_tokens, r.reasoning_tokens,
            r.total_tokens";
        let number = match self.group_by {
            GroupBy::Model => "coalesce(r.model_id, r.model_requested_id, 0)".to_owned(),
            GroupBy::User => "r.user_id".to_owned(),
            GroupBy::Endpoint => "r.endpoint".to_owned(),
            GroupBy::Hour => format!("r.started_at / {NS_PER_HOUR}"),
            GroupBy::Day => format!("r.started_at / {}", HOURS_PER_DAY * NS_PER_HOUR),
        };
        let indexed = self.selection.uses_index(ids);
        let sql = rows_sql(&format!("{number}, {TOTALS}"), indexed);
        for slice in slices(ids, indexed) {
            self.add(&sql, &row_params(self.selection, &slice, &times))?;
        }
        Ok(())
    }

    /// Adds up rows of a number and the fields of [`Totals`].
    fn add(&mut self, sql: &str, params: &[(&str, &dyn ToSql)]) -> rusqlite::Result<()> {
        let mut statement = self.conn.prepare_cached(sql)?;
        let mut rows = query(&mut statement, params)?;
        while let Some(row) = rows.next()? {
            let number = row.get(0)?;
            if self.is_past_the_last(number) {
                continue;
            }
            let totals = Totals {
                requests: count(row, 1)?,
                errors: count(row, 2)?,
                unpriced: count(row, 3)?,
                cost_nano_usd: count(row, 4)?,
                input_tokens: count(row, 5)?,
                cached_input_tokens: count(row, 6)?,
                output_tokens: count(row, 7)?,
                reasoning_tokens: count(row, 8)?,
                total_tokens: count(row, 9)?,
            };
            self.sums.entry(number).or_default().add(&totals);
        }
        Ok(())
    }

    /// True for an hour or a day that comes after more of them than an answer may have.
    fn is_past_the_last(&self, number: i64) -> bool {
        self.group_by.ns().is_some()
            && self.sums.len() > BUCKETS_MAX
            && self.sums.last_key_value().is_some_and(|(last, _)| *last < number)
    }
}

const TOTALS: &str = "r.requests, r.errors, r.unpriced, r.cost_nano_usd, r.input_tokens, r.cached_input_tokens,
    r.output_tokens, r.reasoning_tokens, r.total_tokens";

/// What stands before a query over rollups `r` from `:first` to `:last`, and its source: of `:user`, or of each user.
/// Where `exact`, the model is given, too, so that a seek for each hour, day or month finds nothing else.
fn source(unit: Unit, each_user: bool, exact: bool) -> (String, String) {
    let (table, time) = match unit {
        Unit::Hour if each_user => {
            return (
                String::new(),
                format!("rollups r WHERE r.hour BETWEEN :first AND :last AND r.user_id > {EVERYBODY}"),
            );
        }
        Unit::Hour => {
            let source = "hours h CROSS JOIN rollups r ON r.hour = h.hour
                WHERE h.hour BETWEEN :first AND :last AND r.user_id = :user";
            return (String::new(), source.to_owned());
        }
        Unit::Day => ("days", "day"),
        Unit::Month => ("months", "month"),
    };
    let with = format!("WITH RECURSIVE {SPAN} ");
    match (each_user, exact) {
        (true, _) => {
            let source = "users u CROSS JOIN span CROSS JOIN";
            (with, format!("{source} {table} r ON r.user_id = u.id AND r.{time} = span.t WHERE true"))
        }
        (false, true) => (with, format!("span CROSS JOIN {table} r ON r.{time} = span.t WHERE r.user_id = :user")),
        (false, false) => {
            (String::new(), format!("{table} r WHERE r.user_id = :user AND r.{time} BETWEEN :first AND :last"))
        }
    }
}
