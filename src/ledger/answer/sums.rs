//! Sums over a selection by model, user, team, endpoint, hour, day or month, each from the coarsest rollups that know
//! it; those by client key are `key_sums`.
//!
//! In: a selection. Out: sums under numbers. Never: names, an order of cost.

use super::coarse::{Coarse, add, coarse, totals};
use super::key_sums::key_sums;
use super::selection::{SPAN, Selection, query, rows_sql};
use crate::base::civil::month_of_day;
use crate::ledger::partition::{Granularity, HOURS_PER_DAY, NS_PER_DAY, NS_PER_HOUR, Partition, partitions};
use crate::ledger::rollup::{ALL, COARSE, EVERYBODY, columns, values_of_row};
use crate::reporting::{BUCKETS_MAX, GroupBy, Totals};
use rusqlite::{Connection, OptionalExtension as _, ToSql};
use std::collections::BTreeMap;

/// Under the number of a model, user, team, endpoint or key, or of an hour, day or month since 1970.
pub type Sums = BTreeMap<i64, Totals>;

/// The sums by model, and by another thing if asked. Of more hours, days or months than an answer may have, at least
/// the first ones and one more.
pub fn sums(conn: &Connection, selection: &Selection, group_by: Option<GroupBy>) -> rusqlite::Result<Vec<Sums>> {
    let other = group_by.filter(|by| !matches!(by, GroupBy::Model | GroupBy::Key));
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
    if group_by == Some(GroupBy::Key) {
        let mut of_keys = Summed { group_by: GroupBy::Key, sums: key_sums(conn, selection)? };
        of_keys.add_rest(&summed[0]);
        summed.push(of_keys);
    } else if let [of_models, of_teams] = &mut summed[..]
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
                summed.add(summed.counted(number, Granularity::Day), sums);
            }
        }
        Ok(true)
    })
}

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
            _ => Granularity::Month,
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
            GroupBy::Day | GroupBy::Month => format!("r.started_at / {NS_PER_DAY}"),
            GroupBy::Key => "r.key_id".to_owned(),
        }
    }

    fn number_of_rollup(&self, granularity: Granularity) -> String {
        match (self.group_by, granularity) {
            (GroupBy::Model, _) => "r.model_id".to_owned(),
            (GroupBy::User | GroupBy::Team, _) => "r.user_id".to_owned(),
            (GroupBy::Endpoint, _) => "r.endpoint".to_owned(),
            (GroupBy::Node, _) => "0".to_owned(),
            (GroupBy::Hour, _) => "r.hour".to_owned(),
            (_, Granularity::Hour) => format!("r.hour / {HOURS_PER_DAY}"),
            (_, Granularity::Day) => "r.day".to_owned(),
            (_, Granularity::Month) => "r.month".to_owned(),
        }
    }

    /// The number under which something is summed, of the one that a row of this tier has: rows of finer ones than
    /// months have the day.
    fn counted(&self, number: i64, granularity: Granularity) -> i64 {
        let is_day = self.group_by == GroupBy::Month && granularity != Granularity::Month;
        if is_day { month_of_day(number) } else { number }
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
            self.add(self.counted(row.get(COARSE)?, granularity), coarse(row)?);
        }
        Ok(())
    }

    /// Adds what is under a number, unless it is a time after more of them than an answer may have.
    fn add(&mut self, number: i64, more: Coarse) {
        let is_past_the_last = self.group_by.is_time()
            && self.sums.len() > BUCKETS_MAX
            && self.sums.last_key_value().is_some_and(|(last, _)| *last < number);
        if !is_past_the_last {
            add(self.sums.entry(number).or_default(), &more);
        }
    }

    /// Adds what counted to no team, or came without a key: what all models have beside all of these.
    fn add_rest(&mut self, all: &Self) {
        let mut rest = Coarse::default();
        all.sums.values().for_each(|sums| add(&mut rest, sums));
        self.sums.values().for_each(|sums| add(&mut rest, &sums.map(|sum| -sum)));
        if rest != Coarse::default() {
            self.sums.insert(EVERYBODY, rest);
        }
    }

    fn into_sums(self) -> Sums {
        self.sums.into_iter().map(|(number, sums)| (number, totals(sums))).collect()
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
