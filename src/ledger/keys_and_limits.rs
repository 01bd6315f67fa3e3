//! The tables of keys and limits: read by the ledger's thread, which follows their version, and changed by commands,
//! also while servers run on the same file.
//!
//! In: a connection. Out: the tables, whole. Never: a secret, only hashes.

use super::database;
use crate::access::{Hash, Key};
use crate::limit::overrides::Overrides;
use crate::policy::{AllowedPaths, Policy};
use rusqlite::{Connection, OptionalExtension as _, TransactionBehavior, params};
use std::collections::BTreeMap;
use std::path::Path;

/// Another number after each change.
pub fn version(conn: &Connection) -> rusqlite::Result<i64> {
    conn.prepare_cached("SELECT version FROM policy")?.query_row([], |row| row.get(0))
}

/// Reads the tables.
pub fn read(conn: &Connection) -> rusqlite::Result<Policy> {
    let keys = keys(conn)?.into_iter().filter(|(row, _)| row.revoked_at.is_none());
    let keys = keys.map(|(row, hash)| Key { id: row.id, user: row.user.into(), hash, expires_at: row.expires_at });
    Ok(Policy { keys: keys.collect(), overrides: limits(conn)?, paths: paths(conn)? })
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
    /// One sentence, as of [`database::open`].
    pub fn open(path: &Path) -> Result<Self, String> {
        Ok(Self { conn: database::open(path)? })
    }

    /// The same, where the ledger must be there already.
    ///
    /// # Errors
    /// One sentence, also where there is none.
    pub fn open_existing(path: &Path) -> Result<Self, String> {
        Self::open(&database::existing(path)?)
    }

    /// Adds a key; its id.
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

    /// Revokes a key. `None` where there is no such key; else whether it was still in force.
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

    /// Sets those of a user's limits that are given, and leaves the others; the user's own limits after that.
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

    /// Sets what a user may ask for.
    pub fn set_paths(&mut self, user: &str, allowed: &AllowedPaths) -> Result<(), String> {
        let sql = "INSERT OR REPLACE INTO user_paths VALUES (?, ?)";
        self.change(|conn| conn.execute(sql, [user, &allowed.to_string()]).map(drop))
    }

    /// Takes a user's own limits away, of paths too; false where there were none.
    pub fn clear_limits(&mut self, user: &str) -> Result<bool, String> {
        self.change(|conn| {
            let limits = conn.execute("DELETE FROM user_limits WHERE user = ?", [user])?;
            Ok(limits + conn.execute("DELETE FROM user_paths WHERE user = ?", [user])? > 0)
        })
    }

    fn change<T>(&mut self, edit: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, String> {
        let try_change = || {
            let transaction = self.conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let edited = edit(&transaction)?;
            transaction.execute("UPDATE policy SET version = version + 1", [])?;
            transaction.commit()?;
            Ok(edited)
        };
        try_change().map_err(|error: rusqlite::Error| format!("the ledger cannot be changed: {error}"))
    }
}

/// All keys, in the order in which they were made.
pub fn keys(conn: &Connection) -> rusqlite::Result<Vec<(KeyRow, Hash)>> {
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

/// What users may ask for who have a rule of their own. One that cannot be read, of a later version, allows nothing.
pub fn paths(conn: &Connection) -> rusqlite::Result<BTreeMap<Box<str>, AllowedPaths>> {
    let mut select = conn.prepare_cached("SELECT user, paths FROM user_paths")?;
    let rows = select.query_map([], |row| {
        let allowed = AllowedPaths::parse(&row.get::<_, String>(1)?);
        Ok((row.get::<_, String>(0)?.into(), allowed.unwrap_or(AllowedPaths::Under(Vec::new()))))
    })?;
    rows.collect()
}

/// Users' own limits, in the order of their names.
pub fn limits(conn: &Connection) -> rusqlite::Result<BTreeMap<Box<str>, Overrides>> {
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
