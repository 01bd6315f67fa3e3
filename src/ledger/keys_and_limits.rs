//! The tables of keys, limits and teams: read by the ledger's thread, which follows their version, and changed through
//! [`policy_editor`](super::policy_editor), also while servers run on the same file.
//!
//! In: a connection. Out: the tables, whole. Never: a secret, only hashes.

use crate::access::{Hash, Key};
use crate::limit::levels::{Levels, LimitLevel};
use crate::limit::overrides::Overrides;
use crate::policy::{AllowedPaths, Models, Policy, Rule};
use crate::reporting::KeyRow;
use rusqlite::{Connection, params};
use std::collections::BTreeMap;
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

/// What is set for somebody, as it is stored. Null is what the settings say.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct RuleRow {
    /// `rpm`, `tpm`, `concurrent`, `day_nano_usd` and `month_nano_usd`.
    pub numbers: [Option<i64>; 5],
    pub models: Option<String>,
    pub paths: Option<String>,
}

impl RuleRow {
    /// Its columns, in the order of its fields.
    pub const COLUMNS: &str = "rpm, tpm, concurrent, day_nano_usd, month_nano_usd, models, paths";

    /// A rule as it is stored.
    pub fn of(Rule { limits, models, paths }: &Rule) -> Self {
        let concurrent = limits.concurrent.map(u64::from);
        let numbers = [limits.rpm, limits.tpm, concurrent, limits.day_nano_usd, limits.month_nano_usd];
        Self {
            numbers: numbers.map(|value| value.map(u64::cast_signed)),
            models: models.as_ref().map(ToString::to_string),
            paths: paths.as_ref().map(ToString::to_string),
        }
    }

    /// The rule that is stored. What of it cannot be read, of a later version, allows nothing.
    pub fn rule(&self) -> Rule {
        let [rpm, tpm, concurrent, day_nano_usd, month_nano_usd] =
            self.numbers.map(|value| value.map(|value| value.max(0).cast_unsigned()));
        let concurrent = concurrent.map(|max| u32::try_from(max).unwrap_or(u32::MAX));
        let models = self.models.as_deref().map(|text| Models::parse(text).unwrap_or(Models::none()));
        let paths = self.paths.as_deref();
        let paths = paths.map(|text| AllowedPaths::parse(text).unwrap_or(AllowedPaths::Under(Vec::new())));
        Rule { limits: Overrides { rpm, tpm, concurrent, day_nano_usd, month_nano_usd }, models, paths }
    }

    /// Stores it in place of what is set for a level and a name.
    pub fn write(&self, conn: &Connection, level: &str, name: &str) -> rusqlite::Result<()> {
        let [rpm, tpm, concurrent, day, month] = self.numbers;
        conn.prepare_cached("INSERT OR REPLACE INTO limits VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)")?
            .execute(params![level, name, rpm, tpm, concurrent, day, month, self.models, self.paths])
            .map(drop)
    }
}

/// All that is set, each with its level and name.
pub fn rule_rows(conn: &Connection) -> rusqlite::Result<Vec<(String, String, RuleRow)>> {
    let mut select = conn.prepare_cached(&format!("SELECT level, name, {} FROM limits", RuleRow::COLUMNS))?;
    let rows = select.query_map([], |row| {
        let mut numbers = [None; 5];
        for (column, number) in (2..).zip(&mut numbers) {
            *number = row.get(column)?;
        }
        Ok((row.get(0)?, row.get(1)?, RuleRow { numbers, models: row.get(7)?, paths: row.get(8)? }))
    })?;
    rows.collect()
}

/// What is set for users, teams and everybody.
pub fn rules(conn: &Connection) -> rusqlite::Result<Levels<Rule>> {
    Ok(rules_of(rule_rows(conn)?))
}

/// Rows as rules, but those of levels that only a later version knows.
pub fn rules_of(rows: impl IntoIterator<Item = (String, String, RuleRow)>) -> Levels<Rule> {
    let mut rules = Levels::default();
    for (level, name, row) in rows {
        if let Some(level) = LimitLevel::named(&level) {
            rules.set(level, &name, row.rule());
        }
    }
    rules
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
