//! Rows of the ledger as lines of InfluxDB's line protocol, one point each.
//!
//! In: a connection to the ledger and the row up to which all is exported. Out: a [`Batch`] of lines. Never: the same
//! timestamp for two points of a series, or another one for a row that is sent again.
//!
//! What a point is known by in InfluxDB is its measurement, tags and timestamp: a second one with the same is taken for
//! a correction of the first. See [`timestamp`] and [`tag`] for what keeps two rows from becoming one point.

use crate::usage::record::Endpoint;
use influxdb_line_protocol::LineProtocolBuilder;
use rusqlite::{Connection, Row};
use std::borrow::Cow;
use std::ops::Range;

/// The measurement of all points.
const MEASUREMENT: &str = "openai_usage";

/// The part of a timestamp that says when, nanoseconds; what is below it says which row.
const TIMESTAMP_STEP: i64 = 100_000_000;

const NANOS_PER_USD: f64 = 1e9;
const MICROS_PER_SECOND: f64 = 1e6;

/// The rows past `?1` in their order, with the columns in the order of [`Batch::add`].
const SELECT: &str = "
    SELECT r.id, r.started_at, u.name, m.name, r.endpoint, r.status, r.cost_nano_usd, r.audio_us, t.name,
        r.input_tokens, r.cached_input_tokens, r.cache_write_tokens, r.input_audio_tokens, r.input_image_tokens,
        r.output_tokens, r.reasoning_tokens, r.output_audio_tokens, r.output_image_tokens, r.total_tokens, r.images,
        r.tool_calls, iif(r.correction IS NULL, r.duration_us, NULL) AS duration_us, r.proxy_us, r.request_bytes,
        r.response_bytes, r.first_byte_us
    FROM records r LEFT JOIN users u ON u.id = r.user_id LEFT JOIN teams t ON t.id = r.team_id
        LEFT JOIN models m ON m.id = coalesce(r.model_id, r.model_requested_id, 0)
    WHERE r.id > ?1 ORDER BY r.id LIMIT ?2";

/// From this column on, they are whole numbers under their own names. The last may be unknown; a correction, which is
/// no request, has no duration.
const FIRST_INTEGER: usize = 9;

/// Consecutive rows as lines.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Batch {
    text: Vec<u8>,
    /// Where each line ends in `text`, and the id of its row.
    ends: Vec<(usize, i64)>,
    /// When the first request's response ended, nanoseconds since the Unix epoch; 0 where all rows are corrections.
    pub oldest_unix_ns: i64,
}

impl Batch {
    /// Up to `rows_max` rows past the one with this id.
    pub fn read(conn: &Connection, after_id: i64, rows_max: usize) -> rusqlite::Result<Self> {
        let mut batch = Self::default();
        let mut statement = conn.prepare_cached(SELECT)?;
        let mut rows = statement.query([after_id, rows_max as i64])?;
        while let Some(row) = rows.next()? {
            batch.add(row)?;
        }
        Ok(batch)
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// These lines.
    pub fn lines(&self, lines: Range<usize>) -> &[u8] {
        let end_of = |count: usize| count.checked_sub(1).map_or(0, |last| self.ends[last].0);
        &self.text[end_of(lines.start)..end_of(lines.end)]
    }

    /// The id of the row of a line.
    pub fn id(&self, line: usize) -> i64 {
        self.ends[line].1
    }

    fn add(&mut self, row: &Row<'_>) -> rusqlite::Result<()> {
        let (id, started_at): (i64, i64) = (row.get(0)?, row.get(1)?);
        let name = |column: usize| -> rusqlite::Result<&str> {
            Ok(row.get_ref(column)?.as_str_or_null()?.unwrap_or_default())
        };
        let endpoint = row.get::<_, u8>(4).ok().and_then(Endpoint::from_code).unwrap_or_default();
        let status = row.get::<_, i64>(5)?.to_string();
        let (user, model, team) = (name(2)?, name(3)?, name(8)?);
        let tags =
            [("user", user), ("team", team), ("model", model), ("endpoint", endpoint.as_str()), ("status", &status)];
        let mut point = LineProtocolBuilder::new_with(std::mem::take(&mut self.text)).measurement(MEASUREMENT);
        // A tag without a value is no tag.
        for (key, value) in tags.iter().filter(|(_, value)| !value.is_empty()) {
            point = point.tag(key, &tag(value));
        }
        let cost_nano_usd: Option<i64> = row.get(6)?;
        let mut fields = point.field("audio_seconds", row.get::<_, i64>(7)? as f64 / MICROS_PER_SECOND);
        for column in FIRST_INTEGER..row.as_ref().column_count() {
            if let Some(value) = row.get::<_, Option<i64>>(column)? {
                fields = fields.field(row.as_ref().column_name(column)?, value);
            }
        }
        if let Some(nano) = cost_nano_usd {
            fields = fields.field("cost_usd", nano as f64 / NANOS_PER_USD).field("cost_nano_usd", nano);
        }
        self.text = fields.timestamp(timestamp(started_at, id)).close_line().build();
        if self.oldest_unix_ns == 0
            && let Some(duration_us) = row.get::<_, Option<i64>>("duration_us")?
        {
            self.oldest_unix_ns = started_at.saturating_add(duration_us.saturating_mul(1_000));
        }
        self.ends.push((self.text.len(), id));
        Ok(())
    }
}

/// When a row's point is, nanoseconds since the Unix epoch: the tenth of a second in which the request began, and below
/// it the row's number.
///
/// Two rows of a tenth of a second differ in it unless a hundred million rows lie between them, which is more than are
/// written while any request lasts. A row has the same in every try, whatever else is in the ledger.
pub fn timestamp(started_at: i64, id: i64) -> i64 {
    const LAST_STEP: i64 = i64::MAX / TIMESTAMP_STEP - 1;
    let step = started_at.div_euclid(TIMESTAMP_STEP).min(LAST_STEP);
    step * TIMESTAMP_STEP + id.rem_euclid(TIMESTAMP_STEP)
}

/// A name as the value of a tag, before the line protocol's own escapes.
///
/// The protocol has no form for a line end in a tag, and none for a backslash that all servers read alike (InfluxDB 1
/// keeps a doubled one double, and takes one at the end for an escape of what follows). Control characters and
/// backslashes are percent-encoded, and so is a percent sign that would look like an escape: who decodes the value
/// has the name, and no two names have the same value.
pub fn tag(name: &str) -> Cow<'_, str> {
    let escaped = |(at, &byte): (usize, &u8)| match byte {
        b'\\' => true,
        b'%' => matches!(name.as_bytes()[at + 1..], [a, b, ..] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit()),
        _ => byte.is_ascii_control(),
    };
    if !name.bytes().enumerate().any(|(at, byte)| escaped((at, &byte))) {
        return Cow::Borrowed(name);
    }
    let mut value = String::with_capacity(name.len() + 8);
    for (at, char) in name.char_indices() {
        match u8::try_from(char) {
            Ok(byte) if escaped((at, &byte)) => value.push_str(&format!("%{byte:02X}")),
            _ => value.push(char),
        }
    }
    Cow::Owned(value)
}

#[cfg(test)]
mod tests;
