//! TLS with clients: the certificate that the port shows, and a session for each that connects.
//!
//! In: a chain and its key, PEM. Out: sessions, and when the certificate expires; or which of the two is wrong, and
//! where. Never: a word of the key in an error. Nothing is kept of a session that is over: its ticket has it all,
//! encrypted, and is the client's to keep.

use super::{Session, TlsError};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::{Ticketer, default_provider};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, ProducesTickets, UnbufferedServerConnection};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{CertificateError, Error, InconsistentKeys, RootCertStore, ServerConfig};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// A client's connection, seen from here.
pub type ServerSession = Session<UnbufferedServerConnection>;

/// How to speak TLS with clients. Cheap to clone.
#[derive(Clone)]
pub struct Acceptor {
    config: Arc<ServerConfig>,
    expires_at: u64,
}

/// What is wrong with a certificate and its key. `Display` goes on after the name of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PairError {
    Chain(String),
    Key(String),
}

impl Acceptor {
    /// `chain` begins with the server's own certificate, each of the others has signed the one before it.
    ///
    /// # Errors
    /// One of the two cannot be used, or they do not belong together.
    pub fn new(chain: &[u8], key: &[u8]) -> Result<Self, PairError> {
        // Without random bytes no key of a ticket, and no handshake either.
        let tickets = Ticketer::new().map_err(|error| PairError::Key(error.to_string()))?;
        Self::with_tickets(chain, key, tickets)
    }

    /// With another pair. Tickets that clients have stay good.
    ///
    /// # Errors
    /// As for [`Acceptor::new`].
    pub fn renewed(&self, chain: &[u8], key: &[u8]) -> Result<Self, PairError> {
        Self::with_tickets(chain, key, Arc::clone(&self.config.ticketer))
    }

    fn with_tickets(chain: &[u8], key: &[u8], tickets: Arc<dyn ProducesTickets>) -> Result<Self, PairError> {
        let provider = Arc::new(default_provider());
        let chain = certificates(chain)?;
        let expires_at = expires_at(&chain[0], &provider)?;
        let certified = CertifiedKey::from_der(chain, private_key(key)?, &provider).map_err(|error| match error {
            Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                PairError::Key("it is not the key of the first certificate in TLS_CERT_FILE".to_owned())
            }
            // Not its text: what a key is like is nobody's business.
            _ => PairError::Key("its private key is of no kind that can be used (RSA, ECDSA, Ed25519)".to_owned()),
        })?;
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.map_err(|error| PairError::Chain(error.to_string()))?.with_no_client_auth();
        let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = tickets;
        Ok(Self { config: Arc::new(config), expires_at })
    }

    /// A new session, which waits for a client's hello.
    ///
    /// # Errors
    /// [`TlsError::Handshake`] when the system gives no random bytes.
    pub fn open(&self) -> Result<ServerSession, TlsError> {
        UnbufferedServerConnection::new(Arc::clone(&self.config)).map(Session::new).map_err(TlsError::Handshake)
    }

    /// From when on clients refuse the certificate, seconds since the Unix epoch.
    pub fn expires_at(&self) -> u64 {
        self.expires_at
    }
}

/// Not the key.
impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a certificate until {}", self.expires_at)
    }
}

impl fmt::Display for PairError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Chain(why) | Self::Key(why) => f.write_str(why),
        }
    }
}

/// All certificates of the file, of which there is at least one.
fn certificates(chain: &[u8]) -> Result<Vec<CertificateDer<'static>>, PairError> {
    let mut found = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(chain) {
        let wrong = |why: &str| PairError::Chain(format!("certificate {} in it is bad: {why}", found.len() + 1));
        let certificate = certificate.map_err(|error| wrong(words(&error)))?;
        ParsedCertificate::try_from(&certificate).map_err(|error| wrong(&error.to_string()))?;
        found.push(certificate);
    }
    if found.is_empty() {
        return Err(PairError::Chain("there is no BEGIN CERTIFICATE in it".to_owned()));
    }
    Ok(found)
}

fn private_key(key: &[u8]) -> Result<PrivateKeyDer<'static>, PairError> {
    PrivateKeyDer::from_pem_slice(key).map_err(|error| {
        PairError::Key(match error {
            pem::Error::NoItemsFound => {
                "there is no BEGIN PRIVATE KEY in it (one with a passphrase cannot be used)".to_owned()
            }
            error => format!("the private key in it is bad: {}", words(&error)),
        })
    })
}

/// The library's own words may repeat the line that is wrong.
fn words(error: &pem::Error) -> &'static str {
    match error {
        pem::Error::MissingSectionEnd { .. } => "its END line is missing",
        pem::Error::IllegalSectionStart { .. } => "its BEGIN line is broken",
        pem::Error::Base64Decode(_) => "it is not base64",
        _ => "it cannot be read",
    }
}

/// Asked whether the certificate is good at the end of all days, rustls says when it expires: that is looked at before
/// whom it is of.
fn expires_at(certificate: &CertificateDer<'_>, provider: &Arc<CryptoProvider>) -> Result<u64, PairError> {
    let unreadable = |error: String| PairError::Chain(format!("certificate 1 in it has no validity: {error}"));
    let roots = Arc::new(RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() });
    let verifier = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(provider)).build();
    let verifier = verifier.map_err(|error| unreadable(error.to_string()))?;
    let name = ServerName::try_from("localhost").map_err(|error| unreadable(error.to_string()))?;
    let end = UnixTime::since_unix_epoch(Duration::from_secs(u64::MAX));
    match verifier.verify_server_cert(certificate, &[], &name, &[], end) {
        Err(Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. })) => Ok(not_after.as_secs()),
        Err(error) => Err(unreadable(error.to_string())),
        Ok(_) => Err(unreadable("it never expires".to_owned())),
    }
}
