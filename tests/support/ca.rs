//! A certificate authority made anew for each use, and the server certificates that it signs.

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A private certificate authority.
pub struct Ca {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// How the certificate or the server departs from the ordinary.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Server {
    /// TLS 1.2 and 1.3, a valid certificate.
    Usual,
    /// TLS 1.2 only.
    Tls12,
    /// The certificate expired long ago.
    Expired,
}

impl Ca {
    pub fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        let name = format!("openai-api-proxy test authority {}", COUNT.fetch_add(1, Ordering::Relaxed));
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Self { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap() }
    }

    /// The authority's certificate, as `TLS_CA_FILE` holds it.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A server's certificate with that of the authority behind it, and its key: what `TLS_CERT_FILE` and
    /// `TLS_KEY_FILE` hold.
    pub fn pair(&self, names: &[&str], server: Server) -> (String, String) {
        let (certificate, key) = self.sign(names, server);
        (certificate.pem() + &self.pem(), key.serialize_pem())
    }

    /// What trusts this authority, with these versions, HTTP/1.1 by ALPN. All clones share their sessions.
    pub fn client(&self, versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
        self.client_by(rustls::crypto::ring::default_provider(), versions)
    }

    /// The same with this cryptography.
    pub fn client_by(&self, provider: CryptoProvider, versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(provider)).with_protocol_versions(versions).unwrap();
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config
    }

    fn sign(&self, names: &[&str], server: Server) -> (Certificate, KeyPair) {
        let mut params = CertificateParams::new(names.iter().map(|n| n.to_string()).collect::<Vec<_>>()).unwrap();
        if server == Server::Expired {
            params.not_before = date_time_ymd(2001, 1, 1);
            params.not_after = date_time_ymd(2002, 1, 1);
        }
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    /// A server's configuration with a certificate for `names` (DNS names or addresses), HTTP/1.1 by ALPN.
    pub fn server(&self, names: &[&str], server: Server) -> ServerConfig {
        let (certificate, key) = self.sign(names, server);
        let versions: &[_] = if server == Server::Tls12 { &[&TLS12] } else { &[&TLS12, &TLS13] };
        let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
            )
            .unwrap();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config
    }
}
