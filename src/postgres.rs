//! A PostgreSQL client that blocks, for threads: the wire format and SCRAM by `postgres-protocol`, over sockets and TLS
//! of ours.
//!
//! In: a URL, statements, parameters. Out: rows as text, or an error that says what to do. Never: an event loop; a
//! named prepared statement, or anything else that a session would keep from one transaction to the next (a pooler may
//! give each transaction another one); a call that takes longer than it was given; a password in an error.
//!
//! ```text
//!   login     which host, TLS, who we are, may it write
//!   client    statements, transactions, COPY
//!   transport messages over a socket, each wait with a deadline
//! ```

#![allow(clippy::disallowed_methods)] // the outside world: clocks

#[cfg(not(feature = "fleet"))]
mod absent;
#[cfg(feature = "fleet")]
mod client;
#[cfg(feature = "fleet")]
mod login;
#[cfg_attr(not(feature = "fleet"), allow(dead_code))]
mod sql_error;
mod text_format;
#[cfg(feature = "fleet")]
mod transport;

#[cfg(not(feature = "fleet"))]
pub use absent::PostgresClient;
#[cfg(feature = "fleet")]
pub use client::PostgresClient;
pub use sql_error::{SqlError, SqlFault};
pub use text_format::{Column, Parameter, Row, copy_field};
