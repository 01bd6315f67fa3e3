//! The target's side of TLS, by rustls' own server. Everything has the same length in each run (Ed25519, a fixed serial
//! number), so that a seed replays although keys differ.

use openai_api_proxy::tls::Connector;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, PKCS_ED25519, SerialNumber};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::version::{TLS12, TLS13};
use rustls::{ServerConfig, ServerConnection};
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::sync::{Arc, OnceLock};

/// One authority, and servers under it for TLS 1.2 and 1.3: keys are slow to make.
struct Servers {
    authority: String,
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
        Servers { authority: issuer.pem(), configs: [config(&TLS12), config(&TLS13)] }
    })
}

/// What the proxy trusts.
pub fn connector() -> Connector {
    Connector::new("target", Some(servers().authority.as_bytes())).expect("a connector")
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
