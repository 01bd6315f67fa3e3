//! codex, unchanged, over HTTP and over a WebSocket: what it says is the same directly and through the proxy, and what it
//! consumed is counted. It drops its WebSocket without a word when it has all, which is no error.
//!
//! Run where `CLIENT_SUITES=1`.

use super::suites::installed;
use crate::support::proxy::{Proxy, scripted};
use crate::support::script::{Reply, Step};
use crate::support::upstream::SeenRequest;
use crate::support::websocket::{self, CLOSE, Side, Socket};
use crate::support::{DEADLINE, say};
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

/// The events of one response.
fn events() -> [Value; 3] {
    let usage = json!({"input_tokens": 10, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 15});
    let response = |usage: Value| json!({"id": "resp_1", "model": "gpt-5-2025-08-07", "output": [], "usage": usage});
    let content = json!([{"type": "output_text", "text": "Hello there", "annotations": []}]);
    let item = json!({"id": "msg_1", "type": "message", "role": "assistant", "content": content});
    [
        json!({"type": "response.created", "response": response(Value::Null)}),
        json!({"type": "response.output_item.done", "output_index": 0, "item": item}),
        json!({"type": "response.completed", "response": response(usage)}),
    ]
}

fn answer(request: &SeenRequest) -> Vec<Step> {
    match (request.method.as_str(), request.target.as_str()) {
        ("POST", "/v1/responses") => Reply::sse(events().map(|event| format!("data: {event}\n\n")).concat()).steps(),
        ("GET", "/v1/responses") => websocket::accept(request, |tunnel| {
            let mut socket = Socket::new(tunnel, Side::Server);
            while let Some(message) = socket.message()?.filter(|message| message.opcode != CLOSE) {
                let asked: Value = serde_json::from_slice(&message.payload).unwrap();
                for event in events().iter().filter(|_| asked["type"] == "response.create") {
                    socket.send_json(event)?;
                }
            }
            Ok(())
        }),
        _ => Reply::json(json!({"models": []}).to_string()).steps(),
    }
}

/// Has codex do one turn against a server: what it prints of it.
fn turn(folder: &Path, server: &str, websockets: bool) -> Vec<Value> {
    let home = tempfile::tempdir().unwrap();
    let provider = format!(
        "model_providers.m={{name=\"m\",base_url=\"{server}/v1\",env_key=\"MOCK_KEY\",wire_api=\"responses\",\
         supports_websockets={websockets},request_max_retries=0,stream_max_retries=0}}"
    );
    let mut codex = Command::new(folder.join("node_modules/.bin/codex"));
    codex.args(["exec", "--skip-git-repo-check", "--json", "-c", "model_provider=\"m\"", "-c", "model=\"gpt-5\""]);
    codex.args(["-c", &provider, "Say hello"]).env("CODEX_HOME", home.path()).env("MOCK_KEY", "sk-mock");
    let output = codex.current_dir(home.path()).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8(output.stdout).unwrap();
    let events = said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    events.filter(|event| event["type"] != "thread.started").collect()
}

/// The rows, once the last of them is there: codex does not wait for its session's own.
fn rows(proxy: &Proxy, last: &str) -> Vec<Value> {
    let start = Instant::now();
    loop {
        let mut rows = proxy.usage("user_id=anonymous")["data"].as_array().unwrap().clone();
        if rows.first().is_some_and(|row| row["endpoint"] == last) {
            rows.reverse();
            return rows;
        }
        assert!(start.elapsed() < DEADLINE, "{rows:#?}");
    }
}

#[test]
fn codex_sees_no_difference_and_is_counted() {
    let Some(folder) = installed() else { return };
    for (websockets, last) in [(false, "responses"), (true, "responses/session")] {
        let (upstream, proxy) = scripted(&[], answer);
        let direct = turn(folder, &upstream.url(), websockets);
        assert!(direct.iter().any(|event| event["item"]["text"] == "Hello there"), "{direct:?}");
        assert_eq!(turn(folder, &proxy.url(), websockets), direct);
        let rows = rows(&proxy, last);
        for row in &rows {
            assert_eq!(row["outcome"], "completed", "{row}");
        }
        let (responses, _): (Vec<_>, Vec<_>) = rows.iter().partition(|row| row["endpoint"] == "responses");
        for row in &responses {
            assert_eq!((&row["model_requested"], &row["total_tokens"]), (&json!("gpt-5"), &json!(15)), "{row}");
        }
        let opened = upstream.requests().iter().filter(|request| request.method == "GET").count();
        assert!(!responses.is_empty() && (opened > 0) == websockets, "{rows:#?}");
        say(&format!("codex, WebSocket {websockets}: 1 turn, 1 the same, {} responses counted", responses.len()));
    }
}
