//! The tables of keys, limits and teams: read by the ledger's thread, which follows their version, and changed by
//! commands and by the administrator's requests, also while servers run on the same file. Each change leaves a line in
//! the table `audit`.
//!
//! In: a connection. Out: the tables, whole. Never: a secret, only hashes.

use super::database;
use crate::access::{Hash, Key};
use crate::limit::levels::{Levels, LimitLevel};
use crate::limit::overrides::Overrides;
use crate::limit::status::dollars;
use crate::policy::{AllowedPaths, Models, Policy, Rule};
use crate::reporting::KeyRow;
use rusqlite::{Connection, OptionalExtension as _, TransactionBehavior, params};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// Another number after each change.
pub fn version(conn: &Connection) -> rusqlite::Result<i64> {
    conn.prepare_cached("SELECT version FROM policy")?.query_row([], |row| row.get(0))
}

/// Reads the tables.
pub fn read(conn: &Connection) -> rusqlite::Result<Policy> {
    let keys = keys(conn)?.into_iter().filter(|(row, _)| row.revoked_at.is_none());
    let keys = keys.map(|(row, hash)| Key {
        id: row.id,
        user: row.user.into(),
        team: row.team.map(Into::into),
        hash,
        expires_at: row.expires_at,
    });
    Ok(Policy { keys: keys.collect(), members: members(conn)?, rules: rules(conn)? })
}

/// The tables, to be changed.
pub struct Editor {
    conn: Connection,
    /// Who changes them, and when, for the audit.
    who: String,
    now: u64,
}

impl Editor {
    /// Opens the ledger, which is created where there is none, for changes that somebody makes at `now`.
    ///
    /// # Errors
    /// One sentence, as of [`database::open`].
    pub fn open(path: &Path, who: &str, now: u64) -> Result<Self, String> {
        Ok(Self { conn: database::open(path)?, who: who.to_owned(), now })
    }

    /// The same, where the ledger must be there already.
    ///
    /// # Errors
    /// One sentence, also where there is none.
    pub fn open_existing(path: &Path, who: &str, now: u64) -> Result<Self, String> {
        Self::open(&database::existing(path)?, who, now)
    }

    /// Adds a key; its id.
    pub fn add_key(
        &mut self,
        user: &str,
        team: Option<&str>,
        name: &str,
        hash: &Hash,
        expires_at: Option<u64>,
    ) -> Result<i64, String> {
        let now = self.now.cast_signed();
        self.change(|conn| {
            conn.execute(
                "INSERT INTO client_keys (user, team, name, hash, created_at, expires_at) VALUES (?, ?, ?, ?, ?, ?)",
                params![user, team, name, hash.as_slice(), now, expires_at.map(u64::cast_signed)],
            )?;
            let id = conn.last_insert_rowid();
            Ok((id, Some(format!("key {id} of {user} is made"))))
        })
    }

    /// Revokes a key. `None` where there is no such key; else whether it was still in force.
    pub fn revoke(&mut self, id: i64) -> Result<Option<bool>, String> {
        let now = self.now.cast_signed();
        self.change(|conn| {
            let sql = "SELECT revoked_at IS NULL FROM client_keys WHERE id = ?";
            let found: Option<bool> = conn.query_row(sql, [id], |row| row.get(0)).optional()?;
            if found != Some(true) {
                return Ok((found, None));
            }
            conn.execute("UPDATE client_keys SET revoked_at = ? WHERE id = ?", [now, id])?;
            Ok((found, Some(format!("key {id} is revoked"))))
        })
    }

    /// Sets what is given for a user, a team or everybody (whose name is empty), and leaves the rest; all that is set
    /// after that.
    pub fn set_rule(&mut self, level: LimitLevel, name: &str, given: &Rule) -> Result<Rule, String> {
        self.change(|conn| {
            let before = rules(conn)?;
            let before = match level {
                LimitLevel::User => before.users.get(name).cloned(),
                LimitLevel::Team => before.teams.get(name).cloned(),
                LimitLevel::Total => before.total,
            };
            let rule = before.unwrap_or_default().with(given);
            let number = |value: Option<u64>| value.map(u64::cast_signed);
            conn.execute(
                "INSERT OR REPLACE INTO limits VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                params![
                    level.label(),
                    name,
                    number(rule.limits.rpm),
                    number(rule.limits.tpm),
                    rule.limits.concurrent,
                    number(rule.limits.day_nano_usd),
                    number(rule.limits.month_nano_usd),
                    rule.models.as_ref().map(ToString::to_string),
                    rule.paths.as_ref().map(ToString::to_string),
                ],
            )?;
            let what = format!("limits of {} are set: {}", whose(level, name), said(given));
            Ok((rule, Some(what)))
        })
    }

    /// Takes away what is set for a user, a team or everybody; false where nothing was.
    pub fn clear_rule(&mut self, level: LimitLevel, name: &str) -> Result<bool, String> {
        self.change(|conn| {
            let sql = "DELETE FROM limits WHERE level = ? AND name = ?";
            let was_set = conn.execute(sql, [level.label(), name])? > 0;
            Ok((was_set, was_set.then(|| format!("limits of {} are cleared", whose(level, name)))))
        })
    }

    /// Puts a user into a team, or into none.
    pub fn set_team(&mut self, user: &str, team: Option<&str>) -> Result<(), String> {
        self.change(|conn| {
            let what = match team {
                Some(team) => {
                    conn.execute("INSERT OR REPLACE INTO members VALUES (?, ?)", [user, team])?;
                    format!("user {user} belongs to team {team}")
                }
                None => {
                    conn.execute("DELETE FROM members WHERE user = ?", [user])?;
                    format!("user {user} belongs to no team")
                }
            };
            Ok(((), Some(what)))
        })
    }

    /// Ends a team: its limits, and where `move_to` names another, its users and keys go there.
    ///
    /// Within: why not, in one sentence: it has users or keys, and `move_to` names no team; there is none of this name.
    pub fn delete_team(&mut self, team: &str, move_to: Option<&str>) -> Result<Result<(), String>, String> {
        self.change(|conn| {
            let count = |sql: &str| conn.query_row(sql, [team], |row| row.get::<_, i64>(0));
            let users = count("SELECT count(*) FROM members WHERE team = ?")?;
            let keys = count("SELECT count(*) FROM client_keys WHERE team = ? AND revoked_at IS NULL")?;
            let limits = count("SELECT count(*) FROM limits WHERE level = 'team' AND name = ?")?;
            let refused = |why: String| Ok((Err(why), None));
            match move_to {
                _ if users + keys + limits == 0 => return refused(format!("there is no team {team}")),
                None if users + keys > 0 => {
                    return refused(format!(
                        "team {team} has {users} users and {keys} keys; say where they go: --move-to TEAM"
                    ));
                }
                _ => {}
            }
            for table in ["members", "client_keys"] {
                conn.execute(&format!("UPDATE {table} SET team = ? WHERE team = ?"), params![move_to, team])?;
            }
            conn.execute("DELETE FROM limits WHERE level = 'team' AND name = ?", [team])?;
            let moved = move_to.map(|to| format!("; its users belong to team {to}")).unwrap_or_default();
            Ok((Ok(()), Some(format!("team {team} is deleted{moved}"))))
        })
    }

    /// One change, in one transaction, with its line in the audit where something was changed.
    fn change<T>(
        &mut self,
        edit: impl FnOnce(&Connection) -> rusqlite::Result<(T, Option<String>)>,
    ) -> Result<T, String> {
        let try_change = || {
            let transaction = self.conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let (edited, what) = edit(&transaction)?;
            if let Some(what) = what {
                transaction.execute("UPDATE policy SET version = version + 1", [])?;
                let sql = "INSERT INTO audit (at, who, what) VALUES (?, ?, ?)";
                transaction.execute(sql, params![self.now.cast_signed(), self.who, what])?;
            }
            transaction.commit()?;
            Ok(edited)
        };
        try_change().map_err(|error: rusqlite::Error| format!("the ledger cannot be changed: {error}"))
    }
}

/// Whose limits, for people.
pub fn whose(level: LimitLevel, name: &str) -> String {
    match level {
        LimitLevel::User => format!("user {name}"),
        LimitLevel::Team => format!("team {name}"),
        LimitLevel::Total => "all users together".to_owned(),
    }
}

/// What a change of limits names, in the words of the command.
fn said(given: &Rule) -> String {
    let Rule { limits, models, paths } = given;
    let number = |value: Option<u64>| value.map(|value| value.to_string());
    let money = |value: Option<u64>| value.map(dollars);
    let all = [
        ("rpm", number(limits.rpm)),
        ("tpm", number(limits.tpm)),
        ("concurrent", number(limits.concurrent.map(u64::from))),
        ("usd-day", money(limits.day_nano_usd)),
        ("usd-month", money(limits.month_nano_usd)),
        ("models", models.as_ref().map(ToString::to_string)),
        ("paths", paths.as_ref().map(ToString::to_string)),
    ];
    let named = all.into_iter().filter_map(|(name, value)| Some(format!("{name} {}", value?)));
    named.collect::<Vec<_>>().join(", ")
}

/// All keys, in the order in which they were made.
pub fn keys(conn: &Connection) -> rusqlite::Result<Vec<(KeyRow, Hash)>> {
    let mut select = conn.prepare_cached(
        "SELECT id, user, name, created_at, expires_at, revoked_at, hash, team, last_used_day
            FROM client_keys ORDER BY id",
    )?;
    let instant = |value: Option<i64>| value.map(i64::cast_unsigned);
    let rows = select.query_map([], |row| {
        let key = KeyRow {
            id: row.get(0)?,
            user: row.get(1)?,
            team: row.get(7)?,
            name: row.get(2)?,
            created_at: row.get::<_, i64>(3)?.cast_unsigned(),
            expires_at: instant(row.get(4)?),
            revoked_at: instant(row.get(5)?),
            last_used_day: instant(row.get(8)?),
        };
        Ok(Hash::from_slice(&row.get::<_, Vec<u8>>(6)?).map(|hash| (key, hash)))
    })?;
    // A hash of another length is none of ours, and opens nothing.
    rows.filter_map(Result::transpose).collect()
}

/// Which users belong to which team; each team's name once in memory.
pub fn members(conn: &Connection) -> rusqlite::Result<BTreeMap<Box<str>, Arc<str>>> {
    let mut select = conn.prepare_cached("SELECT user, team FROM members ORDER BY team")?;
    let mut rows = select.query([])?;
    let (mut members, mut last) = (BTreeMap::new(), Arc::<str>::default());
    while let Some(row) = rows.next()? {
        let team = row.get_ref(1)?.as_str()?;
        if *last != *team {
            last = team.into();
        }
        members.insert(row.get::<_, String>(0)?.into(), Arc::clone(&last));
    }
    Ok(members)
}

/// What is set for users, teams and everybody. What cannot be read, of a later version, allows nothing.
pub fn rules(conn: &Connection) -> rusqlite::Result<Levels<Rule>> {
    let mut select = conn.prepare_cached(
        "SELECT level, name, rpm, tpm, concurrent, day_nano_usd, month_nano_usd, models, paths FROM limits",
    )?;
    let mut rows = select.query([])?;
    let number = |value: Option<i64>| value.map(|value| value.max(0).cast_unsigned());
    let mut rules = Levels::default();
    while let Some(row) = rows.next()? {
        let limits = Overrides {
            rpm: number(row.get(2)?),
            tpm: number(row.get(3)?),
            concurrent: number(row.get(4)?).map(|max| u32::try_from(max).unwrap_or(u32::MAX)),
            day_nano_usd: number(row.get(5)?),
            month_nano_usd: number(row.get(6)?),
        };
        let models = row.get::<_, Option<String>>(7)?.map(|text| Models::parse(&text).unwrap_or(Models::none()));
        let paths = row.get::<_, Option<String>>(8)?;
        let paths = paths.map(|text| AllowedPaths::parse(&text).unwrap_or(AllowedPaths::Under(Vec::new())));
        if let Some(level) = LimitLevel::named(row.get_ref(0)?.as_str()?) {
            rules.set(level, row.get_ref(1)?.as_str()?, Rule { limits, models, paths });
        }
    }
    Ok(rules)
}

/// A line of the audit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditLine {
    pub id: i64,
    /// Nanoseconds since the Unix epoch.
    pub at: u64,
    pub who: String,
    pub what: String,
}

/// The newest changes before the one with this id, the newest first, at most so many.
pub fn audit(conn: &Connection, before: i64, max: usize) -> rusqlite::Result<Vec<AuditLine>> {
    let mut select =
        conn.prepare_cached("SELECT id, at, who, what FROM audit WHERE id < ? ORDER BY id DESC LIMIT ?")?;
    let rows = select.query_map(params![before, max as i64], |row| {
        Ok(AuditLine {
            id: row.get(0)?,
            at: row.get::<_, i64>(1)?.cast_unsigned(),
            who: row.get(2)?,
            what: row.get(3)?,
        })
    })?;
    rows.collect()
}
