//! Several proxies on one real PostgreSQL: what was consumed is there once, whoever is killed when; a history comes along,
//! and a tail; whatever is wrong is told, and nothing is lost meanwhile. Left to others: the client (`postgres`), the
//! rule of shared ids in itself (`src/fleet/shared_ids.rs`).

#![cfg(feature = "fleet")]
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
#[path = "fleet/policy.rs"]
mod policy;
#[path = "fleet/trouble.rs"]
mod trouble;
#[path = "fleet/usage.rs"]
mod usage;

use books::{Nodes, fleet_sums, lag_rows, ledger_sums, wait_until_shipped};
use openai_api_proxy::fleet::membership::{Membership, Node};
use openai_api_proxy::fleet::schema;
use openai_api_proxy::fleet::shipment::{Rows, Shipped};
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
    // One by TLS, the others behind a pooler of either kind.
    let (Some(session), Some(transaction)) = (server.bouncer("session"), server.bouncer("transaction")) else { return };
    let by = |url: &str| Nodes::new(&target, url);
    let (direct, of_b) = (by(&server.url()), by(&transaction.url));
    let (mut a, mut b, c) = (direct.start("a"), of_b.start("b"), by(&session.url).start("c"));
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
        b = of_b.start_in(b.into_folder(), "b");
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
    let Some(mut server) = Postgres::start() else { return };
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

    // Where the database is away it leaves all the same, and the tail comes with the next start.
    let mut a = nodes.start_in(a.into_folder(), "a");
    a.wait_for_log("fleet is reached");
    server.stop_immediately();
    under_load(&[&a], || std::thread::sleep(Duration::from_millis(300)));
    assert!(a.terminate().success());
    server.restart();
    let a = nodes.start_in(a.into_folder(), "a");
    wait_until_shipped(&[&a]);
    assert_eq!(fleet_sums(&server), target.served());
}

#[test]
fn a_replica_that_takes_over_gets_what_it_lacks() {
    let Some(mut primary) = Postgres::start() else { return };
    let target = books::target();
    let both = |first: u16, second: u16, url: &str| {
        url.replace(&format!("localhost:{first}"), &format!("localhost:{first},localhost:{second}"))
    };
    drop(Nodes::new(&target, &primary.url()).start("a").wait_for_log("fleet is reached"));
    let standby = primary.standby();
    let url = both(primary.port, standby.port, &primary.url());
    // The certificate is the same, so one authority is right for both.
    let nodes = Nodes::new(&target, &url);
    let (a, b) = (nodes.start("a"), nodes.start("b"));
    under_load(&[&a, &b], || std::thread::sleep(Duration::from_millis(1500)));
    wait_until_shipped(&[&a, &b]);
    // What comes now the replica does not get: it is behind by that when it takes over.
    let lost = "ALTER SYSTEM SET primary_conninfo = ''; SELECT pg_reload_conf()";
    let mut reading = support::postgres::connect(&(standby.url_of("admin", "postgres") + "&target_session_attrs=any"));
    lost.split("; ").for_each(|statement| drop(reading.query(statement, &[]).unwrap()));
    let walreceiver = "SELECT count(*) FROM pg_stat_wal_receiver";
    until("it is cut off", || reading.query_one(walreceiver, &[]).unwrap().get::<i64>(0).unwrap() == 0);
    under_load(&[&a, &b], || {
        std::thread::sleep(Duration::from_millis(1500));
        primary.stop_immediately();
        standby.promote();
    });
    until("they go on", || a.stderr().matches("fleet is reached").count() > 1);
    wait_until_shipped(&[&a, &b]);
    assert_eq!(fleet_sums(&standby), target.served());
}

/// As where the answer to a commit is lost, or two senders are at it.
#[test]
fn rows_come_once_whatever_is_sent_again() {
    let Some(server) = Postgres::start() else { return };
    let (mut one, mut two) = (server.client(), server.client());
    schema::prepare(&mut one).unwrap();
    let node = Node { ledger_uuid: "1".repeat(32), name: "a".into(), host: "h".into(), build: "1", retention_days: 0 };
    let place = Membership::join(&mut one, &node).unwrap();
    let rows = |after: i64, count: i64| {
        let line = |id: i64| {
            let numbers = ["0"; 13].join("\t");
            format!(
                "{id}\t{id}\ttaro\t\\N\t\\N\t1\t\\N\tgpt-4o\t200\t0\t0\t0\t7\t{numbers}\t1\t\\N\t1\t1\t1\t\\N\t\\N\t\\N\t\\N\n"
            )
        };
        let lines = (after + 1..=after + count).map(line).collect::<String>().into_bytes();
        Rows { lines, after, upto: after + count, upto_at: after + count, ..Rows::default() }
    };
    assert_eq!(place.ship(&mut one, &rows(0, 10)).unwrap(), Shipped::Taken);
    assert_eq!(place.ship(&mut one, &rows(0, 10)).unwrap(), Shipped::MarkIs(10));
    // Both know the same mark; one waits for the other, and then does nothing.
    let both = std::thread::scope(|scope| {
        let at_once = [&mut one, &mut two].map(|client| scope.spawn(|| place.ship(client, &rows(10, 500)).unwrap()));
        at_once.map(|sent| sent.join().unwrap())
    });
    assert!(both.contains(&Shipped::Taken) && both.contains(&Shipped::MarkIs(510)), "{both:?}");
    // Another process takes over: this one has no say any more.
    one.batch("UPDATE oap_processes SET seen = seen - interval '1 minute'").unwrap();
    let next = Membership::join(&mut two, &node).unwrap();
    assert!(next.ledger == place.ledger && next.process != place.process);
    assert!(place.ship(&mut one, &rows(510, 1)).unwrap_err().to_string().contains("another process"));
    assert!(!place.beat(&mut one, 0, 0, 0).unwrap().serves);
    // A clock that is far ahead has nobody believe that all is there up to then.
    assert!(next.beat(&mut two, i64::MAX, u64::MAX / 2, 0).unwrap().serves);
    let sql = "SELECT fresh_to > 0 AND fresh_to <= oap_now_v1() FROM oap_ledgers";
    assert!(one.query_one(sql, &[]).unwrap().get::<bool>(0).unwrap());
    let sql = "SELECT count(*), count(DISTINCT id), (SELECT sum(requests)::bigint FROM oap_hours WHERE who = 0) FROM oap_records";
    let row = one.query_one(sql, &[]).unwrap();
    assert_eq!([0, 1, 2].map(|column| row.get::<i64>(column).unwrap()), [510; 3]);
}

#[test]
fn processes_of_one_host_share_a_port_and_are_a_fleet() {
    let Some(server) = Postgres::start() else { return };
    let target = books::target();
    let nodes = Nodes::new(&target, &server.url());
    let port = support::free_port().to_string();
    let start = |name| Proxy::start(&[&nodes.vars(name)[..], &[("REUSE_PORT", "true"), ("PORT", &port)]].concat());
    let (mut a, mut b) = (start("a"), start("b"));
    assert_eq!(a.addr(), b.addr());
    // Who comes to whom is the system's choice; in the end both have had some.
    let requests = |proxy: &Proxy| books::requests(&ledger_sums(&proxy.database()));
    until("both have had clients", || {
        support::client::post_json(a.addr(), "/v1/chat/completions", &[], r#"{"model":"gpt-4o"}"#).expect(200);
        requests(&a) > 0 && requests(&b) > 0
    });
    assert!(a.terminate().success());
    for _ in 0..20 {
        support::client::post_json(b.addr(), "/v1/chat/completions", &[], r#"{"model":"gpt-4o"}"#).expect(200);
    }
    assert!(b.terminate().success());
    assert_eq!(fleet_sums(&server), target.served());
}
