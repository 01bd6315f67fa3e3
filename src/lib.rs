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
//!                                             └─ export thread ──HTTP──▶ InfluxDB
//! ```
//!
//! One thread owns every socket, every connection's state and every token bucket. Whatever can block lives on a thread
//! of its own behind a mailbox. The modules stand in layers, and each imports only from its own layer or from below;
//! `tests/tidy.rs` holds them to it. Start reading at [`proxy`], which is what it is all about, or at [`reactor`],
//! which makes it move.
//!
//! ## Threat model
//!
//! To be protected: the operator's key and bill, each user's numbers, the ledger, and that others are served.
//!
//! - **Clients are hostile.** They send any bytes, at any speed, in any number, and go away at any time. What two
//!   parsers could read differently is refused, everything has a bound, no input panics, and a name is escaped
//!   wherever it is shown. Who asks is proven with `CLIENT_AUTH=keys` only: `X-User-ID` is a claim, for users who
//!   trust each other.
//! - **The target is trusted for its numbers, not for its bytes.** Its certificate is verified, its responses are read
//!   as strictly as requests, and what cannot be read is unknown, never zero.
//! - **InfluxDB, name servers and the log's reader** may fail, hang or lie: nobody waits for them, and none gets a key
//!   that it does not need.
//! - **The proxy on the way out**, where there is one, learns where the target is, and of an `https://` target no more
//!   than whoever listens: TLS and its verification are within the tunnel. It is read up to the end of one head.
//! - **The machine and its operator are trusted.** Who reads the environment or the memory has the key. The ledger's
//!   file holds no key, only hashes of those that are made here.
//! - **Who listens on the network** learns nothing of what goes to the target; nor, with `TLS_CERT_FILE`, of what
//!   clients send. A reply that was broken off has no close_notify. Strangers have `HEADER_TIMEOUT` to shake hands, and
//!   a bound on what of a hello is kept; what is kept of a session is the client's ticket.
//! - **A page in a browser** on this machine, or one whose name was led here, comes in only where it is listed. Beyond
//!   loopback any name is served, and who names no origin is no page.
//! - **Who holds a client key** generates, and reads their own usage: nothing of what the account holds. Who guesses
//!   keys waits; who takes memory or connections that others need gives them up.
//!
//! Not defended against: who listens between clients and the proxy where it speaks plain HTTP, a body of many megabytes
//! that takes a turn of the loop long to read, floods beyond what the machine's network takes.
//!
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
pub mod io;
pub mod ledger;
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
pub mod reporting;
pub mod sse;
pub mod tls;
pub mod usage;
pub mod websocket;

// L0: data structures.
pub mod base;
