//! `proxy-server limits`: limits of users, teams and everybody together, in the ledger's file or in the fleet.

use super::prices_command::pretty;
use super::users_command::name;
use super::{Command, is_json, next, text, unexpected};
use crate::base::digits::{nano_usd, whole_number};
use crate::fleet::fleet_policy;
use crate::ledger::keys_and_limits::rules;
use crate::ledger::policy_editor::whose;
use crate::limit::levels::{Levels, LimitLevel};
use crate::limit::overrides::LIMIT_MAX;
use crate::limit::status::dollars;
use crate::local::text_table::{Column, table};
use crate::policy::{AllowedPaths, Models, Rule};
use crate::worker::admin::rule_document;
use crate::worker::policy_store::PolicyStore;
use lexopt::{Arg, Parser};

/// The text of `limits --help`.
pub const HELP: &str = include_str!("limits_help.txt");

/// What to do with limits. Everybody's name is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LimitsCommand {
    Set { level: LimitLevel, name: String, rule: Rule },
    List { json: bool },
    Clear { level: LimitLevel, name: String },
}

impl LimitsCommand {
    /// Whether the answer is to be read, rather than parsed.
    pub fn is_for_people(&self) -> bool {
        *self != Self::List { json: true }
    }
}

pub(super) fn parse(parser: &mut Parser) -> Result<Command, String> {
    let (mut words, mut rule, mut team, mut total, mut json) = (Vec::new(), Rule::default(), None, false, None);
    while let Some(argument) = next(parser)? {
        let limits = &mut rule.limits;
        match argument {
            Arg::Short('h') | Arg::Long("help") => return Ok(Command::Print(HELP)),
            Arg::Long("team") => team = Some(name(text(parser)?)?),
            Arg::Long("total") => total = true,
            Arg::Long("rpm") => limits.rpm = Some(count(parser, "--rpm")?),
            Arg::Long("tpm") => limits.tpm = Some(count(parser, "--tpm")?),
            Arg::Long("concurrent") => {
                limits.concurrent = Some(u32::try_from(count(parser, "--concurrent")?).unwrap_or(u32::MAX))
            }
            Arg::Long("usd-day") => limits.day_nano_usd = Some(money(parser, "--usd-day")?),
            Arg::Long("usd-month") => limits.month_nano_usd = Some(money(parser, "--usd-month")?),
            Arg::Long("models") => rule.models = Some(models(parser)?),
            Arg::Long("paths") => rule.paths = Some(allowed(parser)?),
            Arg::Long("format") => json = Some(is_json(parser)?),
            Arg::Value(word) => words.push(word.to_string_lossy().into_owned()),
            other => return Err(unexpected(&other)),
        }
    }
    let names_none = rule == Rule::default();
    let (verb, user) = match &words[..] {
        [verb] => (verb.as_str(), None),
        [verb, user] => (verb.as_str(), Some(name(user.clone())?)),
        _ => ("", None),
    };
    let target = match (user, team, total) {
        (Some(user), None, false) => Some((LimitLevel::User, user)),
        (None, Some(team), false) => Some((LimitLevel::Team, team)),
        (None, None, true) => Some((LimitLevel::Total, String::new())),
        (None, None, false) => None,
        _ => {
            return Err("limits are of a USER, of --team TEAM or of --total: one of them; try --help".to_owned());
        }
    };
    let command = match (verb, target) {
        ("list", None) if names_none => LimitsCommand::List { json: json.unwrap_or_default() },
        _ if json.is_some() => return Err("--format belongs to limits list; try --help".to_owned()),
        ("set", Some(_)) if names_none => return Err("no limit is named; try --help".to_owned()),
        ("set", Some((level, name))) => LimitsCommand::Set { level, name, rule },
        ("list" | "clear", _) if !names_none => return Err("limits belong to limits set; try --help".to_owned()),
        ("clear", Some((level, name))) => LimitsCommand::Clear { level, name },
        _ => {
            let message = "expected limits set or limits clear with USER, --team TEAM or --total, or limits list; try \
                           --help";
            return Err(message.to_owned());
        }
    };
    Ok(Command::Limits(command))
}

fn count(parser: &mut Parser, option: &str) -> Result<u64, String> {
    let text = text(parser)?;
    let number = whole_number(text.as_bytes()).filter(|&number| number <= LIMIT_MAX);
    number.ok_or_else(|| format!("{option} {text:?}: expected a whole number, 0 to {LIMIT_MAX}"))
}

fn money(parser: &mut Parser, option: &str) -> Result<u64, String> {
    let text = text(parser)?;
    nano_usd(&text).ok_or_else(|| format!("{option} {text:?}: expected an amount in US dollars, as in 5 or 0.50"))
}

fn allowed(parser: &mut Parser) -> Result<AllowedPaths, String> {
    let text = text(parser)?;
    AllowedPaths::parse(&text).ok_or_else(|| format!("--paths {text:?}: expected {}", AllowedPaths::EXPECTED))
}

fn models(parser: &mut Parser) -> Result<Models, String> {
    let text = text(parser)?;
    Models::parse(&text).ok_or_else(|| format!("--models {text:?}: expected {}", Models::EXPECTED))
}

/// Runs the command where the tables are, at `now` in nanoseconds since the Unix epoch: what to print. Only `set`
/// makes a ledger where there is none, and `list` changes nothing.
///
/// # Errors
/// One sentence.
pub fn run(command: &LimitsCommand, store: PolicyStore<'_>, now: u64) -> Result<String, String> {
    match command {
        LimitsCommand::Set { level, name, rule } => {
            let mut set = Levels::default();
            set.set(*level, name, store.editor(&super::who(), now)?.set_rule(*level, name, rule)?);
            Ok(list(&set))
        }
        LimitsCommand::List { json } => {
            let rules = store.read(rules, fleet_policy::rules)?;
            Ok(if *json {
                pretty(&rules.iter().map(|(level, name, rule)| rule_document(level, name, rule)).collect())
            } else {
                list(&rules)
            })
        }
        LimitsCommand::Clear { level, name } => {
            let was_set = store.editor_of_existing(&super::who(), now)?.clear_rule(*level, name)?;
            let whose = whose(*level, name);
            Ok(match was_set {
                true => format!("nothing is set for {whose} any more\n"),
                false => format!("nothing was set for {whose}\n"),
            })
        }
    }
}

/// All that is set. A dash is what the settings say.
fn list(rules: &Levels<Rule>) -> String {
    let dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let count = |value: Option<u64>| dash(value.map(|value| value.to_string()));
    let money = |value: Option<u64>| dash(value.map(dollars));
    let rows = rules.iter().map(|(level, name, rule)| {
        let Rule { limits, models, paths } = rule;
        vec![
            level.label().to_owned(),
            if name.is_empty() { "-".to_owned() } else { name.to_owned() },
            count(limits.rpm),
            count(limits.tpm),
            count(limits.concurrent.map(u64::from)),
            money(limits.day_nano_usd),
            money(limits.month_nano_usd),
            dash(models.as_ref().map(ToString::to_string)),
            dash(paths.as_ref().map(ToString::to_string)),
        ]
    });
    let [rpm, tpm, concurrent, day, month] = ["RPM", "TPM", "CONCURRENT", "USD/DAY", "USD/MONTH"].map(Column::Right);
    let [level, name, models, paths] = ["LEVEL", "NAME", "MODELS", "PATHS"].map(Column::Left);
    table(&[level, name, rpm, tpm, concurrent, day, month, models, paths], &rows.collect::<Vec<_>>())
}
