//! `proxy-server usage`: who used what, from the ledger's file.

use super::fleet_command::PATIENCE;
use super::{Command, next, text, unexpected};
use crate::base::digits::whole_number;
use crate::base::visible::visible;
use crate::config::Fleet;
use crate::fleet::{fleet_answers, schema};
use crate::ledger::answer::report_with_budgets;
use crate::ledger::offline;
use crate::limit::in_force::SettingsLimits;
use crate::local::usage_report::{Format, Given, Terminal, UsageQuery, answer};
use crate::postgres::PostgresClient;
use crate::reporting::{BucketKey, GroupBy, Query, Report, Scope};
use crate::worker::logger::say;
use crate::worker::unix_now;
use lexopt::{Arg, Parser};
use std::path::Path;

/// The text of `usage --help`.
pub const HELP: &str = include_str!("usage_help.txt");

/// The options, and the parameters of `/usage` that they are.
const OPTIONS: [(&str, &str); 10] = [
    ("--user", "user_id"),
    ("--team", "team"),
    ("--node", "node"),
    ("--from", "from"),
    ("--to", "to"),
    ("--model", "model"),
    ("--by", "group_by"),
    ("--limit", "limit"),
    ("--cursor", "cursor"),
    ("--format", "format"),
];

/// What is asked: parameters of `/usage` with their values as they were typed, each of them valid.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UsageCommand {
    parameters: Vec<(&'static str, String)>,
    /// `--top`: so many rows of sums at most.
    top: Option<usize>,
}

impl UsageCommand {
    /// Whether the answer is to be read, rather than parsed.
    pub fn is_for_people(&self) -> bool {
        !self.parameters.iter().any(|(parameter, value)| *parameter == "format" && value != "text")
    }
}

pub(super) fn parse(parser: &mut Parser) -> Result<Command, String> {
    let (mut command, mut given) = (UsageCommand::default(), Given::default());
    while let Some(argument) = next(parser)? {
        let found = match &argument {
            Arg::Short('h') | Arg::Long("help") => return Ok(Command::Print(HELP)),
            Arg::Long("top") => {
                command.top = Some(top(parser)?);
                continue;
            }
            Arg::Long(name) => OPTIONS.iter().find(|(option, _)| option[2..] == **name),
            _ => None,
        };
        let Some((_, parameter)) = found else { return Err(unexpected(&argument)) };
        let value = text(parser)?;
        given.set(parameter, value.clone(), 0).map_err(|why| in_options(&why))?;
        command.parameters.push((parameter, value));
    }
    let UsageQuery { query, .. } = query(&command, unix_now())?; // what is wrong of two together is known at the end
    if command.top.is_some() && query.group_by.is_some_and(GroupBy::is_time) {
        return Err(
            "--top is of models, users, teams, endpoints, keys or nodes, the dearest first; --from says how many days"
                .to_owned(),
        );
    }
    Ok(Command::Usage(command))
}

/// Runs the command on the ledger at `path`, under these limits of the settings: what to print, on a terminal of so
/// many columns if it is one. `now` in nanoseconds since the Unix epoch.
///
/// # Errors
/// One sentence.
pub fn run(
    command: &UsageCommand,
    (path, settings): (&Path, &SettingsLimits),
    fleet: Option<&Fleet>,
    now: u64,
    width: Option<usize>,
) -> Result<Vec<u8>, String> {
    let UsageQuery { query, format, .. } = query(command, now)?;
    let mut report = match fleet {
        Some(fleet) => of_fleet(fleet, (path, settings), &query, now)?,
        None if query.is_of_nodes() => return Err("--node and --by node are of a fleet (FLEET_URL)".to_owned()),
        None => offline::read(path, |conn| report_with_budgets(conn, query.clone(), settings, now))?,
    };
    if let Some(top) = command.top {
        report.by_model.truncate(top);
        if let Some(buckets) = &mut report.buckets {
            buckets.truncated |= buckets.list.len() > top;
            buckets.list.truncate(top);
            let level = report.query.group_by.and_then(GroupBy::level);
            let is_shown = |name: &str| buckets.list.iter().any(|(key, _)| *key == BucketKey::Name(name.to_owned()));
            report.budgets.retain(|budget| Some(budget.level) != level || is_shown(&budget.name));
        }
    }
    Ok(answer(&report, format, Some(&Terminal { width, older: older(command) })).body)
}

/// The whole fleet's answer; where that is out of reach, this node's own, which says so.
fn of_fleet(
    fleet: &Fleet,
    (path, settings): (&Path, &SettingsLimits),
    query: &Query,
    now: u64,
) -> Result<Report, String> {
    if query.group_by == Some(GroupBy::Key) {
        return Err(in_options(fleet_answers::NO_KEYS));
    }
    let asked = PostgresClient::connect(&fleet.url, PATIENCE).and_then(|mut client| {
        schema::require(&mut client)?;
        fleet_answers::report(&mut client, query.clone(), PATIENCE)
    });
    let why = match asked {
        Ok(report) => return Ok(report),
        Err(error) => format!("the fleet is out of reach: {error}"),
    };
    if query.is_of_nodes() {
        return Err(why);
    }
    say(format_args!("{why}"));
    let own = offline::read(path, |conn| report_with_budgets(conn, query.clone(), settings, now))?;
    Ok(Report { scope: Scope::Node, ..own })
}

/// The command that shows older requests, up to its cursor, as it is typed into a shell.
fn older(command: &UsageCommand) -> String {
    let mut line = "proxy-server usage".to_owned();
    for (parameter, value) in command.parameters.iter().filter(|(parameter, _)| *parameter != "cursor") {
        let (option, _) = OPTIONS.iter().find(|(_, of)| of == parameter).expect("each is an option's");
        let is_plain = |c: char| c.is_alphanumeric() || "-_.,:/@+".contains(c);
        match value.chars().all(is_plain) {
            true => line.push_str(&format!(" {option} {value}")),
            false => line.push_str(&format!(" {option} '{}'", visible(value).replace('\'', "'\\''"))),
        }
    }
    line + " --cursor"
}

fn query(command: &UsageCommand, now: u64) -> Result<UsageQuery, String> {
    let mut given = Given::default();
    for (parameter, value) in &command.parameters {
        given.set(parameter, value.clone(), now).map_err(|why| in_options(&why))?;
    }
    given.query(Format::Text).map_err(|why| in_options(&why))
}

/// The value of `--top`.
fn top(parser: &mut Parser) -> Result<usize, String> {
    let text = text(parser)?;
    let number = whole_number(text.as_bytes()).and_then(|number| usize::try_from(number).ok());
    number.filter(|&number| number > 0).ok_or_else(|| format!("--top {text:?}: expected a whole number from 1 on"))
}

/// A message about parameters as one about options.
fn in_options(message: &str) -> String {
    OPTIONS
        .iter()
        .fold(message.to_owned(), |message, (option, parameter)| message.replace(&format!("`{parameter}`"), option))
}

#[cfg(test)]
mod tests {
    use super::super::tests::parse;
    use super::*;

    #[test]
    fn options_are_parameters() {
        let Ok(Command::Usage(command)) = parse("usage --user 太郎 --by=day --from 24h --limit 7 --format csv")
        else {
            panic!("a command")
        };
        let day = 86_400_000_000_000;
        let expected = Query {
            user: Some("太郎".to_owned()),
            group_by: Some(GroupBy::Day),
            from: Some(9 * day),
            limit: 7,
            ..Query::default()
        };
        let expected = UsageQuery { query: expected, format: Format::Csv, own: false };
        assert_eq!(query(&command, 10 * day), Ok(expected));
        assert_eq!(query(&UsageCommand::default(), 0).map(|query| query.format), Ok(Format::Text));
        assert_eq!(parse("usage --by day -h"), Ok(Command::Print(HELP)));
    }

    #[test]
    fn what_is_older_is_asked_for_by_the_same_command() {
        let Ok(Command::Usage(mut command)) = parse("usage --user 太郎 --from 24h --cursor 9") else {
            panic!("a command")
        };
        assert_eq!(older(&command), "proxy-server usage --user 太郎 --from 24h --cursor");
        command.parameters[0].1 = "it's $HOME".to_owned();
        assert_eq!(older(&command), r"proxy-server usage --user 'it'\''s $HOME' --from 24h --cursor");
    }

    #[test]
    fn what_is_wrong_is_named_as_it_was_typed() {
        for (line, part) in [
            ("usage taro", "\"taro\""),
            ("usage --user", "user"),
            ("usage --by week", "--by must be one of hour, day"),
            ("usage --from soon", "--from must be a time"),
            ("usage --format xml", "--format is `xml`, and must be one of json, text, csv"),
            ("usage --user a --user b", "--user is given more than once"),
            ("usage --group_by day", "--group_by"),
            ("usage -x", "-x"),
            ("usage --top 0", "--top \"0\": expected a whole number"),
            ("usage --top 5 --by day", "--top is of models"),
        ] {
            let why = parse(line).unwrap_err();
            assert!(why.contains(part), "{line}: {why}");
        }
        assert_eq!(parse("usage --from 1h --to 2h").unwrap_err(), "--from must be before --to");
    }
}
