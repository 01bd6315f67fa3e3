//! Deduplication: what a retrieval reports is recorded only as far as it exceeds what was recorded under the same id
//! before, by whomever. So a replay adds nothing, and a total that grows is recorded in the end once and whole.
//!
//! In: a record that may repeat another. Out: its new part. The ids are found through an index that follows
//! behind the rows like the other ones, and in the rows after its own watermark; so a database that had no such index
//! is right from the first moment, while it is being made.
//!
//! The index (table `counted`) holds hashes, in blocks of records so that what is written together lies together; the
//! rows hold the ids themselves, which decide. Where the row is gone (pruned), the hash alone says that it was
//! recorded, until it goes too ([`super::prune`]).

use super::marks;
use super::numbers::{USAGE, usage};
use crate::usage::record::{Endpoint, Record, Usage, UsageSource};
use rusqlite::{Connection, Row, Statement, params};

/// Records of one block of the index, as a shift. A retrieval looks into each block.
pub const BLOCK_SHIFT: u32 = 16;

/// The statement of a connection that asks what was recorded under an id.
pub struct Deduplication<'c> {
    find: Statement<'c>,
}

/// What was recorded under one id until now.
#[derive(Default)]
struct Before {
    any: bool,
    usage: Usage,
    /// `None` where the price of a part is unknown.
    cost_nano_usd: Option<u64>,
    /// A part is known by its hash only.
    pruned: bool,
}

impl<'c> Deduplication<'c> {
    /// Prepares the statement.
    ///
    /// # Errors
    /// SQLite's, if the schema is not the one of this build.
    pub fn new(conn: &'c Connection) -> rusqlite::Result<Self> {
        Ok(Self { find: conn.prepare(&find_sql())? })
    }

    /// The record with what is new of its numbers. To be called in the transaction that appends it.
    pub fn new_part(&mut self, record: &Record) -> rusqlite::Result<Record> {
        let mut new = record.clone();
        let before = match &record.response_id {
            Some(id) => self.before(id, record.endpoint == Endpoint::ResponsesImages)?,
            // Nothing tells it from a replay.
            None => Before { any: true, pruned: true, ..Before::default() },
        };
        new.usage = if before.pruned { Usage::default() } else { record.usage.excess_over(&before.usage) };
        if new.usage == Usage::default() && before.any {
            new.usage_source = UsageSource::None;
            new.cost_nano_usd = Some(0);
        } else if before.any {
            let costs = record.cost_nano_usd.zip(before.cost_nano_usd);
            new.cost_nano_usd = costs.map(|(whole, before)| whole.saturating_sub(before));
        }
        Ok(new)
    }

    fn before(&mut self, id: &str, images: bool) -> rusqlite::Result<Before> {
        let mut before = Before { cost_nano_usd: Some(0), ..Before::default() };
        let mut rows = self.find.query(params![hash(id), id, images, Endpoint::ResponsesImages.code()])?;
        while let Some(row) = rows.next()? {
            before.any = true;
            if row.get(0)? {
                before.pruned = true;
            } else {
                before.usage = before.usage.plus(&usage(row, 2)?);
            }
            let cost = row.get::<_, Option<i64>>(1)?.map(i64::unsigned_abs);
            before.cost_nano_usd = before.cost_nano_usd.zip(cost).map(|(sum, cost)| sum.saturating_add(cost));
        }
        Ok(before)
    }
}

/// Takes up to `rows_max` rows past the index's mark into it, within the caller's transaction; how far the mark now is.
pub fn index(conn: &Connection, last: i64, rows_max: i64) -> rusqlite::Result<i64> {
    let mark = marks::read(conn, marks::DEDUPLICATION)?;
    let to = last.min(mark.saturating_add(rows_max));
    if to <= mark {
        return Ok(mark);
    }
    let mut select = conn.prepare_cached(&format!(
        "SELECT id, response_id FROM records r WHERE id > ? AND id <= ? AND endpoint IN ({}) AND {} AND response_id
         IS NOT NULL",
        codes(Endpoint::ALL.iter().filter(|endpoint| endpoint.is_retrievable()).map(|endpoint| endpoint.code())),
        with_numbers(),
    ))?;
    let entry = |row: &Row<'_>| Ok(entry_of(row.get(0)?, row.get_ref(1)?.as_str()?));
    let entries: Vec<[i64; 3]> = select.query_map([mark, to], entry)?.collect::<rusqlite::Result<_>>()?;
    add(conn, entries, to)
}

/// What the index holds of a record that gets this id, if anything.
pub fn entry(id: i64, record: &Record) -> Option<[i64; 3]> {
    let response_id = record.response_id.as_deref()?;
    (record.endpoint.is_retrievable() && record.usage_source.has_numbers()).then(|| entry_of(id, response_id))
}

fn entry_of(id: i64, response_id: &str) -> [i64; 3] {
    [id >> BLOCK_SHIFT, hash(response_id), id]
}

/// Puts into the index what it holds of the records from its mark to `to`, within the caller's transaction, and moves
/// the mark there; returns it.
pub fn add(conn: &Connection, mut entries: Vec<[i64; 3]>, to: i64) -> rusqlite::Result<i64> {
    entries.sort_unstable();
    let mut insert = conn.prepare_cached("INSERT INTO counted VALUES (?, ?, ?)")?;
    for entry in &entries {
        insert.execute(*entry)?;
    }
    marks::advance(conn, marks::DEDUPLICATION, to)?;
    Ok(to)
}

/// Rows by id: hash, id, and whether images are asked for or all the rest.
fn find_sql() -> String {
    let with_numbers = with_numbers();
    format!(
        "WITH RECURSIVE mark(id) AS (SELECT record_id FROM marks WHERE name = 'counted'),
            blocks(block) AS (SELECT min(block) FROM counted UNION ALL SELECT block + 1 FROM blocks, mark
                WHERE block < mark.id >> {BLOCK_SHIFT})
         SELECT r.id IS NULL, r.cost_nano_usd, {USAGE}
            FROM blocks b CROSS JOIN counted c ON c.block = b.block AND c.hash = ?1
                LEFT JOIN records r ON r.id = c.record_id
            WHERE r.id IS NULL OR r.response_id = ?2 AND (r.endpoint = ?4) = ?3
         UNION ALL
         SELECT 0, r.cost_nano_usd, {USAGE}
            FROM mark CROSS JOIN records r ON r.id > mark.id
            WHERE r.response_id = ?2 AND (r.endpoint = ?4) = ?3 AND {with_numbers}"
    )
}

/// The condition for rows that hold numbers.
fn with_numbers() -> String {
    let sources = UsageSource::ALL.iter().copied().filter(|source| source.has_numbers());
    format!("r.usage_source IN ({})", codes(sources.map(UsageSource::code)))
}

fn codes(codes: impl Iterator<Item = u8>) -> String {
    codes.map(|code| code.to_string()).collect::<Vec<_>>().join(", ")
}

/// FNV-1a, 64 bits: stable for ever, as it stands in files.
fn hash(id: &str) -> i64 {
    let hash = id
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    hash.cast_signed()
}
