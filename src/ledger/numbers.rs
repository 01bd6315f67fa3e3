//! How the numbers of a record stand in its row, and are read back from it.

use crate::usage::record::Usage;
use rusqlite::Row;
use rusqlite::types::ValueRef;

/// Max number stored for a count, time or price. No response consumes more (2⁴⁸ nano-dollars are 281,474 USD); what a
/// broken upstream claims beyond it is cut, so that sums stay far from an `i64`'s end.
pub const COUNT_MAX: u64 = 1 << 48;

/// A count, time or price as it is stored.
pub fn stored(value: u64) -> i64 {
    value.min(COUNT_MAX) as i64
}

/// A count of ours: never negative. A sum past an `i64` has become a float in the rollups, and saturates here.
///
/// # Errors
/// SQLite's, also where there is no number.
pub fn count(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    match row.get_ref(column)? {
        ValueRef::Integer(value) => Ok(u64::try_from(value).unwrap_or(0)),
        ValueRef::Real(value) => Ok(value as u64),
        other => Err(rusqlite::Error::InvalidColumnType(column, String::new(), other.data_type())),
    }
}

/// The columns of a record's usage.
pub const USAGE: &str = "input_tokens, cached_input_tokens, output_tokens, reasoning_tokens, total_tokens,
    cache_write_tokens, input_audio_tokens, input_image_tokens, output_audio_tokens, output_image_tokens, audio_us,
    images";

/// What is stored in the columns of [`USAGE`].
pub fn stored_usage(usage: &Usage) -> [i64; 12] {
    [
        usage.input_tokens,
        usage.cached_input_tokens,
        usage.output_tokens,
        usage.reasoning_tokens,
        usage.total_tokens,
        usage.cache_write_tokens,
        usage.input_audio_tokens,
        usage.input_image_tokens,
        usage.output_audio_tokens,
        usage.output_image_tokens,
        usage.audio_us,
        usage.images,
    ]
    .map(stored)
}

/// Reads the columns of [`USAGE`], the first of which is at `first`.
pub fn usage(row: &Row<'_>, first: usize) -> rusqlite::Result<Usage> {
    let count = |place: usize| count(row, first + place);
    Ok(Usage {
        input_tokens: count(0)?,
        cached_input_tokens: count(1)?,
        output_tokens: count(2)?,
        reasoning_tokens: count(3)?,
        total_tokens: count(4)?,
        cache_write_tokens: count(5)?,
        input_audio_tokens: count(6)?,
        input_image_tokens: count(7)?,
        output_audio_tokens: count(8)?,
        output_image_tokens: count(9)?,
        audio_us: count(10)?,
        images: count(11)?,
        ..Usage::default() // the media of cached tokens are not stored
    })
}
