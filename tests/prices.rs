//! Where prices come from, through the binary: the built-in table, a file of LiteLLM's, one that is fetched, the factors
//! on them, and the command that shows them. Left to others: the arithmetic (`src/price/tests.rs`), which host means whose
//! prices (`src/price/litellm.rs`), what is taken of a fetched table (`src/worker/price_fetcher.rs`), budgets at large
//! (`limits`, `quotas`).

#![allow(clippy::disallowed_methods)] // tests are the outside world

mod support;

use rustix::process::Signal;
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};
use support::DEADLINE;
use support::client::{get, post_json};
use support::proxy::{Proxy, run_with as run};
use support::script::Reply;
use support::upstream::Upstream;

const CHAT: &str = "/v1/chat/completions";
const SECRET: &str = "hush";

/// A target that answers with 1,000 tokens in and 10 out, by the model that it is asked for.
fn target() -> Upstream {
    Upstream::plain(|request| {
        let usage = json!({"prompt_tokens": 1000, "completion_tokens": 10, "total_tokens": 1010});
        Reply::json(json!({"model": request.json()["model"], "usage": usage}).to_string()).steps()
    })
}

/// What one request more costs.
fn cost(proxy: &Proxy, user: &str, model: &str) -> Value {
    let body = json!({"model": model}).to_string();
    post_json(proxy.addr(), CHAT, &[("x-user-id", user)], &body).expect(200);
    proxy.usage(&format!("user_id={user}"))["data"][0]["cost_nano_usd"].clone()
}

/// A server of prices, and what it answers with.
fn price_server(first: &str) -> (Upstream, Arc<Mutex<String>>) {
    let text = Arc::new(Mutex::new(first.to_owned()));
    let served = Arc::clone(&text);
    (Upstream::plain(move |_| Reply::json(served.lock().unwrap().clone()).steps()), text)
}

/// Fetched at the start, used at once, kept for the next start, and below what the operator's own file says.
#[test]
fn prices_are_fetched_and_kept() {
    let (server, text) = price_server(r#"{"mine": {"input_cost_per_token": 1e-6, "output_cost_per_token": 0}}"#);
    let url = format!("{}/{SECRET}/prices.json?token={SECRET}", server.url());
    let upstream = target();
    let vars = [("PRICES_URL", url.as_str()), ("PRICE_FACTOR", "1.5"), ("RATE_LIMIT_RPM", "0")];
    let proxy = Proxy::before(&upstream, &vars);
    proxy.wait_for_log("prices fetched");
    let start = Instant::now();
    while cost(&proxy, "first", "mine") != json!(1_500_000) {
        assert!(start.elapsed() < DEADLINE, "the fetched price is not used");
        std::thread::sleep(Duration::from_millis(10));
    }
    let kept = proxy.folder().join("usage.db-prices");
    assert_eq!(std::fs::metadata(&kept).unwrap().permissions().mode() & 0o777, 0o600);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
    let age = now - proxy.metrics()[r#"openai_proxy_prices_timestamp_seconds{source="PRICES_URL"}"#];
    assert!((-1.0..600.0).contains(&age), "{age}");
    assert!(get(proxy.addr(), "/dashboard").text().contains("Prices: PRICES_URL of 2"));
    let (status, said, _) = run(proxy.folder(), &["prices", "mine"], &vars);
    assert!(status == Some(0) && said.contains("From: PRICES_URL, of 2") && said.contains("1.5 "), "{said}");
    let (_, said, _) = run(proxy.folder(), &["check"], &[vars[0], ("PORT", "0")]);
    assert!(said.contains("PRICES_URL of 2") && said.contains("built-in of 2026-11-29"), "{said}");
    // A reload keeps what was fetched.
    std::fs::write(proxy.folder().join(".env"), "PRICES_FILE=own.json\n").unwrap();
    std::fs::write(proxy.folder().join("own.json"), r#"{"other": {"input_cost_per_token": 2e-6}}"#).unwrap();
    proxy.signal(Signal::HUP);
    proxy.wait_for_log("PRICES_FILE,PRICE_FACTOR");
    assert_eq!(cost(&proxy, "second", "mine"), json!(1_500_000));

    // The next start has it before anything is fetched; and what is damaged changes nothing.
    *text.lock().unwrap() = "{\"mine\": {".to_owned();
    let said = proxy.stderr();
    let folder = proxy.into_folder();
    std::fs::write(folder.path().join("own.json"), r#"{"mine": {"input_cost_per_token": 3e-6}}"#).unwrap();
    std::fs::remove_file(folder.path().join(".env")).unwrap();
    let to = upstream.url();
    let proxy = Proxy::start_in(folder, &[&[("PROXY_TARGET", to.as_str())], &vars[..]].concat());
    let line = proxy.wait_for_log("prices cannot be fetched");
    assert!(line.contains("not a JSON object") && line.contains(&server.url()), "{line}");
    assert_eq!(cost(&proxy, "third", "mine"), json!(1_500_000));
    assert!(!format!("{said}{}", proxy.stderr()).contains(SECRET), "a secret in the log");
    // The operator's own file goes before it.
    let folder = proxy.into_folder();
    let own = [("PROXY_TARGET", to.as_str()), ("PRICES_FILE", "own.json")];
    let proxy = Proxy::start_in(folder, &[&own[..], &vars[..1]].concat());
    assert_eq!(cost(&proxy, "fourth", "mine"), Value::Null, "it has no price for the output");
}

#[test]
fn a_file_of_litellms_is_taken_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let table = json!({
        "sample_spec": {"litellm_provider": "one of", "max_tokens": "words"},
        "groq/llama": {"litellm_provider": "groq", "input_cost_per_token": 1.5000000000000002e-06,
            "output_cost_per_token": 0.0, "mode": "chat", "supports_vision": true},
        "cerebras/two": {"litellm_provider": "cerebras", "input_cost_per_token": 1e-6, "output_cost_per_token": 0},
        "groq/two": {"litellm_provider": "groq", "input_cost_per_token": 2e-6, "output_cost_per_token": 0},
        "gpt-4o": {"litellm_provider": "openai", "input_cost_per_token": 1e-6, "output_cost_per_token": 0},
    });
    std::fs::write(folder.path().join("litellm.json"), table.to_string()).unwrap();
    let upstream = target();
    let to = upstream.url();
    let vars = [("PROXY_TARGET", to.as_str()), ("PRICES_FILE", "litellm.json")];
    let proxy = Proxy::start_in(folder, &vars);
    assert_eq!(cost(&proxy, "a", "llama"), json!(1_500_000));
    assert_eq!(cost(&proxy, "b", "two"), Value::Null, "two providers, two prices");
    assert_eq!(cost(&proxy, "c", "groq/two"), json!(2_000_000));
    assert_eq!(cost(&proxy, "d", "gpt-4o"), json!(1_000_000), "in place of the built-in price");
    assert_eq!(cost(&proxy, "e", "gpt-4o-mini"), json!(1_000 * 150 + 10 * 600), "as built in");
}

/// What an answer reports that has no certain cost is null in the ledger, and is charged to the budget all the same.
#[test]
fn a_cost_that_is_not_certain_is_spent_at_most() {
    let upstream = Upstream::plain(|_| {
        let usage = json!({"prompt_tokens": 1000, "completion_tokens": 10, "total_tokens": 1010,
            "prompt_tokens_details": {"cached_tokens": 500}});
        Reply::json(json!({"model": "o3-pro", "usage": usage}).to_string()).steps()
    });
    let proxy = Proxy::before(&upstream, &[("BUDGET_USD_DAY", "0.02"), ("RATE_LIMIT_RPM", "0")]);
    let ask = || post_json(proxy.addr(), CHAT, &[("x-user-id", "u")], r#"{"model":"o3-pro","max_tokens":10}"#);
    // 20 USD a million in, 80 out: 0.0208 USD.
    ask().expect(200);
    assert_eq!(proxy.only_row("u")["cost_nano_usd"], Value::Null);
    ask().expect_proxy_error(429, "insufficient_quota");
}

#[test]
fn the_command_shows_what_a_model_costs() {
    let proxy = Proxy::start(&[]);
    let (status, said, _) = run(proxy.folder(), &["prices", "gpt-4o-2030-01-01"], &[]);
    assert_eq!(status, Some(0));
    for part in ["priced as gpt-4o\n", "cached input", "priority", "From: built in, BerriAI/litellm", "2026-11-29"] {
        assert!(said.contains(part), "{part} in {said}");
    }
    let eu = [("PROXY_TARGET", "https://eu.api.openai.com"), ("PRICE_FACTOR", "0.5")];
    let (_, said, _) = run(proxy.folder(), &["prices", "gpt-5.5", "--format", "json"], &eu);
    let json: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((&json["factor"], &json["region"], &json["uplift"]), (&json!("0.5"), &json!("eu"), &json!("1.1")));
    let expected = json!({"price_of": "input", "usd": "2.75", "unit": "1M tokens", "tier": "default",
        "above_input_tokens": 0});
    assert_eq!(json["prices"][0], expected);
    let (_, said, _) = run(proxy.folder(), &["prices", "gpt-5.5"], &[("PROXY_TARGET", "https://jp.api.openai.com")]);
    assert!(said.contains("Region jp: times a factor that the table does not have: the cost is null"), "{said}");
    let (status, said, aside) = run(proxy.folder(), &["prices", "gtp-4o"], &[]);
    assert_eq!((status, said.as_str()), (Some(1), ""));
    assert!(aside.contains("gpt-4o,") && aside.contains("gtp-4o"), "{aside}");
    let (status, said, _) = run(proxy.folder(), &["prices"], &[]);
    assert!(status == Some(0) && said.lines().count() > 229, "{said}");
}
