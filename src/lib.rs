//! A proxy in front of the OpenAI API that knows, for every user, what was consumed.
//!
//! ```text
//!   clients ──TCP──▶ ┌──────────────────────── reactor thread (mio) ──────────────────────┐ ──TLS──▶ OpenAI
//!                    │ accept → head → route → identify → limit → hold and inspect body   │
//!                    │ → connect or reuse upstream → relay both ways ─┬─▶ client          │
//!                    │                                                └─▶ usage capture   │
//!                    └───────┬──────────────────────────────▲─────────────────────────────┘
//!                      record│(place reserved at admission) │committed, answers, addresses (mio Waker)
//!                            ▼                              │
//!                    ledger thread ── SQLite ─┬─ query thread       resolver thread
//!                       │                      │
//!                    log thread ──▶ stderr     │
//!                                             ├─ export thread ──HTTP──▶ InfluxDB
//!                                             └─ ship thread ──▶ PostgreSQL, which several proxies share
//! ```
//!
//! One thread owns every socket, every connection's state and every token bucket. Whatever can block lives on a thread
//! of its own behind a mailbox. The modules stand in layers, and each imports only from its own layer or from below;
//! `tests/tidy.rs` holds them to it. Start reading at [`proxy`], which is what it is all about, or at [`reactor`],
//! which makes it move.
//!
#![doc = include_str!("threats.md")]
#![doc = include_str!("proofs.md")]
#![forbid(unsafe_code)]
#![deny(clippy::print_stderr)] // it panics where nobody reads it

// L4: wiring, and the turn of the loop.
pub mod cli;
pub mod config;
pub mod reactor;
pub mod reload;
pub mod signal;
pub mod systemd;

// L3: the outside world. Sockets and clocks, the store, and the threads that may block.
pub mod fleet;
pub mod io;
pub mod ledger;
pub mod postgres;
pub mod worker;

// L2: connections and exchanges as state machines. No socket, no clock, no thread.
pub mod proxy;

// L1: protocols and arithmetic. Bytes and `now` in, decisions out.
pub mod access;
pub mod door;
pub mod http;
pub mod json;
pub mod limit;
pub mod local;
pub mod metrics;
pub mod policy;
pub mod price;
pub mod reconcile;
pub mod reporting;
pub mod sse;
pub mod tls;
pub mod usage;
pub mod websocket;

// L0: data structures.
pub mod base;
