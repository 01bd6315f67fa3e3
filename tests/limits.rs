//! The request limit of each user, and the caps on bodies: exactly as many pass as are allowed, and what is refused
//! takes nothing, leaves no record and disturbs nobody. Left to others: tokens, money and requests in flight
//! (`quotas`), limits of one user's own (`keys`), all bodies together (`bounds`), the arithmetic (beside `src/limit`).

#![allow(clippy::disallowed_methods)] // tests are the outside world

mod support;

use rusqlite::Connection;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use support::DEADLINE;
use support::client::{Client, Response, get, post_json, request};
use support::proxy::Proxy;
use support::script::{Reply, Step};
use support::upstream::Upstream;

const CHAT: &str = "/v1/chat/completions";
const JSON: (&str, &str) = ("content-type", "application/json");

/// One request a minute flows in: within a test as good as none, so that all counts are exact.
fn limited(upstream: &Upstream, burst: &str, more: &[(&str, &str)]) -> Proxy {
    let url = upstream.url();
    let vars = [("PROXY_TARGET", url.as_str()), ("RATE_LIMIT_RPM", "1"), ("RATE_LIMIT_BURST", burst)];
    Proxy::start(&[&vars, more].concat())
}

fn plain() -> Upstream {
    Upstream::plain(|_| Reply::json(r#"{"model":"m","usage":{"prompt_tokens":1,"total_tokens":1}}"#).steps())
}

fn ask(proxy: &Proxy, user: &str) -> Response {
    post_json(proxy.addr(), CHAT, &[("x-user-id", user)], r#"{"model":"m"}"#)
}

fn remaining(response: &Response) -> u64 {
    response.head.get("x-ratelimit-remaining-requests").expect("the user's status").parse().unwrap()
}

fn recorded(proxy: &Proxy) -> Value {
    proxy.usage("")["totals"]["requests"].clone()
}

/// Milliseconds of a duration as Go writes it.
fn milliseconds(text: &str) -> f64 {
    let (mut total, mut number) = (0.0, String::new());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if c.is_ascii_digit() || c == '.' {
            number.push(c);
            rest = &rest[1..];
            continue;
        }
        let (unit, length) = match rest {
            _ if rest.starts_with("ms") => (1.0, 2),
            _ if rest.starts_with('s') => (1e3, 1),
            _ if rest.starts_with('m') => (60e3, 1),
            _ if rest.starts_with('h') => (3600e3, 1),
            _ => panic!("not a duration: {text}"),
        };
        total += unit * number.parse::<f64>().unwrap_or_else(|_| panic!("not a duration: {text}"));
        number.clear();
        rest = &rest[length..];
    }
    assert!(number.is_empty() && !text.is_empty(), "not a duration: {text}");
    total
}

#[test]
fn exactly_the_burst_passes_under_concurrency() {
    let upstream = plain();
    let proxy = limited(&upstream, "50", &[]);
    let (passed, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..8 {
            let (proxy, passed, refused) = (&proxy, &passed, &refused);
            scope.spawn(move || {
                let mut client = Client::connect(proxy.addr());
                for n in 0..25 {
                    // Held and streamed bodies, and none, take the same.
                    let (method, target, body) =
                        [("POST", CHAT, "{}"), ("POST", "/v1/files", "x"), ("GET", "/x", "")][n % 3];
                    let fields = [JSON, ("x-user-id", "a")];
                    let response = client.request(method, target, &fields, body.as_bytes());
                    let count = if response.status == 200 { passed } else { refused };
                    count.fetch_add(1, Ordering::Relaxed);
                    if response.status != 200 {
                        response.expect_proxy_error(429, "rate_limit_exceeded");
                    }
                }
            });
        }
    });
    assert_eq!((passed.into_inner(), refused.into_inner()), (50, 150));
    assert_eq!(upstream.requests().len(), 50);
    assert_eq!(recorded(&proxy), json!(50), "what is refused leaves no record");
    ask(&proxy, "b").expect(200);
    post_json(proxy.addr(), CHAT, &[], "{}").expect(200);
    ask(&proxy, "a").expect_proxy_error(429, "rate_limit_exceeded");
    assert_eq!(recorded(&proxy), json!(52), "users have buckets of their own, the one without a name too");
    let limited = proxy.metrics();
    let key = limited.keys().find(|key| key.starts_with("openai_proxy_rate_limited_total") && key.contains("\"a\""));
    assert_eq!(limited[key.expect("a series for the user")], 151.0);
}

#[test]
fn pipelined_requests_are_answered_in_order_around_refusals() {
    let upstream = plain();
    let proxy = limited(&upstream, "10", &[]);
    let mut client = Client::connect(proxy.addr());
    let mut all = Vec::new();
    for n in 0..30 {
        // Refused with a body behind it, the next request still begins where it does.
        let head = format!("POST /v1/embeddings?n={n} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n");
        all.extend_from_slice(head.as_bytes());
        let body: &[u8] = if n % 2 == 0 {
            b"content-length: 13\r\n\r\n{\"model\":\"m\"}"
        } else {
            b"transfer-encoding: chunked\r\n\r\n5\r\n{\"mod\r\n8\r\nel\":\"m\"}\r\n0\r\n\r\n"
        };
        all.extend_from_slice(body);
    }
    all.extend_from_slice(&request("GET", "/healthz", &[], b""));
    client.send(all);
    for n in 0..30u64 {
        let response = client.response("POST");
        assert_eq!(response.status, if n < 10 { 200 } else { 429 }, "request {n}");
        assert_eq!(remaining(&response), 9u64.saturating_sub(n));
    }
    assert_eq!(client.response("GET").expect(200).text(), "ok\n");
    let seen: Vec<String> = upstream.requests().into_iter().map(|request| request.target).collect();
    assert_eq!(seen, (0..10).map(|n| format!("/v1/embeddings?n={n}")).collect::<Vec<_>>());
    assert!(upstream.requests().iter().all(|request| request.body == b"{\"model\":\"m\"}"));
}

#[test]
fn a_refusal_says_when_to_come_again() {
    let upstream = plain();
    let url = upstream.url();
    let vars = [("PROXY_TARGET", url.as_str()), ("RATE_LIMIT_RPM", "12"), ("RATE_LIMIT_BURST", "2")];
    let proxy = Proxy::start(&vars);
    for left in [1, 0] {
        let response = ask(&proxy, "a").expect(200);
        assert_eq!(response.head.get("x-ratelimit-limit-requests"), Some("2"));
        assert_eq!(remaining(&response), left);
        let reset = milliseconds(response.head.get("x-ratelimit-reset-requests").unwrap());
        let full = 5_000.0 * (2 - left) as f64;
        assert!(reset > 0.0 && reset <= full, "{reset} of {full}");
        assert_eq!((response.head.get("retry-after"), response.head.get("retry-after-ms")), (None, None));
    }
    let refused = ask(&proxy, "a").expect_proxy_error(429, "rate_limit_exceeded");
    assert_eq!(remaining(&refused), 0);
    assert_eq!(refused.head.get("x-ratelimit-limit-requests"), Some("2"));
    let whole: u64 = refused.head.get("retry-after").unwrap().parse().unwrap();
    let exact: u64 = refused.head.get("retry-after-ms").unwrap().parse().unwrap();
    assert!((1..=5_000).contains(&exact) && whole == exact.div_ceil(1000), "{whole} s, {exact} ms");
    let reset = milliseconds(refused.head.get("x-ratelimit-reset-requests").unwrap());
    assert!(reset >= exact as f64 && reset <= 10_000.0, "full later than one: {reset}");
    assert!(refused.json()["error"]["message"].as_str().unwrap().contains("12 per minute"));
    // Whoever waits as told is let in.
    thread::sleep(Duration::from_millis(exact));
    ask(&proxy, "a").expect(200);
}

#[test]
fn the_upstreams_own_limits_pass_beside_ours() {
    let upstream = Upstream::plain(|request| {
        let reply = if request.json()["stream"] == true {
            Reply::sse("data: {\"choices\":[1]}\n\ndata: [DONE]\n\n")
        } else {
            Reply::json("{}")
        };
        let reply = reply.field("x-ratelimit-limit-requests", "7").field("X-RateLimit-Remaining-Requests", "6");
        let reply = reply.field("x-ratelimit-reset-requests", "1ms").field("x-ratelimit-limit-tokens", "40");
        reply.field("x-ratelimit-remaining-tokens", "39").field("x-ratelimit-reset-tokens", "2ms").steps()
    });
    let ours = limited(&upstream, "5", &[]);
    let unlimited = Proxy::start(&[("PROXY_TARGET", &upstream.url()), ("RATE_LIMIT_RPM", "0")]);
    for (n, body) in [r#"{"model":"m"}"#, r#"{"model":"m","stream":true}"#].iter().enumerate() {
        let theirs = post_json(unlimited.addr(), CHAT, &[], body).expect(200);
        assert_eq!(theirs.head.get("x-ratelimit-limit-requests"), Some("7"));
        assert_eq!(theirs.head.get("x-ratelimit-remaining-requests"), Some("6"));
        assert_eq!(theirs.head.get("x-ratelimit-reset-requests"), Some("1ms"));
        let mixed = post_json(ours.addr(), CHAT, &[], body).expect(200);
        assert_eq!(mixed.head.get("x-ratelimit-limit-requests"), Some("5"));
        assert_eq!(remaining(&mixed), 4 - n as u64);
        for response in [theirs, mixed] {
            assert_eq!(response.head.get("x-ratelimit-limit-tokens"), Some("40"));
            assert_eq!(response.head.get("x-ratelimit-remaining-tokens"), Some("39"));
            assert_eq!(response.head.get("x-ratelimit-reset-tokens"), Some("2ms"));
        }
    }
    let upstream = plain();
    let unlimited = Proxy::start(&[("PROXY_TARGET", &upstream.url()), ("RATE_LIMIT_RPM", "0")]);
    let response = ask(&unlimited, "a").expect(200);
    assert!(!response.head.fields.iter().any(|(name, _)| name.starts_with("x-ratelimit")), "{:?}", response.head);
}

#[test]
fn what_is_refused_for_another_reason_takes_nothing() {
    let upstream = plain();
    let proxy = limited(&upstream, "3", &[("MAX_BODY_BYTES", "1024")]);
    let mine = [JSON, ("x-user-id", "a")];
    let large = [b'x'; 1025];
    for _ in 0..4 {
        Client::connect(proxy.addr()).request("POST", CHAT, &mine, &large).expect_proxy_error(413, "body_too_large");
        let chunked = |body: &str| {
            let mut client = Client::connect(proxy.addr());
            let head = "content-type: application/json\r\nx-user-id: a\r\ntransfer-encoding: chunked\r\n\r\n";
            client.send(format!("POST {CHAT} HTTP/1.1\r\nhost: a\r\n{head}{body}"));
            client.response("POST")
        };
        chunked(&format!("401\r\n{}\r\n0\r\n\r\n", "x".repeat(1025))).expect_proxy_error(413, "body_too_large");
        chunked("x\r\n").expect_proxy_error(400, "bad_request");
        let twice = [("x-user-id", "a"), ("x-user-id", "a")];
        Client::connect(proxy.addr()).request("GET", "/x", &twice, b"").expect_proxy_error(400, "bad_request");
        Client::connect(proxy.addr())
            .request("PUT", "/usage", &mine, b"")
            .expect_proxy_error(405, "method_not_allowed");
        Client::connect(proxy.addr()).request("GET", "/usage?x=1", &mine, b"").expect_proxy_error(400, "bad_request");
    }
    assert_eq!((upstream.requests().len(), recorded(&proxy)), (0, json!(0)));
    assert_eq!(remaining(&ask(&proxy, "a").expect(200)), 2);
}

#[test]
fn an_error_of_the_upstreams_takes_one_and_says_so() {
    let upstream = Upstream::plain(|_| vec![Step::Send(b"nonsense\r\n\r\n".to_vec())]);
    let proxy = limited(&upstream, "2", &[]);
    let response = ask(&proxy, "a").expect_proxy_error(502, "upstream_protocol");
    assert_eq!((remaining(&response), recorded(&proxy)), (1, json!(1)));
}

#[test]
fn a_request_takes_its_place_with_its_head_and_gives_it_back_without_its_body() {
    let upstream = plain();
    let proxy = limited(&upstream, "1", &[]);
    let head = format!("POST {CHAT} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n");
    let begin = |user: &str| {
        let mut client = Client::connect(proxy.addr());
        client.send(format!("{head}x-user-id: {user}\r\ncontent-length: 13\r\n\r\n{{\"model\":"));
        client
    };
    let wait_for = |in_flight: f64| {
        let start = Instant::now();
        while proxy.metrics()["openai_proxy_requests_in_flight"] != in_flight {
            assert!(start.elapsed() < DEADLINE, "not {in_flight} in flight");
        }
    };
    for (round, leave) in [Client::reset as fn(Client), drop].into_iter().enumerate() {
        let user = format!("gone-{round}");
        let client = begin(&user);
        wait_for(1.0);
        leave(client);
        wait_for(0.0);
        ask(&proxy, &user).expect(200);
        ask(&proxy, &user).expect_proxy_error(429, "rate_limit_exceeded");
    }
    let mut first = begin("late");
    wait_for(1.0);
    let mut second = begin("late");
    second.response("POST").expect_proxy_error(429, "rate_limit_exceeded");
    first.send("\"m\"}");
    first.response("POST").expect(200);
    second.send("\"m\"}");
    second.request("POST", CHAT, &[JSON, ("x-user-id", "other")], b"{}").expect(200);
    assert_eq!((upstream.requests().len(), recorded(&proxy)), (4, json!(4)));
}

#[test]
fn a_connection_survives_a_refusal_with_a_small_body() {
    let upstream = plain();
    let proxy = limited(&upstream, "1", &[]);
    ask(&proxy, "a").expect(200);
    let fields = [JSON, ("x-user-id", "a")];
    let mut client = Client::connect(proxy.addr());
    for body_bytes in [0, 1, 1000, 200_000] {
        let refused = client.request("POST", CHAT, &fields, &vec![b'x'; body_bytes]);
        let refused = refused.expect_proxy_error(429, "rate_limit_exceeded");
        assert_eq!(refused.head.get("connection"), None);
    }
    let head = client.request("HEAD", "/x", &fields, b"").expect(429);
    assert!(head.body.is_empty() && head.head.get("content-length") != Some("0"));
    // The refusal is there before the body, which may be long in coming.
    client.send(format!("POST {CHAT} HTTP/1.1\r\nhost: a\r\nx-user-id: a\r\ncontent-length: 5\r\n\r\n12"));
    client.response("POST").expect_proxy_error(429, "rate_limit_exceeded");
    client.send("345");
    client.request("GET", "/healthz", &[], b"").expect(200);

    // A large body is not worth reading.
    client.send(format!("POST {CHAT} HTTP/1.1\r\nhost: a\r\nx-user-id: a\r\ncontent-length: 300000\r\n\r\n"));
    client.try_send([b'x'; 1000]);
    let refused = client.response("POST").expect_proxy_error(429, "rate_limit_exceeded");
    assert_eq!(refused.head.get("connection"), Some("close"));
    assert_eq!(client.expect_end(), Ok(()));
}

#[test]
fn bodies_are_capped_exactly_where_they_are_held() {
    let upstream = plain();
    let proxy = Proxy::start(&[("PROXY_TARGET", &upstream.url()), ("MAX_BODY_BYTES", "2048")]);
    let chunked = |target: &str, sizes: &[usize]| {
        let chunks: String = sizes.iter().map(|size| format!("{size:x}\r\n{}\r\n", "x".repeat(*size))).collect();
        let mut client = Client::connect(proxy.addr());
        let head = format!("POST {target} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n");
        client.send(format!("{head}transfer-encoding: chunked\r\n\r\n{chunks}0\r\n\r\n"));
        client.response("POST")
    };
    for (bytes, passes) in [(2047, true), (2048, true), (2049, false), (5000, false)] {
        let body = vec![b'x'; bytes];
        let by_length = Client::connect(proxy.addr()).request("POST", CHAT, &[JSON], &body);
        for response in [by_length, chunked(CHAT, &[bytes]), chunked(CHAT, &[1000, bytes - 1000])] {
            if passes {
                response.expect(200);
            } else {
                response.expect_proxy_error(413, "body_too_large");
            }
        }
        // What streams through has no need of a cap.
        Client::connect(proxy.addr()).request("POST", "/v1/files", &[JSON], &body).expect(200);
        chunked("/v1/files", &[bytes]).expect(200);
        let form = ("content-type", "multipart/form-data; boundary=x");
        Client::connect(proxy.addr()).request("POST", "/v1/audio/transcriptions", &[form], &body).expect(200);
    }
    assert_eq!(upstream.requests().iter().filter(|request| request.target == CHAT).count(), 2 * 3);
}

#[test]
fn local_endpoints_are_not_limited() {
    let upstream = plain();
    let proxy = limited(&upstream, "1", &[]);
    ask(&proxy, "a").expect(200);
    ask(&proxy, "a").expect_proxy_error(429, "rate_limit_exceeded");
    let mut client = Client::connect(proxy.addr());
    for _ in 0..20 {
        for target in ["/healthz", "/readyz", "/metrics", "/usage?user_id=a"] {
            let response = client.request("GET", target, &[("x-user-id", "a")], b"").expect(200);
            assert_eq!(response.head.get("x-ratelimit-limit-requests"), None);
        }
    }
}

/// Another process holds the database: requests go on until no more records can be kept, then they are refused before
/// they cost anything; and all is recorded once the ledger works again.
#[test]
fn a_full_ledger_refuses_at_the_door_and_takes_nothing() {
    const CLIENTS: usize = 20;
    let upstream = plain();
    let url = upstream.url();
    let vars = [("PROXY_TARGET", url.as_str()), ("RATE_LIMIT_RPM", "1"), ("RATE_LIMIT_BURST", "20000")];
    let more = [("MAX_CONNECTIONS", "24"), ("LEDGER_WAIT", "1ms")];
    let proxy = Proxy::start(&[&vars[..], &more].concat());
    ask(&proxy, "a").expect(200);
    let intruder = Connection::open(proxy.database()).unwrap();
    intruder.execute_batch("BEGIN IMMEDIATE").unwrap();
    let (passed, refused) = (AtomicUsize::new(1), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            let (proxy, passed, refused) = (&proxy, &passed, &refused);
            scope.spawn(move || {
                let mut client = Client::connect(proxy.addr());
                loop {
                    let response = client.request("POST", CHAT, &[JSON, ("x-user-id", "a")], b"{}");
                    if response.status != 200 {
                        let response = response.expect_proxy_error(503, "ledger_unavailable");
                        assert_eq!(response.head.get("retry-after"), Some("1"));
                        break refused.fetch_add(1, Ordering::Relaxed);
                    }
                    passed.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    let passed = passed.into_inner();
    assert_eq!(refused.into_inner(), CLIENTS);
    assert_eq!(upstream.requests().len(), passed, "what was refused never reached the upstream");
    get(proxy.addr(), "/readyz").expect(503);
    drop(intruder);
    let start = Instant::now();
    let last = loop {
        let response = ask(&proxy, "a");
        if response.status == 200 {
            break response;
        }
        assert!(start.elapsed() < DEADLINE, "it does not recover");
    };
    assert_eq!(remaining(&last), 20_000 - passed as u64 - 1, "what was refused took nothing");
    while recorded(&proxy) != json!(passed + 1) {
        assert!(start.elapsed() < DEADLINE, "{} of {} are recorded", recorded(&proxy), passed + 1);
    }
    println!("{passed} requests passed before the ledger was full");
}

/// The reading of durations above can fail.
#[test]
fn durations_are_read_as_go_writes_them() {
    for (text, expected) in [("0s", 0.0), ("6ms", 6.0), ("8.64s", 8640.0), ("1m0s", 60e3), ("1h8m25.745s", 4_105_745.0)]
    {
        assert_eq!(milliseconds(text), expected);
    }
    for text in ["5", "", "s", "1x"] {
        assert!(std::panic::catch_unwind(|| milliseconds(text)).is_err(), "{text:?}");
    }
}
