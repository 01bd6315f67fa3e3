//! `GET /usage`: the question as its parameters ask it, and the answer as JSON, as text and as CSV.
//!
//! In: a query string and `now`; a [`Report`] that the query thread found. Out: a [`UsageQuery`] or the sentence for a
//! 400; the 200. Never: a database, a clock.

mod columns;
mod media_type;
mod parameters;
mod render_csv;
mod render_json;
mod render_text;

pub use media_type::{Format, weight};
pub use parameters::{Given, LIMIT_DEFAULT_TEXT, UsageQuery, decoded, parse_name, shown};
pub use render_csv::write_text as write_csv_text;
pub use render_json::render as to_json;
pub use render_text::Terminal;

use super::Answer;
use crate::reporting::Report;

/// The answer in the format that was asked for; `terminal` where a command asks.
pub fn answer(report: &Report, format: Format, terminal: Option<&Terminal>) -> Answer {
    let body = match format {
        Format::Json => to_json(report),
        Format::Text => render_text::render(report, terminal).into_bytes(),
        Format::Csv => render_csv::render(report),
    };
    Answer { headers: "vary: accept\r\n", ..Answer::new(200, format.content_type(), body) }
}
