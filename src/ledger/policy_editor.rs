//! Changes of keys, limits and teams, by commands and by the administrator's requests: in a ledger's file here, in a
//! fleet's database in [`fleet_policy`](crate::fleet::fleet_policy). Each change leaves a line in the audit.
//!
//! In: what is to change, who wants it, and when. Out: what has changed, in one transaction. Never: a secret, only
//! hashes.

use super::database;
use super::keys_and_limits::{RuleRow, rules};
use crate::access::Hash;
use crate::limit::levels::LimitLevel;
use crate::limit::status::dollars;
use crate::policy::Rule;
use rusqlite::{Connection, OptionalExtension as _, TransactionBehavior, params};
use std::fmt;
use std::path::Path;

/// The tables, to be changed. An error is one sentence: why they cannot be.
pub trait PolicyEditor {
    /// Adds a key; its id. `expires_at` in nanoseconds since the Unix epoch.
    fn add_key(
        &mut self,
        user: &str,
        team: Option<&str>,
        name: &str,
        hash: &Hash,
        expires_at: Option<u64>,
    ) -> Result<i64, String>;

    /// Revokes a key. `None` where there is no such key; else whether it was still in force.
    fn revoke(&mut self, id: i64) -> Result<Option<bool>, String>;

    /// Sets what is given for a user, a team or everybody (whose name is empty), and leaves the rest; all that is set
    /// after that.
    fn set_rule(&mut self, level: LimitLevel, name: &str, given: &Rule) -> Result<Rule, String>;

    /// Takes away what is set for a user, a team or everybody; false where nothing was.
    fn clear_rule(&mut self, level: LimitLevel, name: &str) -> Result<bool, String>;

    /// Puts a user into a team, or into none.
    fn set_team(&mut self, user: &str, team: Option<&str>) -> Result<(), String>;

    /// Ends a team: its limits, and where `move_to` names another, its users and keys go there.
    ///
    /// Within: why not, in one sentence: it has users or keys, and `move_to` names no team; there is none of this name.
    fn delete_team(&mut self, team: &str, move_to: Option<&str>) -> Result<Result<(), String>, String>;
}

/// What a team has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TeamContents {
    pub users: i64,
    /// Those that are in force.
    pub keys: i64,
    pub limits: i64,
}

impl TeamContents {
    /// Why the team cannot be ended, if it cannot.
    pub fn keep_it(&self, team: &str, move_to: Option<&str>) -> Option<String> {
        let Self { users, keys, limits } = self;
        match move_to {
            _ if users + keys + limits == 0 => Some(format!("there is no team {team}")),
            None if users + keys > 0 => {
                Some(format!("team {team} has {users} users and {keys} keys; say where they go: --move-to TEAM"))
            }
            _ => None,
        }
    }
}

/// A change as the audit tells it.
pub enum PolicyChange<'a> {
    KeyMade { id: i64, user: &'a str },
    KeyRevoked(i64),
    LimitsSet { level: LimitLevel, name: &'a str, given: &'a Rule },
    LimitsCleared { level: LimitLevel, name: &'a str },
    TeamSet { user: &'a str, team: Option<&'a str> },
    TeamDeleted { team: &'a str, move_to: Option<&'a str> },
}

impl fmt::Display for PolicyChange<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KeyMade { id, user } => write!(f, "key {id} of {user} is made"),
            Self::KeyRevoked(id) => write!(f, "key {id} is revoked"),
            Self::LimitsSet { level, name, given } => {
                write!(f, "limits of {} are set: {}", whose(*level, name), said(given))
            }
            Self::LimitsCleared { level, name } => write!(f, "limits of {} are cleared", whose(*level, name)),
            Self::TeamSet { user, team: Some(team) } => write!(f, "user {user} belongs to team {team}"),
            Self::TeamSet { user, team: None } => write!(f, "user {user} belongs to no team"),
            Self::TeamDeleted { team, move_to: None } => write!(f, "team {team} is deleted"),
            Self::TeamDeleted { team, move_to: Some(to) } => {
                write!(f, "team {team} is deleted; its users belong to team {to}")
            }
        }
    }
}

/// A ledger's tables, to be changed.
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

impl PolicyEditor for Editor {
    fn add_key(
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
            Ok((id, Some(PolicyChange::KeyMade { id, user }.to_string())))
        })
    }

    fn revoke(&mut self, id: i64) -> Result<Option<bool>, String> {
        let now = self.now.cast_signed();
        self.change(|conn| {
            let sql = "SELECT revoked_at IS NULL FROM client_keys WHERE id = ?";
            let found: Option<bool> = conn.query_row(sql, [id], |row| row.get(0)).optional()?;
            if found != Some(true) {
                return Ok((found, None));
            }
            conn.execute("UPDATE client_keys SET revoked_at = ? WHERE id = ?", [now, id])?;
            Ok((found, Some(PolicyChange::KeyRevoked(id).to_string())))
        })
    }

    fn set_rule(&mut self, level: LimitLevel, name: &str, given: &Rule) -> Result<Rule, String> {
        self.change(|conn| {
            let before = rules(conn)?;
            let before = match level {
                LimitLevel::User => before.users.get(name).cloned(),
                LimitLevel::Team => before.teams.get(name).cloned(),
                LimitLevel::Total => before.total,
            };
            let rule = before.unwrap_or_default().with(given);
            RuleRow::of(&rule).write(conn, level.label(), name)?;
            Ok((rule, Some(PolicyChange::LimitsSet { level, name, given }.to_string())))
        })
    }

    fn clear_rule(&mut self, level: LimitLevel, name: &str) -> Result<bool, String> {
        self.change(|conn| {
            let sql = "DELETE FROM limits WHERE level = ? AND name = ?";
            let was_set = conn.execute(sql, [level.label(), name])? > 0;
            Ok((was_set, was_set.then(|| PolicyChange::LimitsCleared { level, name }.to_string())))
        })
    }

    fn set_team(&mut self, user: &str, team: Option<&str>) -> Result<(), String> {
        self.change(|conn| {
            match team {
                Some(team) => conn.execute("INSERT OR REPLACE INTO members VALUES (?, ?)", [user, team])?,
                None => conn.execute("DELETE FROM members WHERE user = ?", [user])?,
            };
            Ok(((), Some(PolicyChange::TeamSet { user, team }.to_string())))
        })
    }

    fn delete_team(&mut self, team: &str, move_to: Option<&str>) -> Result<Result<(), String>, String> {
        self.change(|conn| {
            let count = |sql: &str| conn.query_row(sql, [team], |row| row.get::<_, i64>(0));
            let contents = TeamContents {
                users: count("SELECT count(*) FROM members WHERE team = ?")?,
                keys: count("SELECT count(*) FROM client_keys WHERE team = ? AND revoked_at IS NULL")?,
                limits: count("SELECT count(*) FROM limits WHERE level = 'team' AND name = ?")?,
            };
            if let Some(why) = contents.keep_it(team, move_to) {
                return Ok((Err(why), None));
            }
            for table in ["members", "client_keys"] {
                conn.execute(&format!("UPDATE {table} SET team = ? WHERE team = ?"), params![move_to, team])?;
            }
            conn.execute("DELETE FROM limits WHERE level = 'team' AND name = ?", [team])?;
            Ok((Ok(()), Some(PolicyChange::TeamDeleted { team, move_to }.to_string())))
        })
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
