//! A user id for each request: whoever makes them up cannot make the process or the scrape grow.
//!
//! `BOUNDS_USERS=1000000` makes it a million.

use super::resident;
use super::support::client::{Client, get};
use super::support::proxy::Proxy;
use super::support::{say, skip};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

const USERS: usize = 100_000;
const CLIENTS: usize = 4;
/// Requests of a client that are sent before the first of them is answered.
const PIPELINED: usize = 50;
/// What may be resident in addition after as many users again: a leak of 200 bytes for each would be more. Records on their
/// way to the ledger come and go.
const GROWTH_BYTES_MAX: f64 = (10 << 20) as f64;

/// A target that answers everything at once and remembers nothing.
fn target() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || listener.incoming().flatten().for_each(|stream| _ = thread::spawn(|| answer(stream))));
    url
}

/// Requests without bodies come one at a time.
fn answer(mut stream: TcpStream) {
    let (mut got, mut piece) = (Vec::new(), [0; 4096]);
    stream.set_nodelay(true).unwrap();
    while let Ok(count @ 1..) = stream.read(&mut piece) {
        got.extend_from_slice(&piece[..count]);
        if got.ends_with(b"\r\n\r\n") {
            got.clear();
            if stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").is_err() {
                return;
            }
        }
    }
}

/// Makes a request of each of these users.
fn ask(proxy: &Proxy, users: std::ops::Range<usize>) {
    let share = users.len() / CLIENTS;
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let first = users.start + client * share;
            scope.spawn(move || {
                let mut client = Client::connect(proxy.addr());
                for batch in (first..first + share).step_by(PIPELINED) {
                    let last = (batch + PIPELINED).min(first + share);
                    let request = |n| format!("GET /v1/models HTTP/1.1\r\nhost: a\r\nx-user-id: somebody-{n}\r\n\r\n");
                    client.send((batch..last).map(request).collect::<String>());
                    (batch..last).for_each(|_| _ = client.response("GET").expect(200));
                }
            });
        }
    });
}

#[test]
fn a_user_for_each_request_leaves_memory_and_metrics_flat() {
    let users = std::env::var("BOUNDS_USERS").ok().map_or(USERS, |text| text.parse().expect("a number of users"));
    let target = target();
    // Settled: what the ledger is behind, on a busy machine, would be counted as the users'.
    let proxy = Proxy::start(&[("PROXY_TARGET", &*target), ("LEDGER_DURABILITY", "settled")]);
    let look = || (resident(&proxy), get(proxy.addr(), "/metrics").expect(200).body.len());
    ask(&proxy, 0..users / 2);
    let (before, page_before) = look();
    ask(&proxy, users / 2..users);
    let (after, page) = look();
    assert_eq!(proxy.metrics()["openai_proxy_records_total{usage_source=\"none\"}"], users as f64);
    // Numbers get longer, labels do not get more.
    assert!(page < page_before + page_before / 50, "the page grew from {page_before} to {page} bytes");
    let Some((before, after)) = before.zip(after) else { return skip("this system does not tell what is resident") };
    say(&format!(
        "{users} users: {before} bytes resident after the first half, {after} in the end; {page} bytes a page"
    ));
    assert!(after - before < GROWTH_BYTES_MAX, "{} bytes more are resident", after - before);
}
