//! Many streams at once, each of which trickles: none is cut, each byte comes in its order, and what a stream costs is
//! printed. Upstream (TLS) and clients are a loop each in this process, with a descriptor a stream; the proxy is a
//! process of its own, with two.
//!
//! `STREAMS` says how many (500), `STREAM_SECONDS` for how long all of them trickle (3). Fewer, said aloud, where the
//! descriptors do not suffice.

#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // tests are the outside world

#[path = "many_streams/clients.rs"]
mod clients;
mod support;
#[path = "many_streams/upstream.rs"]
mod upstream;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};
use support::ca::{Ca, Server};
use support::proxy::Proxy;

/// Between two events of one stream.
const INTERVAL: Duration = Duration::from_secs(1);
/// Descriptors that the processes need beside those of the streams.
const SPARE_DESCRIPTORS: u64 = 200;
/// For all streams to begin, and for all to end.
const PATIENCE: Duration = Duration::from_secs(180);
/// What each stream ends with.
const LAST: [&str; 2] = [
    r#"data: {"id":"c","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}"#,
    "data: [DONE]",
];

/// The text of an event, without the empty line after it.
fn event(stream: usize, nth: usize) -> String {
    format!(r#"data: {{"id":"c","choices":[{{"index":0,"delta":{{"content":"{stream}-{nth} "}}}}],"usage":null}}"#)
}

/// What both loops and the test tell each other.
#[derive(Default)]
struct Shared {
    /// Streams whose first event has arrived.
    begun: AtomicUsize,
    /// Streams that have come to their proper end.
    whole: AtomicUsize,
    /// The upstream is to bring all streams to their ends.
    finish: AtomicBool,
    /// Both loops are to stop.
    stop: AtomicBool,
    faults: Mutex<Vec<String>>,
}

impl Shared {
    fn fault(&self, what: String) {
        self.faults.lock().unwrap().push(what);
    }

    /// Waits for so many. Panics at the first fault, or where it takes too long.
    fn wait_for(&self, what: &str, count: &AtomicUsize, wanted: usize) {
        let start = Instant::now();
        loop {
            let faults = self.faults.lock().unwrap();
            let (found, first) = (count.load(Ordering::SeqCst), faults.iter().take(5).collect::<Vec<_>>());
            assert!(faults.is_empty(), "{found} of {wanted} {what}; {} faults: {first:#?}", faults.len());
            drop(faults);
            if found == wanted {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "only {found} of {wanted} {what}");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |n| n.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// As many streams as are wanted, or as the descriptors allow.
fn within_descriptors(wanted: usize) -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let current = if setrlimit(Resource::Nofile, raised).is_ok() { limit.maximum } else { limit.current };
    let possible = current.map_or(wanted, |limit| (limit.saturating_sub(SPARE_DESCRIPTORS) / 2) as usize);
    if possible < wanted {
        support::say(&format!("only {possible} of {wanted} streams: the limit of descriptors is {current:?}"));
    }
    wanted.min(possible)
}

#[test]
fn streams_that_trickle_are_never_cut() {
    let (streams, seconds) = (within_descriptors(number("STREAMS", 500)), number("STREAM_SECONDS", 3));
    let shared = Arc::new(Shared::default());
    let ca = Ca::new();
    let (addr, upstream) = upstream::start(ca.server(&["127.0.0.1"], Server::Usual), streams, shared.clone());
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("ca.pem"), ca.pem()).unwrap();
    let target = format!("https://{addr}");
    let vars = [("PROXY_TARGET", target.as_str()), ("TLS_CA_FILE", "ca.pem"), ("RATE_LIMIT_RPM", "0")];
    let proxy = Proxy::start_in(folder, &vars);
    let memory = || proxy.metrics().get("process_resident_memory_bytes").copied().unwrap_or(f64::NAN);
    let idle = memory();

    let start = Instant::now();
    let clients = clients::start(proxy.addr(), streams, shared.clone());
    shared.wait_for("have begun", &shared.begun, streams);
    let began = start.elapsed();
    assert_eq!(proxy.metrics()["openai_proxy_requests_in_flight"], streams as f64);
    let held = memory();
    for _ in 0..seconds * 10 {
        thread::sleep(Duration::from_millis(100));
        shared.wait_for("may have ended", &shared.whole, 0);
    }
    assert_eq!(proxy.metrics()["openai_proxy_requests_in_flight"], streams as f64);
    let late = memory();
    shared.finish.store(true, Ordering::SeqCst);
    shared.wait_for("are whole", &shared.whole, streams);
    shared.stop.store(true, Ordering::SeqCst);
    let (received, sent) = (clients.join().unwrap(), upstream.join().unwrap());

    assert_eq!(received, sent, "events of each stream");
    let events: usize = received.iter().sum();
    // Each of them trickled on: the first event alone is none of it.
    assert!(events > streams && received.iter().filter(|&&n| n > 1).count() == streams, "{events} events");
    proxy.wait_until_left();
    let totals = &proxy.usage("user_id=anonymous")["totals"];
    let expected = [json!(streams), json!(0), json!(3 * streams), json!(2 * streams)];
    assert_eq!(["requests", "errors", "input_tokens", "output_tokens"].map(|name| totals[name].clone()), expected);
    support::say(&format!(
        "{streams} streams over TLS, begun within {:.1} s, trickled for {seconds} s: {events} events, all in order, none \
         cut; {:.1} KiB of memory a stream ({:.1} MiB idle, {:.1} with all begun, {:.1} at the end)",
        began.as_secs_f64(),
        (late - idle) / 1024.0 / streams as f64,
        idle / 1048576.0,
        held / 1048576.0,
        late / 1048576.0
    ));
}
