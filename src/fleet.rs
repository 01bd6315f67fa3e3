//! A fleet: several proxies that share what was consumed, through a PostgreSQL server.
//!
//! ```text
//!   ledger (SQLite) ──rows in order──▶ shipment ──COPY, one transaction──▶ records, sums by hour and day, the mark
//!                                         └─ shared_ids: what was counted under one id by several ledgers
//!   leases: messages of purses, and the answers
//!   fleet_policy: keys, limits, teams, audit; incoming_policy: what a node brings along
//!   membership: whose ledger it is, who ships for it, whether it lives
//! ```
//!
//! In: a connection ([`crate::postgres`]). Out: statements of versioned functions, which are in `schema/*.sql` and only
//! ever added to, so that two versions that follow each other run together. Never: a thread, SQLite, the loop.

#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // the outside world: clocks and any map

pub mod fleet_answers;
pub mod fleet_policy;
mod fleet_sums;
pub mod incoming_policy;
pub mod leases;
pub mod membership;
pub mod roster;
pub mod schema;
pub mod shared_ids;
pub mod shipment;
