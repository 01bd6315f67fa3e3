//! A node's copy of the fleet's keys, limits and teams: in the tables that a single node has, so that whatever reads
//! those knows them, also after a restart while the fleet is out of reach.
//!
//! In: changes, as the fleet tells them. Out: tables with them; what a ledger had of its own. Never: what the fleet has
//! said already, twice; a lock on the fleet.

use super::keys_and_limits::{KeyRow, RuleRow, keys, members, rule_rows};
use crate::access::Hash;
use rusqlite::{Connection, Transaction, TransactionBehavior, params};
use std::collections::BTreeMap;

/// What the fleet says of keys, limits and teams: all of it, or what has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyCopy {
    /// True for all of it: what is not in it is no more.
    pub is_whole: bool,
    pub keys: Vec<(KeyRow, Hash)>,
    /// `None` where nothing is set any more.
    pub limits: Vec<(String, String, Option<RuleRow>)>,
    /// Users, each with a team, or `None` for one who is in none any more.
    pub members: Vec<(String, Option<String>)>,
}

impl PolicyCopy {
    /// All that the ledger has, whoever has put it there.
    ///
    /// # Errors
    /// SQLite's.
    pub fn of_ledger(conn: &Connection) -> rusqlite::Result<Self> {
        let members = members(conn)?.into_iter().map(|(user, team)| (user.into(), Some(String::from(&*team))));
        let limits = rule_rows(conn)?.into_iter().map(|(level, name, row)| (level, name, Some(row)));
        Ok(Self { is_whole: true, keys: keys(conn)?, limits: limits.collect(), members: members.collect() })
    }

    /// True where nothing is different by it.
    pub fn is_empty(&self) -> bool {
        !self.is_whole && self.keys.is_empty() && self.limits.is_empty() && self.members.is_empty()
    }

    /// Puts it into the tables, in one transaction.
    ///
    /// # Errors
    /// SQLite's; nothing has changed then.
    pub fn keep(&self, conn: &Connection) -> rusqlite::Result<()> {
        let transaction = Transaction::new_unchecked(conn, TransactionBehavior::Immediate)?;
        let used = last_used(&transaction)?;
        if self.is_whole {
            transaction.execute_batch("DELETE FROM client_keys; DELETE FROM limits; DELETE FROM members")?;
        }
        self.keep_keys(&transaction, &used)?;
        for (level, name, row) in &self.limits {
            match row {
                Some(row) => row.write(&transaction, level, name)?,
                None => _ = transaction.execute("DELETE FROM limits WHERE level = ? AND name = ?", [level, name])?,
            }
        }
        for (user, team) in &self.members {
            match team {
                Some(team) => transaction.execute("INSERT OR REPLACE INTO members VALUES (?, ?)", [user, team])?,
                None => transaction.execute("DELETE FROM members WHERE user = ?", [user])?,
            };
        }
        transaction.execute("UPDATE policy SET version = version + 1", [])?;
        transaction.commit()
    }

    fn keep_keys(&self, conn: &Connection, used: &BTreeMap<Vec<u8>, i64>) -> rusqlite::Result<()> {
        let mut insert = conn.prepare_cached(
            "INSERT OR REPLACE INTO client_keys
            (id, user, team, name, hash, created_at, expires_at, revoked_at, last_used_day)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )?;
        let number = |value: Option<u64>| value.map(u64::cast_signed);
        for (key, hash) in &self.keys {
            let used_here = used.get(hash.as_slice()).copied();
            insert.execute(params![
                key.id,
                key.user,
                key.team,
                key.name,
                hash.as_slice(),
                key.created_at.cast_signed(),
                number(key.expires_at),
                number(key.revoked_at),
                used_here.max(number(key.last_used_day)),
            ])?;
        }
        Ok(())
    }
}

/// When each key was used here last.
fn last_used(conn: &Connection) -> rusqlite::Result<BTreeMap<Vec<u8>, i64>> {
    let mut select =
        conn.prepare_cached("SELECT hash, last_used_day FROM client_keys WHERE last_used_day IS NOT NULL")?;
    let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    rows.collect()
}
