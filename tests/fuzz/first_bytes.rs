//! The first bytes of a connection, which tell TLS from plain HTTP: any bytes in any cuts, into the state machine that
//! the binary runs, at a port with TLS and at one without.

use super::Input;
use openai_api_proxy::base::clock::{Now, SECOND};
use openai_api_proxy::metrics::{LabelLimits, Metrics};
use openai_api_proxy::price::PriceTable;
use openai_api_proxy::proxy::{Action, Conn, DownKey, Proxy, Settings, Written};
use openai_api_proxy::tls::Acceptor;
use std::sync::OnceLock;

/// The type of a TLS record (RFC 8446 §5.1).
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
/// More than is lacking of any record that may be, bytes.
const FILLING_BYTES: usize = 20_000;
/// A hello may be so long, and a head; more than both is not kept, bytes.
const KEPT_MAX: usize = 256 << 10;

/// What somebody is told who begins like this. A handshake's words are other ones each time.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    Nothing,
    /// In TLS: that it goes on, or why not.
    Hello,
    Alert,
    /// In plain HTTP.
    Plain(Vec<u8>),
}

/// Somebody who is connected.
struct Visitor {
    proxy: Proxy,
    now: Now,
    down: DownKey,
    told: Vec<u8>,
    closed: bool,
}

/// What is told does not depend on the cuts, nothing is kept beyond its bound, and nobody stays who says nothing more.
/// Bit 0 of the mode makes the port one with TLS. True where the beginning was taken for what the port speaks.
pub fn first_bytes(input: &[u8]) -> bool {
    let Some(input) = Input::parse(input) else { return false };
    let encrypted = input.mode & 1 != 0;
    let told = visit(&[input.bytes], encrypted);
    assert_eq!(visit(&input.parts(), encrypted), told);
    match told {
        Told::Hello => encrypted,
        Told::Nothing | Told::Alert => false,
        Told::Plain(reply) => !encrypted && !reply.starts_with(b"HTTP/1.1 4"),
    }
}

fn visit(parts: &[&[u8]], encrypted: bool) -> Told {
    static ACCEPTOR: OnceLock<Acceptor> = OnceLock::new();
    let pair = || Acceptor::new(include_bytes!("certificate.pem"), include_bytes!("key.pem")).expect("a pair");
    let acceptor = encrypted.then(|| ACCEPTOR.get_or_init(pair).clone());
    let settings = Settings { acceptor, body_bytes_max: 256, ..Settings::default() };
    let now = Now { mono: SECOND, unix: 1_700_000_000 * SECOND };
    let metrics = Metrics::new(LabelLimits::default(), 0);
    static PRICES: OnceLock<PriceTable> = OnceLock::new(); // slow to read
    let prices = PRICES.get_or_init(PriceTable::built_in).clone();
    let mut proxy = Proxy::new(settings, prices, metrics, now);
    let down = proxy.accepted(now);
    let mut visitor = Visitor { proxy, now, down, told: Vec::new(), closed: false };
    for part in parts {
        visitor.say(part);
    }
    if encrypted {
        // A record that is not whole may be judged sooner where more of it comes at once; now each is.
        visitor.say(&[0; FILLING_BYTES]);
    }
    let told = match visitor.told.first() {
        None => Told::Nothing,
        Some(&HANDSHAKE) => Told::Hello,
        Some(&ALERT) => Told::Alert,
        Some(_) => Told::Plain(std::mem::take(&mut visitor.told)),
    };
    visitor.wait();
    told
}

impl Visitor {
    fn say(&mut self, bytes: &[u8]) {
        // What a port does not want is left in the socket.
        if self.closed || !self.proxy.wants_read(Conn::Down(self.down)) {
            return;
        }
        self.proxy.received(self.now, Conn::Down(self.down), &mut bytes.to_vec());
        self.act();
        assert!(self.proxy.audit().waiting_max().from_client < KEPT_MAX);
    }

    fn act(&mut self) {
        while let Some(action) = self.proxy.next_action() {
            let told = &mut self.told;
            match action {
                Action::Flush(conn @ Conn::Down(_)) => self.proxy.flush(self.now, conn, &mut |bytes| {
                    told.extend_from_slice(bytes);
                    Written::Taken(bytes.len())
                }),
                Action::Read(conn) => self.proxy.resumed(self.now, conn),
                Action::Close { conn: Conn::Down(_), last, .. } => {
                    told.extend_from_slice(&last);
                    self.closed = true;
                }
                _ => {}
            }
        }
    }

    /// Who falls silent is closed, unless an answer is under way.
    fn wait(&mut self) {
        for _ in 0..10 {
            self.now.mono += 200 * SECOND;
            self.proxy.expire(self.now);
            self.act();
        }
        assert!(self.closed || self.proxy.audit().slots().2 > 0, "it is kept for ever");
    }
}
