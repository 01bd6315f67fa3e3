//! The official Python client, unchanged but for its base URL: what it returns through the proxy is what it returns
//! against the upstream itself, and the usage that the upstream reports is in the ledger, asked for or not.
//!
//! Needs a Python that imports `openai` (`SDK_PYTHON`, else `python3`); CI installs one.

mod support;

use serde_json::{Map, Value, json};
use std::process::Command;
use support::api;
use support::proxy::Proxy;
use support::upstream::Upstream;

/// A Python that has the client.
fn python() -> Option<String> {
    let python = std::env::var("SDK_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let has_it = Command::new(&python).args(["-c", "import openai"]).output().is_ok_and(|o| o.status.success());
    if !has_it {
        support::skip("no Python with the openai package (set SDK_PYTHON)");
    }
    has_it.then_some(python)
}

/// Runs every call against one server; the results by the call's name.
fn calls(python: &str, server: &str) -> Map<String, Value> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sdk/calls.py");
    let output = Command::new(python).args([script, &format!("{server}/v1")]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The usage that each call must leave in the ledger: of how many requests, and what the upstream reports for one.
fn expected() -> Vec<(&'static str, u64, Value)> {
    let (chat, completion) = (api::chat_usage(), api::completion_usage());
    vec![
        ("chat", 1, chat.clone()),
        ("chat_raw", 1, chat.clone()),
        ("chat_stream", 1, chat.clone()),
        ("chat_stream_usage", 1, chat.clone()),
        ("chat_stream_no_usage", 1, chat.clone()),
        ("async", 10, chat),
        ("completion", 1, completion.clone()),
        ("completion_stream", 1, completion),
        ("response", 1, api::response_usage()),
        ("response_stream", 1, api::response_usage()),
        ("embedding", 1, api::embedding_usage()),
        ("models", 1, json!({})),
        ("error", 1, json!({})),
        ("error_stream", 1, json!({})),
    ]
}

#[test]
fn the_official_client_sees_no_difference_and_is_counted() {
    let Some(python) = python() else { return };
    let upstream = Upstream::plain(|request| api::answer(request).steps());
    let target = upstream.url();
    let proxy = Proxy::start(&[("PROXY_TARGET", target.as_str())]);

    let direct = calls(&python, &target);
    let through = calls(&python, &proxy.url());
    assert_eq!(direct.len(), expected().len());
    for (name, result) in &direct {
        assert_eq!(&through[name], result, "{name}");
    }
    let chunks = |name: &str| direct[name].as_array().unwrap().clone();
    assert!(chunks("chat_stream").iter().all(|chunk| chunk.get("usage").is_none()), "this client never asked");
    assert!(chunks("chat_stream_usage").iter().any(|chunk| chunk["usage"] == api::chat_usage()));

    for (name, requests, usage) in expected() {
        let totals = &proxy.usage(&format!("user_id=sdk-{name}"))["totals"];
        let of = |paths: &[&str]| paths.iter().find_map(|p| usage.pointer(p)).and_then(Value::as_u64).unwrap_or(0);
        let details = |paths: &[&str]| json!(requests * of(paths));
        assert_eq!(totals["requests"], json!(requests), "{name}");
        assert_eq!(totals["errors"], json!(u64::from(name.starts_with("error"))), "{name}");
        assert_eq!(totals["input_tokens"], details(&["/prompt_tokens", "/input_tokens"]), "{name}");
        assert_eq!(totals["output_tokens"], details(&["/completion_tokens", "/output_tokens"]), "{name}");
        assert_eq!(totals["total_tokens"], details(&["/total_tokens"]), "{name}");
        let cached = ["/prompt_tokens_details/cached_tokens", "/input_tokens_details/cached_tokens"];
        assert_eq!(totals["cached_input_tokens"], details(&cached), "{name}");
        let reasoning = ["/completion_tokens_details/reasoning_tokens", "/output_tokens_details/reasoning_tokens"];
        assert_eq!(totals["reasoning_tokens"], details(&reasoning), "{name}");
    }
}
