//! Rows of the ledger as lines of COPY, in the order of `oap_stage_v1`.
//!
//! In: a connection to the ledger, and the row up to which all is shipped. Out: what is to be shipped next. Never: a
//! row that another transaction might still come before: ids are given under the write lock.

use crate::base::civil::month_of_day;
use crate::fleet::shipment::Rows;
use crate::ledger::deduplication::hash_of_row;
use crate::ledger::numbers::USAGE;
use crate::ledger::partition::NS_PER_DAY;
use crate::postgres::copy_field;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row};

/// Columns, of which some are read by their place.
const COLUMNS: usize = 35;
const STARTED_AT: usize = 1;
const ENDPOINT: usize = 5;
const USAGE_SOURCE: usize = 10;
const DURATION: usize = 26;
const RESPONSE_ID: usize = 33;

/// Rows with when the oldest of their responses ended, nanoseconds since the Unix epoch; 0 where there are none.
pub fn read(conn: &Connection, after: i64, rows_max: usize, now: i64) -> rusqlite::Result<(Rows, i64)> {
    let mut batch = Rows { after, upto: after, fresh_to: now, ..Rows::default() };
    let (mut oldest, mut months) = (0, Vec::new());
    let mut statement = conn.prepare_cached(&format!(
        "SELECT r.id, r.started_at, u.name, t.name, r.key_id, r.endpoint, q.name, m.name, r.status, r.outcome,
            r.usage_source, r.stream, r.cost_nano_usd, {USAGE}, r.duration_us, r.first_byte_us, r.proxy_us,
            r.request_bytes, r.response_bytes, r.correction, r.upstream_request_id, r.response_id
        FROM records r JOIN users u ON u.id = r.user_id LEFT JOIN teams t ON t.id = r.team_id
            LEFT JOIN models q ON q.id = r.model_requested_id LEFT JOIN models m ON m.id = r.model_id
        WHERE r.id > ? ORDER BY r.id LIMIT ?"
    ))?;
    let mut rows = statement.query((after, rows_max as i64))?;
    let mut count = 0;
    while let Some(row) = rows.next()? {
        write(&mut batch.lines, row)?;
        (batch.upto, batch.upto_at) = (row.get(0)?, row.get(STARTED_AT)?);
        if count == 0 {
            oldest = batch.upto_at.saturating_add(row.get::<_, i64>(DURATION)?.saturating_mul(1000));
        }
        let month = month_of_day(batch.upto_at / NS_PER_DAY);
        if months.last() != Some(&month) && !months.contains(&month) {
            months.push(month);
            batch.starts.push(batch.upto_at);
        }
        count += 1;
    }
    batch.is_full = count == rows_max;
    if batch.is_full {
        batch.fresh_to = oldest; // more wait
    }
    Ok((batch, oldest))
}

fn write(out: &mut Vec<u8>, row: &Row<'_>) -> rusqlite::Result<()> {
    let mut digits = itoa::Buffer::new();
    for column in 0..COLUMNS - 1 {
        match row.get_ref(column)? {
            ValueRef::Integer(number) => out.extend_from_slice(digits.format(number).as_bytes()),
            ValueRef::Null => copy_field(out, None),
            other => copy_field(out, Some(other.as_str()?)),
        }
        out.push(b'\t');
    }
    let response_id = row.get_ref(RESPONSE_ID)?.as_str_or_null()?;
    match hash_of_row(row.get(ENDPOINT)?, row.get(USAGE_SOURCE)?, response_id) {
        Some(hash) => out.extend_from_slice(digits.format(hash).as_bytes()),
        None => copy_field(out, None),
    }
    out.push(b'\n');
    Ok(())
}
