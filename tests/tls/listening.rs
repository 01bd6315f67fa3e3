//! HTTPS for clients, in memory and on a clock of the test's own: rustls' client against the proxy's core, whatever the
//! pieces in which bytes come and go.

use super::support::ca::Server;
use super::support::core;
use super::world;
use openai_api_proxy::base::clock::{MILLISECOND, Now, SECOND};
use openai_api_proxy::proxy::{Action, Conn, Proxy, Settings, UpKey, Written};
use openai_api_proxy::tls::Acceptor;
use ring::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use rustls::version::{TLS12, TLS13};
use rustls::{
    AlertDescription, CipherSuite, ClientConfig, ClientConnection, ConnectionTrafficSecrets, Error, HandshakeKind,
    SupportedProtocolVersion,
};
use std::io::{Read, Write};
use std::sync::Arc;

const GET: &[u8] = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n";
const GET_AND_CLOSE: &[u8] = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

fn acceptor() -> Acceptor {
    let (chain, key) = world().ca.pair(&["localhost"], Server::Usual);
    Acceptor::new(chain.as_bytes(), key.as_bytes()).unwrap()
}

fn settings() -> Settings {
    Settings { acceptor: Some(acceptor()), ..core::settings() }
}

/// A client of a proxy, and what is between them.
struct Visit {
    proxy: Proxy,
    down: Conn,
    client: ClientConnection,
    now: Now,
    got: Vec<u8>,
    /// Everything that was written to the client's socket.
    sent: usize,
    half_closed: bool,
    /// The socket was closed; with a reset or without.
    closed: Option<bool>,
    opened: Vec<UpKey>,
}

impl Visit {
    fn new(settings: Settings, client: &Arc<ClientConfig>) -> Self {
        Self::to(core::proxy(settings), client)
    }

    fn to(mut proxy: Proxy, client: &Arc<ClientConfig>) -> Self {
        let now = Now::default();
        let down = Conn::Down(proxy.accepted(now));
        let mut client = ClientConnection::new(Arc::clone(client), "localhost".try_into().unwrap()).unwrap();
        client.set_buffer_limit(None);
        Self {
            proxy,
            down,
            client,
            now,
            got: Vec::new(),
            sent: 0,
            half_closed: false,
            closed: None,
            opened: Vec::new(),
        }
    }

    /// With TLS of any version, after its handshake.
    fn connected(settings: Settings) -> Self {
        let mut visit = Self::new(settings, &Arc::new(world().ca.client(&[&TLS12, &TLS13])));
        visit.settle(usize::MAX);
        assert!(!visit.client.is_handshaking());
        visit
    }

    fn say(&mut self, plain: &[u8]) {
        self.client.writer().write_all(plain).unwrap();
    }

    /// What the client has to write, taken from it.
    fn outgoing(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.client.wants_write() {
            self.client.write_tls(&mut bytes).unwrap();
        }
        bytes
    }

    fn take(&mut self, mut bytes: &[u8]) {
        self.sent += bytes.len();
        while !bytes.is_empty() {
            self.client.read_tls(&mut bytes).unwrap();
            self.client.process_new_packets().expect("the proxy speaks TLS");
            let mut piece = [0; 4096];
            while let Ok(count @ 1..) = self.client.reader().read(&mut piece) {
                self.got.extend_from_slice(&piece[..count]);
            }
        }
    }

    /// Performs what the proxy asks for; whether it wants to write.
    fn act(&mut self) -> bool {
        let mut flush = false;
        while let Some(action) = self.proxy.next_action() {
            match action {
                Action::Flush(conn) => flush |= conn == self.down,
                Action::HalfClose(_) => self.half_closed = true,
                Action::Read(conn) => self.proxy.resumed(self.now, conn),
                Action::Connect { up, .. } => self.opened.push(up),
                Action::Close { conn, last, reset } if conn == self.down => {
                    self.take(&last);
                    self.closed = Some(reset);
                }
                _ => {}
            }
        }
        flush
    }

    /// The proxy writes, at most `room` bytes at a time, and then hears that the socket takes no more.
    fn flush(&mut self, room: usize) -> usize {
        let (mut wire, mut left) = (Vec::new(), room);
        self.proxy.flush(self.now, self.down, &mut |bytes| {
            let count = left.min(bytes.len());
            left -= count;
            wire.extend_from_slice(&bytes[..count]);
            if count == 0 { Written::Blocked } else { Written::Taken(count) }
        });
        self.take(&wire);
        wire.len()
    }

    /// Both sides say what they have to say, in pieces of at most `size` bytes.
    fn settle(&mut self, size: usize) {
        loop {
            let bytes = self.outgoing();
            for piece in bytes.chunks(size) {
                if self.closed.is_none() && self.proxy.wants_read(self.down) {
                    self.proxy.received(self.now, self.down, &mut piece.to_vec());
                }
                self.act();
            }
            // A socket with room is written to whenever bytes may leave.
            let mut moved = 0;
            while self.closed.is_none() {
                let written = self.flush(size);
                moved += written;
                self.act();
                if written == 0 {
                    break;
                }
            }
            assert!(self.proxy.audit().unsent().iter().all(|conn| *conn != self.down), "bytes wait for nothing");
            if bytes.is_empty() && moved == 0 {
                return;
            }
        }
    }

    fn has_closed_cleanly(&mut self) -> bool {
        self.client.process_new_packets().unwrap().peer_has_closed()
    }

    fn advance(&mut self, by: u64) {
        self.now.mono += by;
        self.proxy.expire(self.now);
        self.act();
    }
}

fn answers(bytes: &[u8]) -> usize {
    bytes.windows(12).filter(|window| *window == b"HTTP/1.1 200").count()
}

#[test]
fn any_pieces_of_any_version_give_the_same() {
    for version in VERSIONS {
        let client = Arc::new(world().ca.client(&[version]));
        for size in [1, 2, 3, 7, 64, 1000, usize::MAX] {
            let mut visit = Visit::new(settings(), &client);
            visit.settle(size);
            assert_eq!(visit.client.alpn_protocol(), Some(&b"http/1.1"[..]));
            visit.say(&[GET, GET].concat());
            visit.settle(size);
            assert_eq!((answers(&visit.got), visit.closed), (2, None), "{version:?} in pieces of {size}");
            visit.say(GET_AND_CLOSE);
            visit.settle(size);
            assert_eq!(answers(&visit.got), 3);
            assert!(visit.half_closed && visit.has_closed_cleanly(), "{version:?} in pieces of {size}");
        }
    }
}

#[test]
fn records_cut_at_every_byte_arrive() {
    for version in VERSIONS {
        let client = Arc::new(world().ca.client(&[version]));
        let mut visit = Visit::new(settings(), &client);
        visit.settle(usize::MAX);
        for cut in 1.. {
            visit.say(GET);
            let mut bytes = visit.outgoing();
            if cut == bytes.len() {
                break;
            }
            let (start, end) = bytes.split_at_mut(cut);
            for (piece, answered) in [(start, cut - 1), (end, cut)] {
                visit.proxy.received(visit.now, visit.down, piece);
                visit.act();
                visit.settle(usize::MAX);
                assert_eq!(answers(&visit.got), answered, "{version:?} cut at {cut}");
            }
        }
    }
}

/// An endpoint of ours answers a client that has said that it will say no more; then it says so itself.
#[test]
fn close_notify_is_a_half_close() {
    for size in [1, usize::MAX] {
        let mut visit = Visit::connected(settings());
        visit.say(GET);
        visit.client.send_close_notify();
        visit.settle(size);
        assert_eq!((answers(&visit.got), visit.closed), (1, Some(false)));
        assert!(visit.has_closed_cleanly());
    }
    // Without any request there is nothing to wait for.
    let mut visit = Visit::connected(settings());
    visit.client.send_close_notify();
    visit.settle(usize::MAX);
    assert_eq!((visit.closed, visit.has_closed_cleanly()), (Some(false), true));
}

/// After our close_notify the connection is read on, until the client says its own.
#[test]
fn a_closing_connection_lingers() {
    let mut visit = Visit::connected(settings());
    visit.say(GET_AND_CLOSE);
    visit.settle(usize::MAX);
    assert!(visit.half_closed && visit.has_closed_cleanly() && visit.closed.is_none());
    let sent = visit.sent;
    visit.say(b"nobody listens any more");
    visit.settle(usize::MAX);
    assert_eq!(visit.closed, None);
    visit.client.send_close_notify();
    visit.settle(usize::MAX);
    assert_eq!((visit.closed, visit.sent), (Some(false), sent), "close_notify is said once");
}

#[test]
fn an_end_without_close_notify_ends_as_well() {
    let mut visit = Visit::connected(settings());
    visit.proxy.ended(visit.now, visit.down);
    visit.act();
    assert_eq!(visit.closed, Some(false));
}

/// Only the end of its connection ends this reply: broken off, it must not look whole.
#[test]
fn a_reply_that_is_cut_has_no_close_notify() {
    for is_cut in [false, true] {
        let mut proxy = core::proxy(settings());
        proxy.resolved(Now::default(), Ok(vec!["127.0.0.1:1".parse().unwrap()]));
        let mut visit = Visit::to(proxy, &Arc::new(world().ca.client(&[&TLS13])));
        visit.say(b"GET /v1/models HTTP/1.0\r\nhost: localhost\r\n\r\n");
        visit.settle(usize::MAX);
        let up = visit.opened[0];
        visit.proxy.connected(visit.now, up);
        visit.proxy.flush(visit.now, Conn::Up(up), &mut |bytes| Written::Taken(bytes.len()));
        let reply = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n";
        visit.proxy.received(visit.now, Conn::Up(up), &mut reply.to_vec());
        visit.settle(usize::MAX);
        match is_cut {
            true => visit.proxy.ended(visit.now, Conn::Up(up)),
            false => visit.proxy.received(visit.now, Conn::Up(up), &mut b"0\r\n\r\n".to_vec()),
        }
        visit.act();
        for record in visit.proxy.take_records(visit.now) {
            visit.proxy.committed(visit.now, record.seq, &[]);
        }
        visit.settle(usize::MAX);
        assert!(visit.got.ends_with(b"hello"), "{}", visit.got.escape_ascii());
        assert_eq!(visit.has_closed_cleanly(), !is_cut);
        assert_eq!(visit.closed, is_cut.then_some(true));
    }
}

/// Of a handshake that a liar spins out: nothing said, half a hello, a byte a second, an answer that is never taken, no
/// request after it.
#[test]
fn a_handshake_and_the_first_head_have_header_timeout() {
    let client = Arc::new(world().ca.client(&[&TLS13]));
    let time = settings().timeouts.header;
    for stage in ["silent", "half a hello", "trickling", "deaf", "shaken hands"] {
        let mut visit = Visit::new(settings(), &client);
        let mut hello = visit.outgoing();
        let mut trickle = hello.clone().into_iter();
        match stage {
            "silent" => {}
            "half a hello" => visit.proxy.received(visit.now, visit.down, &mut hello[..100]),
            "trickling" => visit.proxy.received(visit.now, visit.down, &mut [trickle.next().unwrap()]),
            _ => visit.proxy.received(visit.now, visit.down, &mut hello),
        }
        if stage == "shaken hands" {
            visit.settle(usize::MAX);
            assert!(!visit.client.is_handshaking());
        }
        let step = time / 10;
        for _ in 0..9 {
            visit.advance(step);
            match stage {
                "trickling" => visit.proxy.received(visit.now, visit.down, &mut [trickle.next().unwrap()]),
                // The socket takes a byte, and no more: no progress that buys time.
                "deaf" => visit.proxy.flush(visit.now, visit.down, &mut once(1)),
                _ => {}
            }
            assert_eq!(visit.closed, None, "{stage}");
        }
        visit.advance(step - MILLISECOND);
        assert_eq!(visit.closed, None, "{stage}");
        visit.now.mono += 2 * MILLISECOND;
        visit.proxy.expire(visit.now);
        let closed =
            std::iter::from_fn(|| visit.proxy.next_action()).any(|action| matches!(action, Action::Close { .. }));
        assert!(closed, "{stage}");
        assert_eq!(visit.proxy.audit().slots(), (0, 0, 0));
    }
}

/// A socket that takes so many bytes, once.
fn once(mut room: usize) -> impl FnMut(&[u8]) -> Written {
    move |bytes| match std::mem::take(&mut room).min(bytes.len()) {
        0 => Written::Blocked,
        count => Written::Taken(count),
    }
}

/// What a client that does not read leaves with us is bounded as without TLS.
#[test]
fn a_client_that_reads_nothing_is_bounded() {
    let mut visit = Visit::connected(settings());
    for _ in 0..4000 {
        visit.say(GET);
        let mut bytes = visit.outgoing();
        if visit.proxy.wants_read(visit.down) {
            visit.proxy.received(visit.now, visit.down, &mut bytes);
        }
        visit.act();
        visit.flush(0);
        visit.act();
    }
    let waiting = visit.proxy.audit().waiting_max();
    assert!(waiting.to_client < 80 * 1024 && waiting.from_client < 80 * 1024, "{waiting:?}");
    assert!(!visit.proxy.wants_read(visit.down), "backpressure");
    visit.now.mono += 80 * SECOND;
    visit.proxy.expire(visit.now);
    assert_eq!(visit.proxy.audit().slots().0, 0, "it is given up");
}

#[test]
fn http_on_the_port_is_told_so() {
    let mut proxy = core::proxy(settings());
    let down = Conn::Down(proxy.accepted(Now::default()));
    proxy.received(Now::default(), down, &mut b"GET / HTTP/1.1\r\n".to_vec());
    let mut said = Vec::new();
    let mut write = |bytes: &[u8]| {
        said.extend_from_slice(bytes);
        Written::Taken(bytes.len())
    };
    proxy.flush(Now::default(), down, &mut write);
    proxy.received(Now::default(), down, &mut b"host: localhost\r\n\r\nGET / HTTP/1.1\r\n\r\n".to_vec());
    proxy.flush(Now::default(), down, &mut write);
    let said = String::from_utf8(said).unwrap();
    assert!(said.starts_with("HTTP/1.1 400 ") && said.contains("this port speaks HTTPS"), "{said}");
    assert_eq!(said.matches("HTTP/1.1").count(), 1, "{said}");
    assert!(std::iter::from_fn(|| proxy.next_action()).any(|action| matches!(action, Action::HalfClose(_))));
}

#[test]
fn a_hello_on_a_plain_port_is_told_so() {
    let mut visit = Visit::new(core::settings(), &Arc::new(world().ca.client(&[&TLS13])));
    let mut hello = visit.outgoing();
    visit.proxy.received(visit.now, visit.down, &mut hello);
    let mut said = Vec::new();
    visit.proxy.flush(visit.now, visit.down, &mut |bytes| {
        said.extend_from_slice(bytes);
        Written::Taken(bytes.len())
    });
    visit.client.read_tls(&mut &said[..]).unwrap();
    let told = visit.client.process_new_packets().unwrap_err();
    assert_eq!(told, Error::AlertReceived(AlertDescription::ProtocolVersion));
    visit.act();
    assert!(visit.half_closed);
}

/// Records without a byte in them, and the largest that there are.
#[test]
fn empty_and_full_records() {
    let mut provider = rustls::crypto::ring::default_provider();
    provider.cipher_suites.retain(|suite| suite.suite() == CipherSuite::TLS13_AES_128_GCM_SHA256);
    let mut config = world().ca.client_by(provider, &[&TLS13]);
    config.enable_secret_extraction = true;
    let mut visit = Visit::new(settings(), &Arc::new(config));
    visit.settle(usize::MAX);
    assert!(!visit.client.is_handshaking());
    let Visit { mut proxy, down, client, now, .. } = visit;
    let mut seal = sealer(client);
    let head = format!("POST /v1/files HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n", 3 << 14);
    let mut records: Vec<Vec<u8>> = vec![vec![], vec![], head.into_bytes(), vec![]];
    records.extend((0..3).flat_map(|_| [vec![b'x'; 1 << 14], vec![]]));
    for record in records {
        proxy.received(now, down, &mut seal(&record));
    }
    assert_eq!(proxy.audit().slots(), (1, 1, 1), "the request is being relayed");
    assert_eq!(proxy.audit().waiting_max().to_target, 3 << 14);
    // Nothing but emptiness, without an end, is no way to keep us busy.
    for _ in 0..100 {
        proxy.received(now, down, &mut seal(b""));
    }
    assert_eq!(proxy.audit().slots().0, 0);
}

/// Makes records of a client's own: rustls makes no empty ones (RFC 8446 §5.2).
fn sealer(client: ClientConnection) -> impl FnMut(&[u8]) -> Vec<u8> {
    let (mut number, secrets) = client.dangerous_extract_secrets().unwrap().tx;
    let ConnectionTrafficSecrets::Aes128Gcm { key, iv } = secrets else { panic!("not what was asked for") };
    let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, key.as_ref()).unwrap());
    move |plain| {
        let length = u16::try_from(plain.len() + 1 + AES_128_GCM.tag_len()).unwrap().to_be_bytes();
        let header = [23, 3, 3, length[0], length[1]];
        let mut nonce: [u8; 12] = iv.as_ref().try_into().unwrap();
        nonce[4..].iter_mut().zip(number.to_be_bytes()).for_each(|(byte, with)| *byte ^= with);
        number += 1;
        let mut body = [plain, &[23]].concat();
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(header), &mut body).unwrap();
        [&header[..], &body].concat()
    }
}

/// Tickets have all that there is of a session, and outlive the certificate.
#[test]
fn sessions_are_resumed_also_after_a_renewal() {
    for version in VERSIONS {
        let client = Arc::new(world().ca.client(&[version]));
        let mut settings = settings();
        let first = settings.acceptor.clone().unwrap();
        for (round, kind) in
            [HandshakeKind::Full, HandshakeKind::Resumed, HandshakeKind::Resumed].into_iter().enumerate()
        {
            if round == 2 {
                let (chain, key) = world().ca.pair(&["localhost"], Server::Usual);
                settings.acceptor = Some(first.renewed(chain.as_bytes(), key.as_bytes()).unwrap());
            }
            let mut visit = Visit::new(Settings { acceptor: settings.acceptor.clone(), ..core::settings() }, &client);
            visit.settle(usize::MAX);
            visit.say(GET);
            visit.settle(usize::MAX);
            assert_eq!((answers(&visit.got), visit.client.handshake_kind()), (1, Some(kind)), "{version:?}, {round}");
        }
    }
}

/// What is encrypted and waits for the socket is as little sent as what is not.
#[test]
fn a_reply_that_waits_encrypted_is_neither_closed_nor_drained_away() {
    for request in [GET, GET_AND_CLOSE] {
        let mut visit = Visit::connected(settings());
        visit.say(request);
        let mut bytes = visit.outgoing();
        visit.proxy.received(visit.now, visit.down, &mut bytes);
        visit.act();
        visit.flush(10);
        visit.proxy.drain(visit.now);
        visit.act();
        assert_eq!((visit.half_closed, visit.closed), (false, None));
        visit.settle(usize::MAX);
        assert_eq!((answers(&visit.got), visit.half_closed), (1, request == GET_AND_CLOSE));
    }
}

#[test]
fn a_drain_says_goodbye() {
    let mut visit = Visit::connected(settings());
    visit.say(GET);
    visit.settle(usize::MAX);
    visit.proxy.drain(visit.now);
    visit.act();
    assert_eq!((visit.closed, visit.has_closed_cleanly()), (Some(false), true));
}

#[test]
fn a_broken_record_is_answered_with_an_alert() {
    let mut visit = Visit::connected(settings());
    visit.say(GET);
    let mut bytes = visit.outgoing();
    bytes[10] ^= 1;
    visit.proxy.received(visit.now, visit.down, &mut bytes);
    let closed = std::iter::from_fn(|| visit.proxy.next_action()).find_map(|action| match action {
        Action::Close { last, .. } => Some(last),
        _ => None,
    });
    visit.client.read_tls(&mut &closed.expect("it is closed")[..]).unwrap();
    let told = visit.client.process_new_packets().unwrap_err();
    assert_eq!(told, Error::AlertReceived(AlertDescription::BadRecordMac));
    assert_eq!(visit.proxy.audit().slots(), (0, 0, 0));
}

/// A hello that never ends is cut off long before it is as long as it says.
#[test]
fn an_endless_hello_is_cut_off() {
    let mut proxy = core::proxy(settings());
    let down = Conn::Down(proxy.accepted(Now::default()));
    let mut sent = 0;
    while proxy.audit().slots().0 == 1 {
        let start = if sent == 0 { vec![1, 0, 0xff, 0xff] } else { vec![0; 512] };
        let length = u16::try_from(start.len()).unwrap().to_be_bytes();
        sent += start.len();
        proxy.received(Now::default(), down, &mut [&[22, 3, 1, length[0], length[1]][..], &start].concat());
        assert!(sent < 32 * 1024, "{sent} bytes were kept");
    }
}

#[test]
fn what_is_wrong_with_a_pair_is_told_by_its_place_and_never_the_key() {
    let (chain, key) = world().ca.pair(&["localhost"], Server::Usual);
    let other = world().ca.pair(&["localhost"], Server::Usual).1;
    let tell =
        |chain: &str, key: &str| Acceptor::new(chain.as_bytes(), key.as_bytes()).map(|_| ()).unwrap_err().to_string();
    let second = chain.rfind("-----BEGIN").unwrap();
    let broken = format!("{}{}", &chain[..second], chain[second..].replacen("MII", "M*I", 1));
    let secret = key.lines().nth(1).unwrap();
    for (told, why) in [
        (tell("", &key), "no BEGIN CERTIFICATE"),
        (tell(&key, &key), "no BEGIN CERTIFICATE"),
        (tell(&broken, &key), "certificate 2 in it is bad: it is not base64"),
        (tell(&chain[..second - 10], &key), "certificate 1 in it is bad: its END line is missing"),
        (tell("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", &key), "certificate 1 in it is bad"),
        (tell(&chain, ""), "no BEGIN PRIVATE KEY"),
        (tell(&chain, &chain), "no BEGIN PRIVATE KEY"),
        (tell(&chain, &other), "not the key of the first certificate"),
        (tell(&chain, &key.replacen(&secret[..8], "****", 1)), "the private key in it is bad: it is not base64"),
        (tell(&chain, &key.replacen(&secret[..8], "AAAAAAAA", 1)), "of no kind that can be used"),
    ] {
        assert!(told.contains(why) && !told.contains(&secret[8..20]), "{why}: {told}");
    }
}
