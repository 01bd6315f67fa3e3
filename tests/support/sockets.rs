//! A small imitation of the API's WebSockets, as `api` is of its other endpoints: realtime sessions and responses. Each
//! event of the client's has its answer; a session ends when the client closes it.

use super::api;
use super::script::Step;
use super::upstream::{SeenRequest, Tunnel};
use super::websocket::{self, CLOSE, Side, Socket};
use super::wire::Cut;
use serde_json::{Value, json};

/// What each response of a realtime session reports.
pub fn realtime_usage() -> Value {
    json!({
        "total_tokens": 253, "input_tokens": 132, "output_tokens": 121,
        "input_token_details": {"text_tokens": 119, "audio_tokens": 13, "image_tokens": 0, "cached_tokens": 64,
            "cached_tokens_details": {"text_tokens": 64, "audio_tokens": 0, "image_tokens": 0}},
        "output_token_details": {"text_tokens": 30, "audio_tokens": 91}
    })
}

/// What each transcription reports.
pub fn transcription_usage() -> Value {
    json!({"type": "tokens", "total_tokens": 35, "input_tokens": 26, "output_tokens": 9,
        "input_token_details": {"text_tokens": 0, "audio_tokens": 26}})
}

/// The answer to a handshake; `None` for any other request.
pub fn answer(request: &SeenRequest) -> Option<Vec<Step>> {
    request.head.get("upgrade")?;
    if request.head.get("authorization") != Some("Bearer sk-test") {
        return Some(api::error(401, "invalid_api_key", "Incorrect API key provided: sk-wrong.").steps());
    }
    let talk: fn(&Value) -> Vec<Value> = match request.target.split('?').next().unwrap() {
        "/v1/realtime" => realtime,
        "/v1/responses" => responses,
        _ => return Some(api::error(404, "not_found", "There is no such socket.").steps()),
    };
    let greeting = (request.target.starts_with("/v1/realtime")).then(|| event("session.created", "session", session()));
    Some(websocket::accept(request, move |tunnel| converse(tunnel, greeting, talk)))
}

fn converse(tunnel: &mut Tunnel, greeting: Option<Value>, talk: fn(&Value) -> Vec<Value>) -> Result<(), Cut> {
    let mut socket = Socket::new(tunnel, Side::Server);
    if let Some(event) = greeting {
        socket.send_json(&event)?;
    }
    while let Some(message) = socket.message()? {
        if message.opcode == CLOSE {
            return socket.send(&message);
        }
        let asked = serde_json::from_slice(&message.payload).map_err(|e| Cut::Malformed(e.to_string()))?;
        for event in talk(&asked) {
            socket.send_json(&event)?;
        }
    }
    Ok(())
}

fn event(kind: &str, name: &str, value: Value) -> Value {
    json!({"type": kind, "event_id": format!("event_{kind}"), name: value})
}

fn session() -> Value {
    json!({"type": "realtime", "object": "realtime.session", "id": "sess_1", "model": "gpt-realtime",
        "output_modalities": ["text"], "instructions": "Say \"usage\".", "tools": [], "tool_choice": "auto"})
}

/// The answers of a realtime session to one event.
fn realtime(asked: &Value) -> Vec<Value> {
    match asked["type"].as_str().unwrap_or_default() {
        "session.update" => vec![event("session.updated", "session", session())],
        "conversation.item.create" => vec![event("conversation.item.added", "item", asked["item"].clone())],
        "input_audio_buffer.append" => Vec::new(),
        "input_audio_buffer.commit" => vec![
            event("input_audio_buffer.committed", "item_id", json!("item_1")),
            json!({"type": "conversation.item.input_audio_transcription.completed", "event_id": "event_t",
                "item_id": "item_1", "content_index": 0, "transcript": "こんにちは", "usage": transcription_usage()}),
        ],
        "response.create" => {
            let response = |status: &str, usage: Value| {
                json!({"object": "realtime.response", "id": "resp_1", "status": status, "status_details": null,
                    "output": [], "conversation_id": "conv_1", "output_modalities": ["text"], "usage": usage})
            };
            let delta = |text: &str| {
                json!({"type": "response.output_text.delta", "event_id": "event_d", "response_id": "resp_1",
                    "item_id": "item_2", "output_index": 0, "content_index": 0, "delta": text})
            };
            vec![
                event("response.created", "response", response("in_progress", Value::Null)),
                delta("Hel"),
                delta("lo 世界 {\"usage\":{\"input_tokens\":1}}"),
                event("response.done", "response", response("completed", realtime_usage())),
            ]
        }
        kind => vec![event(
            "error",
            "error",
            json!({"type": "invalid_request_error", "code": "unknown_event",
            "message": format!("There is no {kind}."), "param": null, "event_id": null}),
        )],
    }
}

/// The answers on a socket of responses to one event; the lane that it names is named again.
fn responses(asked: &Value) -> Vec<Value> {
    let mut events = api::response_events(asked["model"].as_str().unwrap_or("gpt-4.1"));
    for event in &mut events {
        if let Some(lane) = asked.get("stream_id") {
            event["stream_id"] = lane.clone();
        }
    }
    events
}
