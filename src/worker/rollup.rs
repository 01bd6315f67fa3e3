//! Rollups: what they sum, how rows are grouped by their keys, and how they are added to a table. The same for every
//! level.
//!
//! In: keys with sums. Out: upserts, in the order of the keys, so that each page is visited once. Never: a transaction
//! of its own.

use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row, Statement};

/// The user that stands for everybody.
pub const EVERYBODY: i64 = 0;
/// The model, and the endpoint, that stand for all of them.
pub const ALL: i64 = -1;

/// The summed columns of a level, in its order: what each row of `records` adds to them.
const SUMMED: [(&str, &str); 17] = [
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
/// Of these, the ones that are zero in most rows.
const RARE: std::ops::Range<usize> = 9..16;

/// One sum for each column.
pub type Sums = [i64; SUMMED.len()];

/// The columns of a level's primary key, in its order: a time and a user, or a user and a time; a model; an endpoint.
pub type Key = [i64; 4];

/// What [`sums`] reads, of rows of `records`.
pub fn columns_of_record() -> String {
    columns(SUMMED.map(|(_, value)| value))
}

/// What [`sums`] reads, of rollups.
pub fn columns_of_rollup() -> String {
    columns(SUMMED.map(|(column, _)| column))
}

/// The columns, and one that tells whether any of the rare ones is not zero: reading a column costs about 40 ns.
fn columns(values: [&str; SUMMED.len()]) -> String {
    format!("{}, {}", values[RARE].join(" | "), values.join(", "))
}

/// The sums of a row, from this column on. A sum past an `i64` has become a float, and saturates here.
///
/// # Errors
/// SQLite's.
pub fn sums(row: &Row<'_>, first: usize) -> rusqlite::Result<Sums> {
    let has_rare = integer(row, first)? != 0;
    let mut sums = Sums::default();
    for (place, sum) in sums.iter_mut().enumerate() {
        if has_rare || !RARE.contains(&place) {
            *sum = integer(row, first + 1 + place)?;
        }
    }
    Ok(sums)
}

fn integer(row: &Row<'_>, column: usize) -> rusqlite::Result<i64> {
    match row.get_ref(column)? {
        ValueRef::Integer(value) => Ok(value),
        ValueRef::Real(value) => Ok(value as i64),
        other => Err(rusqlite::Error::InvalidColumnType(column, String::new(), other.data_type())),
    }
}

/// Sums by key, on their way into a table.
#[derive(Default)]
pub struct Rollups {
    /// In any order, a key any number of times, until they are grouped.
    entries: Vec<(Key, Sums)>,
}

impl Rollups {
    /// Adds to what is under a key.
    pub fn add(&mut self, key: Key, sums: Sums) {
        self.entries.push((key, sums));
    }

    /// Brings the keys into order, each with one sum. A sum saturates.
    pub fn grouped(self) -> Grouped {
        // Sums are long: only their places are sorted.
        let mut order: Vec<(Key, usize)> = self.entries.iter().map(|(key, _)| *key).zip(0..).collect();
        order.sort_unstable();
        let mut grouped: Vec<(Key, Sums)> = Vec::with_capacity(order.len());
        for (key, place) in order {
            let (_, sums) = &self.entries[place];
            match grouped.last_mut() {
                Some((last, sum)) if *last == key => add(sum, sums),
                _ => grouped.push((key, *sums)),
            }
        }
        Grouped { entries: grouped }
    }
}

/// Sums by key, in the order of the keys.
pub struct Grouped {
    entries: Vec<(Key, Sums)>,
}

impl Grouped {
    /// Each key with its sums.
    pub fn iter(&self) -> impl Iterator<Item = &(Key, Sums)> {
        self.entries.iter()
    }

    /// Puts before those of each user and time their sum over all models and endpoints.
    pub fn with_all_models(self) -> Self {
        let mut entries: Vec<(Key, Sums)> = Vec::with_capacity(self.entries.len() * 2);
        let mut all = 0;
        for (key, sums) in self.entries {
            let [one, other, ..] = key;
            match entries.get_mut(all) {
                Some(([same_one, same_other, ..], sum)) if (*same_one, *same_other) == (one, other) => add(sum, &sums),
                _ => {
                    all = entries.len();
                    entries.push(([one, other, ALL, ALL], sums));
                }
            }
            entries.push((key, sums));
        }
        Self { entries }
    }

    /// Adds them to a table.
    ///
    /// # Errors
    /// SQLite's.
    pub fn write(&self, conn: &Connection, table: &str) -> rusqlite::Result<()> {
        if self.entries.is_empty() {
            return Ok(());
        }
        let mut upsert = conn.prepare_cached(&format!(
            "INSERT INTO {table} VALUES ({}) ON CONFLICT DO UPDATE SET {}",
            ["?"; 4 + SUMMED.len()].join(", "),
            SUMMED.map(|(column, _)| format!("{column} = {column} + excluded.{column}")).join(", ")
        ))?;
        let mut bound = Bound::default();
        for (key, sums) in &self.entries {
            bound.bind(&mut upsert, key.iter().chain(sums).map(|value| Some(*value)))?;
            upsert.raw_execute()?;
        }
        Ok(())
    }
}

fn add(sum: &mut Sums, more: &Sums) {
    for (sum, more) in sum.iter_mut().zip(more) {
        *sum = sum.saturating_add(*more);
    }
}

/// The integers that a statement's first parameters hold. They stay bound from one execution to the next, so that only
/// those that change are bound again: most counts of most rows are zero.
#[derive(Default)]
pub struct Bound(Vec<Option<i64>>);

impl Bound {
    /// Binds the first parameters, on a statement that nobody else binds and that was new with this.
    ///
    /// # Errors
    /// SQLite's.
    pub fn bind(
        &mut self,
        statement: &mut Statement<'_>,
        values: impl IntoIterator<Item = Option<i64>>,
    ) -> rusqlite::Result<()> {
        for (place, value) in values.into_iter().enumerate() {
            if place == self.0.len() {
                self.0.push(None); // as SQLite has parameters that were never bound
            }
            if self.0[place] != value {
                statement.raw_bind_parameter(place + 1, value)?;
                self.0[place] = value;
            }
        }
        Ok(())
    }
}
