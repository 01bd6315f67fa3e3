//! A small imitation of the API for tests that need real shapes but no recording: chat, legacy completions, responses
//! and embeddings, plain and streamed; usage in a stream of chunks only where it is asked for; errors.

use super::script::Reply;
use super::upstream::SeenRequest;
use serde_json::{Value, json};

/// What each chat completion reports.
pub fn chat_usage() -> Value {
    json!({
        "prompt_tokens": 19, "completion_tokens": 10, "total_tokens": 29,
        "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 3, "audio_tokens": 0,
            "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0}
    })
}

/// What each legacy completion reports.
pub fn completion_usage() -> Value {
    json!({"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12})
}

/// What each response reports.
pub fn response_usage() -> Value {
    json!({
        "input_tokens": 36, "input_tokens_details": {"cached_tokens": 16}, "output_tokens": 87,
        "output_tokens_details": {"reasoning_tokens": 64}, "total_tokens": 123
    })
}

/// What each embedding reports.
pub fn embedding_usage() -> Value {
    json!({"prompt_tokens": 8, "total_tokens": 8})
}

/// The answer to a request.
pub fn answer(request: &SeenRequest) -> Reply {
    let path = request.target.split('?').next().unwrap();
    let reply = match (request.method.as_str(), path) {
        ("POST", "/v1/chat/completions" | "/v1/completions" | "/v1/responses" | "/v1/embeddings") => create(request, path),
        ("GET", "/v1/models") => Reply::json(
            json!({"object": "list", "data": [{"id": "gpt-4o", "object": "model", "created": 1, "owned_by": "openai"}]})
                .to_string(),
        ),
        _ => error(404, "not_found", &format!("Invalid URL ({} {path})", request.method)),
    };
    reply.field("x-request-id", "req_0123456789abcdef0123456789abcdef").field("openai-processing-ms", "12")
}

/// An error as the API words it.
pub fn error(status: u16, code: &str, message: &str) -> Reply {
    let error = json!({"message": message, "type": "invalid_request_error", "param": null, "code": code});
    let mut reply = Reply::json(json!({ "error": error }).to_string());
    reply.status = status;
    reply
}

fn create(request: &SeenRequest, path: &str) -> Reply {
    let body = request.json();
    let Some(model) = body["model"].as_str() else {
        return error(400, "missing_required_parameter", "you must provide a model parameter");
    };
    if model == "missing" {
        return error(404, "model_not_found", "The model `missing` does not exist or you do not have access to it.");
    }
    let stream = body["stream"] == true;
    match path {
        "/v1/responses" if stream => responses_stream(model),
        "/v1/responses" => Reply::json(response(model, "completed", response_usage()).to_string()),
        "/v1/embeddings" => {
            // Two 32-bit floats in base64, as SDKs ask for them, or plain numbers.
            let vector = if body["encoding_format"] == "base64" { json!("AACAPwAAAEA=") } else { json!([1.0, 2.0]) };
            let data = json!([{"object": "embedding", "index": 0, "embedding": vector}]);
            let body = json!({"object": "list", "data": data, "model": model, "usage": embedding_usage()});
            Reply::json(format!("{body:#}"))
        }
        "/v1/chat/completions" if stream => chunk_stream(&body, model, "chat.completion.chunk", &chat_usage()),
        "/v1/chat/completions" => Reply::json(format!("{:#}", chat(model))),
        _ if stream => chunk_stream(&body, model, "text_completion", &completion_usage()),
        _ => Reply::json(
            json!({"id": "cmpl-1", "object": "text_completion", "created": 1_741_569_952, "model": dated(model),
                "choices": [{"text": " Hello", "index": 0, "logprobs": null, "finish_reason": "stop"}],
                "usage": completion_usage()})
            .to_string(),
        ),
    }
}

/// The API answers with the snapshot that an alias stands for.
fn dated(model: &str) -> String {
    format!("{model}-2024-08-06")
}

fn chat(model: &str) -> Value {
    json!({
        "id": "chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT", "object": "chat.completion", "created": 1_741_569_952,
        "model": dated(model), "service_tier": "default", "system_fingerprint": "fp_1",
        "choices": [{"index": 0, "finish_reason": "stop", "logprobs": null, "message": {
            "role": "assistant", "content": "こんにちは。How can I help? {\"usage\":null}", "refusal": null, "annotations": []}}],
        "usage": chat_usage()
    })
}

fn chunk_stream(body: &Value, model: &str, object: &str, usage: &Value) -> Reply {
    let asked = body["stream_options"]["include_usage"] == true;
    let chat = object == "chat.completion.chunk";
    let mut events = String::new();
    let mut event = |choices: Value, usage: Option<&Value>| {
        let mut chunk = json!({"id": "chatcmpl-1", "object": object, "created": 1_741_569_952, "model": dated(model),
            "service_tier": "default", "choices": choices, "obfuscation": "Xy"});
        if let Some(usage) = usage {
            chunk["usage"] = usage.clone();
        }
        events.push_str(&format!("data: {chunk}\n\n"));
    };
    let null = asked.then_some(&Value::Null);
    for (i, word) in ["", "Hel", "lo", " \"usage\":null", " 世界"].iter().enumerate() {
        event(
            if !chat {
                json!([{"text": word, "index": 0, "logprobs": null, "finish_reason": null}])
            } else if i == 0 {
                json!([{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": null}])
            } else {
                json!([{"index": 0, "delta": {"content": word}, "finish_reason": null}])
            },
            null,
        );
    }
    let last = if chat {
        json!({"index": 0, "delta": {}, "finish_reason": "stop"})
    } else {
        json!({"text": "", "index": 0, "logprobs": null, "finish_reason": "stop"})
    };
    event(json!([last]), null);
    if asked {
        event(json!([]), Some(usage));
    }
    events.push_str("data: [DONE]\n\n");
    Reply::sse(events)
}

fn response(model: &str, status: &str, usage: Value) -> Value {
    let text = json!({"type": "output_text", "text": "Hello", "annotations": []});
    let message =
        json!({"type": "message", "id": "msg_1", "status": "completed", "role": "assistant", "content": [text]});
    let output = if status == "completed" { json!([message]) } else { json!([]) };
    json!({
        "id": "resp_67ccd2bed1ec8190b14f964abc0542670bb6a6b452d3795b", "object": "response",
        "created_at": 1_741_476_542, "status": status, "error": null, "incomplete_details": null,
        "instructions": null, "max_output_tokens": null, "model": dated(model), "output": output,
        "parallel_tool_calls": true, "previous_response_id": null,
        "reasoning": {"effort": null, "summary": null}, "store": true, "temperature": 1.0,
        "text": {"format": {"type": "text"}}, "tool_choice": "auto", "tools": [], "top_p": 1.0,
        "truncation": "disabled", "usage": usage, "user": null, "metadata": {}
    })
}

fn responses_stream(model: &str) -> Reply {
    let line = |event: Value| format!("event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap());
    Reply::sse(response_events(model).into_iter().map(line).collect::<String>())
}

/// The events of one response, streamed or on a WebSocket.
pub fn response_events(model: &str) -> Vec<Value> {
    let delta = |n: u64, text: &str| {
        json!({"type": "response.output_text.delta", "item_id": "msg_1", "output_index": 0, "content_index": 0,
            "delta": text, "logprobs": [], "sequence_number": n})
    };
    let of = |kind: &str, n: u64, status: &str, usage: Value| json!({"type": format!("response.{kind}"), "response": response(model, status, usage), "sequence_number": n});
    vec![
        of("created", 0, "in_progress", Value::Null),
        of("in_progress", 1, "in_progress", Value::Null),
        delta(2, "Hel"),
        delta(3, "lo"),
        of("completed", 4, "completed", response_usage()),
    ]
}
