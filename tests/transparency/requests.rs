//! Requests as the upstream sees them: line, headers in their order, body; the edits are these and no others.

use super::support::client::Client;
use super::support::proxy::Proxy;
use super::support::script::Reply;
use super::support::upstream::{SeenRequest, Upstream};
use flate2::Compression;
use flate2::write::GzEncoder;
use std::io::Write;

const CHAT: &str = "/v1/chat/completions";
const JSON: (&str, &str) = ("content-type", "application/json");

fn upstream() -> Upstream {
    Upstream::plain(|_| Reply::json("{}").steps())
}

/// Sends one request through a proxy with these variables, and gives what the upstream saw.
fn seen(vars: &[(&str, &str)], prefix: &str, bytes: &[u8]) -> SeenRequest {
    let upstream = upstream();
    let target = format!("{}{prefix}", upstream.url());
    let proxy = Proxy::start(&[&[("PROXY_TARGET", target.as_str())], vars].concat());
    let mut client = Client::connect(proxy.addr());
    client.send(bytes);
    client.response("POST").expect(200);
    let host = upstream.addr().to_string();
    let mut seen = upstream.requests().pop().unwrap();
    for (_, value) in seen.head.fields.iter_mut().filter(|(name, _)| name == "host") {
        assert_eq!(*value, host, "the upstream is asked by its own name");
        *value = "(upstream)".to_owned();
    }
    seen
}

/// The header lines, one string each.
fn lines(seen: &SeenRequest) -> Vec<String> {
    seen.head.fields.iter().map(|(name, value)| format!("{name}: {value}")).collect()
}

const HEAD: &str = "POST /v1/chat/completions?api-version=1&x=%20 HTTP/1.1\r\n\
    Host: localhost\r\n\
    User-Agent: OpenAI/Python 1.0\r\n\
    X-Stainless-Lang: python\r\n\
    Authorization: Bearer sk-client\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\n\
    Content-Type: application/json; charset=utf-8\r\n\
    X-User-ID: alice\r\n\
    Connection: keep-alive, X-Drop\r\n\
    X-Drop: 1\r\n\
    Keep-Alive: timeout=5\r\n\
    TE: trailers\r\n\
    Proxy-Authorization: Basic x\r\n\
    X-Twice: 1\r\n\
    X-Odd:   a  b\t\r\n\
    X-Twice: 2\r\n\
    X-Empty:\r\n";

#[test]
fn heads_arrive_in_order_without_what_is_not_the_upstreams() {
    let body = "{ \"model\" : \"m\" }";
    let request = format!("{HEAD}Content-Length: {}\r\n\r\n{body}", body.len());
    let seen = seen(&[], "", request.as_bytes());
    assert_eq!(seen.head.start, "POST /v1/chat/completions?api-version=1&x=%20 HTTP/1.1");
    assert_eq!(
        lines(&seen),
        [
            "host: (upstream)",
            "User-Agent: OpenAI/Python 1.0",
            "X-Stainless-Lang: python",
            "Authorization: Bearer sk-client",
            "Content-Type: application/json; charset=utf-8",
            "X-Twice: 1",
            "X-Odd: a  b",
            "X-Twice: 2",
            "X-Empty: ",
            "accept-encoding: gzip",
            "content-length: 17",
        ]
    );
    assert_eq!(seen.body, body.as_bytes());
}

/// What nginx, a CDN, an identity-aware proxy and a tracer add, and beside each a header of a client's own.
const IN_FRONT: &str = "GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\
    X-Forwarded-For: 192.0.2.7\r\nx-forwarded-proto: https\r\nForwarded: for=192.0.2.7\r\nX-Real-IP: 192.0.2.7\r\n\
    Via: 1.1 front\r\nCF-Ray: 1\r\nCF-Connecting-IP: 192.0.2.7\r\nCDN-Loop: cloudflare\r\nTrue-Client-IP: 1\r\n\
    X-Amzn-Trace-Id: Root=1\r\nCookie: session=1\r\nRemote-User: taro\r\nX-Auth-Request-Email: t@example.com\r\n\
    traceparent: 00-1\r\nTraceState: a=b\r\nbaggage: a=b\r\nX-B3-TraceId: 1\r\nb3: 1\r\nX-Request-Start: t=1\r\n\
    X_Forwarded_For: 192.0.2.8\r\n\
    X-Request-ID: mine\r\nX-Client-Request-ID: mine\r\nUser-Agent: mine\r\nX-Stainless-OS: Linux\r\n\r\n";

#[test]
fn what_servers_in_front_add_goes_no_further() {
    let own = [
        "host: (upstream)",
        "X-Request-ID: mine",
        "X-Client-Request-ID: mine",
        "User-Agent: mine",
        "X-Stainless-OS: Linux",
    ];
    assert_eq!(lines(&seen(&[], "", IN_FRONT.as_bytes())), own);
    // Whom the proxy believes is another question.
    assert_eq!(lines(&seen(&[("TRUSTED_PROXIES", "127.0.0.1")], "", IN_FRONT.as_bytes())), own);
    let listed = seen(&[("FORWARD_HEADERS", "TraceParent, x-b3-*,cookie")], "", IN_FRONT.as_bytes());
    let passed = ["Cookie: session=1", "traceparent: 00-1", "X-B3-TraceId: 1"];
    assert_eq!(lines(&listed), [&own[..1], &passed[..], &own[1..]].concat());
}

#[test]
fn a_key_of_ours_replaces_the_clients() {
    let request = format!("{HEAD}AUTHORIZATION: Bearer sk-second\r\nContent-Length: 2\r\n\r\n{{}}");
    let seen = seen(&[("OPENAI_API_KEY", "sk-ours")], "", request.as_bytes());
    assert_eq!(seen.head.all("authorization"), ["Bearer sk-ours"]);
    let without = b"GET /v1/models HTTP/1.1\r\nhost: a\r\n\r\n";
    let seen = self::seen(&[("OPENAI_API_KEY", "sk-ours")], "", without);
    assert_eq!(lines(&seen), ["host: (upstream)", "authorization: Bearer sk-ours"]);
    let seen = self::seen(&[], "", without);
    assert_eq!(lines(&seen), ["host: (upstream)"], "no key is made up");
}

#[test]
fn the_targets_path_stands_before_every_path() {
    for (prefix, target, expected) in [
        ("/openai", "/v1/models?a=b", "/openai/v1/models?a=b"),
        ("/a/b/", "/v1/x/", "/a/b/v1/x/"),
        ("/a", "http://evil.test/v1/x", "/a/v1/x"),
        ("/a", "//x", "/a//x"),
        ("/", "/x", "/x"),
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nhost: a\r\n\r\n");
        assert_eq!(seen(&[], prefix, request.as_bytes()).target, expected);
    }
}

#[test]
fn only_codings_that_can_be_read_are_asked_for_where_the_answer_is_read() {
    let upstream = upstream();
    let proxy = Proxy::start(&[("PROXY_TARGET", &upstream.url())]);
    let mut client = Client::connect(proxy.addr());
    let streamed = r#"{"model":"m","stream":true}"#;
    let asking = r#"{"model":"m","stream":true,"stream_options":{"include_usage":true}}"#;
    for (target, body, accepted, expected) in [
        (CHAT, "{}", Some("br, gzip;q=0.5"), Some("gzip")),
        (CHAT, "{}", Some("br"), Some("identity")),
        (CHAT, "{}", Some("gzip;q=0, *;q=0"), Some("identity")),
        (CHAT, "{}", None, None),
        ("/v1/embeddings", "{}", Some("zstd"), Some("identity")),
        // What we will edit must not be compressed; what we only read may be.
        (CHAT, streamed, Some("gzip, br"), Some("identity")),
        (CHAT, streamed, None, None),
        (CHAT, asking, Some("gzip, br"), Some("gzip")),
        ("/v1/responses", streamed, Some("gzip, br"), Some("gzip")),
        ("/v1/audio/speech", "{}", Some("br, zstd"), Some("identity")),
        ("/v1/audio/transcriptions", "{}", Some("deflate, *"), Some("gzip")),
        ("/v1/messages", streamed, Some("br;q=1, gzip;q=0.1"), Some("gzip")),
        ("/api/chat", streamed, Some(""), Some("identity")),
        // Nothing is read here.
        ("/v1/rerank", "{}", Some("br, zstd"), Some("br, zstd")),
    ] {
        let accept = accepted.map(|value| ("accept-encoding", value));
        let fields: Vec<(&str, &str)> = [JSON].into_iter().chain(accept).collect();
        client.request("POST", target, &fields, body.as_bytes()).expect(200);
        let seen = upstream.requests().pop().unwrap();
        assert_eq!(seen.head.get("accept-encoding"), expected, "{target} {body} {accepted:?}");
    }
}

#[test]
fn bodies_arrive_byte_for_byte_but_for_the_two_edits() {
    let upstream = upstream();
    let proxy = Proxy::start(&[("PROXY_TARGET", &upstream.url()), ("MODEL_NAME", "default-model")]);
    let mut client = Client::connect(proxy.addr());
    let asked = r#""stream_options":{"include_usage":true},"#;
    let model = r#""model":"default-model","#;
    let long = format!("{{\"model\":\"m\",\"input\":\"{}\"}}", "日本 \\u00e9 ".repeat(20_000));
    let plain = "\r\n{\t\"model\" : \"m\",\"n\":1.10e+2, \"x\":\"\\u002F\\/\" , \"model2\":null,\"usage\":null }\n ";
    let cases: [(&str, &str, String); 14] = [
        (CHAT, plain, plain.into()),
        (CHAT, &long, long.clone()),
        (CHAT, r#"{"stream":true,"model":"m"}"#, format!("{{{asked}\"stream\":true,\"model\":\"m\"}}")),
        ("/v1/completions", r#"{"stream":true,"model":"m"}"#, format!("{{{asked}\"stream\":true,\"model\":\"m\"}}")),
        ("/v1/responses", r#"{"stream":true,"model":"m"}"#, r#"{"stream":true,"model":"m"}"#.into()),
        (
            CHAT,
            r#"{"model":"m","stream":true,"stream_options":{ "include_usage" : false , "x":1}}"#,
            r#"{"model":"m","stream":true,"stream_options":{ "include_usage" : true , "x":1}}"#.into(),
        ),
        (
            CHAT,
            r#"{"model":"m","stream":true,"stream_options": null}"#,
            r#"{"model":"m","stream":true,"stream_options": {"include_usage":true}}"#.into(),
        ),
        (
            CHAT,
            r#"{"model":"m","stream":true,"stream_options":{"include_usage":true}}"#,
            r#"{"model":"m","stream":true,"stream_options":{"include_usage":true}}"#.into(),
        ),
        (CHAT, r#"{"messages":[]}"#, format!("{{{model}\"messages\":[]}}")),
        (CHAT, r#"{"messages":[{"model":"x"}]}"#, format!("{{{model}\"messages\":[{{\"model\":\"x\"}}]}}")),
        ("/v1/embeddings", r#"{"input":"x"}"#, format!("{{{model}\"input\":\"x\"}}")),
        ("/v1/files", r#"{"messages":[]}"#, r#"{"messages":[]}"#.into()),
        (CHAT, r#"{"messages":["#, r#"{"messages":["#.into()),
        (CHAT, "not JSON", "not JSON".into()),
    ];
    for (target, body, expected) in &cases {
        // By length, and in chunks cut in the middle of things.
        client.request("POST", target, &[JSON], body.as_bytes()).expect(200);
        let by_length = upstream.requests().pop().unwrap();
        assert!(by_length.body == expected.as_bytes(), "{}", String::from_utf8_lossy(&by_length.body));
        client.send(format!("POST {target} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"));
        client.send("transfer-encoding: chunked\r\n\r\n");
        for part in body.as_bytes().chunks((body.len() / 7).max(1)) {
            client.send(super::support::script::chunk(part));
        }
        client.send("0\r\n\r\n");
        client.response("POST").expect(200);
        let in_chunks = upstream.requests().pop().unwrap();
        assert!(in_chunks.body == by_length.body, "{target}");
    }
}

#[test]
fn bodies_that_stream_through_arrive_byte_for_byte() {
    let upstream = upstream();
    let proxy = Proxy::start(&[("PROXY_TARGET", &upstream.url()), ("MODEL_NAME", "default-model")]);
    let mut client = Client::connect(proxy.addr());
    let form = ("content-type", "multipart/form-data; boundary=b");
    let binary: Vec<u8> = (0..1_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for (target, body) in [("/v1/audio/transcriptions", &binary[..]), (CHAT, b"--b\r\n\r\n{\"model\":null}\r\n--b--")] {
        client.request("POST", target, &[form], body).expect(200);
        let seen = upstream.requests().pop().unwrap();
        assert!(seen.body == body);
        assert_eq!(seen.head.get("content-length"), Some(body.len().to_string().as_str()));
        client.send(format!("PUT {target} HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"));
        for part in body.chunks((body.len() / 9).max(1)) {
            client.send(super::support::script::chunk(part));
        }
        client.send("0\r\n\r\n");
        client.response("PUT").expect(200);
        let seen = upstream.requests().pop().unwrap();
        assert!(seen.body == body && seen.method == "PUT");
        assert_eq!(seen.head.all("content-length"), [""; 0]);
    }
    // What is not coded as it says is nobody's to read.
    let fields = [JSON, ("content-encoding", "gzip")];
    client.request("POST", CHAT, &fields, b"{\"stream\":true}").expect(200);
    let seen = upstream.requests().pop().unwrap();
    assert_eq!(seen.body, b"{\"stream\":true}");
    assert_eq!(seen.head.get("content-encoding"), Some("gzip"));
}

/// Whatever a body calls itself, it is read as a lenient target would read it; and edited, where it is coded, by being
/// sent on decoded.
#[test]
fn a_body_is_read_whatever_it_calls_itself() {
    let upstream = upstream();
    let proxy = Proxy::start(&[("PROXY_TARGET", &upstream.url())]);
    let mut client = Client::connect(proxy.addr());
    let body = b"{\"model\":\"m\",\"stream\":true}";
    let expected = br#"{"stream_options":{"include_usage":true},"model":"m","stream":true}"#;
    let text = ("content-type", "text/plain");
    let form = ("content-type", "multipart/form-data; boundary=x");
    for fields in [&[text][..], &[], &[JSON, text], &[form], &[JSON, ("content-encoding", "identity")]] {
        client.request("POST", CHAT, fields, body).expect(200);
        let seen = upstream.requests().pop().unwrap();
        assert_eq!(seen.body, expected);
        assert_eq!(
            &lines(&seen)[1..=fields.len()],
            fields.iter().map(|(name, value)| format!("{name}: {value}")).collect::<Vec<_>>()
        );
    }
    let gzip = |body: &[u8]| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(body).unwrap();
        encoder.finish().unwrap()
    };
    let fields = [JSON, ("content-encoding", "gzip")];
    client.request("POST", CHAT, &fields, &gzip(body)).expect(200);
    let seen = upstream.requests().pop().unwrap();
    assert_eq!(
        (&seen.body[..], seen.head.get("content-encoding")),
        (&expected[..], None),
        "edited, and decoded for that"
    );
    let unedited = gzip(b"{\"model\":\"m\"}");
    client.request("POST", CHAT, &fields, &unedited).expect(200);
    let seen = upstream.requests().pop().unwrap();
    assert_eq!((&seen.body, seen.head.get("content-encoding")), (&unedited, Some("gzip")));
}
