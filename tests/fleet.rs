//! Several proxies on one real PostgreSQL: what was consumed is there once, whoever is killed when; a history comes along,
//! and a tail; whatever is wrong is told, and nothing is lost meanwhile. Left to others: the client (`postgres`), the
//! rule of shared ids in itself (`src/fleet/shared_ids.rs`).

#![allow(clippy::disallowed_methods)] // tests are the outside world

mod support;

#[path = "fleet/books.rs"]
mod books;
#[path = "fleet/joining.rs"]
mod joining;
#[path = "fleet/limits.rs"]
mod limits;
#[path = "fleet/once.rs"]
mod once;
#[path = "fleet/trouble.rs"]
mod trouble;

use books::{Nodes, fleet_sums, lag_rows, ledger_sums, wait_until_shipped};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use support::client::{Client, request};
use support::postgres::Postgres;
use support::proxy::Proxy;
use support::until;

/// Requests that a client sends one after the other, each to be complete before the next.
fn load(proxy: &Proxy, user: &str, until: &AtomicBool, complete: &AtomicU64) {
    let Some(mut client) = Client::try_connect(proxy.addr()) else { return };
    for n in 0.. {
        let model = ["gpt-4o", "gpt-4o-mini"][n % 2];
        let body = format!(r#"{{"model":"{model}","user":"{user}","messages":[]}}"#);
        let fields = [("x-user-id", user), ("content-type", "application/json")];
        let sent = client.try_send(request("POST", "/v1/chat/completions", &fields, body.as_bytes()));
        if !sent || !client.try_response("POST").is_ok_and(|response| response.status == 200) {
            return;
        }
        complete.fetch_add(1, Ordering::Relaxed);
        if until.load(Ordering::Relaxed) {
            return;
        }
    }
}

/// Three clients at each of these nodes, while `meanwhile` goes on; how many requests were complete.
fn under_load(nodes: &[&Proxy], meanwhile: impl FnOnce()) -> u64 {
    let (stop, complete) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for proxy in nodes {
            for user in ["taro", "hanako", "ジロウ"] {
                scope.spawn(|| load(proxy, user, &stop, &complete));
            }
        }
        meanwhile();
        stop.store(true, Ordering::Relaxed);
    });
    complete.into_inner()
}

#[test]
fn sums_are_those_of_the_target_whoever_is_killed() {
    let Some(mut server) = Postgres::start() else { return };
    let target = books::target();
    let nodes = Nodes::new(&target, &server.url());
    let (mut a, mut b, c) = (nodes.start("a"), nodes.start("b"), nodes.start("c"));
    let mut complete = under_load(&[&a, &b, &c], || std::thread::sleep(Duration::from_millis(1500)));
    // The server without a checkpoint, in the middle of load and of transactions.
    complete += under_load(&[&a, &b, &c], || {
        std::thread::sleep(Duration::from_millis(500));
        server.stop_immediately();
        a.wait_for_log("fleet is out of reach");
        until("the outbox grows", || lag_rows(&a) > 0.0);
        server.restart();
    });
    a.wait_for_log("fleet is reached");
    wait_until_shipped(&[&a, &b, &c]);
    assert_eq!(fleet_sums(&server), target.served(), "nothing was cut yet: each answer has its record");
    // A node, twice.
    for _ in 0..2 {
        let pid = rustix::process::Pid::from_raw(b.pid().cast_signed()).unwrap();
        complete += under_load(&[&a, &b, &c], || {
            std::thread::sleep(Duration::from_millis(700));
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        });
        b = nodes.start_in(b.into_folder(), "b");
    }
    complete += under_load(&[&a, &b, &c], || std::thread::sleep(Duration::from_millis(500)));
    wait_until_shipped(&[&a, &b, &c]);
    let sums = fleet_sums(&server);
    let ledgers = [a.database(), b.database(), c.database()].map(|path| ledger_sums(&path));
    assert_eq!(sums, books::total(&ledgers), "the fleet has what the ledgers have");
    let (requests, served) = (books::requests(&sums), books::requests(&target.served()));
    assert!(complete <= requests && requests <= served, "{complete} complete, {requests} counted, {served} served");
    assert!(a.terminate().success());
}

#[test]
fn whoever_leaves_takes_the_tail_along() {
    let Some(server) = Postgres::start() else { return };
    let target = books::target();
    let nodes = Nodes::new(&target, &server.url());
    let mut a = nodes.start("a");
    wait_until_shipped(&[&a]);
    under_load(&[&a], || std::thread::sleep(Duration::from_millis(300)));
    assert!(a.terminate().success());
    assert_eq!(fleet_sums(&server), target.served());
    let ended = server.admin("fleet").query_one("SELECT bool_and(ended) FROM oap_processes", &[]).unwrap();
    assert!(ended.get::<bool>(0).unwrap());
    let names: Vec<_> = std::fs::read_dir(a.folder()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!names.iter().any(|name| name.to_string_lossy().ends_with("-wal")), "{names:?}");
}
