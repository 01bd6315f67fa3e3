//! Performs the administrator's requests, and shows what the tables hold as JSON, or as a page.
//!
//! In: an [`AdminRequest`], and where the tables are. Out: an answer. Never: a secret, but a new key's, once.

use super::policy_store::PolicyStore;
use crate::access::{Hash, KEY_PREFIX};
use crate::base::clock::SECOND;
use crate::fleet::fleet_policy;
use crate::http::reply::Fault;
use crate::ledger::keys_and_limits::{AuditLine, audit, keys, members, rules};
use crate::limit::levels::{Levels, LimitLevel};
use crate::local::Answer;
use crate::local::admin_page::{AdminPage, CHANGES_MAX, Notice};
use crate::local::admin_request::{AdminCommand, AdminRequest};
use crate::local::humanize;
use crate::policy::Rule;
use crate::reporting::KeyRow;
use ring::rand::{SecureRandom as _, SystemRandom};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

/// Random bytes in a key.
const SECRET_BYTES: usize = 32;

/// Does what is asked, or says why not.
pub fn perform(store: PolicyStore<'_>, request: &AdminRequest) -> Answer {
    if request.is_form() {
        return after_form(
            store,
            request,
            request.of_form().and_then(|request| done(store, &request, request.command()?)),
        );
    }
    match request.command() {
        Ok(AdminCommand::ShowPage { chosen }) => show(store, request, chosen, Notice::Nothing),
        Ok(command) => done(store, request, command)
            .map_or_else(|refusal| refusal, |(status, document)| json_answer(status, &document)),
        Err(refusal) => refusal,
    }
}

/// What a form has led to: back to the page where it was done; else the page with what is to be told.
fn after_form(store: PolicyStore<'_>, request: &AdminRequest, outcome: Result<(u16, Value), Answer>) -> Answer {
    let text = |document: &Value, field: &str| document[field].as_str().unwrap_or_default().to_owned();
    let notice = match outcome {
        Ok((201, key)) => Notice::NewKey { user: text(&key, "user"), key: text(&key, "key") },
        Ok(_) => return Answer { headers: "location: ./\r\n", ..Answer::new(303, "text/plain; charset=utf-8", "") },
        Err(refusal) => {
            let document: Value = serde_json::from_slice(&refusal.body).unwrap_or_default();
            Notice::Refused { status: refusal.status, why: text(&document["error"], "message") }
        }
    };
    show(store, request, None, notice)
}

/// What the tables hold.
struct Tables {
    keys: Vec<(KeyRow, Hash)>,
    limits: Levels<Rule>,
    members: BTreeMap<Box<str>, Arc<str>>,
    audit: Vec<AuditLine>,
}

/// The page as the tables are now.
fn show(store: PolicyStore<'_>, request: &AdminRequest, chosen: Option<(String, String)>, notice: Notice) -> Answer {
    let tables = store.read(
        |conn| {
            let audit = audit(conn, i64::MAX, CHANGES_MAX)?;
            Ok(Tables { keys: keys(conn)?, limits: rules(conn)?, members: members(conn)?, audit })
        },
        |client| {
            let (keys, limits) = (fleet_policy::keys(client)?, fleet_policy::rules(client)?);
            let audit = fleet_policy::audit(client, i64::MAX, CHANGES_MAX)?;
            Ok(Tables { keys, limits, members: fleet_policy::members(client)?, audit })
        },
    );
    let page = |tables: Tables| AdminPage {
        language: request.language,
        token: request.form_tokens.newest().to_owned(),
        keys: key_documents(&tables.keys, request.now),
        limits: rule_documents(&tables.limits),
        users: member_documents(&tables.members),
        audit: tables.audit.iter().map(line_document).collect(),
        chosen,
        notice,
    };
    tables.map_or_else(|why| unavailable(&why), |tables| page(tables).answer())
}

fn json_answer(status: u16, body: &Value) -> Answer {
    Answer::new(status, "application/json", format!("{body}\n"))
}

fn unavailable(why: &str) -> Answer {
    Answer::error(Fault::LedgerUnavailable, why, None)
}

/// A status below 300 and a document, or the refusal.
fn done(store: PolicyStore<'_>, request: &AdminRequest, command: AdminCommand) -> Result<(u16, Value), Answer> {
    let documents = match command {
        AdminCommand::ListKeys => store.read(keys, fleet_policy::keys).map(|keys| key_documents(&keys, request.now)),
        AdminCommand::ListLimits => store.read(rules, fleet_policy::rules).map(|rules| rule_documents(&rules)),
        AdminCommand::ListUsers => store.read(members, fleet_policy::members).map(|members| member_documents(&members)),
        AdminCommand::Audit { before, max } => {
            let read =
                store.read(|conn| audit(conn, before, max + 1), |client| fleet_policy::audit(client, before, max + 1));
            let lines = read.map_err(|why| unavailable(&why))?;
            let next = lines.get(max).map(|_| lines[max - 1].id);
            let data: Vec<Value> = lines.iter().take(max).map(line_document).collect();
            return Ok((200, json!({"data": data, "next_cursor": next})));
        }
        change => return changed(store, request, change).map_err(|why| unavailable(&why))?,
    };
    documents.map(|documents| (200, json!({"data": documents}))).map_err(|why| unavailable(&why))
}

/// Makes a change; the outer error is the ledger's, in one sentence.
fn changed(
    store: PolicyStore<'_>,
    request: &AdminRequest,
    change: AdminCommand,
) -> Result<Result<(u16, Value), Answer>, String> {
    let now = request.now;
    let mut editor = store.editor_of_existing(&request.who, now)?;
    let refused = |fault, why: &str| Ok(Err(Answer::error(fault, why, None)));
    let document = match change {
        AdminCommand::CreateKey { user, team, name, expires_at } => {
            let secret = new_secret()?;
            let hash = Hash::of(secret.as_bytes());
            let id = editor.add_key(&user, team.as_deref(), &name, &hash, expires_at)?;
            let row =
                KeyRow { id, user, team, name, created_at: now, expires_at, revoked_at: None, last_used_day: None };
            let mut document = key_document(&row, now);
            document["key"] = secret.into();
            return Ok(Ok((201, document)));
        }
        AdminCommand::RevokeKey(id) => match editor.revoke(id)? {
            None => return refused(Fault::NotFound, &format!("there is no key {id}")),
            Some(was_valid) => json!({"id": id, "revoked": was_valid}),
        },
        AdminCommand::SetLimits { level, name, rule } => {
            rule_document(level, &name, &editor.set_rule(level, &name, &rule)?)
        }
        AdminCommand::ClearLimits { level, name } => {
            let cleared = editor.clear_rule(level, &name)?;
            json!({"level": level.label(), "name": name, "cleared": cleared})
        }
        AdminCommand::SetTeam { user, team } => {
            editor.set_team(&user, team.as_deref())?;
            json!({"user": user, "team": team})
        }
        AdminCommand::DeleteTeam { team, move_to } => match editor.delete_team(&team, move_to.as_deref())? {
            Ok(()) => json!({"team": team, "deleted": true}),
            Err(why) => return refused(Fault::BadRequest, &why),
        },
        _ => return refused(Fault::NotFound, "there is no such thing here"),
    };
    Ok(Ok((200, document)))
}

fn key_documents(keys: &[(KeyRow, Hash)], now: u64) -> Vec<Value> {
    keys.iter().map(|(key, _)| key_document(key, now)).collect()
}

fn rule_documents(rules: &Levels<Rule>) -> Vec<Value> {
    rules.iter().map(|(level, name, rule)| rule_document(level, name, rule)).collect()
}

fn member_documents(members: &BTreeMap<Box<str>, Arc<str>>) -> Vec<Value> {
    members.iter().map(|(user, team)| json!({"user": user, "team": &**team})).collect()
}

fn line_document(line: &AuditLine) -> Value {
    json!({"id": line.id, "at": instant(line.at), "who": line.who, "what": line.what})
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
        "last_used": key.last_used().map(humanize::day),
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
