//! How the cost of a request grows: with connections, with users, with rows in the ledger.
//!
//! In: [`Options`]. Out: a table of its own, each group with ratios to its first line. Never: a comparison of targets.

use crate::measured::Measured;
use crate::options::Options;
use crate::process::Descriptors;
use crate::report::Runs;
use crate::target::{Kind, Setup, Target};
use crate::upstream::Upstream;
use crate::work::Load;
use crate::{capacity, measure};
use rusqlite::{Connection, OpenFlags};
use std::path::{Path, PathBuf};

/// One line for each target.
struct Point {
    label: String,
    load: Load,
    ledger: Option<PathBuf>,
}

/// Prints the table of `targets`; an error in any answer fails the run.
pub fn run(options: &Options, upstream: &Upstream, within: &Descriptors, targets: &[Kind]) -> Result<(), String> {
    let groups = [connections(options, within), users(options), rows(options)?];
    let mut runs = Runs::default();
    for round in 1..=options.rounds {
        for kind in targets {
            eprintln!("growth: round {round} of {}: {}", options.rounds, kind.name());
            for point in groups.iter().flatten() {
                let clients = capacity(point.load.connections);
                let ledger = point.ledger.as_deref();
                let setup = Setup { upstream, binary: &options.binary, ledger, clients };
                let (target, _) = Target::start(*kind, &setup)?;
                let measured = measure(options, upstream, *kind, &target, point.load)?;
                runs.add(&point.label, *kind, measured);
            }
        }
    }
    println!("\n{}", Runs::heading("growth", "first"));
    for kind in targets {
        for group in groups.iter().filter(|group| !group.is_empty()) {
            let cpu = |point: &Point| runs.figure(&point.label, *kind, Measured::cpu_us_per_request);
            for point in group {
                let ratio = cpu(point).zip(cpu(&group[0])).map(|(own, first)| own.median / first.median);
                println!("{}", runs.row(&point.label, &point.label, *kind, ratio));
            }
        }
    }
    if options.ledgers.is_empty() {
        println!("growth with rows is measured with --ledger FILE only");
    }
    runs.verdict()
}

fn connections(options: &Options, within: &Descriptors) -> Vec<Point> {
    let steps: &[usize] = if options.smoke { &[1, 4] } else { &[1, 10, 100, 1000, 5000, 9000] };
    let point = |&connections: &usize| {
        let label = format!("{connections} connection{}", if connections == 1 { "" } else { "s" });
        Point { label, load: Load { connections, ..Load::JSON }, ledger: None }
    };
    steps.iter().filter(|connections| within.allow(**connections)).map(point).collect()
}

/// Every user has asked once before measuring begins.
fn users(options: &Options) -> Vec<Point> {
    let steps: &[usize] = if options.smoke { &[4, 16] } else { &[10, 1000, 100_000] };
    let point = |&users: &usize| {
        let load = Load { users, warm_up_requests: users, ..Load::JSON };
        Point { label: format!("{users} users"), load, ledger: None }
    };
    steps.iter().map(point).collect()
}

/// A new ledger, then those that were named.
fn rows(options: &Options) -> Result<Vec<Point>, String> {
    let mut points = Vec::new();
    for file in &options.ledgers {
        let label = format!("{} rows", count(file).map_err(|e| format!("{}: {e}", file.display()))?);
        points.push(Point { label, load: Load::JSON, ledger: Some(file.clone()) });
    }
    if !points.is_empty() {
        points.insert(0, Point { label: "0 rows".into(), load: Load::JSON, ledger: None });
    }
    Ok(points)
}

fn count(ledger: &Path) -> rusqlite::Result<i64> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
    Connection::open_with_flags(ledger, flags)?
        .query_row("SELECT ifnull(max(id), 0) FROM records", (), |row| row.get(0))
}
