//! `proxy-server fleet`: who shares the database that `FLEET_URL` names.

use super::{Command, is_json, next, unexpected};
use crate::base::civil::write_rfc3339;
use crate::config::Fleet;
use crate::fleet::roster::{self, Forgotten, RosterEntry};
use crate::local::humanize::{grouped, second};
use crate::local::text_table::{Column, table};
use crate::postgres::PostgresClient;
use lexopt::{Arg, Parser};
use serde_json::json;
use std::time::Duration;

/// The text of `fleet --help`.
pub const HELP: &str = include_str!("fleet_help.txt");

/// How long the database may take for anything.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// What is asked of the fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FleetCommand {
    Status { json: bool },
    Forget { node: String },
}

pub(super) fn parse(parser: &mut Parser) -> Result<Command, String> {
    let (mut words, mut json) = (Vec::new(), None);
    while let Some(argument) = next(parser)? {
        match argument {
            Arg::Short('h') | Arg::Long("help") => return Ok(Command::Print(HELP)),
            Arg::Long("format") => json = Some(is_json(parser)?),
            Arg::Value(word) => words.push(word.to_string_lossy().into_owned()),
            other => return Err(unexpected(&other)),
        }
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["status"] => Ok(Command::Fleet(FleetCommand::Status { json: json.unwrap_or(false) })),
        ["forget", node] if json.is_none() => Ok(Command::Fleet(FleetCommand::Forget { node: node.to_owned() })),
        _ => Err("expected fleet status or fleet forget NODE; try --help".to_owned()),
    }
}

/// Runs the command: what to print.
///
/// # Errors
/// One sentence.
pub fn run(command: &FleetCommand, fleet: Option<&Fleet>) -> Result<String, String> {
    let fleet = fleet.ok_or("there is no fleet: FLEET_URL names its database")?;
    let failed = |error: crate::postgres::SqlError| format!("the fleet is out of reach: {error}");
    let mut client = PostgresClient::connect(&fleet.url, PATIENCE).map_err(failed)?;
    match command {
        FleetCommand::Status { json } => {
            let nodes = roster::list(&mut client).map_err(failed)?;
            Ok(if *json { document(&nodes) } else { text(&nodes) })
        }
        FleetCommand::Forget { node } => match roster::forget(&mut client, node).map_err(failed)? {
            Forgotten::Done => Ok(format!("node {node} is forgotten; what it has sent stays\n")),
            Forgotten::Lives => Err(format!("node {node} lives: stop it first")),
            Forgotten::Unknown => Err(format!("there is no node {node}; `proxy-server fleet status` lists them")),
        },
    }
}

fn text(nodes: &[RosterEntry]) -> String {
    let columns = [
        Column::Left("NODE"),
        Column::Left("STATE"),
        Column::Right("SEEN"),
        Column::Right("RECORDS"),
        Column::Right("WAITING"),
        Column::Right("CLOCK MS"),
        Column::Left("COMPLETE TO"),
        Column::Left("VERSION"),
        Column::Left("HOST"),
    ];
    let row = |node: &RosterEntry| {
        vec![
            node.node.clone(),
            node.state.clone(),
            format!("{} s ago", grouped(node.unseen_seconds.unsigned_abs())),
            grouped(node.shipped.unsigned_abs()),
            grouped(node.lag_rows.unsigned_abs()),
            node.clock_skew_ms.to_string(),
            second(node.fresh_to),
            node.version.clone(),
            node.host.clone(),
        ]
    };
    table(&columns, &nodes.iter().map(row).collect::<Vec<_>>())
}

fn document(nodes: &[RosterEntry]) -> String {
    let node = |node: &RosterEntry| {
        let mut fresh_to = Vec::new();
        write_rfc3339(&mut fresh_to, node.fresh_to, 3);
        json!({
            "node": node.node,
            "state": node.state,
            "seen_seconds_ago": node.unseen_seconds,
            "records": node.shipped,
            "lag_rows": node.lag_rows,
            "clock_skew_ms": node.clock_skew_ms,
            "fresh_to": String::from_utf8_lossy(&fresh_to),
            "version": node.version,
            "host": node.host,
        })
    };
    format!("{}\n", json!({ "nodes": nodes.iter().map(node).collect::<Vec<_>>() }))
}

#[cfg(test)]
mod tests {
    use super::super::tests::parse;
    use super::*;

    #[test]
    fn two_commands() {
        assert_eq!(parse("fleet status"), Ok(Command::Fleet(FleetCommand::Status { json: false })));
        assert_eq!(parse("fleet status --format json"), Ok(Command::Fleet(FleetCommand::Status { json: true })));
        assert_eq!(parse("fleet forget a"), Ok(Command::Fleet(FleetCommand::Forget { node: "a".to_owned() })));
        for wrong in ["fleet", "fleet forget", "fleet forget a b", "fleet forget a --format json", "fleet status x"] {
            assert!(parse(wrong).unwrap_err().contains("expected fleet status"), "{wrong}");
        }
        assert!(run(&FleetCommand::Status { json: false }, None).unwrap_err().contains("FLEET_URL"));
    }
}
