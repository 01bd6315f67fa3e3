//! Times the cores that every request passes through, on messages of real size: heads, chunks, events, the usage
//! capture, WebSocket sessions, the request's inspection and the limiter.
//!
//! `cargo bench --bench micro` measures; an argument narrows it to the benchmarks whose name contains it. Throughput is
//! bytes of input a second. Never: a pass or fail; a time depends on the machine.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use flate2::Compression;
use flate2::write::GzEncoder;
use openai_api_proxy::http::chunked::{self, Decoder};
use openai_api_proxy::http::head::{HeadEnd, RequestHead, ResponseHead, storage};
use openai_api_proxy::limit::bucket::{Bucket, Rate};
use openai_api_proxy::limit::limiter::Limiter;
use openai_api_proxy::sse::{self, Splitter};
use openai_api_proxy::usage::capture::{Capture, Coding, Form};
use openai_api_proxy::usage::editor::Editor;
use openai_api_proxy::usage::record::Endpoint;
use openai_api_proxy::usage::request::inspect;
use openai_api_proxy::usage::session::Session;
use std::hint::black_box;
use std::io::Write;

/// A request head as the Python client sends it.
const REQUEST_HEAD: &[u8] = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost:8080\r\n\
    Accept-Encoding: gzip, deflate\r\nConnection: keep-alive\r\nAccept: application/json\r\n\
    Content-Type: application/json\r\nUser-Agent: OpenAI/Python 3.54.0\r\nX-Stainless-Lang: python\r\n\
    X-Stainless-Package-Version: 3.54.0\r\nX-Stainless-OS: Linux\r\nX-Stainless-Arch: x64\r\n\
    X-Stainless-Runtime: CPython\r\nX-Stainless-Runtime-Version: 3.11.7\r\nX-Stainless-Async: false\r\n\
    x-stainless-retry-count: 0\r\nx-stainless-read-timeout: 600\r\n\
    Authorization: Bearer sk-0123456789abcdef0123456789abcdef\r\nX-User-ID: user123\r\nContent-Length: 300\r\n\r\n";
/// A response head as the API sends it.
const RESPONSE_HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nDate: Mon, 23 Nov 2026 09:30:00 GMT\r\n\
    Content-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive\r\n\
    access-control-expose-headers: X-Request-ID\r\nopenai-organization: org-0123456789\r\n\
    openai-processing-ms: 412\r\nopenai-version: 2020-10-01\r\nx-ratelimit-limit-requests: 10000\r\n\
    x-ratelimit-limit-tokens: 200000\r\nx-ratelimit-remaining-requests: 9999\r\n\
    x-ratelimit-remaining-tokens: 199982\r\nx-ratelimit-reset-requests: 8.64s\r\n\
    x-ratelimit-reset-tokens: 5ms\r\nx-request-id: req_0123456789abcdef0123456789abcdef\r\n\
    strict-transport-security: max-age=31536000; includeSubDomains; preload\r\ncf-cache-status: DYNAMIC\r\n\r\n";
const CHUNKS: usize = 200;
/// Base64 in one message of a realtime session: a fifth of a second of sound.
const AUDIO_BYTES: usize = 12_800;
const USAGE: &str = r#"{"prompt_tokens":19,"completion_tokens":200,"total_tokens":219,"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":0,"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}"#;

/// One event of a chat stream.
fn event(choices: &str, usage: &str) -> String {
    format!(
        "data: {{\"id\":\"chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT\",\"object\":\"chat.completion.chunk\",\
         \"created\":1741569952,\"model\":\"gpt-4o-mini-2024-07-18\",\"service_tier\":\"default\",\
         \"system_fingerprint\":\"fp_abc123\",\"choices\":{choices},\"usage\":{usage},\"obfuscation\":\"x7Qp2\"}}\n\n"
    )
}

/// The events of a whole stream that was asked for usage, one string each.
fn events() -> Vec<String> {
    let token = r#"[{"index":0,"delta":{"content":" token"},"logprobs":null,"finish_reason":null}]"#;
    let mut events = vec![event(token, "null"); CHUNKS];
    events.push(event(r#"[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}]"#, "null"));
    events.push(event("[]", USAGE));
    events.push("data: [DONE]\n\n".into());
    events
}

/// A plain completion with a content of `bytes`.
fn completion(bytes: usize) -> Vec<u8> {
    let content: String = "lorem ipsum dolor sit amet ".chars().cycle().take(bytes).collect();
    format!(
        "{{\"id\":\"chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT\",\"object\":\"chat.completion\",\"created\":1741569952,\
         \"model\":\"gpt-4o-mini-2024-07-18\",\"choices\":[{{\"index\":0,\"message\":{{\"role\":\"assistant\",\
         \"content\":\"{content}\",\"refusal\":null}},\"logprobs\":null,\"finish_reason\":\"stop\"}}],\
         \"usage\":{USAGE},\"service_tier\":\"default\",\"system_fingerprint\":\"fp_abc123\"}}"
    )
    .into_bytes()
}

fn heads(c: &mut Criterion) {
    let mut group = c.benchmark_group("head");
    group.throughput(Throughput::Bytes(REQUEST_HEAD.len() as u64));
    group.bench_function("find the end", |b| {
        b.iter(|| HeadEnd::default().find(black_box(REQUEST_HEAD)).expect("a good head"));
    });
    group.bench_function("parse a request", |b| {
        b.iter(|| {
            let mut room = storage();
            RequestHead::parse(black_box(REQUEST_HEAD), &mut room).expect("a good head").headers.len()
        });
    });
    group.throughput(Throughput::Bytes(RESPONSE_HEAD.len() as u64));
    group.bench_function("parse a response", |b| {
        b.iter(|| {
            let mut room = storage();
            ResponseHead::parse(black_box(RESPONSE_HEAD), &mut room, false).expect("a good head").headers.len()
        });
    });
    group.finish();
}

fn streams(c: &mut Criterion) {
    let events = events();
    let plain = events.concat().into_bytes();
    let mut coded = Vec::new();
    for event in &events {
        chunked::write_size(&mut coded, event.len() as u64);
        coded.extend_from_slice(event.as_bytes());
        coded.extend_from_slice(b"\r\n");
    }
    coded.extend_from_slice(chunked::LAST_CHUNK);

    let mut group = c.benchmark_group("stream");
    group.throughput(Throughput::Bytes(coded.len() as u64));
    group.bench_function("walk the chunks", |b| b.iter(|| walk(black_box(&coded))));
    group.throughput(Throughput::Bytes(plain.len() as u64));
    group.bench_function("split into events", |b| b.iter(|| split(black_box(&plain))));
    group.bench_function("capture usage", |b| {
        b.iter(|| capture(Form::Events, Coding::Identity, events.iter().map(String::as_bytes)));
    });
    group.bench_function("take out our usage", |b| {
        b.iter_batched(
            || Vec::with_capacity(plain.len()),
            |mut out| {
                let mut editor = Editor::default();
                for event in &events {
                    editor.feed(event.as_bytes(), &mut out);
                }
                editor.finish(&mut out);
                assert!(out.len() < plain.len());
                out
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

/// Bytes of data in a chunked body.
fn walk(mut input: &[u8]) -> usize {
    let (mut decoder, mut bytes) = (Decoder::default(), 0);
    while !decoder.is_done() {
        let (used, piece) = decoder.next(input).expect("a good body");
        input = &input[used..];
        match piece {
            chunked::Piece::Data(data) => bytes += data.len(),
            chunked::Piece::More => panic!("the body is whole"),
            _ => {}
        }
    }
    bytes
}

/// Number of events in a stream.
fn split(mut input: &[u8]) -> usize {
    let (mut splitter, mut events) = (Splitter::default(), 0);
    loop {
        let (used, piece) = splitter.next(input);
        input = &input[used..];
        match piece {
            sse::Piece::More => return events,
            sse::Piece::Event(true) => events += 1,
            sse::Piece::Event(false) | sse::Piece::Data(_) => {}
        }
    }
}

/// Output tokens that a body reports.
fn capture<'a>(form: Form, coding: Coding, pieces: impl IntoIterator<Item = &'a [u8]>) -> u64 {
    let mut capture = Capture::new(Endpoint::ChatCompletions, form, coding);
    for piece in pieces {
        capture.feed(black_box(piece));
    }
    capture.finish().usage.expect("the body reports its usage").output_tokens
}

/// A realtime session's audio: 200 pieces of it and the response's end, as frames. OpenAI puts the `type` first.
fn audio_session(type_first: bool) -> Vec<u8> {
    let audio = "AAD//wEA/v8DAP3/".repeat(AUDIO_BYTES / 16);
    let (kind, delta) = (r#""type":"response.output_audio.delta""#, format!(r#""item_id":"item_1","delta":"{audio}""#));
    let piece = if type_first { format!("{{{kind},{delta}}}") } else { format!("{{{delta},{kind}}}") };
    let done = r#"{"type":"response.done","response":{"id":"resp_1","usage":{"input_tokens":42,"output_tokens":60}}}"#;
    let mut stream = Vec::new();
    for message in std::iter::repeat_n(piece.as_str(), CHUNKS).chain([done]) {
        let length = u16::try_from(message.len()).expect("a short message");
        stream.extend_from_slice(&[0x81, 126]);
        stream.extend_from_slice(&length.to_be_bytes());
        stream.extend_from_slice(message.as_bytes());
    }
    stream
}

fn sessions(c: &mut Criterion) {
    let mut group = c.benchmark_group("session");
    for (type_first, name) in [(true, "pass over audio"), (false, "pass over audio, its type last")] {
        let stream = audio_session(type_first);
        group.throughput(Throughput::Bytes(stream.len() as u64));
        group.bench_function(name, |b| {
            b.iter(|| {
                let mut session = Session::new(Endpoint::RealtimeSession);
                // Parts of the size of a TLS record.
                let reports = stream.chunks(16 * 1024).filter_map(|part| session.feed(black_box(part)).1);
                assert_eq!(reports.count(), 1);
                session.finish()
            });
        });
    }
    group.finish();
}

fn bodies(c: &mut Criterion) {
    let mut group = c.benchmark_group("body");
    for bytes in [500, 50_000] {
        let body = completion(bytes);
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(format!("capture usage of {bytes} bytes"), |b| {
            b.iter(|| capture(Form::Json, Coding::Identity, [body.as_slice()]));
        });
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(&body).and_then(|()| encoder.try_finish()).expect("memory takes all");
        group.bench_function(format!("capture usage of {bytes} bytes in gzip"), |b| {
            b.iter(|| capture(Form::Json, Coding::Gzip, [encoder.get_ref().as_slice()]));
        });
    }
    for bytes in [300, 100_000] {
        let content: String = "lorem ipsum dolor sit amet ".chars().cycle().take(bytes).collect();
        let body =
            format!(r#"{{"model":"gpt-4o-mini","messages":[{{"role":"user","content":"{content}"}}],"stream":true}}"#);
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(format!("inspect a request of {bytes} bytes"), |b| {
            b.iter(|| inspect(black_box(body.as_bytes()), Endpoint::ChatCompletions, None).splices.len());
        });
    }
    group.finish();
}

fn limits(c: &mut Criterion) {
    const USERS: usize = 10_000;
    let rate = Rate { per_minute: 600, burst: 600 };
    let mut group = c.benchmark_group("limit");
    group.bench_function("take from a bucket", |b| {
        let (mut bucket, mut now) = (Bucket::full(rate, 0), 0);
        b.iter(|| {
            now += 1_000_000;
            bucket.take(black_box(rate), now)
        });
    });
    group.bench_function("admit one of 10,000 users", |b| {
        let users: Vec<String> = (0..USERS).map(|n| format!("user-{n:05}")).collect();
        let (mut limiter, mut now, mut turn) = (Limiter::new(Some(rate)), 0, 0);
        b.iter(|| {
            (now, turn) = (now + 1_000, (turn + 7_919) % USERS);
            limiter.admit(black_box(&users[turn]), now).is_ok()
        });
    });
    group.finish();
}

criterion_group!(benches, heads, streams, sessions, bodies, limits);
criterion_main!(benches);
