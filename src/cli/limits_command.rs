//! `proxy-server limits`: a user's own limits, in the ledger's file.

use super::prices_command::pretty;
use super::{Command, is_json, next, text, unexpected};
use crate::access::is_user;
use crate::base::digits::whole_number;
use crate::config::nano_usd;
use crate::ledger::keys_and_limits::{Editor, read};
use crate::ledger::offline;
use crate::limit::overrides::Overrides;
use crate::limit::status::dollars;
use crate::local::text_table::{Column, table};
use crate::policy::{AllowedPaths, Policy};
use lexopt::{Arg, Parser};
use serde_json::json;
use std::collections::BTreeSet;
use std::path::Path;

/// The text of `limits --help`.
pub const HELP: &str = include_str!("limits_help.txt");

/// The largest number that is taken.
const MOST: u64 = 1_000_000_000_000_000;

/// What to do with limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LimitsCommand {
    Set { user: String, own: Overrides, paths: Option<AllowedPaths> },
    List { json: bool },
    Clear(String),
}

impl LimitsCommand {
    /// Whether the answer is to be read, rather than parsed.
    pub fn is_for_people(&self) -> bool {
        *self != Self::List { json: true }
    }
}

pub(super) fn parse(parser: &mut Parser) -> Result<Command, String> {
    let (mut words, mut own, mut paths, mut json) = (Vec::new(), Overrides::default(), None, None);
    while let Some(argument) = next(parser)? {
        match argument {
            Arg::Short('h') | Arg::Long("help") => return Ok(Command::Print(HELP)),
            Arg::Long("rpm") => own.rpm = Some(count(parser, "--rpm")?),
            Arg::Long("tpm") => own.tpm = Some(count(parser, "--tpm")?),
            Arg::Long("concurrent") => {
                own.concurrent = Some(u32::try_from(count(parser, "--concurrent")?).unwrap_or(u32::MAX))
            }
            Arg::Long("usd-day") => own.day_nano_usd = Some(money(parser, "--usd-day")?),
            Arg::Long("usd-month") => own.month_nano_usd = Some(money(parser, "--usd-month")?),
            Arg::Long("paths") => paths = Some(allowed(parser)?),
            Arg::Long("format") => json = Some(is_json(parser)?),
            Arg::Value(word) => words.push(word.to_string_lossy().into_owned()),
            other => return Err(unexpected(&other)),
        }
    }
    let names_none = own == Overrides::default() && paths.is_none();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let command = match words[..] {
        ["list"] if names_none => LimitsCommand::List { json: json.unwrap_or_default() },
        _ if json.is_some() => return Err("--format belongs to limits list; try --help".to_owned()),
        ["set" | "clear", user] if !is_user(user) => {
            return Err("a user's name has 1 to 128 bytes, and no control character".to_owned());
        }
        ["set", _] if names_none => return Err("no limit is named; try --help".to_owned()),
        ["set", user] => LimitsCommand::Set { user: user.to_owned(), own, paths },
        _ if !names_none => return Err("limits belong to limits set; try --help".to_owned()),
        ["clear", user] => LimitsCommand::Clear(user.to_owned()),
        _ => return Err("expected limits set USER, limits list or limits clear USER; try --help".to_owned()),
    };
    Ok(Command::Limits(command))
}

fn count(parser: &mut Parser, option: &str) -> Result<u64, String> {
    let text = text(parser)?;
    let number = whole_number(text.as_bytes()).filter(|&number| number <= MOST);
    number.ok_or_else(|| format!("{option} {text:?}: expected a whole number, 0 to {MOST}"))
}

fn money(parser: &mut Parser, option: &str) -> Result<u64, String> {
    let text = text(parser)?;
    nano_usd(&text).ok_or_else(|| format!("{option} {text:?}: expected an amount in US dollars, as in 5 or 0.50"))
}

fn allowed(parser: &mut Parser) -> Result<AllowedPaths, String> {
    let text = text(parser)?;
    AllowedPaths::parse(&text).ok_or_else(|| format!("--paths {text:?}: expected {}", AllowedPaths::EXPECTED))
}

/// Runs the command on the ledger at `path`: what to print. Only `set` makes a ledger where there is none, and `list`
/// changes nothing.
///
/// # Errors
/// One sentence.
pub fn run(command: &LimitsCommand, path: &Path) -> Result<String, String> {
    match command {
        LimitsCommand::Set { user, own, paths } => {
            let mut editor = Editor::open(path)?;
            if *own != Overrides::default() {
                editor.set_limits(user, own)?;
            }
            if let Some(allowed) = paths {
                editor.set_paths(user, allowed)?;
            }
            drop(editor); // what it has written is in the file then
            Ok(list(&offline::read(path, read)?, Some(user)))
        }
        LimitsCommand::List { json } => {
            let policy = offline::read(path, read)?;
            Ok(if *json { document(&policy) } else { list(&policy, None) })
        }
        LimitsCommand::Clear(user) => match Editor::open_existing(path)?.clear_limits(user)? {
            true => Ok(format!("{user} has everybody's limits again\n")),
            false => Ok(format!("{user} had no limits of their own\n")),
        },
    }
}

/// Who has anything of their own.
fn users(policy: &Policy) -> BTreeSet<&str> {
    policy.overrides.keys().chain(policy.paths.keys()).map(|user| &**user).collect()
}

/// All that users have of their own, under the names of the options; null is what everybody has.
fn document(policy: &Policy) -> String {
    let list = users(policy).into_iter().map(|user| {
        let own = policy.overrides.get(user).copied().unwrap_or_default();
        json!({
            "user": user,
            "rpm": own.rpm,
            "tpm": own.tpm,
            "concurrent": own.concurrent,
            "usd_day": own.day_nano_usd.map(|nano_usd| nano_usd as f64 / 1e9),
            "usd_month": own.month_nano_usd.map(|nano_usd| nano_usd as f64 / 1e9),
            "paths": policy.paths.get(user).map(ToString::to_string),
        })
    });
    pretty(&list.collect())
}

/// All that users have of their own; or one of them. A dash is what everybody has.
fn list(policy: &Policy, only: Option<&str>) -> String {
    let users = users(policy).into_iter().filter(|user| only.is_none_or(|only| only == *user));
    let count = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
    let money = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), dollars);
    let rows = users.map(|user| {
        let own = policy.overrides.get(user).copied().unwrap_or_default();
        vec![
            user.to_owned(),
            count(own.rpm),
            count(own.tpm),
            count(own.concurrent.map(u64::from)),
            money(own.day_nano_usd),
            money(own.month_nano_usd),
            policy.paths.get(user).map_or_else(|| "-".to_owned(), ToString::to_string),
        ]
    });
    let [rpm, tpm, concurrent, day, month] = ["RPM", "TPM", "CONCURRENT", "USD/DAY", "USD/MONTH"].map(Column::Right);
    table(&[Column::Left("USER"), rpm, tpm, concurrent, day, month, Column::Left("PATHS")], &rows.collect::<Vec<_>>())
}
