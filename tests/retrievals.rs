//! What is looked at again counts once, through the binary: background responses that are polled, streams that are
//! replayed, runs that are led on, batches that grow; and what was estimated gives way to what is told later. The metrics
//! say what the ledger says. Left to others: the same in the ledger's file, and older files (`ledger/once`), across two
//! proxies (`ledger_faults/shared`).

mod support;

use serde_json::{Value, json};
use support::client::{self, Client, Response, response_framing};
use support::proxy::Proxy;
use support::script::{Reply, Step, chunk};
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
fn rows(proxy: &Proxy, user: &str) -> Vec<(String, String, i64, Option<bool>)> {
    let answer = proxy.usage(&format!("user_id={user}"));
    let row = |row: &Value| {
        let text = |name: &str| row[name].as_str().unwrap().to_owned();
        let cost = row["cost_nano_usd"].as_i64().map(|cost| cost > 0);
        (text("endpoint"), text("usage_source"), row["total_tokens"].as_i64().unwrap(), cost)
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

fn row(endpoint: &str, source: &str, tokens: i64, cost: Option<bool>) -> (String, String, i64, Option<bool>) {
    (endpoint.to_owned(), source.to_owned(), tokens, cost)
}

#[test]
fn a_background_response_counts_when_it_is_first_seen_complete() {
    let (_upstream, proxy) = start();
    let look = ("GET", "/v1/responses/resp_b", Value::Null);
    let create = ("POST", "/v1/responses", json!({"model": "gpt-5", "background": true, "input": "Hi"}));
    let cancel = ("POST", "/v1/responses/resp_b/cancel", Value::Null);
    send(&proxy, "ann", &[create]);
    assert_eq!(unpriced(&proxy), vec![json!(1); 6], "it is queued: nobody knows what it will cost");
    send(&proxy, "ann", &[look.clone(), look.clone(), look.clone(), look, cancel]);
    let expected = [
        row("responses", "unknown", 0, None),
        row("responses/retrieve", "none", 0, Some(false)),
        row("responses/retrieve", "none", 0, Some(false)),
        row("responses", "correction", 120, Some(true)),
        row("responses/retrieve", "none", 0, Some(false)),
        row("responses/retrieve", "none", 0, Some(false)),
        row("responses/retrieve", "none", 0, Some(false)),
    ];
    assert_eq!(rows(&proxy, "ann"), expected);
    check_sums(&proxy, "ann", 6);
    assert_eq!(unpriced(&proxy), vec![Value::Null; 6], "its price is known by now");
}

/// `unpriced_requests` in all sums of one user's: of everything, of the model, of each kind of bucket.
fn unpriced(proxy: &Proxy) -> Vec<Value> {
    let buckets = ["day", "hour", "user", "endpoint", "model"].map(|by| {
        let answer = proxy.usage(&format!("group_by={by}"));
        let of = |bucket: &Value| bucket["unpriced_requests"].clone();
        let known = answer["buckets"].as_array().unwrap().iter().map(of).find(|count| !count.is_null());
        assert_eq!(answer["totals"]["unpriced_requests"], answer["by_model"][0]["unpriced_requests"]);
        known.unwrap_or_default()
    });
    [vec![proxy.usage("user_id=ann")["totals"]["unpriced_requests"].clone()], buckets.to_vec()].concat()
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
    let tokens: Vec<i64> = rows(&proxy, "ann").into_iter().map(|row| row.2).collect();
    assert_eq!(tokens, [0, 30, 0, 60, 30, 0]);
    check_sums(&proxy, "ann", 6);
}

/// Asks for a streamed background response, and leaves in the middle of it.
fn abort(proxy: &Proxy, user: &str) {
    let mut client = Client::connect(proxy.addr());
    let fields = [("X-User-ID", user), ("content-type", "application/json")];
    let input = "long text ".repeat(100);
    let body = json!({"model": "gpt-5", "background": true, "stream": true, "max_output_tokens": 48, "input": input});
    client.send_request("POST", "/v1/responses", &fields, body.to_string().as_bytes());
    let head = client.head().unwrap().unwrap();
    let mut framing = response_framing("POST", &head).unwrap();
    let mut got = Vec::new();
    while got.windows(5).filter(|window| window == b" word").count() < 50 {
        got.extend(client.body_piece(&mut framing).unwrap().expect("the stream goes on"));
    }
    client.reset();
    proxy.wait_until_left();
}

/// A target whose streams do not end, and which tells the truth only where it is asked again: `usage`.
fn unending(usage: Value) -> Upstream {
    Upstream::plain(move |request| {
        let response = |status: &str, usage: &Value| json!({"id": "resp_e", "object": "response", "status": status, "model": "gpt-5-2025-08-07", "usage": usage});
        if request.method == "GET" {
            let usage = if request.target.ends_with("partial") { &Value::Null } else { &usage };
            return Reply::json(response("completed", usage).to_string()).steps();
        }
        if request.json()["stream"] != json!(true) {
            let usage = json!({"input_tokens": 1, "output_tokens": 1, "total_tokens": 2});
            return Reply::json(response("completed", &usage).to_string().replace("resp_e", "resp_2")).steps();
        }
        let event = |event: Value| chunk(format!("data: {event}\n\n").as_bytes());
        let created = json!({"type": "response.created", "response": response("in_progress", &Value::Null)});
        let word = || event(json!({"type": "response.output_text.delta", "delta": " word"}));
        let words: Vec<u8> = (0..50).flat_map(|_| word()).collect();
        vec![Step::Send([Reply::sse("").head(), event(created), words].concat()), Step::AwaitClose]
    })
}

#[test]
fn an_estimate_gives_way_to_what_the_target_tells_later() {
    let upstream = unending(usage(40, 60));
    let proxy = Proxy::before(&upstream, &[("ON_CLIENT_ABORT", "cancel")]);
    abort(&proxy, "ann");
    let estimate = proxy.only_row("ann");
    assert_eq!((&estimate["usage_source"], &estimate["response_id"]), (&json!("estimated"), &json!("resp_e")));
    let look = |target: &'static str| ("GET", target, Value::Null);
    send(&proxy, "ann", &[look("/v1/responses/resp_e?partial")]);
    assert_eq!(proxy.usage("user_id=ann")["totals"]["total_tokens"], estimate["total_tokens"], "nothing is told yet");
    // Once by another, who has nothing to do with it, and then again and again.
    send(&proxy, "bob", &[look("/v1/responses/resp_e"), look("/v1/responses/resp%5Fe/?x=y")]);
    send(&proxy, "ann", &[look("/v1/responses/resp_e")]);
    // gpt-5: 1.25 and 10 USD a million tokens.
    let truth = [40, 60, 100, 40 * 1_250 + 60 * 10_000];
    let told = ["input_tokens", "output_tokens", "total_tokens", "cost_nano_usd"];
    for query in ["user_id=ann", "user_id=ann&group_by=hour", "user_id=ann&group_by=day", "group_by=user", ""] {
        let answer = proxy.usage(query);
        let rows = ["totals", "by_model", "buckets"].map(|name| &answer[name]);
        let sums = rows.iter().flat_map(|row| row.as_array().cloned().unwrap_or_else(|| vec![(*row).clone()]));
        let of_ann = sums.filter(|sums| sums.is_object() && sums["user_id"] != "bob" && sums["model"] != "");
        for sums in of_ann {
            let cost = (sums["cost_usd"].as_f64().unwrap() * 1e9).round() as u64;
            let found = told[..3].iter().map(|name| sums[*name].as_u64().unwrap()).chain([cost]);
            assert_eq!(found.collect::<Vec<_>>(), truth, "{query}: {sums}");
        }
    }
    let (ann, bob) = (proxy.usage("user_id=ann"), proxy.usage("user_id=bob"));
    assert_eq!((&ann["totals"]["requests"], &bob["totals"]["requests"]), (&json!(3), &json!(2)));
    assert_eq!(bob["totals"]["total_tokens"], 0);
    let rows: Vec<&Value> = ann["data"].as_array().unwrap().iter().rev().collect();
    assert_eq!(*rows[0], estimate, "nothing is overwritten");
    let correction = rows[2];
    assert_eq!(correction["usage_source"], "correction");
    for (name, truth) in told.iter().zip(truth) {
        let before = estimate[*name].as_i64().unwrap();
        assert_eq!(correction[*name].as_i64().unwrap(), truth as i64 - before, "{name}");
    }
    assert!(correction["input_tokens"].as_i64().unwrap() < 0);
    for name in ["started_at", "user_id", "endpoint", "model", "status", "outcome", "response_id"] {
        assert_eq!(correction[name], estimate[name], "{name}");
    }
    let text = |format: &str| client::get(proxy.addr(), &format!("/usage?user_id=ann&format={format}")).text();
    let less = correction["input_tokens"].to_string();
    assert!(text("csv").contains(&format!(",correction,{less},")), "{}", text("csv"));
    assert!(text("text").lines().any(|line| line.contains("correction") && line.contains(&less)), "{}", text("text"));
    // The counters have gone up by the estimate, and stay there until others have made up for it.
    let input = || {
        let metrics = proxy.metrics();
        let is_it = |key: &&String| key.contains("tokens_total{") && key.contains("type=\"input\"");
        metrics.iter().filter(|(key, _)| is_it(key)).map(|(_, value)| *value as i64).sum::<i64>()
    };
    let estimated = estimate["input_tokens"].as_i64().unwrap();
    assert_eq!(input(), estimated);
    let create = ("POST", "/v1/responses", json!({"model": "gpt-5", "input": "Hi"}));
    send(&proxy, "ann", &[create]);
    assert_eq!(input(), estimated, "one token, which is owed");
}

#[test]
fn a_correction_gives_a_budget_back_what_was_charged_too_much() {
    let upstream = unending(usage(40, 6));
    let proxy = Proxy::before(&upstream, &[("ON_CLIENT_ABORT", "cancel"), ("BUDGET_USD_DAY", "0.0008")]);
    let ask = || {
        let mut client = Client::connect(proxy.addr());
        let fields = [("X-User-ID", "ann"), ("content-type", "application/json")];
        let body = json!({"model": "gpt-5", "max_output_tokens": 16, "input": "Hi"}).to_string();
        client.request("POST", "/v1/responses", &fields, body.as_bytes()).status
    };
    client::get(proxy.addr(), "/readyz").expect(200);
    abort(&proxy, "ann");
    proxy.only_row("ann");
    assert_eq!(ask(), 429);
    send(&proxy, "bob", &[("GET", "/v1/responses/resp_e", Value::Null)]);
    assert_eq!(ask(), 200);
}

/// Ids of a gateway are long and begin alike; what an answer calls itself says nothing of what was asked for.
#[test]
fn an_id_is_known_whole_and_a_retrieval_is_of_the_one_in_its_path() {
    let id = |n: u64| format!("resp_{}{n}==", "bGl0ZWxsbTp".repeat(16));
    let upstream = Upstream::plain(move |request| {
        let n = if request.target.ends_with("1%3D%3D") || request.method == "POST" && request.json()["input"] == "1" {
            1
        } else {
            2
        };
        let (id, usage) = match &*request.method {
            "POST" => (id(n), Value::Null),
            _ => ("resp_of_the_provider".to_owned(), usage(100 * n, 10 * n)),
        };
        let status = if usage.is_null() { "queued" } else { "completed" };
        let response = json!({"id": id, "object": "response", "status": status, "model": "gpt-5", "usage": usage});
        Reply::json(response.to_string()).steps()
    });
    let proxy = Proxy::before(&upstream, &[]);
    for n in [1, 2] {
        let create = ("POST", "/v1/responses", json!({"model": "gpt-5", "background": true, "input": n.to_string()}));
        let path = format!("/v1/responses/{}", id(n).replace('=', "%3D"));
        let look = || ("GET", path.as_str(), Value::Null);
        send(&proxy, "ann", &[create, look(), look()]);
    }
    let answer = proxy.usage("user_id=ann");
    assert_eq!([&answer["totals"]["input_tokens"], &answer["totals"]["output_tokens"]], [300, 30]);
    let ids: std::collections::BTreeSet<&str> =
        answer["data"].as_array().unwrap().iter().map(|row| row["response_id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 2, "{ids:?}");
    assert!(ids.iter().all(|id| id.len() == 128));
}
