//! The table's other half: how much a request asks for, by which price, how it is answered, and where it goes.

use super::rows::{
    CHAT, Comes, ESTIMATED, REPORTED, RESPONSES, Row, UNCLEAR, UNKNOWN, UNMETERED, body, packed, raw, stream,
};
use super::target::Answer;
use serde_json::{Value, json};

/// All of it.
pub fn all() -> Vec<Row> {
    [amounts(), prices(), answers(), endpoints()].into_iter().flatten().collect()
}

fn amounts() -> Vec<Row> {
    let of = |name: &str, members: &str| Row::new(name, CHAT, raw(members));
    let completions = |name: &str, members: Value| Row::new(name, "/v1/completions", members.to_string());
    let instruct = "gpt-3.5-turbo-instruct";
    let numbers: Vec<u64> = (0..8_000).collect();
    let inputs = vec![numbers.clone(); 30];
    vec![
        of("n 20, 1,000 each", r#""n":20,"max_tokens":1000"#),
        of("n as a string", r#""n":"100","max_tokens":1000"#).comes(UNCLEAR, REPORTED),
        of("n as a float", r#""n":100.0,"max_tokens":1000"#).comes(UNCLEAR, REPORTED),
        of("n true", r#""n":true"#).comes(UNCLEAR, REPORTED),
        of("max_output_tokens on chat", r#""max_output_tokens":1"#),
        Row::new("max_tokens on responses", RESPONSES, raw(r#""max_tokens":1"#)),
        of("max_tokens 0", r#""max_tokens":0"#),
        of("max_tokens negative", r#""max_tokens":-1"#),
        of("max_tokens as a string", r#""max_tokens":"16000""#),
        of("max_tokens as a float", r#""max_tokens":1.6e4"#),
        of("max_tokens twice", r#""max_tokens":1,"max_tokens":16000"#).comes(UNCLEAR, REPORTED),
        of("two maxima", r#""max_tokens":1,"max_completion_tokens":16000"#),
        completions("best_of 20", json!({"model": instruct, "prompt": "x", "best_of": 20, "n": 1, "max_tokens": 4000})),
        completions("100 prompts", json!({"model": instruct, "prompt": vec!["x"; 100], "max_tokens": 2000})),
        completions(
            "100 prompts of tokens",
            json!({"model": instruct, "prompt": vec![vec![1]; 100], "max_tokens": 2000}),
        ),
        of("long keys", &format!(r#""max_tokens":1,"tools":[{{"{}":1}}]"#, "a key ".repeat(30_000))),
        of("long text without a space", &format!(r#""max_tokens":1,"user":"{}""#, "a-word_".repeat(30_000))),
        Row::new(
            "embeddings of numbers",
            "/v1/embeddings",
            json!({"model": "text-embedding-3-large", "input": inputs}).to_string(),
        ),
        Row::new(
            "embeddings of many texts",
            "/v1/embeddings",
            json!({"model": "text-embedding-3-large", "input": vec!["four ".repeat(6_000); 30]}).to_string(),
        ),
        Row::new("10 images", "/v1/images/generations", r#"{"model":"gpt-image-1","prompt":"x","n":10}"#),
    ]
}

fn prices() -> Vec<Row> {
    let chat = |name: &str, members: Value| Row::new(name, CHAT, body(members));
    let responses = |name: &str, members: Value| Row::new(name, RESPONSES, body(members));
    let silent = Answer::Fixed(
        "application/json",
        r#"{"id":"run_1","object":"thread.run","status":"queued","usage":null}"#,
        200_000_000,
    );
    vec![
        chat("a name without a price", json!({"model": "alias"})).comes(UNMETERED, REPORTED),
        chat("a name with a space", json!({"model": "gpt-4o "})).comes(UNMETERED, REPORTED),
        chat("a name with a zero byte", json!({"model": "gpt-4o\0"})).comes(UNMETERED, REPORTED),
        chat("no name", json!({"model": null})).comes(UNMETERED, REPORTED),
        chat("service_tier scale", json!({"service_tier": "scale"})).comes(UNMETERED, REPORTED),
        chat("service_tier flex, which it has not", json!({"service_tier": "flex"})).comes(UNMETERED, REPORTED),
        chat("service_tier priority", json!({"service_tier": "priority"})),
        Row::new("a deployment", "/openai/deployments/d/chat/completions?api-version=1", body(json!({}))),
        chat("web_search_options", json!({"web_search_options": {}, "max_tokens": 16})),
        chat(
            "audio of before",
            json!({"messages": [{"role": "assistant", "audio": {"id": "audio_1"}}], "max_tokens": 16}),
        ),
        chat(
            "an image",
            json!({"messages": [{"content": [{"image_url": {"url": "https://a.test"}}]}], "max_tokens": 16}),
        ),
        responses("a tool at the target", json!({"tools": [{"type": "web_search"}], "max_output_tokens": 16})),
        responses("a tool that makes images", json!({"tools": [{"type": "image_generation"}]})),
        responses("previous_response_id", json!({"previous_response_id": "resp_0", "max_output_tokens": 16})),
        responses(
            "item_reference",
            json!({"input": [{"type": "item_reference", "id": "msg_1"}], "max_output_tokens": 16}),
        ),
        responses("an item by its id", json!({"input": [{"id": "msg_1"}], "max_output_tokens": 16})),
        responses("background", json!({"background": true})).comes(ESTIMATED, UNKNOWN),
        responses("background \"true\"", json!({"background": "true"})).comes(ESTIMATED, UNKNOWN),
        responses("background []", json!({"background": []})).comes(UNCLEAR, UNKNOWN),
        Row::new("a run of an assistant", "/v1/threads/t/runs", r#"{"assistant_id":"a"}"#)
            .answered(silent.clone())
            .comes(UNMETERED, UNKNOWN),
        Row::new("a run of a model", "/v1/threads/t/runs", r#"{"assistant_id":"a","model":"gpt-4o"}"#)
            .answered(silent.clone())
            .comes(UNKNOWN, UNKNOWN),
        Row::new("a run that goes on", "/v1/threads/t/runs/r/submit_tool_outputs", r#"{"tool_outputs":[]}"#)
            .answered(silent)
            .comes(UNMETERED, UNKNOWN),
    ]
}

fn answers() -> Vec<Row> {
    let streamed = |name: &str, answer: Answer| Row::new(name, CHAT, stream()).answered(answer).edited();
    let plain = |name: &str, answer: Answer| Row::new(name, CHAT, body(json!({}))).answered(answer);
    let zeros = Answer::Early(r#"{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}"#);
    let ones = Answer::Early(r#"{"prompt_tokens":7,"completion_tokens":1,"total_tokens":8}"#);
    let leaving = |row: Row, free: Comes| Row { leaves: true, ..row }.comes(Comes::Through("drained"), free);
    vec![
        streamed("a stream called json", Answer::Called("application/json")),
        streamed("a stream called text", Answer::Called("text/plain")),
        streamed("a stream called octet-stream", Answer::Called("application/octet-stream")),
        streamed("a stream called nothing", Answer::Called("")),
        plain("json called a stream", Answer::Called("text/event-stream")),
        plain("json called html", Answer::Called("text/html")),
        plain("json called nothing", Answer::Called("")),
        plain("gzip that was not asked for", Answer::Gzip("gzip")),
        plain("gzip called br", Answer::Gzip("br")).comes(UNKNOWN, UNKNOWN),
        streamed("a gzip stream that was not asked for", Answer::Gzip("gzip")),
        streamed("a gzip stream called br", Answer::Gzip("br")).comes(UNKNOWN, UNKNOWN),
        streamed("a stream that never reports", Answer::Silent).comes(ESTIMATED, ESTIMATED),
        streamed("zeros at first, and a cut", zeros).comes(ESTIMATED, ESTIMATED),
        streamed("ones at first, and a cut", ones).comes(ESTIMATED, ESTIMATED),
        leaving(streamed("a stream that is left", Answer::Honest), ESTIMATED),
        leaving(plain("json that is left", Answer::Honest), UNKNOWN),
        leaving(Row::new("responses that are left", RESPONSES, stream()), ESTIMATED),
    ]
}

fn endpoints() -> Vec<Row> {
    const FORM: (&str, &str) = ("content-type", "multipart/form-data; boundary=b");
    const USD: u64 = 200_000_000;
    let field = |(name, value): &(&str, &str)| {
        format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
    };
    let form = |fields: &[(&str, &str)]| fields.iter().map(field).collect::<String>() + "--b--\r\n";
    let heard = |name: &str, path: &str, fields: &[(&str, &str)], kind: &'static str, text: &'static str, cost| {
        Row::new(name, path, form(fields)).fields(&[FORM]).answered(Answer::Fixed(kind, text, cost))
    };
    let silent = |name: &str, path: &str, text: &str| {
        let answer = Answer::Fixed("application/json", r#"{"id":"x_1","object":"x","status":"queued"}"#, USD);
        Row::new(name, path, text).answered(answer).comes(UNMETERED, UNKNOWN)
    };
    let words = "/v1/audio/transcriptions";
    let sound = Answer::Fixed("audio/mpeg", "ID3ID3", USD);
    // gpt-4o-mini-tts: 10 micro-dollars a token of sound.
    let spoken = "data: {\"type\":\"speech.audio.done\",\"usage\":{\"input_tokens\":0,\"output_tokens\":1000,\"total_tokens\":1000}}\n\n";
    let minute = r#"{"text":"hello","usage":{"type":"duration","seconds":60}}"#;
    let twenty = r#"{"text":"hello","usage":{"type":"duration","seconds":1200}}"#;
    let disposition = "Content-Disposition: form-data; name=\"file\"; filename=\"a.mp3\"";
    let sound_file = format!("--b\r\n{disposition}\r\n\r\n{}\r\n--b--", "sound".repeat(200_000));
    let whisper = ("model", "whisper-1");
    vec![
        silent("videos", "/v1/videos", r#"{"model":"sora-2-pro","prompt":"x"}"#),
        // What it costs, its retrievals say.
        silent("batches", "/v1/batches", r#"{"input_file_id":"f","endpoint":"/v1/chat/completions"}"#)
            .answered(Answer::Fixed("application/json", r#"{"id":"batch_1","object":"batch","usage":null}"#, 0))
            .comes(UNMETERED, Comes::Through("none")),
        silent("evals runs", "/v1/evals/e/runs", "{}"),
        silent("fine-tuning", "/v1/fine_tuning/jobs", r#"{"model":"gpt-4o"}"#),
        silent("client secrets", "/v1/realtime/client_secrets", "{}"),
        silent("realtime calls", "/v1/realtime/calls", "v=0"),
        silent("containers", "/v1/containers", "{}"),
        silent("an unknown path", "/v1/rerank", "{}"),
        silent("an unknown path behind a free one", "/v1/files/x/rerank", "{}"),
        Row::new("speech as a file", "/v1/audio/speech", r#"{"model":"gpt-4o-mini-tts","input":"x"}"#)
            .answered(sound.clone())
            .comes(UNMETERED, UNKNOWN),
        Row::new(
            "speech as a file, called sse by mistake",
            "/v1/audio/speech",
            r#"{"model":"gpt-4o-mini-tts","stream_format":["sse"]}"#,
        )
        .answered(sound)
        .comes(UNMETERED, UNKNOWN),
        Row::new(
            "speech as events",
            "/v1/audio/speech",
            r#"{"model":"gpt-4o-mini-tts","input":"x","stream_format":"sse"}"#,
        )
        .answered(Answer::Fixed("text/event-stream", spoken, 12_000_000)),
        Row::new("a form, compressed", words, packed("gzip", form(&[whisper]).as_bytes()))
            .fields(&[FORM, ("content-encoding", "gzip")])
            .answered(Answer::Fixed("application/json", minute, 6_000_000))
            .comes(UNCLEAR, REPORTED),
        Row::new("twenty minutes", words, form(&[whisper]).replace("--b--", &sound_file))
            .fields(&[FORM])
            .answered(Answer::Fixed("application/json", twenty, 120_000_000)),
        Row { method: "GET", ..Row::new("an unknown socket", "/v1/socket?model=gpt-4o-mini", "") }
            .fields(&[
                ("upgrade", "websocket"),
                ("connection", "upgrade"),
                ("sec-websocket-version", "13"),
                ("sec-websocket-key", "x"),
            ])
            .answered(Answer::Fixed("text/plain", "", USD))
            .comes(UNMETERED, UNKNOWN),
        heard("a transcription", words, &[whisper], "application/json", minute, 6_000_000),
        heard(
            "a transcription as text",
            words,
            &[whisper, ("response_format", "text")],
            "text/plain",
            "hello",
            6_000_000,
        )
        .comes(UNMETERED, UNKNOWN),
        heard("a transcription as srt", words, &[("response_format", "srt"), whisper], "text/plain", "1\n", 6_000_000)
            .comes(UNMETERED, UNKNOWN),
        heard(
            "a transcription as json and text",
            words,
            &[whisper, ("response_format", "json"), ("response_format", "text")],
            "text/plain",
            "hello",
            6_000_000,
        )
        .comes(UNMETERED, UNKNOWN),
        heard(
            "a translation",
            "/v1/audio/translations",
            &[whisper],
            "application/json",
            "{\"text\":\"hello\"}",
            6_000_000,
        )
        .comes(UNMETERED, UNKNOWN),
    ]
}
