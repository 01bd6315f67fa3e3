//! The sums of rows that the ledger has no longer: what its rollups say of an hour, less what its rows say that are
//! still there (and are shipped as rows).
//!
//! In: a connection to the ledger. Out: hour by hour, lines of COPY in the order of `oap_history_stage_v1`. Never: an
//! hour of which no row is gone.

use crate::ledger::partition::NS_PER_HOUR;
use crate::ledger::prune::first_id;
use crate::ledger::rollup::{COARSE, Key, Sums, columns, sums, values_of_row};
use crate::postgres::copy_field;
use rusqlite::Connection;
use std::collections::BTreeMap;

/// Hours that are read at once.
const HOURS_MAX: i64 = 24;

/// What of it is shipped at once.
pub struct LostSums {
    pub lines: Vec<u8>,
    /// All hours from the first to the last.
    pub hours: (i64, i64),
    /// No hour after these has lost a row.
    pub is_last: bool,
}

/// The sums of the hours from this one on; `None` where no row is gone.
pub fn read(conn: &Connection, from_hour: i64) -> rusqlite::Result<Option<LostSums>> {
    let transaction = conn.unchecked_transaction()?;
    let first = first_id(&transaction)?;
    let sql = "SELECT min(hour), max(hour) FROM hours WHERE hour >= ? AND min_id < ?";
    let (start, end): (Option<i64>, Option<i64>) =
        transaction.query_row(sql, [from_hour, first], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let (Some(start), Some(end)) = (start, end) else { return Ok(None) };
    let hours = (start, end.min(start + HOURS_MAX - 1));
    let lost = lost(&transaction, hours, first)?;
    let mut lines = Vec::new();
    for (key, sums) in lost.iter().filter(|(_, sums)| **sums != [0; COARSE]) {
        write(&transaction, &mut lines, *key, sums)?;
    }
    Ok(Some(LostSums { lines, hours, is_last: hours.1 == end }))
}

fn lost(conn: &Connection, hours: (i64, i64), first: i64) -> rusqlite::Result<BTreeMap<Key, Sums<COARSE>>> {
    let mut lost: BTreeMap<Key, Sums<COARSE>> = BTreeMap::new();
    let sql = format!(
        "SELECT r.hour, r.user_id, r.model_id, r.endpoint, {} FROM hours h CROSS JOIN rollups r ON r.hour = h.hour
            WHERE h.hour BETWEEN ? AND ? AND h.min_id < ? AND r.user_id <> 0 AND r.model_id >= 0",
        columns::<COARSE>()
    );
    let mut select = conn.prepare_cached(&sql)?;
    let mut rows = select.query([hours.0, hours.1, first])?;
    while let Some(row) = rows.next()? {
        lost.insert([row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?], sums(row, 4)?);
    }
    // Rows of these hours that are there are folded, or not in the rollups yet.
    let sql = format!(
        "SELECT r.started_at / {NS_PER_HOUR}, r.user_id, coalesce(r.model_id, r.model_requested_id, 0), r.endpoint, {},
            r.team_id FROM records r WHERE r.id BETWEEN ?1 AND (SELECT record_id FROM marks WHERE name = 'fold')
            AND r.id <= (SELECT max(max_id) FROM hours WHERE hour BETWEEN ?2 AND ?3)
            AND r.started_at / {NS_PER_HOUR} BETWEEN ?2 AND ?3",
        values_of_row::<COARSE>()
    );
    let mut select = conn.prepare_cached(&sql)?;
    let mut rows = select.query([first, hours.0, hours.1])?;
    while let Some(row) = rows.next()? {
        let [hour, user, model, endpoint] = [row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?];
        let there: Sums<COARSE> = sums(row, 4)?;
        let team: Option<i64> = row.get(4 + COARSE)?;
        for who in [Some(user), team.map(crate::ledger::rollup::of_team)].into_iter().flatten() {
            if let Some(sums) = lost.get_mut(&[hour, who, model, endpoint]) {
                sums.iter_mut().zip(there).for_each(|(sum, there)| *sum = sum.saturating_sub(there));
            }
        }
    }
    Ok(lost)
}

fn write(conn: &Connection, out: &mut Vec<u8>, key: Key, sums: &Sums<COARSE>) -> rusqlite::Result<()> {
    let [hour, who, model, endpoint] = key;
    let mut digits = itoa::Buffer::new();
    let name = |table: &str, id: i64| -> rusqlite::Result<String> {
        conn.prepare_cached(&format!("SELECT name FROM {table} WHERE id = ?"))?.query_row([id], |row| row.get(0))
    };
    out.extend_from_slice(digits.format(hour).as_bytes());
    out.push(b'\t');
    let (table, is_team) = if who < 0 { ("teams", "t") } else { ("users", "f") };
    copy_field(out, Some(&name(table, who.abs())?));
    out.push(b'\t');
    out.extend_from_slice(is_team.as_bytes());
    out.push(b'\t');
    copy_field(out, Some(&name("models", model)?));
    for number in [endpoint].iter().chain(sums) {
        out.push(b'\t');
        out.extend_from_slice(digits.format(*number).as_bytes());
    }
    out.push(b'\n');
    Ok(())
}
