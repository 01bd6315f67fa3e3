//! Ledger benchmark: a year of rows through the production writer, what a row costs, how long commits take, and how
//! long questions take beside the same on 10 thousand rows.
//!
//! `cargo bench --bench ledger -- --help` lists the options. CPU and ratios within one run are the figures to quote:
//! times depend on what else the machine does.

#![forbid(unsafe_code)]
#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // a benchmark reads clocks

mod questions;
mod rows;
mod writer;

use openai_api_proxy::ledger::database;
use openai_api_proxy::ledger::fold::{FOLD_ROWS_MAX, fold};
use openai_api_proxy::ledger::prune::first_id;
use openai_api_proxy::ledger::tiers::TierBuilder;
use openai_api_proxy::worker::ledger;
use questions::{Asked, compare};
use rows::{Rows, YEAR_START_NS};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use writer::{Cost, Feeder};

const USAGE: &str = "\
usage: cargo bench --bench ledger -- [options]
  --rows N       rows of the large ledger, 20000 to 100000000 (1000000)
  --days N       write no more than these days of the year, and ask nothing: for a look at the writer
  --folder DIR   where to make the ledgers (the system's folder for temporary files)
  --keep FILE    keep the large ledger under this name; where it is there already, ask it and write nothing
  --smoke        few rows: shows that all of it works, and measures nothing of value";

const SMALL_ROWS: u64 = 10_000;

struct Options {
    rows: u64,
    days: Option<u64>,
    folder: PathBuf,
    keep: Option<PathBuf>,
    rounds: usize,
}

fn main() {
    // `cargo bench` adds `--bench` for harnesses that know it.
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    if args.first().is_some_and(|arg| arg == "--help") {
        return println!("{USAGE}");
    }
    if let Err(message) = parse(&args).and_then(|options| run(&options)) {
        eprintln!("{message}");
        std::process::exit(1);
    }
}

fn parse(args: &[String]) -> Result<Options, String> {
    let mut options = Options { rows: 1_000_000, days: None, folder: std::env::temp_dir(), keep: None, rounds: 41 };
    let mut rest = args.iter();
    let number = |value: Option<&String>| value.and_then(|value| value.parse::<u64>().ok()).ok_or(USAGE);
    while let Some(arg) = rest.next() {
        match arg.as_str() {
            "--rows" => options.rows = number(rest.next())?.clamp(20_000, 100_000_000),
            "--days" => options.days = Some(number(rest.next())?.clamp(1, 365)),
            "--folder" => options.folder = rest.next().ok_or(USAGE)?.into(),
            "--keep" => options.keep = Some(rest.next().ok_or(USAGE)?.into()),
            "--smoke" => (options.rows, options.rounds) = (20_000, 1),
            _ => return Err(USAGE.into()),
        }
    }
    Ok(options)
}

fn run(options: &Options) -> Result<(), String> {
    let folder = tempfile::tempdir_in(&options.folder).map_err(|error| format!("temporary folder: {error}"))?;
    let large = options.keep.clone().unwrap_or_else(|| folder.path().join("large.db"));
    if !large.exists() {
        write(&large, options)?;
    }
    if options.days.is_some() {
        return Ok(());
    }
    let small = folder.path().join("small.db");
    let mut feeder = Feeder::start(&small, Rows::new(SMALL_ROWS), ledger::Options::default())?;
    feeder.feed(SMALL_ROWS as usize, 256)?;
    feeder.stop()?;
    for ledger in [&small, &large] {
        catch_up(ledger).map_err(|error| error.to_string())?;
    }
    compare(&Asked::open(&small, SMALL_ROWS)?, &Asked::open(&large, options.rows)?, options.rounds)?;
    if options.keep.is_none() {
        prune(&large, options.rows)?;
    }
    Ok(())
}

/// Commits while the first two months of the year are old.
fn prune(path: &Path, rows: u64) -> Result<(), String> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let kept = now.saturating_sub(Duration::from_nanos(YEAR_START_NS)).as_secs() / 86_400;
    let retention_days = u32::try_from(kept).unwrap_or(u32::MAX).saturating_sub(60);
    let options = ledger::Options { retention_days, ..ledger::Options::default() };
    let mut feeder = Feeder::start(path, Rows::after_the_year(rows), options)?;
    println!("\nwhile old rows are pruned:");
    feeder.feed(measured_rows(rows), 32)?.print();
    feeder.stop()?;
    let conn = database::open(path)?;
    let first = first_id(&conn).map_err(|error| error.to_string())?;
    println!("{} rows were", first - 1);
    Ok(())
}

/// Rows that are committed with each size of batch.
fn measured_rows(rows: u64) -> usize {
    (rows / 50).clamp(2_000, 200_000) as usize
}

/// What the ledger's thread does in quiet moments.
fn catch_up(path: &Path) -> rusqlite::Result<()> {
    let conn = database::open(path).map_err(|_| rusqlite::Error::InvalidPath(path.to_owned()))?;
    while !fold(&conn, FOLD_ROWS_MAX)?.is_folded() {}
    let mut levels = TierBuilder::default();
    while levels.step(&conn, i64::MAX)? {}
    Ok(())
}

/// Most of the rows in large batches; then the rest of the year with each size of batch.
fn write(path: &Path, options: &Options) -> Result<(), String> {
    let rows = options.rows * options.days.unwrap_or(365) / 365;
    let measured = measured_rows(rows);
    let first = rows as usize - 4 * measured;
    let mut feeder = Feeder::start(path, Rows::new(options.rows), ledger::Options::default())?;
    let filled = feeder.feed(first, 256)?;
    Cost::print_heading();
    for batch in [1, 8, 32, 256] {
        feeder.feed(measured, batch)?.print();
    }
    println!("to fill it:");
    filled.print();
    feeder.stop()?;
    let bytes = std::fs::metadata(path).map_err(|error| error.to_string())?.len();
    println!("\n{rows} rows, {bytes} bytes, {:.1} a row", bytes as f64 / rows as f64);
    Ok(())
}
