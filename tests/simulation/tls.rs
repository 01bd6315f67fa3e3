//! The peers' side of TLS, by rustls' own server and client. Everything has the same length in each run (Ed25519, a fixed
//! serial number), so that a seed replays although keys differ.

use openai_api_proxy::tls::{Acceptor, Connector};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, PKCS_ED25519, SerialNumber};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::sync::{Arc, OnceLock};

/// One authority, and servers under it for TLS 1.2 and 1.3: keys are slow to make.
struct Servers {
    authority: String,
    /// What the proxy itself shows.
    acceptor: Acceptor,
    /// What its clients trust.
    roots: RootCertStore,
    configs: [Arc<ServerConfig>; 2],
}

fn servers() -> &'static Servers {
    static SERVERS: OnceLock<Servers> = OnceLock::new();
    SERVERS.get_or_init(|| {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.serial_number = Some(SerialNumber::from(1));
        let key = || KeyPair::generate_for(&PKCS_ED25519).expect("a key");
        let issuer = CertifiedIssuer::self_signed(params, key()).expect("a certificate");
        let mut params = CertificateParams::new(vec!["target".to_owned()]).expect("a name");
        params.serial_number = Some(SerialNumber::from(2));
        let key = key();
        let certificate = params.signed_by(&key, &issuer).expect("a certificate");
        let config = |version| {
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(&[version]);
            let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
            let builder = builder.expect("a version").with_no_client_auth();
            Arc::new(builder.with_single_cert(vec![certificate.der().clone()], key).expect("a server"))
        };
        let mut roots = RootCertStore::empty();
        roots.add(issuer.der().clone()).expect("an authority");
        let acceptor = Acceptor::new(certificate.pem().as_bytes(), key.serialize_pem().as_bytes()).expect("a pair");
        Servers { authority: issuer.pem(), acceptor, roots, configs: [config(&TLS12), config(&TLS13)] }
    })
}

/// What the proxy trusts.
pub fn connector() -> Connector {
    Connector::new("target", Some(servers().authority.as_bytes())).expect("a connector")
}

/// What the proxy shows.
pub fn acceptor() -> Acceptor {
    servers().acceptor.clone()
}

/// The clients of one run, which share their sessions with each other, and with no other run.
pub fn clients(tls12: bool) -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let version = if tls12 { &TLS12 } else { &TLS13 };
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]);
    let builder = builder.expect("a version").with_root_certificates(servers().roots.clone());
    Arc::new(builder.with_no_client_auth())
}

/// One client's side.
pub struct Visitor {
    client: ClientConnection,
    /// Ciphertext to send.
    pub out: VecDeque<u8>,
    /// The proxy has said that nothing follows.
    pub was_told_the_end: bool,
}

impl Visitor {
    /// A client that shakes hands.
    pub fn new(config: &Arc<ClientConfig>) -> Self {
        let name = "target".try_into().expect("a name");
        let mut client = ClientConnection::new(Arc::clone(config), name).expect("a client");
        client.set_buffer_limit(None);
        let mut visitor = Self { client, out: VecDeque::new(), was_told_the_end: false };
        visitor.collect();
        visitor
    }

    /// What came, decrypted.
    pub fn open(&mut self, mut bytes: &[u8]) -> Vec<u8> {
        let mut plain = Vec::new();
        while !bytes.is_empty() {
            self.client.read_tls(&mut bytes).expect("memory");
            let state = self.client.process_new_packets().expect("the proxy speaks TLS");
            self.was_told_the_end |= state.peer_has_closed();
            let mut part = [0; 4096];
            while let Ok(count @ 1..) = self.client.reader().read(&mut part) {
                plain.extend_from_slice(&part[..count]);
            }
        }
        self.collect();
        plain
    }

    /// Encrypts what is to be sent.
    pub fn seal(&mut self, plain: &[u8]) {
        self.client.writer().write_all(plain).expect("no limit");
        self.collect();
    }

    /// Says that nothing follows.
    pub fn close(&mut self) {
        self.client.send_close_notify();
        self.collect();
    }

    fn collect(&mut self) {
        while self.client.wants_write() {
            self.client.write_tls(&mut self.out).expect("memory");
        }
    }
}

/// One connection's server side.
pub struct Layer {
    server: ServerConnection,
    /// Ciphertext to send.
    pub out: VecDeque<u8>,
    /// What has come of a record whose end has not.
    record: Vec<u8>,
}

impl Layer {
    /// A server that waits for a handshake.
    pub fn new(tls12: bool) -> Self {
        let config = Arc::clone(&servers().configs[usize::from(!tls12)]);
        let mut server = ServerConnection::new(config).expect("a server");
        server.set_buffer_limit(None);
        Self { server, out: VecDeque::new(), record: Vec::new() }
    }

    /// What came, decrypted.
    pub fn open(&mut self, mut bytes: &[u8]) -> Vec<u8> {
        self.record.extend_from_slice(bytes);
        // Type, version and length stand before each (RFC 8446 §5.1).
        while let [_, _, _, high, low, rest @ ..] = &self.record[..] {
            let Some(next) = rest.get(usize::from(*high) << 8 | usize::from(*low)..) else { break };
            self.record = next.to_vec();
        }
        let mut plain = Vec::new();
        while !bytes.is_empty() {
            self.server.read_tls(&mut bytes).expect("memory");
            self.server.process_new_packets().expect("the proxy speaks TLS");
            let mut part = [0; 4096];
            while let Ok(count @ 1..) = self.server.reader().read(&mut part) {
                plain.extend_from_slice(&part[..count]);
            }
        }
        self.collect();
        plain
    }

    /// True where a record has begun to come.
    pub fn is_mid_record(&self) -> bool {
        !self.record.is_empty()
    }

    /// Encrypts what is to be sent.
    pub fn seal(&mut self, plain: &[u8]) {
        self.server.writer().write_all(plain).expect("no limit");
        self.collect();
    }

    /// Says that nothing follows.
    pub fn close(&mut self) {
        self.server.send_close_notify();
        self.collect();
    }

    fn collect(&mut self) {
        while self.server.wants_write() {
            self.server.write_tls(&mut self.out).expect("memory");
        }
    }
}
