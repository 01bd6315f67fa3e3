//! Keys, limits, teams and the audit of a whole fleet: changed by commands and by `/admin` of any node, and copied by
//! each node. What a node had before it came is in [`incoming_policy`](super::incoming_policy).
//!
//! In: a connection. Out: changes, each in one transaction that raises the version; what has changed since another
//! version. Never: a secret, only hashes; a change that was made twice.

use super::schema;
use crate::access::Hash;
use crate::config::PostgresUrl;
use crate::ledger::keys_and_limits::{AuditLine, RuleRow, rules_of};
use crate::ledger::policy_copy::PolicyCopy;
use crate::ledger::policy_editor::{PolicyChange, PolicyEditor, TeamContents};
use crate::limit::levels::{Levels, LimitLevel};
use crate::policy::Rule;
use crate::postgres::{PostgresClient, Row, SqlError};
use crate::reporting::KeyRow;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

/// How long the database may take for anything.
const PATIENCE: Duration = Duration::from_secs(5);

/// What `ask` finds, for a command or for the administrator. Changes nothing.
///
/// # Errors
/// The server's; or no node has joined yet.
pub fn read<T>(url: &PostgresUrl, ask: impl FnOnce(&mut PostgresClient) -> Result<T, SqlError>) -> Result<T, SqlError> {
    let mut client = PostgresClient::connect(url, PATIENCE)?;
    schema::require(&mut client)?;
    ask(&mut client)
}

/// A fleet's tables, to be changed.
pub struct FleetEditor {
    client: PostgresClient,
    /// Who changes them, and when, for the audit.
    who: String,
    now: i64,
}

impl FleetEditor {
    /// Connects, for changes that somebody makes at `now`, nanoseconds since the Unix epoch. Where no node has joined
    /// yet, the tables are made.
    ///
    /// # Errors
    /// One sentence: the fleet is out of reach, or its tables are not for this build.
    pub fn connect(url: &PostgresUrl, who: &str, now: u64) -> Result<Self, String> {
        let connected = PostgresClient::connect(url, PATIENCE).and_then(|mut client| {
            schema::prepare(&mut client)?;
            Ok(client)
        });
        match connected {
            Ok(client) => Ok(Self { client, who: who.to_owned(), now: now.cast_signed() }),
            Err(error) => Err(format!("the fleet is out of reach, and nothing is changed: {error}")),
        }
    }

    /// One change, which is given the new version, in one transaction, with its line in the audit where something was
    /// changed.
    fn change<T>(
        &mut self,
        edit: impl FnOnce(&mut PostgresClient, i64) -> Result<(T, Option<String>), SqlError>,
    ) -> Result<T, String> {
        let (who, now) = (&self.who, self.now);
        let changed = self.client.transaction(|client| {
            let version = next_version(client)?;
            let (edited, what) = edit(client, version)?;
            if let Some(what) = what {
                record(client, version, now, who, &what)?;
            }
            Ok(edited)
        });
        // Where the connection went while it was being committed, nobody knows.
        changed
            .map_err(|error| format!("the fleet does not say that it is changed; look before you try again: {error}"))
    }
}

/// The version that this transaction makes, should it change anything: nobody else makes one meanwhile.
pub(super) fn next_version(client: &mut PostgresClient) -> Result<i64, SqlError> {
    client.query_one("SELECT version + 1 FROM oap_policy FOR UPDATE", &[])?.get(0)
}

/// Something was changed: this is the version from now on.
pub(super) fn record(
    client: &mut PostgresClient,
    version: i64,
    now: i64,
    who: &str,
    what: &str,
) -> Result<(), SqlError> {
    client.query("UPDATE oap_policy SET version = $1", &[&version])?;
    client.query("INSERT INTO oap_audit (at, who, what) VALUES ($1, $2, $3)", &[&now, &who, &what]).map(drop)
}

impl PolicyEditor for FleetEditor {
    fn add_key(
        &mut self,
        user: &str,
        team: Option<&str>,
        name: &str,
        hash: &Hash,
        expires_at: Option<u64>,
    ) -> Result<i64, String> {
        let now = self.now;
        self.change(|client, version| {
            let sql = "INSERT INTO oap_keys (id, user_name, team, name, hash, created_at, expires_at, version)
                SELECT coalesce(max(id), 0) + 1, $1, $2, $3, $4, $5, $6, $7 FROM oap_keys RETURNING id";
            let expires_at = expires_at.map(u64::cast_signed);
            let row = client.query_one(sql, &[&user, &team, &name, &digits(hash), &now, &expires_at, &version])?;
            let id = row.get(0)?;
            Ok((id, Some(PolicyChange::KeyMade { id, user }.to_string())))
        })
    }

    fn revoke(&mut self, id: i64) -> Result<Option<bool>, String> {
        let now = self.now;
        self.change(|client, version| {
            let found = client.query("SELECT revoked_at IS NULL FROM oap_keys WHERE id = $1", &[&id])?;
            let found = found.first().map(|row| row.get(0)).transpose()?;
            if found != Some(true) {
                return Ok((found, None));
            }
            let sql = "UPDATE oap_keys SET revoked_at = $1, version = $2 WHERE id = $3";
            client.query(sql, &[&now, &version, &id])?;
            Ok((found, Some(PolicyChange::KeyRevoked(id).to_string())))
        })
    }

    fn set_rule(&mut self, level: LimitLevel, name: &str, given: &Rule) -> Result<Rule, String> {
        self.change(|client, version| {
            let sql = format!(
                "SELECT level, name, {} FROM oap_limits WHERE level = $1 AND name = $2 AND is_set",
                RuleRow::COLUMNS
            );
            let before = client.query(&sql, &[&level.label(), &name])?;
            let before = before.first().map(rule_row).transpose()?.unwrap_or_default();
            let rule = before.rule().with(given);
            let RuleRow { numbers: [rpm, tpm, concurrent, day, month], models, paths } = RuleRow::of(&rule);
            let sql = format!(
                "INSERT INTO oap_limits (level, name, is_set, {0}, version)
                VALUES ($1, $2, true, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT (level, name) DO UPDATE
                SET (is_set, {0}, version) = (true, $3, $4, $5, $6, $7, $8, $9, $10)",
                RuleRow::COLUMNS
            );
            let label = level.label();
            client.query(&sql, &[&label, &name, &rpm, &tpm, &concurrent, &day, &month, &models, &paths, &version])?;
            Ok((rule, Some(PolicyChange::LimitsSet { level, name, given }.to_string())))
        })
    }

    fn clear_rule(&mut self, level: LimitLevel, name: &str) -> Result<bool, String> {
        self.change(|client, version| {
            let was_set = unset(client, level, name, version)?;
            Ok((was_set, was_set.then(|| PolicyChange::LimitsCleared { level, name }.to_string())))
        })
    }

    fn set_team(&mut self, user: &str, team: Option<&str>) -> Result<(), String> {
        self.change(|client, version| {
            let sql = "INSERT INTO oap_members VALUES ($1, $2, $3) ON CONFLICT (user_name) DO UPDATE
                SET team = excluded.team, version = excluded.version";
            client.query(sql, &[&user, &team, &version])?;
            Ok(((), Some(PolicyChange::TeamSet { user, team }.to_string())))
        })
    }

    fn delete_team(&mut self, team: &str, move_to: Option<&str>) -> Result<Result<(), String>, String> {
        self.change(|client, version| {
            let sql = "SELECT (SELECT count(*) FROM oap_members WHERE team = $1),
                (SELECT count(*) FROM oap_keys WHERE team = $1 AND revoked_at IS NULL),
                (SELECT count(*) FROM oap_limits WHERE level = 'team' AND name = $1 AND is_set)";
            let row = client.query_one(sql, &[&team])?;
            let contents = TeamContents { users: row.get(0)?, keys: row.get(1)?, limits: row.get(2)? };
            if let Some(why) = contents.keep_it(team, move_to) {
                return Ok((Err(why), None));
            }
            for table in ["oap_members", "oap_keys"] {
                let sql = format!("UPDATE {table} SET team = $1, version = $2 WHERE team = $3");
                client.query(&sql, &[&move_to, &version, &team])?;
            }
            unset(client, LimitLevel::Team, team, version)?;
            Ok((Ok(()), Some(PolicyChange::TeamDeleted { team, move_to }.to_string())))
        })
    }
}

/// Takes away what is set; false where nothing was.
fn unset(client: &mut PostgresClient, level: LimitLevel, name: &str, version: i64) -> Result<bool, SqlError> {
    let sql =
        "UPDATE oap_limits SET is_set = false, version = $1 WHERE level = $2 AND name = $3 AND is_set RETURNING 1";
    Ok(!client.query(sql, &[&version, &level.label(), &name])?.is_empty())
}

const KEYS: &str = "SELECT id, user_name, team, name, hash, created_at, expires_at, revoked_at, last_used_day
    FROM oap_keys WHERE version > $1 ORDER BY id";

/// All keys, in the order of their numbers.
///
/// # Errors
/// The server's.
pub fn keys(client: &mut PostgresClient) -> Result<Vec<(KeyRow, Hash)>, SqlError> {
    keys_since(client, 0)
}

fn keys_since(client: &mut PostgresClient, version: i64) -> Result<Vec<(KeyRow, Hash)>, SqlError> {
    let instant = |value: Option<i64>| value.map(i64::cast_unsigned);
    let key = |row: &Row| {
        let key = KeyRow {
            id: row.get(0)?,
            user: row.get(1)?,
            team: row.get(2)?,
            name: row.get(3)?,
            created_at: row.get::<i64>(5)?.cast_unsigned(),
            expires_at: instant(row.get(6)?),
            revoked_at: instant(row.get(7)?),
            last_used_day: instant(row.get(8)?),
        };
        Ok(hash(&row.get::<String>(4)?).map(|hash| (key, hash)))
    };
    // A hash of another length is none of ours, and opens nothing.
    client.query(KEYS, &[&version])?.iter().filter_map(|row| key(row).transpose()).collect()
}

/// What is set for users, teams and everybody.
///
/// # Errors
/// The server's.
pub fn rules(client: &mut PostgresClient) -> Result<Levels<Rule>, SqlError> {
    let rows = limits_since(client, 0)?.into_iter();
    Ok(rules_of(rows.filter_map(|(level, name, row)| Some((level, name, row?)))))
}

fn limits_since(client: &mut PostgresClient, version: i64) -> Result<Vec<(String, String, Option<RuleRow>)>, SqlError> {
    let sql = format!("SELECT level, name, {}, is_set FROM oap_limits WHERE version > $1", RuleRow::COLUMNS);
    let rows = client.query(&sql, &[&version])?;
    let limits = rows.iter().map(|row| {
        let is_set: bool = row.get(9)?;
        Ok((row.get(0)?, row.get(1)?, is_set.then(|| rule_row(row)).transpose()?))
    });
    limits.collect()
}

fn rule_row(row: &Row) -> Result<RuleRow, SqlError> {
    let mut numbers = [None; 5];
    for (column, number) in (2..).zip(&mut numbers) {
        *number = row.get(column)?;
    }
    Ok(RuleRow { numbers, models: row.get(7)?, paths: row.get(8)? })
}

/// Which users belong to which team.
///
/// # Errors
/// The server's.
pub fn members(client: &mut PostgresClient) -> Result<BTreeMap<Box<str>, Arc<str>>, SqlError> {
    let all = members_since(client, 0)?.into_iter();
    Ok(all.filter_map(|(user, team)| Some((user.into(), team?.into()))).collect())
}

fn members_since(client: &mut PostgresClient, version: i64) -> Result<Vec<(String, Option<String>)>, SqlError> {
    let rows = client.query("SELECT user_name, team FROM oap_members WHERE version > $1", &[&version])?;
    rows.iter().map(|row| Ok((row.get(0)?, row.get(1)?))).collect()
}

/// The newest changes before the one with this number, the newest first, at most so many.
///
/// # Errors
/// The server's.
pub fn audit(client: &mut PostgresClient, before: i64, max: usize) -> Result<Vec<AuditLine>, SqlError> {
    let sql = "SELECT id, at, who, what FROM oap_audit WHERE id < $1 ORDER BY id DESC LIMIT $2";
    let rows = client.query(sql, &[&before, &(max as i64)])?;
    let line = |row: &Row| {
        Ok(AuditLine { id: row.get(0)?, at: row.get::<i64>(1)?.cast_unsigned(), who: row.get(2)?, what: row.get(3)? })
    };
    rows.iter().map(line).collect()
}

/// What has changed since a version, or everything; and the version that it is now. All of one instant.
///
/// # Errors
/// The server's.
pub fn changes(client: &mut PostgresClient, since: Option<i64>) -> Result<(i64, PolicyCopy), SqlError> {
    client.snapshot(PATIENCE, |client| {
        let version = client.query_one("SELECT version FROM oap_policy", &[])?.get(0)?;
        let after = since.unwrap_or(0);
        let copy = PolicyCopy {
            is_whole: since.is_none(),
            keys: keys_since(client, after)?,
            limits: limits_since(client, after)?,
            members: members_since(client, after)?,
        };
        Ok((version, copy))
    })
}

/// A hash as it is stored.
pub(super) fn digits(hash: &Hash) -> String {
    let mut text = String::with_capacity(64);
    hash.as_slice().iter().for_each(|byte| write!(text, "{byte:02x}").expect("writing to a string cannot fail"));
    text
}

/// One that was stored; `None` for anything else.
fn hash(text: &str) -> Option<Hash> {
    let bytes = (0..text.len()).step_by(2).map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok());
    Hash::from_slice(&bytes.collect::<Option<Vec<u8>>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_read_as_it_was_written_and_nothing_else_is() {
        let one = Hash::of(b"oap_1");
        assert_eq!(hash(&digits(&one)), Some(one));
        for wrong in ["", "0", "zz", &digits(&one)[2..], &format!("{}00", digits(&one)), "日本"] {
            assert!(hash(wrong).is_none(), "{wrong}");
        }
    }
}
