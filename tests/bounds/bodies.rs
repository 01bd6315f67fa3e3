//! Bodies that are held for inspection: all of them together have a bound, beyond which clients wait and nobody fails.

use super::resident;
use super::support::client::{Client, get};
use super::support::proxy::Proxy;
use super::support::script::Reply;
use super::support::upstream::{Options, Upstream};
use super::support::{DEADLINE, say, skip};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

const MIB: usize = 1 << 20;
const CLIENTS: usize = 16;
const BODY_BYTES: usize = 8 * MIB;
const BOUND: usize = 16 * MIB;
/// Bytes beside the bodies: what a read and a write may hold for each connection, and the allocator's own.
const OTHER_BYTES_MAX: f64 = 24.0 * MIB as f64;

/// An upstream that reads no body before the gate opens.
fn gated() -> (Upstream, Arc<(Mutex<bool>, Condvar)>) {
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let at_gate = gate.clone();
    let early = move |_: &_| {
        let open = at_gate.0.lock().unwrap();
        drop(at_gate.1.wait_timeout_while(open, DEADLINE, |open| !*open).unwrap());
        None
    };
    let options = Options { early: Some(Box::new(early)), ..Options::default() };
    let answer = |request: &super::support::upstream::SeenRequest| {
        let first = request.body.first().copied().unwrap_or_default();
        let same = request.body.iter().filter(|&&byte| byte == first).count();
        Reply::new(200, format!("{first} {same}")).steps()
    };
    (Upstream::start(options, answer), gate)
}

fn held(proxy: &Proxy) -> f64 {
    proxy.metrics()["openai_proxy_buffered_bytes"]
}

#[test]
fn all_bodies_together_have_a_bound_and_all_arrive() {
    let (upstream, gate) = gated();
    let bound = BOUND.to_string();
    let body_max = BODY_BYTES.to_string();
    // A client that we do not read from is not late, however long that takes.
    let vars = [("MAX_BUFFERED_BYTES", &*bound), ("MAX_BODY_BYTES", &*body_max), ("IDLE_TIMEOUT", "3s")];
    let proxy = Proxy::before(&upstream, &[&vars[..], &[("RATE_LIMIT_RPM", "0")]].concat());
    let before = resident(&proxy);
    let mut peak = 0.0_f64;
    let most = (BOUND + BODY_BYTES + CLIENTS * 17 * 1024) as f64;
    let check = |peak: &mut f64| {
        let bytes = held(&proxy);
        assert!(bytes <= most, "{bytes} bytes are held");
        *peak = peak.max(resident(&proxy).unwrap_or_default());
        bytes
    };
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|n| {
                let addr = proxy.addr();
                scope.spawn(move || {
                    let fields = [("content-type", "application/json")];
                    let body = vec![b'a' + n as u8; BODY_BYTES - n];
                    Client::connect(addr).request("POST", "/v1/chat/completions", &fields, &body).expect(200).text()
                })
            })
            .collect();
        let start = Instant::now();
        while check(&mut peak) < (BOUND - BODY_BYTES / 2) as f64 {
            assert!(start.elapsed() < DEADLINE, "it never fills up");
        }
        // Well beyond the time that a client has which is waited for.
        std::thread::sleep(std::time::Duration::from_millis(3500));
        get(proxy.addr(), "/healthz").expect(200);
        *gate.0.lock().unwrap() = true;
        gate.1.notify_all();
        while clients.iter().any(|client| !client.is_finished()) {
            check(&mut peak);
        }
        for (n, client) in clients.into_iter().enumerate() {
            assert_eq!(client.join().unwrap(), format!("{} {}", b'a' + n as u8, BODY_BYTES - n));
        }
    });
    assert_eq!(held(&proxy), 0.0, "nothing is held when all are answered");
    let Some(before) = before else { return skip("this system does not tell what is resident") };
    let grown = peak - before;
    say(&format!("{CLIENTS} bodies of {BODY_BYTES} bytes under a bound of {BOUND}: {grown} bytes more resident"));
    assert!(grown < most + OTHER_BYTES_MAX, "{grown} bytes more are resident");
}

/// Half bodies fill the bound, and their clients have fallen silent: whole ones get through all the same, one by one. A
/// half one for which others had to wait is given up, any other may still be completed.
#[test]
fn half_bodies_do_not_block_whole_ones_and_leave_nothing_behind() {
    let upstream = Upstream::plain(|request| Reply::new(200, request.body.len().to_string()).steps());
    let vars = [("MAX_BUFFERED_BYTES", "1MiB"), ("MAX_BODY_BYTES", "1MiB"), ("HEADER_TIMEOUT", "500ms")];
    let proxy = Proxy::before(&upstream, &vars);
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n";
    let mut halves = Vec::new();
    for _ in 0..8 {
        let mut client = Client::connect(proxy.addr());
        client.send(format!("{head}content-length: 400000\r\n\r\n{}", "x".repeat(200_000)));
        halves.push(client);
    }
    let fields = [("content-type", "application/json")];
    for round in 0..3 {
        let body = vec![b'x'; 1 << 20];
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    let mut client = Client::connect(proxy.addr());
                    let whole = client.request("POST", "/v1/responses", &fields, &body).expect(200);
                    assert_eq!(whole.text(), body.len().to_string());
                });
            }
        });
        // Two leave meanwhile, each in its way.
        match round {
            0 => halves.pop().unwrap().reset(),
            1 => drop(halves.pop()),
            _ => {}
        }
    }
    for mut client in halves {
        client.try_send("x".repeat(200_000));
        let response = client.response("POST");
        match response.status {
            200 => assert_eq!(response.expect(200).text(), "400000"),
            503 => _ = response.expect_proxy_error(503, "overloaded"),
            _ => _ = response.expect_proxy_error(408, "header_timeout"),
        }
    }
    assert_eq!(held(&proxy), 0.0);
}

/// Half bodies of one user fill the bound, and go on in a trickle that no idle time cuts: another user's requests get
/// through all the same.
#[test]
fn who_hoards_memory_holds_nobody_up() {
    let upstream = Upstream::plain(|request| Reply::new(200, request.body.len().to_string()).steps());
    let vars = [("MAX_BUFFERED_BYTES", "1MiB"), ("MAX_BODY_BYTES", "512KiB"), ("HEADER_TIMEOUT", "1s")];
    let proxy = Proxy::before(&upstream, &vars);
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nx-user-id: mallory\r\n\
        content-type: application/json\r\ncontent-length: 400000\r\n\r\n";
    let mut hoard: Vec<Client> = (0..5)
        .map(|_| {
            let mut client = Client::connect(proxy.addr());
            client.send(format!("{head}{}", "x".repeat(200_001)));
            client
        })
        .collect();
    let start = Instant::now();
    while held(&proxy) < 1_000_000.0 {
        assert!(start.elapsed() < DEADLINE, "it never fills up");
    }
    let is_over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                hoard.iter_mut().for_each(|client| _ = client.try_send("x".repeat(80)));
                std::thread::sleep(std::time::Duration::from_millis(100));
            }
        });
        let fields = [("content-type", "application/json"), ("x-user-id", "alice")];
        for _ in 0..3 {
            let body = vec![b'x'; 100_000];
            let response = Client::connect(proxy.addr()).request("POST", "/v1/responses", &fields, &body);
            is_over.store(response.status != 200, std::sync::atomic::Ordering::Relaxed);
            assert_eq!(response.expect(200).text(), "100000");
        }
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    let metrics = proxy.metrics();
    let refused = |reason: &str| metrics.get(&format!("openai_proxy_refused_total{{reason=\"{reason}\"}}")).copied();
    assert!(refused("overloaded").or(refused("header_timeout")) > Some(0.0), "{metrics:?}");
}
