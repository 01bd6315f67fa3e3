//! All that one page shows, in one read transaction: sums by model, user and time, and the newest requests.
//!
//! In: a question. Out: an [`Overview`]. Sums come from the rollups: its ranges start with whole hours and days. Never:
//! a write.

use super::history;
use super::names::{by_cost, keys_named, named};
use super::selection::{PART_ROWS_MAX, Selection, widened};
use super::sums::{Sums, sums};
use crate::ledger::reconciliations;
use crate::ledger::rollup::EVERYBODY;
use crate::reporting::{
    GroupBy, Overview, OverviewQuery, Query, RANKED_MAX, Ranking, SAMPLE_MAX, SERIES_MODELS_MAX, Series, Totals,
};
use rusqlite::Connection;
use std::collections::BTreeMap;

/// Days of comparisons with the provider's books.
const RECONCILIATIONS_MAX: u32 = 30;

/// Finds what the page shows.
///
/// # Errors
/// SQLite's; `OperationInterrupted` if the connection's progress handler gave up.
pub fn overview(conn: &Connection, asked: &OverviewQuery) -> rusqlite::Result<Overview> {
    let transaction = conn.unchecked_transaction()?;
    let ever = transaction
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM records) OR EXISTS (SELECT 1 FROM hours)")?
        .query_row([], |row| row.get(0))?;
    let query = Query {
        user: asked.user.clone(),
        team: asked.team.clone(),
        model: asked.model.clone(),
        from: asked.from,
        to: asked.to,
        limit: SAMPLE_MAX,
        ..Query::default()
    };
    let mut found = Overview { ever, ..Overview::default() };
    if asked.user.is_none() && asked.team.is_none() && asked.model.is_none() {
        let recent = reconciliations::recent(&transaction, RECONCILIATIONS_MAX)?;
        found.reconciliations = recent.into_iter().map(|of| (of.day, of.summary)).collect();
    }
    if let Some(mut selection) = Selection::new(&transaction, &query)? {
        let is_one = query.user.is_some() || query.team.is_some();
        let other = if is_one { GroupBy::Endpoint } else { GroupBy::User };
        let mut summed = sums(&transaction, &selection, Some(other))?;
        let (models, others) = (std::mem::take(&mut summed[0]), std::mem::take(&mut summed[1]));
        models.values().for_each(|totals| found.totals.add(totals));
        found.sample = history::page(&transaction, &selection, &query)?;
        found.sample.truncate(SAMPLE_MAX as usize);
        found.sample.retain(|entry| entry.record.is_request());
        if found.totals.errors > 0 {
            found.failed = history::failed(&transaction, &selection)?;
        }
        if !is_one && has_teams(&transaction)? {
            let mut teams = sums(&transaction, &selection, Some(GroupBy::Team))?.pop().unwrap_or_default();
            teams.remove(&EVERYBODY);
            found.teams = ranking(&transaction, GroupBy::Team, teams)?;
        }
        if query.team.is_none() && has_keys(&transaction)? {
            add_keys(&transaction, &query, &mut found)?;
        }
        found.series = series(&transaction, &mut selection, asked.hourly, &models)?;
        found.models = ranking(&transaction, GroupBy::Model, models)?;
        found.others = ranking(&transaction, other, others)?;
    }
    if let Some((from, to)) = asked.previous {
        let mut previous = Totals::default();
        let query = Query { from: Some(from), to: Some(to), ..query };
        if let Some(selection) = Selection::new(&transaction, &query)? {
            let summed = sums(&transaction, &selection, None)?;
            summed.iter().flat_map(Sums::values).for_each(|totals| previous.add(totals));
        }
        found.previous = Some(previous);
    }
    transaction.commit()?;
    Ok(found)
}

/// Where there are none, nothing need be summed by them.
fn has_teams(conn: &Connection) -> rusqlite::Result<bool> {
    conn.prepare_cached("SELECT EXISTS (SELECT 1 FROM teams)")?.query_row([], |row| row.get(0))
}

fn has_keys(conn: &Connection) -> rusqlite::Result<bool> {
    conn.prepare_cached("SELECT EXISTS (SELECT 1 FROM client_keys)")?.query_row([], |row| row.get(0))
}

/// Sums by key, perhaps of a longer range.
fn add_keys(conn: &Connection, query: &Query, found: &mut Overview) -> rusqlite::Result<()> {
    let query = widened(conn, Query { group_by: Some(GroupBy::Key), ..query.clone() })?;
    let Some(selection) = Selection::new(conn, &query)? else { return Ok(()) };
    if selection.folded - selection.keyed > PART_ROWS_MAX {
        return Ok(());
    }
    let keys = sums(conn, &selection, query.group_by)?.pop().unwrap_or_default();
    if keys.range(EVERYBODY + 1..).next().is_some() {
        let (top, others, of_others) = parted(keys);
        found.keys = Ranking { top: keys_named(conn, top)?, others, of_others };
        found.keys_from = query.from;
    }
    Ok(())
}

fn ranking(conn: &Connection, by: GroupBy, sums: Sums) -> rusqlite::Result<Ranking> {
    let (top, others, of_others) = parted(sums);
    Ok(Ranking { top: named(conn, by, top)?, others, of_others })
}

/// The sums of the highest cost; of how many others there are, and what these come to.
fn parted(sums: Sums) -> (Vec<(i64, Totals)>, usize, Totals) {
    let mut top = by_cost(sums, usize::MAX);
    let others = top.split_off(top.len().min(RANKED_MAX));
    let mut of_others = Totals::default();
    others.iter().for_each(|(_, totals)| of_others.add(totals));
    (top, others.len(), of_others)
}

/// Sums over time of the models of the highest cost, and what all have beside them.
fn series(conn: &Connection, selection: &mut Selection, hourly: bool, models: &Sums) -> rusqlite::Result<Vec<Series>> {
    let step = if hourly { GroupBy::Hour } else { GroupBy::Day };
    let asked_model = selection.model;
    let mut over_time = |model: Option<i64>| {
        selection.model = model;
        let summed = sums(conn, selection, Some(step))?.pop();
        let starts = summed.into_iter().flatten();
        Ok::<BTreeMap<u64, Totals>, rusqlite::Error>(
            starts.map(|(count, totals)| (step.start(count), totals)).collect(),
        )
    };
    let mut rest = over_time(asked_model)?;
    let mut series = Vec::new();
    for (model, totals) in by_cost(models.clone(), SERIES_MODELS_MAX) {
        let sums = over_time(Some(model))?;
        for (start, totals) in &sums {
            if let Some(left) = rest.get_mut(start) {
                *left = left.without(totals);
            }
        }
        let name = named(conn, GroupBy::Model, vec![(model, totals)])?.pop().map(|(name, _)| name);
        series.push((Some(name.unwrap_or_default()), sums));
    }
    rest.retain(|_, totals| totals.requests > 0);
    if !rest.is_empty() {
        series.push((None, rest));
    }
    Ok(series)
}
