//! Answers a usage question from the database, all of it in one read transaction. So an answer equals the sum over the
//! rows at one instant, and costs what is returned, not what is stored.
//!
//! Sums come from the coarsest rollups that know them (see `partition`), from the rows themselves for the parts of
//! hours at the ends of a range, and for the short tail that is not folded yet. Pages of history seek by id.
//!
//! In: a connection and a question. Out: a [`Report`]. Never: a write; a number for a part of an hour that has lost
//! rows. A range that begins or ends inside such an hour is widened to the whole of it, and the answer says so in its
//! `from` and `to`; of sums by key the same holds for days.
//!
//! ```text
//!   from                                            to
//!    |-part-|----- months, days, hours -----|-part-|       of what is folded (id <= mark)
//!    |-------------------- rows -------------------|       of the tail       (id >  mark)
//! ```

mod budgets;
mod coarse;
mod history;
mod key_sums;
mod names;
mod overview;
mod selection;
mod sums;

pub use overview::overview;

use crate::limit::in_force::SettingsLimits;
use crate::reporting::{BUCKETS_MAX, BucketKey, Buckets, GroupBy, Query, Report};
use names::{by_cost, keys_named, named};
use rusqlite::Connection;
use selection::{Selection, widened};
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

/// Sums as an answer has them, no more than it may have.
fn buckets_of(conn: &Connection, group_by: GroupBy, sums: Sums) -> rusqlite::Result<Buckets> {
    let truncated = sums.len() > BUCKETS_MAX;
    let list = if group_by.is_time() {
        let start = |count: i64| BucketKey::Start(group_by.start(count));
        sums.into_iter().take(BUCKETS_MAX).map(|(count, totals)| (start(count), totals)).collect()
    } else if group_by == GroupBy::Key {
        let named = keys_named(conn, by_cost(sums, BUCKETS_MAX))?;
        named.into_iter().map(|(key, totals)| (BucketKey::Key(key), totals)).collect()
    } else {
        let named = named(conn, group_by, by_cost(sums, BUCKETS_MAX))?;
        named.into_iter().map(|(name, totals)| (BucketKey::Name(name), totals)).collect()
    };
    Ok(Buckets { list, truncated })
}
