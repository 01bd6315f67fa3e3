//! A client's way to its target: a socket, or TLS over one, which never blocks.
//!
//! In: bytes to send, what the socket says. Out: bytes that have come, decrypted. Never: trust in anything but the
//! authority that the run has made.

use mio::net::TcpStream;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use std::io::{ErrorKind, IoSlice, Read, Result, Write};
use std::path::Path;
use std::sync::Arc;

/// How to speak TLS with targets; they are called `localhost`.
pub fn trusting(authority: &Path) -> std::result::Result<Arc<ClientConfig>, String> {
    let certificate = CertificateDer::from_pem_file(authority).map_err(|e| format!("{}: {e}", authority.display()))?;
    let mut roots = RootCertStore::empty();
    roots.add(certificate).map_err(|e| e.to_string())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|e| e.to_string())?.with_root_certificates(roots);
    Ok(Arc::new(builder.with_no_client_auth()))
}

/// TLS with a target.
pub fn session(config: &Arc<ClientConfig>) -> ClientConnection {
    let name = "localhost".try_into().expect("a name");
    let mut session = ClientConnection::new(Arc::clone(config), name).expect("random bytes");
    session.set_buffer_limit(None);
    session
}

/// One connection.
pub struct Link {
    pub socket: TcpStream,
    tls: Option<Box<ClientConnection>>,
}

impl Link {
    pub fn new(socket: TcpStream, tls: Option<&Arc<ClientConfig>>) -> Self {
        Self { socket, tls: tls.map(|config| session(config).into()) }
    }

    /// Takes what it can of two pieces.
    pub fn write(&mut self, pieces: [&[u8]; 2]) -> Result<usize> {
        match &mut self.tls {
            None => self.socket.write_vectored(&pieces.map(IoSlice::new)),
            Some(tls) => tls.writer().write_vectored(&pieces.map(IoSlice::new)),
        }
    }

    /// Sends what TLS has to send, as far as the socket takes it.
    pub fn flush(&mut self) -> Result<()> {
        let Some(tls) = &mut self.tls else { return Ok(()) };
        while tls.wants_write() {
            match tls.write_tls(&mut self.socket) {
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Reads what has come; 0 is the end.
    pub fn read(&mut self, into: &mut [u8]) -> Result<usize> {
        let Some(tls) = &mut self.tls else { return self.socket.read(into) };
        match tls.reader().read(into) {
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            done => return done,
        }
        if tls.read_tls(&mut self.socket)? == 0 {
            return Ok(0);
        }
        tls.process_new_packets().map_err(std::io::Error::other)?;
        self.flush()?;
        self.read(into)
    }
}
