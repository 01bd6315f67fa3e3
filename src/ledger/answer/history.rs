//! Pages of history: records newest first, found by their ids, never by counting over those before.
//!
//! In: a selection and a query. Out: records, one more than the limit if there are more. Never: sums.

use super::selection::{SPAN, Selection, query, rows_sql};
use crate::ledger::numbers::{RECORD, USAGE, count, record};
use crate::ledger::partition::{HOURS_PER_DAY, NS_PER_HOUR};
use crate::ledger::rollup::{ALL, EVERYBODY};
use crate::ledger::user_index::BLOCK_SHIFT;
use crate::reporting::{Entry, Query, SAMPLE_MAX};
use rusqlite::{Connection, Row, ToSql};

/// Ids below the page's start that are searched for a user or a model at once. Where that is not enough, rollups are
/// asked where there are more, first among so many ids below, then among ever more.
const NEAR_INDEXED: i64 = 4 << BLOCK_SHIFT;
const NEAR: i64 = 4096;
const FURTHER: i64 = 1 << 16;
const FURTHER_GROWTH: i64 = 8;

/// The records.
pub fn page(conn: &Connection, selection: &Selection, asked: &Query) -> rusqlite::Result<Vec<Entry>> {
    let before = asked.cursor.map_or(i64::MAX, |cursor| i64::try_from(cursor).unwrap_or(i64::MAX));
    let mut page = Page { conn, selection, wanted: asked.limit as usize + 1, entries: Vec::new() };
    page.read((selection.folded + 1, before.saturating_sub(1)))?;
    if page.is_full() {
        return Ok(page.entries);
    }
    let (least, greatest) = folded_ids(conn, selection)?;
    let least = least.max(selection.first);
    let greatest = greatest.min(before.saturating_sub(1));
    let near = match (selection.user, selection.model) {
        (None, None) => greatest,
        (Some(_), _) => NEAR_INDEXED,
        (None, Some(_)) => NEAR,
    };
    let nearest = least.max(greatest.saturating_sub(near));
    page.read((nearest, greatest))?;
    let (mut greatest, mut width) = (nearest - 1, FURTHER);
    while greatest >= least && !page.is_full() {
        let from = least.max(greatest.saturating_sub(width) + 1);
        for ids in ranges_from_rollups(conn, selection, (from, greatest))? {
            page.read(ids)?;
        }
        (greatest, width) = (from - 1, width.saturating_mul(FURTHER_GROWTH));
    }
    Ok(page.entries)
}

/// Records that are looked through for failed ones.
const LOOKED_THROUGH_MAX: i64 = 100_000;

/// The newest failed ones of a selection, max [`SAMPLE_MAX`]: of the tail, then of the hours of which sums tell that
/// they have some.
pub fn failed(conn: &Connection, selection: &Selection) -> rusqlite::Result<Vec<Entry>> {
    let mut found = Vec::new();
    let sql = rows_sql(&format!("{RECORD}, {USAGE}"));
    let sql = format!("{sql} AND r.correction IS NULL AND (r.status >= 400 OR r.outcome <> 0) ORDER BY r.id DESC");
    let mut read = |ids, times| {
        selection.each_row(conn, &sql, ids, times, |row| {
            found.push(entry(row)?);
            Ok(found.len() < SAMPLE_MAX as usize)
        })?;
        Ok::<usize, rusqlite::Error>(found.len())
    };
    if read((selection.folded + 1, i64::MAX), (selection.from, selection.to))? == SAMPLE_MAX as usize {
        return Ok(found);
    }
    let mut hours = conn.prepare_cached(
        "SELECT hour, min_id, max_id FROM hours h WHERE hour BETWEEN ? AND ?
            AND EXISTS (SELECT 1 FROM rollups r WHERE r.hour = h.hour AND r.user_id = ? AND r.errors > 0)
            ORDER BY hour DESC",
    )?;
    let (first, last) = (selection.from / NS_PER_HOUR, (selection.to - 1) / NS_PER_HOUR);
    let mut hours = hours.query([first, last, selection.user.unwrap_or(EVERYBODY)])?;
    let mut left = LOOKED_THROUGH_MAX;
    while let Some(row) = hours.next()? {
        let (hour, ids): (i64, (i64, i64)) = (row.get(0)?, (row.get::<_, i64>(1)?.max(selection.first), row.get(2)?));
        left -= (ids.1 - ids.0 + 1).max(0);
        let from = selection.from.max(hour * NS_PER_HOUR);
        let to = selection.to.min((hour + 1).saturating_mul(NS_PER_HOUR));
        if left < 0 || read(ids, (from, to))? == SAMPLE_MAX as usize {
            break;
        }
    }
    Ok(found)
}

struct Page<'a> {
    conn: &'a Connection,
    selection: &'a Selection,
    wanted: usize,
    entries: Vec<Entry>,
}

impl Page<'_> {
    fn is_full(&self) -> bool {
        self.entries.len() == self.wanted
    }

    /// Adds records with an id in `[ids.0, ids.1]`, newest first, until the page is full.
    fn read(&mut self, ids: (i64, i64)) -> rusqlite::Result<()> {
        if self.is_full() {
            return Ok(());
        }
        let sql = format!("{} ORDER BY r.id DESC", rows_sql(&format!("{RECORD}, {USAGE}")));
        let times = (self.selection.from, self.selection.to);
        self.selection.each_row(self.conn, &sql, ids, times, |row| {
            self.entries.push(entry(row)?);
            Ok(self.entries.len() < self.wanted)
        })
    }
}

/// The ids between which all folded records of the range are.
fn folded_ids(conn: &Connection, selection: &Selection) -> rusqlite::Result<(i64, i64)> {
    if selection.from == 0 && selection.to == i64::MAX {
        return Ok((1, selection.folded));
    }
    conn.prepare_cached(
        "SELECT coalesce(min(min_id), 1), coalesce(max(max_id), 0) FROM hours WHERE hour BETWEEN ? AND ?",
    )?
    .query_row([selection.from / NS_PER_HOUR, (selection.to - 1) / NS_PER_HOUR], |row| Ok((row.get(0)?, row.get(1)?)))
}

/// Ranges within `ids` that hold all folded records of the selection there, the newest first: those of the hours in
/// which the model was asked for, or of the days on which the user asked.
fn ranges_from_rollups(conn: &Connection, selection: &Selection, ids: (i64, i64)) -> rusqlite::Result<Vec<(i64, i64)>> {
    let Some(first_hour) = selection.first_hour else { return Ok(Vec::new()) };
    let first_hour = (selection.from / NS_PER_HOUR).max(first_hour);
    let last_hour = (selection.to - 1) / NS_PER_HOUR;
    let mark = selection.tiers.days;
    let days = (first_hour / HOURS_PER_DAY, (last_hour / HOURS_PER_DAY).min(mark - 1));
    let hours = (first_hour.max(mark * HOURS_PER_DAY), last_hour);
    let among = "h.max_id >= :least AND h.min_id <= :greatest";
    let of_model = if selection.model.is_some() { " AND r.model_id = :model" } else { "" };
    let in_hour = format!("EXISTS (SELECT 1 FROM rollups r WHERE r.hour = h.hour AND r.user_id = :user{of_model})");
    let in_hour_of_day = if selection.model.is_some() { format!("AND {in_hour}") } else { String::new() };
    let of_days = format!(
        "WITH RECURSIVE {SPAN} SELECT h.min_id, h.max_id
            FROM span CROSS JOIN hours h
                ON h.hour BETWEEN span.t * {HOURS_PER_DAY} AND span.t * {HOURS_PER_DAY} + 23
            WHERE EXISTS (SELECT 1 FROM days d WHERE d.user_id = :user AND d.day = span.t
                AND d.model_id = coalesce(:model, {ALL})) AND {among} {in_hour_of_day}"
    );
    let of_hours = format!(
        "SELECT h.min_id, h.max_id FROM hours h WHERE h.hour BETWEEN :first AND :last AND {among} AND {in_hour}"
    );
    let user = selection.user.unwrap_or(EVERYBODY);
    let mut found = Vec::new();
    for (sql, (first, last)) in [(of_days, days), (of_hours, hours)] {
        if first > last {
            continue;
        }
        let params: [(&str, &dyn ToSql); 6] = [
            (":user", &user),
            (":model", &selection.model),
            (":first", &first),
            (":last", &last),
            (":least", &ids.0),
            (":greatest", &ids.1),
        ];
        let mut statement = conn.prepare_cached(&sql)?;
        let mut rows = query(&mut statement, &params)?;
        while let Some(row) = rows.next()? {
            found.push((row.get(0)?, row.get(1)?));
        }
    }
    Ok(merged(found, ids))
}

/// Ranges within `[least, greatest]`, put together where they overlap or touch, the last first.
fn merged(mut ranges: Vec<(i64, i64)>, (least, greatest): (i64, i64)) -> Vec<(i64, i64)> {
    ranges.sort_unstable();
    let mut merged: Vec<(i64, i64)> = Vec::new();
    for (from, to) in ranges {
        let (from, to) = (from.max(least), to.min(greatest));
        match merged.last_mut() {
            _ if from > to => {}
            Some(last) if from <= last.1 + 1 => last.1 = last.1.max(to),
            _ => merged.push((from, to)),
        }
    }
    merged.reverse();
    merged
}

fn entry(row: &Row<'_>) -> rusqlite::Result<Entry> {
    Ok(Entry { id: count(row, 0)?, record: record(row)? })
}
