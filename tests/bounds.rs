//! Everything has a bound, through the binary: clients, bodies held, memory of users that come and go, slow peers on
//! both sides. Left to others: caps on heads and chunks (`smuggling`), the cap on one body (`limits`), what users are
//! granted (`limits`, `quotas`), the same bounds after every turn of the loop (`simulation`).
//!
//! Each bound at, below and above where it has a number; what is cut by time is only ever asked whether it ends, never
//! how soon.

#![allow(clippy::disallowed_methods)] // tests are the outside world

#[path = "bounds/bodies.rs"]
mod bodies;
#[path = "bounds/connections.rs"]
mod connections;
#[path = "bounds/readers.rs"]
mod readers;
mod support;
#[path = "bounds/trickles.rs"]
mod trickles;
#[path = "bounds/users.rs"]
mod users;

/// Resident memory of the proxy, bytes; `None` where the system does not tell.
fn resident(proxy: &support::proxy::Proxy) -> Option<f64> {
    proxy.metrics().get("process_resident_memory_bytes").copied()
}
