//! What goes wrong with a database: what to do about it, for whoever reads the log, and what kind it is, for whoever
//! decides what to do next.

use std::fmt;

/// What kind of failure it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SqlFault {
    /// No server is reached, or it is starting, stopping or full: it may be there later. The connection is gone.
    Away,
    /// There is one, and something is wrong with the settings on either side: somebody has to act.
    Misconfigured,
    /// The server only reads: it is a replica, or was one a moment ago.
    ReadOnly,
    /// The server has no room for it.
    DiskFull,
    /// It was cancelled, or took longer than it may.
    Cancelled,
    /// Two transactions met; the same may be tried again.
    Conflict,
    /// Anything else: the statement does not fit the database.
    Statement,
}

/// A failure, in words for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqlError {
    pub fault: SqlFault,
    message: String,
    /// SQLSTATE where the server says so; empty where it does not.
    state: String,
}

impl SqlError {
    /// An error of ours.
    pub fn new(fault: SqlFault, message: impl Into<String>) -> Self {
        Self { fault, message: message.into(), state: String::new() }
    }

    /// The connection cannot be used any more.
    pub(super) fn away(why: impl fmt::Display) -> Self {
        Self::new(SqlFault::Away, why.to_string())
    }

    /// What a server says: its SQLSTATE (PostgreSQL's manual, appendix A), its message and its hint.
    pub(super) fn of_server(state: &str, message: &str, hint: Option<&str>) -> Self {
        let (fault, remedy) = judge(state, message);
        let told = match (remedy, hint) {
            ("", None) => String::new(),
            ("", Some(hint)) => format!(" ({hint})"),
            (remedy, _) => format!(" ({remedy})"),
        };
        Self { fault, message: format!("{}{told}", message.trim()), state: state.to_owned() }
    }

    /// The server's SQLSTATE; empty for errors of ours.
    pub fn state(&self) -> &str {
        &self.state
    }

    /// With words before it.
    pub(super) fn at(self, place: &str) -> Self {
        Self { message: format!("{place}: {}", self.message), ..self }
    }
}

/// What is to be made of a SQLSTATE. pgbouncer gives errors of its own the state 08P01.
fn judge(state: &str, message: &str) -> (SqlFault, &'static str) {
    use SqlFault as F;
    match state {
        "28P01" => (F::Misconfigured, "look at the user and the password of the URL, or of the file with it"),
        "28000" => (F::Misconfigured, "does pg_hba.conf let this user in from here?"),
        "3D000" => (F::Misconfigured, "is the database of the URL right? createdb makes one"),
        "42501" => {
            (F::Misconfigured, "the user of the URL needs rights: GRANT CREATE, USAGE ON SCHEMA public, or its own")
        }
        "25006" => (F::ReadOnly, "it is a replica or read-only: name the primary in the URL, or all hosts"),
        "53100" => (F::DiskFull, "the database server's disk is full"),
        "57014" | "25P03" => (F::Cancelled, ""),
        "40001" | "40P01" | "55P03" => (F::Conflict, ""),
        "57P01" | "57P02" | "57P03" | "57P05" => (F::Away, ""),
        "08P01" if message.contains("authentication failed") || message.contains("no such user") => {
            (F::Misconfigured, "look at the user and the password of the URL, or of the file with it")
        }
        "08P01" if message.contains("no such database") => (F::Misconfigured, "is the database of the URL right?"),
        _ if state.starts_with("08") || state.starts_with("53") || state.starts_with("58") => (F::Away, ""),
        _ => (F::Statement, ""),
    }
}

impl fmt::Display for SqlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for SqlError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_state_says_what_kind_it_is_and_what_to_do() {
        use SqlFault as F;
        for (state, message, fault, part) in [
            (
                "53100",
                "could not extend file: No space left on device",
                F::DiskFull,
                "(the database server's disk is full)",
            ),
            ("25006", "cannot execute INSERT in a read-only transaction", F::ReadOnly, "name the primary"),
            ("53300", "sorry, too many clients already", F::Away, "too many clients already"),
            ("57P03", "the database system is starting up", F::Away, "starting up"),
            ("57P01", "terminating connection due to administrator command", F::Away, "administrator"),
            ("57014", "canceling statement due to statement timeout", F::Cancelled, "timeout"),
            ("40P01", "deadlock detected", F::Conflict, "deadlock"),
            ("28000", "no pg_hba.conf entry for host", F::Misconfigured, "let this user in"),
            ("08P01", "no such database: x", F::Misconfigured, "database of the URL"),
            ("08P01", "server_login_failed", F::Away, "server_login_failed"),
            ("22003", "bigint out of range", F::Statement, "bigint out of range"),
        ] {
            let error = SqlError::of_server(state, message, None);
            assert_eq!(error.fault, fault, "{state}");
            assert!(error.to_string().starts_with(message) && error.to_string().contains(part), "{error}");
        }
        let hinted =
            SqlError::of_server("42883", "function oap_join_v1(uuid) does not exist", Some("No function matches."));
        assert_eq!(hinted.to_string(), "function oap_join_v1(uuid) does not exist (No function matches.)");
        assert_eq!(SqlError::away("gone").at("db:5432").to_string(), "db:5432: gone");
    }
}
