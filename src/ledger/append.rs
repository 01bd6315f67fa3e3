//! Appends records to the ledger: one transaction a batch, prepared statements, names turned into numbers.
//!
//! In: records. Out: rows of `records`, and of `users`, `teams` and `models` for names not seen before; what the
//! fold wants to know of them. Never: an update of anything else; that is the fold's.

use super::deduplication::Deduplication;
use super::fold::{RecentRows, fold_recent};
use super::marks::{LAST_ID, Progress};
use super::numbers::{USAGE, stored, stored_correction, stored_cost, stored_usage};
use super::partition::{NS_PER_DAY, NS_PER_HOUR};
use super::rollup::Bound;
use super::snapshot::Snapshot;
use crate::base::table::Table;
use crate::usage::record::{Journal, Record};
use rusqlite::{Connection, OptionalExtension as _, Statement, params};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Names whose numbers are remembered, of users and of models each; beyond it they are looked up again.
const NAMES_KNOWN_MAX: usize = 10_000;

/// The statements and names of the one connection that appends. There is one of them for a connection: whoever else
/// writes has another.
pub struct Writer<'c> {
    conn: &'c Connection,
    /// Held from one commit to the next.
    snapshot: Snapshot<'c>,
    begin: Statement<'c>,
    last_id: Statement<'c>,
    newest: i64,
    insert: Statement<'c>,
    /// What `insert` has bound.
    bound: Bound,
    commit: Statement<'c>,
    users: Names<'c>,
    models: Names<'c>,
    teams: Names<'c>,
    /// The last day on which each key was used, of those that were since this writer began.
    key_days: BTreeMap<i64, i64>,
    use_key: Statement<'c>,
    deduplication: Deduplication<'c>,
    /// What the next fold need not read back.
    recent: RecentRows,
    /// This process in the journal.
    owner: i64,
    open: Statement<'c>,
    close: Statement<'c>,
}

impl<'c> Writer<'c> {
    /// Prepares the statements.
    ///
    /// # Errors
    /// SQLite's, if the schema is not the one of this build.
    pub fn new(conn: &'c Connection) -> rusqlite::Result<Self> {
        Ok(Self {
            conn,
            snapshot: Snapshot::new(conn)?,
            begin: conn.prepare("BEGIN IMMEDIATE")?,
            last_id: conn.prepare(LAST_ID)?,
            newest: 0,
            insert: conn.prepare(&insert_sql())?,
            bound: Bound::default(),
            commit: conn.prepare("COMMIT")?,
            users: Names::new(conn, "users")?,
            models: Names::new(conn, "models")?,
            teams: Names::new(conn, "teams")?,
            key_days: BTreeMap::new(),
            use_key: conn.prepare("UPDATE client_keys SET last_used_day = ? WHERE id = ?")?,
            deduplication: Deduplication::new(conn)?,
            recent: RecentRows::default(),
            owner: 0,
            open: conn.prepare("INSERT INTO journal VALUES (?,?,?,?,?,?,?,?,?,?)")?,
            close: conn.prepare("DELETE FROM journal WHERE owner = ? AND id = ?")?,
        })
    }

    /// With this owner of the entries in the journal.
    pub fn owned_by(self, owner: i64) -> Self {
        Self { owner, ..self }
    }

    /// The id of the newest record that was there after the last commit of this writer.
    pub fn last_id(&self) -> i64 {
        self.newest
    }

    /// The connection, for whatever else is to be done with it: as fresh as one that was not used.
    pub fn conn(&mut self) -> &'c Connection {
        self.snapshot.release();
        self.conn
    }

    /// What the next fold would write of rollups, at most.
    pub fn rollups_max(&self) -> usize {
        self.recent.rollups_max()
    }

    /// Folds what it has committed, or up to `rows_max` rows that came before.
    ///
    /// # Errors
    /// SQLite's; nothing has changed then.
    pub fn fold(&mut self, rows_max: i64) -> rusqlite::Result<Progress> {
        fold_recent(self.conn(), &mut self.recent, rows_max)
    }

    /// Commits the records in their order, in one transaction: all, or none where it fails. Returns what those count
    /// whose numbers might have been recorded before: of each its new part, with the corrections that it makes.
    ///
    /// # Errors
    /// SQLite's. Nothing is committed then, and the same call may be made again.
    pub fn append(&mut self, records: &[Record]) -> rusqlite::Result<Vec<Record>> {
        let result = self.try_append(records);
        if result.is_err() {
            // Names given numbers in this transaction do not exist.
            self.users.known.clear();
            self.models.known.clear();
            self.teams.known.clear();
            self.key_days.clear();
            self.recent = RecentRows::default();
            self.snapshot.release();
            if !self.conn.is_autocommit() {
                // A failure here leaves the transaction open, and the next attempt at `BEGIN` reports it and ends here.
                let _ = self.conn.execute_batch("ROLLBACK");
            }
        }
        result
    }

    fn try_append(&mut self, records: &[Record]) -> rusqlite::Result<Vec<Record>> {
        let mut retrieved = Vec::new();
        let mut last_id = self.begin()?;
        for record in records {
            match record.journal {
                Journal::Off => {}
                Journal::Open(id) => self.open(id, record)?,
                Journal::Close(id) | Journal::Withdraw(id) => self.close(id)?,
            }
            if !record.journal.is_record() {
                continue;
            }
            if !record.may_repeat() {
                last_id += 1;
                self.insert(last_id, record)?;
                continue;
            }
            for counted in self.deduplication.counted(record)? {
                last_id += 1;
                self.insert(last_id, &counted)?;
                retrieved.push(counted);
            }
        }
        self.snapshot.hold()?;
        self.commit.raw_execute()?;
        self.newest = last_id;
        Ok(retrieved)
    }

    /// Takes the write lock; the last id that a record has.
    fn begin(&mut self) -> rusqlite::Result<i64> {
        if self.snapshot.is_held() {
            if self.begin.raw_execute().is_ok() {
                return Ok(self.newest);
            }
            // Somebody else has committed, or is about to: with a snapshot SQLite does not wait for that.
            self.snapshot.release();
        }
        self.begin.raw_execute()?;
        // SQLite would begin again at 1 where all rows are pruned.
        self.last_id.query_row([], |row| row.get(0))
    }

    fn open(&mut self, id: u64, record: &Record) -> rusqlite::Result<()> {
        let user = self.users.id(&record.user)?;
        let team = record.team.as_ref().map(|name| self.teams.id(name)).transpose()?;
        let model_requested = record.model_requested.as_ref().map(|name| self.models.id(name)).transpose()?;
        self.open.execute(params![
            self.owner,
            id.cast_signed(),
            stored_instant(record.started_at),
            user,
            record.endpoint.code(),
            model_requested,
            record.stream,
            stored(record.request_bytes),
            record.key_id,
            team,
        ])?;
        Ok(())
    }

    fn close(&mut self, id: u64) -> rusqlite::Result<()> {
        self.close.execute(params![self.owner, id.cast_signed()]).map(drop)
    }

    fn insert(&mut self, id: i64, record: &Record) -> rusqlite::Result<()> {
        let user = self.users.id(&record.user)?;
        let team = record.team.as_ref().map(|name| self.teams.id(name)).transpose()?;
        let model_requested = record.model_requested.as_ref().map(|name| self.models.id(name)).transpose()?;
        let model = record.model.as_ref().map(|name| self.models.id(name)).transpose()?;
        let started_at = stored_instant(record.started_at);
        // Whole arrays: to chain iterators of their parts costs each row several hundred instructions.
        let rest = self.bound.bind(&mut self.insert, 0, stored_usage(record).map(Some))?;
        let integers = [
            Some(id),
            Some(started_at),
            Some(user),
            Some(record.endpoint.code().into()),
            model_requested,
            model,
            Some(record.status.into()),
            Some(record.outcome.code().into()),
            Some(record.usage_source.code().into()),
            Some(record.stream.into()),
            stored_cost(record),
            Some(stored(record.duration_us)),
            record.first_byte_us.map(stored),
            Some(stored(record.proxy_us)),
            Some(stored(record.request_bytes)),
            Some(stored(record.response_bytes)),
            record.key_id,
            stored_correction(record),
            team,
        ];
        self.bound.bind(&mut self.insert, rest, integers)?;
        self.insert.raw_bind_parameter(COLUMNS - 1, record.upstream_request_id.as_deref())?;
        self.insert.raw_bind_parameter(COLUMNS, record.response_id.as_deref())?;
        self.insert.raw_execute()?;
        if let Some(key) = record.key_id {
            self.key_is_used(key, started_at / NS_PER_DAY)?;
        }
        self.recent.add(id, [started_at / NS_PER_HOUR, user, model.or(model_requested).unwrap_or(0)], team, record);
        Ok(())
    }

    /// Notes the first use of a key on a day.
    fn key_is_used(&mut self, key: i64, day: i64) -> rusqlite::Result<()> {
        if self.key_days.get(&key).is_none_or(|last| *last < day) {
            self.use_key.execute([day, key])?;
            self.key_days.insert(key, day);
        }
        Ok(())
    }
}

/// Columns of `records`.
const COLUMNS: usize = 34;

fn insert_sql() -> String {
    format!(
        "INSERT INTO records ({USAGE}, id, started_at, user_id, endpoint, model_requested_id, model_id, status, outcome,
            usage_source, stream, cost_nano_usd, duration_us, first_byte_us, proxy_us, request_bytes, response_bytes,
            key_id, correction, team_id, upstream_request_id, response_id) VALUES ({})",
        ["?"; COLUMNS].join(", ")
    )
}

/// Below `i64::MAX`, so that a half-open range can hold it.
fn stored_instant(unix_ns: u64) -> i64 {
    unix_ns.min(i64::MAX as u64 - 1) as i64
}

/// The numbers of one side table's names.
struct Names<'c> {
    known: Table<Arc<str>, i64>,
    select: Statement<'c>,
    insert: Statement<'c>,
}

impl<'c> Names<'c> {
    fn new(conn: &'c Connection, table: &str) -> rusqlite::Result<Self> {
        Ok(Self {
            known: Table::default(),
            select: conn.prepare(&format!("SELECT id FROM {table} WHERE name = ?"))?,
            insert: conn.prepare(&format!("INSERT INTO {table} (name) VALUES (?)"))?,
        })
    }

    fn id(&mut self, name: &Arc<str>) -> rusqlite::Result<i64> {
        if let Some(id) = self.known.get(name) {
            return Ok(*id);
        }
        let found = self.select.query_row([&**name], |row| row.get(0)).optional()?;
        let id = match found {
            Some(id) => id,
            None => self.insert.insert([&**name])?,
        };
        if self.known.len() >= NAMES_KNOWN_MAX {
            self.known.clear();
        }
        self.known.insert(Arc::clone(name), id);
        Ok(id)
    }
}
