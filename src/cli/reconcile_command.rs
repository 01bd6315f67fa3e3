//! `proxy-server reconcile`: the ledger beside the provider's own books.

use super::{Command, next, text, unexpected};
use crate::base::civil::parse_date;
use crate::base::clock::{DAY, SECOND};
use crate::base::digits::nano_usd;
use crate::config::Config;
use crate::ledger::own_books::own_cells;
use crate::ledger::{database, offline};
use crate::local::agreement::Compared;
use crate::reconcile::Width;
use crate::worker::books_cache::BooksCache;
use crate::worker::price_fetcher;
use crate::worker::reconciler::{Reconciler, TOLERANCE_PPM, Wait};
use lexopt::{Arg, Parser};
use std::ops::Range;

/// The text of `reconcile --help`.
pub const HELP: &str = include_str!("reconcile_help.txt");

/// Days that are compared where nobody says how many.
const DAYS: u64 = 7;
const SECONDS_PER_DAY: u64 = Width::Day.seconds();
/// Millionths in a hundredth.
const NANOS_PER_PPM: u64 = 100_000;

/// How the answer is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReconcileFormat {
    #[default]
    Text,
    Json,
    Csv,
}

/// What to compare.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReconcileCommand {
    /// Seconds since the Unix epoch, starts of days.
    from: Option<u64>,
    to: Option<u64>,
    width: Width,
    tolerance_ppm: u64,
    format: ReconcileFormat,
}

pub(super) fn parse(parser: &mut Parser) -> Result<Command, String> {
    let mut command = ReconcileCommand {
        from: None,
        to: None,
        width: Width::Day,
        tolerance_ppm: TOLERANCE_PPM,
        format: ReconcileFormat::Text,
    };
    while let Some(argument) = next(parser)? {
        match argument {
            Arg::Short('h') | Arg::Long("help") => return Ok(Command::Print(HELP)),
            Arg::Long("from") => command.from = Some(date("--from", &text(parser)?)?),
            Arg::Long("to") => command.to = Some(date("--to", &text(parser)?)?),
            Arg::Long("by") => {
                command.width = match text(parser)?.as_str() {
                    "day" => Width::Day,
                    "hour" => Width::Hour,
                    other => return Err(format!("--by {other:?}: expected day or hour")),
                }
            }
            Arg::Long("tolerance") => command.tolerance_ppm = tolerance(&text(parser)?)?,
            Arg::Long("format") => {
                command.format = match text(parser)?.as_str() {
                    "text" => ReconcileFormat::Text,
                    "json" => ReconcileFormat::Json,
                    "csv" => ReconcileFormat::Csv,
                    other => return Err(format!("--format {other:?}: expected text, json or csv")),
                }
            }
            other => return Err(unexpected(&other)),
        }
    }
    if let (Some(from), Some(to)) = (command.from, command.to)
        && from >= to
    {
        return Err("--from must be before --to".to_owned());
    }
    Ok(Command::Reconcile(command))
}

/// A day, in seconds since the Unix epoch.
fn date(option: &str, text: &str) -> Result<u64, String> {
    let date = parse_date(text).map(|ns| ns / SECOND);
    date.ok_or_else(|| format!("{option} {text:?}: expected a day (UTC), as in 2026-11-23"))
}

/// Per cent, with or without the sign, in millionths.
fn tolerance(text: &str) -> Result<u64, String> {
    let nanos = nano_usd(text.strip_suffix('%').unwrap_or(text).trim());
    let ppm = nanos.filter(|nanos| nanos % NANOS_PER_PPM == 0).map(|nanos| nanos / NANOS_PER_PPM);
    ppm.filter(|&ppm| ppm <= 1_000_000).ok_or_else(|| {
        format!("--tolerance {text:?}: expected per cent, 0 to 100 with at most four decimal places, as in 0.5%")
    })
}

impl ReconcileCommand {
    /// The days, at `now` (nanoseconds since the Unix epoch).
    fn range(&self, now: u64) -> Result<Range<u64>, String> {
        let today = now / DAY * SECONDS_PER_DAY;
        let to = self.to.unwrap_or_else(|| self.from.map_or(today, |from| today.max(from + SECONDS_PER_DAY)));
        let from = self.from.unwrap_or(to.saturating_sub(DAYS * SECONDS_PER_DAY));
        if to > today + SECONDS_PER_DAY {
            return Err("--to is in the future: nothing was used there yet".to_owned());
        }
        Ok(from..to)
    }
}

/// Runs the command at `now`, nanoseconds since the Unix epoch: what to print on a terminal of so many columns, if it
/// is one, and whether both agree. `wait` is as [`Wait`] says.
///
/// # Errors
/// One sentence: it could not be done.
pub fn run(
    command: &ReconcileCommand,
    config: &Config,
    now: u64,
    columns: Option<usize>,
    wait: Wait<'_>,
) -> Result<(String, bool), String> {
    let range = command.range(now)?;
    let path = database::existing(&config.database_path)?;
    let prices = price_fetcher::known(config)?;
    let cache = BooksCache::open(&path);
    let mut reconciler = Reconciler::new(config, &prices, Some(&cache))?;
    (reconciler.width, reconciler.tolerance_ppm) = (command.width, command.tolerance_ppm);
    let mut own = |part: &Range<u64>| offline::read(&path, |conn| own_cells(conn, part, command.width));
    let found = reconciler.run(&range, &mut own, wait)?;
    drop(reconciler);
    cache.remove();
    let compared = Compared {
        from: range.start,
        to: range.end,
        width: command.width,
        tolerance_ppm: command.tolerance_ppm,
        is_filtered: !config.books.key_ids.is_empty() || !config.books.project_ids.is_empty(),
        found: &found,
    };
    let text = match command.format {
        ReconcileFormat::Text => compared.text(columns),
        ReconcileFormat::Json => compared.json(),
        ReconcileFormat::Csv => compared.csv(),
    };
    Ok((text, found.agrees()))
}

#[cfg(test)]
mod tests {
    use super::super::tests::parse;
    use super::*;

    fn command(line: &str) -> ReconcileCommand {
        match parse(line) {
            Ok(Command::Reconcile(command)) => command,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn days_and_a_tolerance() {
        let now = 20_000 * DAY + 5;
        let day = |day: u64| day * SECONDS_PER_DAY;
        let range = |line: &str| command(line).range(now);
        assert_eq!(range("reconcile"), Ok(day(19_993)..day(20_000)));
        assert_eq!(range("reconcile --from 2024-10-01 --to 2024-10-03"), Ok(day(19_997)..day(19_999)));
        assert_eq!(range("reconcile --to 2024-10-03"), Ok(day(19_992)..day(19_999)));
        assert_eq!(range("reconcile --from 2024-10-04"), Ok(day(20_000)..day(20_001)), "today, which is open");
        assert!(range("reconcile --to 2024-10-07").unwrap_err().contains("future"));
        for (text, ppm) in [("0", 0), ("0.5%", 5_000), ("0.5", 5_000), ("100%", 1_000_000), ("0.0001%", 1)] {
            assert_eq!(command(&format!("reconcile --tolerance {text}")).tolerance_ppm, ppm, "{text}");
        }
        assert_eq!(command("reconcile --by hour --format csv").width, Width::Hour);
        for (line, why) in [
            ("reconcile --from yesterday", "expected a day"),
            ("reconcile --from 2024-10-03 --to 2024-10-03", "--from must be before --to"),
            ("reconcile --by week", "expected day or hour"),
            ("reconcile --tolerance 101%", "expected per cent"),
            ("reconcile --tolerance -1", "expected per cent"),
            ("reconcile --tolerance 0.00001", "expected per cent"),
            ("reconcile --format xml", "expected text, json or csv"),
            ("reconcile now", "unexpected argument"),
        ] {
            let said = parse(line).unwrap_err();
            assert!(said.contains(why), "{line}: {said}");
        }
    }
}
