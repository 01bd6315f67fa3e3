//! Memory for TLS' work on one connection at a time: no connection has a buffer of its own for it.
//!
//! In: bytes from a socket, and its session. Out: plaintext, and what TLS has to say to that. Never: anything that
//! outlives a call, but for the memory.

use crate::base::buffer::Buffer;
use crate::tls::{Session, Side, TlsError};

/// Plaintext that is encrypted before a socket is tried: as much as a socket usually takes at once.
pub const ENCRYPT_BYTES: usize = 64 * 1024;

/// The loop's memory for it.
#[derive(Default)]
pub struct TlsScratch {
    /// What was decrypted.
    plain: Vec<u8>,
    /// What TLS itself has to say.
    reply: Vec<u8>,
    /// Ciphertext on its way out; it only grows.
    pub sealed: Vec<u8>,
}

/// What bytes from a socket came to.
pub struct Received<'a> {
    /// Plaintext, which came before anything else that is said here.
    pub plain: &'a [u8],
    /// TLS has something to say: the connection is to be flushed.
    pub replies: bool,
    /// What became of TLS.
    pub tls: Result<TlsProgress, TlsError>,
}

/// What bytes from the socket meant for TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TlsProgress {
    /// The handshake is done with them.
    pub ready: bool,
    /// The peer has said that nothing follows.
    pub closed: bool,
}

impl<'a> Received<'a> {
    /// Bytes that are not encrypted.
    pub fn plain(plain: &'a [u8]) -> Self {
        Self { plain, replies: false, tls: Ok(TlsProgress::default()) }
    }
}

impl TlsScratch {
    /// Decrypts bytes in place. What the session has to say to them is put behind the `cipher` that waits.
    pub fn open<S: Side>(&mut self, session: &mut Session<S>, cipher: &mut Buffer, bytes: &mut [u8]) -> Received<'_> {
        let Self { plain, reply, .. } = self;
        plain.clear();
        reply.clear();
        let was_handshaking = session.is_handshaking();
        let received = session.receive(bytes, reply, |piece| plain.extend_from_slice(piece));
        let (ready, closed) = (was_handshaking && !session.is_handshaking(), session.peer_closed());
        if !reply.is_empty() {
            cipher.append(reply);
        }
        Received { plain, replies: !reply.is_empty(), tls: received.map(|()| TlsProgress { ready, closed }) }
    }
}
