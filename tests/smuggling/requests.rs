//! One table of hostile requests: the status that each gets, whether the connection is closed, and what the upstream
//! saw of it. After each comes a second request on the same connection: where the first one is refused for a framing
//! that cannot be trusted, the second must never be seen by anybody.

use super::support::client::Client;
use super::support::proxy::Proxy;
use super::support::script::Reply;
use super::support::upstream::{SeenRequest, Upstream};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What must become of a request.
enum Expect {
    /// An error of ours, then the end of the connection.
    Closed(u16, &'static str),
    /// An error of ours; the next request on the connection is answered.
    Kept(u16, &'static str),
    /// An error of ours that keeps the connection; then what follows breaks it, and it just ends.
    Dropped(u16, &'static str),
    /// The upstream sees this target and this body; the next request is answered.
    Passed { target: &'static str, body: &'static [u8], check: fn(&SeenRequest) },
    /// The upstream may see it begin, since its body streams through, but never sees it whole; then as `Closed`.
    Broken(u16, &'static str),
}

use Expect::{Broken, Closed, Dropped, Kept, Passed};

struct Case {
    name: &'static str,
    bytes: Vec<u8>,
    expect: Expect,
}

const MALFORMED: Expect = Closed(400, "bad_request");
const NEXT: &[u8] = b"GET /next HTTP/1.1\r\nhost: localhost\r\n\r\n";
const REQUEST_LINE_BYTES_MAX: usize = 16 * 1024;
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// A request that passes whole; `/` without a body where the case says nothing else.
const fn passed(target: &'static str, body: &'static [u8]) -> Expect {
    Passed { target, body, check: |_| {} }
}

fn case(name: &'static str, bytes: impl Into<Vec<u8>>, expect: Expect) -> Case {
    Case { name, bytes: bytes.into(), expect }
}

/// A GET with these header lines.
fn get(name: &'static str, lines: &str, expect: Expect) -> Case {
    case(name, format!("GET /x HTTP/1.1\r\nhost: a\r\n{lines}\r\n"), expect)
}

/// A POST whose body is held for inspection, with these header lines, and then these bytes.
fn post(name: &'static str, lines: &str, body: &str, expect: Expect) -> Case {
    let head = "POST /v1/embeddings HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n";
    case(name, format!("{head}{lines}\r\n{body}"), expect)
}

/// The same with a chunked body.
fn chunked(name: &'static str, body: &str, expect: Expect) -> Case {
    post(name, "transfer-encoding: chunked\r\n", body, expect)
}

/// A request line, and a valid rest.
fn line(name: &'static str, line: &[u8], expect: Expect) -> Case {
    case(name, [line, b"\r\nhost: a\r\n\r\n"].concat(), expect)
}

fn line_ends() -> Vec<Case> {
    vec![
        case("LF only", "GET /x HTTP/1.1\nhost: a\n\n", MALFORMED),
        case("LF after the request line", "GET /x HTTP/1.1\nhost: a\r\n\r\n", MALFORMED),
        case("LF after a header", "GET /x HTTP/1.1\r\nhost: a\nx: y\r\n\r\n", MALFORMED),
        case("LF as the empty line", "GET /x HTTP/1.1\r\nhost: a\r\n\n", MALFORMED),
        case("LF LF hides a request", "GET /x HTTP/1.1\r\nhost: a\r\nx: y\n\nGET /hidden HTTP/1.1\r\n\r\n", MALFORMED),
        case("CR only", "GET /x HTTP/1.1\rhost: a\r\r", MALFORMED),
        get("CR in a value", "x: a\rb: c\r\n", MALFORMED),
        get("CR CR LF", "x: a\r\r\n", MALFORMED),
        get("CR before a name", "\rx: a\r\n", MALFORMED),
        get("obs-fold by a space", "x: a\r\n b\r\n", MALFORMED),
        get("obs-fold by a tab", "x: a\r\n\tb\r\n", MALFORMED),
        get("obs-fold of the framing", "content-length:\r\n 5\r\n", MALFORMED),
        case("fold before the first header", "GET /x HTTP/1.1\r\n host: a\r\n\r\n", MALFORMED),
        case("one empty line before", "\r\nGET /x HTTP/1.1\r\nhost: a\r\n\r\n", passed("/x", b"")),
        case("two empty lines before", "\r\n\r\nGET /x HTTP/1.1\r\nhost: a\r\n\r\n", MALFORMED),
        case("an LF before", "\nGET /x HTTP/1.1\r\nhost: a\r\n\r\n", MALFORMED),
        case("a space before", " GET /x HTTP/1.1\r\nhost: a\r\n\r\n", MALFORMED),
    ]
}

fn header_syntax() -> Vec<Case> {
    vec![
        get("space before the colon", "content-length : 5\r\n", MALFORMED),
        get("tab before the colon", "x\t: 5\r\n", MALFORMED),
        get("no colon", "x\r\n", MALFORMED),
        get("empty name", ": x\r\n", MALFORMED),
        get("space in a name", "a b: x\r\n", MALFORMED),
        get("control byte in a name", "a\x01: x\r\n", MALFORMED),
        get("non-ASCII name", "é: x\r\n", MALFORMED),
        get("NUL in a name", "a\0: x\r\n", MALFORMED),
        get("NUL in a value", "x: a\0b\r\n", MALFORMED),
        get("VT in a value", "x: a\x0bb\r\n", MALFORMED),
        get("DEL in a value", "x: a\x7fb\r\n", MALFORMED),
        get("VT before chunked", "transfer-encoding: \x0bchunked\r\n", MALFORMED),
        get("space and tab around a value", "x: \t a \t\r\n", {
            Passed { target: "/x", body: b"", check: |seen| assert_eq!(seen.head.get("x"), Some("a")) }
        }),
        get("UTF-8 in a value", "x: 太郎\r\n", {
            Passed { target: "/x", body: b"", check: |seen| assert_eq!(seen.head.get("x"), Some("太郎")) }
        }),
        get("empty value", "x:\r\n", {
            Passed { target: "/x", body: b"", check: |seen| assert_eq!(seen.head.get("x"), Some("")) }
        }),
    ]
}

fn hosts() -> Vec<Case> {
    let host = |name, lines: &str, expect| case(name, format!("GET /x HTTP/1.1\r\n{lines}\r\n"), expect);
    vec![
        host("no Host", "x: y\r\n", MALFORMED),
        host("two equal Hosts", "host: a\r\nhost: a\r\n", MALFORMED),
        host("two different Hosts", "host: a\r\nHOST: b\r\n", MALFORMED),
        host("empty Host", "host:\r\n", MALFORMED),
        host("Host with a space", "host: a b\r\n", MALFORMED),
        host("Host with a path", "host: a/b\r\n", MALFORMED),
        host("Host with a user", "host: b@a\r\n", MALFORMED),
        host("Host with a word as port", "host: a:http\r\n", MALFORMED),
        host("Host with two ports", "host: a:1:2\r\n", MALFORMED),
        host("Host without a name", "host: :80\r\n", MALFORMED),
        host("Host half in brackets", "host: [::1\r\n", MALFORMED),
        host("Host with empty brackets", "host: []\r\n", MALFORMED),
        host("Host outside of ASCII", "host: é\r\n", MALFORMED),
        host("Host as IPv6", "host: [::1]:8080\r\n", passed("/x", b"")),
        host("Host with a port", "host: a.localhost:80\r\n", passed("/x", b"")),
        case("HTTP/1.0 with two Hosts", "GET /x HTTP/1.0\r\nhost: a\r\nhost: a\r\n\r\n", MALFORMED),
        case("HTTP/1.0 without Host", "GET /x HTTP/1.0\r\nconnection: keep-alive\r\n\r\n", passed("/x", b"")),
    ]
}

/// The upstream is told of nobody but itself.
fn own_host(seen: &SeenRequest) {
    assert!(seen.head.get("host").unwrap().starts_with("127.0.0.1:"), "{seen:?}");
}

fn targets() -> Vec<Case> {
    vec![
        line(
            "absolute-form",
            b"GET http://evil.test/v1/models?x=1 HTTP/1.1",
            Passed { target: "/v1/models?x=1", body: b"", check: own_host },
        ),
        line(
            "absolute-form without a path",
            b"DELETE HTTPS://evil.test HTTP/1.1",
            Passed { target: "/", body: b"", check: own_host },
        ),
        line("absolute-form with a query only", b"GET http://evil.test?x HTTP/1.1", MALFORMED),
        line("absolute-form without a host", b"GET http:///x HTTP/1.1", MALFORMED),
        line("absolute-form of another scheme", b"GET ftp://evil.test/ HTTP/1.1", MALFORMED),
        line("two slashes are a path", b"GET //evil.test/x HTTP/1.1", passed("//evil.test/x", b"")),
        line("authority-form", b"GET evil.test:443 HTTP/1.1", MALFORMED),
        line("CONNECT", b"CONNECT evil.test:443 HTTP/1.1", MALFORMED),
        line("CONNECT with a path", b"CONNECT / HTTP/1.1", MALFORMED),
        line("asterisk-form", b"OPTIONS * HTTP/1.1", MALFORMED),
        line("asterisk for a GET", b"GET * HTTP/1.1", MALFORMED),
        line("no slash", b"GET v1/models HTTP/1.1", MALFORMED),
        line("fragment", b"GET /a#b HTTP/1.1", MALFORMED),
        line("non-ASCII target", "GET /é HTTP/1.1".as_bytes(), MALFORMED),
        line("broken UTF-8 in the target", b"GET /\xff HTTP/1.1", MALFORMED),
        line("control byte in the target", b"GET /a\x01b HTTP/1.1", MALFORMED),
        line("NUL in the target", b"GET /a\0b HTTP/1.1", MALFORMED),
        line("DEL in the target", b"GET /a\x7fb HTTP/1.1", MALFORMED),
        line("tab in the target", b"GET /a\tb HTTP/1.1", MALFORMED),
        line("space in the target", b"GET /a b HTTP/1.1", MALFORMED),
        line("two spaces before the target", b"GET  / HTTP/1.1", MALFORMED),
        line("two spaces after the target", b"GET /  HTTP/1.1", MALFORMED),
        line("tab for a space", b"GET\t/ HTTP/1.1", MALFORMED),
        line("no target", b"GET HTTP/1.1", MALFORMED),
        line("bad method", b"G(T / HTTP/1.1", MALFORMED),
        line("no version", b"GET /", MALFORMED),
        line("HTTP/0.9", b"GET /x HTTP/0.9", MALFORMED),
        line("HTTP/1.2", b"GET /x HTTP/1.2", MALFORMED),
        line("HTTP/1.10", b"GET /x HTTP/1.10", MALFORMED),
        line("HTTP/2.0", b"GET /x HTTP/2.0", MALFORMED),
        line("http/1.1", b"GET / http/1.1", MALFORMED),
        line("version and a space", b"GET /x HTTP/1.1 ", MALFORMED),
        line("HTTP/2's preface", b"PRI * HTTP/2.0", MALFORMED),
        line("method of one's own", b"PURGE /x HTTP/1.1", passed("/x", b"")),
    ]
}

fn lengths() -> Vec<Case> {
    let bad = |name, value: &str| post(name, &format!("content-length: {value}\r\n"), "[]", MALFORMED);
    vec![
        bad("+2", "+2"),
        bad("-1", "-1"),
        bad("1,1", "1,1"),
        bad("2, 2", "2, 2"),
        bad("0x2", "0x2"),
        bad("2.0", "2.0"),
        bad("2e0", "2e0"),
        bad("2 2", "2 2"),
        bad("2;", "2;"),
        bad("empty length", ""),
        bad("full-width digit", "２"),
        bad("over 64 bits", "18446744073709551616"),
        bad("26 digits", "99999999999999999999999999"),
        post("largest length", "content-length: 18446744073709551615\r\n", "[]", Closed(413, "body_too_large")),
        post("repeated equal", "content-length: 2\r\ncontent-length: 2\r\n", "[]", MALFORMED),
        post("repeated different", "content-length: 2\r\nContent-Length: 44\r\n", "[]", MALFORMED),
        post("leading zeros", "content-length: 002\r\n", "[]", passed("/v1/embeddings", b"[]")),
        post("spaces around", "content-length: \t2 \r\n", "[]", passed("/v1/embeddings", b"[]")),
        get("zero on a GET", "content-length: 0\r\n", passed("/x", b"")),
        get("body on a GET", "content-length: 2\r\n\r\n[]", passed("/x", b"[]")),
    ]
}

fn codings() -> Vec<Case> {
    const UNKNOWN: Expect = Closed(501, "not_implemented");
    let coding = |name, value: &str, expect| {
        post(name, &format!("transfer-encoding: {value}\r\n"), "2\r\n[]\r\n0\r\n\r\n", expect)
    };
    let chunked = "transfer-encoding: chunked\r\n";
    vec![
        coding("gzip", "gzip", UNKNOWN),
        coding("gzip, chunked", "gzip, chunked", UNKNOWN),
        coding("chunked, gzip", "chunked, gzip", UNKNOWN),
        coding("chunked, chunked", "chunked, chunked", UNKNOWN),
        coding("identity", "identity", UNKNOWN),
        coding("xchunked", "xchunked", UNKNOWN),
        coding("chunked with a parameter", "chunked;q=1", UNKNOWN),
        coding("quoted chunked", "\"chunked\"", UNKNOWN),
        coding("chunked and a comma", "chunked,", UNKNOWN),
        coding("comma and chunked", ",chunked", UNKNOWN),
        coding("chunked in two words", "chun ked", UNKNOWN),
        coding("empty coding", "", UNKNOWN),
        coding("CHUNKED", "CHUNKED", passed("/v1/embeddings", b"[]")),
        coding("chunked and spaces", "chunked \t ", passed("/v1/embeddings", b"[]")),
        post("chunked twice", &chunked.repeat(2), "0\r\n\r\n", MALFORMED),
        post("chunked and gzip in two lines", &format!("{chunked}transfer-encoding: gzip\r\n"), "0\r\n\r\n", UNKNOWN),
        post("TE then CL", &format!("{chunked}content-length: 5\r\n"), "0\r\n\r\n", MALFORMED),
        post("CL then TE", &format!("content-length: 5\r\n{chunked}"), "0\r\n\r\n", MALFORMED),
        post("CL 0 and TE", &format!("content-length: 0\r\n{chunked}"), "0\r\n\r\n", MALFORMED),
        case("HTTP/1.0 with TE", format!("POST / HTTP/1.0\r\nhost: a\r\n{chunked}\r\n0\r\n\r\n"), MALFORMED),
        get("chunked on a GET", &format!("{chunked}\r\n2\r\n[]\r\n0\r\n"), passed("/x", b"[]")),
    ]
}

fn chunks() -> Vec<Case> {
    let bad = |name, body: &str| chunked(name, body, MALFORMED);
    let large = Closed(431, "headers_too_large");
    let whole = || passed("/v1/embeddings", b"[1]");
    let extension = |bytes: usize| format!("3;{}\r\n[1]\r\n0\r\n\r\n", "e".repeat(bytes));
    let trailer = |bytes: usize| format!("3\r\n[1]\r\n0\r\nx: {}\r\n\r\n", "t".repeat(bytes));
    vec![
        bad("space after the size", "3 \r\n[1]\r\n0\r\n\r\n"),
        bad("space before the size", " 3\r\n[1]\r\n0\r\n\r\n"),
        bad("tab after the size", "3\t\r\n[1]\r\n0\r\n\r\n"),
        bad("space before an extension", "3 ;a\r\n[1]\r\n0\r\n\r\n"),
        bad("+3", "+3\r\n[1]\r\n0\r\n\r\n"),
        bad("-3", "-3\r\n[1]\r\n0\r\n\r\n"),
        bad("0x3", "0x3\r\n[1]\r\n0\r\n\r\n"),
        bad("3_0", "3_0\r\n[1]\r\n0\r\n\r\n"),
        bad("no size", "\r\n[1]\r\n0\r\n\r\n"),
        bad("17 digits", "00000000000000003\r\n[1]\r\n0\r\n\r\n"),
        bad("17 digits, overflowing", "10000000000000003\r\n[1]\r\n0\r\n\r\n"),
        bad("LF after the size", "3\n[1]\r\n0\r\n\r\n"),
        bad("CR after the size", "3\r[1]\r\n0\r\n\r\n"),
        bad("LF in an extension", "3;a\n[1]\r\n0\r\n\r\n"),
        bad("NUL in an extension", "3;a\0\r\n[1]\r\n0\r\n\r\n"),
        bad("no CRLF after the data", "3\r\n[1]0\r\n\r\n"),
        bad("LF after the data", "3\r\n[1]\n0\r\n\r\n"),
        bad("CR CR LF after the data", "3\r\n[1]\r\r\n0\r\n\r\n"),
        bad("more data than the size", "2\r\n[1]\r\n0\r\n\r\n"),
        bad("LF after the last size", "3\r\n[1]\r\n0\n\r\n"),
        bad("LF as the last line", "3\r\n[1]\r\n0\r\n\n"),
        bad("LF after a trailer", "3\r\n[1]\r\n0\r\nx: y\n\r\n"),
        bad("folded trailer", "3\r\n[1]\r\n0\r\n x\r\n\r\n"),
        bad("NUL in a trailer", "3\r\n[1]\r\n0\r\nx: \0\r\n\r\n"),
        chunked("16 digits", "0000000000000003\r\n[1]\r\n0000\r\n\r\n", whole()),
        chunked("extension", "3;a=\"b\"\r\n[1]\r\n0;c\r\n\r\n", whole()),
        chunked("chunk of its own for each byte", "1\r\n[\r\n1\r\n1\r\n1\r\n]\r\n0\r\n\r\n", whole()),
        chunked("trailers are dropped", "3\r\n[1]\r\n0\r\ncontent-length: 7\r\nhost: b\r\n\r\n", whole()),
        chunked("extension under the cap", &extension(16_000), whole()),
        chunked("extension over the cap", &extension(17_000), Closed(431, "headers_too_large")),
        chunked("trailer under the cap", &trailer(16_000), whole()),
        chunked("trailer over the cap", &trailer(17_000), large),
        case(
            "bad chunk of a body that streams through",
            "POST /v1/files HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\n[1]\r\nx\r\n",
            Broken(400, "bad_request"),
        ),
        case(
            "missing CRLF of a body that streams through",
            "POST /v1/files HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\n[1]0\r\n\r\n",
            Broken(400, "bad_request"),
        ),
    ]
}

fn expectations_and_options() -> Vec<Case> {
    const FAILED: Expect = Closed(417, "expectation_failed");
    let protected = "host, content-length, authorization, content-type, transfer-encoding, x-drop";
    vec![
        get("Expect of something else", "expect: 200-ok\r\n", FAILED),
        get("Expect of two things", "expect: 100-continue, x\r\n", FAILED),
        get("empty Expect", "expect:\r\n", FAILED),
        get("Expect twice, once wrong", "expect: 100-continue\r\nexpect: x\r\n", FAILED),
        post(
            "Connection names what it cannot",
            &format!("connection: {protected}\r\nauthorization: Bearer k\r\nx-drop: 1\r\ncontent-length: 3\r\n"),
            "[1]",
            Passed {
                target: "/v1/embeddings",
                body: b"[1]",
                check: |seen| {
                    own_host(seen);
                    assert_eq!(seen.head.get("authorization"), Some("Bearer k"));
                    assert_eq!(seen.head.get("content-length"), Some("3"));
                    assert_eq!(seen.head.get("content-type"), Some("application/json"));
                    assert_eq!((seen.head.get("x-drop"), seen.head.get("connection")), (None, None));
                },
            },
        ),
        get("Connection names Accept-Encoding", "connection: accept-encoding\r\naccept-encoding: gzip\r\n", {
            Passed { target: "/x", body: b"", check: |seen| assert_eq!(seen.head.get("accept-encoding"), None) }
        }),
        post(
            "the same where the answer is read",
            "connection: Accept-Encoding\r\naccept-encoding: gzip\r\ncontent-length: 3\r\n",
            "[1]",
            Passed {
                target: "/v1/embeddings",
                body: b"[1]",
                check: |seen| assert_eq!(seen.head.get("accept-encoding"), None),
            },
        ),
        get(
            "hop-by-hop headers",
            "connection: keep-alive\r\nkeep-alive: 5\r\nte: trailers\r\ntrailer: x\r\nupgrade: h2c\r\n\
             proxy-authorization: Basic x\r\nproxy-connection: close\r\nx-kept: 1\r\n",
            Passed {
                target: "/x",
                body: b"",
                check: |seen| {
                    let names: Vec<&str> = seen.head.fields.iter().map(|(name, _)| name.as_str()).collect();
                    assert_eq!(names, ["host", "x-kept"]);
                },
            },
        ),
    ]
}

/// A GET whose request line has this many bytes, without its CRLF.
fn request_line(bytes: usize) -> Vec<u8> {
    let path = "a".repeat(bytes - "GET / HTTP/1.1".len());
    format!("GET /{path} HTTP/1.1\r\nhost: a\r\n\r\n").into_bytes()
}

/// A GET whose head has this many bytes, the empty line included.
fn head(bytes: usize) -> Vec<u8> {
    let mut head = b"GET /x HTTP/1.1\r\nhost: a\r\n".to_vec();
    let rest = bytes - head.len() - 2;
    for at in (0..rest).step_by(8000) {
        let value = 8000.min(rest - at) - "x: \r\n".len();
        head.extend_from_slice(format!("x: {}\r\n", "v".repeat(value)).as_bytes());
    }
    head.extend_from_slice(b"\r\n");
    assert_eq!(head.len(), bytes);
    head
}

fn caps() -> Vec<Case> {
    let seen = || Passed { target: "", body: b"", check: |_| {} };
    let long = || Closed(414, "uri_too_long");
    let large = || Closed(431, "headers_too_large");
    let headers = |count: usize| format!("host: a\r\n{}", "x: y\r\n".repeat(count - 1));
    let counted = |count| format!("GET /x HTTP/1.1\r\n{}\r\n", headers(count));
    vec![
        case("request line below its cap", request_line(REQUEST_LINE_BYTES_MAX - 1), seen()),
        case("request line at its cap", request_line(REQUEST_LINE_BYTES_MAX), seen()),
        case("request line above its cap", request_line(REQUEST_LINE_BYTES_MAX + 1), long()),
        case("request line without an end", [b"GET /".as_slice(), &[b'a'; 20_000]].concat(), long()),
        case("head below its cap", head(HEAD_BYTES_MAX - 1), seen()),
        case("head at its cap", head(HEAD_BYTES_MAX), seen()),
        case("head above its cap", head(HEAD_BYTES_MAX + 1), large()),
        case("head above its cap by two", head(HEAD_BYTES_MAX + 2), large()),
        case("head far above its cap", head(HEAD_BYTES_MAX + 3000), large()),
        case("100 headers", counted(100), seen()),
        case("101 headers", counted(101), large()),
        get("one endless header", &format!("x: {}\r\n", "v".repeat(HEAD_BYTES_MAX)), large()),
    ]
}

fn users() -> Vec<Case> {
    const BAD_USER: Expect = Kept(400, "bad_request");
    let long = "a".repeat(129);
    let longest = "a".repeat(128);
    vec![
        get("empty user", "x-user-id:\r\n", BAD_USER),
        get("user over 128 bytes", &format!("x-user-id: {long}\r\n"), BAD_USER),
        get("user of 128 bytes", &format!("x-user-id: {longest}\r\n"), passed("/x", b"")),
        get("tab in a user", "x-user-id: a\tb\r\n", BAD_USER),
        get("C1 control in a user", "x-user-id: a\u{85}b\r\n", BAD_USER),
        get("user twice", "x-user-id: a\r\nX-User-ID: a\r\n", BAD_USER),
        case("user not UTF-8", b"GET /x HTTP/1.1\r\nhost: a\r\nx-user-id: \xff\r\n\r\n".to_vec(), BAD_USER),
        get("escape in a user", "x-user-id: a\x1b[2J\r\n", MALFORMED),
        post("bad user and a small body", "x-user-id:\r\ncontent-length: 3\r\n", "[1]", BAD_USER),
        post("bad user and chunks", "x-user-id:\r\ntransfer-encoding: chunked\r\n", "3\r\n[1]\r\n0\r\n\r\n", BAD_USER),
        post("bad user and a bad chunk", "x-user-id:\r\ntransfer-encoding: chunked\r\n", "x\r\n", {
            Dropped(400, "bad_request")
        }),
        get("user of another script", "x-user-id: 太郎\r\n", {
            Passed { target: "/x", body: b"", check: |seen| assert_eq!(seen.head.get("x-user-id"), None) }
        }),
    ]
}

fn cases() -> Vec<Case> {
    let groups =
        [line_ends, header_syntax, hosts, targets, lengths, codings, chunks, expectations_and_options, caps, users];
    groups.into_iter().flat_map(|group| group()).collect()
}

/// The name and the bytes of every request that passes, one message in each.
pub fn accepted() -> Vec<(&'static str, Vec<u8>)> {
    let passes = |case: &Case| matches!(case.expect, Passed { .. });
    cases().into_iter().filter(passes).map(|case| (case.name, case.bytes)).collect()
}

/// Sends a case and the next request, in these pieces; the next request's answer must be as the case says.
fn run(proxy: &Proxy, steady: &mut Client, upstream: &Upstream, case: &Case, piece_bytes: usize) {
    let before = upstream.requests().len();
    let mut client = Client::connect(proxy.addr());
    for piece in [&case.bytes[..], NEXT].concat().chunks(piece_bytes) {
        if !client.try_send(piece) {
            break; // it was refused before its end
        }
        if piece_bytes == 1 {
            // Answered, so the loop has turned, and taken the byte by itself.
            steady.request("GET", "/healthz", &[], b"").expect(200);
        }
    }
    let (status, code, closed) = match case.expect {
        Closed(status, code) | Dropped(status, code) | Broken(status, code) => (status, Some(code), true),
        Kept(status, code) => (status, Some(code), false),
        Passed { .. } => (200, None, false),
    };
    let response = client.response("GET");
    match code {
        Some(code) => {
            let response = response.expect_proxy_error(status, code);
            let announced = closed && !matches!(case.expect, Dropped(..));
            assert_eq!(response.head.get("connection"), announced.then_some("close"));
        }
        None => drop(response.expect(200)),
    }
    if closed {
        assert_eq!(client.expect_end(), Ok(()), "nothing but the end follows, in good order");
    } else {
        client.response("GET").expect(200);
    }
    let seen = upstream.requests().split_off(before);
    // The upstream may hear of a broken request's head only now: no other case has its target.
    let is_late = |seen: &&SeenRequest| seen.target == "/v1/files" && !matches!(case.expect, Broken(..));
    let seen: Vec<&SeenRequest> = seen.iter().filter(|seen| !is_late(seen)).collect();
    match (&case.expect, &seen[..]) {
        (Closed(..) | Dropped(..), []) => {}
        (Kept(..), [next]) => assert_eq!(next.target, "/next"),
        (Passed { target, body, check }, [first, next]) => {
            assert!(target.is_empty() || first.target == *target, "{first:?}");
            assert_eq!(first.body, *body);
            assert_eq!((next.target.as_str(), next.body.len()), ("/next", 0));
            check(first);
        }
        // Refused before the connection to the upstream stood, it saw not even the head.
        (Broken(..), heads) if heads.iter().all(|head| head.target == "/v1/files") => {}
        (_, seen) => panic!("the upstream saw {seen:?}"),
    }
}

#[test]
fn hostile_requests_are_refused_and_nothing_is_smuggled() {
    let upstream = Upstream::plain(|request| {
        assert_ne!(request.target, "/v1/files", "a broken body is never whole");
        Reply::json("{}").steps()
    });
    let proxy = Proxy::start(&[("PROXY_TARGET", &upstream.url()), ("RATE_LIMIT_RPM", "0")]);
    let mut steady = Client::connect(proxy.addr());
    let cases = cases();
    let (mut runs, mut wrong) = (0, Vec::new());
    for case in &cases {
        // All at once; torn where heads and chunks are most easily misread; byte by byte where that is not long.
        let pieces = [usize::MAX, 1000, if case.bytes.len() < 600 { 1 } else { 8191 }];
        for piece_bytes in pieces {
            runs += 1;
            if catch_unwind(AssertUnwindSafe(|| run(&proxy, &mut steady, &upstream, case, piece_bytes))).is_err() {
                wrong.push(format!("{} (in pieces of {piece_bytes} bytes)", case.name));
            }
        }
    }
    let refused = cases.iter().filter(|case| !matches!(case.expect, Passed { .. })).count();
    println!("{} hostile or borderline requests, {refused} to be refused, {runs} runs", cases.len());
    assert!(wrong.is_empty(), "{} runs went wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(upstream.requests().iter().all(|seen| !seen.target.contains("hidden")));
}

/// `100 Continue` is sent where a body is wanted, and only there.
#[test]
fn expectations_are_met_before_the_body_or_refused() {
    let upstream = Upstream::plain(|_| Reply::json("{}").steps());
    let proxy = Proxy::start(&[("PROXY_TARGET", &upstream.url()), ("MAX_BODY_BYTES", "1024")]);
    for target in ["/v1/embeddings", "/v1/files"] {
        let head = |length| {
            format!(
                "POST {target} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\nexpect: 100-continue\r\n\
                 content-length: {length}\r\n\r\n"
            )
        };
        let mut client = Client::connect(proxy.addr());
        client.send(head(3));
        let interim = client.head().unwrap().unwrap();
        assert_eq!((interim.status(), interim.fields.len()), (100, 0));
        client.send("[1]");
        assert!(client.response("POST").expect(200).interim.is_empty());
        assert_eq!(client.request("GET", "/x", &[], b"").expect(200).interim.len(), 0, "the connection is kept");
    }
    let seen = upstream.requests();
    assert!(seen.iter().all(|request| request.head.get("expect").is_none()));

    // Refused, the client decides whether the body comes: the connection cannot be kept.
    let mut client = Client::connect(proxy.addr());
    let head = "POST /v1/embeddings HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n";
    client.send(format!("{head}expect: 100-continue\r\ncontent-length: 1025\r\n\r\n"));
    let refused = client.response("POST").expect_proxy_error(413, "body_too_large");
    assert!(refused.interim.is_empty() && refused.head.get("connection") == Some("close"));
    assert_eq!(client.expect_end(), Ok(()));
    assert_eq!(upstream.requests().len(), seen.len());
}

/// Many at once, each with a hidden second request, disturb nobody else.
#[test]
fn a_flood_of_bad_requests_leaves_others_alone() {
    let upstream = Upstream::plain(|_| Reply::json("{}").steps());
    let proxy = Proxy::start(&[("PROXY_TARGET", &upstream.url()), ("RATE_LIMIT_RPM", "0")]);
    let mut steady = Client::connect(proxy.addr());
    for round in 0..20 {
        let mut hostile: Vec<Client> = (0..10).map(|_| Client::connect(proxy.addr())).collect();
        for client in &mut hostile {
            client
                .send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n");
        }
        let fine = steady.request("GET", &format!("/{round}"), &[], b"").expect(200);
        assert_eq!(fine.body, b"{}");
        for client in &mut hostile {
            client.response("POST").expect_proxy_error(400, "bad_request");
        }
    }
    assert_eq!(upstream.requests().len(), 20);
}
