//! The ledger held against the provider's own books, through the binary: a target that keeps true books of what it was
//! asked for, and of which single numbers are made wrong; what cannot be compared; and what a server does of it by
//! itself. Left to others: the judgement (`src/reconcile/tests.rs`), our side (beside `ledger::own_books`), which hosts
//! the key goes to (beside `worker::books_client`).
//!
//! What was used a moment ago is not judged, so ledger and books are moved back, to noon of some day.
//! `DASHBOARD_PICTURES=folder` keeps pictures of what Chromium was shown.

#![allow(clippy::disallowed_methods)] // tests are the outside world

#[path = "reconcile/provider.rs"]
mod provider;
mod support;

use openai_api_proxy::ledger::database;
use provider::{ABORTED, ADMIN_KEY, CHAT, DAY, Entry, Fault, Provider, RESPONSE, now};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::process::{Command, Stdio};
use support::client::{Client, get, post_json};
use support::proxy::{Proxy, command, run_with};
use support::script::Reply;
use support::upstream::Upstream;
use support::{skip, tools, until};
use tempfile::TempDir;

/// One request of each kind, both tiers, refused ones, a background response that is looked at twice, a batch.
fn traffic(proxy: &Proxy) {
    let send = |method: &str, target: &str, kind: &str, body: &[u8], status: u16| {
        Client::connect(proxy.addr()).request(method, target, &[("content-type", kind)], body).expect(status);
    };
    let post = |target: &str, body: Value, status: u16| {
        send("POST", target, "application/json", body.to_string().as_bytes(), status);
    };
    for body in [
        json!({"model": "gpt-4o-mini"}),
        json!({"model": "gpt-4o-mini", "service_tier": "priority"}),
        json!({"model": "gpt-4o-mini", "stream": true}),
    ] {
        post("/v1/chat/completions", body, 200);
    }
    post("/v1/chat/completions", json!({"model": "bad"}), 400);
    post("/v1/responses", json!({"model": "gpt-5-mini", "input": "Hi"}), 200);
    post("/v1/responses", json!({"model": "gpt-5-mini", "input": "Hi", "background": true}), 200);
    for _ in 0..2 {
        send("GET", "/v1/responses/resp_b", "application/json", b"", 200);
    }
    post("/v1/embeddings", json!({"model": "text-embedding-3-small", "input": "a"}), 200);
    post("/v1/moderations", json!({"model": "omni-moderation-latest", "input": "a"}), 200);
    post("/v1/images/generations", json!({"model": "gpt-image-1", "prompt": "otter", "n": 2}), 200);
    let form = "--X\r\ncontent-disposition: form-data; name=\"model\"\r\n\r\nwhisper-1\r\n--X\r\ncontent-disposition: \
                form-data; name=\"file\"; filename=\"a\"\r\n\r\nRIFF\r\n--X--\r\n";
    send("POST", "/v1/audio/transcriptions", "multipart/form-data; boundary=X", form.as_bytes(), 200);
    post("/v1/audio/speech", json!({"model": "tts-1", "input": "hello", "voice": "alloy"}), 200);
    post("/v1/batches", json!({"input_file_id": "f", "endpoint": "/v1/responses"}), 200);
    send("GET", "/v1/batches/batch_1", "application/json", b"", 200);
}

/// Moves all that is in a ledger, and in the books, back to noon of so many days ago; that day.
fn move_back(folder: &TempDir, provider: &Provider, days: u64) -> u64 {
    let noon = (now() / DAY - days) * DAY + DAY / 2;
    let shift = now() - noon;
    provider.state().shift = shift;
    let conn = database::open(&folder.path().join("usage.db")).unwrap();
    let ns = shift * 1_000_000_000;
    conn.execute_batch(&format!(
        "UPDATE records SET started_at = started_at - {ns}; UPDATE marks SET record_id = 0;
        DELETE FROM hours; DELETE FROM rollups; DELETE FROM records_by_user; DELETE FROM counted;"
    ))
    .unwrap();
    noon / DAY * DAY
}

/// A ledger of all kinds of requests on some day, and that day.
fn ledger(provider: &Provider, days: u64) -> (TempDir, u64) {
    let mut proxy = Proxy::before(&provider.upstream, &[("RATE_LIMIT_RPM", "0")]);
    traffic(&proxy);
    assert!(proxy.terminate().success());
    let folder = proxy.into_folder();
    let day = move_back(&folder, provider, days);
    (folder, day)
}

fn date(second: u64) -> String {
    let conn = rusqlite::Connection::open_in_memory().unwrap();
    conn.query_row("SELECT date(?, 'unixepoch')", [second as i64], |row| row.get(0)).unwrap()
}

/// Compares some days from one on; the exit status, the document (or null) and what was said.
fn reconcile(folder: &TempDir, target: &str, day: u64, more: &[&str]) -> (Option<i32>, Value, String) {
    let (from, to) = (date(day), date(day + 2 * DAY));
    let arguments = [&["reconcile", "--from", &from, "--to", &to, "--format", "json"], more].concat();
    let vars = [("PROXY_TARGET", target), ("OPENAI_ADMIN_KEY", ADMIN_KEY)];
    let (status, out, said) = run_with(folder.path(), &arguments, &vars);
    assert!(!out.contains("hush") && !said.contains("hush"), "{out}{said}");
    (status, serde_json::from_str(&out).unwrap_or_default(), said)
}

/// By book, model and quantity: the first reason.
type Named = BTreeMap<(String, String, String), String>;

/// What a document names that is judged so: book, model and quantity, and the first reason.
fn named(document: &Value, verdict: &str) -> Named {
    let text = |row: &Value, name: &str| row[name].as_str().unwrap().to_owned();
    let rows = document["rows"].as_array().unwrap_or_else(|| panic!("{document}")).iter();
    rows.filter(|row| row["verdict"] == verdict)
        .map(|row| ((text(row, "book"), text(row, "model"), text(row, "quantity")), text(&row["why"][0], "reason")))
        .collect()
}

fn expected(rows: &[(&str, &str, &str, &str)]) -> Named {
    let own = |text: &str| text.to_owned();
    rows.iter().map(|(book, model, quantity, why)| ((own(book), own(model), own(quantity)), own(why))).collect()
}

/// A fault of a number of the entries that `is_meant`.
fn more(book: &'static str, field: &'static str, by: f64, is_meant: fn(&Entry) -> bool) -> Fault {
    Box::new(move |entry| {
        if entry.book == book && is_meant(entry) {
            *entry.numbers.get_mut(field).unwrap() += by;
        }
    })
}

fn is_response(entry: &Entry) -> bool {
    entry.group["model"] == RESPONSE && entry.group["batch"] == false && entry.numbers["input_tokens"] == 3_000.0
}

#[test]
fn true_books_agree_and_each_number_that_is_made_wrong_is_named_alone() {
    let provider = Provider::start();
    let (folder, day) = ledger(&provider, 3);
    provider.state().refuses_each = 3;
    let target = provider.upstream.url();
    let (status, document, said) = reconcile(&folder, &target, day, &[]);
    assert_eq!((status, named(&document, "differs")), (Some(0), expected(&[])), "{document:#}{said}");
    assert_eq!((&document["agrees"], named(&document, "unknown")), (&json!(true), expected(&[])), "{document:#}");
    // What it says agrees is all that was sent: both sides have it.
    let total = |name: &str| [&document["totals"][name]["ours"], &document["totals"][name]["theirs"]];
    assert_eq!(total("requests"), [10, 10], "{document:#}");
    assert_eq!(total("input_tokens"), [3 * 1_000 + 3_000 + 777 + 500 + 10_000; 2]);
    assert_eq!(total("cached_input_tokens"), [1_600; 2]);
    assert_eq!(
        (total("images"), total("tool_calls"), total("audio_seconds")),
        ([&json!(2); 2], [&json!(2); 2], [&json!(60.0); 2])
    );
    // By hours as well, and an hour is a page.
    let (status, by_hour, _) = reconcile(&folder, &target, day, &["--by", "hour"]);
    assert_eq!((status, &by_hour["totals"]["output_tokens"]), (Some(0), &document["totals"]["output_tokens"]));

    let any = |_: &Entry| true;
    let dearer: Fault = Box::new(|entry| {
        if entry.group.get("line_item") == Some(&json!(format!("{CHAT}, output"))) {
            *entry.numbers.get_mut("usd").unwrap() *= 1.5;
        }
    });
    let missing: Fault = Box::new(|entry| {
        if entry.book == "audio_speeches" {
            entry.at -= 9 * DAY;
        }
    });
    let (chat, response) = ("gpt-4o-mini", "gpt-5-mini");
    let is_chat = |entry: &Entry| entry.group["model"] == CHAT && entry.group["service_tier"] == "priority";
    for (fault, status, differs, unknown) in [
        (
            more("completions", "output_tokens", 60.0, is_response),
            1,
            vec![("completions", response, "output_tokens", "none_known")],
            vec![],
        ),
        (
            more("completions", "input_cached_tokens", 90.0, is_chat),
            1,
            vec![("completions", chat, "cached_input_tokens", "none_known")],
            vec![],
        ),
        (
            more("completions", "num_model_requests", 1.0, is_chat),
            1,
            vec![("completions", chat, "requests", "beside")],
            vec![],
        ),
        (
            more("embeddings", "input_tokens", -20.0, any),
            1,
            vec![("embeddings", "text-embedding-3-small", "input_tokens", "none_known")],
            vec![],
        ),
        (
            more("moderations", "num_model_requests", 1.0, any),
            1,
            vec![("moderations", "omni-moderation-latest", "requests", "beside")],
            vec![],
        ),
        (more("images", "images", 1.0, any), 1, vec![("images", "gpt-image-1", "images", "none_known")], vec![]),
        (
            more("audio_transcriptions", "seconds", 30.0, any),
            1,
            vec![("transcriptions", "whisper-1", "audio_seconds", "none_known")],
            vec![],
        ),
        (
            more("web_search_calls", "num_requests", 1.0, any),
            1,
            vec![("tool calls", "", "tool_calls", "none_known")],
            vec![],
        ),
        (missing, 1, vec![("speech", "tts-1", "requests", "only_here")], vec![]),
        (dearer, 1, vec![("costs", chat, "cost_usd", "price")], vec![]),
        // A batch may have run on another day than it was looked at.
        (
            more("completions", "output_tokens", 90.0, |entry| entry.group["batch"] == true),
            0,
            vec![],
            vec![("batches", response, "output_tokens", "batch_time")],
        ),
    ] {
        provider.state().fault = Some(fault);
        let (found, document, said) = reconcile(&folder, &target, day, &[]);
        assert_eq!(named(&document, "differs"), expected(&differs), "{document:#}{said}");
        assert_eq!((found, named(&document, "unknown")), (Some(status), expected(&unknown)), "{document:#}");
        if differs.first().is_some_and(|(.., why)| *why == "price") {
            let price = &document["prices"][0];
            assert_eq!(
                [&price["item"], &price["theirs_usd"], &price["ours_usd"]],
                [&format!("{CHAT}, output"), "0.9", "0.6"]
            );
        } else {
            assert_eq!(document["prices"], json!([]), "{document:#}");
        }
    }
}

#[test]
fn what_was_spent_beside_the_proxy_and_what_was_estimated_is_told_apart() {
    let provider = Provider::start();
    let proxy = Proxy::before(&provider.upstream, &[("ON_CLIENT_ABORT", "cancel")]);
    let mut leaver = Client::connect(proxy.addr());
    let body = json!({"model": "gpt-4.1-nano", "stream": true, "messages": [{"role": "user", "content": "Hi"}]});
    let fields = [("content-type", "application/json")];
    leaver.send_request("POST", "/v1/chat/completions", &fields, body.to_string().as_bytes());
    leaver.head().unwrap().unwrap();
    leaver.reset();
    assert_eq!(proxy.only_row("anonymous")["usage_source"], "estimated");
    provider.state().completions("o3-mini-2025-01-31", "default", [7, 9_000, 0, 2_000]);
    let mut proxy = proxy;
    assert!(proxy.terminate().success());
    let folder = proxy.into_folder();
    let day = move_back(&folder, &provider, 3);
    let (status, document, said) = reconcile(&folder, &provider.upstream.url(), day, &[]);
    let (nano, mini) = ("gpt-4.1-nano", "o3-mini");
    let differs = expected(&[
        ("completions", nano, "input_tokens", "estimated"),
        ("completions", nano, "output_tokens", "estimated"),
        ("costs", nano, "cost_usd", "usage"),
        ("completions", mini, "requests", "only_there"),
        ("completions", mini, "input_tokens", "only_there"),
        ("completions", mini, "output_tokens", "only_there"),
        ("costs", mini, "cost_usd", "usage"),
    ]);
    assert_eq!((status, named(&document, "differs")), (Some(1), differs), "{document:#}{said}");
    let beside = json!({"book": "completions", "model": mini, "quantity": "requests", "more": 7, "since": date(day)});
    assert!(document["beside"].as_array().unwrap().contains(&beside), "{document:#}");
    assert!(ABORTED.starts_with(nano));
    // As a person reads it, and as a spreadsheet does.
    let vars = [("PROXY_TARGET", provider.upstream.url()), ("OPENAI_ADMIN_KEY", ADMIN_KEY.to_owned())];
    let vars = [0, 1].map(|at: usize| (vars[at].0, vars[at].1.as_str()));
    let (from, to) = (date(day), date(day + DAY));
    let (_, text, _) = run_with(folder.path(), &["reconcile", "--from", &from, "--to", &to], &vars);
    assert!(text.contains("Spent beside the proxy:\n  completions o3-mini: requests 7, since 2"), "{text}");
    let (_, csv, _) = run_with(folder.path(), &["reconcile", "--from", &from, "--to", &to, "--format", "csv"], &vars);
    assert!(csv.contains(&format!("{from},completions,o3-mini,requests,0,7,differs,only there")), "{csv}");
}

#[test]
fn a_comparison_that_is_stopped_at_any_page_goes_on_there() {
    let provider = Provider::start();
    let (folder, day) = ledger(&provider, 4);
    let target = provider.upstream.url();
    let mut runs = 0;
    loop {
        provider.state().pages_left = Some(3);
        let (status, document, said) = reconcile(&folder, &target, day, &[]);
        runs += 1;
        match status {
            Some(2) => assert!(said.contains("api.usage.read"), "{said}"),
            status => {
                assert_eq!((status, named(&document, "differs")), (Some(0), expected(&[])), "{document:#}");
                break;
            }
        }
        assert!(runs < 30, "it comes to no end");
    }
    let shown = provider.state().shown.clone();
    assert_eq!(shown.iter().collect::<BTreeSet<_>>().len(), shown.len(), "no page is fetched twice: {shown:#?}");
    assert_eq!((shown.len(), runs), (20, 7), "two days of ten books");
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["usage.db"], "what was kept is gone");
}

#[test]
fn what_cannot_be_compared_is_told_and_the_key_goes_nowhere_else() {
    let provider = Provider::start();
    let (folder, day) = ledger(&provider, 3);
    let (target, other) = (provider.upstream.url(), Upstream::plain(|_| Reply::new(200, "{}").steps()));
    for (says, part) in [
        (Reply::new(401, ADMIN_KEY), "admin-keys"),
        (Reply::new(403, "no"), "api.usage.read"),
        (Reply::new(404, "no"), "no books to compare with"),
        (Reply::new(302, "").field("location", &other.url()), "redirect"),
        (Reply::new(400, "odd"), "status 400: odd"),
        (Reply::json("[]"), "not as published"),
        (Reply::json(r#"{"data":[],"has_more":true,"next_page":"x"}"#), "have no end"),
    ] {
        provider.state().says = Some(says);
        let (status, _, said) = reconcile(&folder, &target, day, &[]);
        assert!(status == Some(2) && said.contains(part), "{part}: {said}");
        let vars = [("PROXY_TARGET", target.as_str()), ("OPENAI_ADMIN_KEY", ADMIN_KEY)];
        let (_, check, _) = run_with(folder.path(), &["check"], &vars);
        let is_told = check.lines().any(|line| line.starts_with("FAIL") && line.contains("reconcile"));
        assert!(!check.contains("hush") && (is_told || part.contains("publ") || part.contains("end")), "{check}");
    }
    assert_eq!(other.requests().len(), 0, "a redirect leads nowhere");
    provider.state().says = None;
    for target in ["https://x.openai.azure.com", "https://openrouter.ai/api", "http://192.0.2.1:9"] {
        let (status, _, said) = reconcile(&folder, target, day, &[]);
        assert!(status == Some(2) && said.contains("no books to compare with"), "{said}");
    }
    let (status, _, said) = run_with(folder.path(), &["reconcile"], &[("PROXY_TARGET", &target)]);
    assert!(status == Some(2) && said.contains("OPENAI_ADMIN_KEY is not set"), "{said}");
    // Our clock is ahead of theirs: what they may still change is not judged.
    let fault: Fault = Box::new(|entry| entry.numbers.values_mut().for_each(|number| *number *= 2.0));
    provider.state().fault = Some(fault);
    let late = provider.state().page(&format!("/v1/organization/costs?start_time={day}&end_time={}", day + DAY));
    let late = json!({"data": late["data"], "has_more": false}).to_string();
    let reply = Reply::json(late).field("date", "Thu, 01 Jan 2026 00:00:00 GMT");
    provider.state().says = Some(reply);
    let (status, document, said) = reconcile(&folder, &target, day, &[]);
    assert_eq!((status, &document["counts"]["differs"]), (Some(0), &json!(0)), "{said}");
    assert!(document["counts"]["open"].as_u64().is_some_and(|open| open > 0), "{document:#}");
}

#[test]
fn many_models_and_many_pages_take_little_memory() {
    let provider = Provider::start();
    let (folder, day) = ledger(&provider, 33);
    for model in 0..3_000 {
        let (name, shift) = (format!("m{model}x"), provider.state().shift);
        provider.state().completions(&name, "default", [1, 10, 0, 1]);
        assert!(shift > 0);
    }
    let run = |from: u64, to: u64, by: &str| {
        let target = provider.upstream.url();
        let mut limited = Command::new("sh");
        let program = command(folder.path(), &[]);
        let script = "ulimit -v 300000; exec \"$0\" \"$@\"";
        limited.args(["-c", script]).arg(program.get_program()).env_clear().current_dir(folder.path());
        limited.args(["reconcile", "--from", &date(from), "--to", &date(to), "--by", by, "--format", "json"]);
        limited.env("PROXY_TARGET", &target).env("OPENAI_ADMIN_KEY", ADMIN_KEY);
        let output = limited.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), serde_json::from_slice::<Value>(&output.stdout).unwrap_or_default(), said)
    };
    let (status, document, said) = run(day, day + DAY, "hour");
    assert_eq!((status, document["counts"]["differs"].as_u64()), (Some(1), Some(12_000)), "{said}");
    assert_eq!(document["rows_left_out"].as_u64(), Some(2_000), "some rows are counted only");
    // A month of hours, each a page of its own: 31 times 24 of nine books.
    provider.state().entries.clear();
    provider.state().shown.clear();
    let (status, _, said) = run(day, day + 31 * DAY, "hour");
    assert_eq!(status, Some(1), "{said}");
    assert_eq!(provider.state().shown.len(), 31 * (24 * 9 + 1), "{said}");
}

#[test]
fn a_server_compares_by_itself_and_shows_it() {
    let provider = Provider::start();
    let (folder, day) = ledger(&provider, 2);
    let fault = more("completions", "output_tokens", 60.0, is_response);
    provider.state().fault = Some(fault);
    let target = provider.upstream.url();
    let vars = [("PROXY_TARGET", target.as_str()), ("OPENAI_ADMIN_KEY", ADMIN_KEY), ("RECONCILE", "daily")];
    let proxy = Proxy::start_in(folder, &vars);
    let line = proxy.wait_for_log("compared with OpenAI's books");
    assert!(line.contains("differing=1") && line.contains(&date(day)), "{line}");
    let ratio = "openai_proxy_reconcile_ratio{quantity=\"output_tokens\"}";
    until("the metrics say it", || proxy.metrics().contains_key(ratio));
    let metrics = proxy.metrics();
    let theirs = (50 * 3 + 400 + 90 + 800 + 60) as f64;
    assert!((metrics[ratio] - 60.0 / theirs).abs() < 1e-9, "{}", metrics[ratio]);
    assert_eq!(metrics["openai_proxy_reconcile_ratio{quantity=\"requests\"}"], 0.0);
    let age = now() as f64 - metrics["openai_proxy_reconcile_last_success_timestamp_seconds"];
    assert!((-2.0..600.0).contains(&age), "{age}");
    let page = get(proxy.addr(), "/dashboard").expect(200).text();
    for part in [&*format!("{} agrees with OpenAI within 4.00%.", date(day)), "no reason is known", "gpt-5-mini"] {
        assert!(page.contains(part), "{part}");
    }
    assert!(!get(proxy.addr(), "/dashboard?user_id=anonymous").text().contains("agrees with OpenAI"));
    let (_, check, _) = run_with(proxy.folder(), &["check"], &[vars[0], vars[1], vars[2]]);
    assert!(check.contains("OPENAI_ADMIN_KEY reads OpenAI's books of the whole organisation, each day"), "{check}");
    // Once is enough; a relayed request never has the key.
    let asked = provider.state().asked;
    post_json(proxy.addr(), "/v1/moderations", &[], r#"{"model":"m"}"#).expect(200);
    let relayed = provider.upstream.requests();
    let leaked = |request: &support::upstream::SeenRequest| {
        !request.target.starts_with("/v1/organization/") && format!("{:?}", request.head).contains("hush")
    };
    assert!(!relayed.iter().any(leaked) && !proxy.stderr().contains("hush"));
    assert_eq!(provider.state().asked, asked);
    let Some(chromium) = tools::find("chromium") else { return };
    let Some(mut node) = tools::node(None, "reconcile/page.mjs") else { return };
    let pictures = std::env::var("DASHBOARD_PICTURES");
    let output = node.arg(&chromium).arg(proxy.url()).args(pictures.ok()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let seen: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(seen.len(), 4);
    for seen in seen {
        let (text, words) =
            (seen["text"].as_str().unwrap(), if seen["language"] == "ja" { "との照合" } else { "What does not agree" });
        assert!(text.contains(words) && text.contains("gpt-5-mini"), "{seen}");
        assert!(seen["overflow"].as_i64() <= Some(0) && seen["complaints"] == json!([]), "{seen}");
    }
}

#[test]
fn the_official_clients_types_read_what_the_scripted_books_answer() {
    let python = std::env::var("SDK_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    if !Command::new(&python).args(["-c", "import openai.types.admin"]).output().is_ok_and(|it| it.status.success()) {
        return skip("no Python with openai's types of administration (set SDK_PYTHON)");
    }
    let provider = Provider::start();
    let (folder, day) = ledger(&provider, 3);
    let (status, ..) = reconcile(&folder, &provider.upstream.url(), day, &[]);
    assert_eq!(status, Some(0));
    let mut pages: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    let shown = provider.state().shown.clone();
    for target in &shown {
        let name = target.split('?').next().unwrap().rsplit('/').next().unwrap();
        pages.entry(name.to_owned()).or_default().push(provider.state().page(target));
    }
    assert_eq!(pages.len(), 10);
    let script = format!("{}/tests/reconcile/published.py", env!("CARGO_MANIFEST_DIR"));
    let mut child = Command::new(python).arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(json!(pages).to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let count: usize = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
    assert!(count > 15, "{count} results");
}
