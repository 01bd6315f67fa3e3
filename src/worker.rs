//! The threads that may block (ledger, checkpoint, query, export, resolver, log), each behind a bounded mailbox, and
//! the one mailbox back.
//!
//! In: records, questions and names from the loop. Out: [`WorkerEvent`]s. Never: a decision about an exchange.

mod backoff;
pub mod checkpoint;
pub mod event;
pub mod export;
pub mod ledger;
pub mod logger;
pub mod process;
pub mod query;
pub mod resolver;
pub mod threads;
mod time;

pub use event::{EventSender, WorkerEvent};
pub use threads::Workers;
pub use time::unix_now;
