//! The table of budgets that have passed a threshold: what is to be told, and what was.
//!
//! In: a connection. Out: crossings that are known, those that nobody was told of, in order. Never: the same crossing
//! twice, whoever notices it.

use crate::base::civil::month_of_day;
use crate::limit::budget::Period;
use crate::limit::levels::LimitLevel;
use crate::limit::threshold::{BudgetPeriod, Crossing};
use rusqlite::{Connection, params};
use std::collections::BTreeSet;

/// How long a row is kept after its period: whoever could not be told by then has no use for it.
const KEPT_DAYS: i64 = 62;

/// A crossing that is to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alert {
    pub id: i64,
    pub crossing: Crossing,
    pub spent_nano_usd: u64,
    /// Nanoseconds since the Unix epoch.
    pub noticed_at: u64,
}

/// What is to be kept. Instants in nanoseconds since the Unix epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AlertChange {
    Noticed {
        crossing: Crossing,
        spent_nano_usd: u64,
        at: u64,
    },
    /// Somebody has taken it.
    Sent {
        id: i64,
        at: u64,
    },
}

/// Keeps all of these, or none. What is there already stays as it is.
pub fn keep(conn: &Connection, changes: &[AlertChange]) -> rusqlite::Result<()> {
    let transaction = conn.unchecked_transaction()?;
    for change in changes {
        match change {
            AlertChange::Noticed { crossing, spent_nano_usd, at } => {
                let Crossing { period, number, level, name, threshold, budget_nano_usd } = crossing;
                let mut insert = transaction.prepare_cached(
                    "INSERT OR IGNORE INTO alerts
                    (level, name, period, number, threshold, budget_nano_usd, spent_nano_usd, noticed_at)
                    VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                )?;
                insert.execute(params![
                    level.label(),
                    name,
                    period.label(),
                    number,
                    threshold,
                    budget_nano_usd.cast_signed(),
                    spent_nano_usd.cast_signed(),
                    at.cast_signed(),
                ])?;
                forget(&transaction, Period::of(*at))?;
            }
            AlertChange::Sent { id, at } => {
                let mut update =
                    transaction.prepare_cached("UPDATE alerts SET sent_at = ? WHERE id = ? AND sent_at IS NULL")?;
                update.execute(params![at.cast_signed(), id])?;
            }
        }
    }
    transaction.commit()
}

/// Removes what is long past.
fn forget(conn: &Connection, present: Period) -> rusqlite::Result<()> {
    let mut delete = conn.prepare_cached("DELETE FROM alerts WHERE period = ? AND number < ?")?;
    for (period, first) in
        [(BudgetPeriod::Day, present.day - KEPT_DAYS), (BudgetPeriod::Month, month_of_day(present.day - KEPT_DAYS))]
    {
        delete.execute(params![period.label(), first])?;
    }
    Ok(())
}

/// What was noticed in the day and the month of a period.
pub fn known(conn: &Connection, present: Period) -> rusqlite::Result<BTreeSet<Crossing>> {
    let mut select = conn.prepare_cached(
        "SELECT level, name, period, number, threshold, budget_nano_usd FROM alerts WHERE period = ? AND number = ?",
    )?;
    let mut found = BTreeSet::new();
    for period in BudgetPeriod::ALL {
        let mut rows = select.query(params![period.label(), period.number(present)])?;
        while let Some(row) = rows.next()? {
            found.extend(crossing(row)?);
        }
    }
    Ok(found)
}

/// True where somebody has noticed this one.
pub fn is_known(conn: &Connection, crossing: &Crossing) -> rusqlite::Result<bool> {
    let Crossing { period, number, level, name, threshold, budget_nano_usd } = crossing;
    let mut select = conn.prepare_cached(
        "SELECT 1 FROM alerts WHERE period = ? AND number = ? AND level = ? AND name = ? AND threshold = ?
        AND budget_nano_usd = ?",
    )?;
    let key = params![period.label(), number, level.label(), name, threshold, budget_nano_usd.cast_signed()];
    select.exists(key)
}

/// True where nobody is known to have taken it.
pub fn is_unsent(conn: &Connection, id: i64) -> rusqlite::Result<bool> {
    conn.prepare_cached("SELECT 1 FROM alerts WHERE id = ? AND sent_at IS NULL")?.exists([id])
}

/// What nobody has taken yet, after the one with this id: at most so many, the first noticed first.
pub fn unsent(conn: &Connection, after: i64, max: usize) -> rusqlite::Result<Vec<Alert>> {
    let mut select = conn.prepare_cached(
        "SELECT level, name, period, number, threshold, budget_nano_usd, id, spent_nano_usd, noticed_at
        FROM alerts WHERE sent_at IS NULL AND id > ? ORDER BY id LIMIT ?",
    )?;
    let mut rows = select.query(params![after, max as i64])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let Some(crossing) = crossing(row)? else { continue };
        let number = |column| row.get::<_, i64>(column).map(i64::cast_unsigned);
        found.push(Alert { id: row.get(6)?, crossing, spent_nano_usd: number(7)?, noticed_at: number(8)? });
    }
    Ok(found)
}

/// `None` for words of a later version.
fn crossing(row: &rusqlite::Row<'_>) -> rusqlite::Result<Option<Crossing>> {
    let level = LimitLevel::named(row.get_ref(0)?.as_str()?);
    let period = BudgetPeriod::named(row.get_ref(2)?.as_str()?);
    let Some((level, period)) = level.zip(period) else { return Ok(None) };
    Ok(Some(Crossing {
        period,
        number: row.get(3)?,
        level,
        name: row.get(1)?,
        threshold: row.get(4)?,
        budget_nano_usd: row.get::<_, i64>(5)?.cast_unsigned(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::database;

    const DAY: u64 = 86_400_000_000_000;

    fn noticed(day: i64, name: &str, threshold: u8) -> AlertChange {
        let (level, budget_nano_usd) = (LimitLevel::User, 10);
        let period = BudgetPeriod::Day;
        let crossing = Crossing { period, number: day, level, name: name.to_owned(), threshold, budget_nano_usd };
        AlertChange::Noticed { crossing, spent_nano_usd: 8, at: day.unsigned_abs() * DAY }
    }

    #[test]
    fn what_is_noticed_is_told_once_and_forgotten_long_after() {
        let folder = tempfile::tempdir().unwrap();
        let conn = database::open(&folder.path().join("usage.db")).unwrap();
        for _ in 0..2 {
            keep(&conn, &[noticed(100, "b", 80), noticed(100, "a", 80), noticed(100, "a", 100)]).unwrap();
        }
        let names = |conn: &Connection| -> Vec<(String, u8)> {
            let waiting = unsent(conn, 0, 9).unwrap();
            waiting.into_iter().map(|alert| (alert.crossing.name, alert.crossing.threshold)).collect()
        };
        let all = [("b", 80), ("a", 80), ("a", 100)].map(|(name, threshold)| (name.to_owned(), threshold));
        assert_eq!(names(&conn), all);
        let first = unsent(&conn, 0, 1).unwrap()[0].id;
        assert_eq!(unsent(&conn, first, 9).unwrap().len(), 2);
        keep(&conn, &[AlertChange::Sent { id: first, at: 1 }, noticed(100, "b", 80)]).unwrap();
        assert_eq!(names(&conn), all[1..]);
        assert!(!is_unsent(&conn, first).unwrap() && is_unsent(&conn, first + 1).unwrap());
        let found = known(&conn, Period { day: 100, month: 3 }).unwrap();
        assert_eq!(found.len(), 3);
        for crossing in found {
            assert!(is_known(&conn, &crossing).unwrap());
            assert!(!is_known(&conn, &Crossing { budget_nano_usd: 11, ..crossing }).unwrap());
        }
        assert_eq!(known(&conn, Period { day: 101, month: 3 }).unwrap().len(), 0);
        keep(&conn, &[noticed(100 + KEPT_DAYS, "c", 80)]).unwrap();
        assert_eq!(names(&conn).len(), 3);
        keep(&conn, &[noticed(101 + KEPT_DAYS, "c", 80)]).unwrap();
        assert_eq!(names(&conn), [("c".to_owned(), 80), ("c".to_owned(), 80)]);
    }
}
