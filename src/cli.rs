//! The command line: which command, what it is asked, and the text that explains it.
//!
//! In: arguments. Out: a [`Command`] to run, or one sentence that says what is wrong. Nothing is read or written here
//! but by the commands in the modules below, each of which works on the ledger's file also while servers run on it.

#![allow(clippy::disallowed_methods)] // the outside world: clocks

pub mod check;
mod findings;
pub mod health;
pub mod keys_command;
pub mod limits_command;
pub mod prices_command;
mod target_probe;
pub mod usage_command;
pub mod users_command;

use crate::ledger::keys_and_limits::Editor;
use keys_command::KeysCommand;
use lexopt::{Arg, Parser};
use limits_command::LimitsCommand;
use prices_command::PricesCommand;
use std::ffi::OsString;
use std::path::Path;
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
    Keys(KeysCommand),
    Limits(LimitsCommand),
    Prices(PricesCommand),
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

/// Reads the arguments, without the program's name.
///
/// # Errors
/// One sentence that names what is wrong.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, String> {
    let mut parser = Parser::from_args(arguments);
    let Some(argument) = next(&mut parser)? else { return Ok(Command::Serve) };
    let command = match argument {
        Arg::Short('h') | Arg::Long("help") => Command::Print(HELP),
        Arg::Short('V') | Arg::Long("version") => Command::Print(VERSION),
        Arg::Value(name) => match name.to_string_lossy().as_ref() {
            "serve" => Command::Serve,
            "grafana-dashboard" => Command::Print(GRAFANA_DASHBOARD),
            "alert-rules" => Command::Print(ALERT_RULES),
            "check" => check_arguments(&mut parser)?,
            "healthcheck" => Command::Healthcheck,
            "help" => Command::Print(HELP),
            "keys" => keys_command::parse(&mut parser)?,
            "usage" => usage_command::parse(&mut parser)?,
            "users" => users_command::parse(&mut parser)?,
            "limits" => limits_command::parse(&mut parser)?,
            "prices" => prices_command::parse(&mut parser)?,
            unknown => return Err(format!("unknown command {unknown:?}; try --help")),
        },
        other => return Err(unexpected(&other)),
    };
    match next(&mut parser)? {
        None => Ok(command),
        Some(Arg::Short('h') | Arg::Long("help")) => Ok(Command::Print(HELP)),
        Some(extra) => Err(unexpected(&extra)),
    }
}

fn check_arguments(parser: &mut Parser) -> Result<Command, String> {
    match next(parser)? {
        None => Ok(Command::Check { json: false }),
        Some(Arg::Long("json")) => Ok(Command::Check { json: true }),
        Some(Arg::Short('h') | Arg::Long("help")) => Ok(Command::Print(HELP)),
        Some(extra) => Err(unexpected(&extra)),
    }
}

fn next(parser: &mut Parser) -> Result<Option<Arg<'_>>, String> {
    parser.next().map_err(|error| format!("{error}; try --help"))
}

fn unexpected(argument: &Arg<'_>) -> String {
    match argument {
        Arg::Short(letter) => format!("unknown option -{letter}; try --help"),
        Arg::Long(name) => format!("unknown option --{name}; try --help"),
        Arg::Value(value) => format!("unexpected argument {:?}; try --help", value.to_string_lossy()),
    }
}

/// The tables of keys, limits and teams in the ledger at `path`, to be changed by this command at `now`, nanoseconds
/// since the Unix epoch. A new ledger is made where there is none.
fn editor(path: &Path, now: u64) -> Result<Editor, String> {
    Editor::open(path, &who(), now)
}

/// The same, of a ledger that is there.
fn editor_of_existing(path: &Path, now: u64) -> Result<Editor, String> {
    Editor::open_existing(path, &who(), now)
}

/// Who runs a command, for the audit.
fn who() -> String {
    format!("command, uid {}", rustix::process::getuid().as_raw())
}

/// The value of the option that was read last, as text.
fn text(parser: &mut Parser) -> Result<String, String> {
    let value = parser.value().map_err(|error| error.to_string())?;
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
        for help in ["--help", "-h", "help", "serve --help"] {
            assert_eq!(parse(help), Ok(Command::Print(HELP)), "{help}");
        }
        assert_eq!(parse("grafana-dashboard"), Ok(Command::Print(GRAFANA_DASHBOARD)));
        assert_eq!(parse("alert-rules"), Ok(Command::Print(ALERT_RULES)));
        assert_eq!(parse("check"), Ok(Command::Check { json: false }));
        assert_eq!(parse("check --json"), Ok(Command::Check { json: true }));
        assert_eq!(parse("check --help"), Ok(Command::Print(HELP)));
        assert_eq!(parse("healthcheck"), Ok(Command::Healthcheck));
        assert_eq!(parse("-V"), Ok(Command::Print(VERSION)));
        for (line, part) in
            [("serve serve", "serve"), ("--port", "--port"), ("-p", "-p"), ("sevre", "sevre"), ("--help=x", "help")]
        {
            let why = parse(line).unwrap_err();
            assert!(why.contains(part), "{line}: {why}");
        }
    }
}
