//! Sums by client key: of whole days and months from `key_days`, of the parts of days at the ends of a range, and of
//! what is in no sum yet, from the rows.
//!
//! In: a selection, not of a team: the sums do not tell teams apart. Out: sums under the keys' numbers. Never: what
//! came without a key.

use super::coarse::{Coarse, add, coarse};
use super::selection::{SPAN, Selection, query, rows_sql};
use crate::base::civil::{first_day_of_month, month_of_day};
use crate::ledger::key_days::of_month;
use crate::ledger::partition::{NS_PER_DAY, NS_PER_HOUR};
use crate::ledger::rollup::{COARSE, columns, values_of_row};
use rusqlite::{Connection, ToSql};
use std::collections::BTreeMap;

/// The sums.
pub fn key_sums(conn: &Connection, selection: &Selection) -> rusqlite::Result<BTreeMap<i64, Coarse>> {
    let &Selection { from, to, keyed, folded, .. } = selection;
    let mut sums = KeySums { conn, selection, sums: BTreeMap::new() };
    let (first, after) = (from / NS_PER_DAY + i64::from(from % NS_PER_DAY > 0), to / NS_PER_DAY);
    if first < after {
        sums.add_days(first, after)?;
        sums.add_part(from, first * NS_PER_DAY)?;
        sums.add_part(after * NS_PER_DAY, to)?;
    } else {
        sums.add_part(from, to)?;
    }
    if keyed < folded {
        let (least, greatest) = sums.ids(from, to)?;
        sums.add_rows((least.max(keyed + 1), greatest.min(folded)), (from, to))?;
    }
    sums.add_rows((folded + 1, i64::MAX), (from, to))?;
    Ok(sums.sums)
}

struct KeySums<'a> {
    conn: &'a Connection,
    selection: &'a Selection,
    sums: BTreeMap<i64, Coarse>,
}

impl KeySums<'_> {
    /// Whole days, counted from the Unix epoch, from `first` to before `after`: months as far as they go.
    fn add_days(&mut self, first: i64, after: i64) -> rusqlite::Result<()> {
        let (month, month_after) = (month_of_day(first - 1) + 1, month_of_day(after));
        if month >= month_after {
            return self.add_sums(first, after - 1);
        }
        self.add_sums(first, first_day_of_month(month) - 1)?;
        self.add_sums(of_month(month_after - 1), of_month(month))?;
        self.add_sums(first_day_of_month(month_after), after - 1)
    }

    /// What stands under these numbers in `key_days` (inclusive).
    fn add_sums(&mut self, first: i64, last: i64) -> rusqlite::Result<()> {
        if first > last {
            return Ok(());
        }
        let source = match self.selection.user {
            None => "key_days k WHERE k.day BETWEEN :first AND :last",
            Some(_) => "span CROSS JOIN key_days k ON k.day = span.t WHERE k.user_id = :user",
        };
        let sql = format!(
            "WITH RECURSIVE {SPAN} SELECT {}, key_id FROM {source} AND (:model IS NULL OR k.model_id = :model)",
            columns::<COARSE>()
        );
        let Selection { user, model, .. } = self.selection;
        let params: [(&str, &dyn ToSql); 4] =
            [(":first", &first), (":last", &last), (":user", user), (":model", model)];
        let mut statement = self.conn.prepare_cached(&sql)?;
        let mut rows = query(&mut statement, &params)?;
        while let Some(row) = rows.next()? {
            add(self.sums.entry(row.get(COARSE)?).or_default(), &coarse(row)?);
        }
        Ok(())
    }

    /// Rows that are in `key_days`, of a part of a day (half-open).
    fn add_part(&mut self, from: i64, to: i64) -> rusqlite::Result<()> {
        let mut hours =
            self.conn.prepare_cached("SELECT hour, min_id, max_id FROM hours WHERE hour BETWEEN ? AND ?")?;
        let mut hours = hours.query([from / NS_PER_HOUR, (to - 1) / NS_PER_HOUR])?;
        while let Some(row) = hours.next()? {
            let start = row.get::<_, i64>(0)?.saturating_mul(NS_PER_HOUR);
            let times = (from.max(start), to.min(start.saturating_add(NS_PER_HOUR)));
            self.add_rows((row.get(1)?, row.get::<_, i64>(2)?.min(self.selection.keyed)), times)?;
        }
        Ok(())
    }

    /// The ids between which all folded rows of a range are.
    fn ids(&self, from: i64, to: i64) -> rusqlite::Result<(i64, i64)> {
        self.conn
            .prepare_cached(
                "SELECT coalesce(min(min_id), 0), coalesce(max(max_id), 0) FROM hours WHERE hour BETWEEN ? AND ?",
            )?
            .query_row([from / NS_PER_HOUR, (to - 1) / NS_PER_HOUR], |row| Ok((row.get(0)?, row.get(1)?)))
    }

    /// Rows between two ids (inclusive), all folded or all of the tail, that started between two instants (half-open).
    fn add_rows(&mut self, ids: (i64, i64), times: (i64, i64)) -> rusqlite::Result<()> {
        if ids.0 > ids.1 {
            return Ok(());
        }
        let sql = rows_sql(&format!("{}, r.key_id", values_of_row::<COARSE>()));
        let sql = format!("{sql} AND r.key_id IS NOT NULL");
        self.selection.each_row(self.conn, &sql, ids, times, |row| {
            add(self.sums.entry(row.get(COARSE)?).or_default(), &coarse(row)?);
            Ok(true)
        })
    }
}
