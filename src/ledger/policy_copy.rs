//! A node's copy of the fleet's keys, limits and teams: in the tables that a single node has, so that whatever reads
//! those knows them, also after a restart while the fleet is out of reach.
//!
//! In: changes, as the fleet tells them. Out: tables with them; what a ledger had of its own. Never: what the fleet has
//! said already, twice; a lock on the fleet.

use super::keys_and_limits::{RuleRow, keys, members, read, rule_rows};
use crate::access::Hash;
use crate::policy::Policy;
use crate::reporting::KeyRow;
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

    /// Puts it into the tables, in one transaction. What they say with it is told before it is committed: a key that is
    /// revoked opens nothing, though the disk be full.
    ///
    /// # Errors
    /// SQLite's; the tables have not changed then.
    pub fn keep(&self, conn: &Connection, tell: impl FnOnce(Policy)) -> rusqlite::Result<()> {
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
        tell(read(&transaction)?);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::database;

    fn key(id: i64, text: &str, revoked_at: Option<u64>) -> (KeyRow, Hash) {
        let (user, name, team) = (text.to_owned(), String::new(), None);
        let row = KeyRow {
            id,
            user,
            team,
            name,
            created_at: 1,
            expires_at: None,
            revoked_at,
            last_used_day: Some(id as u64),
        };
        (row, Hash::of(text.as_bytes()))
    }

    #[test]
    fn a_copy_is_what_the_fleet_says_but_for_what_only_the_node_knows() {
        let folder = tempfile::tempdir().unwrap();
        let conn = database::open(&folder.path().join("usage.db")).unwrap();
        let mut told = Vec::new();
        let mut keep = |copy: &PolicyCopy| {
            copy.keep(&conn, |policy| told.push(policy.keys.len())).unwrap();
            PolicyCopy::of_ledger(&conn).unwrap()
        };
        let limit = |rpm| RuleRow { numbers: [Some(rpm), None, None, None, None], ..RuleRow::default() };
        let mut whole = PolicyCopy {
            is_whole: true,
            keys: vec![key(1, "a", None), key(2, "b", None)],
            limits: vec![("user".into(), "a".into(), Some(limit(5))), ("later".into(), "x".into(), Some(limit(7)))],
            members: vec![("a".into(), Some("t".into()))],
        };
        whole.limits.sort();
        assert_eq!(keep(&whole), whole);
        conn.execute("UPDATE client_keys SET last_used_day = 9 WHERE id = 1", []).unwrap();
        // A number may become another's: whose key it is tells its hash.
        let changed = PolicyCopy {
            is_whole: false,
            keys: vec![key(2, "a", None), key(3, "b", Some(8))],
            limits: vec![("user".into(), "a".into(), None)],
            members: vec![("a".into(), None)],
        };
        let kept = keep(&changed);
        assert_eq!(kept.keys.iter().map(|(key, _)| (key.id, &*key.user)).collect::<Vec<_>>(), [(2, "a"), (3, "b")]);
        assert_eq!(kept.keys.iter().map(|(key, _)| key.last_used_day).collect::<Vec<_>>(), [Some(9), Some(3)]);
        assert_eq!((kept.limits, kept.members), (vec![("later".into(), "x".into(), Some(limit(7)))], vec![]));
        let empty = PolicyCopy { is_whole: true, ..PolicyCopy::default() };
        assert_eq!(keep(&empty), empty);
        assert_eq!(told, [2, 1, 0], "keys that are in force");
    }
}
