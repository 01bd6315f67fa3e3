//! `proxy-server users`: which user belongs to which team, in the ledger's file or in the fleet.

use super::prices_command::pretty;
use super::{Command, is_json, next, text, unexpected};
use crate::access::is_user;
use crate::fleet::fleet_policy;
use crate::ledger::keys_and_limits::{members, rules};
use crate::local::text_table::{Column, table};
use crate::worker::policy_store::PolicyStore;
use lexopt::{Arg, Parser};
use serde_json::json;
use std::collections::BTreeSet;

/// The text of `users --help`.
pub const HELP: &str = include_str!("users_help.txt");

/// What to do with users and teams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UsersCommand {
    /// Into a team, or into none.
    Set {
        user: String,
        team: Option<String>,
    },
    List {
        json: bool,
    },
    DeleteTeam {
        team: String,
        move_to: Option<String>,
    },
}

impl UsersCommand {
    /// Whether the answer is to be read, rather than parsed.
    pub fn is_for_people(&self) -> bool {
        *self != Self::List { json: true }
    }
}

pub(super) fn parse(parser: &mut Parser) -> Result<Command, String> {
    let (mut words, mut team, mut no_team, mut move_to, mut json) = (Vec::new(), None, false, None, None);
    while let Some(argument) = next(parser)? {
        match argument {
            Arg::Short('h') | Arg::Long("help") => return Ok(Command::Print(HELP)),
            Arg::Long("team") => team = Some(name(text(parser)?)?),
            Arg::Long("no-team") => no_team = true,
            Arg::Long("move-to") => move_to = Some(name(text(parser)?)?),
            Arg::Long("format") => json = Some(is_json(parser)?),
            Arg::Value(word) => words.push(word.to_string_lossy().into_owned()),
            other => return Err(unexpected(&other)),
        }
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let command = match words[..] {
        ["list"] if team.is_none() && !no_team && move_to.is_none() => {
            UsersCommand::List { json: json.unwrap_or_default() }
        }
        _ if json.is_some() => return Err("--format belongs to users list; try --help".to_owned()),
        ["set", user] if team.is_some() != no_team && move_to.is_none() => {
            UsersCommand::Set { user: name(user.to_owned())?, team }
        }
        ["set", _] => return Err("users set USER takes either --team TEAM or --no-team; try --help".to_owned()),
        ["delete-team", team_to_end] if team.is_none() && !no_team => {
            UsersCommand::DeleteTeam { team: name(team_to_end.to_owned())?, move_to }
        }
        _ => return Err("expected users set USER, users list or users delete-team TEAM; try --help".to_owned()),
    };
    Ok(Command::Users(command))
}

/// The name of a user or of a team.
pub(super) fn name(text: String) -> Result<String, String> {
    match is_user(&text) {
        true => Ok(text),
        false => Err(format!("{text:?}: a name has 1 to 128 bytes, and no control character")),
    }
}

/// Runs the command where the tables are, at `now` in nanoseconds since the Unix epoch: what to print. Only `set`
/// makes a ledger where there is none, and `list` changes nothing.
///
/// # Errors
/// One sentence.
pub fn run(command: &UsersCommand, store: PolicyStore<'_>, now: u64) -> Result<String, String> {
    match command {
        UsersCommand::Set { user, team } => {
            store.editor(&super::who(), now)?.set_team(user, team.as_deref())?;
            Ok(match team {
                Some(team) => format!("{user} belongs to team {team}\n"),
                None => format!("{user} belongs to no team\n"),
            })
        }
        UsersCommand::List { json } => list(store, *json),
        UsersCommand::DeleteTeam { team, move_to } => {
            store.editor_of_existing(&super::who(), now)?.delete_team(team, move_to.as_deref())??;
            Ok(format!("team {team} is deleted\n"))
        }
    }
}

/// Users by team; and teams without any, which have limits only.
fn list(store: PolicyStore<'_>, json: bool) -> Result<String, String> {
    let (members, rules) = store.read(
        |conn| Ok((members(conn)?, rules(conn)?)),
        |client| Ok((fleet_policy::members(client)?, fleet_policy::rules(client)?)),
    )?;
    let mut rows: Vec<(&str, Option<&str>)> = members.iter().map(|(user, team)| (&**team, Some(&**user))).collect();
    let full: BTreeSet<&str> = members.values().map(|team| &**team).collect();
    rows.extend(rules.teams.keys().filter(|team| !full.contains(&***team)).map(|team| (&**team, None)));
    rows.sort_unstable();
    if json {
        return Ok(pretty(&rows.iter().map(|(team, user)| json!({"user": user, "team": team})).collect()));
    }
    let line = |(team, user): &(&str, Option<&str>)| vec![(*team).to_owned(), user.unwrap_or("-").to_owned()];
    Ok(table(&[Column::Left("TEAM"), Column::Left("USER")], &rows.iter().map(line).collect::<Vec<_>>()))
}
