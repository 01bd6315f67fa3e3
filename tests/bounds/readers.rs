//! Peers that take nothing of what is sent to them: the other side is not read from any more, and then it is over.

use super::resident;
use super::support::client::Client;
use super::support::proxy::{Proxy, scripted};
use super::support::script::{Ending, Reply, Step};
use super::support::upstream::{Options, Upstream};
use super::support::{DEADLINE, skip};
use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};

/// More than all buffers on the way take.
const FLOOD_BYTES: usize = 64 << 20;
/// What of it may be resident in the proxy.
const GROWTH_BYTES_MAX: f64 = (8 << 20) as f64;

#[test]
fn a_client_that_reads_nothing_stops_the_upstream_and_is_cut() {
    let sent = Arc::new(AtomicUsize::new(0));
    let (ended, end) = mpsc::channel();
    let (counted, ended) = (sent.clone(), Mutex::new(Some(ended)));
    let (_upstream, proxy) = scripted(&[("IDLE_TIMEOUT", "500ms")], move |_| {
        let (counted, ended) = (counted.clone(), ended.lock().unwrap().take().expect("one request"));
        let talk: super::support::script::Talk = Box::new(move |wire| {
            use std::io::Write;
            let piece = [b'x'; 64 << 10];
            while counted.load(Ordering::SeqCst) < FLOOD_BYTES && wire.write_all(&piece).is_ok() {
                counted.fetch_add(piece.len(), Ordering::SeqCst);
            }
            let _ = ended.send(());
            Ok(())
        });
        let head = Reply::new(200, "").ending(Ending::Close).head();
        vec![Step::Send(head), Step::Talk(talk), Step::Close]
    });
    let before = resident(&proxy);
    let mut client = Client::connect(proxy.addr());
    client.send_request("GET", "/v1/files/1/content", &[("x-user-id", "u")], b"");
    end.recv_timeout(DEADLINE).expect("the client that reads nothing is cut, and the upstream with it");
    let sent = sent.load(Ordering::SeqCst);
    assert!(sent < FLOOD_BYTES, "nothing held the upstream back");
    assert_eq!(proxy.only_row("u")["outcome"], "client_aborted");
    match resident(&proxy).zip(before) {
        None => skip("this system does not tell what is resident"),
        Some((after, before)) => assert!(after - before < GROWTH_BYTES_MAX, "{} bytes stayed", after - before),
    }
}

#[test]
fn an_upstream_that_reads_nothing_stops_the_client_and_is_given_up() {
    let early = |_: &_| Some(vec![Step::Wait(hold())]);
    let options = Options { early: Some(Box::new(early)), ..Options::default() };
    let upstream = Upstream::start(options, |_| panic!("no body is ever whole"));
    let proxy = Proxy::before(&upstream, &[("RESPONSE_TIMEOUT", "500ms")]);
    let before = resident(&proxy);
    let mut client = Client::connect(proxy.addr());
    client.send(format!("POST /v1/files HTTP/1.1\r\nhost: a\r\nx-user-id: u\r\ncontent-length: {FLOOD_BYTES}\r\n\r\n"));
    let (piece, mut sent) = (vec![b'x'; 64 << 10], 0);
    while sent < FLOOD_BYTES && client.try_send(&piece) {
        sent += piece.len();
    }
    client.response("POST").expect_proxy_error(504, "upstream_timeout");
    let row = proxy.only_row("u");
    assert!(row["request_bytes"].as_u64().unwrap() < FLOOD_BYTES as u64, "nothing held the client back: {row}");
    match resident(&proxy).zip(before) {
        None => skip("this system does not tell what is resident"),
        Some((after, before)) => assert!(after - before < GROWTH_BYTES_MAX, "{} bytes stayed", after - before),
    }
}

/// A gate that opens with the deadline only.
fn hold() -> mpsc::Receiver<()> {
    let (open, wait) = mpsc::channel();
    std::mem::forget(open);
    wait
}

/// A backlog that is full, or a firewall that drops: nobody ever accepts.
#[test]
fn an_upstream_that_accepts_nothing_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = format!("http://{}", listener.local_addr().unwrap());
    let proxy = Proxy::start(&[("PROXY_TARGET", &target), ("RESPONSE_TIMEOUT", "300ms"), ("CONNECT_TIMEOUT", "300ms")]);
    let response = Client::connect(proxy.addr()).request("GET", "/v1/models", &[], b"");
    response.expect_proxy_error(504, "upstream_timeout");
}
