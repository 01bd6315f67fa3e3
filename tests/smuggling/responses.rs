//! One table of hostile responses, raw bytes of an upstream: a client gets a 502 that says so, or a stream that is cut,
//! and never a broken body as a whole one. Whatever an upstream did, its connection carries nothing else afterwards.

use super::support::ca::{Ca, Server};
use super::support::client::Client;
use super::support::proxy::Proxy;
use super::support::script::{Reply, Step};
use super::support::upstream::{Options, SeenRequest, Upstream};
use super::support::wire::Cut;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;

/// How the upstream ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// It keeps the connection open.
    Stays,
    /// It closes, over TLS with close_notify.
    Closes,
    /// It closes, over TLS without close_notify.
    Cuts,
    Resets,
}

impl End {
    fn step(self) -> Option<Step> {
        match self {
            Self::Stays => None,
            Self::Closes => Some(Step::Close),
            Self::Cuts => Some(Step::Cut),
            Self::Resets => Some(Step::Reset),
        }
    }
}

/// What the client must see.
#[derive(Clone, Copy)]
enum Expect {
    /// An error of ours.
    Error(&'static str),
    /// This much of a body, and then no proper end.
    Torn(&'static str),
    /// The whole of it.
    Whole(&'static str),
    /// The whole, and the upstream's connection carries the next exchange: the only case where it may.
    Reused(&'static str),
}

use Expect::{Error, Reused, Torn, Whole};

struct Case {
    name: &'static str,
    bytes: Vec<u8>,
    end: End,
    expect: Expect,
}

const PROTOCOL: Expect = Error("upstream_protocol");
const GONE: Expect = Error("upstream_closed");
const HEAD_BYTES_MAX: usize = 64 * 1024;

fn case(name: &'static str, bytes: impl Into<Vec<u8>>, end: End, expect: Expect) -> Case {
    Case { name, bytes: bytes.into(), end, expect }
}

/// A response that an upstream sends and then waits.
fn sent(name: &'static str, bytes: impl Into<Vec<u8>>, expect: Expect) -> Case {
    case(name, bytes, End::Stays, expect)
}

/// A 200 with these header lines and this body.
fn ok(name: &'static str, lines: &str, body: &str, expect: Expect) -> Case {
    sent(name, format!("HTTP/1.1 200 OK\r\n{lines}\r\n{body}"), expect)
}

fn chunked(name: &'static str, body: &str, end: End, expect: Expect) -> Case {
    case(name, format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{body}"), end, expect)
}

fn heads() -> Vec<Case> {
    let status = |name, line: &str| sent(name, format!("{line}\r\ncontent-length: 2\r\n\r\nok"), PROTOCOL);
    let many = |count: usize| format!("content-length: 2\r\n{}", "x: y\r\n".repeat(count - 1));
    let long = |bytes: usize| format!("content-length: 2\r\nx: {}\r\n", "v".repeat(bytes));
    vec![
        ok("well-formed", "content-length: 2\r\n", "ok", Reused("ok")),
        sent("no reason", "HTTP/1.1 200 \r\ncontent-length: 2\r\n\r\nok", Reused("ok")),
        sent("LF only", "HTTP/1.1 200 OK\ncontent-length: 2\n\nok", PROTOCOL),
        sent("LF after the status line", "HTTP/1.1 200 OK\ncontent-length: 2\r\n\r\nok", PROTOCOL),
        ok("LF after a header", "x: y\ncontent-length: 2\r\n", "ok", PROTOCOL),
        sent("LF as the empty line", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\nok", PROTOCOL),
        ok("CR in a value", "x: a\rb\r\ncontent-length: 2\r\n", "ok", PROTOCOL),
        ok("obs-fold", "x: a\r\n b\r\ncontent-length: 2\r\n", "ok", PROTOCOL),
        ok("NUL in a value", "x: a\0\r\ncontent-length: 2\r\n", "ok", PROTOCOL),
        ok("space before the colon", "content-length : 2\r\n", "ok", PROTOCOL),
        ok("no colon", "content-length\r\n", "ok", PROTOCOL),
        sent("empty line before", "\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", PROTOCOL),
        status("status 99", "HTTP/1.1 99 X"),
        status("status 099", "HTTP/1.1 099 X"),
        status("status 000", "HTTP/1.1 000 X"),
        status("status 600", "HTTP/1.1 600 X"),
        status("status 999", "HTTP/1.1 999 X"),
        status("status abc", "HTTP/1.1 abc X"),
        status("status 2000", "HTTP/1.1 2000 X"),
        status("status +20", "HTTP/1.1 +20 X"),
        status("no status", "HTTP/1.1"),
        status("HTTP/2", "HTTP/2 200 OK"),
        status("HTTP/1.2", "HTTP/1.2 200 OK"),
        status("ICY", "ICY 200 OK"),
        sent("a request for an answer", "GET /x HTTP/1.1\r\nhost: a\r\n\r\n", PROTOCOL),
        sent("another protocol", "SSH-2.0-OpenSSH_9.6\r\n\r\n", PROTOCOL),
        ok("100 headers", &many(100), "ok", Reused("ok")),
        ok("101 headers", &many(101), "ok", PROTOCOL),
        ok("large head", &long(HEAD_BYTES_MAX - 100), "ok", Reused("ok")),
        ok("head over the cap", &long(HEAD_BYTES_MAX), "ok", PROTOCOL),
        ok("head without an end", &format!("x: {}", "v".repeat(HEAD_BYTES_MAX)), "", PROTOCOL),
    ]
}

fn framings() -> Vec<Case> {
    let length = |name, value: &str| ok(name, &format!("content-length: {value}\r\n"), "ok", PROTOCOL);
    let coding =
        |name, value: &str| ok(name, &format!("transfer-encoding: {value}\r\n"), "2\r\nok\r\n0\r\n\r\n", PROTOCOL);
    let chunked = "transfer-encoding: chunked\r\n";
    let chunks = "2\r\nok\r\n0\r\n\r\n";
    vec![
        ok("TE and CL", &format!("{chunked}content-length: 2\r\n"), chunks, PROTOCOL),
        ok("CL and TE", &format!("content-length: 12\r\n{chunked}"), chunks, PROTOCOL),
        ok("repeated equal length", "content-length: 2\r\ncontent-length: 2\r\n", "ok", PROTOCOL),
        ok("repeated different length", "content-length: 2\r\ncontent-length: 3\r\n", "ok!", PROTOCOL),
        length("length +2", "+2"),
        length("length -2", "-2"),
        length("length 2,2", "2,2"),
        length("length 0x2", "0x2"),
        length("empty length", ""),
        length("length over 64 bits", "18446744073709551616"),
        coding("gzip", "gzip"),
        coding("gzip, chunked", "gzip, chunked"),
        coding("identity", "identity"),
        coding("xchunked", "xchunked"),
        coding("chunked, chunked", "chunked, chunked"),
        ok("chunked twice", &chunked.repeat(2), chunks, PROTOCOL),
        sent("HTTP/1.0 and chunked", format!("HTTP/1.0 200 OK\r\n{chunked}\r\n{chunks}"), PROTOCOL),
    ]
}

fn interims() -> Vec<Case> {
    const WHOLE: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    let after = |name, interim: &str, expect| sent(name, format!("{interim}{WHOLE}"), expect);
    vec![
        after("100 first", "HTTP/1.1 100 Continue\r\n\r\n", Reused("ok")),
        after("103 with headers", "HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n", Reused("ok")),
        after("ten interims", &"HTTP/1.1 102 P\r\n\r\n".repeat(10), Reused("ok")),
        after("endless interims", &"HTTP/1.1 102 P\r\n\r\n".repeat(1000), PROTOCOL),
        after("101 unasked", "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", PROTOCOL),
        after("interim with a length", "HTTP/1.1 100 Continue\r\ncontent-length: 2\r\n\r\nok", PROTOCOL),
        case("an interim and nothing else", "HTTP/1.1 100 Continue\r\n\r\n", End::Closes, GONE),
    ]
}

fn bodies() -> Vec<Case> {
    use End::{Closes, Cuts, Resets, Stays};
    let by_length = |name, end, expect| case(name, "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nbegun", end, expect);
    let by_close = |name, end, expect| case(name, "HTTP/1.1 200 OK\r\n\r\nbegun", end, expect);
    let extension = |bytes: usize| format!("2;{}\r\nok\r\n0\r\n\r\n", "e".repeat(bytes));
    vec![
        by_length("length, then closed", Closes, Torn("begun")),
        by_length("length, then cut", Cuts, Torn("begun")),
        by_length("length, then reset", Resets, Torn("begun")),
        by_close("by closing, closed", Closes, Whole("begun")),
        by_close("by closing, reset", Resets, Torn("begun")),
        chunked("chunks", "2\r\nok\r\n0\r\n\r\n", Stays, Reused("ok")),
        chunked("chunks with trailers", "2\r\nok\r\n0\r\nx: y\r\n\r\n", Stays, Reused("ok")),
        chunked("chunks without an end", "5\r\nbegun\r\n", Closes, Torn("begun")),
        chunked("chunks without an end, cut", "5\r\nbegun\r\n", Cuts, Torn("begun")),
        chunked("chunks without an end, reset", "5\r\nbegun\r\n", Resets, Torn("begun")),
        chunked("cut in a chunk", "9\r\nbegun", Closes, Torn("begun")),
        chunked("cut in a size", "5\r\nbegun\r\n1", Closes, Torn("begun")),
        chunked("cut in the last chunk", "5\r\nbegun\r\n0\r\n", Closes, Torn("begun")),
        chunked("cut in a trailer", "5\r\nbegun\r\n0\r\nx: y\r\n", Closes, Torn("begun")),
        chunked("bad size", "5\r\nbegun\r\nx\r\n", Stays, Torn("begun")),
        chunked("signed size", "5\r\nbegun\r\n+2\r\nok\r\n0\r\n\r\n", Stays, Torn("begun")),
        chunked("size and a space", "5\r\nbegun\r\n2 \r\nok\r\n0\r\n\r\n", Stays, Torn("begun")),
        chunked("17 digits", "5\r\nbegun\r\n00000000000000002\r\nok\r\n0\r\n\r\n", Stays, Torn("begun")),
        chunked("LF after a size", "5\r\nbegun\r\n2\nok\r\n0\r\n\r\n", Stays, Torn("begun")),
        chunked("LF after the data", "5\r\nbegun\n0\r\n\r\n", Stays, Torn("begun")),
        chunked("no CRLF after the data", "5\r\nbegun0\r\n\r\n", Stays, Torn("begun")),
        chunked("LF at the very end", "5\r\nbegun\r\n0\r\n\n", Stays, Torn("begun")),
        chunked("extension under its cap", &extension(16_000), Stays, Reused("ok")),
        chunked("extension over its cap", &extension(17_000), Stays, Torn("")),
        ok("bytes after the length", "content-length: 2\r\n", "okHTTP/1.1 200 OK\r\n\r\n", Whole("ok")),
        ok("one byte after the length", "content-length: 2\r\n", "ok!", Whole("ok")),
        chunked("bytes after the chunks", "2\r\nok\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", Stays, Whole("ok")),
        sent("body of a 204", "HTTP/1.1 204 No Content\r\n\r\nsmuggled", Whole("")),
        sent("length of a 204", "HTTP/1.1 204 No Content\r\ncontent-length: 2\r\n\r\nok", Whole("")),
        sent("chunks of a 304", "HTTP/1.1 304 X\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", Whole("")),
        ok("connection: close", "connection: close\r\ncontent-length: 2\r\n", "ok", Whole("ok")),
        sent("HTTP/1.0", "HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok", Whole("ok")),
        case("nothing", "", Closes, GONE),
        case("nothing, reset", "", Resets, GONE),
        case("half a status line", "HTTP/1.1 20", Closes, GONE),
        case("half a head", "HTTP/1.1 200 OK\r\ncontent-le", Closes, GONE),
        case("half a head, cut", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n", Cuts, GONE),
        case("half a head, reset", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n", Resets, GONE),
    ]
}

fn cases(tls: bool) -> Vec<Case> {
    let mut cases: Vec<Case> = [heads, framings, interims, bodies].into_iter().flat_map(|group| group()).collect();
    // Without TLS nobody can tell a cut from an end; with it, everybody must.
    let by_close = "HTTP/1.1 200 OK\r\n\r\nbegun";
    let expect = if tls { Torn("begun") } else { Whole("begun") };
    cases.push(case("by closing, cut", by_close, End::Cuts, expect));
    cases
}

/// A response and what it answers, for a test that looks at what the client gets of it.
#[derive(Clone)]
pub struct Relayed {
    pub name: &'static str,
    pub method: &'static str,
    pieces: Vec<Vec<u8>>,
    end: End,
}

impl Relayed {
    /// A response in these pieces; the upstream closes after it, or stays.
    pub fn new(name: &'static str, method: &'static str, pieces: Vec<Vec<u8>>, closes: bool) -> Self {
        Self { name, method, pieces, end: if closes { End::Closes } else { End::Stays } }
    }

    pub fn steps(&self) -> Vec<Step> {
        self.pieces.iter().cloned().map(Step::Send).chain(self.end.step()).collect()
    }
}

/// Every response of the table, to be relayed or not.
pub fn relayed() -> Vec<Relayed> {
    let relayed = |case: Case| Relayed { name: case.name, method: "GET", pieces: vec![case.bytes], end: case.end };
    cases(false).into_iter().map(relayed).collect()
}

/// Answers `/N` with case N, in this many writes of one byte or one of all; anything else well.
fn answer(cases: &[Case], request: &SeenRequest) -> Vec<Step> {
    let parts: Vec<&str> = request.target.split('/').collect();
    let ["", "case", index, pieces] = parts[..] else { return Reply::new(200, "next").steps() };
    let case = &cases[index.parse::<usize>().unwrap()];
    let size = if pieces == "torn" && case.bytes.len() < 300 { 1 } else { 60_000 };
    let mut steps: Vec<Step> = case.bytes.chunks(size).map(|bytes| Step::Send(bytes.to_vec())).collect();
    steps.extend(case.end.step());
    steps
}

/// Asks for a case, and then for something else on the same connection where it is still open.
fn run(proxy: &Proxy, upstream: &Upstream, index: usize, case: &Case, pieces: &str) {
    // A connection that nothing was sent on before, so that nothing is sent twice.
    let before = upstream.requests().len();
    let mut client = Client::connect(proxy.addr());
    let response = client.request("POST", &format!("/case/{index}/{pieces}"), &[], b"");
    match case.expect {
        Error(code) => drop(response.expect_proxy_error(502, code)),
        Whole(body) | Reused(body) => {
            assert_eq!((response.text().as_str(), &response.cut), (body, &None), "{:?}", response.head);
            assert!(response.interim.is_empty() && response.status < 400);
            assert!(response.status != 204 || response.head.get("content-length").is_none());
        }
        // A reset may overtake what was sent before it, or even all of it.
        Torn(_) if case.end == End::Resets && response.status == 502 => {
            drop(response.expect_proxy_error(502, "upstream_closed"));
        }
        Torn(body) => {
            let came = response.text();
            assert!(body == came || case.end == End::Resets && body.starts_with(&came), "{came:?}");
            assert_eq!(response.cut, Some(Cut::Closed));
            client = Client::connect(proxy.addr());
        }
    }
    let next = client.request("POST", "/next", &[], b"").expect(200);
    assert_eq!(next.text(), "next");
    let seen = upstream.requests().split_off(before);
    assert_eq!(seen.len(), 2, "a request with a price is sent once: {seen:?}");
    assert_eq!(seen[0].connection == seen[1].connection, matches!(case.expect, Reused(_)), "{seen:?}");
}

fn run_all(upstream: &Upstream, proxy: &Proxy, cases: &[Case]) {
    let mut wrong = Vec::new();
    for pieces in ["whole", "torn"] {
        for (index, case) in cases.iter().enumerate() {
            if catch_unwind(AssertUnwindSafe(|| run(proxy, upstream, index, case, pieces))).is_err() {
                wrong.push(format!("{} ({pieces})", case.name));
            }
        }
    }
    println!("{} hostile or borderline responses, {} runs", cases.len(), 2 * cases.len());
    assert!(wrong.is_empty(), "{} runs went wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn hostile_responses_are_never_passed_off_as_whole() {
    let cases = Arc::new(cases(false));
    let for_upstream = Arc::clone(&cases);
    let upstream = Upstream::plain(move |request| answer(&for_upstream, request));
    let proxy = Proxy::start(&[("PROXY_TARGET", &upstream.url()), ("RATE_LIMIT_RPM", "0")]);
    run_all(&upstream, &proxy, &cases);
}

#[test]
fn hostile_responses_over_tls_are_never_passed_off_as_whole() {
    let cases = Arc::new(cases(true));
    let for_upstream = Arc::clone(&cases);
    let ca = Ca::new();
    let config = ca.server(&["127.0.0.1"], Server::Usual);
    let upstream = Upstream::tls(config, move |request| answer(&for_upstream, request));
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("ca.pem"), ca.pem()).unwrap();
    let vars = [("PROXY_TARGET", upstream.url()), ("TLS_CA_FILE", "ca.pem".into()), ("RATE_LIMIT_RPM", "0".into())];
    let vars: Vec<(&str, &str)> = vars.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let proxy = Proxy::start_in(folder, &vars);
    run_all(&upstream, &proxy, &cases);
}

/// A client of HTTP/1.0 has only the connection's end to go by: what was cut must not end like what is whole.
#[test]
fn an_http10_client_can_tell_a_cut_body_from_a_whole_one() {
    let chunks = |body: &str| format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{body}").into_bytes();
    let upstream = Upstream::plain(move |request| match request.target.as_str() {
        "/whole" => vec![Step::Send(chunks("5\r\nwhole\r\n0\r\n\r\n"))],
        "/closed" => vec![Step::Send(chunks("5\r\nbegun\r\n")), Step::Close],
        "/bad" => vec![Step::Send(chunks("5\r\nbegun\r\nx\r\n"))],
        "/length" => vec![Step::Send(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nbegun".to_vec()), Step::Close],
        _ => Reply::new(200, "kept").steps(),
    });
    let proxy = Proxy::start(&[("PROXY_TARGET", &upstream.url())]);
    let ask = |target: &str, lines: &str| {
        let mut client = Client::connect(proxy.addr());
        client.send(format!("GET {target} HTTP/1.0\r\n{lines}\r\n"));
        let response = client.response("GET");
        assert_eq!(response.head.get("transfer-encoding"), None);
        (client, response)
    };
    let (_, whole) = ask("/whole", "connection: keep-alive\r\n");
    assert_eq!((whole.text().as_str(), &whole.cut), ("whole", &None));
    assert_eq!(whole.head.get("connection"), Some("close"), "its end is the end of the connection");
    for target in ["/closed", "/bad"] {
        let (_, torn) = ask(target, "");
        assert_eq!(torn.cut, Some(Cut::Reset), "{target} looks whole: {:?}", torn.text());
    }
    let (_, torn) = ask("/length", "");
    assert_eq!((torn.head.get("content-length"), torn.cut), (Some("9"), Some(Cut::Closed)));

    // It is told that its connection stays open, by us and by the upstream's answers.
    let (mut client, kept) = ask("/kept", "connection: keep-alive\r\n");
    assert_eq!((kept.text().as_str(), kept.head.get("connection")), ("kept", Some("keep-alive")));
    for (target, status) in [("/healthz", 200), ("/usage?nonsense=1", 400), ("/kept", 200)] {
        client.send(format!("GET {target} HTTP/1.0\r\nconnection: keep-alive\r\n\r\n"));
        let kept = client.response("GET").expect(status);
        assert_eq!(kept.head.get("connection"), Some("keep-alive"), "{target}");
    }
    client.send("GET /kept HTTP/1.0\r\n\r\n");
    assert_eq!(client.response("GET").expect(200).head.get("connection"), Some("close"));
    assert_eq!(client.expect_end(), Ok(()));
}

/// What is safe to repeat is repeated, once, where a kept connection died; what had begun to be answered is not.
#[test]
fn a_request_is_repeated_only_where_nothing_came_of_it() {
    let upstream = Upstream::plain(|request| {
        let first = request.nth > 0; // only on a kept connection does it die
        match request.target.as_str() {
            "/silent" if first => vec![Step::Close],
            "/begun" if first => vec![Step::Send(b"HTTP/1.1 200 OK\r\nconte".to_vec()), Step::Close],
            "/interim" if first => vec![Step::Send(b"HTTP/1.1 102 P\r\n\r\n".to_vec()), Step::Close],
            _ => Reply::new(200, "ok").steps(),
        }
    });
    let proxy = Proxy::start(&[("PROXY_TARGET", &upstream.url())]);
    let mut client = Client::connect(proxy.addr());
    let keyed = [("idempotency-key", "k")];
    let keyed_away = [("idempotency-key", "k"), ("connection", "idempotency-key")];
    for (method, target, fields, sent) in [
        ("GET", "/silent", &[][..], 2),
        ("POST", "/silent", &keyed, 2),
        ("POST", "/silent", &[], 1),
        ("POST", "/silent", &keyed_away, 1),
        ("GET", "/begun", &[], 1),
        ("GET", "/interim", &[], 1),
    ] {
        client.request("GET", "/x", &[], b"").expect(200); // leaves a connection to be kept
        let before = upstream.requests().len();
        let response = client.request(method, target, fields, b"");
        if sent == 2 {
            response.expect(200);
        } else {
            response.expect_proxy_error(502, "upstream_closed");
        }
        assert_eq!(upstream.requests().len() - before, sent, "{method} {target} {fields:?}");
    }
}

/// An answer that comes before the request was read: it reaches the client, which is told that the connection ends.
#[test]
fn an_early_answer_is_not_lost() {
    let early = |request: &SeenRequest| {
        let reply = Reply::new(413, "too large, says the upstream").steps();
        (request.target != "/next").then_some(reply)
    };
    let options = Options { early: Some(Box::new(early)), ..Options::default() };
    let upstream = Upstream::start(options, |_| Reply::new(200, "next").steps());
    let proxy = Proxy::start(&[("PROXY_TARGET", &upstream.url())]);
    for round in 0..20 {
        let mut client = Client::connect(proxy.addr());
        client.send("POST /v1/files HTTP/1.1\r\nhost: a\r\ncontent-length: 4000000\r\n\r\n");
        // Before, during, or after the answer: what the client still sends is read, or the reset would eat the answer.
        for _ in 0..round {
            client.try_send([b'x'; 100_000]);
        }
        let response = client.response("POST").expect(413);
        assert_eq!(response.text(), "too large, says the upstream");
        assert_eq!(response.head.get("connection"), Some("close"));
        client.try_send([b'x'; 100_000]);
        assert_eq!(client.expect_end(), Ok(()));
    }
    assert_eq!(Client::connect(proxy.addr()).request("POST", "/next", &[], b"").expect(200).text(), "next");
}

/// The same from an upstream that answers and closes with the request unread, which resets the connection just behind
/// its answer. What has arrived is read before the reset counts.
#[test]
fn an_answer_just_before_a_reset_is_not_lost() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut head = [0; 60];
            stream.read_exact(&mut head).unwrap();
            stream.write_all(b"HTTP/1.1 401 X\r\ncontent-length: 4\r\n\r\nkey?").unwrap();
        }
    });
    let proxy = Proxy::start(&[("PROXY_TARGET", &target)]);
    for round in 0..50 {
        let mut client = Client::connect(proxy.addr());
        client.send("POST /v1/files HTTP/1.1\r\nhost: a\r\ncontent-length: 4000000\r\n\r\n");
        for _ in 0..round % 10 {
            client.try_send([b'x'; 100_000]);
        }
        let response = client.response("POST").expect(401);
        assert_eq!(response.text(), "key?");
    }
}
