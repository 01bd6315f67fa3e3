//! What is between a client's socket and its bytes: nothing, or TLS.
//!
//! ```text
//!   New ──first byte──▶ Plain
//!    │└───────────────▶ Secured: hello ─▶ handshake ─▶ bytes both ways ─▶ close_notify
//!    └──▶ mistaken: plain HTTP where TLS is spoken, or the other way round
//! ```
//!
//! In: bytes from the socket; bytes to be sent, and what the socket takes. Out: plaintext, what was taken. Never: a
//! byte sent twice, or plaintext to a client that speaks TLS. Ciphertext that the socket did not take waits here: of
//! one piece to be sent, and of what TLS itself has to say.

use super::Written;
use super::tls_scratch::{ENCRYPT_BYTES, Received, TlsScratch};
use crate::base::buffer::Buffer;
use crate::tls::{Acceptor, ServerSession};
use std::fmt;

/// The first byte of TLS: a record of the handshake (RFC 8446 §5.1). No method begins so.
const HANDSHAKE_RECORD: u8 = 22;
/// A fatal alert, `protocol_version`, in the clear (RFC 8446 §6): there is no version that this port speaks.
pub const NO_TLS_ALERT: &[u8] = &[21, 3, 3, 0, 2, 2, 70];

/// A client's way through its socket.
#[derive(Default)]
pub enum Channel {
    /// Nothing has come yet.
    #[default]
    New,
    Plain,
    Secured(Box<Secured>),
}

/// TLS with one client.
pub struct Secured {
    session: ServerSession,
    /// Ciphertext that waits for the socket.
    cipher: Buffer,
    /// Our close_notify is sent, or among it.
    has_closed: bool,
}

/// The client speaks what this port does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// TLS, on a port without.
    Tls,
    /// HTTP, on a port with TLS.
    Plain,
    /// Whatever it is: the system has no random bytes for us.
    Unable,
}

/// What a step of writing came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Bytes that are not to be given again.
    pub consumed: usize,
    /// Bytes that the socket took.
    pub moved: usize,
}

impl Channel {
    /// The first byte tells what a client speaks, where nothing has come of it before. `acceptor` is what the port
    /// speaks TLS with.
    ///
    /// # Errors
    /// The two do not fit. The client is to be told in its own words, so the channel is plain.
    pub fn begin(&mut self, bytes: &[u8], acceptor: Option<&Acceptor>) -> Result<(), Mistake> {
        let (Self::New, Some(&first)) = (&self, bytes.first()) else { return Ok(()) };
        *self = Self::Plain;
        match acceptor {
            None if first == HANDSHAKE_RECORD => Err(Mistake::Tls),
            None => Ok(()),
            Some(_) if first.is_ascii_alphabetic() => Err(Mistake::Plain),
            Some(acceptor) => {
                let session = acceptor.open().map_err(|_| Mistake::Unable)?;
                *self = Self::Secured(Box::new(Secured { session, cipher: Buffer::new(), has_closed: false }));
                Ok(())
            }
        }
    }

    /// Takes bytes that were read. They are decrypted in place.
    pub fn receive<'a>(&mut self, bytes: &'a mut [u8], scratch: &'a mut TlsScratch) -> Received<'a> {
        match self {
            Self::New | Self::Plain => Received::plain(bytes),
            Self::Secured(secured) => scratch.open(&mut secured.session, &mut secured.cipher, bytes),
        }
    }

    /// Bytes that wait here for the socket.
    pub fn waiting(&self) -> usize {
        match self {
            Self::New | Self::Plain => 0,
            Self::Secured(secured) => secured.cipher.len(),
        }
    }

    /// Writes what waits, and then some of `plain`. The step consumes nothing where there is nothing to do any more.
    /// `None` where the connection is of no more use.
    pub fn send(
        &mut self,
        plain: &[u8],
        scratch: &mut TlsScratch,
        write: &mut dyn FnMut(&[u8]) -> Written,
    ) -> Option<Step> {
        match self {
            Self::New | Self::Plain if plain.is_empty() => Some(Step::default()),
            Self::New | Self::Plain => write(plain).taken().ok().map(|count| Step { consumed: count, moved: count }),
            Self::Secured(secured) => secured.send(plain, scratch, write),
        }
    }

    /// All is sent: what TLS says before the sending side is shut down, once. True where there is such a thing.
    pub fn close(&mut self) -> bool {
        let Self::Secured(secured) = self else { return false };
        let had = secured.cipher.len();
        secured.close();
        secured.cipher.len() > had
    }

    /// What is still to be written, as far as it goes, before the socket is closed; of it `out`, where the connection
    /// is `cut`. TLS says goodbye only where nothing is missing.
    pub fn last(&mut self, out: &[u8], cut: bool) -> Vec<u8> {
        match self {
            Self::New | Self::Plain if cut => out.to_vec(),
            Self::New | Self::Plain => Vec::new(),
            Self::Secured(secured) => {
                match (cut, out.is_empty()) {
                    (true, _) => _ = secured.session.encrypt(out, secured.cipher.tail()), // it is over either way
                    (false, true) => secured.close(),
                    (false, false) => {}
                }
                secured.cipher.as_slice().to_vec()
            }
        }
    }
}

impl Secured {
    fn close(&mut self) {
        if !std::mem::replace(&mut self.has_closed, true) {
            self.session.close(self.cipher.tail());
        }
    }

    fn send(
        &mut self,
        plain: &[u8],
        scratch: &mut TlsScratch,
        write: &mut dyn FnMut(&[u8]) -> Written,
    ) -> Option<Step> {
        let mut moved = 0;
        // A socket that took a part says that it takes more only once it has refused.
        while !self.cipher.is_empty() {
            let count = write(self.cipher.as_slice()).taken().ok()?;
            if count == 0 {
                return Some(Step { consumed: 0, moved });
            }
            self.cipher.consume(count);
            moved += count;
        }
        let plain = &plain[..plain.len().min(ENCRYPT_BYTES)];
        if !plain.is_empty() {
            // Encrypted once is sent once: the record's number is used up, whatever the socket takes now.
            let sealed_bytes = self.session.encrypt_over(plain, &mut scratch.sealed).ok()?;
            let sealed = &scratch.sealed[..sealed_bytes];
            let count = write(sealed).taken().ok()?;
            self.cipher.append(&sealed[count..]);
            moved += count;
        }
        Some(Step { consumed: plain.len(), moved })
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::New => f.write_str("new"),
            Self::Plain => f.write_str("plain"),
            Self::Secured(secured) => write!(f, "TLS, {:?} wait", secured.cipher),
        }
    }
}
