//! Times the cores that every request passes through, on messages of real size: heads, chunks, events, WebSocket
//! sessions, the request's inspection, the limiter and the metrics; and what reading its usage adds to the relaying of
//! each kind of body.
//!
//! `cargo bench --bench micro` measures; an argument narrows it to the benchmarks whose name contains it. Throughput is
//! bytes of input a second, of a compressed body its decoded ones. Never: a pass or fail; a time depends on the machine.

#![allow(clippy::disallowed_methods)] // the bench keeps its own time

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use flate2::Compression;
use flate2::write::GzEncoder;
use openai_api_proxy::base::clock::Now;
use openai_api_proxy::http::chunked::{self, Decoder};
use openai_api_proxy::http::head::{HeadEnd, RequestHead, ResponseHead, storage};
use openai_api_proxy::limit::bucket::Rate;
use openai_api_proxy::limit::budget::{Cost, SpendSums};
use openai_api_proxy::limit::levels::{Levels, LimitLevel, Payer};
use openai_api_proxy::limit::limiter::{Limiter, Used};
use openai_api_proxy::limit::overrides::{Limits, Overrides};
use openai_api_proxy::limit::reservation::{Money, ReservationRequest};
use openai_api_proxy::metrics::{self, Gauges, Metrics};
use openai_api_proxy::sse::{self, Splitter};
use openai_api_proxy::usage::inspect::inspect;
use openai_api_proxy::usage::reader::{Coding, Form, UsageReader};
use openai_api_proxy::usage::record::{Endpoint, Record, Usage};
use openai_api_proxy::usage::session::Session;
use std::hint::black_box;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

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

/// The events of a whole stream of so many tokens that was asked for usage, one string each.
fn events(tokens: usize) -> Vec<String> {
    let token = r#"[{"index":0,"delta":{"content":" token"},"logprobs":null,"finish_reason":null}]"#;
    let mut events = vec![event(token, "null"); tokens];
    events.push(event(r#"[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}]"#, "null"));
    events.push(event("[]", USAGE));
    events.push("data: [DONE]\n\n".into());
    events
}

/// The events of a stream of the responses endpoint of so many tokens, one string each.
fn response_events(tokens: usize) -> Vec<String> {
    let id = "resp_67ccd2bed1ec8190b14f964abc0542670bb6a6b452d3795b";
    let of = |kind: &str, usage: &str| {
        format!(
            "event: response.{kind}\ndata: {{\"type\":\"response.{kind}\",\"response\":{{\"id\":\"{id}\",\
             \"object\":\"response\",\"model\":\"gpt-4.1-2025-04-14\",\"output\":[],\"usage\":{usage}}},\
             \"sequence_number\":0}}\n\n"
        )
    };
    let delta = "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\
        \"item_id\":\"msg_67ccd2bf17f0819081ff3bb2cf6508e60bb6a6b452d3795b\",\"output_index\":0,\"content_index\":0,\
        \"delta\":\" token\",\"logprobs\":[],\"obfuscation\":\"x7Qp2kLm\",\"sequence_number\":4}\n\n";
    let mut events = vec![of("created", "null"), of("in_progress", "null")];
    events.extend(std::iter::repeat_n(delta.to_owned(), tokens));
    events.push(of("completed", r#"{"input_tokens":19,"output_tokens":200,"total_tokens":219}"#));
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
            RequestHead::parse(black_box(REQUEST_HEAD), &mut room).expect("a good head").headers.lines().len()
        });
    });
    group.throughput(Throughput::Bytes(RESPONSE_HEAD.len() as u64));
    group.bench_function("parse a response", |b| {
        b.iter(|| {
            let mut room = storage();
            ResponseHead::parse(black_box(RESPONSE_HEAD), &mut room, false).expect("a good head").headers.lines().len()
        });
    });
    group.finish();
}

fn streams(c: &mut Criterion) {
    let events = events(CHUNKS);
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
    group.bench_function("read, and take out our usage", |b| {
        b.iter_batched(
            || Vec::with_capacity(plain.len()),
            |mut out| {
                let mut reader = UsageReader::new(Endpoint::ChatCompletions, Form::Events, Coding::Identity, true);
                for event in &events {
                    reader.feed(event.as_bytes(), &mut out).expect("it is not compressed");
                }
                reader.end(&mut out);
                assert!(out.len() < plain.len());
                (reader.finish(), out)
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
            sse::Piece::Event(true) | sse::Piece::Whole(_) => events += 1,
            _ => {}
        }
    }
}

/// What reading adds: each body relayed as it comes from a socket, with and without the reader beside. What is relayed is
/// copied once, which is the least that a relay does.
fn captures(c: &mut Criterion) {
    let mut group = c.benchmark_group("capture");
    for relayed in relayed() {
        group.throughput(Throughput::Bytes(relayed.bytes as u64));
        group.bench_function(format!("{}, relayed only", relayed.name), |b| {
            b.iter(|| relay(&relayed.reads, |_| {}));
        });
        group.bench_function(format!("{}, captured", relayed.name), |b| {
            b.iter(|| {
                let mut reader = UsageReader::new(relayed.endpoint, relayed.form, relayed.coding, false);
                relay(&relayed.reads, |read| reader.feed(read, &mut Vec::new()).expect("it is not edited"));
                reader.finish().usage.expect("the body reports its usage")
            });
        });
    }
    group.finish();
}

/// The answer to a request for so many embeddings, as numbers that look like the API's.
fn embeddings(count: u32) -> String {
    let number = |n: u32| f64::from(n.wrapping_mul(2_654_435_761).rotate_left(7).wrapping_mul(n | 1)) / 1e11 - 0.02;
    let vector = |index: u32| {
        let numbers: Vec<String> = (0..1536).map(|n| format!("{:.18}", number(index * 1536 + n))).collect();
        format!("{{\"object\":\"embedding\",\"index\":{index},\"embedding\":[{}]}}", numbers.join(","))
    };
    let data: Vec<String> = (0..count).map(vector).collect();
    format!("{{\"object\":\"list\",\"data\":[{}],\"model\":\"m\",\"usage\":{USAGE}}}", data.join(","))
}

/// A body as it is relayed.
struct Relayed {
    name: &'static str,
    endpoint: Endpoint,
    form: Form,
    coding: Coding,
    /// What each read of the socket brings.
    reads: Vec<Vec<u8>>,
    /// Its length, decoded.
    bytes: usize,
}

/// Every kind of body whose reading differs.
fn relayed() -> Vec<Relayed> {
    const READ_BYTES: usize = 16 * 1024;
    let in_reads = |body: &[u8]| body.chunks(READ_BYTES).map(<[u8]>::to_vec).collect();
    let by_event = |events: &[String]| events.iter().map(|event| event.clone().into_bytes()).collect();
    let of = |name, endpoint, form, reads: Vec<Vec<u8>>| {
        let bytes = reads.iter().map(Vec::len).sum();
        Relayed { name, endpoint, form, coding: Coding::Identity, reads, bytes }
    };
    let (chat, responses) = (Endpoint::ChatCompletions, Endpoint::Responses);
    let image = format!(r#"{{"created":1,"data":[{{"b64_json":"{}"}}],"usage":{USAGE}}}"#, "iVBORw0K".repeat(375_000));
    let embeddings = embeddings(16);
    let packed = |name, body: &[u8]| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(body).and_then(|()| encoder.try_finish()).expect("memory takes all");
        let reads = in_reads(encoder.get_ref());
        Relayed { coding: Coding::Gzip, bytes: body.len(), ..of(name, chat, Form::Json, reads) }
    };
    vec![
        of("chat stream, an event a read", chat, Form::Events, by_event(&events(CHUNKS))),
        of("chat stream, 16 KiB a read", chat, Form::Events, in_reads(events(20 * CHUNKS).concat().as_bytes())),
        of("responses stream, an event a read", responses, Form::Events, by_event(&response_events(CHUNKS))),
        of(
            "responses stream, 16 KiB a read",
            responses,
            Form::Events,
            in_reads(response_events(20 * CHUNKS).concat().as_bytes()),
        ),
        of("JSON of 500 bytes", chat, Form::Json, in_reads(&completion(500))),
        of("JSON of 50,000 bytes", chat, Form::Json, in_reads(&completion(50_000))),
        of("JSON with an image of 3 MB", Endpoint::ImagesGenerations, Form::Json, in_reads(image.as_bytes())),
        of("JSON of 16 embeddings", Endpoint::Embeddings, Form::Json, in_reads(embeddings.as_bytes())),
        packed("JSON of 50,000 bytes in gzip", &completion(50_000)),
        packed("JSON of 16 embeddings in gzip", embeddings.as_bytes()),
    ]
}

/// Copies each read into a buffer that is emptied as a socket would take it, with `beside` reading along.
fn relay(reads: &[Vec<u8>], mut beside: impl FnMut(&[u8])) -> usize {
    let mut out = Vec::with_capacity(16 * 1024);
    let mut sent = 0;
    for read in reads {
        let read = black_box(read.as_slice());
        beside(read);
        out.extend_from_slice(read);
        sent += black_box(&out).len();
        out.clear();
    }
    sent
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
                let reports =
                    stream.chunks(16 * 1024).filter_map(|part| session.feed(Now::default(), black_box(part)).1);
                assert_eq!(reports.count(), 1);
                session.finish()
            });
        });
    }
    group.finish();
}

fn bodies(c: &mut Criterion) {
    let mut group = c.benchmark_group("body");
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

/// A request's whole life under all limits: admitted, charged, released. Of a user alone, and of the team and everybody
/// as well.
fn limits(c: &mut Criterion) {
    // A minute of it is more than all requests of a run take, also from what all share.
    const PLENTY: u64 = 1_000_000_000_000;
    let mut group = c.benchmark_group("limit");
    let rate = |per_minute| Some(Rate { per_minute, burst: per_minute });
    let limits = Limits {
        requests: rate(PLENTY),
        tokens: rate(PLENTY),
        concurrent: Some(8),
        day_nano_usd: Some(u64::MAX),
        month_nano_usd: Some(u64::MAX),
    };
    let money = Money { nano_usd: 70_000, least_nano_usd: 70_000, may_share: false };
    let ask = ReservationRequest { tokens: 900, guessed: false, money: Some(money) };
    let of_team = Overrides {
        rpm: Some(PLENTY),
        tpm: Some(PLENTY),
        concurrent: Some(8),
        day_nano_usd: Some(1 << 60),
        month_nano_usd: Some(1 << 60),
    };
    for (levels, count) in [(1, 10), (3, 10), (1, 100_000), (3, 100_000)] {
        group.bench_function(format!("one request under all limits at {levels} levels, of {count} users"), |b| {
            let users: Vec<Arc<str>> = (0..count).map(|n| format!("user-{n:05}").into()).collect();
            let of_total = if levels == 3 { limits } else { Limits::default() };
            let (mut limiter, mut turn) = (Limiter::new(limits, of_total), 0);
            let mut overrides = Levels::default();
            if levels == 3 {
                overrides.set(LimitLevel::Team, "team", of_team);
            }
            limiter.set_overrides(overrides);
            let mut now = Now { mono: 0, unix: 1_800_000_000_000_000_000 };
            let period = limiter.wants_spending(now).expect("there is a budget");
            limiter.load(SpendSums { period, ..SpendSums::default() }, now);
            let mut request = || {
                turn = (turn + 7_919) % count;
                now = Now { mono: now.mono + 1_000, unix: now.unix + 1_000 };
                let team = (levels == 3).then_some("team");
                let payer = Payer { user: black_box(&users[turn]), team };
                let cost = Cost { seq: now.mono, started_at: now.unix, nano_usd: 40_000 };
                let used = Used { tokens: 500, output_tokens: Some(9), cost };
                let Ok((reservation, _)) = limiter.admit(payer, ask, now) else { panic!("nothing is scarce here") };
                limiter.charge(payer, used, now);
                limiter.release(payer, reservation, now);
            };
            (0..count).for_each(|_| request());
            b.iter(request);
        });
    }
    group.finish();
}

/// What a scrape takes from the loop, with 1,000 users of 20 models: the copy that is rendered elsewhere, and what it
/// costs the records that are counted while it is.
fn scrapes(c: &mut Criterion) {
    let record = |n: usize| Record {
        user: format!("user-{}", n % 1_000).into(),
        model: Some(format!("model-{}", n / 1_000).into()),
        status: 200,
        usage: Usage { input_tokens: 1, ..Usage::default() },
        ..Record::default()
    };
    let records: Vec<Record> = (0..20_000).map(record).collect();
    let mut metrics = Metrics::new(metrics::LabelLimits::default(), 0);
    records.iter().for_each(|record| metrics.record(record, 0));
    let mut group = c.benchmark_group("scrape");
    group.bench_function("copy", |b| b.iter(|| black_box(metrics.snapshot(Gauges::default(), None, 0))));
    // Far apart, so that no two are in one piece of a table.
    let spread: Vec<&Record> = records.iter().step_by(157).collect();
    for (name, scraped) in [("count 128 records", false), ("count 128 records during a scrape", true)] {
        group.bench_function(name, |b| {
            b.iter_custom(|rounds| {
                let mut elapsed = Duration::ZERO;
                for _ in 0..rounds {
                    let copy = scraped.then(|| metrics.snapshot(Gauges::default(), None, 0));
                    let start = Instant::now();
                    spread.iter().for_each(|record| metrics.record(record, 0));
                    elapsed += start.elapsed();
                    drop(copy);
                }
                elapsed
            });
        });
    }
    group.finish();
}

criterion_group!(benches, heads, streams, captures, sessions, bodies, limits, scrapes);
criterion_main!(benches);
