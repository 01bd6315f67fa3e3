//! `GET /usage`: the question as its parameters ask it, and the answer as JSON.
//!
//! In: a query string and `now`; sums and records that the query thread found. Out: a [`Query`] or the sentence for a
//! 400; the body of the 200. Never: a database, a clock.

mod query;
mod report;

pub use query::{GroupBy, LIMIT_DEFAULT, LIMIT_MAX, Query};
pub use report::{BUCKETS_MAX, Bucket, BucketKey, Buckets, Entry, Report, Totals};
