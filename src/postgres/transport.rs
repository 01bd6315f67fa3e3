//! Messages over a socket, with or without TLS. Every wait ends at a deadline.
//!
//! In: an address, messages to send. Out: messages of the server. Never: a message larger than any that we ask for.

use super::sql_error::SqlError;
use crate::tls::{Connector, Session};
use bytes::BytesMut;
use postgres_protocol::message::backend::{Header, Message};
use postgres_protocol::message::frontend;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

/// One message of a server, bytes: a row of an answer is a few KiB.
const MESSAGE_BYTES_MAX: i32 = 16 << 20;
const READ_BYTES: usize = 16 * 1024;

/// A connection that carries messages.
pub struct Transport {
    stream: TcpStream,
    session: Option<Session>,
    incoming: BytesMut,
    /// What [`Transport::flush`] sends.
    pub outgoing: BytesMut,
    scratch: Vec<u8>,
    sealed: Vec<u8>,
    /// When whatever is waited for is given up.
    pub until: Instant,
}

impl Transport {
    /// Connects.
    ///
    /// # Errors
    /// Nobody answers there.
    pub fn connect(address: SocketAddr, until: Instant) -> Result<Self, SqlError> {
        let stream = left(until).and_then(|left| TcpStream::connect_timeout(&address, left)).map_err(words)?;
        stream.set_nodelay(true).map_err(words)?;
        Ok(Self {
            stream,
            session: None,
            incoming: BytesMut::new(),
            outgoing: BytesMut::new(),
            scratch: vec![0; READ_BYTES],
            sealed: Vec::new(),
            until,
        })
    }

    /// Goes over to TLS (PostgreSQL's manual, §55.2.10).
    ///
    /// # Errors
    /// The server has none, or no certificate that is trusted.
    pub fn start_tls(&mut self, connector: &Connector) -> Result<(), SqlError> {
        frontend::ssl_request(&mut self.outgoing);
        self.flush()?;
        let mut answer = [0];
        self.prepare_read()?;
        // One byte and no more: what came before the handshake would pass for having been encrypted.
        self.stream.read_exact(&mut answer).map_err(words)?;
        if answer != *b"S" {
            let why = "the server speaks no TLS: set ssl=on there (sslmode=disable is for localhost only)";
            return Err(SqlError::new(super::SqlFault::Misconfigured, why));
        }
        let broke = |error: crate::tls::TlsError| SqlError::new(super::SqlFault::Misconfigured, error.of_database());
        let mut session = connector.open().map_err(broke)?;
        let mut received = session.start(&mut self.sealed);
        loop {
            // Also after a failure: it ends with the alert that tells the server.
            self.write_sealed()?;
            received.map_err(broke)?;
            if !session.is_handshaking() {
                break;
            }
            let count = self.read_some()?;
            let incoming = &mut self.incoming;
            received = session.receive(&mut self.scratch[..count], &mut self.sealed, |plain| {
                incoming.extend_from_slice(plain);
            });
        }
        self.session = Some(session);
        Ok(())
    }

    pub fn is_encrypted(&self) -> bool {
        self.session.is_some()
    }

    /// Sends what is in `outgoing`.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn flush(&mut self) -> Result<(), SqlError> {
        let plain = self.outgoing.split();
        match &mut self.session {
            Some(session) => {
                session.encrypt(&plain, &mut self.sealed).map_err(|error| SqlError::away(error.cause()))?
            }
            None => self.sealed.extend_from_slice(&plain),
        }
        self.write_sealed()
    }

    /// The next message.
    ///
    /// # Errors
    /// The connection is gone, or does not speak the protocol.
    pub fn receive(&mut self) -> Result<Message, SqlError> {
        loop {
            let header = Header::parse(&self.incoming).map_err(words)?;
            if header.is_some_and(|header| header.len() > MESSAGE_BYTES_MAX) {
                return Err(SqlError::away("a message is too long: is this a PostgreSQL server?"));
            }
            let parsed = Message::parse(&mut self.incoming);
            if let Some(message) =
                parsed.map_err(|error| SqlError::away(format!("it speaks no protocol 3: {error}")))?
            {
                return Ok(message);
            }
            let count = self.read_some()?;
            match &mut self.session {
                None => self.incoming.extend_from_slice(&self.scratch[..count]),
                Some(session) => {
                    let incoming = &mut self.incoming;
                    let scratch = &mut self.scratch[..count];
                    let received =
                        session.receive(scratch, &mut self.sealed, |plain| incoming.extend_from_slice(plain));
                    self.write_sealed()?;
                    received.map_err(|error| SqlError::away(error.cause()))?;
                }
            }
        }
    }

    fn read_some(&mut self) -> Result<usize, SqlError> {
        self.prepare_read()?;
        match self.stream.read(&mut self.scratch).map_err(words)? {
            0 => Err(SqlError::away("the server closed the connection")),
            count => Ok(count),
        }
    }

    fn prepare_read(&self) -> Result<(), SqlError> {
        left(self.until).and_then(|left| self.stream.set_read_timeout(Some(left))).map_err(words)
    }

    fn write_sealed(&mut self) -> Result<(), SqlError> {
        let mut rest = &self.sealed[..];
        while !rest.is_empty() {
            let wrote = left(self.until)
                .and_then(|left| self.stream.set_write_timeout(Some(left)))
                .and_then(|()| self.stream.write(rest));
            match wrote {
                Ok(count) => rest = &rest[count..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(words(error)),
            }
        }
        self.sealed.clear();
        Ok(())
    }
}

/// How long is left; a socket takes no time of 0.
fn left(until: Instant) -> io::Result<std::time::Duration> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(ErrorKind::TimedOut.into()) } else { Ok(left) }
}

fn words(error: io::Error) -> SqlError {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => SqlError::away("no answer in time"),
        _ => SqlError::away(error),
    }
}
