//! Our ledger beside the provider's own books: what differs, and why, as far as that can be known.
//!
//! ```text
//!   pages of OpenAI's usage and costs ──books──▶ their cells ─┐
//!                                                             ├─comparison──▶ a Comparison: sums, rows that differ
//!   records of the ledger (`ledger::own_books`) ─▶ our cells ─┘
//! ```
//!
//! A cell is a bucket of time (UTC, as OpenAI's are), a book and a model; a model's dated and undated names are one.
//! In: text of pages, sums of records, prices. Out: cells, and a judgement of each. Never: a socket, a clock, a guess:
//! what one side does not know is not compared, a bucket that may still change is not judged.

mod books;
mod cells;
mod comparison;
mod line_item;
mod quantity;
mod summary;

pub use books::{Page, PageError};
pub use cells::{Book, CELLS_MAX, CellKey, Cells, OwnCell, TheirCell, TooMany, Width, model_of};
pub use comparison::{Comparison, Judge, Reason, Row, SpentBeside, Total, Verdict};
#[cfg(test)]
use line_item::LineItem;
pub use line_item::PriceDifference;
pub use quantity::{Amounts, Quantity};
pub use summary::{SUMMARY_ROWS_MAX, Summary, ToldPrice};

#[cfg(test)]
mod tests;
