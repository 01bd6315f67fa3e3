//! `proxy-server keys`: makes, lists and revokes client keys in the ledger's file.

use super::prices_command::pretty;
use super::{Command, is_json, next, text, unexpected};
use crate::access::{Hash, KEY_PREFIX, is_user};
use crate::base::civil::{parse_date, parse_rfc3339};
use crate::base::clock::{DAY, HOUR, SECOND};
use crate::base::digits::whole_number;
use crate::ledger::keys_and_limits::{KeyRow, keys};
use crate::ledger::offline;
use crate::local::humanize::instant;
use crate::local::text_table::{Column, table};
use crate::worker::unix_now;
use lexopt::{Arg, Parser};
use ring::rand::{SecureRandom as _, SystemRandom};
use serde_json::json;
use std::fmt::Write as _;
use std::path::Path;

/// Random bytes in a key.
const SECRET_BYTES: usize = 32;

/// The text of `keys --help`.
pub const HELP: &str = include_str!("keys_help.txt");

/// What to do with keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeysCommand {
    /// `expires` is as it was typed.
    Create {
        user: String,
        team: Option<String>,
        name: String,
        expires: Option<String>,
    },
    List {
        json: bool,
    },
    Revoke(i64),
}

impl KeysCommand {
    /// Whether the answer is to be read, rather than parsed.
    pub fn is_for_people(&self) -> bool {
        *self != Self::List { json: true }
    }
}

pub(super) fn parse(parser: &mut Parser) -> Result<Command, String> {
    let (mut words, mut team, mut name, mut expires, mut json) = (Vec::new(), None, None, None, None);
    while let Some(argument) = next(parser)? {
        match argument {
            Arg::Short('h') | Arg::Long("help") => return Ok(Command::Print(HELP)),
            Arg::Long("team") => team = Some(super::users_command::name(text(parser)?)?),
            Arg::Long("name") => name = Some(text(parser)?),
            Arg::Long("expires") => expires = Some(text(parser)?),
            Arg::Long("format") => json = Some(is_json(parser)?),
            Arg::Value(word) => words.push(word.to_string_lossy().into_owned()),
            other => return Err(unexpected(&other)),
        }
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let has_options = team.is_some() || name.is_some() || expires.is_some();
    let command = match words[..] {
        ["list"] if !has_options => KeysCommand::List { json: json.unwrap_or_default() },
        _ if json.is_some() => return Err("--format belongs to keys list; try --help".to_owned()),
        ["create", user] => {
            if !is_user(user) {
                return Err("a user's name has 1 to 128 bytes, and no control character".to_owned());
            }
            let name = name.unwrap_or_default();
            if !name.is_empty() && !is_user(&name) {
                return Err("a key's name has at most 128 bytes, and no control character".to_owned());
            }
            // A mistake of the command line is told as one, before the ledger is looked for.
            expires.as_deref().map(|text| expiry(text, unix_now())).transpose()?;
            KeysCommand::Create { user: user.to_owned(), team, name, expires }
        }
        _ if has_options => {
            return Err("--team, --name and --expires belong to keys create; try --help".to_owned());
        }
        ["revoke", id] => {
            let id = id.parse().map_err(|_| format!("{id:?} is no key's number; keys list shows them"))?;
            KeysCommand::Revoke(id)
        }
        _ => return Err("expected keys create USER, keys list or keys revoke ID; try --help".to_owned()),
    };
    Ok(Command::Keys(command))
}

/// Runs the command on the ledger at `path`: what to print on standard output, and a line for standard error. Only
/// `create` makes a ledger where there is none, and `list` changes nothing. `now` in nanoseconds since the Unix epoch.
///
/// # Errors
/// One sentence.
pub fn run(command: &KeysCommand, path: &Path, now: u64) -> Result<(String, Option<String>), String> {
    match command {
        KeysCommand::Create { user, team, name, expires } => {
            let expires = expires.as_deref().map(|text| expiry(text, now)).transpose()?;
            let secret = new_secret()?;
            let hash = Hash::of(secret.as_bytes());
            let id = super::editor(path, now)?.add_key(user, team.as_deref(), name, &hash, expires)?;
            Ok((format!("{secret}\n"), Some(format!("key {id} is {user}'s; it cannot be shown again"))))
        }
        KeysCommand::List { json } => {
            let keys: Vec<KeyRow> = offline::read(path, keys)?.into_iter().map(|(key, _)| key).collect();
            let list = if *json { document(&keys, now) } else { list(&keys, now) };
            Ok((list, None))
        }
        KeysCommand::Revoke(id) => match super::editor_of_existing(path, now)?.revoke(*id)? {
            None => Err(format!("there is no key {id}; keys list shows them")),
            Some(true) => Ok((format!("key {id} is revoked\n"), None)),
            Some(false) => Ok((format!("key {id} was revoked before\n"), None)),
        },
    }
}

fn state(key: &KeyRow, now: u64) -> &'static str {
    match key {
        KeyRow { revoked_at: Some(_), .. } => "revoked",
        KeyRow { expires_at: Some(expires_at), .. } if *expires_at <= now => "expired",
        _ => "valid",
    }
}

fn document(keys: &[KeyRow], now: u64) -> String {
    let keys = keys.iter().map(|key| {
        json!({
            "id": key.id,
            "user": key.user,
            "team": key.team,
            "name": Some(&key.name).filter(|name| !name.is_empty()),
            "created_at": instant(key.created_at),
            "expires_at": key.expires_at.map(instant),
            "revoked_at": key.revoked_at.map(instant),
            "state": state(key, now),
        })
    });
    pretty(&keys.collect())
}

fn list(keys: &[KeyRow], now: u64) -> String {
    let second = |unix_ns: u64| instant(unix_ns - unix_ns % SECOND);
    let rows = keys.iter().map(|key| {
        vec![
            key.id.to_string(),
            key.user.clone(),
            key.team.clone().unwrap_or_else(|| "-".to_owned()),
            if key.name.is_empty() { "-".to_owned() } else { key.name.clone() },
            second(key.created_at),
            key.expires_at.map_or_else(|| "-".to_owned(), second),
            state(key, now).to_owned(),
        ]
    });
    table(&["ID", "USER", "TEAM", "NAME", "CREATED", "EXPIRES", "STATE"].map(Column::Left), &rows.collect::<Vec<_>>())
}

fn expiry(text: &str, now: u64) -> Result<u64, String> {
    let ahead = |digits: &str, unit: u64| now.checked_add(whole_number(digits.as_bytes())?.checked_mul(unit)?);
    let at = match text.split_at_checked(text.len().wrapping_sub(1)) {
        Some((digits, "h")) => ahead(digits, HOUR),
        Some((digits, "d")) => ahead(digits, DAY),
        _ => parse_date(text).or_else(|| parse_rfc3339(text)),
    };
    match at {
        Some(at) if at > now && i64::try_from(at).is_ok() => Ok(at),
        Some(_) => Err(format!("--expires {text:?} is not in the future")),
        None => Err(format!("--expires {text:?}: expected 2027-01-31, 2027-01-31T12:00:00Z, 12h or 90d")),
    }
}

/// A key of 256 random bits.
fn new_secret() -> Result<String, String> {
    let mut random = [0; SECRET_BYTES];
    SystemRandom::new().fill(&mut random).map_err(|_| "the system gives no random bytes".to_owned())?;
    let mut secret = KEY_PREFIX.to_owned();
    random.iter().for_each(|byte| write!(secret, "{byte:02x}").expect("writing to a string cannot fail"));
    Ok(secret)
}
