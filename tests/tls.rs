//! The TLS core against rustls' own server, in memory: any split of the bytes gives the same plaintext, a peer that is
//! not to be trusted is refused with the right alert, and nothing that a peer sends makes us panic or keep much. The
//! side of the clients is in `tls/listening.rs`, in memory too, and in `tls/port.rs`, with the binary.

#[path = "tls/listening.rs"]
mod listening;
#[path = "tls/port.rs"]
mod port;
mod support;

use openai_api_proxy::base::clock::{Now, SECOND};
use openai_api_proxy::policy::ReadOn;
use openai_api_proxy::proxy::{Action, Conn, Proxy, UpKey, Written};
use openai_api_proxy::tls::{Connector, Session, TlsError};
use proptest::prelude::*;
use rustls::{AlertDescription, Error, ServerConfig, ServerConnection};
use std::io::{ErrorKind, Read, Write};
use std::sync::{Arc, OnceLock};
use support::ca::{Ca, Server};
use support::core;
use support::websocket::Frame;

/// One authority and the configurations under it: keys are slow to make.
struct World {
    ca: Ca,
    usual: ServerConfig,
    tls12: ServerConfig,
}

fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let ca = Ca::new();
        let names = ["localhost", "127.0.0.1"];
        World { usual: ca.server(&names, Server::Usual), tls12: ca.server(&names, Server::Tls12), ca }
    })
}

fn connector(host: &str) -> Connector {
    Connector::new(host, Some(world().ca.pem().as_bytes())).unwrap()
}

/// A session and a server, with the bytes on their way between them.
struct Pair {
    client: Session,
    server: ServerConnection,
    to_server: Vec<u8>,
    to_client: Vec<u8>,
    client_got: Vec<u8>,
    server_got: Vec<u8>,
}

impl Pair {
    fn new(connector: &Connector, config: &ServerConfig) -> Self {
        let mut server = ServerConnection::new(Arc::new(config.clone())).unwrap();
        server.set_buffer_limit(None);
        let mut client = connector.open().unwrap();
        let mut to_server = Vec::new();
        client.start(&mut to_server).unwrap();
        assert!(!to_server.is_empty(), "the client speaks first");
        Self { client, server, to_server, to_client: Vec::new(), client_got: Vec::new(), server_got: Vec::new() }
    }

    /// A pair after its handshake and the tickets that follow it.
    fn connected(connector: &Connector, config: &ServerConfig) -> Self {
        let mut pair = Self::new(connector, config);
        pair.settle();
        assert!(!pair.client.is_handshaking());
        pair
    }

    /// Hands the client what is on its way, `size` bytes at most.
    fn feed_client(&mut self, size: usize) -> Result<(), TlsError> {
        let size = size.min(self.to_client.len());
        let mut input: Vec<u8> = self.to_client.drain(..size).collect();
        self.client.receive(&mut input, &mut self.to_server, |plain| self.client_got.extend_from_slice(plain))
    }

    /// Hands the server what is on its way, `size` bytes at most.
    fn feed_server(&mut self, size: usize) -> Result<(), Error> {
        let size = size.min(self.to_server.len());
        let bytes: Vec<u8> = self.to_server.drain(..size).collect();
        let mut rest = &bytes[..];
        let mut outcome = Ok(());
        while !rest.is_empty() && outcome.is_ok() {
            self.server.read_tls(&mut rest).unwrap();
            outcome = self.server.process_new_packets().map(|_| ());
            let mut chunk = [0; 4096];
            while let Ok(n @ 1..) = self.server.reader().read(&mut chunk) {
                self.server_got.extend_from_slice(&chunk[..n]);
            }
        }
        self.drain_server();
        outcome
    }

    fn drain_server(&mut self) {
        while self.server.wants_write() {
            self.server.write_tls(&mut self.to_client).unwrap();
        }
    }

    /// Moves bytes both ways in pieces of the given sizes, in turn, until none are left.
    fn move_all(&mut self, sizes: &[usize]) -> Result<(), TlsError> {
        self.drain_server();
        for &size in sizes.iter().cycle() {
            self.feed_server(size).unwrap();
            self.feed_client(size)?;
            if self.to_server.is_empty() && self.to_client.is_empty() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn settle(&mut self) {
        self.move_all(&[usize::MAX]).unwrap();
    }

    /// The error that the client finds, and what the server then makes of its alert.
    fn refused(&mut self) -> (TlsError, Error) {
        let error = self.move_all(&[usize::MAX]).unwrap_err();
        assert!(matches!(self.client.receive(&mut [0; 64], &mut Vec::new(), |_| ()), Err(TlsError::Finished)));
        assert!(matches!(self.client.encrypt(b"late", &mut Vec::new()), Err(TlsError::Finished)));
        (error, self.feed_server(usize::MAX).unwrap_err())
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len as u32).map(|i| (i ^ (i >> 7) ^ (i >> 13)) as u8).collect()
}

fn record_count(mut bytes: &[u8]) -> usize {
    let mut records = 0;
    while !bytes.is_empty() {
        let len = usize::from(u16::from_be_bytes([bytes[3], bytes[4]]));
        bytes = &bytes[5 + len..];
        records += 1;
    }
    records
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Small fragments also split every handshake message over many records.
    #[test]
    fn any_split_yields_the_same_plaintext(
        sizes in prop::collection::vec(prop_oneof![1usize..40, 1usize..6_000, 1usize..70_000], 1..12),
        down in 0usize..80_000,
        up in 0usize..80_000,
        tls12 in any::<bool>(),
        fragment in prop_oneof![Just(None), (40usize..600).prop_map(Some)],
    ) {
        let mut config = if tls12 { world().tls12.clone() } else { world().usual.clone() };
        config.max_fragment_size = fragment;
        let mut pair = Pair::new(&connector("localhost"), &config);
        pair.move_all(&sizes).unwrap();
        prop_assert!(!pair.client.is_handshaking());
        let (down, up) = (pattern(down), pattern(up));
        pair.server.writer().write_all(&down).unwrap();
        pair.client.encrypt(&up, &mut pair.to_server).unwrap();
        pair.move_all(&sizes).unwrap();
        prop_assert!(pair.client_got == down && pair.server_got == up);
        prop_assert_eq!(pair.client.held_bytes(), 0);
    }

    #[test]
    fn garbage_never_panics(
        garbage in prop::collection::vec(any::<u8>(), 1..400),
        header in prop::option::of((20u8..25, 0u8..4, 0u16..300)),
        handshaking in any::<bool>(),
        size in 1usize..50,
    ) {
        let mut pair = Pair::new(&connector("localhost"), &world().usual);
        if !handshaking {
            pair.settle();
        }
        if let Some((kind, minor, len)) = header {
            pair.to_client.extend_from_slice(&[kind, 3, minor]);
            pair.to_client.extend_from_slice(&len.to_be_bytes());
        }
        pair.to_client.extend_from_slice(&garbage);
        while !pair.to_client.is_empty() {
            let _ = pair.feed_client(size);
        }
        pair.client.close(&mut pair.to_server);
        prop_assert!(pair.client_got.is_empty());
    }

    /// A flipped bit anywhere in a record is found, and the server is told.
    #[test]
    fn a_changed_record_is_refused(bit in 0usize..(8 * 1000), tls12 in any::<bool>()) {
        let config = if tls12 { &world().tls12 } else { &world().usual };
        let mut pair = Pair::connected(&connector("localhost"), config);
        pair.server.writer().write_all(&pattern(1000)).unwrap();
        pair.drain_server();
        pair.to_client[5 + bit / 8] ^= 1 << (bit % 8);
        let (error, told) = pair.refused();
        prop_assert_eq!(error.label(), "protocol");
        prop_assert_eq!(told, Error::AlertReceived(AlertDescription::BadRecordMac));
        prop_assert!(pair.client_got.is_empty());
    }
}

#[test]
fn a_megabyte_at_once_and_byte_by_byte() {
    for config in [&world().usual, &world().tls12] {
        for (sizes, len) in [(&[usize::MAX][..], 1 << 20), (&[65_536], 1 << 20), (&[1], 40_000)] {
            let mut pair = Pair::new(&connector("127.0.0.1"), config);
            pair.move_all(sizes).unwrap();
            let bytes = pattern(len);
            pair.server.writer().write_all(&bytes).unwrap();
            pair.client.encrypt(&bytes, &mut pair.to_server).unwrap();
            pair.move_all(sizes).unwrap();
            assert!(pair.client_got == bytes && pair.server_got == bytes);
        }
    }
}

#[test]
fn sixteen_kib_make_one_record() {
    let mut pair = Pair::connected(&connector("localhost"), &world().usual);
    for (len, records) in [(0, 0), (1, 1), (16 * 1024, 1), (16 * 1024 + 1, 2), (40_000, 3)] {
        let mut out = b"kept".to_vec();
        pair.client.encrypt(&pattern(len), &mut out).unwrap();
        assert_eq!(&out[..4], b"kept");
        assert_eq!(record_count(&out[4..]), records, "{len} bytes");
        pair.to_server.extend_from_slice(&out[4..]);
        pair.settle();
        assert_eq!(std::mem::take(&mut pair.server_got), pattern(len));
    }
}

#[test]
fn tickets_are_silent_and_resume() {
    for config in [&world().usual, &world().tls12] {
        let connector = connector("localhost");
        let mut first = Pair::connected(&connector, config);
        assert!(!first.client.is_resumed());
        assert!(first.client_got.is_empty() && !first.client.peer_closed());
        assert_eq!(first.client.held_bytes(), 0);
        first.server.writer().write_all(b"after the tickets").unwrap();
        first.settle();
        assert_eq!(first.client_got, b"after the tickets");
        let second = Pair::connected(&connector.clone(), config);
        assert!(second.client.is_resumed());
        let elsewhere = Pair::connected(&self::connector("localhost"), config);
        assert!(!elsewhere.client.is_resumed(), "sessions belong to their connector");
    }
}

#[test]
fn http_1_1_is_negotiated() {
    let pair = Pair::connected(&connector("localhost"), &world().usual);
    assert_eq!(pair.server.alpn_protocol(), Some(&b"http/1.1"[..]));
    let mut silent = world().usual.clone();
    silent.alpn_protocols.clear();
    Pair::connected(&connector("localhost"), &silent);
}

#[test]
fn keys_are_updated_on_request() {
    let mut pair = Pair::connected(&connector("localhost"), &world().usual);
    for round in 0..3u8 {
        pair.server.refresh_traffic_keys().unwrap();
        pair.server.writer().write_all(&[round; 3]).unwrap();
        pair.settle();
        let before = pair.to_server.len();
        pair.client.encrypt(&[round; 5], &mut pair.to_server).unwrap();
        assert_eq!(record_count(&pair.to_server[before..]), 2, "our own key update goes first");
        pair.settle();
    }
    assert_eq!(pair.client_got, [0, 0, 0, 1, 1, 1, 2, 2, 2]);
    assert_eq!(pair.server_got, [0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2]);
}

#[test]
fn close_notify_ends_what_is_heard() {
    for sizes in [&[usize::MAX][..], &[1]] {
        let mut pair = Pair::connected(&connector("localhost"), &world().usual);
        pair.server.writer().write_all(b"last words").unwrap();
        pair.server.send_close_notify();
        pair.drain_server();
        pair.to_client.extend_from_slice(b"trailing bytes that no one may read");
        pair.move_all(sizes).unwrap();
        assert_eq!(pair.client_got, b"last words");
        assert!(pair.client.peer_closed());
        assert_eq!(pair.client.held_bytes(), 0);
        // The other direction stays open until we close it too.
        pair.client.encrypt(b"still heard", &mut pair.to_server).unwrap();
        pair.client.close(&mut pair.to_server);
        pair.settle();
        assert_eq!(pair.server_got, b"still heard");
        assert_eq!(pair.server.reader().read(&mut [0; 1]).unwrap(), 0, "the server saw our close_notify");
    }
}

#[test]
fn a_cut_is_not_a_close() {
    let mut pair = Pair::connected(&connector("localhost"), &world().usual);
    pair.server.writer().write_all(&pattern(5000)).unwrap();
    pair.drain_server();
    let cut = pair.to_client.len() - 1;
    pair.feed_client(cut).unwrap();
    assert!(pair.client_got.is_empty(), "an unauthenticated record is never shown");
    assert!(!pair.client.peer_closed());
    assert!(pair.client.held_bytes() >= cut);
    // A session that waits for the rest of a record can write meanwhile.
    pair.client.encrypt(b"up", &mut pair.to_server).unwrap();
    pair.settle();
    assert_eq!((pair.client_got, pair.server_got), (pattern(5000), b"up".to_vec()));
}

#[test]
fn a_certificate_that_is_not_to_be_trusted_is_refused() {
    let stranger = Ca::new().server(&["localhost"], Server::Usual);
    let expired = world().ca.server(&["localhost"], Server::Expired);
    let cases = [
        ("other.example", &world().usual, AlertDescription::BadCertificate, "PROXY_TARGET must use a name in it"),
        ("localhost", &stranger, AlertDescription::UnknownCA, "TLS_CA_FILE"),
        ("localhost", &expired, AlertDescription::CertificateExpired, "renew it"),
    ];
    for (host, config, alert, advice) in cases {
        let mut pair = Pair::new(&connector(host), config);
        let (error, told) = pair.refused();
        assert_eq!(error.label(), "certificate");
        assert!(error.to_string().contains(advice), "{error}");
        assert_eq!(told, Error::AlertReceived(alert));
        assert!(pair.client.is_handshaking());
    }
}

#[test]
fn the_built_in_anchors_do_not_trust_a_private_authority() {
    let error = Pair::new(&Connector::new("localhost", None).unwrap(), &world().usual).refused().0;
    assert_eq!(error.label(), "certificate");
}

#[test]
fn a_server_without_tls_is_recognised() {
    let mut pair = Pair::new(&connector("localhost"), &world().usual);
    pair.to_client.extend_from_slice(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    let error = pair.feed_client(usize::MAX).unwrap_err();
    assert_eq!(error.label(), "handshake");
    assert!(error.to_string().contains("http://"), "{error}");
}

#[test]
fn nothing_in_common_is_a_handshake_error() {
    let mut pair = Pair::new(&connector("localhost"), &world().usual);
    // Fatal alert 40, handshake_failure, in the clear.
    pair.to_client.extend_from_slice(&[21, 3, 3, 0, 2, 2, 40]);
    let error = pair.feed_client(usize::MAX).unwrap_err();
    assert_eq!(error.label(), "handshake");
    assert!(error.to_string().contains("HandshakeFailure"), "{error}");
}

#[test]
fn an_endless_handshake_message_is_cut_off() {
    let mut pair = Pair::new(&connector("localhost"), &world().usual);
    // A certificate of 65,000 bytes, a byte a record.
    let message = [&[11, 0, 0xfd, 0xe8][..], &[0; 65_000]].concat();
    let mut most = 0;
    let refused = message.iter().any(|&byte| {
        pair.to_client.extend_from_slice(&[22, 3, 3, 0, 1, byte]);
        let outcome = pair.feed_client(usize::MAX);
        most = most.max(pair.client.held_bytes());
        outcome.is_err_and(|error| error.label() == "handshake")
    });
    assert!(refused);
    assert!(most <= 256 * 1024, "{most} bytes were kept");
    assert_eq!(pair.client.held_bytes(), 0);
}

#[test]
fn nothing_is_encrypted_before_the_handshake() {
    let mut pair = Pair::new(&connector("localhost"), &world().usual);
    let mut out = Vec::new();
    assert!(matches!(pair.client.encrypt(b"early", &mut out), Err(TlsError::Finished)));
    pair.client.close(&mut out);
    assert!(out.is_empty());
    pair.settle();
    assert!(!pair.client.is_handshaking(), "the attempt did no harm");
}

#[test]
fn bad_configuration_is_named() {
    let label = |host, pem: Option<&str>| Connector::new(host, pem.map(str::as_bytes)).err().map(|e| e.label());
    assert_eq!(label("api.openai.com", None), None);
    assert_eq!(label("::1", None), None);
    assert_eq!(label("not a name", None), Some("server_name"));
    assert_eq!(label("localhost", Some("")), Some("trust_anchors"));
    let broken = world().ca.pem().replace("-----END", "====END");
    assert_eq!(label("localhost", Some(&broken)), Some("trust_anchors"));
    let no_certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    assert_eq!(label("localhost", Some(no_certificate)), Some("trust_anchors"));
}

/// The proxy's connection to a target that speaks TLS, and that target.
struct Target {
    proxy: Proxy,
    up: UpKey,
    server: ServerConnection,
    got: Vec<u8>,
}

impl Target {
    const NOW: Now = Now { mono: 0, unix: 0 };

    /// The first connection that this proxy opens.
    fn of(mut proxy: Proxy) -> Self {
        let opened = std::iter::from_fn(|| proxy.next_action()).find_map(|action| match action {
            Action::Connect { up, .. } => Some(up),
            _ => None,
        });
        let up = opened.expect("a connection is opened");
        proxy.connected(Self::NOW, up);
        let server = ServerConnection::new(Arc::new(world().usual.clone())).unwrap();
        Self { proxy, up, server, got: Vec::new() }
    }

    fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            self.server.read_tls(&mut bytes).unwrap();
            self.server.process_new_packets().expect("the proxy speaks TLS");
            let mut chunk = [0; 4096];
            while let Ok(n @ 1..) = self.server.reader().read(&mut chunk) {
                self.got.extend_from_slice(&chunk[..n]);
            }
        }
    }

    /// Both sides say what they have to say.
    fn settle(&mut self) {
        loop {
            let (mut to_server, mut to_proxy) = (Vec::new(), Vec::new());
            self.proxy.flush(Self::NOW, Conn::Up(self.up), &mut |bytes| {
                to_server.extend_from_slice(bytes);
                Written::Taken(bytes.len())
            });
            self.take(&to_server);
            while self.server.wants_write() {
                self.server.write_tls(&mut to_proxy).unwrap();
            }
            if to_server.is_empty() && to_proxy.is_empty() {
                return;
            }
            self.proxy.received(Self::NOW, Conn::Up(self.up), &mut to_proxy);
        }
    }

    /// The server says this, while the proxy's socket takes nothing.
    fn say(&mut self, plain: &[u8]) {
        self.server.writer().write_all(plain).unwrap();
        let mut sealed = Vec::new();
        while self.server.wants_write() {
            self.server.write_tls(&mut sealed).unwrap();
        }
        self.proxy.received(Self::NOW, Conn::Up(self.up), &mut sealed);
    }
}

/// A session ends with the very bytes that are being decrypted, while words of its client, who has left, still wait for
/// the socket: they leave as TLS, or not at all.
#[test]
fn last_words_are_encrypted() {
    const NOW: Now = Target::NOW;
    const HANDSHAKE: &str = "GET /v1/realtime?model=gpt-realtime HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\n\
        upgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    const SWITCH: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let mut settings = core::settings();
    settings.tls = Some(connector("localhost"));
    settings.read_on = ReadOn::Everybodys;
    settings.timeouts.read_on = 60 * SECOND;
    let mut proxy = core::proxy(settings);
    proxy.resolved(NOW, Ok(vec!["127.0.0.1:1".parse().unwrap()]));
    let down = Conn::Down(proxy.accepted(NOW));
    proxy.received(NOW, down, &mut HANDSHAKE.as_bytes().to_vec());
    let mut target = Target::of(proxy);
    target.settle();
    assert!(target.got.starts_with(b"GET /v1/realtime"));
    let begun = Frame::text(r#"{"type":"response.created","response":{"id":"resp_1"}}"#).encode(None);
    target.say(&[SWITCH, &begun].concat());
    for words in ["first words, ", "last words"] {
        target.proxy.received(NOW, down, &mut words.as_bytes().to_vec());
        target.proxy.flush(NOW, Conn::Up(target.up), &mut |_| Written::Blocked);
    }
    target.proxy.failed(NOW, down, ErrorKind::ConnectionReset);
    assert_eq!(target.proxy.audit().slots().1, 1, "the response is read on");
    target.say(&Frame::text(r#"{"type":"response.done","response":{"id":"resp_1","usage":{}}}"#).encode(None));
    let closed = std::iter::from_fn(|| target.proxy.next_action()).find_map(|action| match action {
        Action::Close { conn: Conn::Up(_), last, .. } => Some(last),
        _ => None,
    });
    let last = closed.expect("the session is over");
    assert!(!last.windows(10).any(|window| window == b"last words"), "they leave for everybody to read");
    target.take(&last);
    assert!(target.got.ends_with(b"first words, last words"), "{}", target.got.escape_ascii());
}
