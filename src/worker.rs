//! The threads that may block or take long (ledger, query, export, alerts, reconciliation, ship, lease, policy,
//! resolver, log, …), each behind a bounded mailbox, and the one mailbox back.
//!
//! In: records, questions and names from the loop. Out: [`WorkerEvent`]s. Never: a decision about an exchange.

#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // the outside world: clocks and any map

pub mod admin;
mod backoff;
pub mod books_cache;
mod books_client;
pub mod budget_alerts;
pub mod certificate_watch;
pub mod checkpoint;
pub mod daily_reconciliation;
pub mod event;
pub mod export;
mod fair_queue;
mod fleet_reader;
mod lease_carrier;
pub mod ledger;
pub mod logger;
pub mod long_work;
mod outbound;
mod policy_follower;
pub mod policy_store;
pub mod price_fetcher;
pub mod process;
pub mod query;
pub mod reconciler;
pub mod resolver;
pub mod settings_in_force;
pub mod ship;
pub mod threads;
mod turn;

pub use event::{EventSender, WorkerEvent};
pub use process::unix_now;
pub use threads::Workers;
