//! Performs the administrator's requests, and shows what the tables hold as JSON.
//!
//! In: an [`AdminRequest`] and the ledger's path. Out: an answer. Never: a secret, but a new key's, once.

use crate::access::{Hash, KEY_PREFIX};
use crate::base::clock::SECOND;
use crate::http::reply::Fault;
use crate::ledger::database;
use crate::ledger::keys_and_limits::{Editor, KeyRow, audit, keys, members, rules};
use crate::limit::levels::LimitLevel;
use crate::local::Answer;
use crate::local::admin_request::{AdminCommand, AdminRequest};
use crate::local::humanize;
use crate::policy::Rule;
use ring::rand::{SecureRandom as _, SystemRandom};
use rusqlite::Connection;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::Path;

/// Random bytes in a key.
const SECRET_BYTES: usize = 32;

/// Does what is asked on the ledger at `path`, or says why not.
pub fn perform(path: &Path, request: &AdminRequest) -> Answer {
    let unavailable = |message: String| Answer::error(Fault::LedgerUnavailable, &message, None);
    match request.command() {
        Ok(command) => run(path, request, command).unwrap_or_else(unavailable),
        Err(refusal) => refusal,
    }
}

/// The answer; an error is the ledger's, in one sentence.
type Done = Result<Answer, String>;

fn json_answer(status: u16, body: &Value) -> Answer {
    Answer::new(status, "application/json", format!("{body}\n"))
}

fn run(path: &Path, request: &AdminRequest, command: AdminCommand) -> Done {
    let now = request.now;
    let editor = || Editor::open_existing(path, &request.who, now);
    let found = |body: Value| Ok(json_answer(200, &body));
    match command {
        AdminCommand::ListKeys => {
            read(path, |conn| Ok(list(keys(conn)?.iter().map(|(key, _)| key_document(key, now)))))
        }
        AdminCommand::CreateKey { user, team, name, expires_at } => {
            let secret = new_secret()?;
            let hash = Hash::of(secret.as_bytes());
            let id = editor()?.add_key(&user, team.as_deref(), &name, &hash, expires_at)?;
            let row = KeyRow { id, user, team, name, created_at: now, expires_at, revoked_at: None };
            let mut document = key_document(&row, now);
            document["key"] = secret.into();
            Ok(json_answer(201, &document))
        }
        AdminCommand::RevokeKey(id) => match editor()?.revoke(id)? {
            None => Ok(Answer::error(Fault::NotFound, &format!("there is no key {id}"), None)),
            Some(was_valid) => found(json!({"id": id, "revoked": was_valid})),
        },
        AdminCommand::ListLimits => {
            read(path, |conn| Ok(list(rules(conn)?.iter().map(|(level, name, rule)| rule_document(level, name, rule)))))
        }
        AdminCommand::SetLimits { level, name, rule } => {
            found(rule_document(level, &name, &editor()?.set_rule(level, &name, &rule)?))
        }
        AdminCommand::ClearLimits { level, name } => {
            let cleared = editor()?.clear_rule(level, &name)?;
            found(json!({"level": level.label(), "name": name, "cleared": cleared}))
        }
        AdminCommand::ListUsers => read(path, |conn| {
            let members = members(conn)?;
            Ok(list(members.iter().map(|(user, team)| json!({"user": user, "team": &**team}))))
        }),
        AdminCommand::SetTeam { user, team } => {
            editor()?.set_team(&user, team.as_deref())?;
            found(json!({"user": user, "team": team}))
        }
        AdminCommand::DeleteTeam { team, move_to } => match editor()?.delete_team(&team, move_to.as_deref())? {
            Ok(()) => found(json!({"team": team, "deleted": true})),
            Err(why) => Ok(Answer::error(Fault::BadRequest, &why, None)),
        },
        AdminCommand::Audit { before, max } => read(path, |conn| {
            let lines = audit(conn, before, max + 1)?;
            let next = lines.get(max).map(|_| lines[max - 1].id);
            let data = lines.iter().take(max);
            let data =
                data.map(|line| json!({"id": line.id, "at": instant(line.at), "who": line.who, "what": line.what}));
            Ok(json!({"data": data.collect::<Vec<_>>(), "next_cursor": next}))
        }),
    }
}

fn read(path: &Path, ask: impl FnOnce(&Connection) -> rusqlite::Result<Value>) -> Done {
    let answer = database::open_reader(path).and_then(|conn| ask(&conn));
    answer.map(|body| json_answer(200, &body)).map_err(|error| format!("the ledger cannot be read: {error}"))
}

fn list(rows: impl Iterator<Item = Value>) -> Value {
    json!({"data": rows.collect::<Vec<_>>()})
}

/// A key as a document.
pub fn key_document(key: &KeyRow, now: u64) -> Value {
    json!({
        "id": key.id,
        "user": key.user,
        "team": key.team,
        "name": Some(&key.name).filter(|name| !name.is_empty()),
        "created_at": instant(key.created_at),
        "expires_at": key.expires_at.map(instant),
        "revoked_at": key.revoked_at.map(instant),
        "state": key.state(now),
    })
}

/// What is set, under the names of the options; null is what the settings say.
pub fn rule_document(level: LimitLevel, name: &str, Rule { limits, models, paths }: &Rule) -> Value {
    let usd = |nano_usd: Option<u64>| nano_usd.map(|nano_usd| nano_usd as f64 / 1e9);
    json!({
        "level": level.label(),
        "name": name,
        "rpm": limits.rpm,
        "tpm": limits.tpm,
        "concurrent": limits.concurrent,
        "usd_day": usd(limits.day_nano_usd),
        "usd_month": usd(limits.month_nano_usd),
        "models": models.as_ref().map(ToString::to_string),
        "paths": paths.as_ref().map(ToString::to_string),
    })
}

/// To the second.
fn instant(unix_ns: u64) -> String {
    humanize::instant(unix_ns - unix_ns % SECOND)
}

/// A key of 256 random bits.
///
/// # Errors
/// One sentence: the system gives no random bytes.
pub fn new_secret() -> Result<String, String> {
    let mut random = [0; SECRET_BYTES];
    SystemRandom::new().fill(&mut random).map_err(|_| "the system gives no random bytes".to_owned())?;
    let mut secret = KEY_PREFIX.to_owned();
    random.iter().for_each(|byte| write!(secret, "{byte:02x}").expect("writing to a string cannot fail"));
    Ok(secret)
}
