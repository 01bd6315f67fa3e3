//! The command line: which command, and what it prints where there is nothing to serve.

/// What the program is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// `serve`, or nothing: serve until a signal says otherwise.
    Serve,
    /// `grafana-dashboard`: print [`GRAFANA_DASHBOARD`].
    GrafanaDashboard,
    /// `alert-rules`: print [`ALERT_RULES`].
    AlertRules,
    Help,
    Version,
}

/// A Grafana dashboard for the metrics, to be imported as it is.
pub const GRAFANA_DASHBOARD: &str = include_str!("cli/grafana_dashboard.json");

/// Alert rules for Prometheus, a whole rule file.
pub const ALERT_RULES: &str = include_str!("cli/alert_rules.yaml");

/// The text of `--help`.
pub const HELP: &str = "\
A proxy in front of the OpenAI API that counts each user's tokens and money.

Usage: proxy-server [serve | COMMAND]

Point a client at it:

    export OPENAI_BASE_URL=http://127.0.0.1:8080/v1

and ask it, on the same port:

    curl 'localhost:8080/usage?user_id=user123'    who used what
    curl localhost:8080/metrics                    the same for Prometheus
    curl localhost:8080/readyz                     is it ready to relay?

A request's user is its X-User-ID header. Everything is set by environment
variables, or the same names in a file .env; .env.example lists them all.

  grafana-dashboard    print a Grafana dashboard for the metrics
  alert-rules          print Prometheus alert rules

  -h, --help       print this
  -V, --version    print the version

Exit status: 0 after a clean stop, 1 on a failure, 2 for a wrong configuration
or command line.
";

/// Reads the arguments, without the program's name.
///
/// # Errors
/// One sentence that names what is wrong.
pub fn parse(arguments: impl Iterator<Item = String>) -> Result<Command, String> {
    let mut command = None;
    for argument in arguments {
        let next = match argument.as_str() {
            "serve" => Command::Serve,
            "grafana-dashboard" => Command::GrafanaDashboard,
            "alert-rules" => Command::AlertRules,
            "-h" | "--help" | "help" => Command::Help,
            "-V" | "--version" => Command::Version,
            _ => return Err(format!("unknown argument {argument:?}; try --help")),
        };
        if command.replace(next).is_some() {
            return Err("more than one command; try --help".to_owned());
        }
    }
    Ok(command.unwrap_or(Command::Serve))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_command_or_none() {
        let parse = |arguments: &[&str]| parse(arguments.iter().map(|&argument| argument.to_owned()));
        assert_eq!(parse(&[]), Ok(Command::Serve));
        assert_eq!(parse(&["serve"]), Ok(Command::Serve));
        assert_eq!(parse(&["grafana-dashboard"]), Ok(Command::GrafanaDashboard));
        assert_eq!(parse(&["alert-rules"]), Ok(Command::AlertRules));
        assert_eq!(parse(&["--help"]), Ok(Command::Help));
        assert_eq!(parse(&["-V"]), Ok(Command::Version));
        assert!(parse(&["serve", "serve"]).is_err());
        assert!(parse(&["--port"]).unwrap_err().contains("--port"));
    }
}
