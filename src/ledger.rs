//! The ledger: a SQLite file with a row for each request, and all that makes it fast to write and to ask.
//!
//! ```text
//!   append ──▶ records ──fold──▶ rollups by hour ──tiers──▶ days, months
//!                 │       └────▶ user_index, hours, deduplication, key_days
//!                 │
//!   answer ◀──────┴── the rollups up to their watermark, and the rows after it
//! ```
//!
//! A commit only appends: what makes reading fast follows behind it, each thing up to a watermark in the same file
//! (`marks`), so that an answer is exact at any instant, also after a crash. Old rows go in steps (`prune`); their
//! rollups stay.
//!
//! In: connections, records, questions ([`crate::reporting`]). Out: rows, answers. Never: a thread, a line in the log,
//! anything of how an answer is shown.

#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // the outside world: clocks and any map

pub mod alert_outbox;
pub mod answer;
pub mod append;
pub mod database;
pub mod deduplication;
pub mod file_identity;
pub mod file_watch;
pub mod fold;
pub mod journal;
pub mod key_days;
pub mod keys_and_limits;
pub mod marks;
pub mod migrations;
pub mod numbers;
pub mod offline;
pub mod own_books;
pub mod partition;
pub mod policy_copy;
pub mod policy_editor;
pub mod prune;
pub mod recent_series;
pub mod reconciliations;
pub mod rollup;
pub mod snapshot;
pub mod spend;
pub mod tiers;
pub mod user_index;
