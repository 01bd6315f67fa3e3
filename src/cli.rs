//! The command line: which command, what it is asked, and the text that explains it.
//!
//! In: arguments. Out: a [`Command`] to run, or one sentence that says what is wrong. Nothing is read or written here
//! but by the commands in the modules below, each of which works on the ledger's file also while servers run on it.

#![allow(clippy::disallowed_methods)] // the outside world: clocks

pub mod check;
mod findings;
pub mod first_lines;
pub mod fleet_command;
pub mod health;
pub mod help_command;
pub mod keys_command;
pub mod limits_command;
pub mod prices_command;
pub mod reconcile_command;
pub mod start_notes;
mod target_probe;
pub mod usage_command;
pub mod users_command;

use crate::base::edit_distance::nearest;
use fleet_command::FleetCommand;
use help_command::HelpCommand;
use keys_command::KeysCommand;
use lexopt::{Arg, Parser};
use limits_command::LimitsCommand;
use prices_command::PricesCommand;
use reconcile_command::ReconcileCommand;
use std::ffi::OsString;
use usage_command::UsageCommand;
use users_command::UsersCommand;

/// What the program is asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// `serve`, or nothing: serve until a signal says otherwise.
    Serve,
    /// Print this: a help, the version, [`GRAFANA_DASHBOARD`] or [`ALERT_RULES`].
    Print(&'static str),
    /// `check`: look at everything that the server needs, and tell it as JSON or in lines.
    Check {
        json: bool,
    },
    /// `healthcheck`: ask the running server how it is.
    Healthcheck,
    Fleet(FleetCommand),
    /// `help SUBJECT`: a page of the manual, or the list of them.
    Help(HelpCommand),
    Keys(KeysCommand),
    Limits(LimitsCommand),
    Prices(PricesCommand),
    Reconcile(ReconcileCommand),
    Usage(UsageCommand),
    Users(UsersCommand),
}

/// A Grafana dashboard for the metrics, to be imported as it is.
pub const GRAFANA_DASHBOARD: &str = include_str!("cli/grafana_dashboard.json");

/// Alert rules for Prometheus, a whole rule file.
pub const ALERT_RULES: &str = include_str!("cli/alert_rules.yaml");

/// The text of `--version`.
const VERSION: &str = concat!("proxy-server ", env!("CARGO_PKG_VERSION"), "\n");

/// The exit status where the configuration or the command line is wrong.
pub const EXIT_USAGE: u8 = 2;

/// The text of `--help`.
pub const HELP: &str = include_str!("cli/help.txt");

/// The commands, each with its own help.
const COMMANDS: [(&str, &str); 13] = [
    ("serve", include_str!("cli/serve_help.txt")),
    ("usage", usage_command::HELP),
    ("check", include_str!("cli/check_help.txt")),
    ("healthcheck", include_str!("cli/healthcheck_help.txt")),
    ("keys", keys_command::HELP),
    ("limits", limits_command::HELP),
    ("users", users_command::HELP),
    ("prices", prices_command::HELP),
    ("reconcile", reconcile_command::HELP),
    ("fleet", fleet_command::HELP),
    ("grafana-dashboard", include_str!("cli/grafana_dashboard_help.txt")),
    ("alert-rules", include_str!("cli/alert_rules_help.txt")),
    ("help", HELP),
];

/// What ends a sentence about arguments that no command has.
const TRY_HELP: &str = "; try --help";

/// Reads the arguments, without the program's name.
///
/// # Errors
/// One sentence that names what is wrong, and where to read on.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, String> {
    let mut parser = Parser::from_args(arguments);
    let Some(argument) = next(&mut parser)? else { return Ok(Command::Serve) };
    match argument {
        Arg::Short('h') | Arg::Long("help") => alone(&mut parser, Command::Print(HELP), HELP),
        Arg::Short('V') | Arg::Long("version") => alone(&mut parser, Command::Print(VERSION), HELP),
        Arg::Value(name) => {
            let name = name.to_string_lossy().into_owned();
            command(&name, &mut parser).map_err(|why| match why.strip_suffix(TRY_HELP) {
                Some(sentence) if page(&name).is_ok() => format!("{sentence}; try {name} --help"),
                _ => why,
            })
        }
        other => Err(unexpected(&other)),
    }
}

fn command(name: &str, parser: &mut Parser) -> Result<Command, String> {
    let page = page(name)?;
    let command = match name {
        "keys" => return keys_command::parse(parser),
        "usage" => return usage_command::parse(parser),
        "limits" => return limits_command::parse(parser),
        "users" => return users_command::parse(parser),
        "prices" => return prices_command::parse(parser),
        "reconcile" => return reconcile_command::parse(parser),
        "fleet" => return fleet_command::parse(parser),
        "check" => return check_arguments(parser, page),
        "help" => return help_command::parse(parser),
        "healthcheck" => Command::Healthcheck,
        "grafana-dashboard" => Command::Print(GRAFANA_DASHBOARD),
        "alert-rules" => Command::Print(ALERT_RULES),
        _ => Command::Serve,
    };
    alone(parser, command, page)
}

/// The help of a command of this name.
fn page(name: &str) -> Result<&'static str, String> {
    if let Some((_, page)) = COMMANDS.iter().find(|(known, _)| *known == name) {
        return Ok(page);
    }
    match nearest(name, COMMANDS.iter().map(|(known, _)| *known)) {
        Some(near) => Err(format!("unknown command {name:?}; did you mean {near}?")),
        None => Err(format!("unknown command {name:?}{TRY_HELP}")),
    }
}

/// The command, behind which nothing more may stand than the question what it does.
fn alone(parser: &mut Parser, command: Command, page: &'static str) -> Result<Command, String> {
    match next(parser)? {
        None => Ok(command),
        Some(Arg::Short('h') | Arg::Long("help")) => Ok(Command::Print(page)),
        Some(extra) => Err(unexpected(&extra)),
    }
}

fn check_arguments(parser: &mut Parser, page: &'static str) -> Result<Command, String> {
    match next(parser)? {
        Some(Arg::Long("json")) => alone(parser, Command::Check { json: true }, page),
        None => Ok(Command::Check { json: false }),
        Some(Arg::Short('h') | Arg::Long("help")) => Ok(Command::Print(page)),
        Some(extra) => Err(unexpected(&extra)),
    }
}

/// The value of `--format`, where that is text or JSON: whether it is JSON.
fn is_json(parser: &mut Parser) -> Result<bool, String> {
    let format = text(parser)?;
    match format.as_str() {
        "text" => Ok(false),
        "json" => Ok(true),
        _ => Err(format!("--format {format:?}: expected text or json")),
    }
}

fn next(parser: &mut Parser) -> Result<Option<Arg<'_>>, String> {
    parser.next().map_err(|error| format!("{error}{TRY_HELP}"))
}

fn unexpected(argument: &Arg<'_>) -> String {
    match argument {
        Arg::Short(letter) => format!("unknown option -{letter}{TRY_HELP}"),
        Arg::Long(name) => format!("unknown option --{name}{TRY_HELP}"),
        Arg::Value(value) => format!("unexpected argument {:?}{TRY_HELP}", value.to_string_lossy()),
    }
}

/// Who runs a command, for the audit.
fn who() -> String {
    format!("command, uid {}", rustix::process::getuid().as_raw())
}

/// The value of the option that was read last, as text.
fn text(parser: &mut Parser) -> Result<String, String> {
    let value = parser.value().map_err(|error| format!("{error}{TRY_HELP}"))?;
    value.into_string().map_err(|value| format!("{:?} is not UTF-8", value.to_string_lossy()))
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn parse(line: &str) -> Result<Command, String> {
        super::parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn one_command_or_none() {
        assert_eq!(parse(""), Ok(Command::Serve));
        assert_eq!(parse("serve"), Ok(Command::Serve));
        for help in ["--help", "-h", "help", "help --help", "help help", "--help -h"] {
            assert_eq!(parse(help), Ok(Command::Print(HELP)), "{help}");
        }
        for (name, page) in COMMANDS {
            for asked in [format!("{name} --help"), format!("{name} -h"), format!("help {name}")] {
                assert_eq!(parse(&asked), Ok(Command::Print(page)), "{asked}");
            }
            assert!(page.contains(&format!("proxy-server {name}")) || name == "help", "{name}");
        }
        assert_eq!(parse("grafana-dashboard"), Ok(Command::Print(GRAFANA_DASHBOARD)));
        assert_eq!(parse("alert-rules"), Ok(Command::Print(ALERT_RULES)));
        assert_eq!(parse("check"), Ok(Command::Check { json: false }));
        assert_eq!(parse("check --json"), Ok(Command::Check { json: true }));
        assert_eq!(parse("check --json --help"), parse("help check"));
        assert_eq!(parse("healthcheck"), Ok(Command::Healthcheck));
        assert_eq!(parse("-V"), Ok(Command::Print(VERSION)));
        for (line, why) in [
            ("--port", "unknown option --port; try --help"),
            ("-p", "unknown option -p; try --help"),
            ("serve serve", "unexpected argument \"serve\"; try serve --help"),
            ("usage --foo", "unknown option --foo; try usage --help"),
            ("limits set taro --rpm", "missing argument for option '--rpm'; try limits --help"),
            ("check --json x", "unexpected argument \"x\"; try check --help"),
            ("usgae", "unknown command \"usgae\"; did you mean usage?"),
            ("help sevre", "no command and no page \"sevre\"; did you mean serve?"),
            ("demo", "unknown command \"demo\"; try --help"),
            ("help usage x", "unexpected argument \"x\"; try help --help"),
        ] {
            assert_eq!(parse(line), Err(why.to_owned()), "{line}");
        }
        assert!(parse("--help=x").unwrap_err().contains("help"));
    }
}
