//! The sums that answers give, on their way from rows to [`Totals`].

use crate::ledger::numbers::{saturated, signed};
use crate::ledger::rollup::COARSE;
use crate::reporting::Totals;
use rusqlite::Row;

/// Sums that may be negative for a while: a correction may come before what it corrects.
pub type Coarse = [i128; COARSE];

/// Adds others to them.
pub fn add(sums: &mut Coarse, more: &Coarse) {
    sums.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
}

/// The first columns of a row.
pub fn coarse(row: &Row<'_>) -> rusqlite::Result<Coarse> {
    let mut sums = Coarse::default();
    for (column, sum) in sums.iter_mut().enumerate() {
        *sum = signed(row, column)?;
    }
    Ok(sums)
}

/// The same for an answer.
pub fn totals(sums: Coarse) -> Totals {
    let sums = sums.map(saturated);
    Totals {
        requests: sums[0],
        errors: sums[1],
        unpriced: sums[2],
        cost_nano_usd: sums[3],
        input_tokens: sums[4],
        cached_input_tokens: sums[5],
        output_tokens: sums[6],
        reasoning_tokens: sums[7],
        total_tokens: sums[8],
    }
}
