//! A soak: many clients at once before a target that speaks TLS, with every kind of fault mixed in, for as long as
//! `SOAK_SECONDS` says (5). Left to others: each fault alone (`faults`, `bounds`, `aborts`), chosen interleavings
//! (`simulation`), many quiet streams (`many_streams`).
//!
//! At the end every request is accounted for, once (the clients' count is the ledger's rows and what was refused); all
//! descriptors have come back; nothing turns in circles. From 90 s on, the memory at the end is that after the first
//! minute, give or take 5 % and 1 MiB (pages of the allocator's that come and go at any length).
//!
//! `SOAK_CLIENTS` says how many clients there are (64), `TEST_SEED` where chance begins.

#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // tests are the outside world

#[path = "soak/clients.rs"]
mod clients;
#[path = "soak/kinds.rs"]
mod kinds;
mod support;

use clients::{Account, Clients};
use kinds::Kind;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use support::ca::{Ca, Server};
use support::proxy::Proxy;
use support::rng::Rng;
use support::upstream::{Options, Upstream};
use support::{DEADLINE, rows};

/// Memory is compared from here on, in seconds.
const SETTLED_AFTER: usize = 60;
/// Memory is the median of so many samples, one a second.
const SAMPLES: usize = 10;
const SLACK_BYTES: f64 = 1048576.0;
/// The share of a processor that an idle proxy may take: a loop that turns in circles takes all of it.
const IDLE_CPU_MAX: f64 = 0.25;

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |n| n.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

#[test]
fn everything_is_accounted_for_and_nothing_is_left() {
    let (seconds, clients) = (number("SOAK_SECONDS", 5), number("SOAK_CLIENTS", 64));
    let account = Arc::new(Account::default());
    let for_upstream = account.clone();
    let early = move |request: &_| kinds::early(request, &for_upstream);
    let ca = Ca::new();
    let tls = Some(ca.server(&["127.0.0.1"], Server::Usual));
    let upstream = Upstream::start(Options { tls, early: Some(Box::new(early)), forgets: true }, kinds::answer);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("ca.pem"), ca.pem()).unwrap();
    let target = upstream.url();
    let vars = [
        ("PROXY_TARGET", target.as_str()),
        ("TLS_CA_FILE", "ca.pem"),
        ("RATE_LIMIT_RPM", "0"),
        ("RESPONSE_TIMEOUT", "1500ms"),
        ("IDLE_TIMEOUT", "2s"),
        ("MAX_BODY_BYTES", "1000000"),
    ];
    let proxy = Proxy::start_in(folder, &vars);
    support::client::get(proxy.addr(), "/healthz").expect(200);
    let descriptors = proxy.metrics().get("process_open_fds").copied();

    let running = Clients::start(proxy.addr(), clients, Rng::from_env().next(), &account);
    let memory = watch(&proxy, seconds);
    wait_until("every kind has been there", || Kind::ALL.iter().all(|kind| account.count(*kind) > 0));
    running.stop();
    wait_until("all have gone", || proxy.metrics()["openai_proxy_requests_in_flight"] == 0.0);
    proxy.wait_until_left();
    let said = accounted(&proxy, &account);
    wait_until("the descriptors are back", || proxy.metrics().get("process_open_fds").copied() <= descriptors);
    wait_until("it rests", || share_of_cpu(&proxy).is_none_or(|share| share < IDLE_CPU_MAX));
    support::say(&format!("{seconds} s, {clients} clients: {said}; {}", judge_memory(&memory)));
}

/// Asks for usage and metrics once a second; the memory that it takes each time.
fn watch(proxy: &Proxy, seconds: usize) -> Vec<f64> {
    let start = Instant::now();
    let mut memory = Vec::new();
    for second in 1..=seconds {
        thread::sleep((start + Duration::from_secs(second as u64)).saturating_duration_since(Instant::now()));
        memory.extend(proxy.metrics().get("process_resident_memory_bytes"));
        let usage = proxy.usage(["group_by=user", "limit=50", "user_id=stream&group_by=hour"][second % 3]);
        assert!(usage["totals"]["requests"].as_u64() > Some(0), "{usage}");
    }
    memory
}

fn judge_memory(memory: &[f64]) -> String {
    let median = |samples: &[f64]| {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
    };
    let mib = |bytes: f64| bytes / 1048576.0;
    let last = median(&memory[memory.len().saturating_sub(SAMPLES)..]);
    if memory.len() < SETTLED_AFTER + 3 * SAMPLES {
        return format!("{:.1} MiB at the end", mib(last));
    }
    let first = median(&memory[SETTLED_AFTER..SETTLED_AFTER + SAMPLES]);
    let said = format!("{:.1} MiB after a minute, {:.1} MiB at the end", mib(first), mib(last));
    assert!((last - first).abs() <= first * 0.05 + SLACK_BYTES, "{said}: {memory:?}");
    said
}

#[track_caller]
fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < DEADLINE, "it is never so that {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// The share of one processor that it takes during a second in which nobody asks anything.
fn share_of_cpu(proxy: &Proxy) -> Option<f64> {
    let spent = || proxy.metrics().get("process_cpu_seconds_total").copied();
    let (before, start) = (spent()?, Instant::now());
    thread::sleep(Duration::from_secs(1));
    Some((spent()? - before) / start.elapsed().as_secs_f64())
}

/// Rows and refusals are the requests that were made, for each kind of its own; none has two rows.
fn accounted(proxy: &Proxy, account: &Account) -> String {
    let conn = rows::reader(&proxy.database());
    let sql = "SELECT name, count(*) FROM records r JOIN users u ON u.id = r.user_id GROUP BY name";
    let counted = || -> BTreeMap<String, u64> {
        let mut statement = conn.prepare(sql).unwrap();
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?.unsigned_abs())));
        rows.unwrap().map(Result::unwrap).collect()
    };
    let expected = account.rows();
    let start = Instant::now();
    // Who has left does not wait for the record's commit.
    while counted() != expected && start.elapsed() < DEADLINE {
        thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(counted(), expected, "rows of each kind, and those that there must be");
    let doubled = "SELECT response_id FROM records WHERE response_id IS NOT NULL GROUP BY 1 HAVING count(*) > 1";
    let doubled: Vec<String> =
        conn.prepare(doubled).unwrap().query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    assert!(doubled.is_empty(), "rows twice: {doubled:?}");
    rows::assert_sums(proxy, &conn);

    let refused: f64 =
        proxy.metrics().iter().filter(|(name, _)| name.starts_with("openai_proxy_refused_total")).map(|(_, n)| n).sum();
    assert_eq!(refused, account.refused() as f64, "refusals, by the metrics and by the clients");
    let kinds: Vec<String> = Kind::ALL.iter().map(|kind| format!("{} {}", account.count(*kind), kind.name())).collect();
    format!(
        "{} requests and {} parts of sessions = {} rows + {} refused, none doubled ({})",
        account.requests(),
        account.parts(),
        expected.values().sum::<u64>(),
        account.refused(),
        kinds.join(", ")
    )
}
