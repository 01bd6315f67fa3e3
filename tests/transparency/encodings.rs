//! Compressed answers: the client gets the very bytes, and the ledger the right number or none. Only gzip is ever asked
//! for; what a target sends all the same is relayed, and what cannot be read is `unknown`.

use super::responses::{Made, essence, number};
use super::support::client::{Client, post_json};
use super::support::proxy::Proxy;
use super::support::script::{Ending, Reply};
use super::support::upstream::Upstream;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use flate2::{Compression, GzBuilder};
use serde_json::json;
use std::io::Write;

const JSON: &str = "application/json";
const EVENTS: &str = "text/event-stream";
const BODY: &str = r#"{"id":"r","output":[{"text":"abcabcabcabc"}],"usage":{"input_tokens":5,"output_tokens":7}}"#;
const STREAM: &str = "event: response.created\ndata: {\"response\":{\"id\":\"r\",\"usage\":null}}\n\n\
    event: response.completed\ndata: {\"response\":{\"id\":\"r\",\"usage\":{\"input_tokens\":5,\"output_tokens\":7}}}\n\n";

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

/// A stream as a server compresses it that flushes behind each event.
fn gzip_by_event(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    for event in text.split_inclusive("\n\n") {
        encoder.write_all(event.as_bytes()).unwrap();
        encoder.flush().unwrap();
    }
    encoder.finish().unwrap()
}

/// A header with all that RFC 1952 §2.3 allows, before a body that is not compressed at all.
fn gzip_with_everything(text: &str) -> Vec<u8> {
    let header = GzBuilder::new().filename("usage").comment(r#""usage":{"input_tokens":1}"#).extra(vec![0x1f, 0x8b]);
    let mut encoder = header.write(Vec::new(), Compression::none());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

/// A Brotli stream (RFC 7932 §9) of one uncompressed block: the text stands in it as it is.
fn brotli(text: &str) -> Vec<u8> {
    let head = (text.len() as u32 - 1) << 4 | 1 << 20;
    [&head.to_le_bytes()[..3], text.as_bytes(), b"\x03"].concat()
}

/// A Zstandard frame (RFC 8878 §3.1.1) of one raw block: the text stands in it as it is.
fn zstd(text: &str) -> Vec<u8> {
    let (length, block) = (text.len() as u32, (text.len() as u32) << 3 | 1);
    [b"\x28\xb5\x2f\xfd\xa0", &length.to_le_bytes()[..], &block.to_le_bytes()[..3], text.as_bytes()].concat()
}

/// An answer of the responses endpoint, and whether its usage is read.
struct Case {
    name: &'static str,
    codings: &'static [&'static str],
    content_type: &'static str,
    body: Vec<u8>,
    read: bool,
}

fn case(name: &'static str, codings: &'static [&'static str], body: impl Into<Vec<u8>>, read: bool) -> Case {
    Case { name, codings, content_type: JSON, body: body.into(), read }
}

fn stream(name: &'static str, codings: &'static [&'static str], body: impl Into<Vec<u8>>, read: bool) -> Case {
    Case { content_type: EVENTS, ..case(name, codings, body, read) }
}

fn cases() -> Vec<Case> {
    let whole = gzip(BODY);
    let end = whole.len();
    let members = [gzip(&BODY[..30]), gzip(""), gzip(&BODY[30..])].concat();
    let wrong_sum = [&whole[..end - 8], &[whole[end - 8] ^ 1], &whole[end - 7..]].concat();
    let wrong_length = [&whole[..end - 1], &[whole[end - 1] ^ 1]].concat();
    let junk = b"\x1f\x8b\x08\xff\xff\xff\xff\xff\xff\xff{\"usage\":{\"input_tokens\":1}}";
    let mut deflated = DeflateEncoder::new(Vec::new(), Compression::default());
    deflated.write_all(BODY.as_bytes()).unwrap();
    let mut zlib = ZlibEncoder::new(Vec::new(), Compression::none());
    zlib.write_all(BODY.as_bytes()).unwrap();
    vec![
        case("gzip", &["gzip"], whole.clone(), true),
        case("gzip by its old name", &["X-GZip"], whole.clone(), true),
        case("gzip with a long header, not compressed", &["gzip"], gzip_with_everything(BODY), true),
        case("gzip in members", &["gzip"], members, true),
        case("gzip, then padding", &["gzip"], [&whole[..], &[0; 20]].concat(), true),
        case("gzip, then junk", &["gzip"], [&whole[..], junk].concat(), true),
        case("gzip cut in its checksum", &["gzip"], &whole[..end - 5], true),
        case("gzip cut in the middle", &["gzip"], &whole[..end / 2], false),
        case("gzip cut in its header", &["gzip"], &whole[..7], false),
        case("gzip of a wrong checksum", &["gzip"], wrong_sum, false),
        case("gzip of a wrong length", &["gzip"], wrong_length, false),
        case("gzip that is none", &["gzip"], BODY, false),
        case("gzip of nothing", &["gzip"], gzip(""), false),
        case("nothing as gzip", &["gzip"], "", false),
        case("gzip twice", &["gzip", "gzip"], gzip(BODY), false),
        case("identity", &["identity"], BODY, true),
        case("no coding, said so", &[""], BODY, true),
        case("deflate in zlib", &["deflate"], zlib.finish().unwrap(), false),
        case("deflate, raw", &["deflate"], deflated.finish().unwrap(), false),
        case("deflate that is none", &["deflate"], BODY, false),
        case("br", &["br"], brotli(BODY), false),
        case("zstd", &["zstd"], zstd(BODY), false),
        case("gzip in br, in one line", &["gzip, br"], brotli("x"), false),
        case("gzip in br, in two", &["gzip", "br"], brotli("x"), false),
        stream("a stream in gzip", &["gzip"], gzip(STREAM), true),
        stream("a stream in gzip, by event", &["gzip"], gzip_by_event(STREAM), true),
        stream(
            "a stream in gzip, without an end",
            &["gzip"],
            {
                let flushed = gzip_by_event(STREAM);
                flushed[..flushed.len() - 10].to_vec()
            },
            true,
        ),
        stream("a stream in deflate", &["deflate"], STREAM, false),
        stream("a stream in br", &["br"], brotli(STREAM), false),
        stream("a stream in zstd", &["zstd"], zstd(STREAM), false),
    ]
}

#[test]
fn compressed_answers_are_the_same_and_never_counted_wrong_cut_at_every_byte() {
    let served = cases();
    let upstream = Upstream::plain(move |request| {
        let case = &served[number(request, "x-case")];
        let reply = Reply::new(200, case.body.clone()).field("Content-Type", case.content_type);
        let reply = case.codings.iter().fold(reply, |reply, coding| reply.field("Content-Encoding", coding));
        Made { reply: reply.ending(Ending::Chunked(1 << 20)), cut: number(request, "x-cut") }.steps()
    });
    let proxy = Proxy::start(&[("PROXY_TARGET", &upstream.url()), ("RATE_LIMIT_RPM", "0")]);
    let mut through = Client::connect(proxy.addr());
    for (index, case) in cases().iter().enumerate() {
        let ask = |client: &mut Client, cut: usize| {
            let (index, cut, user) = (index.to_string(), cut.to_string(), format!("case-{index}"));
            let fields = [
                ("content-type", JSON),
                ("accept-encoding", "gzip, deflate, br, zstd"),
                ("x-case", &index),
                ("x-cut", &cut),
                ("x-user-id", &user),
            ];
            essence(&client.request("POST", "/v1/responses", &fields, br#"{"model":"m"}"#).expect(200))
        };
        let expected = ask(&mut Client::connect(upstream.addr()), 0);
        assert!(expected.2 == case.body, "{}: the upstream is faithful", case.name);
        for cut in 0..=case.body.len() {
            assert!(ask(&mut through, cut) == expected, "{}, cut at {cut}", case.name);
        }
        let usage = proxy.usage(&format!("user_id=case-{index}&limit=1000"));
        let source = if case.read { "reported" } else { "unknown" };
        for row in usage["data"].as_array().unwrap() {
            assert_eq!(row["usage_source"], json!(source), "{}: {row}", case.name);
        }
        let requests = case.body.len() as u64 + 1;
        let tokens = if case.read { 12 * requests } else { 0 };
        let totals = &usage["totals"];
        assert_eq!((&totals["requests"], &totals["total_tokens"]), (&json!(requests), &json!(tokens)), "{}", case.name);
    }
}

/// A target that compresses although it was asked not to, a stream in which usage was asked for in the client's place:
/// where it can be decoded it is edited, and goes on so; else all of it passes as it is.
#[test]
fn a_stream_that_was_to_be_edited_goes_on_decoded_where_it_is_compressed() {
    let chunks = "data: {\"choices\":[{\"delta\":{\"content\":\"Hi\"}}],\"usage\":null}\n\n\
        data: {\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":7}}\n\ndata: [DONE]\n\n";
    for (coding, body, source, tokens) in [
        ("gzip", gzip_by_event(chunks), "reported", 12),
        ("br", brotli(chunks), "unknown", 0),
        ("zstd", zstd(chunks), "unknown", 0),
    ] {
        let sent = body.clone();
        let upstream = Upstream::plain(move |_| Reply::sse(sent.clone()).field("content-encoding", coding).steps());
        let proxy = Proxy::start(&[("PROXY_TARGET", &upstream.url())]);
        let request = r#"{"model":"m","stream":true}"#;
        let fields = [("accept-encoding", "gzip, br, zstd"), ("x-user-id", "u")];
        let response = post_json(proxy.addr(), "/v1/chat/completions", &fields, request).expect(200);
        assert_eq!(upstream.requests()[0].head.get("accept-encoding"), Some("identity"));
        assert_eq!(upstream.requests()[0].json()["stream_options"]["include_usage"], true);
        let edited = "data: {\"choices\":[{\"delta\":{\"content\":\"Hi\"}}]}\n\ndata: [DONE]\n\n";
        let is_decoded = coding == "gzip";
        assert_eq!(response.head.get("content-encoding"), (!is_decoded).then_some(coding));
        assert!(response.body == if is_decoded { edited.as_bytes() } else { &body }, "{coding}");
        let row = proxy.only_row("u");
        assert_eq!((&row["usage_source"], &row["total_tokens"]), (&json!(source), &json!(tokens)), "{coding}");
    }
}
