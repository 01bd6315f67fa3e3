//! What the dashboard shows, in one read transaction: sums by model, user and time, and the newest requests.
//!
//! In: an ask. Out: a [`View`]. Sums come from the rollups: its ranges start with whole hours and days. Never: a write.

use super::sums::{Sums, sums};
use super::{Selection, history, named};
use crate::local::dashboard::{Ask, CHARTED_MAX, ROWS_MAX, Ranking, SAMPLE_MAX, Series, View};
use crate::local::usage::{GroupBy, Query, Totals};
use rusqlite::Connection;
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// Finds what the page shows.
///
/// # Errors
/// SQLite's; `OperationInterrupted` if the connection's progress handler gave up.
pub fn dashboard(conn: &Connection, ask: Ask) -> rusqlite::Result<View> {
    let transaction = conn.unchecked_transaction()?;
    let ever = transaction
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM records) OR EXISTS (SELECT 1 FROM hours)")?
        .query_row([], |row| row.get(0))?;
    let query = Query { user: ask.user.clone(), from: ask.from(), limit: SAMPLE_MAX, ..Query::default() };
    let mut view = View {
        ask,
        ever,
        totals: Totals::default(),
        models: Ranking::default(),
        others: Ranking::default(),
        series: Vec::new(),
        sample: Vec::new(),
    };
    if let Some(mut selection) = Selection::new(&transaction, &query)? {
        let other = if query.user.is_some() { GroupBy::Endpoint } else { GroupBy::User };
        let mut summed = sums(&transaction, &selection, Some(other))?;
        let (models, others) = (std::mem::take(&mut summed[0].sums), std::mem::take(&mut summed[1].sums));
        models.values().for_each(|totals| view.totals.add(totals));
        view.sample = history::page(&transaction, &selection, &query)?;
        view.sample.truncate(SAMPLE_MAX as usize);
        view.series = series(&transaction, &mut selection, &view.ask, &models)?;
        view.models = ranking(&transaction, GroupBy::Model, models)?;
        view.others = ranking(&transaction, other, others)?;
    }
    transaction.commit()?;
    Ok(view)
}

fn dearest(sums: Sums) -> Vec<(i64, Totals)> {
    let mut dearest: Vec<(i64, Totals)> = sums.into_iter().collect();
    dearest.sort_by_key(|(_, totals)| Reverse((totals.cost_nano_usd, totals.total_tokens, totals.requests)));
    dearest
}

fn ranking(conn: &Connection, by: GroupBy, sums: Sums) -> rusqlite::Result<Ranking> {
    let mut dearest = dearest(sums);
    let others = dearest.split_off(dearest.len().min(ROWS_MAX));
    let mut of_others = Totals::default();
    others.iter().for_each(|(_, totals)| of_others.add(totals));
    Ok(Ranking { top: named(conn, by, dearest)?, others: others.len(), of_others })
}

/// Sums over time of the dearest models, and what all have beside them.
fn series(conn: &Connection, selection: &mut Selection, ask: &Ask, models: &Sums) -> rusqlite::Result<Vec<Series>> {
    let step = if ask.range.is_of_hours() { GroupBy::Hour } else { GroupBy::Day };
    let mut over_time = |model: Option<i64>| {
        selection.model = model;
        let summed = sums(conn, selection, Some(step))?.pop();
        let ns = step.ns().unwrap_or(1);
        let starts = summed.into_iter().flat_map(|summed| summed.sums);
        Ok::<BTreeMap<u64, Totals>, rusqlite::Error>(
            starts.map(|(count, totals)| (count.unsigned_abs().saturating_mul(ns), totals)).collect(),
        )
    };
    let mut rest = over_time(None)?;
    let mut charted = dearest(models.clone());
    charted.truncate(CHARTED_MAX);
    let mut series = Vec::new();
    for (model, totals) in charted {
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
