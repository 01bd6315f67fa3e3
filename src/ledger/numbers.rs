//! How a record stands in its row, and is read back from it. Numbers of a correction may be negative there.

use crate::usage::record::{Correction, Endpoint, Outcome, Record, Usage, UsageSource};
use rusqlite::Row;
use rusqlite::types::ValueRef;

/// Max number stored for a count, time or price. No response consumes more (2⁴⁸ nano-dollars are 281,474 USD); what a
/// broken upstream claims beyond it is cut, so that sums stay far from an `i64`'s end.
pub const COUNT_MAX: u64 = 1 << 48;

/// A count, time or price as it is stored.
pub fn stored(value: u64) -> i64 {
    value.min(COUNT_MAX) as i64
}

/// A record's cost as it is stored.
pub fn stored_cost(record: &Record) -> Option<i64> {
    let less = record.correction.as_ref().map_or(0, |correction| stored(correction.less_nano_usd));
    record.cost_nano_usd.map(|nano_usd| stored(nano_usd) - less)
}

/// What tells a correction from a request: what it adds to the number of requests without a price, 0 or -1.
pub fn stored_correction(record: &Record) -> Option<i64> {
    record.correction.as_ref().map(|correction| -i64::from(correction.gives_price))
}

/// A number of ours. A sum past an `i64` has become a float in the rollups.
///
/// # Errors
/// SQLite's, also where there is no number.
pub fn signed(row: &Row<'_>, column: usize) -> rusqlite::Result<i128> {
    match row.get_ref(column)? {
        ValueRef::Integer(value) => Ok(value.into()),
        ValueRef::Real(value) => Ok(value as i128),
        other => Err(rusqlite::Error::InvalidColumnType(column, String::new(), other.data_type())),
    }
}

/// One that is never negative, or what of it is not; it saturates.
///
/// # Errors
/// SQLite's, also where there is no number.
pub fn count(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    signed(row, column).map(saturated)
}

/// A number as a count, which saturates at both ends.
pub fn saturated(number: i128) -> u64 {
    u64::try_from(number.max(0)).unwrap_or(u64::MAX)
}

/// The columns of a record's usage.
pub const USAGE: &str = "input_tokens, cached_input_tokens, output_tokens, reasoning_tokens, total_tokens,
    cache_write_tokens, input_audio_tokens, input_image_tokens, output_audio_tokens, output_image_tokens, audio_us,
    images, tool_calls";

/// How many these are.
pub const USAGE_COLUMNS: usize = 13;

/// What is stored of a record in the columns of [`USAGE`].
pub fn stored_usage(record: &Record) -> [i64; USAGE_COLUMNS] {
    let mut more = counts(&record.usage);
    if let Some(correction) = &record.correction {
        more.iter_mut().zip(counts(&correction.less)).for_each(|(more, less)| *more -= less);
    }
    more
}

fn counts(usage: &Usage) -> [i64; USAGE_COLUMNS] {
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
        usage.tool_calls,
    ]
    .map(stored)
}

/// Reads the columns of [`USAGE`], the first of which is at `first`: what they add, and what they take back.
pub fn usage(row: &Row<'_>, first: usize) -> rusqlite::Result<(Usage, Usage)> {
    let mut numbers = [0; USAGE_COLUMNS];
    for (column, number) in (first..).zip(&mut numbers) {
        *number = signed(row, column)?;
    }
    Ok(more_and_less(numbers))
}

/// What numbers in the order of [`USAGE`] add, and what they take back.
pub fn more_and_less(numbers: [i128; USAGE_COLUMNS]) -> (Usage, Usage) {
    (usage_of(numbers), usage_of(numbers.map(|number| -number)))
}

fn usage_of(numbers: [i128; USAGE_COLUMNS]) -> Usage {
    let numbers = numbers.map(saturated);
    Usage {
        input_tokens: numbers[0],
        cached_input_tokens: numbers[1],
        output_tokens: numbers[2],
        reasoning_tokens: numbers[3],
        total_tokens: numbers[4],
        cache_write_tokens: numbers[5],
        input_audio_tokens: numbers[6],
        input_image_tokens: numbers[7],
        output_audio_tokens: numbers[8],
        output_image_tokens: numbers[9],
        audio_us: numbers[10],
        images: numbers[11],
        tool_calls: numbers[12],
        ..Usage::NOTHING // what is for the price alone is not stored
    }
}

/// The columns of a row `r` that [`record`] reads, before those of [`USAGE`].
pub const RECORD: &str = "r.id, r.started_at, (SELECT name FROM users WHERE id = r.user_id), r.key_id, r.endpoint,
    (SELECT name FROM models WHERE id = r.model_requested_id), (SELECT name FROM models WHERE id = r.model_id),
    r.stream, r.status, r.outcome, r.usage_source, r.cost_nano_usd, r.duration_us, r.first_byte_us, r.proxy_us,
    r.request_bytes, r.response_bytes, r.upstream_request_id, r.response_id, r.correction,
    (SELECT name FROM teams WHERE id = r.team_id)";

/// Reads the columns of [`RECORD`] and [`USAGE`].
///
/// # Errors
/// SQLite's.
pub fn record(row: &Row<'_>) -> rusqlite::Result<Record> {
    let text = |column: usize| row.get_ref(column)?.as_str_or_null().map_err(rusqlite::Error::from);
    let optional = |column: usize| row.get::<_, Option<i64>>(column);
    let (usage, less) = usage(row, 21)?;
    let cost = optional(11)?;
    let correction = optional(19)?.map(|unpriced| {
        let less_nano_usd = saturated(-i128::from(cost.unwrap_or(0)));
        Box::new(Correction { less, less_nano_usd, gives_price: unpriced < 0 })
    });
    Ok(Record {
        started_at: count(row, 1)?,
        user: text(2)?.unwrap_or_default().into(),
        team: text(20)?.map(Into::into),
        key_id: row.get(3)?,
        endpoint: Endpoint::from_code(row.get(4)?).unwrap_or_default(),
        model_requested: text(5)?.map(Into::into),
        model: text(6)?.map(Into::into),
        stream: row.get(7)?,
        status: row.get(8)?,
        outcome: Outcome::from_code(row.get(9)?).unwrap_or_default(),
        usage_source: UsageSource::from_code(row.get(10)?).unwrap_or_default(),
        usage,
        cost_nano_usd: cost.map(|nano_usd| saturated(nano_usd.into())),
        duration_us: count(row, 12)?,
        first_byte_us: optional(13)?.map(i64::unsigned_abs),
        proxy_us: count(row, 14)?,
        request_bytes: count(row, 15)?,
        response_bytes: count(row, 16)?,
        upstream_request_id: text(17)?.map(Into::into),
        response_id: text(18)?.map(Into::into),
        correction,
        ..Record::default()
    })
}
