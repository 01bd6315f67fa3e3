//! What is looked at again counts once, through the binary: background responses that are polled, streams that are
//! replayed, runs that are led on, batches that grow. The metrics say what the ledger says. Left to others: the same in
//! the ledger's file, and older files (`ledger/once`), across two proxies (`ledger_faults/shared`).

mod support;

use serde_json::{Value, json};
use support::client::{Client, Response};
use support::proxy::Proxy;
use support::script::Reply;
use support::upstream::{SeenRequest, Upstream};

fn usage(input: u64, output: u64) -> Value {
    json!({"input_tokens": input, "output_tokens": output, "total_tokens": input + output})
}

/// A response stream's last event.
fn completed(id: &str) -> String {
    let response = json!({"id": id, "object": "response", "model": "gpt-5-2025-08-07", "usage": usage(100, 20)});
    format!("event: response.completed\ndata: {}\n\n", json!({"type": "response.completed", "response": response}))
}

/// Each target answers for one situation; `nth` counts the looks on its connection.
fn answer(request: &SeenRequest) -> Reply {
    let response = |id: &str, status: &str, usage: Value| {
        Reply::json(
            json!({"id": id, "object": "response", "status": status, "model": "gpt-5-2025-08-07", "usage": usage})
                .to_string(),
        )
    };
    let run = |usage: Value| {
        Reply::json(json!({"id": "run_1", "object": "thread.run", "model": "gpt-4o", "usage": usage}).to_string())
    };
    match (&*request.method, &*request.target) {
        ("POST", "/v1/responses") if request.json()["background"] == true => response("resp_b", "queued", Value::Null),
        ("POST", "/v1/responses") => Reply::sse(completed("resp_s")),
        ("GET", "/v1/responses/resp_b") if request.nth < 2 => response("resp_b", "in_progress", Value::Null),
        ("GET", "/v1/responses/resp_b") => response("resp_b", "completed", usage(100, 20)),
        ("POST", "/v1/responses/resp_b/cancel") => response("resp_b", "completed", usage(100, 20)),
        ("GET", "/v1/responses/resp_s?stream=true&starting_after=0") => Reply::sse(completed("resp_s")),
        ("POST", "/v1/threads/t/runs") => run(Value::Null),
        ("POST", "/v1/threads/t/runs/run_1/submit_tool_outputs") => {
            let step = json!({"id": "step_1", "object": "thread.run.step", "usage": usage(60, 4)});
            let run = json!({"id": "run_1", "object": "thread.run", "model": "gpt-4o", "usage": usage(100, 20)});
            Reply::sse(format!(
                "event: thread.run.step.completed\ndata: {step}\n\nevent: thread.run.completed\ndata: {run}\n\n\
                 event: done\ndata: [DONE]\n\n"
            ))
        }
        ("POST", "/v1/responses/resp_i/cancel") | ("GET", "/v1/responses/resp_i") => images(),
        ("GET", "/v1/threads/t/runs/run_1") => run(usage(100, 20)),
        ("GET", "/v1/threads/t/runs/run_1/steps") => Reply::json(json!({"data": [{"usage": usage(1, 1)}]}).to_string()),
        ("POST", "/v1/batches") => batch(0),
        ("GET", "/v1/batches/batch_1") => batch(request.nth.min(4) as u64),
        ("GET", "/v1/batches") => Reply::json(json!({"data": [{"usage": usage(1, 1)}]}).to_string()),
        what => panic!("{what:?}"),
    }
}

/// A response in whose course a tool made images.
fn images() -> Reply {
    let made = json!({"input_tokens": 10, "output_tokens": 1000, "total_tokens": 1010,
        "output_tokens_details": {"image_tokens": 1000, "text_tokens": 0}});
    let tools = json!([{"type": "image_generation", "model": "gpt-image-1"}]);
    Reply::json(
        json!({"id": "resp_i", "object": "response", "model": "gpt-5-2025-08-07", "tools": tools,
            "usage": usage(100, 20), "tool_usage": {"image_gen": made, "web_search": {"num_requests": 0}}})
        .to_string(),
    )
}

/// A batch that has come so far, of four.
fn batch(quarters: u64) -> Reply {
    let model = "gpt-5-2025-08-07";
    let usage = usage(25 * quarters, 5 * quarters);
    Reply::json(json!({"id": "batch_1", "object": "batch", "model": model, "usage": usage}).to_string())
}

/// Sends all on one connection, the user's; one connection upstream follows from that.
fn send(proxy: &Proxy, user: &str, requests: &[(&str, &str, Value)]) -> Vec<Response> {
    let mut client = Client::connect(proxy.addr());
    let fields = [("X-User-ID", user), ("content-type", "application/json")];
    let send = |(method, target, body): &(&str, &str, Value)| {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        client.request(method, target, &fields, body.as_bytes()).expect(200)
    };
    requests.iter().map(send).collect()
}

/// Tokens that a row says, with its endpoint, source and whether it cost something; the oldest row first.
fn rows(proxy: &Proxy, user: &str) -> Vec<(String, String, u64, Option<bool>)> {
    let answer = proxy.usage(&format!("user_id={user}"));
    let row = |row: &Value| {
        let text = |name: &str| row[name].as_str().unwrap().to_owned();
        let cost = row["cost_nano_usd"].as_u64().map(|cost| cost > 0);
        (text("endpoint"), text("usage_source"), row["total_tokens"].as_u64().unwrap(), cost)
    };
    answer["data"].as_array().unwrap().iter().rev().map(row).collect()
}

/// The sums of a user in the metrics, which are those of the ledger.
fn check_sums(proxy: &Proxy, user: &str, requests: u64) {
    let totals = &proxy.usage(&format!("user_id={user}"))["totals"];
    assert_eq!([&totals["requests"], &totals["input_tokens"], &totals["output_tokens"]], [requests, 100, 20], "{user}");
    let metrics = proxy.metrics();
    let sum = |name: &str, label: &str| -> u64 {
        let of_user =
            |key: &&String| key.starts_with(name) && key.contains(label) && key.contains(&format!("\"{user}\""));
        metrics.iter().filter(|(key, _)| of_user(key)).map(|(_, value)| *value as u64).sum()
    };
    assert_eq!(sum("openai_proxy_requests_total{", ""), requests, "{user}");
    assert_eq!(sum("openai_proxy_tokens_total{", "type=\"input\""), 100, "{user}");
    assert_eq!(sum("openai_proxy_tokens_total{", "type=\"output\""), 20, "{user}");
}

fn start() -> (Upstream, Proxy) {
    let upstream = Upstream::plain(|request| answer(request).steps());
    let target = upstream.url();
    let proxy = Proxy::start(&[("PROXY_TARGET", target.as_str())]);
    (upstream, proxy)
}

fn row(endpoint: &str, source: &str, tokens: u64, cost: Option<bool>) -> (String, String, u64, Option<bool>) {
    (endpoint.to_owned(), source.to_owned(), tokens, cost)
}

#[test]
fn a_background_response_counts_when_it_is_first_seen_complete() {
    let (_upstream, proxy) = start();
    let look = ("GET", "/v1/responses/resp_b", Value::Null);
    let create = ("POST", "/v1/responses", json!({"model": "gpt-5", "background": true, "input": "Hi"}));
    let cancel = ("POST", "/v1/responses/resp_b/cancel", Value::Null);
    send(&proxy, "ann", &[create, look.clone(), look.clone(), look.clone(), look, cancel]);
    let expected = [
        row("responses", "unknown", 0, None),
        row("responses/retrieve", "none", 0, Some(false)),
        row("responses/retrieve", "reported", 120, Some(true)),
        row("responses/retrieve", "none", 0, Some(false)),
        row("responses/retrieve", "none", 0, Some(false)),
        row("responses/retrieve", "none", 0, Some(false)),
    ];
    assert_eq!(rows(&proxy, "ann"), expected);
    check_sums(&proxy, "ann", 6);
}

#[test]
fn a_replayed_stream_adds_nothing_whoever_asks() {
    let (_upstream, proxy) = start();
    let replay = ("GET", "/v1/responses/resp_s?stream=true&starting_after=0", Value::Null);
    let create = ("POST", "/v1/responses", json!({"model": "gpt-5", "stream": true, "input": "Hi"}));
    let answers = send(&proxy, "ann", &[create, replay.clone()]);
    assert_eq!(answers[0].body, answers[1].body);
    send(&proxy, "bob", &[replay]);
    check_sums(&proxy, "ann", 2);
    assert_eq!(rows(&proxy, "bob"), [row("responses/retrieve", "none", 0, Some(false))]);
}

#[test]
fn images_that_a_tool_made_are_a_record_of_their_own_once() {
    let (_upstream, proxy) = start();
    let cancel = ("POST", "/v1/responses/resp_i/cancel", Value::Null);
    let look = ("GET", "/v1/responses/resp_i", Value::Null);
    send(&proxy, "ann", &[cancel, look]);
    let expected = [
        row("responses/retrieve", "reported", 120, Some(true)),
        row("responses/images", "reported", 1010, Some(true)),
        row("responses/retrieve", "none", 0, Some(false)),
        row("responses/images", "none", 0, Some(false)),
    ];
    assert_eq!(rows(&proxy, "ann"), expected);
    let row = &proxy.usage("user_id=ann&model=gpt-image-1")["data"][1];
    // gpt-image-1: 5 USD a million tokens of text, 40 for those of images that it makes.
    assert_eq!((&row["output_image_tokens"], &row["cost_nano_usd"]), (&json!(1000), &json!(40_050_000)));
}

#[test]
fn a_run_counts_once_with_all_its_steps() {
    let (_upstream, proxy) = start();
    let create = ("POST", "/v1/threads/t/runs", json!({"assistant_id": "a"}));
    let lead_on = ("POST", "/v1/threads/t/runs/run_1/submit_tool_outputs", json!({"stream": true, "tool_outputs": []}));
    let look = ("GET", "/v1/threads/t/runs/run_1", Value::Null);
    let steps = ("GET", "/v1/threads/t/runs/run_1/steps", Value::Null);
    send(&proxy, "ann", &[create, lead_on, look, steps]);
    check_sums(&proxy, "ann", 4);
}

#[test]
fn a_batch_counts_as_it_grows() {
    let (_upstream, proxy) = start();
    let look = || ("GET", "/v1/batches/batch_1", Value::Null);
    let list = ("GET", "/v1/batches", Value::Null);
    let create = ("POST", "/v1/batches", json!({"input_file_id": "f", "endpoint": "/v1/responses"}));
    send(&proxy, "ann", &[create, look(), list, look(), look(), look()]);
    let tokens: Vec<u64> = rows(&proxy, "ann").into_iter().map(|row| row.2).collect();
    assert_eq!(tokens, [0, 30, 0, 60, 30, 0]);
    check_sums(&proxy, "ann", 6);
}
