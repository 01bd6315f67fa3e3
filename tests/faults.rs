//! What goes wrong upstream, with a client, or in a request: the right answer, the right record, never a second charge,
//! and never a broken stream passed off as a whole one. Left to others: messages that are malformed on purpose
//! (`smuggling`), peers that are slow (`bounds`), what an unfinished stream is counted as (`aborts`), the ledger's
//! trouble (`ledger_faults`).

#![allow(clippy::disallowed_methods)] // tests are the outside world

#[path = "faults/addresses.rs"]
mod addresses;
#[path = "faults/peers.rs"]
mod peers;
mod support;
#[path = "faults/system.rs"]
mod system;

use std::net::TcpListener;
use std::sync::Mutex;
use support::ca::{Ca, Server};
use support::client::{Client, get, post_json, request, response_framing};
use support::proxy::{Proxy, scripted};
use support::script::{Ending, Reply, Step, chunk, gate, tell};
use support::upstream::{Options, SeenRequest, Upstream};
use support::wire::Cut;
use support::{DEADLINE, api};

const CHAT: &str = r#"{"model":"gpt-4o","messages":[{"role":"user","content":"Hi"}]}"#;

fn bytes(text: &str) -> Step {
    Step::Send(text.as_bytes().to_vec())
}

/// The record of a request that failed with the target at work, perhaps: never passed off as one that used nothing.
#[track_caller]
fn expect_unknown(proxy: &Proxy) {
    let row = proxy.only_row("u");
    assert_eq!((&row["outcome"], &row["usage_source"]), (&"upstream_error".into(), &"unknown".into()), "{row}");
    assert!(row["cost_nano_usd"].is_null(), "{row}");
}

#[test]
fn nobody_listens() {
    let free = support::free_port();
    let proxy = Proxy::start(&[("PROXY_TARGET", &format!("http://127.0.0.1:{free}"))]);
    let response = post_json(proxy.addr(), "/v1/chat/completions", &[("x-user-id", "u")], CHAT);
    response.expect_proxy_error(502, "upstream_unreachable");
    let row = proxy.only_row("u");
    assert_eq!((&row["status"], &row["outcome"]), (&502.into(), &"upstream_error".into()));
    assert_eq!(row["usage_source"], "none", "the target never heard of it");
    get(proxy.addr(), "/healthz").expect(200);
}

#[test]
fn a_name_that_does_not_resolve() {
    let proxy = Proxy::start(&[("PROXY_TARGET", "http://no-such-host.invalid")]);
    get(proxy.addr(), "/v1/models").expect_proxy_error(502, "upstream_unreachable");
    get(proxy.addr(), "/healthz").expect(200);
    assert_eq!(get(proxy.addr(), "/readyz").status, 503);
}

#[test]
fn a_certificate_that_is_not_trusted() {
    let upstream = Upstream::tls(Ca::new().server(&["127.0.0.1"], Server::Usual), |_| Reply::new(200, "").steps());
    let proxy = Proxy::before(&upstream, &[]);
    let refused = get(proxy.addr(), "/v1/models").expect_proxy_error(502, "upstream_unreachable");
    assert!(refused.text().contains("TLS_CA_FILE"), "it says what to do: {}", refused.text());
    assert_eq!(upstream.requests().len(), 0, "nothing was said to a stranger");
}

#[test]
fn a_target_that_never_shakes_hands() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = format!("https://{}", silent.local_addr().unwrap());
    let proxy = Proxy::start(&[("PROXY_TARGET", &target), ("CONNECT_TIMEOUT", "200ms")]);
    get(proxy.addr(), "/v1/models").expect_proxy_error(504, "upstream_timeout");
}

#[test]
fn an_answer_that_never_comes() {
    let (open, wait) = gate();
    let steps = Mutex::new(Some(vec![wait, Step::AwaitClose]));
    let (upstream, proxy) = scripted(&[("RESPONSE_TIMEOUT", "200ms")], move |_| steps.lock().unwrap().take().unwrap());
    let response = post_json(proxy.addr(), "/v1/chat/completions", &[("x-user-id", "u")], CHAT);
    response.expect_proxy_error(504, "upstream_timeout");
    expect_unknown(&proxy);
    assert_eq!(upstream.requests().len(), 1, "a completion is not sent twice");
    drop(open);
}

#[test]
fn a_connection_closed_while_idle_is_not_used() {
    let (told, tell) = tell();
    let tell = Mutex::new(Some(tell));
    let (upstream, proxy) = scripted(&[], move |_| {
        let mut steps = Reply::new(200, "ok").steps();
        if let Some(tell) = tell.lock().unwrap().take() {
            steps.extend([Step::Close, tell]);
        }
        steps
    });
    get(proxy.addr(), "/v1/models").expect(200);
    told.recv_timeout(DEADLINE).unwrap();
    post_json(proxy.addr(), "/v1/chat/completions", &[], CHAT).expect(200);
    let seen: Vec<_> = upstream.requests().iter().map(|r| (r.connection, r.nth)).collect();
    assert_eq!(seen, [(0, 0), (1, 0)]);
}

/// An upstream that answers the first request of its first connection, and resets that connection at the second.
fn stale() -> (Upstream, Proxy) {
    let (upstream, proxy) = scripted(&[], |request| match (request.connection, request.nth) {
        (0, 1..) => vec![Step::Reset],
        _ => Reply::new(200, "ok").steps(),
    });
    get(proxy.addr(), "/v1/models").expect(200);
    (upstream, proxy)
}

#[test]
fn what_is_safe_to_repeat_is_sent_again_on_a_fresh_connection() {
    for (method, fields) in [
        ("GET", vec![]),
        ("HEAD", vec![]),
        ("POST", vec![("content-type", "application/json"), ("idempotency-key", "k")]),
    ] {
        let (upstream, proxy) = stale();
        let body: &[u8] = if method == "POST" { CHAT.as_bytes() } else { b"" };
        Client::connect(proxy.addr()).request(method, "/v1/chat/completions", &fields, body).expect(200);
        let seen = upstream.requests();
        assert_eq!(seen.iter().map(|r| r.connection).collect::<Vec<_>>(), [0, 0, 1], "{method}");
        assert_eq!((&seen[2].head.fields, &seen[2].body), (&seen[1].head.fields, &seen[1].body), "{method}");
        assert_eq!(proxy.usage("")["totals"]["requests"], 2, "a retry is not a record of its own");
    }
}

#[test]
fn a_completion_is_never_sent_twice() {
    let (upstream, proxy) = stale();
    let response = post_json(proxy.addr(), "/v1/chat/completions", &[("x-user-id", "u")], CHAT);
    response.expect_proxy_error(502, "upstream_closed");
    assert_eq!(upstream.requests().len(), 2);
    expect_unknown(&proxy);
}

#[test]
fn a_fresh_connection_that_closes_is_not_tried_again() {
    for step in [|| Step::Close, || Step::Reset] {
        let (upstream, proxy) = scripted(&[], move |_| vec![step()]);
        get(proxy.addr(), "/v1/models").expect_proxy_error(502, "upstream_closed");
        assert_eq!(upstream.requests().len(), 1);
    }
}

#[test]
fn an_answer_that_is_not_http_is_refused() {
    let answers = [
        "SSH-2.0-OpenSSH_9.6\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\ncontent-length: +2\r\n\r\nab",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\ncontent-length: 2\n\nab",
        "HTTP/1.1 20 OK\r\ncontent-length: 2\r\n\r\nab",
    ];
    for answer in answers {
        let (upstream, proxy) = scripted(&[], move |_| vec![bytes(answer), Step::AwaitClose]);
        let response = post_json(proxy.addr(), "/v1/chat/completions", &[("x-user-id", "u")], CHAT);
        response.expect_proxy_error(502, "upstream_protocol");
        expect_unknown(&proxy);
        assert_eq!(upstream.requests().len(), 1);
    }
}

#[test]
fn a_broken_stream_is_never_passed_off_as_whole() {
    const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n";
    let chunked = format!("{HEAD}transfer-encoding: chunked\r\n\r\n6\r\nbefore\r\n");
    let length = format!("{HEAD}content-length: 100\r\n\r\nbefore");
    let cases = [
        (chunked.clone(), Step::Close),
        (chunked.clone(), Step::Reset),
        (chunked.clone() + "5\r\naf", Step::Close),
        (chunked + "zz\r\nafter\r\n0\r\n\r\n", Step::AwaitClose),
        (length, Step::Close),
    ];
    for (start, end) in cases {
        let script = Mutex::new(Some(vec![bytes(&start), end]));
        let (_upstream, proxy) = scripted(&[], move |_| script.lock().unwrap().take().unwrap());
        let body = r#"{"model":"gpt-4o","stream":true}"#;
        let response = post_json(proxy.addr(), "/v1/responses", &[("x-user-id", "u")], body);
        assert_eq!(response.status, 200);
        assert!(matches!(response.cut, Some(Cut::Closed | Cut::Reset)), "{start:?}: {:?}", response.cut);
        assert!(response.text().starts_with("before") || response.cut == Some(Cut::Reset), "{}", response.text());
        assert_eq!(proxy.only_row("u")["outcome"], "upstream_error", "{start:?}");
    }
}

/// The client that waits is taken in in the very turn in which the other one is cut, and into its slot.
#[test]
fn a_body_until_close_that_is_cut_ends_by_a_reset_while_another_client_waits() {
    let vars = [("MAX_CONNECTIONS", "1"), ("RESPONSE_TIMEOUT", "500ms")];
    let (_upstream, proxy) = scripted(&vars, |_| vec![bytes("HTTP/1.1 200 OK\r\n\r\nbefore"), Step::AwaitClose]);
    let mut client = Client::connect(proxy.addr());
    client.send("GET /v1/other HTTP/1.0\r\nhost: localhost\r\n\r\n");
    let head = client.head().unwrap().unwrap();
    let _waits = Client::connect(proxy.addr());
    let mut framing = response_framing("GET", &head).unwrap();
    let end = std::iter::repeat_with(|| client.body_piece(&mut framing)).find(|piece| !matches!(piece, Ok(Some(_))));
    assert_eq!(end, Some(Err(Cut::Reset)));
}

/// Without close_notify nobody knows that a body until close is whole: an attacker can cut a connection.
#[test]
fn a_tls_cut_does_not_end_a_body() {
    let ca = Ca::new();
    let config = ca.server(&["127.0.0.1"], Server::Usual);
    let head = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nthe first half";
    let upstream = Upstream::tls(config, move |request| {
        vec![bytes(head), if request.target == "/cut" { Step::Cut } else { Step::Close }]
    });
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("ca.pem"), ca.pem()).unwrap();
    let proxy = Proxy::start_in(folder, &[("PROXY_TARGET", &upstream.url()), ("TLS_CA_FILE", "ca.pem")]);
    let cut = get(proxy.addr(), "/cut");
    assert!(cut.cut.is_some(), "{cut:?}");
    assert_eq!(get(proxy.addr(), "/closed").expect(200).text(), "the first half");
}

#[test]
fn bytes_after_a_response_spoil_the_connection() {
    let (upstream, proxy) = scripted(&[], |request| {
        if request.connection > 0 {
            return Reply::new(200, "second").steps();
        }
        let smuggled = Reply::new(200, "smuggled").steps();
        Reply::new(200, "first").steps().into_iter().chain(smuggled).collect()
    });
    assert_eq!(get(proxy.addr(), "/v1/a").expect(200).text(), "first");
    assert_eq!(get(proxy.addr(), "/v1/b").expect(200).text(), "second");
    assert_eq!(upstream.connections(), 2);
}

#[test]
fn a_client_that_leaves_ends_the_upstream_request() {
    let (left, tell) = tell();
    let event = b"data: {\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\n\n";
    let steps = vec![Step::Send(Reply::sse("").head()), Step::Send(chunk(event)), Step::AwaitClose, tell];
    let steps = Mutex::new(Some(steps));
    let (_upstream, proxy) = scripted(&[], move |_| steps.lock().unwrap().take().unwrap());
    let mut client = Client::connect(proxy.addr());
    let body = br#"{"model":"gpt-4o","messages":[],"stream":true}"#;
    client.send_request("POST", "/v1/chat/completions", &[("x-user-id", "u")], body);
    assert_eq!(client.head().unwrap().unwrap().status(), 200);
    client.reset();
    left.recv_timeout(DEADLINE).expect("the upstream's connection is closed as well");
    assert_eq!(proxy.only_row("u")["outcome"], "client_aborted");
}

#[test]
fn an_early_refusal_reaches_a_client_that_is_still_sending() {
    let early = |_: &SeenRequest| Some(Reply::new(413, "too much").ending(Ending::Close).steps());
    let options = Options { early: Some(Box::new(early)), ..Options::default() };
    let upstream = Upstream::start(options, |_| panic!("the body is never read"));
    let proxy = Proxy::before(&upstream, &[]);
    let mut client = Client::connect(proxy.addr());
    client.send("POST /v1/files HTTP/1.1\r\nhost: a\r\ncontent-length: 50000000\r\n\r\n");
    let piece = vec![b'x'; 64 * 1024];
    // As a client does that looks for an answer only when it has sent all, or cannot send any more.
    for _ in 0..(50_000_000 / piece.len()) {
        if !client.try_send(&piece) {
            break;
        }
    }
    assert_eq!(client.response("POST").status, 413);
}

#[test]
fn bad_requests_are_named_and_disturb_nobody() {
    let (upstream, proxy) = scripted(&[("MAX_BODY_BYTES", "1024")], |_| Reply::new(200, "ok").steps());
    let mut other = Client::connect(proxy.addr());
    let long_user = format!("GET /v1/x HTTP/1.1\r\nhost: a\r\nx-user-id: {}\r\n\r\n", "a".repeat(129));
    let big = format!(
        "POST /v1/responses HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 2000\r\n\r\n{}",
        " ".repeat(2000)
    );
    let cases: [(&[u8], u16, &str); 16] = [
        (b"GET /v1/x HTTP/1.1\r\n\r\n", 400, "bad_request"),
        (b"GET /v1/x HTTP/1.1\nhost: a\n\n", 400, "bad_request"),
        (b"GET /v1/x HTTP/1.1\r\nhost: a\r\nhost: a\r\n\r\n", 400, "bad_request"),
        (b"GET /v1/x HTTP/1.1\r\nhost : a\r\n\r\n", 400, "bad_request"),
        (b"GET /v1/x HTTP/1.1\r\nhost: a\r\n folded\r\n\r\n", 400, "bad_request"),
        (b"POST /v1/x HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\na", 400, "bad_request"),
        (
            b"POST /v1/x HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
            400,
            "bad_request",
        ),
        (b"POST /v1/x HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip\r\n\r\n", 501, "not_implemented"),
        (b"POST /v1/x HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n", 400, "bad_request"),
        (b"GET /v1/x HTTP/1.1\r\nhost: a\r\nx-user-id: a\r\nx-user-id: b\r\n\r\n", 400, "bad_request"),
        (b"GET /v1/x HTTP/1.1\r\nhost: a\r\nx-user-id: \xff\r\n\r\n", 400, "bad_request"),
        (b"GET /v1/x HTTP/1.1\r\nhost: a\r\nx-user-id*: UTF-8''a\r\nX-User-ID: a\r\n\r\n", 400, "bad_request"),
        (b"GET /v1/x HTTP/1.1\r\nhost: a\r\nx-user-id*: ISO-8859-1''%E9\r\n\r\n", 400, "bad_request"),
        (b"CONNECT a:443 HTTP/1.1\r\nhost: a\r\n\r\n", 400, "bad_request"),
        (long_user.as_bytes(), 400, "bad_request"),
        (big.as_bytes(), 413, "body_too_large"),
    ];
    for (sent, status, code) in cases {
        let mut client = Client::connect(proxy.addr());
        client.send(sent);
        client.response("POST").expect_proxy_error(status, code);
        other.request("GET", "/v1/y", &[], b"").expect(200);
    }
    assert_eq!(upstream.requests().len(), cases.len(), "only the good ones got through");
    assert_eq!(proxy.usage("")["totals"]["requests"], cases.len(), "what was refused is not usage");
}

#[test]
fn a_users_own_limit_is_told_as_openai_tells_it() {
    let vars = [("RATE_LIMIT_RPM", "60"), ("RATE_LIMIT_BURST", "2")];
    let (upstream, proxy) = scripted(&vars, |request| {
        api::answer(request).field("x-ratelimit-limit-tokens", "30000").field("x-ratelimit-limit-requests", "5").steps()
    });
    let ask = |user: &str| post_json(proxy.addr(), "/v1/chat/completions", &[("x-user-id", user)], CHAT);
    for remaining in ["1", "0"] {
        let response = ask("greedy").expect(200);
        assert_eq!(response.head.get("x-ratelimit-limit-requests"), Some("2"));
        assert_eq!(response.head.get("x-ratelimit-remaining-requests"), Some(remaining));
        assert_eq!(response.head.get("x-ratelimit-limit-tokens"), Some("30000"), "not ours, so it passes");
    }
    let refused = ask("greedy").expect_proxy_error(429, "rate_limit_exceeded");
    let number =
        |name: &str| refused.head.get(name).and_then(|v| v.parse::<u64>().ok()).unwrap_or_else(|| panic!("{name}"));
    assert_eq!(number("retry-after"), 1);
    assert!((1..=1000).contains(&number("retry-after-ms")));
    assert_eq!(number("x-ratelimit-remaining-requests"), 0);
    assert!(refused.head.get("x-ratelimit-reset-requests").is_some());
    ask("modest").expect(200);
    assert_eq!(upstream.requests().len(), 3);
    assert_eq!(proxy.usage("user_id=greedy")["totals"]["requests"], 2);
}

#[test]
fn a_head_that_does_not_come_is_not_waited_for() {
    let (_upstream, proxy) = scripted(&[("HEADER_TIMEOUT", "200ms"), ("IDLE_TIMEOUT", "200ms")], |_| vec![]);
    let mut half = Client::connect(proxy.addr());
    half.send("GET /v1/models HTTP/1.1\r\nhost:");
    half.response("GET").expect_proxy_error(408, "header_timeout");
    assert_eq!(half.expect_end(), Ok(()));
    let mut silent = Client::connect(proxy.addr());
    assert_eq!(silent.expect_end(), Ok(()), "an idle connection is closed without a word");
}

#[test]
fn a_malformed_body_ends_the_connection_and_nothing_else() {
    let (_upstream, proxy) = scripted(&[], |_| Reply::new(200, "ok").steps());
    for body in ["5\r\nhelloX\r\n", "zz\r\n", "5;\x01\r\nhello\r\n", "-1\r\n", "ffffffffffffffffff\r\n"] {
        for kind in ["application/json", "application/octet-stream"] {
            let mut client = Client::connect(proxy.addr());
            client.send(format!(
                "POST /v1/x HTTP/1.1\r\nhost: a\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n\r\n"
            ));
            client.try_send(body);
            client.try_send(request("GET", "/healthz", &[], b""));
            client.response("POST").expect_proxy_error(400, "bad_request");
            assert!(client.expect_end().is_ok(), "{body:?} as {kind}");
        }
    }
    get(proxy.addr(), "/v1/models").expect(200);
}
