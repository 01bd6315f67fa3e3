//! The ledger's file in trouble, for real and under load: no room, locked, read-only, deleted, moved, replaced. And the
//! ledger shared: two proxies on one file, a stop in full swing. Left to others: `kill -9` (`ledger_crash`), trouble
//! without a proxy (`ledger/threads`), files that are refused at the start (`ledger/files`).
//!
//! What is held in each case: no record of a request that was passed on is lost or doubled; it is told in the log, by
//! `/readyz` and in the metrics; requests are refused once there is no place for their records; all of it ends by
//! itself.

#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // tests are the outside world

#[cfg(target_os = "linux")] // another process's limits, and a file system of its own
#[path = "ledger_faults/full.rs"]
mod full;
#[path = "ledger_faults/locked.rs"]
mod locked;
#[path = "ledger_faults/lost.rs"]
mod lost;
#[path = "ledger_faults/shared.rs"]
mod shared;
#[path = "ledger_faults/shutdown.rs"]
mod shutdown;
mod support;
#[path = "ledger_faults/unwritable.rs"]
mod unwritable;

use std::path::Path;
use std::time::{Duration, Instant};
use support::client::get;
use support::load::Load;
use support::proxy::Proxy;
use support::{DEADLINE, rows};

const CLIENTS: usize = 4;

#[cfg(not(target_os = "linux"))]
#[test]
fn full() {
    support::skip("only Linux lets a test limit the files of a process that runs");
}

/// The variables of a proxy before this load's upstream.
fn vars<'a>(target: &'a str, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    [&[("PROXY_TARGET", target)], more].concat()
}

fn start(load: &Load, more: &[(&str, &str)]) -> Proxy {
    Proxy::start(&vars(&load.upstream.url(), more))
}

/// Waits until it is so. Nothing is measured: the deadline guards against hanging.
#[track_caller]
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < DEADLINE * 2, "it never was so: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until clients have received so many responses more.
#[track_caller]
fn until_received(load: &Load, more: usize) {
    let before = load.account.received().len();
    until("responses come", || load.account.received().len() >= before + more);
}

/// Waits until the proxy says in every way that its ledger is in trouble; the reason.
#[track_caller]
fn until_in_trouble(proxy: &Proxy) -> String {
    until("not ready", || get(proxy.addr(), "/readyz").status == 503);
    assert_eq!(proxy.metrics()["openai_proxy_ledger_up"], 0.0);
    get(proxy.addr(), "/readyz").expect(503).text()
}

#[track_caller]
fn until_well(proxy: &Proxy) {
    until("ready", || get(proxy.addr(), "/readyz").status == 200);
    assert_eq!(proxy.metrics()["openai_proxy_ledger_up"], 1.0);
}

/// Waits until nothing is on its way to the ledger.
#[track_caller]
fn until_committed(proxy: &Proxy) {
    until("all is committed", || {
        let metrics = proxy.metrics();
        metrics["openai_proxy_ledger_queue_records"] == 0.0 && metrics["openai_proxy_requests_in_flight"] == 0.0
    });
}

/// How many lines of the log say this.
fn lines(proxy: &Proxy, text: &str) -> usize {
    proxy.stderr().lines().filter(|line| line.contains(text)).count()
}

/// The whole account against the rows in this file: each request that the upstream saw has its row, none has two, and
/// all that was received is exact.
#[track_caller]
fn assert_exact(load: &Load, database: &Path) {
    let compared = rows::compare(&rows::read(&rows::reader(database)), &load.account);
    for found in [&compared.wrong, &compared.doubled, &compared.unseen] {
        assert!(found.is_empty(), "{compared:#?}");
    }
    assert!(compared.missing.is_empty() && compared.unrecorded.is_empty(), "{compared:#?}");
    assert!(compared.received > 0, "the load was none");
}

/// The same for a proxy's own file, with its sums; and again after a `kill -9` and another start.
#[track_caller]
fn assert_nothing_lost(load: &Load, proxy: Proxy) {
    until_committed(&proxy);
    rows::assert_sums(&proxy, &rows::reader(&proxy.database()));
    assert_exact(load, &proxy.database());
    let proxy = Proxy::start_in(proxy.into_folder(), &vars(&load.upstream.url(), &[]));
    rows::assert_sums(&proxy, &rows::reader(&proxy.database()));
    assert_exact(load, &proxy.database());
}
