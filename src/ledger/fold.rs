//! The fold: takes rows past the watermark into the rollups, the sums by key, the index by user and the index by hour,
//! and moves the mark, in one transaction. So these tables are always exactly the sum of the rows up to the mark, also
//! after a crash.
//!
//! In: a connection, and what it committed itself ([`RecentRows`]). Out: how far the mark now is. Never: a change to
//! `records`.
//!
//! The rows are grouped in memory, by the keys of the tables, and written in key order: each page is visited once, and
//! a key that many rows share is written once.

use super::marks::{self, Progress};
use super::migrations::check_unchanged;
use super::partition::{HOURS_PER_DAY, NS_PER_HOUR};
use super::rollup::{
    COARSE, EVERYBODY, Grouped, HOURLY, Key, Rollups, Sums, coarse, columns_of_row, grouped, of_team, sums_of_record,
    sums_of_row,
};
use super::{deduplication, key_days, tiers, user_index};
use crate::usage::record::Record;
use rusqlite::{Connection, Transaction, TransactionBehavior, params};
use std::collections::BTreeMap;

/// Rows that one fold reads at most: it holds the writer for about 2 us a row.
pub const FOLD_ROWS_MAX: i64 = 4096;

/// Rollups that are grouped before there are more of them, 168 bytes each: memory is for those that differ.
const ROLLUPS_GROUPED_MIN: usize = 1024;

/// Rows that are kept for the next fold at most.
const RECENT_ROWS_MAX: i64 = 32_768;

/// Folds up to `rows_max` rows, which are read from the file.
///
/// # Errors
/// SQLite's; nothing has changed then.
pub fn fold(conn: &Connection, rows_max: i64) -> rusqlite::Result<Progress> {
    fold_recent(conn, &mut RecentRows::default(), rows_max)
}

/// Folds the rows kept in memory, all of them, where they come next; else up to `rows_max` rows before them.
///
/// # Errors
/// SQLite's; nothing has changed then, but what was kept in memory will be read from the file.
pub fn fold_recent(conn: &Connection, recent: &mut RecentRows, rows_max: i64) -> rusqlite::Result<Progress> {
    let transaction = Transaction::new_unchecked(conn, TransactionBehavior::Immediate)?;
    check_unchanged(&transaction)?;
    let progress = Progress::read(&transaction)?;
    let Progress { last, folded, .. } = progress;
    let (to, rows, response_ids) = match recent.take_after(folded) {
        Some(taken) => (taken.to, taken.rows, (progress.deduplicated == folded).then_some(taken.response_ids)),
        None => {
            let before = if recent.after > folded { recent.after } else { last };
            let to = before.min(folded + rows_max);
            (to, Rows::read(&transaction, folded, to)?, None)
        }
    };
    let keyed = if progress.keyed == folded {
        key_days::add(&transaction, &rows.keys, to)?
    } else {
        key_days::follow(&transaction, to, rows_max.max(2 * (to - folded)))? // it comes nearer under any load
    };
    if to > folded {
        rows.write(&transaction)?;
        marks::advance(&transaction, marks::FOLD, to)?;
    }
    let deduplicated = match response_ids {
        Some(entries) => deduplication::add(&transaction, entries, to)?,
        None => deduplication::index(&transaction, last, rows_max)?,
    };
    transaction.commit()?;
    Ok(Progress { last: last.max(to), folded: to, deduplicated, keyed })
}

/// Rows that were committed here and are not folded yet, as the fold wants them, so that it need not read them back:
/// that would be a third of its work.
#[derive(Default)]
pub struct RecentRows {
    /// `rows` are all records with an id in `(after, to]`: where another process writes too, those since it last did.
    after: i64,
    to: i64,
    rows: Rows,
    /// Entries of the index of ids that may be repeated.
    response_ids: Vec<deduplication::Counted>,
    /// So many rollups there were when they were last grouped.
    grouped: usize,
}

impl RecentRows {
    /// Takes in a record as it is inserted, the greatest id so far. Forgets the ones before it, to be read from the
    /// file, where they do not lead up to it or are too many to be kept.
    pub fn add(&mut self, id: i64, [hour, user, model]: [i64; 3], team: Option<i64>, record: &Record) {
        if id != self.to + 1 || self.to - self.after >= RECENT_ROWS_MAX {
            *self = Self { after: id - 1, ..Self::default() };
        }
        self.to = id;
        let key = [hour, user, model, record.endpoint.code().into()];
        self.rows.add(id, key, (team, record.key_id), sums_of_record(record));
        self.response_ids.extend(deduplication::entry(id, record));
        if self.rows.rollups.len() >= (2 * self.grouped).max(ROLLUPS_GROUPED_MIN) {
            self.rows.rollups = grouped(&self.rows.rollups).0;
            self.rows.keys = grouped(&self.rows.keys).0;
            self.grouped = self.rows.rollups.len();
        }
    }

    /// Rollups that it would write, at most: up to twice those that differ.
    pub fn rollups_max(&self) -> usize {
        self.rows.rollups.len()
    }

    /// All of it, where it is what comes after this mark; nothing where it does not yet. What is folded is forgotten.
    fn take_after(&mut self, mark: i64) -> Option<Self> {
        if self.after > mark || self.to == self.after {
            return None;
        }
        let taken = std::mem::take(self);
        (taken.after == mark).then_some(taken)
    }
}

/// Rows on their way into the tables.
#[derive(Default)]
struct Rows {
    rollups: Rollups<HOURLY>,
    /// Under a day, a user, a key and a model.
    keys: Rollups<COARSE>,
    /// User and id.
    by_user: Vec<(i64, i64)>,
    /// The least and the greatest id of an hour.
    hours: BTreeMap<i64, (i64, i64)>,
}

impl Rows {
    /// Reads the rows with an id in `(mark, to]`.
    fn read(conn: &Connection, mark: i64, to: i64) -> rusqlite::Result<Self> {
        let mut read = Self::default();
        let mut statement = conn.prepare_cached(&format!(
            "SELECT id, started_at, user_id, coalesce(model_id, model_requested_id, 0), endpoint, team_id, key_id, {}
             FROM records WHERE id > ? AND id <= ?",
            columns_of_row()
        ))?;
        let mut rows = statement.query([mark, to])?;
        while let Some(row) = rows.next()? {
            let hour = row.get::<_, i64>(1)? / NS_PER_HOUR;
            let key = [hour, row.get(2)?, row.get(3)?, row.get(4)?];
            read.add(row.get(0)?, key, (row.get(5)?, row.get(6)?), sums_of_row(row, 7)?);
        }
        Ok(read)
    }

    /// Adds a row, in order of their ids: to its user, its team, and the client's key.
    fn add(&mut self, id: i64, key: Key, (team, key_id): (Option<i64>, Option<i64>), sums: Sums<HOURLY>) {
        let [hour, user, model, endpoint] = key;
        if let Some(key_id) = key_id {
            self.keys.push(([hour / HOURS_PER_DAY, user, key_id, model], coarse(&sums)));
        }
        self.rollups.push((key, sums));
        self.by_user.push((user, id));
        if let Some(team) = team.map(of_team) {
            self.rollups.push(([hour, team, model, endpoint], sums));
            self.by_user.push((team, id));
        }
        let (_, max_id) = self.hours.entry(hour).or_insert((id, id));
        *max_id = id;
    }

    fn write(self, conn: &Connection) -> rusqlite::Result<()> {
        let of_users = grouped(&self.rollups);
        for rollups in [everybody(&of_users), of_users] {
            rollups.write(conn, "rollups")?;
            tiers::add_late(conn, &rollups)?;
        }
        user_index::write(conn, self.by_user)?;
        let mut hours = conn.prepare_cached(
            "INSERT INTO hours VALUES (?, ?, ?) ON CONFLICT DO UPDATE
             SET min_id = min(min_id, excluded.min_id), max_id = max(max_id, excluded.max_id)",
        )?;
        for (hour, (min_id, max_id)) in &self.hours {
            hours.execute(params![hour, min_id, max_id])?;
        }
        Ok(())
    }
}

/// The same of everybody, by model and endpoint, and of all of these.
fn everybody(of_users: &Grouped<HOURLY>) -> Grouped<HOURLY> {
    let of_all = |&([hour, _, model, endpoint], sums): &(Key, _)| ([hour, EVERYBODY, model, endpoint], sums);
    let users = of_users.0.iter().filter(|([_, user, ..], _)| *user > EVERYBODY);
    grouped(&users.map(of_all).collect()).with_all_models()
}
