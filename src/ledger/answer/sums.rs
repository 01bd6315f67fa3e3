//! Sums over a selection by model, user, team, endpoint, hour or day, each from the coarsest rollups that know it.
//!
//! In: a selection. Out: sums under numbers. Never: names, an order of cost.

use super::selection::{SPAN, Selection, query, rows_sql};
use crate::ledger::numbers::{saturated, signed};
use crate::ledger::partition::{Granularity, HOURS_PER_DAY, NS_PER_HOUR, Partition, partitions};
use crate::ledger::rollup::{ALL, COARSE, EVERYBODY, columns, values_of_row};
use crate::reporting::{BUCKETS_MAX, GroupBy, Totals};
use rusqlite::{Connection, OptionalExtension as _, Row, ToSql};
use std::collections::BTreeMap;

/// Under the number of a model, user, team or endpoint, or of an hour or day since 1970.
pub type Sums = BTreeMap<i64, Totals>;

/// The sums by model, and by another thing if asked. Of more hours or days than an answer may have, at least the first
/// ones and one more.
pub fn sums(conn: &Connection, selection: &Selection, group_by: Option<GroupBy>) -> rusqlite::Result<Vec<Sums>> {
    let other = group_by.filter(|group_by| *group_by != GroupBy::Model);
    let by = |group_by| Summed { group_by, sums: BTreeMap::new() };
    let mut summed: Vec<Summed> = [Some(GroupBy::Model), other].into_iter().flatten().map(by).collect();
    let earliest = selection.first_hour.map_or(selection.to, |hour| hour.saturating_mul(NS_PER_HOUR));
    let cut = |coarsest, marks| partitions(selection.from.max(earliest), selection.to, coarsest, marks);
    for summed in &mut summed {
        let marks = if summed.each(selection).is_some() { selection.tiers_of_each } else { selection.tiers };
        for partition in cut(summed.coarsest(), marks) {
            if let Partition::Whole { granularity, first, after } = partition {
                summed.add_rollups(conn, selection, granularity, first, after)?;
            }
        }
    }
    // The rows are read once for both.
    for partition in cut(Granularity::Hour, selection.tiers) {
        if let Partition::Part { from, to } = partition
            && let Some(ids) = ids_of_hour(conn, from / NS_PER_HOUR)?
        {
            add_rows(conn, selection, ids, (from, to), &mut summed)?;
        }
    }
    add_rows(conn, selection, (selection.folded + 1, i64::MAX), (selection.from, selection.to), &mut summed)?;
    if let [of_models, of_teams] = &mut summed[..]
        && of_teams.group_by == GroupBy::Team
    {
        of_teams.add_rest(of_models);
    }
    Ok(summed.into_iter().map(Summed::into_sums).collect())
}

/// The ids between which the folded records of an hour are.
fn ids_of_hour(conn: &Connection, hour: i64) -> rusqlite::Result<Option<(i64, i64)>> {
    conn.prepare_cached("SELECT min_id, max_id FROM hours WHERE hour = ?")?
        .query_row([hour], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()
}

/// Adds rows with an id in `[ids.0, ids.1]` that started in `[times.0, times.1)`: all folded, or all of the tail.
fn add_rows(
    conn: &Connection,
    selection: &Selection,
    ids: (i64, i64),
    times: (i64, i64),
    summed: &mut [Summed],
) -> rusqlite::Result<()> {
    let numbers: Vec<String> = summed.iter().map(Summed::number_of_record).collect();
    let sql = rows_sql(&format!("{}, {}", values_of_row::<COARSE>(), numbers.join(", ")));
    selection.each_row(conn, &sql, ids, times, |row| {
        let sums = coarse(row)?;
        for (column, summed) in (COARSE..).zip(&mut *summed) {
            if let Some(number) = row.get(column)? {
                summed.add(number, sums);
            }
        }
        Ok(true)
    })
}

/// The sums that answers give, on their way: a correction may come before what it corrects.
type Coarse = [i128; COARSE];

/// Sums by one thing.
struct Summed {
    group_by: GroupBy,
    sums: BTreeMap<i64, Coarse>,
}

impl Summed {
    fn coarsest(&self) -> Granularity {
        match self.group_by {
            GroupBy::Hour => Granularity::Hour,
            GroupBy::Day => Granularity::Day,
            GroupBy::Model | GroupBy::User | GroupBy::Team | GroupBy::Endpoint | GroupBy::Node => Granularity::Month,
        }
    }

    /// The sums are of each user, or of each team: rollups of many.
    fn each(&self, selection: &Selection) -> Option<Each> {
        match self.group_by {
            _ if selection.user.is_some() => None,
            GroupBy::User => Some(Each::User),
            GroupBy::Team => Some(Each::Team),
            _ => None,
        }
    }

    fn number_of_record(&self) -> String {
        match self.group_by {
            GroupBy::Model => "coalesce(r.model_id, r.model_requested_id, 0)".to_owned(),
            GroupBy::User => "r.user_id".to_owned(),
            GroupBy::Team => "-r.team_id".to_owned(), // null where there is none
            GroupBy::Endpoint => "r.endpoint".to_owned(),
            GroupBy::Node => "0".to_owned(),
            GroupBy::Hour => format!("r.started_at / {NS_PER_HOUR}"),
            GroupBy::Day => format!("r.started_at / {}", HOURS_PER_DAY * NS_PER_HOUR),
        }
    }

    fn number_of_rollup(&self, granularity: Granularity) -> String {
        match (self.group_by, granularity) {
            (GroupBy::Model, _) => "r.model_id".to_owned(),
            (GroupBy::User | GroupBy::Team, _) => "r.user_id".to_owned(),
            (GroupBy::Endpoint, _) => "r.endpoint".to_owned(),
            (GroupBy::Node, _) => "0".to_owned(),
            (GroupBy::Hour, _) => "r.hour".to_owned(),
            (GroupBy::Day, Granularity::Hour) => format!("r.hour / {HOURS_PER_DAY}"),
            (GroupBy::Day, _) => "r.day".to_owned(),
        }
    }

    /// Whole hours, days or months `[first, after)`.
    fn add_rollups(
        &mut self,
        conn: &Connection,
        selection: &Selection,
        granularity: Granularity,
        first: i64,
        after: i64,
    ) -> rusqlite::Result<()> {
        let &Selection { user, model, .. } = selection;
        let each = self.each(selection);
        // One rollup holds all models, where these are not asked for; of an hour, only everybody's.
        let of_all_models = model.is_none()
            && !matches!(self.group_by, GroupBy::Model | GroupBy::Endpoint)
            && (granularity != Granularity::Hour || user.is_none() && each.is_none());
        let models = match model {
            None if of_all_models => format!("r.model_id = {ALL} AND r.endpoint = {ALL}"),
            None => "r.model_id >= 0".to_owned(),
            Some(_) => "r.model_id = :model".to_owned(),
        };
        let source = source(granularity, each, of_all_models || model.is_some());
        let number = self.number_of_rollup(granularity);
        let totals_of = columns::<COARSE>();
        let sql = format!("WITH RECURSIVE {SPAN} SELECT {totals_of}, {number} FROM {source} AND {models}");
        let (user, last) = (user.unwrap_or(EVERYBODY), after - 1);
        let params: [(&str, &dyn ToSql); 4] =
            [(":user", &user), (":model", &model), (":first", &first), (":last", &last)];
        let mut statement = conn.prepare_cached(&sql)?;
        let mut rows = query(&mut statement, &params)?;
        while let Some(row) = rows.next()? {
            self.add(row.get(COARSE)?, coarse(row)?);
        }
        Ok(())
    }

    /// Adds what is under a number, unless it is an hour or a day after more of them than an answer may have.
    fn add(&mut self, number: i64, more: Coarse) {
        let is_past_the_last = self.group_by.ns().is_some()
            && self.sums.len() > BUCKETS_MAX
            && self.sums.last_key_value().is_some_and(|(last, _)| *last < number);
        if !is_past_the_last {
            self.sums.entry(number).or_default().iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
        }
    }

    /// Adds what counted to no team: what all models have beside all teams.
    fn add_rest(&mut self, all: &Self) {
        let mut rest = Coarse::default();
        all.sums.values().for_each(|sums| rest.iter_mut().zip(sums).for_each(|(rest, sum)| *rest += sum));
        self.sums.values().for_each(|sums| rest.iter_mut().zip(sums).for_each(|(rest, sum)| *rest -= sum));
        if rest != Coarse::default() {
            self.sums.insert(EVERYBODY, rest);
        }
    }

    fn into_sums(self) -> Sums {
        self.sums.into_iter().map(|(number, sums)| (number, totals(sums))).collect()
    }
}

/// The coarse sums, which are the first columns of a row.
fn coarse(row: &Row<'_>) -> rusqlite::Result<Coarse> {
    let mut sums = Coarse::default();
    for (column, sum) in sums.iter_mut().enumerate() {
        *sum = signed(row, column)?;
    }
    Ok(sums)
}

fn totals(sums: Coarse) -> Totals {
    let sums = sums.map(saturated);
    Totals {
        requests: sums[0],
        errors: sums[1],
        unpriced: sums[2],
        cost_nano_usd: sums[3],
        input_tokens: sums[4],
        cached_input_tokens: sums[5],
        output_tokens: sums[6],
        reasoning_tokens: sums[7],
        total_tokens: sums[8],
    }
}

#[derive(Clone, Copy)]
enum Each {
    User,
    Team,
}

/// Rollups `r` from `:first` to `:last`, of `:user`, or of each user or team. Where `exact`, the model is given,
/// too, so that a seek for each hour, day or month finds nothing else.
fn source(granularity: Granularity, each: Option<Each>, exact: bool) -> String {
    let (table, time) = match granularity {
        Granularity::Hour if let Some(each) = each => {
            let side = match each {
                Each::User => ">",
                Each::Team => "<",
            };
            return format!("rollups r WHERE r.hour BETWEEN :first AND :last AND r.user_id {side} {EVERYBODY}");
        }
        Granularity::Hour => {
            let source = "hours h CROSS JOIN rollups r ON r.hour = h.hour
                WHERE h.hour BETWEEN :first AND :last AND r.user_id = :user";
            return source.to_owned();
        }
        Granularity::Day => ("days", "day"),
        Granularity::Month => ("months", "month"),
    };
    if let Some(each) = each {
        let (names, id) = match each {
            Each::User => ("users", "n.id"),
            Each::Team => ("teams", "-n.id"),
        };
        format!("{names} n CROSS JOIN span CROSS JOIN {table} r ON r.user_id = {id} AND r.{time} = span.t WHERE true")
    } else if exact {
        format!("span CROSS JOIN {table} r ON r.{time} = span.t WHERE r.user_id = :user")
    } else {
        format!("{table} r WHERE r.user_id = :user AND r.{time} BETWEEN :first AND :last")
    }
}
