//! Rollups: what they sum, under which keys, and how they are added to a table. The same for every level.
//!
//! In: keys with sums. Out: upserts, in the order of the keys, so that each page is visited once. Never: a transaction
//! of its own.

use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row, params_from_iter};
use std::collections::BTreeMap;

/// The user that stands for everybody.
pub const EVERYBODY: i64 = 0;
/// The model, and the endpoint, that stand for all of them.
pub const ALL: i64 = -1;

/// The summed columns of a level, in its order: what each row of `records` adds to them.
pub const SUMMED: [(&str, &str); 17] = [
    ("requests", "1"),
    ("errors", "status >= 400 OR outcome <> 0"),
    ("unpriced", "cost_nano_usd IS NULL"),
    ("cost_nano_usd", "coalesce(cost_nano_usd, 0)"),
    ("input_tokens", "input_tokens"),
    ("cached_input_tokens", "cached_input_tokens"),
    ("output_tokens", "output_tokens"),
    ("reasoning_tokens", "reasoning_tokens"),
    ("total_tokens", "total_tokens"),
    ("cache_write_tokens", "cache_write_tokens"),
    ("input_audio_tokens", "input_audio_tokens"),
    ("input_image_tokens", "input_image_tokens"),
    ("output_audio_tokens", "output_audio_tokens"),
    ("output_image_tokens", "output_image_tokens"),
    ("audio_us", "audio_us"),
    ("images", "images"),
    ("duration_us", "duration_us"),
];

/// One sum for each of [`SUMMED`].
pub type Sums = [i64; SUMMED.len()];

/// What a rollup is of. `time` is in the unit of its level: hours, days or months since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    pub user: i64,
    pub time: i64,
    pub model: i64,
    pub endpoint: i64,
}

impl Key {
    /// The same of all models and endpoints.
    pub fn of_all_models(self) -> Self {
        Self { model: ALL, endpoint: ALL, ..self }
    }
}

/// Rollups on their way into a table.
pub type Rollups = BTreeMap<Key, Sums>;

/// Adds to the sums under a key. A sum saturates.
pub fn add(rollups: &mut Rollups, key: Key, more: &Sums) {
    let sums = rollups.entry(key).or_default();
    for (sum, more) in sums.iter_mut().zip(more) {
        *sum = sum.saturating_add(*more);
    }
}

/// The sums of a row, from this column on. A sum past an `i64` has become a float, and saturates here.
///
/// # Errors
/// SQLite's.
pub fn sums(row: &Row<'_>, first: usize) -> rusqlite::Result<Sums> {
    let mut sums = Sums::default();
    for (column, sum) in (first..).zip(&mut sums) {
        *sum = match row.get_ref(column)? {
            ValueRef::Integer(value) => value,
            ValueRef::Real(value) => value as i64,
            other => return Err(rusqlite::Error::InvalidColumnType(column, String::new(), other.data_type())),
        };
    }
    Ok(sums)
}

/// The columns that [`sums`] reads, as a level has them.
pub fn columns() -> String {
    SUMMED.map(|(column, _)| column).join(", ")
}

/// Adds rollups to `rollups`, whose key begins with the time.
///
/// # Errors
/// SQLite's.
pub fn write_by_time(conn: &Connection, rollups: &Rollups) -> rusqlite::Result<()> {
    let mut sorted: Vec<(&Key, &Sums)> = rollups.iter().collect();
    sorted.sort_unstable_by_key(|(key, _)| (key.time, **key));
    let mut upsert = conn.prepare_cached(&upsert("rollups"))?;
    for (key, sums) in sorted {
        upsert.execute(params_from_iter([key.time, key.user, key.model, key.endpoint].iter().chain(sums)))?;
    }
    Ok(())
}

/// Adds rollups to a level whose key begins with the user.
///
/// # Errors
/// SQLite's.
pub fn write_by_user(conn: &Connection, table: &str, rollups: &Rollups) -> rusqlite::Result<()> {
    let mut upsert = conn.prepare_cached(&upsert(table))?;
    for (key, sums) in rollups {
        upsert.execute(params_from_iter([key.user, key.time, key.model, key.endpoint].iter().chain(sums)))?;
    }
    Ok(())
}

fn upsert(table: &str) -> String {
    format!(
        "INSERT INTO {table} VALUES ({}) ON CONFLICT DO UPDATE SET {}",
        ["?"; 4 + SUMMED.len()].join(", "),
        SUMMED.map(|(column, _)| format!("{column} = {column} + excluded.{column}")).join(", ")
    )
}
