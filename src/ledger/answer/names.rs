//! Sums under numbers as sums under names, in the order of their cost.
//!
//! In: sums. Out: names with their sums. Never: sums of its own.

use super::sums::Sums;
use crate::ledger::keys_and_limits::keys;
use crate::ledger::rollup::EVERYBODY;
use crate::reporting::{GroupBy, KeyRow, Totals};
use crate::usage::record::Endpoint;
use rusqlite::Connection;
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// The sums of the highest cost, at most so many, the highest first.
pub fn by_cost(sums: Sums, max: usize) -> Vec<(i64, Totals)> {
    let mut sorted: Vec<(i64, Totals)> = sums.into_iter().collect();
    sorted.sort_by_key(|(_, totals)| Reverse((totals.cost_nano_usd, totals.total_tokens, totals.requests)));
    sorted.truncate(max);
    sorted
}

/// Sums by name, by cost, the highest first.
pub fn named(
    conn: &Connection,
    group_by: GroupBy,
    sums: Vec<(i64, Totals)>,
) -> rusqlite::Result<Vec<(String, Totals)>> {
    let select = match group_by {
        GroupBy::User => "SELECT name FROM users WHERE id = ?",
        GroupBy::Node => "SELECT '' WHERE ? = 0", // a ledger is one node's, whose name it does not know
        GroupBy::Team => "SELECT coalesce((SELECT name FROM teams WHERE id = -?), '')",
        _ => "SELECT name FROM models WHERE id = ?",
    };
    let mut select = conn.prepare_cached(select)?;
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

/// Sums by key, by cost, the highest first. A key that is in no table has its number alone.
pub fn keys_named(conn: &Connection, mut sums: Vec<(i64, Totals)>) -> rusqlite::Result<Vec<(Option<KeyRow>, Totals)>> {
    sums.sort_by_key(|(id, totals)| (Reverse((totals.cost_nano_usd, totals.total_tokens)), *id));
    let mut rows: BTreeMap<i64, KeyRow> = keys(conn)?.into_iter().map(|(row, _)| (row.id, row)).collect();
    let mut row = |id| rows.remove(&id).unwrap_or_else(|| KeyRow { id, ..KeyRow::default() });
    Ok(sums.into_iter().map(|(id, totals)| ((id != EVERYBODY).then(|| row(id)), totals)).collect())
}
