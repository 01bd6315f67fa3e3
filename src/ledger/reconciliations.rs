//! The table of comparisons with the provider's own books, one a day.
//!
//! In: a connection. Out: what was kept. Never: a comparison itself.

use super::partition::{HOURS_PER_DAY, NS_PER_DAY};
use crate::reconcile::Summary;
use rusqlite::{Connection, OptionalExtension as _, params};

/// How long they are kept.
const KEPT_DAYS: i64 = 400;

/// What a day came to, to be kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Reconciliation {
    /// Since 1970-01-01.
    pub day: i64,
    pub summary: Summary,
}

/// Keeps it, in the place of an earlier one of this day, and forgets those that are long past.
pub fn keep(conn: &Connection, of: &Reconciliation) -> rusqlite::Result<()> {
    let transaction = conn.unchecked_transaction()?;
    let Reconciliation { day, summary } = of;
    transaction
        .prepare_cached("INSERT OR REPLACE INTO reconciliations (day, at, summary) VALUES (?, ?, ?)")?
        .execute(params![day, summary.at.cast_signed(), summary.text()])?;
    transaction.prepare_cached("DELETE FROM reconciliations WHERE day < ?")?.execute([day - KEPT_DAYS])?;
    transaction.commit()
}

/// The latest ones, so many at most, the last first. What a later version has kept otherwise is passed over.
pub fn recent(conn: &Connection, max: u32) -> rusqlite::Result<Vec<Reconciliation>> {
    let mut select = conn.prepare_cached("SELECT day, summary FROM reconciliations ORDER BY day DESC LIMIT ?")?;
    let mut rows = select.query([max])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let summary = Summary::read(row.get_ref(1)?.as_str()?);
        found.extend(summary.map(|summary| Reconciliation { day: row.get_unwrap(0), summary }));
    }
    Ok(found)
}

/// The latest of these days, not before `first`, that has none, and on which the ledger was in use already.
pub fn latest_missing(conn: &Connection, first: i64, last: i64) -> rusqlite::Result<Option<i64>> {
    let least = |sql: &str| conn.query_row(sql, [], |row| row.get::<_, Option<i64>>(0));
    let began = match least("SELECT min(hour) FROM hours")? {
        Some(hour) => hour / HOURS_PER_DAY,
        // Nothing is folded yet: these are few.
        None => match least("SELECT min(started_at) FROM records")? {
            Some(ns) => ns / NS_PER_DAY,
            None => return Ok(None),
        },
    };
    let mut is_kept = conn.prepare_cached("SELECT 1 FROM reconciliations WHERE day = ?")?;
    for day in (first.max(began)..=last).rev() {
        if is_kept.query_row([day], |_| Ok(())).optional()?.is_none() {
            return Ok(Some(day));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::append::Writer;
    use crate::ledger::{database, fold};
    use crate::reconcile::{Quantity, Total};
    use crate::usage::record::Record;

    fn kept(day: i64, gap: u64) -> Reconciliation {
        let totals = [(Quantity::Cost, Total { ours: 5, theirs: 5 + gap, gap })].into();
        Reconciliation { day, summary: Summary { at: 7, totals, ..Summary::default() } }
    }

    #[test]
    fn the_last_one_of_a_day_counts_and_days_without_one_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let conn = database::open(&folder.path().join("usage.db")).unwrap();
        assert_eq!(latest_missing(&conn, 10, 12).unwrap(), None, "an empty ledger has nothing to compare");
        let record = Record { started_at: 11 * 86_400_000_000_000, ..Record::default() };
        Writer::new(&conn).unwrap().append(&[record]).unwrap();
        assert_eq!(latest_missing(&conn, 10, 12).unwrap(), Some(12));
        fold::fold(&conn, 9).unwrap();
        for (day, gap) in [(12, 1), (12, 2)] {
            keep(&conn, &kept(day, gap)).unwrap();
        }
        assert_eq!(latest_missing(&conn, 10, 12).unwrap(), Some(11));
        keep(&conn, &kept(11, 0)).unwrap();
        assert_eq!(latest_missing(&conn, 10, 12).unwrap(), None, "the ledger began on the 11th day");
        assert_eq!(recent(&conn, 9).unwrap(), [kept(12, 2), kept(11, 0)]);
        keep(&conn, &kept(12 + KEPT_DAYS, 0)).unwrap();
        assert_eq!(recent(&conn, 9).unwrap(), [kept(12 + KEPT_DAYS, 0), kept(12, 2)]);
        conn.execute("UPDATE reconciliations SET summary = '[]' WHERE day = 12", []).unwrap();
        assert_eq!(recent(&conn, 9).unwrap().len(), 1, "another version's is passed over");
    }
}
