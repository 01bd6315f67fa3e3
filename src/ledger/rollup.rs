//! Rollups: what they sum, how rows are grouped by their keys, and how they are added to a table. The same for every
//! tier.
//!
//! In: keys with sums. Out: upserts, in the order of the keys, so that each page is visited once. Never: a transaction
//! of its own.

use super::numbers::{signed, stored, stored_correction, stored_cost, stored_usage};
use crate::usage::record::Record;
use rusqlite::{Connection, Row, Statement};

/// The user that stands for everybody.
pub const EVERYBODY: i64 = 0;
/// What stands for a team in the place of a user: below [`EVERYBODY`].
pub const fn of_team(team: i64) -> i64 {
    -team
}

/// The model, and the endpoint, that stand for all of them.
pub const ALL: i64 = -1;

/// The summed columns of a tier, in its order: what each row of `records` adds to them.
const SUMMED: [(&str, &str); 18] = [
    ("requests", "correction IS NULL"),
    ("errors", "correction IS NULL AND (status >= 400 OR outcome <> 0)"),
    ("unpriced", "coalesce(correction, cost_nano_usd IS NULL)"),
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
    ("tool_calls", "tool_calls"),
];
/// The place of the one that is last in a row.
const DURATION: usize = 16;

/// True for a sum to which most rows add nothing.
const fn is_rare(place: usize) -> bool {
    place >= COARSE && place != DURATION
}

/// Sums of an hour.
pub const HOURLY: usize = SUMMED.len();
/// Sums of coarser tiers: the first ones, which answers give.
pub const COARSE: usize = 9;

/// The first columns of [`SUMMED`].
pub type Sums<const N: usize> = [i64; N];

/// Those of a coarser tier.
pub fn coarse(hourly: &Sums<HOURLY>) -> Sums<COARSE> {
    let mut coarse = [0; COARSE];
    coarse.copy_from_slice(&hourly[..COARSE]);
    coarse
}

/// The columns of a tier's primary key, in its order: a time and a user, or a user and a time; a model; an endpoint. Of
/// `key_days` a day, a user, a client key, a model.
pub type Key = [i64; 4];

/// What a record adds, before it is a row: the same as what [`sums_of_row`] then reads.
pub fn sums_of_record(record: &Record) -> Sums<HOURLY> {
    let unpriced = stored_correction(record).unwrap_or(record.cost_nano_usd.is_none().into());
    let cost_nano_usd = stored_cost(record).unwrap_or(0);
    let first = [record.is_request().into(), record.is_error().into(), unpriced, cost_nano_usd];
    let (usage, duration) = (stored_usage(record), stored(record.duration_us));
    let (before, behind) = usage.split_at(DURATION - first.len());
    let values = first.iter().chain(before).chain([&duration]).chain(behind);
    let mut sums = [0; HOURLY];
    sums.iter_mut().zip(values).for_each(|(sum, value)| *sum = *value);
    sums
}

/// What [`sums_of_row`] reads of `records`: a column that tells whether any of the rare ones is not zero, and all of
/// them. Reading a column costs about 50 ns, so most rows are spared those.
pub fn columns_of_row() -> String {
    let rare = SUMMED.iter().enumerate().filter(|(place, _)| is_rare(*place)).map(|(_, (_, value))| *value);
    let rare = rare.collect::<Vec<_>>().join(" | ");
    format!("{rare}, {}", values_of_row::<HOURLY>())
}

/// What each row of `records` adds to the first sums.
pub fn values_of_row<const N: usize>() -> String {
    SUMMED[..N].iter().map(|(_, value)| *value).collect::<Vec<_>>().join(", ")
}

/// What a row of `records` adds, from this column on.
pub fn sums_of_row(row: &Row<'_>, first: usize) -> rusqlite::Result<Sums<HOURLY>> {
    let has_rare = integer(row, first)? != 0;
    let mut sums = [0; HOURLY];
    for (place, sum) in sums.iter_mut().enumerate() {
        if has_rare || !is_rare(place) {
            *sum = integer(row, first + 1 + place)?;
        }
    }
    Ok(sums)
}

/// What [`sums`] reads of a tier.
pub fn columns<const N: usize>() -> String {
    SUMMED[..N].iter().map(|(column, _)| *column).collect::<Vec<_>>().join(", ")
}

/// The first sums of a rollup, from this column on.
pub fn sums<const N: usize>(row: &Row<'_>, first: usize) -> rusqlite::Result<Sums<N>> {
    let mut sums = [0; N];
    for (column, sum) in (first..).zip(&mut sums) {
        *sum = integer(row, column)?;
    }
    Ok(sums)
}

/// A number of a sum, which saturates; negative where a correction has a key that the corrected rows have not.
fn integer(row: &Row<'_>, column: usize) -> rusqlite::Result<i64> {
    Ok(signed(row, column)?.clamp(i64::MIN.into(), i64::MAX.into()) as i64)
}

/// Sums on their way into a table: keys in any order, each any number of times.
pub type Rollups<const N: usize> = Vec<(Key, Sums<N>)>;

/// Brings the keys into order, each with one sum. A sum saturates.
pub fn grouped<const N: usize>(rollups: &Rollups<N>) -> Grouped<N> {
    // Sums are long: only their places are sorted.
    let mut order: Vec<(Key, usize)> = rollups.iter().map(|(key, _)| *key).zip(0..).collect();
    order.sort_unstable();
    let mut grouped: Rollups<N> = Vec::with_capacity(order.len());
    for (key, place) in order {
        let (_, sums) = &rollups[place];
        match grouped.last_mut() {
            Some((last, sum)) if *last == key => add(sum, sums),
            _ => grouped.push((key, *sums)),
        }
    }
    Grouped(grouped)
}

/// Sums by key, in the order of the keys, each there once.
pub struct Grouped<const N: usize>(pub Rollups<N>);

impl<const N: usize> Grouped<N> {
    /// Puts before those of each user and time their sum over all models and endpoints.
    pub fn with_all_models(self) -> Self {
        let mut entries: Rollups<N> = Vec::with_capacity(self.0.len() * 2);
        let mut all = 0;
        for (key, sums) in self.0 {
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
        Self(entries)
    }

    /// Adds them to a table.
    pub fn write(&self, conn: &Connection, table: &str) -> rusqlite::Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        let add: Vec<String> =
            SUMMED[..N].iter().map(|(column, _)| format!("{column} = {column} + excluded.{column}")).collect();
        let mut upsert = conn.prepare_cached(&format!(
            "INSERT INTO {table} VALUES ({}) ON CONFLICT DO UPDATE SET {}",
            vec!["?"; 4 + N].join(", "),
            add.join(", ")
        ))?;
        let mut bound = Bound::default();
        for (key, sums) in &self.0 {
            let rest = bound.bind(&mut upsert, 0, key.map(Some))?;
            bound.bind(&mut upsert, rest, sums.map(Some))?;
            upsert.raw_execute()?;
        }
        Ok(())
    }
}

fn add<const N: usize>(sum: &mut Sums<N>, more: &Sums<N>) {
    for (sum, more) in sum.iter_mut().zip(more) {
        *sum = sum.saturating_add(*more);
    }
}

/// The integers that a statement's first parameters hold. They stay bound from one execution to the next, so that only
/// those that change are bound again: most counts of most rows are zero.
#[derive(Default)]
pub struct Bound(Vec<Option<i64>>);

impl Bound {
    /// Binds parameters from the place `first` on (counted from 0), on a statement that nobody else binds and that was
    /// new with this; the place after them.
    pub fn bind<const N: usize>(
        &mut self,
        statement: &mut Statement<'_>,
        first: usize,
        values: [Option<i64>; N],
    ) -> rusqlite::Result<usize> {
        let after = first + N;
        if self.0.len() < after {
            self.0.resize(after, None); // as SQLite has parameters that were never bound
        }
        for (place, value) in (first..).zip(values) {
            if self.0[place] != value {
                statement.raw_bind_parameter(place + 1, value)?;
                self.0[place] = value;
            }
        }
        Ok(after)
    }
}
