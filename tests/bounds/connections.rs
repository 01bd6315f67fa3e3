//! Clients: as many as there may be are served, the next one waits for a place, and is told if there is none for long.

use super::resident;
use super::support::client::{Client, get};
use super::support::proxy::{Proxy, scripted};
use super::support::script::Reply;
use super::support::wire::Cut;
use super::support::{say, skip};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Idle connections held open, where the limit of descriptors allows.
const IDLE: usize = 9_000;
/// Resident memory of one of them, bytes.
const IDLE_BYTES_MAX: f64 = 4096.0;

fn ask(client: &mut Client) -> u16 {
    client.request("GET", "/v1/models", &[], b"").status
}

/// A proxy with so many clients, each of which has been served and stays.
fn full(vars: &[(&str, &str)], count: usize) -> (super::support::upstream::Upstream, Proxy, Vec<Client>) {
    let (upstream, proxy) = scripted(vars, |_| Reply::new(200, "ok").steps());
    let mut clients: Vec<Client> = (0..count).map(|_| Client::connect(proxy.addr())).collect();
    assert!(clients.iter_mut().all(|client| ask(client) == 200), "as many as there may be are served");
    (upstream, proxy, clients)
}

/// Each of them has a request in flight from here on.
fn begin(clients: &mut [Client]) {
    let head = "POST /v1/files HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n";
    clients.iter_mut().for_each(|client| client.send(format!("{head}x")));
}

/// What [`begin`] began is answered.
fn end(clients: &mut [Client]) -> bool {
    clients.iter_mut().for_each(|client| client.send("y"));
    clients.iter_mut().all(|client| client.response("POST").status == 200)
}

fn in_flight(proxy: &Proxy, count: usize) {
    let start = std::time::Instant::now();
    while proxy.metrics()["openai_proxy_requests_in_flight"] < count as f64 {
        assert!(start.elapsed() < super::support::DEADLINE, "they never arrive");
    }
}

#[test]
fn the_idlest_makes_room_for_one_more() {
    let (_upstream, proxy, mut clients) = full(&[("MAX_CONNECTIONS", "3")], 3);
    begin(&mut clients[..1]);
    let mut one_more = Client::connect(proxy.addr());
    assert_eq!(ask(&mut one_more), 200);
    assert_eq!(clients[1].expect_end(), Ok(()), "it was idle for the longest");
    assert!(ask(&mut clients[2]) == 200 && end(&mut clients[..1]));
    assert!(proxy.metrics()["openai_proxy_connections_evicted_total"] >= 1.0);
}

#[test]
fn strangers_do_not_stay() {
    let (_upstream, proxy) =
        scripted(&[("CLIENT_AUTH", "keys"), ("ADMIN_TOKEN", "letmein-0123456789")], |_| Reply::new(200, "ok").steps());
    for (target, code) in [("/v1/models", "invalid_client_key"), ("/usage", "unauthorized")] {
        let mut client = Client::connect(proxy.addr());
        client.request("GET", target, &[], b"").expect_proxy_error(401, code);
        assert_eq!(client.expect_end(), Ok(()));
    }
}

#[test]
fn one_address_does_not_take_all_places() {
    let (_upstream, proxy, mut clients) = full(&[("MAX_CONNECTIONS_PER_ADDRESS", "2")], 2);
    let mut crowded = Client::connect(proxy.addr());
    assert_eq!(crowded.request("GET", "/healthz", &[], b"").status, 200, "it is told how it is here");
    assert_eq!(crowded.expect_end(), Ok(()));
    let refused = Client::connect(proxy.addr()).request("GET", "/v1/models", &[], b"");
    assert!(refused.expect_proxy_error(503, "overloaded").text().contains("MAX_CONNECTIONS_PER_ADDRESS"));
    // Those that are told are few.
    let silent: Vec<Client> = (0..16).map(|_| Client::connect(proxy.addr())).collect();
    let mut unheard = Client::connect(proxy.addr());
    assert!(matches!(unheard.expect_end(), Ok(()) | Err(Cut::Reset)), "closed at once");
    drop((silent, crowded, clients.pop()));
    let start = std::time::Instant::now();
    let is_served = || {
        let mut client = Client::connect(proxy.addr());
        client.try_send("GET /v1/models HTTP/1.1\r\nhost: a\r\n\r\n");
        client.try_response("GET").is_ok_and(|response| response.status == 200)
    };
    while !is_served() {
        assert!(start.elapsed() < super::support::DEADLINE, "their leaving goes unnoticed");
    }
    assert_eq!(ask(&mut clients[0]), 200);
}

#[test]
fn a_trusted_proxy_brings_many_clients() {
    let vars = [("MAX_CONNECTIONS_PER_ADDRESS", "2"), ("TRUSTED_PROXIES", "10.0.0.0/8, 127.0.0.1")];
    let (_upstream, proxy, clients) = full(&vars, 25);
    drop(clients);
    // Its leaving is not counted either.
    proxy.wait_until_left();
    let mut clients: Vec<Client> = (0..25).map(|_| Client::connect(proxy.addr())).collect();
    assert!(clients.iter_mut().all(|client| ask(client) == 200));
}

#[test]
fn one_more_than_there_may_be_waits_for_a_place() {
    let (_upstream, proxy, mut clients) = full(&[("MAX_CONNECTIONS", "3")], 3);
    begin(&mut clients);
    let mut waits = Client::connect(proxy.addr()); // the backlog takes it
    drop(clients.pop());
    assert_eq!(ask(&mut waits), 200, "there is a place");
    assert!(end(&mut clients));
}

#[test]
fn who_waits_in_vain_is_told_and_the_others_are_not_disturbed() {
    let (upstream, proxy, mut clients) = full(&[("MAX_CONNECTIONS", "3"), ("HEADER_TIMEOUT", "1s")], 3);
    begin(&mut clients);
    in_flight(&proxy, 3);
    // More than are taken in beside the others, most of which say nothing.
    let silent: Vec<Client> = (0..40).map(|_| Client::connect(proxy.addr())).collect();
    for (method, body) in [("GET", ""), ("POST", "a body")] {
        let mut client = Client::connect(proxy.addr());
        let refused = client.request(method, "/v1/models", &[], body.as_bytes()).expect_proxy_error(503, "overloaded");
        assert_eq!((refused.head.get("connection"), refused.head.get("retry-after")), (Some("close"), Some("1")));
        assert_eq!(client.expect_end(), Ok(()));
    }
    let mut scrape = Client::connect(proxy.addr());
    let page = scrape.request("GET", "/metrics", &[], b"").expect(200);
    assert!(page.text().contains("openai_proxy_refused_total{reason=\"overloaded\"} 2"), "{}", page.text());
    assert_eq!(scrape.expect_end(), Ok(()), "nobody stays who has no place");
    assert!(end(&mut clients));
    drop((clients, silent));
    // Once all have left, there is room for as many as before.
    proxy.wait_until_left();
    let mut clients: Vec<Client> = (0..3).map(|_| Client::connect(proxy.addr())).collect();
    assert!(clients.iter_mut().all(|client| ask(client) == 200));
    assert_eq!(upstream.requests().len(), 3 + 3 + 3, "nobody without a place got through");
}

/// How many sockets this process may have beside what else it needs.
fn sockets() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(limit.saturating_sub(500)).unwrap_or(usize::MAX)
}

#[test]
fn thousands_of_idle_connections_are_held_while_one_more_is_served() {
    // The proxy keeps a descriptor for each client's upstream connection.
    let count = IDLE.min(sockets() / 2 - 200);
    if count < IDLE {
        say(&format!("FEWER: {count} idle connections instead of {IDLE}, as no more files may be open"));
    }
    let (_upstream, proxy, _) = full(&[("IDLE_TIMEOUT", "10m"), ("HEADER_TIMEOUT", "10m")], 0);
    let mut last = Client::connect(proxy.addr());
    assert_eq!(ask(&mut last), 200);
    let before = resident(&proxy);
    let mut idle: Vec<Client> = Vec::new();
    for n in 0..count {
        let mut client = Client::connect(proxy.addr());
        // Some have never said anything, some have been served, some are in the middle of a head.
        match n % 3 {
            0 => {}
            1 => assert_eq!(client.request("GET", "/healthz", &[], b"").status, 200),
            _ => client.send("GET /healthz HTTP/1.1\r\n"),
        }
        idle.push(client);
    }
    let held = proxy.metrics()["openai_proxy_connections{side=\"downstream\"}"];
    assert!(held >= count as f64, "{held} of {count} are held");
    assert_eq!(ask(&mut last), 200, "one more is served");
    assert_eq!(get(proxy.addr(), "/v1/models").status, 200);
    match resident(&proxy).zip(before) {
        None => skip("this system does not tell what is resident"),
        Some((after, before)) => {
            let each = (after - before) / count as f64;
            say(&format!("{count} idle connections, {each:.0} bytes resident each"));
            assert!(each < IDLE_BYTES_MAX, "{each} bytes for each idle connection");
        }
    }
    for client in idle.iter_mut().step_by(1000) {
        client.set_deadline(std::time::Duration::from_millis(1));
        assert_eq!(client.expect_end(), Err(Cut::Deadline), "none of them is closed");
    }
}
