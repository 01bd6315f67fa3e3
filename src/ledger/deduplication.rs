//! Deduplication: what a retrieval reports is recorded only as far as it exceeds what was recorded under the same id
//! before, by whomever. So a replay adds nothing, and a total that grows is recorded in the end once and whole.
//!
//! Where what was recorded is no number of the upstream's, but an estimate, or none, it gives way: the retrieval counts
//! nothing itself, and a correction says what its number is more or less than that record. It stands beside that record
//! in all but the numbers (the user, the time, the model), so that no sum of anything is ever too high or negative, and
//! nothing is overwritten. From then on the number is a reported one, which is never lowered.
//!
//! | recorded under the id, from its last creation on | a retrieval reports | it counts |
//! |---|---|---|
//! | nothing | a number | the number |
//! | a reported number, perhaps others | a number | its excess over all |
//! | estimates, or that nothing is known | nothing, or zero | nothing |
//! | | a number | nothing; corrections make it the sum |
//! | any | an estimate (a stream that was cut) | its excess over all |
//! | something that is pruned | anything | nothing |
//!
//! In: a record that may repeat another. Out: what it counts. The ids are found through an index that follows behind
//! the rows like the other ones, and in the rows after its own watermark; so a database that had no such index is right
//! from the first moment, while it is being made.
//!
//! The index (table `counted`) holds hashes, in blocks of records so that what is written together lies together; the
//! rows hold the ids themselves, which decide. Where the row is gone (pruned), the hash alone says that it was
//! recorded, until it goes too ([`super::prune`]).

use super::marks;
use super::numbers::{RECORD, USAGE, record, usage};
use crate::usage::record::{Correction, Endpoint, Journal, Record, Usage, UsageSource};
use rusqlite::{Connection, Row, Statement, params};

/// Records of one block of the index, as a shift. A retrieval looks into each block.
pub const BLOCK_SHIFT: u32 = 16;

/// The statements of a connection that ask what was recorded under an id.
pub struct Deduplication<'c> {
    find: Statement<'c>,
    read: Statement<'c>,
}

/// What was recorded under one id until now.
#[derive(Default)]
struct Before {
    /// There are numbers.
    any: bool,
    more: Usage,
    less: Usage,
    cost_nano_usd: i64,
    /// Parts without a price.
    unpriced: i64,
    /// A part is known by its hash only.
    pruned: bool,
    /// What gives way to a number of the upstream's, where none is there from the last creation on: the rows since.
    estimates: Vec<i64>,
    reported: bool,
}

impl Before {
    /// Takes in the next row, in the order of their ids.
    fn add(&mut self, row: &Row<'_>) -> rusqlite::Result<()> {
        let Some(id) = row.get(0)? else {
            (self.any, self.pruned) = (true, true);
            return Ok(());
        };
        let source = UsageSource::from_code(row.get(1)?).unwrap_or_default();
        let endpoint = Endpoint::from_code(row.get(2)?).unwrap_or_default();
        if source != UsageSource::Correction && !endpoint.is_retrieval() {
            (self.reported, self.estimates) = (false, Vec::new()); // another thing, under an id that is used again
        }
        match source {
            UsageSource::Estimated | UsageSource::Unknown => self.estimates.push(id),
            _ => self.reported = true,
        }
        if source != UsageSource::Unknown {
            let (more, less) = usage(row, 5)?;
            let cost: Option<i64> = row.get(3)?;
            self.any = true;
            (self.more, self.less) = (self.more.plus(&more), self.less.plus(&less));
            self.cost_nano_usd = self.cost_nano_usd.saturating_add(cost.unwrap_or(0));
            self.unpriced += row.get::<_, Option<i64>>(4)?.unwrap_or(cost.is_none().into());
        }
        Ok(())
    }
}

impl<'c> Deduplication<'c> {
    /// Prepares the statements.
    ///
    /// # Errors
    /// SQLite's, if the schema is not the one of this build.
    pub fn new(conn: &'c Connection) -> rusqlite::Result<Self> {
        let read = conn.prepare(&format!("SELECT {RECORD}, {USAGE} FROM records r WHERE r.id = ?"))?;
        Ok(Self { find: conn.prepare(&find_sql())?, read })
    }

    /// What a record counts: itself with what is new of its numbers, and behind it the corrections that it makes. To be
    /// called in the transaction that appends them.
    pub fn counted(&mut self, record: &Record) -> rusqlite::Result<Vec<Record>> {
        let before = match &record.response_id {
            Some(id) => self.before(id, record.endpoint == Endpoint::ResponsesImages)?,
            // Nothing tells it from a replay.
            None => Before { any: true, pruned: true, ..Before::default() },
        };
        let nothing_new = || Record {
            usage: Usage::default(),
            usage_source: UsageSource::None,
            cost_nano_usd: Some(0),
            ..record.clone()
        };
        if !before.pruned && !before.reported && !before.estimates.is_empty() && record.usage_source.is_report() {
            let mut counted = vec![nothing_new()];
            if record.usage != Usage::default() {
                self.correct(&before.estimates, record, &mut counted)?;
            }
            return Ok(counted);
        }
        let excess = if before.pruned {
            Usage::default()
        } else {
            record.usage.excess_over(&before.more.excess_over(&before.less))
        };
        if excess == Usage::default() && before.any {
            return Ok(vec![nothing_new()]);
        }
        let mut new = Record { usage: excess, ..record.clone() };
        if before.any {
            let spent = before.cost_nano_usd.max(0).unsigned_abs();
            new.cost_nano_usd =
                record.cost_nano_usd.filter(|_| before.unpriced <= 0).map(|all| all.saturating_sub(spent));
        }
        Ok(vec![new])
    }

    /// Adds what makes `report` the sum of these rows: the first of them gets it whole, the others are taken back.
    fn correct(&mut self, rows: &[i64], report: &Record, into: &mut Vec<Record>) -> rusqlite::Result<()> {
        let nothing = Record { cost_nano_usd: Some(0), ..Record::default() };
        for (place, id) in rows.iter().enumerate() {
            let estimate = self.read.query_row([id], record)?;
            into.push(correction(estimate, if place == 0 { report } else { &nothing }, report));
        }
        Ok(())
    }

    fn before(&mut self, id: &str, images: bool) -> rusqlite::Result<Before> {
        let mut before = Before::default();
        let mut rows = self.find.query(params![hash(id), id, images, Endpoint::ResponsesImages.code()])?;
        while let Some(row) = rows.next()? {
            before.add(row)?;
        }
        Ok(before)
    }
}

/// What `truth` is more or less than a record that was estimated or unknown, as `teller` has told. Where the price of
/// the truth is not known, that of the estimate stays.
fn correction(estimate: Record, truth: &Record, teller: &Record) -> Record {
    let (known, before) = (truth.cost_nano_usd, estimate.cost_nano_usd.unwrap_or(0));
    let correction = Correction {
        less: estimate.usage.excess_over(&truth.usage),
        less_nano_usd: known.map_or(0, |nano_usd| before.saturating_sub(nano_usd)),
        gives_price: known.is_some() && estimate.cost_nano_usd.is_none(),
    };
    Record {
        seq: teller.seq,
        usage_source: UsageSource::Correction,
        usage: truth.usage.excess_over(&estimate.usage),
        cost_nano_usd: known.map(|nano_usd| nano_usd.saturating_sub(before)),
        duration_us: 0,
        first_byte_us: None,
        proxy_us: 0,
        request_bytes: 0,
        response_bytes: 0,
        journal: Journal::Off,
        is_retrieval: true,
        upstream_request_id: teller.upstream_request_id.clone(),
        correction: Some(Box::new(correction)),
        ..estimate
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
        "SELECT id, response_id, usage_source FROM records r WHERE id > ? AND id <= ? AND endpoint IN ({})
            AND {} AND response_id IS NOT NULL",
        codes(Endpoint::ALL.iter().filter(|endpoint| endpoint.is_retrievable()).map(|endpoint| endpoint.code())),
        is_known(),
    ))?;
    let entry = |row: &Row<'_>| {
        let source = UsageSource::from_code(row.get(2)?).unwrap_or_default();
        Ok(entry_of(row.get(0)?, row.get_ref(1)?.as_str()?, source))
    };
    let entries: Vec<Counted> = select.query_map([mark, to], entry)?.collect::<rusqlite::Result<_>>()?;
    add(conn, entries, to)
}

/// A row of the index.
pub type Counted = [i64; 4];

/// The condition for rows `r` of which something was or may have been consumed.
fn is_known() -> String {
    format!("r.usage_source <> {}", UsageSource::None.code())
}

/// What the index holds of a record that gets this id, if anything.
pub fn entry(id: i64, record: &Record) -> Option<Counted> {
    let response_id = record.response_id.as_deref()?;
    let is_known = record.endpoint.is_retrievable() && record.usage_source != UsageSource::None;
    is_known.then(|| entry_of(id, response_id, record.usage_source))
}

fn entry_of(id: i64, response_id: &str, source: UsageSource) -> Counted {
    [id >> BLOCK_SHIFT, hash(response_id), id, (source == UsageSource::Unknown).into()]
}

/// Puts into the index what it holds of the records from its mark to `to`, within the caller's transaction, and moves
/// the mark there; returns it.
pub fn add(conn: &Connection, mut entries: Vec<Counted>, to: i64) -> rusqlite::Result<i64> {
    entries.sort_unstable();
    let mut insert = conn.prepare_cached("INSERT INTO counted VALUES (?, ?, ?, ?)")?;
    for entry in &entries {
        insert.execute(*entry)?;
    }
    marks::advance(conn, marks::DEDUPLICATION, to)?;
    Ok(to)
}

/// Rows by id, as [`Before::add`] reads them: hash, id, and whether images are asked for or all the rest.
fn find_sql() -> String {
    let columns = format!("r.id, r.usage_source, r.endpoint, r.cost_nano_usd, r.correction, {USAGE}");
    let is_known = is_known();
    format!(
        "WITH RECURSIVE mark(id) AS (SELECT record_id FROM marks WHERE name = 'counted'),
            blocks(block) AS (SELECT min(block) FROM counted UNION ALL SELECT block + 1 FROM blocks, mark
                WHERE block < mark.id >> {BLOCK_SHIFT})
         SELECT {columns}
            FROM blocks b CROSS JOIN counted c ON c.block = b.block AND c.hash = ?1
                LEFT JOIN records r ON r.id = c.record_id
            WHERE r.id IS NULL AND NOT c.empty OR r.response_id = ?2 AND (r.endpoint = ?4) = ?3
         UNION ALL
         SELECT {columns}
            FROM mark CROSS JOIN records r ON r.id > mark.id
            WHERE r.response_id = ?2 AND (r.endpoint = ?4) = ?3 AND {is_known}
         ORDER BY 1"
    )
}

fn codes(codes: impl Iterator<Item = u8>) -> String {
    codes.map(|code| code.to_string()).collect::<Vec<_>>().join(", ")
}

/// What the index holds of a response id, where its usage may be reported again: as a row's endpoint and source, by
/// their codes, say.
pub fn hash_of_row(endpoint: i64, source: i64, response_id: Option<&str>) -> Option<i64> {
    let endpoint = u8::try_from(endpoint).ok().and_then(Endpoint::from_code).unwrap_or_default();
    let is_known = endpoint.is_retrievable() && source != i64::from(UsageSource::None.code());
    response_id.filter(|_| is_known).map(hash)
}

/// FNV-1a, 64 bits: stable for ever, as it stands in files.
fn hash(id: &str) -> i64 {
    let hash = id
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    hash.cast_signed()
}
