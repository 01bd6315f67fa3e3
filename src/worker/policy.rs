//! The tables of keys and limits: read by the ledger's thread, which follows their version, and changed by commands,
//! also while servers run on the same file.
//!
//! In: a connection. Out: the tables, whole; what was spent in a period. Never: a secret, only
//! hashes.

#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // the outside world: clocks and any map

use super::fold::{NS_PER_HOUR, read_mark};
use super::{EventSender, WorkerEvent, schema, unix_now};
use crate::access::{Hash, Key};
use crate::base::civil::first_day_of_month;
use crate::limit::budget::{Period, SpendByUser, Spent};
use crate::limit::overrides::{Limits, Overrides};
use crate::policy::Policy;
use rusqlite::{Connection, OptionalExtension as _, Row, TransactionBehavior, params};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

const HOURS_PER_DAY: i64 = 24;

/// How often the version is looked at: a change is in force within a second.
pub const FOLLOW_EVERY: Duration = Duration::from_millis(500);

/// Follows the tables.
#[derive(Debug)]
pub struct Follower {
    version: i64,
    look_at: Instant,
}

impl Follower {
    /// Tells the loop of the tables, and of what was spent where somebody has a budget (or everybody: `budgets`), so
    /// that it knows before the first request.
    ///
    /// # Errors
    /// SQLite's.
    pub fn start(conn: &Connection, budgets: bool, events: &EventSender) -> rusqlite::Result<Self> {
        let (version, policy) = (version(conn)?, read(conn)?);
        let has_budget = |own: &Overrides| Limits::default().with(own).has_budget();
        let budgets = budgets || policy.overrides.values().any(has_budget);
        events.send(WorkerEvent::Policy(policy));
        if budgets {
            events.send(WorkerEvent::SpendByUser(spend_by_user(conn, Period::of(unix_now()), 0)?));
        }
        Ok(Self { version, look_at: Instant::now() + FOLLOW_EVERY })
    }

    /// When to look next.
    pub fn look_at(&self) -> Instant {
        self.look_at
    }

    /// The tables, if it was time to look and they have changed. Errors are for the next look.
    pub fn look<'c>(&mut self, conn: impl FnOnce() -> &'c Connection) -> Option<Policy> {
        let now = Instant::now();
        if now < self.look_at {
            return None;
        }
        let conn = conn();
        self.look_at = now + FOLLOW_EVERY;
        let version = version(conn).ok().filter(|&version| version != self.version)?;
        let policy = read(conn).ok()?;
        self.version = version;
        Some(policy)
    }
}

fn version(conn: &Connection) -> rusqlite::Result<i64> {
    conn.prepare_cached("SELECT version FROM policy")?.query_row([], |row| row.get(0))
}

/// Reads the tables.
pub fn read(conn: &Connection) -> rusqlite::Result<Policy> {
    let keys = keys(conn)?.into_iter().filter(|(row, _)| row.revoked_at.is_none());
    let keys = keys.map(|(row, hash)| Key { id: row.id, user: row.user.into(), hash, expires_at: row.expires_at });
    Ok(Policy { keys: keys.collect(), overrides: limits(conn)? })
}

/// What each user has spent in the day and the month of `period`, and in no other: the rollups up to the mark, and the
/// rows after it. `upto_seq` is of the last record of this process that is committed.
///
/// # Errors
/// SQLite's.
pub fn spend_by_user(conn: &Connection, period: Period, upto_seq: u64) -> rusqlite::Result<SpendByUser> {
    let snapshot = conn.unchecked_transaction()?;
    let mark = read_mark(&snapshot)?;
    let [month, month_end] = [period.month, period.month + 1].map(|month| first_day_of_month(month) * HOURS_PER_DAY);
    let [day, day_end] = [period.day, period.day + 1].map(|day| day * HOURS_PER_DAY);
    let mut sums: BTreeMap<i64, Spent> = BTreeMap::new();
    let mut add = |row: &Row<'_>| -> rusqlite::Result<()> {
        let spent = sums.entry(row.get(0)?).or_default();
        spent.day = spent.day.saturating_add(row.get::<_, i64>(1)?.max(0).cast_unsigned());
        spent.month = spent.month.saturating_add(row.get::<_, i64>(2)?.max(0).cast_unsigned());
        Ok(())
    };
    let mut folded = snapshot.prepare(
        "SELECT user_id, sum(iif(hour >= ?3 AND hour < ?4, cost_nano_usd, 0)), sum(cost_nano_usd) FROM rollups
        WHERE hour >= ?1 AND hour < ?2 AND user_id > 0 GROUP BY user_id",
    )?;
    let mut rows = folded.query([month, month_end, day, day_end])?;
    while let Some(row) = rows.next()? {
        add(row)?;
    }
    let mut tail = snapshot.prepare(
        "SELECT user_id, sum(iif(started_at >= ?4 AND started_at < ?5, cost_nano_usd, 0)), sum(cost_nano_usd)
        FROM records WHERE id > ?1 AND started_at >= ?2 AND started_at < ?3 AND cost_nano_usd > 0 GROUP BY user_id",
    )?;
    let [month, month_end, day, day_end] = [month, month_end, day, day_end].map(|hour| hour * NS_PER_HOUR);
    let mut rows = tail.query([mark, month, month_end, day, day_end])?;
    while let Some(row) = rows.next()? {
        add(row)?;
    }
    let mut name = snapshot.prepare("SELECT name FROM users WHERE id = ?")?;
    let users = sums.into_iter().filter(|(_, spent)| *spent != Spent::default());
    let users = users.map(|(id, spent)| Ok((name.query_row([id], |row| row.get::<_, String>(0))?.into(), spent)));
    let users = users.collect::<rusqlite::Result<_>>()?;
    Ok(SpendByUser { period, upto_seq, next_day: next_day(&snapshot, mark, period.day)?, users })
}

/// The first day after this one in which something is spent: while a clock was ahead.
fn next_day(conn: &Connection, mark: i64, day: i64) -> rusqlite::Result<Option<i64>> {
    let hour = (day + 1) * HOURS_PER_DAY;
    let folded = "SELECT min(hour) FROM rollups WHERE hour >= ? AND cost_nano_usd > 0";
    let folded: Option<i64> = conn.query_row(folded, [hour], |row| row.get(0))?;
    let tail = "SELECT min(started_at) FROM records WHERE id > ? AND started_at >= ? AND cost_nano_usd > 0";
    let tail: Option<i64> = conn.query_row(tail, [mark, hour * NS_PER_HOUR], |row| row.get(0))?;
    let hours = [folded, tail.map(|started_at| started_at / NS_PER_HOUR)];
    Ok(hours.into_iter().flatten().min().map(|hour| hour / HOURS_PER_DAY))
}

/// A client key as an operator sees it. Instants in nanoseconds since the Unix epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRow {
    pub id: i64,
    pub user: String,
    pub name: String,
    pub created_at: u64,
    pub expires_at: Option<u64>,
    pub revoked_at: Option<u64>,
}

/// The tables, to be changed by a command.
pub struct Editor {
    conn: Connection,
}

impl Editor {
    /// Opens the ledger, which is created where there is none.
    ///
    /// # Errors
    /// One sentence, as of [`schema::open`].
    pub fn open(path: &Path) -> Result<Self, String> {
        Ok(Self { conn: schema::open(path)? })
    }

    /// Adds a key; its id.
    ///
    /// # Errors
    /// One sentence: SQLite's.
    pub fn add_key(
        &mut self,
        user: &str,
        name: &str,
        hash: &Hash,
        now: u64,
        expires_at: Option<u64>,
    ) -> Result<i64, String> {
        self.change(|conn| {
            conn.execute(
                "INSERT INTO client_keys (user, name, hash, created_at, expires_at) VALUES (?, ?, ?, ?, ?)",
                params![user, name, hash.as_slice(), now.cast_signed(), expires_at.map(u64::cast_signed)],
            )?;
            Ok(conn.last_insert_rowid())
        })
    }

    /// All keys, in the order in which they were made.
    ///
    /// # Errors
    /// One sentence: SQLite's.
    pub fn keys(&self) -> Result<Vec<KeyRow>, String> {
        let keys = keys(&self.conn).map_err(|error| unreadable(&error))?;
        Ok(keys.into_iter().map(|(row, _)| row).collect())
    }

    /// Revokes a key. `None` where there is no such key; else whether it was still in force.
    ///
    /// # Errors
    /// One sentence: SQLite's.
    pub fn revoke(&mut self, id: i64, now: u64) -> Result<Option<bool>, String> {
        self.change(|conn| {
            let sql = "SELECT revoked_at IS NULL FROM client_keys WHERE id = ?";
            let found: Option<bool> = conn.query_row(sql, [id], |row| row.get(0)).optional()?;
            if found == Some(true) {
                conn.execute("UPDATE client_keys SET revoked_at = ? WHERE id = ?", [now.cast_signed(), id])?;
            }
            Ok(found)
        })
    }

    /// Users' own limits, in the order of their names.
    ///
    /// # Errors
    /// One sentence: SQLite's.
    pub fn limits(&self) -> Result<BTreeMap<Box<str>, Overrides>, String> {
        limits(&self.conn).map_err(|error| unreadable(&error))
    }

    /// Sets those of a user's limits that are given, and leaves the others; the user's own limits after that.
    ///
    /// # Errors
    /// One sentence: SQLite's.
    pub fn set_limits(&mut self, user: &str, given: &Overrides) -> Result<Overrides, String> {
        self.change(|conn| {
            let before = limits(conn)?.get(user).copied().unwrap_or_default();
            let own = Overrides {
                rpm: given.rpm.or(before.rpm),
                tpm: given.tpm.or(before.tpm),
                concurrent: given.concurrent.or(before.concurrent),
                day_nano_usd: given.day_nano_usd.or(before.day_nano_usd),
                month_nano_usd: given.month_nano_usd.or(before.month_nano_usd),
            };
            let number = |value: Option<u64>| value.map(u64::cast_signed);
            conn.execute(
                "INSERT OR REPLACE INTO user_limits VALUES (?, ?, ?, ?, ?, ?)",
                params![
                    user,
                    number(own.rpm),
                    number(own.tpm),
                    own.concurrent,
                    number(own.day_nano_usd),
                    number(own.month_nano_usd),
                ],
            )?;
            Ok(own)
        })
    }

    /// Takes a user's own limits away; false where there were none.
    ///
    /// # Errors
    /// One sentence: SQLite's.
    pub fn clear_limits(&mut self, user: &str) -> Result<bool, String> {
        self.change(|conn| Ok(conn.execute("DELETE FROM user_limits WHERE user = ?", [user])? > 0))
    }

    fn change<T>(&mut self, edit: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, String> {
        self.try_change(edit).map_err(|error| format!("the ledger cannot be changed: {error}"))
    }

    fn try_change<T>(&mut self, edit: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> rusqlite::Result<T> {
        let transaction = self.conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let edited = edit(&transaction)?;
        transaction.execute("UPDATE policy SET version = version + 1", [])?;
        transaction.commit()?;
        Ok(edited)
    }
}

fn unreadable(error: &rusqlite::Error) -> String {
    format!("the ledger cannot be read: {error}")
}

fn keys(conn: &Connection) -> rusqlite::Result<Vec<(KeyRow, Hash)>> {
    let mut select = conn.prepare_cached(
        "SELECT id, user, name, created_at, expires_at, revoked_at, hash FROM client_keys ORDER BY id",
    )?;
    let instant = |value: Option<i64>| value.map(i64::cast_unsigned);
    let rows = select.query_map([], |row| {
        let key = KeyRow {
            id: row.get(0)?,
            user: row.get(1)?,
            name: row.get(2)?,
            created_at: row.get::<_, i64>(3)?.cast_unsigned(),
            expires_at: instant(row.get(4)?),
            revoked_at: instant(row.get(5)?),
        };
        Ok(Hash::from_slice(&row.get::<_, Vec<u8>>(6)?).map(|hash| (key, hash)))
    })?;
    // A hash of another length is none of ours, and opens nothing.
    rows.filter_map(Result::transpose).collect()
}

fn limits(conn: &Connection) -> rusqlite::Result<BTreeMap<Box<str>, Overrides>> {
    let mut select =
        conn.prepare_cached("SELECT user, rpm, tpm, concurrent, day_nano_usd, month_nano_usd FROM user_limits")?;
    let number = |value: Option<i64>| value.map(|value| value.max(0).cast_unsigned());
    let rows = select.query_map([], |row| {
        let own = Overrides {
            rpm: number(row.get(1)?),
            tpm: number(row.get(2)?),
            concurrent: number(row.get(3)?).map(|most| u32::try_from(most).unwrap_or(u32::MAX)),
            day_nano_usd: number(row.get(4)?),
            month_nano_usd: number(row.get(5)?),
        };
        Ok((row.get::<_, String>(0)?.into(), own))
    })?;
    rows.collect()
}
