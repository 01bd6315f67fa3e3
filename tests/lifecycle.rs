//! The binary as its operator meets it: start, refusal to start, readiness, numbers, and every way to stop. Left to
//! others: a stop while the ledger is in trouble (`ledger_faults`), sockets and notes of systemd (`packaging`), SIGHUP
//! (`quotas`, `log`), `kill -9` over and over (`ledger_crash`).

#![allow(clippy::disallowed_methods)] // tests are the outside world

mod support;

use rustix::process::Signal;
use std::process::Stdio;
use std::sync::Mutex;
use support::api;
use support::client::{Client, get, post_json, response_framing};
use support::proxy::{Proxy, command, scripted};
use support::script::{Reply, Step, chunk, gate};
use support::upstream::Upstream;
use support::wire::Cut;

const CHAT: &str = r#"{"model":"gpt-4o","messages":[{"role":"user","content":"Hi"}]}"#;
const STREAM: &[u8] = br#"{"model":"gpt-4.1","input":"Hi","stream":true}"#;

#[test]
fn it_starts_with_no_configuration() {
    let proxy = Proxy::start(&[]);
    assert!(proxy.addr().ip().is_loopback());
    get(proxy.addr(), "/healthz").expect(200);
    let usage = proxy.usage("user_id=nobody");
    assert_eq!((&usage["totals"]["requests"], &usage["totals"]["cost_usd"]), (&0.into(), &0.into()));
    assert!(proxy.database().exists());
}

#[test]
fn every_problem_of_the_configuration_is_named_at_once() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(".env"), "RATE_LIMIT_RPM=many\nPORT=1\n").unwrap();
    let vars = [
        ("PORT", "65536"),
        ("PROXY_TARGET", "ftp://example.com"),
        ("TLS_CA_FILE", "not-there.pem"),
        ("RESPONSE_TIMEOUT", "soon"),
        ("OPENAI_API_KEY", "sk-a secret with spaces\u{1}"),
    ];
    let output = command(folder.path(), &vars).stderr(Stdio::piped()).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    for name in vars.map(|(name, _)| name).into_iter().chain(["RATE_LIMIT_RPM"]) {
        assert!(said.contains(name), "{name} is not named:\n{said}");
    }
    assert!(!said.contains("secret"), "{said}");
}

#[test]
fn misspelt_names_are_told() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(".env"), "LOG=warn\n\nRATE_LIMIT_RMP=5\n").unwrap();
    let output = command(folder.path(), &[]).stderr(Stdio::piped()).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert_eq!(said, "proxy-server: .env:3: unknown RATE_LIMIT_RMP; did you mean RATE_LIMIT_RPM?\n");
    // What is in the environment may be another program's.
    let mut proxy = Proxy::start(&[("OPENAI_API_KEYS", "sk-hush"), ("OPENAI_BASE_URL", "http://other")]);
    let line = proxy.wait_for_log("OPENAI_API_KEYS");
    assert!(line.contains("level=warn") && line.contains("did you mean OPENAI_API_KEY?"), "{line}");
    assert!(proxy.terminate().success());
    assert!(!proxy.stderr().contains("OPENAI_BASE_URL") && !proxy.stderr().contains("hush"), "{}", proxy.stderr());
}

#[test]
fn a_relay_that_is_open_on_the_operators_bill_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let vars = [("HOST", "0.0.0.0"), ("OPENAI_API_KEY", "sk-operator")];
    let output = command(folder.path(), &vars).stderr(Stdio::piped()).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_port_in_use_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let folder = tempfile::tempdir().unwrap();
    let output = command(folder.path(), &[("PORT", &port)]).stderr(Stdio::piped()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains(&port), "{said}");
}

#[test]
fn secrets_stay_where_they_belong() {
    let (upstream, mut proxy) = scripted(&[("OPENAI_API_KEY", "sk-operator-secret")], |request| {
        if request.target.contains("broken") { vec![Step::Close] } else { api::answer(request).steps() }
    });
    let fields = [("authorization", "Bearer sk-client-secret"), ("api-key", "azure-secret"), ("x-user-id", "visible")];
    let ask = |target: &str| post_json(proxy.addr(), target, &fields, CHAT);
    ask("/v1/chat/completions?key=query-secret").expect(200);
    ask("/v1/broken?key=query-secret").expect(502);
    let (usage, metrics) = (proxy.usage("").to_string(), format!("{:?}", proxy.metrics()));
    assert!(proxy.terminate().success());
    for (place, text) in [("stderr", proxy.stderr()), ("/usage", usage), ("/metrics", metrics)] {
        assert!(!text.contains("secret"), "{place}: {text}");
    }
    let mut found = false;
    for file in std::fs::read_dir(proxy.folder()).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        assert!(!bytes.windows(6).any(|w| w == b"secret"), "the ledger has no secret");
        found |= bytes.windows(7).any(|w| w == b"visible");
    }
    assert!(found, "but it was these files that were written");
    assert_eq!(upstream.requests()[0].head.get("authorization"), Some("Bearer sk-operator-secret"));
}

#[test]
fn the_metrics_sum_to_what_usage_says() {
    let (_upstream, proxy) = scripted(&[], |request| api::answer(request).steps());
    let users = ["plain", "with \"quotes\" and \\", "太郎", "a,b={c}"];
    for (n, user) in users.iter().enumerate() {
        let fields = [("x-user-id", *user)];
        for _ in 0..=n {
            post_json(proxy.addr(), "/v1/chat/completions", &fields, CHAT).expect(200);
        }
        let streamed = post_json(proxy.addr(), "/v1/responses", &fields, std::str::from_utf8(STREAM).unwrap());
        assert!(streamed.expect(200).text().contains("response.completed"));
        post_json(proxy.addr(), "/v1/embeddings", &fields, r#"{"model":"text-embedding-3-small","input":"x"}"#)
            .expect(200);
        post_json(proxy.addr(), "/v1/chat/completions", &fields, r#"{"model":"missing"}"#).expect(404);
        get(proxy.addr(), "/v1/models").expect(200);
    }
    let metrics = proxy.metrics();
    let sum = |name: &str, label: &str| -> f64 {
        let matches = |key: &str| key.split('{').next() == Some(name) && key.contains(label);
        metrics.iter().filter(|(key, _)| matches(key)).map(|(_, value)| value).sum()
    };
    let usage = proxy.usage("");
    let totals = |name: &str| usage["totals"][name].as_f64().unwrap();
    assert_eq!(totals("requests"), 26.0);
    assert_eq!(sum("openai_proxy_requests_total", ""), totals("requests"));
    assert_eq!(sum("openai_proxy_requests_total", "status=\"404\""), totals("errors"));
    for (kind, name) in [
        ("input", "input_tokens"),
        ("cached_input", "cached_input_tokens"),
        ("output", "output_tokens"),
        ("reasoning", "reasoning_tokens"),
    ] {
        assert_eq!(sum("openai_proxy_tokens_total", &format!("type=\"{kind}\"")), totals(name), "{kind}");
        assert!(totals(name) > 0.0, "{kind}");
    }
    let cost = sum("openai_proxy_cost_usd_total", "");
    assert!(cost > 0.0 && (cost - totals("cost_usd")).abs() < 1e-9, "{cost} and {}", totals("cost_usd"));
    let of_users: u64 = users
        .iter()
        .map(|user| proxy.usage(&format!("user_id={}", encoded(user))))
        .map(|u| u["totals"]["requests"].as_u64().unwrap())
        .sum();
    assert_eq!(of_users, 22, "and the models were listed by nobody in particular");
    assert!(metrics.keys().any(|key| key.contains(r#"user="with \"quotes\" and \\""#)), "{metrics:?}");
}

fn encoded(text: &str) -> String {
    text.bytes().map(|b| format!("%{b:02x}")).collect()
}

#[test]
fn local_answers_have_their_methods_and_their_errors() {
    let (upstream, proxy) = scripted(&[], |_| Reply::new(200, "").steps());
    while get(proxy.addr(), "/readyz").status == 503 {
        std::thread::yield_now(); // the target's name is still being looked up
    }
    for target in ["/healthz", "/readyz", "/metrics", "/usage"] {
        get(proxy.addr(), target).expect(200);
        assert_eq!(Client::connect(proxy.addr()).request("HEAD", target, &[], b"").expect(200).body, b"");
        post_json(proxy.addr(), target, &[], "{}").expect_proxy_error(405, "method_not_allowed");
    }
    for query in ["limit=0", "limit=1001", "from=yesterday-ish", "unheard=of", "cursor=%00"] {
        let refused = get(proxy.addr(), &format!("/usage?{query}")).expect_proxy_error(400, "bad_request");
        let name = query.split('=').next().unwrap();
        assert!(refused.json()["error"]["message"].as_str().unwrap().contains(name), "{}", refused.text());
    }
    assert_eq!(upstream.requests().len(), 0);
}

#[test]
fn what_a_client_has_received_is_in_the_ledger_after_kill_9() {
    let (upstream, proxy) = scripted(&[], |request| api::answer(request).steps());
    let mut client = Client::connect(proxy.addr());
    for _ in 0..5 {
        client.request("POST", "/v1/chat/completions", &[("x-user-id", "u")], CHAT.as_bytes()).expect(200);
    }
    let folder = proxy.into_folder();
    let target = upstream.url();
    let proxy = Proxy::start_in(folder, &[("PROXY_TARGET", &target)]);
    let totals = &proxy.usage("user_id=u")["totals"];
    assert_eq!((&totals["requests"], &totals["input_tokens"]), (&5.into(), &95.into()));
}

/// A stream in the middle: the first event has reached the client, the rest waits at the gate.
struct InFlight {
    upstream: Upstream,
    proxy: Proxy,
    client: Client,
    framing: support::wire::Framing,
    gate: std::sync::mpsc::Sender<()>,
}

const FIRST: &[u8] =
    b"event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"usage\":null}}\n\n";

fn in_flight(vars: &[(&str, &str)]) -> InFlight {
    let (gate, wait) = gate();
    let last = format!(
        "event: response.completed\ndata: {{\"type\":\"response.completed\",\"response\":{{\"usage\":{}}}}}\n\n",
        api::response_usage()
    );
    let end = [chunk(last.as_bytes()), b"0\r\n\r\n".to_vec()].concat();
    let start = [Reply::sse("").head(), chunk(FIRST)].concat();
    let steps = Mutex::new(Some(vec![Step::Send(start), wait, Step::Send(end)]));
    let (upstream, proxy) = scripted(vars, move |_| steps.lock().unwrap().take().unwrap());
    let mut client = Client::connect(proxy.addr());
    client.send_request("POST", "/v1/responses", &[("x-user-id", "u")], STREAM);
    let head = client.head().unwrap().unwrap();
    let mut framing = response_framing("POST", &head).unwrap();
    let mut got = Vec::new();
    while got.len() < FIRST.len() {
        got.extend(client.body_piece(&mut framing).unwrap().expect("the stream goes on"));
    }
    InFlight { upstream, proxy, client, framing, gate }
}

impl InFlight {
    /// Reads the stream to its end.
    fn rest(&mut self) -> Result<Vec<u8>, Cut> {
        let mut rest = Vec::new();
        while let Some(piece) = self.client.body_piece(&mut self.framing)? {
            rest.extend(piece);
        }
        Ok(rest)
    }

    /// What the ledger says after the next start.
    fn row_afterwards(self) -> serde_json::Value {
        let target = self.upstream.url();
        let proxy = Proxy::start_in(self.proxy.into_folder(), &[("PROXY_TARGET", &target)]);
        let usage = proxy.usage("user_id=u");
        assert_eq!(usage["totals"]["requests"], 1, "one request, one record");
        usage["data"][0].clone()
    }
}

#[test]
fn a_stream_may_finish_after_sigterm() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut flight = in_flight(&[]);
        let addr = flight.proxy.addr();
        let mut idle = Client::connect(addr);
        idle.request("GET", "/healthz", &[], b"").expect(200);
        flight.proxy.signal(signal);
        assert_eq!(idle.expect_end(), Ok(()), "idle connections are closed");
        flight.gate.send(()).unwrap();
        let rest = flight.rest().unwrap();
        assert!(rest.ends_with(b"\n\n") && rest.starts_with(b"event: response.completed"));
        assert!(flight.proxy.wait().success());
        let row = flight.row_afterwards();
        assert_eq!((&row["outcome"], &row["output_tokens"]), (&"completed".into(), &87.into()));
    }
}

#[test]
fn a_second_signal_stops_at_once() {
    let mut flight = in_flight(&[]);
    let mut idle = Client::connect(flight.proxy.addr());
    idle.request("GET", "/healthz", &[], b"").expect(200);
    flight.proxy.signal(Signal::TERM);
    assert_eq!(idle.expect_end(), Ok(()), "the first signal has arrived");
    flight.proxy.signal(Signal::TERM);
    assert!(matches!(flight.rest(), Err(Cut::Closed | Cut::Reset)), "the stream is cut, not ended");
    flight.proxy.wait();
    assert_eq!(flight.row_afterwards()["outcome"], "interrupted");
}

#[test]
fn draining_does_not_last_for_ever() {
    let mut flight = in_flight(&[("DRAIN_TIMEOUT", "200ms")]);
    flight.proxy.terminate();
    assert!(matches!(flight.rest(), Err(Cut::Closed | Cut::Reset)));
    assert_eq!(flight.row_afterwards()["outcome"], "interrupted");
}

#[test]
fn a_stop_that_is_announced_serves_on_until_it_comes() {
    let (upstream, mut proxy) = scripted(&[("SHUTDOWN_DELAY", "10m")], |request| api::answer(request).steps());
    let mut open = Client::connect(proxy.addr());
    open.request("POST", "/v1/chat/completions", &[], CHAT.as_bytes()).expect(200);
    proxy.signal(Signal::TERM);
    let start = std::time::Instant::now();
    while get(proxy.addr(), "/readyz").text() != "stopping soon: requests are still served\n" {
        assert!(start.elapsed() < support::DEADLINE, "nobody is told");
    }
    get(proxy.addr(), "/readyz").expect(503);
    get(proxy.addr(), "/healthz").expect(200);
    let mut new = Client::connect(proxy.addr());
    for client in [&mut open, &mut new] {
        for _ in 0..2 {
            let answer = client.request("POST", "/v1/chat/completions", &[], CHAT.as_bytes()).expect(200);
            assert_eq!(answer.head.get("connection"), None, "connections are kept as before");
        }
    }
    assert_eq!(upstream.requests().len(), 5);
    proxy.signal(Signal::TERM);
    assert!(proxy.wait().success(), "a second signal does not wait");
}

#[test]
fn after_the_delay_it_drains() {
    let mut flight = in_flight(&[("SHUTDOWN_DELAY", "100ms")]);
    let mut idle = Client::connect(flight.proxy.addr());
    idle.request("GET", "/healthz", &[], b"").expect(200);
    flight.proxy.signal(Signal::TERM);
    assert_eq!(idle.expect_end(), Ok(()), "idle connections are closed, in the end");
    flight.gate.send(()).unwrap();
    assert!(flight.rest().unwrap().starts_with(b"event: response.completed"));
    assert!(flight.proxy.wait().success());
    assert_eq!(flight.row_afterwards()["outcome"], "completed");
}

#[test]
fn every_address_is_of_both_families() {
    for (host, families, reached) in [
        ("::", "families=\"IPv4 and IPv6\"", &["127.0.0.1", "::1"][..]),
        ("0.0.0.0", "families=IPv4 ", &["127.0.0.1"]),
        ("::1", "families=IPv6 ", &["::1"]),
    ] {
        let proxy = Proxy::start(&[("HOST", host)]);
        assert!(proxy.wait_for_log("msg=listening").contains(families), "{}", proxy.stderr());
        for address in reached {
            get((address.parse::<std::net::IpAddr>().unwrap(), proxy.addr().port()).into(), "/healthz").expect(200);
        }
    }
}
