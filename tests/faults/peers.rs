//! Faults of the target's certificate and protocol version, of a head that is not all there, and of clients that stop
//! sending.

use super::support::ca::{Ca, Server};
use super::support::client::{Client, get, post_json};
use super::support::proxy::{Proxy, scripted};
use super::support::script::{Reply, Step, tell};
use super::support::upstream::Upstream;
use super::support::wire::Cut;
use super::support::{DEADLINE, api};
use super::{CHAT, bytes, expect_unknown};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Mutex;

/// A proxy that trusts this authority, before a target with such a certificate.
fn over_tls(ca: &Ca, names: &[&str], server: Server) -> (Upstream, Proxy) {
    let upstream = Upstream::tls(ca.server(names, server), |request| api::answer(request).steps());
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("ca.pem"), ca.pem()).unwrap();
    let proxy = Proxy::start_in(folder, &[("PROXY_TARGET", &upstream.url()), ("TLS_CA_FILE", "ca.pem")]);
    (upstream, proxy)
}

#[test]
fn a_certificate_that_does_not_hold_is_refused_before_anything_is_said() {
    let ca = Ca::new();
    for (names, server, advice) in [
        (&["127.0.0.1"][..], Server::Expired, "expired"),
        (&["other.example"][..], Server::Usual, "PROXY_TARGET"),
        (&["127.0.0.2"][..], Server::Usual, "PROXY_TARGET"),
    ] {
        let (upstream, proxy) = over_tls(&ca, names, server);
        let refused = post_json(proxy.addr(), "/v1/chat/completions", &[("x-user-id", "u")], CHAT);
        let refused = refused.expect_proxy_error(502, "upstream_unreachable");
        assert!(refused.text().contains(advice), "it says what is wrong: {}", refused.text());
        assert_eq!(upstream.requests().len(), 0, "nothing was said to a stranger");
        assert_eq!(proxy.only_row("u")["usage_source"], "none");
    }
}

#[test]
fn a_target_with_tls_1_2_only_is_served() {
    let (_upstream, proxy) = over_tls(&Ca::new(), &["127.0.0.1"], Server::Tls12);
    for _ in 0..3 {
        post_json(proxy.addr(), "/v1/chat/completions", &[("x-user-id", "u")], CHAT).expect(200);
    }
    assert_eq!(proxy.usage("user_id=u")["totals"]["requests"], 3);
}

/// A target that ends the connection once it has read so many bytes of the handshake.
#[test]
fn a_target_that_breaks_off_the_handshake_is_not_reached() {
    for by_reset in [false, true] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = format!("https://{}", listener.local_addr().unwrap());
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.read_exact(&mut [0; 20]).unwrap();
            // Closed with bytes unread it is a reset, else an end.
            while !by_reset && matches!(stream.read(&mut [0; 4096]), Ok(4096)) {}
            let _ = stream.flush();
        });
        let proxy = Proxy::start(&[("PROXY_TARGET", &target)]);
        let response = post_json(proxy.addr(), "/v1/chat/completions", &[("x-user-id", "u")], CHAT);
        response.expect_proxy_error(502, "upstream_unreachable");
        assert_eq!(proxy.only_row("u")["usage_source"], "none", "the target never heard of it");
        server.join().unwrap();
    }
}

#[test]
fn a_head_that_breaks_off_is_no_answer() {
    for start in
        ["H", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n", "HTTP/1.1 103 x\r\n\r\nHTTP/1"]
    {
        for step in [|| Step::Close, || Step::Reset, || Step::Cut] {
            let (upstream, proxy) = scripted(&[], move |_| vec![bytes(start), step()]);
            let response = post_json(proxy.addr(), "/v1/chat/completions", &[("x-user-id", "u")], CHAT);
            response.expect_proxy_error(502, "upstream_closed");
            expect_unknown(&proxy);
            assert_eq!(upstream.requests().len(), 1, "{start:?}");
        }
    }
}

/// Whoever only stops sending still gets what is whole; while a model is at work, it looks like a client that has gone.
#[test]
fn a_client_that_shuts_its_side_down() {
    let (left, tell) = tell();
    let steps = Mutex::new(Some(vec![Step::AwaitClose, tell]));
    let (_upstream, proxy) = scripted(&[], move |_| steps.lock().unwrap().take().unwrap());
    for target in ["/healthz", "/metrics", "/usage"] {
        let mut client = Client::connect(proxy.addr());
        client.send_request("GET", target, &[], b"");
        client.finish_sending();
        client.response("GET").expect(200);
        assert_eq!(client.expect_end(), Ok(()));
    }
    let mut refused = Client::connect(proxy.addr());
    refused.send("nonsense\r\n\r\n");
    refused.finish_sending();
    refused.response("GET").expect_proxy_error(400, "bad_request");
    let mut half = Client::connect(proxy.addr());
    half.send("POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n");
    half.finish_sending();
    assert_eq!(half.expect_end(), Ok(()), "half a request is none");
    let mut working = Client::connect(proxy.addr());
    let fields = [("x-user-id", "u"), ("content-type", "application/json")];
    working.send_request("POST", "/v1/chat/completions", &fields, CHAT.as_bytes());
    while proxy.metrics()["openai_proxy_requests_in_flight"] == 0.0 {}
    working.finish_sending();
    left.recv_timeout(DEADLINE).expect("the target is told");
    assert_eq!(proxy.only_row("u")["outcome"], "client_aborted");
}

/// The target has answered in full and says goodbye with more than that: the client has its answer, and the connection
/// is of no more use.
#[test]
fn an_end_right_behind_an_answer_spoils_nothing() {
    for step in [|| Step::Close, || Step::Reset, || Step::Cut] {
        let (upstream, proxy) = scripted(&[], move |_| {
            let mut steps = Reply::new(200, "whole").steps();
            steps.push(step());
            steps
        });
        for _ in 0..5 {
            let response = get(proxy.addr(), "/v1/models");
            assert!(response.cut.is_none() && response.text() == "whole", "{:?}", response.cut == Some(Cut::Closed));
        }
        assert!(upstream.requests().len() >= 5);
    }
}
