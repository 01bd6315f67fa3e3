//! What models of sound and pictures consume, through the binary: the model that a form names, the images that an
//! answer holds, and what neither may be priced by. Left to others: how a form and an answer are read (beside
//! `src/usage`), the prices (beside `src/price`), answers of every endpoint (`transparency/endpoints`).

mod support;

use serde_json::{Value, json};
use support::client::Client;
use support::proxy::Proxy;
use support::rng::Rng;
use support::script::{Reply, chunk};
use support::upstream::{SeenRequest, Upstream};

const FORM: &str = "multipart/form-data; boundary=\"--a boundary\"";
const MINUTE: &str = r#"{"text":"hello","usage":{"type":"duration","seconds":60}}"#;

/// A file that could be taken for half a form, and the fields around it.
fn form(before: &[(&str, &str)], after: &[(&str, &str)]) -> Vec<u8> {
    let field = |(name, value): &(&str, &str)| {
        format!("----a boundary\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
    };
    let fields = |fields: &[(&str, &str)]| fields.iter().map(field).collect::<String>();
    let head = "----a boundary\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\n\r\n";
    let fake = "RIFF\r\n\r\n----a boundar\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nfake\r\n";
    let mut body = (fields(before) + head + fake).into_bytes();
    body.extend((0..200_000u32).map(|i| (i ^ i >> 7) as u8));
    body.extend_from_slice(format!("\r\n{}----a boundary--\r\n", fields(after)).as_bytes());
    body
}

/// Posts a body of this type in pieces, chunked or not, and reads the record of it.
fn record_of(target_prefix: &str, path: &str, kind: &str, body: &[u8], answer: Reply) -> Value {
    let upstream = Upstream::plain(move |_: &SeenRequest| answer.steps());
    let target = upstream.url() + target_prefix;
    let proxy = Proxy::start(&[("PROXY_TARGET", &target), ("MODEL_NAME", "never-in-a-form")]);
    let mut rng = Rng::from_env();
    let mut client = Client::connect(proxy.addr());
    let head = format!("POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: {kind}\r\n");
    if rng.coin() {
        client.send(format!("{head}content-length: {}\r\n\r\n", body.len()));
        rng.cut(body, 7).into_iter().for_each(|piece| client.send(piece));
    } else {
        client.send(format!("{head}transfer-encoding: chunked\r\n\r\n"));
        rng.cut(body, 7).into_iter().filter(|piece| !piece.is_empty()).for_each(|piece| client.send(chunk(piece)));
        client.send("0\r\n\r\n");
    }
    client.response("POST").expect(200);
    assert!(upstream.requests()[0].body == body, "the body passes as it is");
    proxy.only_row("anonymous")
}

fn transcription(path: &str, body: &[u8], answer: Reply) -> Value {
    record_of("", path, FORM, body, answer)
}

/// A video costs dollars, and its answer names no use: that is no zero.
#[test]
fn what_costs_and_does_not_say_so_is_unknown_and_what_is_free_is_none() {
    let video = r#"{"id":"video_1","object":"video","status":"queued","model":"sora-2-pro","seconds":"12"}"#;
    for (path, source, cost) in [
        ("/v1/videos", "unknown", Value::Null),
        ("/v1/evals/eval_1/runs", "unknown", Value::Null),
        ("/no/such/path", "unknown", Value::Null),
        ("/v1/vector_stores", "none", json!(0)),
        ("/v1/uploads/upload_1/complete", "none", json!(0)),
    ] {
        let row = record_of("", path, "application/json", br#"{"model":"sora-2-pro"}"#, Reply::json(video));
        assert_eq!((&row["usage_source"], &row["cost_nano_usd"]), (&json!(source), &cost), "{path}");
    }
}

#[test]
fn the_model_of_a_form_has_a_price_wherever_it_stands() {
    for body in [form(&[("model", "whisper-1")], &[]), form(&[("response_format", "json")], &[("model", "whisper-1")])]
    {
        let row = transcription("/v1/audio/transcriptions", &body, Reply::json(MINUTE));
        assert_eq!((&row["model_requested"], &row["model"]), (&json!("whisper-1"), &Value::Null));
        // whisper-1: 0.006 USD a minute.
        assert_eq!((&row["audio_seconds"], &row["cost_nano_usd"]), (&json!(60), &json!(6_000_000)));
    }
    for nothing in [form(&[], &[]), form(&[("model", "whisper-1")], &[("model", "gpt-4o-transcribe")])] {
        let row = transcription("/v1/audio/transcriptions", &nothing, Reply::json(MINUTE));
        assert_eq!((&row["model_requested"], &row["cost_nano_usd"]), (&Value::Null, &Value::Null));
    }
}

#[test]
fn the_head_names_the_model_where_the_body_does_not() {
    let answer = Reply::json(MINUTE).field("OpenAI-Model", "whisper-1");
    let row = transcription("/v1/audio/transcriptions", &form(&[("model", "mine")], &[]), answer);
    assert_eq!((&row["model"], &row["cost_nano_usd"]), (&json!("whisper-1"), &json!(6_000_000)));
    let named = r#"{"model":"gpt-4o-2024-08-06","usage":{"prompt_tokens":3,"completion_tokens":0}}"#;
    let answer = Reply::json(named).field("openai-model", "gpt-4o");
    let row = record_of("", "/v1/chat/completions", "application/json", br#"{"model":"x"}"#, answer);
    assert_eq!((&row["model"], &row["cost_nano_usd"]), (&json!("gpt-4o-2024-08-06"), &json!(7_500)));
}

#[test]
fn a_deployment_is_shown_but_never_priced() {
    let path = "/openai/deployments/whisper%2D1/audio/transcriptions?api-version=2024-06-01";
    let row = transcription(path, &form(&[], &[]), Reply::json(MINUTE));
    assert_eq!((&row["model_requested"], &row["model"]), (&json!("whisper-1"), &Value::Null));
    assert_eq!(row["cost_nano_usd"], Value::Null);
    // Azure passes over what the form says; only the answer knows.
    let with_model = form(&[], &[("model", "whisper-1")]);
    assert_eq!(transcription(path, &with_model, Reply::json(MINUTE))["cost_nano_usd"], Value::Null);
    let row = record_of("/openai/deployments/d", "/audio/transcriptions", FORM, &with_model, Reply::json(MINUTE));
    assert_eq!((&row["model_requested"], &row["cost_nano_usd"]), (&json!("whisper-1"), &Value::Null));
    let answer = Reply::json(MINUTE).field("x-ms-served-model", "whisper-1");
    let row = transcription(path, &form(&[], &[]), answer);
    assert_eq!((&row["model"], &row["cost_nano_usd"]), (&json!("whisper-1"), &json!(6_000_000)));
    // Nothing consumed costs nothing, whatever runs there.
    let silent = Reply::json(r#"{"text":"","usage":{"type":"duration","seconds":0}}"#);
    assert_eq!(transcription(path, &form(&[], &[]), silent)["cost_nano_usd"], json!(0));
}

#[test]
fn a_realtime_session_is_recorded_with_the_model_of_its_query() {
    let upstream = Upstream::plain(|_| Reply::new(426, "a WebSocket is wanted").steps());
    let proxy = Proxy::start(&[("PROXY_TARGET", &upstream.url())]);
    for (user, query, model) in [
        ("a", "model=gpt-realtime%2D2025", json!("gpt-realtime-2025")),
        ("b", "api-version=1&deployment=mine", json!("mine")),
        ("c", "call_id=rtc_1", Value::Null),
    ] {
        let target = format!("/v1/realtime?{query}");
        Client::connect(proxy.addr()).request("GET", &target, &[("X-User-ID", user)], b"").expect(426);
        assert_eq!(proxy.only_row(user)["model_requested"], model, "{query}");
    }
}

#[test]
fn images_by_their_number_and_size_or_by_their_tokens() {
    let images = |path: &str, kind: &str, body: &[u8], answer: Reply| {
        let row = record_of("", path, kind, body, answer);
        let numbers = ["images", "output_tokens", "cost_nano_usd"].map(|column| row[column].clone());
        (row["usage_source"].as_str().unwrap().to_owned(), numbers)
    };
    let reported = |numbers: [Value; 3]| ("reported".to_owned(), numbers);
    let request = br#"{"model":"gpt-image-1","prompt":"otter","n":2}"#;
    let image = format!(r#"{{"b64_json":"{}"}}"#, "iVBO".repeat(50_000));
    let sized = format!(r#"{{"created":1,"data":[{image},{image}],"quality":"low","size":"1024x1536"}}"#);
    let got = images("/v1/images/generations", "application/json", request, Reply::json(sized.clone()));
    // 0.016 USD each.
    assert_eq!(got, reported([json!(2), json!(0), json!(32_000_000)]));
    let got = images("/v1/images/edits", FORM, &form(&[("model", "gpt-image-1")], &[]), Reply::json(sized));
    assert_eq!(got, reported([json!(2), json!(0), json!(32_000_000)]));
    let unsized_image = Reply::json(r#"{"created":1,"data":[{"url":"https://a.test/1"}]}"#);
    let got = images("/v1/images/variations", FORM, &form(&[("model", "dall-e-2")], &[]), unsized_image);
    assert_eq!(got, reported([json!(1), json!(0), Value::Null]));
    let partial = r#"{"type":"image_generation.partial_image","b64_json":"iVBO","size":"1024x1024","quality":"high"}"#;
    let done = r#"{"type":"image_generation.completed","b64_json":"iVBO","size":"1024x1024","quality":"high","usage":{"total_tokens":110,"input_tokens":10,"output_tokens":100,"input_tokens_details":{"text_tokens":10,"image_tokens":0}}}"#;
    let stream = Reply::sse(format!("data: {partial}\n\ndata: {partial}\n\ndata: {done}\n\n"));
    let got = images("/v1/images/generations", "application/json", request, stream);
    // 5 USD a million tokens of text, 40 of an image.
    assert_eq!(got, reported([json!(1), json!(100), json!(10 * 5_000 + 100 * 40_000)]));
}
