//! What the integration tests share: certificates, a mock upstream, the binary under test and a strict client. Threads
//! and blocking sockets only, so that a test cannot share a fault with the event loop that it tests.

#![allow(dead_code)] // each test file is a crate of its own, and uses its part of this
#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // tests are the outside world

pub mod answers;
pub mod api;
pub mod ca;
pub mod client;
pub mod core;
pub mod gate;
pub mod load;
pub mod manual;
#[cfg(feature = "fleet")]
pub mod postgres;
pub mod proxy;
pub mod recordings;
pub mod rng;
pub mod rows;
pub mod script;
pub mod sockets;
pub mod tools;
pub mod tunnels;
pub mod upstream;
pub mod usage;
pub mod websocket;
pub mod wire;

use std::io::Write;
use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How long anything may take before a test is given up. It guards against hanging and measures nothing.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// A port of this machine on which nobody listens. It is below those that a system gives away by itself (from 32768 on
/// Linux, from 49152 elsewhere), so that no socket of another test comes to have it by chance.
pub fn free_port() -> u16 {
    static ASKED: AtomicU32 = AtomicU32::new(0);
    const FIRST: u32 = 20_000;
    const COUNT: u32 = 12_000;
    loop {
        // Test binaries that run at the same time begin at places of their own.
        let n = std::process::id().wrapping_mul(97) + ASKED.fetch_add(1, Ordering::Relaxed);
        let port = (FIRST + n % COUNT) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Waits until it is so, as `what` says.
#[track_caller]
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < DEADLINE, "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Says something that is seen although the test passes: the harness captures only what the print macros write.
pub fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Says aloud that a test cannot run here. Under `REQUIRE_REAL_SERVERS=1`, as in CI, that is a failure.
pub fn skip(why: &str) {
    say(&format!("SKIPPED: {why}"));
    assert!(std::env::var_os("REQUIRE_REAL_SERVERS").is_none_or(|v| v != "1"), "must not be skipped here: {why}");
}
