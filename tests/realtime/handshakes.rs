//! Which requests become a WebSocket, what passes of a handshake, and what becomes of those that are refused.

use super::{accepting, close, rows, scripted, summary};
use crate::support::client::{Client, post_json, request};
use crate::support::rng::Rng;
use crate::support::script::{Reply, Step};
use crate::support::websocket::{self, Frame, HANDSHAKE, Side, Socket, accept_of, switching_protocols};

const TARGET: &str = "/v1/realtime?model=gpt-realtime";

/// RFC 6455 §1.3 and §5.7: the harness below is held to the standard's own examples.
#[test]
fn the_examples_of_the_standard_hold() {
    assert_eq!(accept_of("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    assert_eq!(Frame::text("Hello").encode(None), b"\x81\x05Hello");
    assert_eq!(
        Frame::text("Hello").encode(Some([0x37, 0xfa, 0x21, 0x3d])),
        b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58"
    );
    assert_eq!(Frame::new(websocket::BINARY, vec![0; 256]).encode(None)[..4], *b"\x82\x7e\x01\x00");
    assert_eq!(Frame::new(websocket::BINARY, vec![0; 65536]).encode(None)[..10], *b"\x82\x7f\0\0\0\0\0\x01\0\0");
}

/// What is sent in fragments is read as what it was, by the other side only.
#[test]
fn fragments_come_together_again() {
    let mut rng = Rng::from_env();
    for length in [0, 1, 125, 126, 1000, 65_535, 65_536, 200_000] {
        let message = Frame::text("x".repeat(length));
        for mut side in [Side::Server, Side::Client(Rng::new(1))] {
            let bytes = side.encode_in_fragments(&message, &mut rng);
            let other = if matches!(side, Side::Server) { Side::Client(Rng::new(2)) } else { Side::Server };
            assert_eq!(Socket::new(Pipe(bytes.clone(), 0), other).message(), Ok(Some(message.clone())));
            assert!(Socket::new(Pipe(bytes, 0), side).message().is_err(), "a side does not take its own frames");
        }
    }
}

/// Bytes to read; what is written goes nowhere.
struct Pipe(Vec<u8>, usize);

impl std::io::Read for Pipe {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let n = buf.len().min(self.0.len() - self.1);
        buf[..n].copy_from_slice(&self.0[self.1..self.1 + n]);
        self.1 += n;
        Ok(n)
    }
}

impl std::io::Write for Pipe {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        Ok(buf.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_handshake_passes_without_extensions() {
    let vars = [("OPENAI_API_KEY", "sk-operator"), ("ALLOWED_ORIGINS", "https://app.test")];
    let (upstream, proxy) = accepting(&vars, |socket| close(socket, 1000));
    let fields = [
        ("sec-websocket-extensions", "permessage-deflate; client_max_window_bits"),
        ("sec-websocket-protocol", "realtime, openai-beta.realtime-v1"),
        ("openai-beta", "realtime=v1"),
        ("origin", "https://app.test"),
        ("authorization", "Bearer sk-client"),
        ("x-user-id", "u"),
        ("cookie", "session=1"),
        ("x-forwarded-for", "192.0.2.7"),
    ];
    let mut client = Client::connect(proxy.addr());
    let fields: Vec<_> = HANDSHAKE.into_iter().chain(fields).collect();
    let response = client.request("GET", TARGET, &fields, b"").expect(101);
    websocket::check_accepted(&response);
    assert_eq!(response.head.get("sec-websocket-protocol"), Some("realtime"));
    assert_eq!(response.head.get("x-request-id"), Some("req_of_a_socket"));
    for name in ["content-length", "transfer-encoding", "sec-websocket-extensions"] {
        assert_eq!(response.head.get(name), None, "{name}");
    }
    close(&mut Socket::new(client.into_wire(), Side::Client(Rng::new(1))), 1000).unwrap();

    let seen = &upstream.requests()[0];
    assert_eq!((seen.method.as_str(), seen.target.as_str()), ("GET", TARGET));
    for (name, value) in &fields {
        let passed = match *name {
            "sec-websocket-extensions" | "x-user-id" | "cookie" | "x-forwarded-for" => None,
            "authorization" => Some("Bearer sk-operator"),
            _ => Some(*value),
        };
        assert_eq!(seen.head.get(name), passed, "{name}");
    }
    let rows = rows(&proxy, "u", 1);
    assert_eq!(summary(&rows), ["realtime/session 101 completed none"]);
    assert_eq!(rows[0]["upstream_request_id"], "req_of_a_socket");
}

/// A server that refuses answers as the API does: JSON under `text/plain`. The connection goes on.
#[test]
fn a_refused_handshake_passes_as_it_is() {
    let body = b"{\"error\":{\"message\":\"Incorrect API key provided: sk-***.\",\"type\":\"invalid_request_error\",\
        \"param\":null,\"code\":\"invalid_api_key\"},\"status\":401}\n";
    let (upstream, proxy) = scripted(&[], |request| match request.nth {
        0 => Reply::new(401, *body).field("content-type", "text/plain; charset=utf-8").steps(),
        1 => Reply::new(426, "").field("upgrade", "websocket").steps(),
        _ => Reply::json("{}").steps(),
    });
    let mut client = Client::connect(proxy.addr());
    let fields: Vec<_> = HANDSHAKE.into_iter().chain([("x-user-id", "u")]).collect();
    let refused = client.request("GET", TARGET, &fields, b"").expect(401);
    assert_eq!((&refused.body[..], refused.head.get("content-type")), (&body[..], Some("text/plain; charset=utf-8")));
    client.request("GET", "/v1/responses", &fields, b"").expect(426);
    client.request("GET", "/v1/models", &[("x-user-id", "u")], b"").expect(200);
    assert_eq!(upstream.requests().len(), 3);
    let rows = summary(&rows(&proxy, "u", 3));
    assert_eq!(rows[..2], ["realtime/session 401 completed none", "responses/session 426 completed none"]);
}

/// Bytes that come in one piece with the heads, before either side can have waited for the other.
#[test]
fn what_follows_a_head_at_once_is_a_part_of_the_session() {
    let (hello, early) = (Frame::text("{\"type\":\"session.created\"}"), Frame::text("{\"type\":\"session.update\"}"));
    let (greeting, expected) = (hello.clone(), early.clone());
    let (_upstream, proxy) = scripted(&[], move |request| {
        let expected = expected.clone();
        let talk: crate::support::script::Talk = Box::new(move |tunnel| {
            let mut socket = Socket::new(tunnel, Side::Server);
            assert_eq!(socket.message()?, Some(expected));
            close(&mut socket, 1000)
        });
        let head = [switching_protocols(request), greeting.encode(None)].concat();
        vec![Step::Send(head), Step::Talk(talk), Step::Close]
    });
    let mut client = Client::connect(proxy.addr());
    client.send([request("GET", TARGET, &HANDSHAKE, b""), early.encode(Some([1, 2, 3, 4]))].concat());
    websocket::check_accepted(&client.response("GET").expect(101));
    let mut socket = Socket::new(client.into_wire(), Side::Client(Rng::new(1)));
    assert_eq!(socket.message(), Ok(Some(hello)));
    close(&mut socket, 1000).unwrap();
    assert_eq!(socket.stream.expect_end(), Ok(()));
}

/// Nothing but a whole handshake is a request to upgrade: the fields of all others stay with us, and the request is an
/// ordinary one.
#[test]
fn other_upgrades_are_not_passed_on() {
    let (upstream, proxy) = scripted(&[], |_| Reply::json("{}").steps());
    let h2c = [("connection", "Upgrade, HTTP2-Settings"), ("upgrade", "h2c"), ("http2-settings", "AAMAAABkAAQAAP__")];
    let unasked = [("upgrade", "websocket"), HANDSHAKE[2], HANDSHAKE[3]];
    let (nothing, body): (&[u8], &[u8]) = (b"", b"{\"model\":\"gpt-4o\"}");
    for (method, fields, body) in [
        ("GET", &h2c[..], nothing),
        ("POST", &h2c[..], body),
        ("GET", &unasked[..], nothing),
        ("POST", &HANDSHAKE[..], body),
        ("GET", &[("connection", "Upgrade"), ("upgrade", "TLS/1.3")][..], nothing),
    ] {
        Client::connect(proxy.addr()).request(method, "/v1/models", fields, body).expect(200);
    }
    let old = "GET /v1/models HTTP/1.0\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    let mut client = Client::connect(proxy.addr());
    client.send(old);
    client.response("GET").expect(200);
    let seen = upstream.requests();
    assert_eq!(seen.len(), 6);
    for request in seen {
        for name in ["upgrade", "http2-settings"] {
            assert_eq!(request.head.get(name), None, "{request:?}");
        }
        assert!(!format!("{:?}", request.head.all("connection")).to_lowercase().contains("upgrade"), "{request:?}");
    }
}

/// 101 is an answer only to those who asked for it (RFC 9110 §15.2.2), and only with what they asked for.
#[test]
fn switching_unasked_is_a_breach_of_protocol() {
    let head = |upgrade: &str| {
        format!("HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: {upgrade}\r\n\r\n").into_bytes()
    };
    let (_upstream, proxy) = scripted(&[], move |request| {
        let upgrade = if request.target.contains("h2c") { "h2c" } else { "websocket" };
        vec![Step::Send(head(upgrade)), Step::AwaitClose]
    });
    let user = ("x-user-id", "u");
    let chat = post_json(proxy.addr(), "/v1/chat/completions", &[user], r#"{"model":"gpt-4o"}"#);
    chat.expect_proxy_error(502, "upstream_protocol");
    let plain = Client::connect(proxy.addr()).request("GET", "/v1/realtime", &[user], b"");
    plain.expect_proxy_error(502, "upstream_protocol");
    let asked: Vec<_> = HANDSHAKE.into_iter().chain([user]).collect();
    let other = Client::connect(proxy.addr()).request("GET", "/v1/realtime?h2c", &asked, b"");
    other.expect_proxy_error(502, "upstream_protocol");
    let rows = rows(&proxy, "u", 3);
    assert!(rows.iter().all(|row| row["status"] == 502 && row["outcome"] == "upstream_error"), "{:?}", summary(&rows));
}
