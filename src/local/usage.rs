//! `GET /usage`: the question as its parameters ask it, and the answer as JSON, as text and as CSV.
//!
//! In: a query string and `now`; sums and records that the query thread found. Out: a [`Query`] or the sentence for a
//! 400; the body of the 200. Never: a database, a clock.

mod csv;
mod fields;
mod format;
mod pretty;
mod query;
mod report;
mod text;

pub use format::Format;
pub use pretty::pretty;
pub use query::{Given, GroupBy, LIMIT_DEFAULT, LIMIT_DEFAULT_TEXT, LIMIT_MAX, Query};
pub use report::{BUCKETS_MAX, Bucket, BucketKey, Buckets, Entry, Report, Totals};
