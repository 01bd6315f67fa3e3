//! Answers a usage question from the database, all of it in one read transaction. So an answer equals the sum over the
//! rows at one instant, and costs what is returned, not what is stored.
//!
//! Sums come from the coarsest rollups that know them (see `partition`), from the rows themselves for the parts of
//! hours at the ends of a range, and for the short tail that is not folded yet. Pages of history seek by id.
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

mod budgets;
mod history;
mod names;
mod overview;
mod selection;
mod sums;

pub use overview::overview;

use super::partition::NS_PER_HOUR;
use super::prune::first_id;
use crate::limit::in_force::SettingsLimits;
use crate::reporting::{BUCKETS_MAX, BucketKey, Buckets, GroupBy, Query, Report};
use names::{by_cost, named};
use rusqlite::{Connection, OptionalExtension as _};
use selection::Selection;
use sums::{Sums, sums};

/// Computes the answer.
///
/// # Errors
/// SQLite's; `OperationInterrupted` if the connection's progress handler gave up.
pub fn report(conn: &Connection, query: Query) -> rusqlite::Result<Report> {
    let transaction = conn.unchecked_transaction()?;
    let found = find(&transaction, query)?;
    transaction.commit()?;
    Ok(found)
}

/// The same with budgets, as they are `now` (nanoseconds since the Unix epoch) under these limits of the settings.
///
/// # Errors
/// As of [`report`].
pub fn report_with_budgets(
    conn: &Connection,
    query: Query,
    settings: &SettingsLimits,
    now: u64,
) -> rusqlite::Result<Report> {
    let transaction = conn.unchecked_transaction()?;
    let mut found = find(&transaction, query)?;
    found.budgets = budgets::budgets(&transaction, &found, settings, now)?;
    transaction.commit()?;
    Ok(found)
}

fn find(transaction: &Connection, query: Query) -> rusqlite::Result<Report> {
    let mut found = Report { query: widened(transaction, query)?, ..Report::default() };
    found.buckets = found.query.group_by.map(|_| Buckets::default());
    if let Some(selection) = Selection::new(transaction, &found.query)? {
        let mut summed = sums(transaction, &selection, found.query.group_by)?;
        if let (Some(group_by), Some(last)) = (found.query.group_by, summed.last()) {
            found.buckets = Some(buckets_of(transaction, group_by, last.clone())?);
        }
        let by_model = std::mem::take(&mut summed[0]);
        by_model.values().for_each(|totals| found.totals.add(totals));
        found.by_model = named(transaction, GroupBy::Model, by_cost(by_model, BUCKETS_MAX))?;
        found.data = history::page(transaction, &selection, &found.query)?;
        let limit = found.query.limit as usize;
        if found.data.len() > limit {
            found.data.truncate(limit);
            found.next_cursor = found.data.last().map(|entry| entry.id);
        }
    }
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
        let named = named(conn, group_by, by_cost(sums, BUCKETS_MAX))?;
        named.into_iter().map(|(name, totals)| (BucketKey::Name(name), totals)).collect()
    };
    Ok(Buckets { list, truncated })
}
