//! Real traffic through the binary: every recorded exchange of OpenAI, Azure and compatible servers, in the order in
//! which they were recorded, over TLS and with the response cut at random places. Left to others: recorded WebSocket
//! sessions (`realtime/recorded`), what no server was recorded to send (`traps`, `smuggling`).
//!
//! The client gets the recorded bytes, and the ledger the recorded usage: once, however often it was looked at.

mod support;

use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use support::ca::{Ca, Server};
use support::client::{Client, Response};
use support::proxy::Proxy;
use support::recordings::{self, Exchange};
use support::rng::Rng;
use support::script::{Ending, Reply, Step, chunk};
use support::upstream::{SeenRequest, Upstream};
use support::usage::columns;

const OPERATIONS: [&str; 16] = [
    "chat/completions",
    "completions",
    "responses",
    "responses/compact",
    "embeddings",
    "audio/transcriptions",
    "audio/translations",
    "audio/speech",
    "images/generations",
    "images/edits",
    "images/variations",
    "moderations",
    "messages",
    "threads/runs",
    "api/chat",
    "api/generate",
];
/// Where a base path other than `/v1` stands before the operation.
const PREFIXES: [&str; 7] =
    ["/v1/", "/api/paas/v4/", "/nebius/v1/", "/novita/v3/openai/", "/proxy/openai/", "/together/v1/", "/"];
/// Lines of the second file count from here.
const COMPATIBLE_FROM: usize = 10_000;
/// Streams of servers (Novita, Together) that report usage although nobody asked, in the very form in which others
/// answer when asked. The proxy asks, so it cannot tell one from the other, and takes it out: the client gets what it
/// would get from a server that reports only when asked.
const REPORT_UNASKED: [usize; 2] = [COMPATIBLE_FROM + 252, COMPATIBLE_FROM + 304];

type Exchanges = Arc<BTreeMap<usize, Exchange>>;

/// What looks again at something that may have been counted before, or leads it on.
const RETRIEVALS: [(&str, &str); 9] = [
    ("GET /v1/responses/{id}", "responses/retrieve"),
    ("POST /v1/responses/{id}/cancel", "responses/retrieve"),
    ("GET /v1/threads/{id}/runs/{id}", "threads/runs/retrieve"),
    ("POST /v1/threads/{id}/runs/{id}", "threads/runs/retrieve"),
    ("POST /v1/threads/{id}/runs/{id}/cancel", "threads/runs/retrieve"),
    ("POST /v1/threads/{id}/runs/{id}/submit_tool_outputs", "threads/runs/retrieve"),
    ("POST /v1/batches", "batches"),
    ("GET /v1/batches/{id}", "batches"),
    ("POST /v1/batches/{id}/cancel", "batches"),
];

/// The operation that an exchange asks for, as the ledger calls it.
fn operation(exchange: &Exchange) -> &'static str {
    if let Some((_, retrieval)) = RETRIEVALS.iter().find(|(endpoint, _)| *endpoint == exchange.endpoint) {
        return retrieval;
    }
    let creation = exchange.endpoint.strip_prefix("POST ").and_then(|path| {
        let path = path.replace("/threads/{id}/runs", "/threads/runs");
        let rest = PREFIXES.iter().find_map(|prefix| path.strip_prefix(prefix))?;
        OPERATIONS.into_iter().find(|operation| *operation == rest)
    });
    creation.unwrap_or("other")
}

fn is_retrieval(exchange: &Exchange) -> bool {
    RETRIEVALS.iter().any(|(endpoint, _)| *endpoint == exchange.endpoint)
}

/// The id of the response that an exchange is about.
fn response_id(exchange: &Exchange) -> Option<String> {
    let (path, body) = (&exchange.path, String::from_utf8_lossy(&exchange.response_body));
    let text = if is_retrieval(exchange) { path.as_str() } else { &body };
    let start = text.find("resp_")?;
    Some(text[start..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect())
}

/// Lines of responses that were only queued, with the usage that the first look at them brings: a correction.
fn told_later(exchanges: &BTreeMap<usize, Exchange>) -> BTreeMap<usize, Value> {
    let mut queued = BTreeMap::new();
    let mut told = BTreeMap::new();
    for exchange in exchanges.values() {
        let Some(id) = response_id(exchange) else { continue };
        match &exchange.usage {
            None if operation(exchange) == "responses" => _ = queued.insert(id, exchange.line),
            Some(usage) if is_retrieval(exchange) => told.extend(queued.remove(&id).map(|line| (line, usage.clone()))),
            _ => {}
        }
    }
    told
}

/// Lines whose usage an earlier line has brought already, or counts: looking at a response again adds nothing.
fn repeated(exchanges: &BTreeMap<usize, Exchange>) -> BTreeSet<usize> {
    let told = told_later(exchanges);
    let mut counted: BTreeSet<_> = told.keys().filter_map(|line| response_id(&exchanges[line])).collect();
    let reporting = exchanges.values().filter(|e| e.usage.is_some());
    reporting
        .filter_map(|e| {
            let is_new = counted.insert(response_id(e)?);
            (is_retrieval(e) && !is_new).then_some(e.line)
        })
        .collect()
}

/// Images that an answer brings, which is what older models report.
fn images(exchange: &Exchange) -> u64 {
    let answer = || serde_json::from_slice::<Value>(&exchange.response_body).ok();
    let count = |answer: Value| answer["data"].as_array().map_or(0, Vec::len) as u64;
    if operation(exchange).starts_with("images/") { answer().map_or(0, count) } else { 0 }
}

/// The recorded exchanges by line; `None`, said aloud, where there are no recordings.
fn exchanges() -> Option<Exchanges> {
    let (Some(openai), Some(compatible)) =
        (recordings::read("openai.jsonl.gz"), recordings::read("compatible.jsonl.gz"))
    else {
        support::skip("no recorded traffic beside the project (shared/recorded/*.jsonl.gz)");
        return None;
    };
    let compatible = compatible.into_iter().map(|e| Exchange { line: e.line + COMPATIBLE_FROM, ..e });
    let all: BTreeMap<_, _> = openai.into_iter().chain(compatible).map(|e| (e.line, e)).collect();
    assert!(all.len() > 1400, "only {} exchanges were found", all.len());
    Some(Arc::new(all))
}

/// A request for a stream that does not ask for usage: the proxy asks on its behalf.
fn is_asked_for(exchange: &Exchange) -> bool {
    let asks = |request: Value| request["stream"] == true && request.get("stream_options").is_none();
    exchange.endpoint.ends_with("completions") && asks(exchange.request_json())
}

/// The usage that the exchange reports: as recorded, or made up where the recording has none because nobody had asked.
fn reported_usage(exchange: &Exchange) -> Option<Value> {
    let made_up = || (adds_usage(exchange) && is_asked_for(exchange)).then(|| made_up_usage(exchange.line));
    exchange.usage.clone().or_else(made_up)
}

/// A whole stream without usage: had it been asked for, it would be there. A stream that ends in an error has none.
fn adds_usage(exchange: &Exchange) -> bool {
    exchange.streaming && exchange.usage.is_none() && memchr::memmem::find(&exchange.response_body, b"[DONE]").is_some()
}

/// The body that the client is to get.
fn expected_body(exchange: &Exchange) -> Vec<u8> {
    if !REPORT_UNASKED.contains(&exchange.line) {
        return exchange.response_body.clone();
    }
    let body = std::str::from_utf8(&exchange.response_body).unwrap();
    let is_report = |event: &str| event.contains("\"choices\":[],") && event.contains("\"usage\":{");
    let kept: String = body.split_inclusive("\n\n").filter(|event| !is_report(event)).collect();
    let edited = kept.replace(",\"usage\":null", "");
    assert_ne!(edited, body, "line {}: nothing is to be taken out", exchange.line);
    edited.into_bytes()
}

/// The usage that the upstream reports where only the proxy has asked for it.
fn made_up_usage(line: usize) -> Value {
    let (prompt, completion) = (1000 + line, 7 + line % 50);
    json!({
        "prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": line % 64, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": line % 7, "audio_tokens": 0,
            "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0}
    })
}

/// What OpenAI streams when usage is asked for: `"usage":null` in each chunk, in one of the three places where it has
/// been seen, and one more chunk before the end.
fn with_usage(body: &[u8], usage: &Value, place: usize) -> Vec<u8> {
    let body = std::str::from_utf8(body).unwrap();
    let mut first: Option<Value> = None;
    let mut out = String::new();
    for event in body.split_inclusive("\n\n") {
        let Some(data) = event.strip_prefix("data: ").filter(|d| d.starts_with('{')) else {
            if event.starts_with("data: [DONE]") {
                let first = first.as_ref().expect("a chunk before the end");
                let mut last = first.clone();
                last["choices"] = json!([]);
                last["usage"] = usage.clone();
                out.push_str(&format!("data: {last}\n\n"));
            }
            out.push_str(event);
            continue;
        };
        let data = data.trim_end();
        first.get_or_insert_with(|| serde_json::from_str(data).unwrap());
        let at = match place {
            0 => data.find(",\"choices\":").unwrap(),
            1 => data.rfind(",\"obfuscation\":").unwrap_or(data.len() - 1),
            _ => data.len() - 1,
        };
        out.push_str(&format!("data: {},\"usage\":null{}\n\n", &data[..at], &data[at..]));
    }
    out.into_bytes()
}

/// Replays the exchange that `x-exchange` names, framed and cut as its own seed says.
fn replay(exchanges: &Exchanges, seed: u64, request: &SeenRequest) -> Vec<Step> {
    let line = request.head.get("x-exchange").expect("x-exchange passes through").parse::<usize>().unwrap();
    let exchange = &exchanges[&line];
    let mut rng = Rng::new(seed ^ line as u64);
    assert_eq!((&request.method, &request.target), (&exchange.method, &exchange.path), "line {line}");
    let mut body = exchange.response_body.clone();
    if request.body != exchange.request_body {
        assert!(is_asked_for(exchange), "line {line}: this body was not to be edited");
        let mut expected = exchange.request_json();
        expected["stream_options"] = json!({"include_usage": true});
        assert_eq!(request.json(), expected, "line {line}");
        if adds_usage(exchange) {
            body = with_usage(&body, &made_up_usage(line), rng.below(3));
        }
    }
    let ending = match rng.below(8) {
        0 => Ending::Close,
        1..=3 => Ending::Length,
        _ => Ending::Chunked(1 + rng.below(6000)),
    };
    let fields = exchange.response_fields.clone();
    let pieces = 1 + rng.below(12);
    Reply { status: exchange.status, fields, body, ending }.steps_cut(&mut rng, pieces)
}

/// Sends the recorded request (chunked and in pieces, by seed) and reads the response.
fn send(client: &mut Client, exchange: &Exchange, rng: &mut Rng) -> Response {
    let mut head = format!("{} {} HTTP/1.1\r\nhost: localhost\r\n", exchange.method, exchange.path);
    head.push_str("authorization: Bearer sk-recorded\r\n");
    let ours = ["host", "content-length", "transfer-encoding", "connection", "authorization"];
    for (name, value) in exchange.request_fields.iter().filter(|(n, _)| !ours.contains(&n.to_lowercase().as_str())) {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&format!("x-exchange: {0}\r\nX-User-ID: line-{0}\r\n", exchange.line));
    let body = &exchange.request_body;
    let bytes = if rng.below(4) == 0 {
        head.push_str("transfer-encoding: chunked\r\n\r\n");
        let chunks = rng.cut(body, 5).into_iter().flat_map(chunk);
        head.into_bytes().into_iter().chain(chunks).chain(*b"0\r\n\r\n").collect()
    } else {
        head.push_str(&format!("content-length: {}\r\n\r\n", body.len()));
        [head.as_bytes(), body].concat()
    };
    let pieces = 1 + rng.below(4);
    for piece in rng.cut(&bytes, pieces) {
        client.send(piece);
    }
    client.response(&exchange.method)
}

/// The client sees what was recorded: status, fields in order, body.
fn check_response(exchange: &Exchange, response: &Response, body: &[u8]) {
    let line = exchange.line;
    assert_eq!((response.status, &response.cut), (exchange.status, &None), "line {line}: {}", response.text());
    let framing = ["content-length", "transfer-encoding", "connection", "keep-alive"];
    let end_to_end = |fields: &[(String, String)]| -> Vec<(String, String)> {
        let lower = fields.iter().map(|(name, value)| (name.to_lowercase(), value.clone()));
        lower.filter(|(name, _)| !framing.contains(&name.as_str())).collect()
    };
    let mut seen = end_to_end(&response.head.fields);
    // Of streams and pages, one line is ours.
    let is_ours = |name: &str| matches!(name, "x-accel-buffering" | "content-security-policy");
    let recorded = end_to_end(&exchange.response_fields);
    seen.retain(|field| !is_ours(&field.0) || recorded.contains(field));
    assert_eq!(seen, recorded, "line {line}");
    assert!(response.body == body, "line {line}: got {}", response.text());
}

/// True for a stream that says itself that it has failed, or says nothing at all.
fn has_failed(exchange: &Exchange) -> bool {
    let body = String::from_utf8_lossy(&exchange.response_body);
    let mut documents = body.lines().filter_map(|line| serde_json::from_str::<Value>(line.strip_prefix("data:")?).ok());
    let says = |document: Value| {
        let fails = matches!(document["type"].as_str(), Some("error" | "response.failed"));
        fails || !matches!(&document["error"], Value::Null | Value::Bool(false))
    };
    exchange.streaming && (body.trim().is_empty() || documents.any(says))
}

/// Whether `/usage` of the exchange's own user shows exactly its usage.
fn check_usage(proxy: &Proxy, exchange: &Exchange, repeated: bool, told: Option<&Value>) -> Result<(), String> {
    let answer = proxy.usage(&format!("user_id=line-{}", exchange.line));
    let usage = told.cloned().or_else(|| reported_usage(exchange)).filter(|_| !repeated);
    let source = if told.is_some() { "correction" } else { "reported" };
    let images = images(exchange);
    let (row, totals) = (&answer["data"][0], &answer["totals"]);
    let mut wrong = Vec::new();
    let mut same = |what: &str, got: &Value, expected: Value| {
        if *got != expected {
            wrong.push(format!("{what} is {got}, not {expected}"));
        }
    };
    same("totals.requests", &totals["requests"], json!(1));
    same("rows", &json!(answer["data"].as_array().map_or(0, Vec::len)), json!(1 + usize::from(told.is_some())));
    same("totals.errors", &totals["errors"], json!(u64::from(exchange.status >= 400 || has_failed(exchange))));
    same("status", &row["status"], json!(exchange.status));
    same("endpoint", &row["endpoint"], json!(operation(exchange)));
    // An answer that holds images reports their number by it, with a usage object (newer models) or without: `unknown`
    // would deny what its record says, and nothing in it is our estimate.
    let has_numbers = usage.is_some() || images > 0;
    let reported = if has_numbers { json!(source) } else { row["usage_source"].clone() };
    same("usage_source", &row["usage_source"], reported);
    same("reported", &json!(row["usage_source"] == source), json!(has_numbers));
    same("images", &row["images"], json!(images));
    // A stream that broke off before it reported is counted by its text.
    let is_estimate = row["usage_source"] == "estimated" && row["output_tokens"] != 0;
    same("estimated", &json!(is_estimate), json!(is_estimate && exchange.streaming && !has_numbers));
    for (column, expected) in columns(&usage.unwrap_or(Value::Null)).into_iter().filter(|_| !is_estimate) {
        same(column, &row[column], json!(expected));
        if !totals[column].is_null() {
            same(&format!("totals.{column}"), &totals[column], json!(expected));
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(format!("line {}: {}", exchange.line, wrong.join(", "))) }
}

/// How many of each kind there are, how many of them report usage, and how many came out right.
fn say_counts(exchanges: &BTreeMap<usize, Exchange>, outcomes: &[Result<(), String>]) {
    let mut kinds: BTreeMap<&str, [usize; 3]> = BTreeMap::new();
    for (exchange, outcome) in exchanges.values().zip(outcomes) {
        let counts = [1, usize::from(reported_usage(exchange).is_some()), usize::from(outcome.is_ok())];
        for kind in [operation(exchange), "all"] {
            for (sum, count) in kinds.entry(kind).or_default().iter_mut().zip(counts) {
                *sum += count;
            }
        }
    }
    for (kind, [all, reporting, equal]) in kinds {
        support::say(&format!("{kind}: {all} exchanges, {reporting} with usage, {equal} equal"));
    }
}

/// The replay without a proxy between, so that a difference found below is the proxy's doing.
#[test]
fn the_replay_alone_is_faithful() {
    let Some(exchanges) = exchanges() else { return };
    let mut rng = Rng::from_env();
    let (seed, for_upstream) = (rng.next(), exchanges.clone());
    let upstream = Upstream::plain(move |request| replay(&for_upstream, seed, request));
    for exchange in exchanges.values() {
        let response = send(&mut Client::connect(upstream.addr()), exchange, &mut rng);
        check_response(exchange, &response, &exchange.response_body);
    }
    assert_eq!(upstream.requests().len(), exchanges.len());
}

/// Asking for usage changes the stream: else the test below would have nothing to take out again.
#[test]
fn the_replayed_upstream_reports_usage_when_asked() {
    let body = b"data: {\"id\":\"x\",\"choices\":[1],\"obfuscation\":\"ab\"}\n\ndata: [DONE]\n\n";
    let expected = [
        "data: {\"id\":\"x\",\"usage\":null,\"choices\":[1],\"obfuscation\":\"ab\"}\n\n",
        "data: {\"id\":\"x\",\"choices\":[1],\"usage\":null,\"obfuscation\":\"ab\"}\n\n",
        "data: {\"id\":\"x\",\"choices\":[1],\"obfuscation\":\"ab\",\"usage\":null}\n\n",
    ];
    for (place, first) in expected.iter().enumerate() {
        let asked = String::from_utf8(with_usage(body, &json!({"total_tokens": 3}), place)).unwrap();
        let rest = asked.strip_prefix(first).unwrap();
        assert!(rest.contains("\"total_tokens\":3") && rest.ends_with("data: [DONE]\n\n"), "{rest}");
    }
}

#[test]
fn every_recorded_exchange_passes_unchanged_and_is_counted() {
    let Some(exchanges) = exchanges() else { return };
    let mut rng = Rng::from_env();
    let (seed, for_upstream) = (rng.next(), exchanges.clone());
    let ca = Ca::new();
    let config = ca.server(&["localhost", "127.0.0.1"], Server::Usual);
    let upstream = Upstream::tls(config, move |request| replay(&for_upstream, seed, request));
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("ca.pem"), ca.pem()).unwrap();
    let target = upstream.url();
    let vars = [("PROXY_TARGET", target.as_str()), ("TLS_CA_FILE", "ca.pem"), ("RATE_LIMIT_RPM", "0")];
    let proxy = Proxy::start_in(folder, &vars);

    let mut client = Client::connect(proxy.addr());
    for exchange in exchanges.values() {
        if rng.below(10) == 0 {
            client = Client::connect(proxy.addr());
        }
        let response = send(&mut client, exchange, &mut rng);
        check_response(exchange, &response, &expected_body(exchange));
    }
    let requests = upstream.requests();
    assert_eq!(requests.len(), exchanges.len(), "each exchange reaches the upstream once");
    assert!(requests.iter().all(|r| r.head.get("x-user-id").is_none()), "X-User-ID stays with us");

    let (repeated, told) = (repeated(&exchanges), told_later(&exchanges));
    assert!(!told.is_empty(), "some were only queued");
    let check = |e: &Exchange| check_usage(&proxy, e, repeated.contains(&e.line), told.get(&e.line));
    let outcomes: Vec<_> = exchanges.values().map(check).collect();
    say_counts(&exchanges, &outcomes);
    let wrong: Vec<_> = outcomes.into_iter().filter_map(Result::err).collect();
    assert!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(proxy.usage("")["totals"]["requests"], json!(exchanges.len()), "nothing else is counted");
}
