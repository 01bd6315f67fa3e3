//! `proxy-server keys`: makes, lists and revokes client keys, in the ledger's file or in the fleet.

use super::prices_command::pretty;
use super::{Command, is_json, next, text, unexpected};
use crate::access::{Hash, expiry, is_user};
use crate::base::clock::SECOND;
use crate::fleet::fleet_policy;
use crate::ledger::keys_and_limits::keys;
use crate::local::humanize::{day, instant};
use crate::local::text_table::{Column, table};
use crate::reporting::KeyRow;
use crate::worker::admin::{key_document, new_secret};
use crate::worker::policy_store::PolicyStore;
use crate::worker::unix_now;
use lexopt::{Arg, Parser};

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
            expires.as_deref().map(|text| expires_at(text, unix_now())).transpose()?;
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

/// Runs the command where the tables are: what to print on standard output, and a line for standard error. Only
/// `create` makes a ledger where there is none, and `list` changes nothing. `now` in nanoseconds since the Unix epoch.
///
/// # Errors
/// One sentence.
pub fn run(command: &KeysCommand, store: PolicyStore<'_>, now: u64) -> Result<(String, Option<String>), String> {
    match command {
        KeysCommand::Create { user, team, name, expires } => {
            let expires = expires.as_deref().map(|text| expires_at(text, now)).transpose()?;
            let secret = new_secret()?;
            let hash = Hash::of(secret.as_bytes());
            let id = store.editor(&super::who(), now)?.add_key(user, team.as_deref(), name, &hash, expires)?;
            Ok((format!("{secret}\n"), Some(format!("key {id} is {user}'s; it cannot be shown again"))))
        }
        KeysCommand::List { json } => {
            let keys: Vec<KeyRow> = store.read(keys, fleet_policy::keys)?.into_iter().map(|(key, _)| key).collect();
            let list =
                if *json { pretty(&keys.iter().map(|key| key_document(key, now)).collect()) } else { list(&keys, now) };
            Ok((list, None))
        }
        KeysCommand::Revoke(id) => match store.editor_of_existing(&super::who(), now)?.revoke(*id)? {
            None => Err(format!("there is no key {id}; keys list shows them")),
            Some(true) => Ok((format!("key {id} is revoked\n"), None)),
            Some(false) => Ok((format!("key {id} was revoked before\n"), None)),
        },
    }
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
            key.last_used().map_or_else(|| "-".to_owned(), day),
            key.state(now).to_owned(),
        ]
    });
    table(
        &["ID", "USER", "TEAM", "NAME", "CREATED", "EXPIRES", "LAST USED", "STATE"].map(Column::Left),
        &rows.collect::<Vec<_>>(),
    )
}

/// `--expires`, as it was typed.
fn expires_at(text: &str, now: u64) -> Result<u64, String> {
    expiry(text, now).map_err(|why| format!("--expires {text:?}: {why}"))
}
