//! What things cost: `PRICES_FILE`, `PRICE_FACTOR`.
//!
//! In: the variables. Out: a table of what is known at once. Never: a fetch.

use super::source::Source;
use crate::price::{PriceSource, PriceTable, Ratio};
use std::fs;
use std::time::SystemTime;

/// The built-in prices with those of the file, and the factors on them, for a target at `host`.
pub(super) fn read(source: &mut Source<'_>, host: &str) -> PriceTable {
    let expected = "a decimal above 0, at most 1000, with at most 6 decimal places, as in 0.85";
    let factor = source.value("PRICE_FACTOR", Ratio::ONE, expected, Ratio::parse);
    let mut table = PriceTable::built_in();
    if let Some(bytes) = source.file("PRICES_FILE", "a readable JSON file of prices") {
        let text = String::from_utf8(bytes).map_err(|error| error.to_string());
        match text.and_then(|text| PriceTable::parse_for(&text, host)) {
            Ok(own) => table.merge(own.of(PriceSource::File, changed(source))),
            Err(why) => {
                let why = format!("expected prices in the built-in table's format, or in LiteLLM's: {why}");
                source.problem("PRICES_FILE", why);
            }
        }
    }
    table.adjusted(factor, host)
}

/// When the file was written, seconds since the Unix epoch; 0 where the system does not say.
fn changed(source: &Source<'_>) -> u64 {
    let path = source.os("PRICES_FILE").unwrap_or_default();
    let changed = fs::metadata(path).and_then(|file| file.modified()).ok();
    changed.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok()).map_or(0, |at| at.as_secs())
}
