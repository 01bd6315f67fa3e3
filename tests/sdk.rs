//! The official clients, unchanged but for their base URL: what they return through the proxy is what they return
//! against the upstream itself, and the usage that the upstream reports is in the ledger, asked for or not.
//!
//! Needs a Python that imports `openai` and `websockets` (`SDK_PYTHON`, else `python3`), and Node with a folder whose
//! `node_modules` holds `openai` and `ws` (`SDK_NODE_MODULES`); CI installs both.

mod support;

use serde_json::{Map, Value, json};
use std::process::Command;
use support::proxy::Proxy;
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
fn sees_no_difference_and_is_counted(client: &Command, expected: &[Expected]) -> Map<String, Value> {
    let upstream = Upstream::plain(|request| sockets::answer(request).unwrap_or_else(|| api::answer(request).steps()));
    let target = upstream.url();
    let mut proxy = Proxy::start(&[("PROXY_TARGET", target.as_str())]);

    let direct = calls(client, &target);
    let through = calls(client, &proxy.url());
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

#[test]
fn the_official_python_client_sees_no_difference_and_is_counted() {
    let python = std::env::var("SDK_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let missing = "no Python with the packages openai and websockets (set SDK_PYTHON)";
    let Some(client) = client(&python, &["-c", "import openai, websockets"], "calls.py", missing) else { return };
    let mut expected = expected();
    let usages = vec![sockets::realtime_usage()];
    expected.push(Expected { call: "realtime_async", records: 2, errors: 0, usages });
    sees_no_difference_and_is_counted(&client, &expected);
}

#[test]
fn the_official_node_client_sees_no_difference_and_is_counted() {
    let folder = std::env::var("SDK_NODE_MODULES").unwrap_or_default();
    let find = format!("for (const name of ['openai', 'ws']) require({folder:?} + '/node_modules/' + name)");
    let missing = "no Node with the packages openai and ws (set SDK_NODE_MODULES)";
    let Some(client) = client("node", &["-e", &find], "calls.mjs", missing) else { return };
    sees_no_difference_and_is_counted(&client, &expected());
}
