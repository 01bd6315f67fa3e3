//! The official clients, unchanged but for their base URL: what they return through the proxy is what they return
//! against the upstream itself, and the usage that the upstream reports is in the ledger, asked for or not.
//!
//! Needs a Python that imports `openai` and `websockets` (`SDK_PYTHON`, else `python3`), and Node with a folder whose
//! `node_modules` holds `openai` and `ws` (`SDK_NODE_MODULES`); CI installs both.

#![allow(clippy::disallowed_methods)] // tests are the outside world

mod support;

use serde_json::{Map, Value, json};
use std::process::Command;
use std::time::Instant;
use support::DEADLINE;
use support::ca::{Ca, Server};
use support::client::post_json;
use support::proxy::{Proxy, done};
use support::upstream::Upstream;
use support::usage::columns;
use support::{api, sockets};

/// A command that runs every call against the server whose URL is its last argument; `None`, said aloud, where the
/// client is not here.
fn client(program: &str, check: &[&str], script: &str, what: &str) -> Option<Command> {
    if !Command::new(program).args(check).output().is_ok_and(|output| output.status.success()) {
        support::skip(what);
        return None;
    }
    let mut command = Command::new(program);
    command.arg(format!("{}/tests/sdk/{script}", env!("CARGO_MANIFEST_DIR")));
    Some(command)
}

/// Runs every call against one server; the results by the call's name.
fn calls(client: &Command, server: &str) -> Map<String, Value> {
    let mut command = Command::new(client.get_program());
    command.envs(client.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = command.args(client.get_args()).arg(format!("{server}/v1")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What each call must leave in the ledger.
struct Expected {
    call: &'static str,
    /// How many records, and how many of them are errors.
    records: usize,
    errors: usize,
    /// What the upstream reports, once for each report.
    usages: Vec<Value>,
}

fn expected() -> Vec<Expected> {
    let one = |call, usage| Expected { call, records: 1, errors: 0, usages: vec![usage] };
    let none = |call, errors| Expected { call, records: 1, errors, usages: Vec::new() };
    // A WebSocket has a record of its own beside those of what it reports.
    let socket = |call, usages: Vec<Value>| Expected { call, records: 1 + usages.len(), errors: 0, usages };
    let realtime = || vec![sockets::realtime_usage(), sockets::realtime_usage(), sockets::transcription_usage()];
    vec![
        one("chat", api::chat_usage()),
        one("chat_raw", api::chat_usage()),
        one("%E5%A4%AA%E9%83%8E", api::chat_usage()), // 太郎, as the manual says that it is sent
        one("chat_stream", api::chat_usage()),
        one("chat_stream_usage", api::chat_usage()),
        one("chat_stream_no_usage", api::chat_usage()),
        Expected { call: "async", records: 10, errors: 0, usages: vec![api::chat_usage(); 10] },
        one("completion", api::completion_usage()),
        one("completion_stream", api::completion_usage()),
        one("response", api::response_usage()),
        one("response_stream", api::response_usage()),
        one("embedding", api::embedding_usage()),
        none("models", 0),
        none("error", 1),
        none("error_stream", 1),
        socket("realtime", realtime()),
        none("realtime_refused", 1),
        socket("responses_socket", vec![api::response_usage(); 2]),
    ]
}

/// Makes all calls directly and through the proxy, and compares both what they return and what is counted.
/// With `tls`, both the upstream and the proxy speak it.
fn sees_no_difference_and_is_counted(client: &mut Command, expected: &[Expected], tls: bool) -> Map<String, Value> {
    let answer = |request: &_| sockets::answer(request).unwrap_or_else(|| api::answer(request).steps());
    let (ca, folder) = (Ca::new(), tempfile::tempdir().unwrap());
    let (chain, key) = ca.pair(&["127.0.0.1"], Server::Usual);
    for (name, pem) in [("ca.pem", ca.pem()), ("chain.pem", chain), ("key.pem", key)] {
        std::fs::write(folder.path().join(name), pem).unwrap();
    }
    client.env("NODE_EXTRA_CA_CERTS", folder.path().join("ca.pem"));
    let upstream = match tls {
        true => Upstream::tls(ca.server(&["127.0.0.1"], Server::Usual), answer),
        false => Upstream::plain(answer),
    };
    let target = upstream.url();
    let files = [("TLS_CA_FILE", "ca.pem"), ("TLS_CERT_FILE", "chain.pem"), ("TLS_KEY_FILE", "key.pem")];
    let vars = [&[("PROXY_TARGET", target.as_str())][..], if tls { &files[..] } else { &[] }].concat();
    let mut proxy = Proxy::start_in(folder, &vars);
    let url = if tls { proxy.url().replacen("http", "https", 1) } else { proxy.url() };

    let direct = calls(client, &target);
    let through = calls(client, &url);
    assert_eq!(direct.len(), expected.len());
    for (name, result) in &direct {
        assert_eq!(&through[name], result, "{name}");
    }
    let chunks = |name: &str| direct[name].as_array().unwrap().clone();
    assert!(chunks("chat_stream").iter().all(|chunk| chunk.get("usage").is_none()), "this client never asked");
    assert!(chunks("chat_stream_usage").iter().any(|chunk| chunk["usage"] == api::chat_usage()));

    // A socket's own record is there once both sides have gone: what is in flight has ended before the proxy has.
    assert!(proxy.terminate().success());
    let proxy = Proxy::start_in(proxy.into_folder(), &[]);
    for Expected { call, records, errors, usages } in expected {
        let totals = &proxy.usage(&format!("user_id=sdk-{call}"))["totals"];
        assert_eq!((&totals["requests"], &totals["errors"]), (&json!(records), &json!(errors)), "{call}");
        for (n, (column, _)) in columns(&Value::Null).iter().enumerate().filter(|(_, (c, _))| !totals[c].is_null()) {
            let sum: u64 = usages.iter().map(|usage| columns(usage)[n].1).sum();
            assert_eq!(totals[column], json!(sum), "{column} of {call}");
        }
    }
    direct
}

/// What an official client makes of our refusals: it waits as long as it is told, and gives up at once on a spent budget.
fn obeys_refusals(client: &Command) {
    let upstream = Upstream::plain(|request| api::answer(request).steps());
    let vars = [("PROXY_TARGET", upstream.url()), ("RATE_LIMIT_RPM", "90".into()), ("RATE_LIMIT_BURST", "1".into())];
    let vars = vars.each_ref().map(|(name, value)| (*name, value.as_str()));
    let proxy = Proxy::start(&vars);
    done(proxy.folder(), "limits set spent --usd-day 0.000000001");
    let is_followed = || {
        let body = r#"{"model":"gpt-4o-mini","max_tokens":9}"#;
        post_json(proxy.addr(), "/v1/chat/completions", &[("x-user-id", "spent")], body)
            .head
            .get("x-should-retry")
            .is_some()
    };
    let start = Instant::now();
    while !is_followed() {
        assert!(start.elapsed() < DEADLINE);
    }
    let refusals = |user: &str, limit: &str| {
        let sample = format!("openai_proxy_rate_limited_total{{user=\"{user}\",level=\"user\",limit=\"{limit}\"}}");
        proxy.metrics().get(&sample).copied().unwrap_or(0.0)
    };
    let before = refusals("spent", "budget_day");
    let mut command = Command::new(client.get_program());
    command.args(client.get_args()).arg(format!("{}/v1", proxy.url())).arg("sk-any");
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let outcome: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(outcome["waits"], json!(["chat.completion", "chat.completion"]));
    assert_eq!(outcome["spent"], "insufficient_quota");
    assert!(refusals("waits", "requests") >= 1.0, "it was refused once, at least");
    assert_eq!(refusals("spent", "budget_day") - before, 1.0, "it did not try again");
}

#[test]
fn the_official_python_client_obeys_refusals() {
    let python = std::env::var("SDK_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let missing = "no Python with the package openai (set SDK_PYTHON)";
    if let Some(client) = client(&python, &["-c", "import openai"], "limits.py", missing) {
        obeys_refusals(&client);
    }
}

#[test]
fn the_official_node_client_obeys_refusals() {
    let folder = std::env::var("SDK_NODE_MODULES").unwrap_or_default();
    let find = format!("require({folder:?} + '/node_modules/openai')");
    let missing = "no Node with the package openai (set SDK_NODE_MODULES)";
    if let Some(client) = client("node", &["-e", &find], "limits.mjs", missing) {
        obeys_refusals(&client);
    }
}

/// A key of the proxy's own works where the client's API key stands.
#[test]
fn the_official_python_client_comes_in_with_a_key_of_ours() {
    let python = std::env::var("SDK_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let missing = "no Python with the package openai (set SDK_PYTHON)";
    let Some(client) = client(&python, &["-c", "import openai"], "limits.py", missing) else { return };
    let upstream = Upstream::plain(|request| api::answer(request).steps());
    let folder = tempfile::tempdir().unwrap();
    let key = done(folder.path(), "keys create taro");
    let vars = [("PROXY_TARGET", upstream.url()), ("CLIENT_AUTH", "keys".into()), ("OPENAI_API_KEY", "sk-real".into())];
    let vars = vars.each_ref().map(|(name, value)| (*name, value.as_str()));
    let proxy = Proxy::start_in(folder, &vars);
    let run = |key: &str| {
        let mut command = Command::new(client.get_program());
        command.args(client.get_args()).arg(format!("{}/v1", proxy.url())).arg(key).output().unwrap()
    };
    let output = run(key.trim());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(proxy.usage("user_id=taro")["totals"]["requests"], 4, "all four calls are the key's user's");
    let refused = run("oap_wrong");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("AuthenticationError"), "{refused:?}");
}

#[test]
fn the_official_python_client_sees_no_difference_and_is_counted() {
    let python = std::env::var("SDK_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let missing = "no Python with the packages openai and websockets (set SDK_PYTHON)";
    let Some(mut client) = client(&python, &["-c", "import openai, websockets"], "calls.py", missing) else { return };
    let mut expected = expected();
    let usages = vec![sockets::realtime_usage()];
    expected.push(Expected { call: "realtime_async", records: 2, errors: 0, usages });
    sees_no_difference_and_is_counted(&mut client, &expected, false);
}

#[test]
fn the_official_node_client_sees_no_difference_and_is_counted() {
    let folder = std::env::var("SDK_NODE_MODULES").unwrap_or_default();
    let find = format!("for (const name of ['openai', 'ws']) require({folder:?} + '/node_modules/' + name)");
    let missing = "no Node with the packages openai and ws (set SDK_NODE_MODULES)";
    let Some(mut client) = client("node", &["-e", &find], "calls.mjs", missing) else { return };
    // It opens WebSockets by `wss:`, whatever its base URL says.
    sees_no_difference_and_is_counted(&mut client, &expected(), true);
}
