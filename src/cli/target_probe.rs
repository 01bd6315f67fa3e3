//! One connection to the target, as `check` makes it, and one question on it.
//!
//! In: the configuration, an address. Out: whether it connects and shakes hands, and what it says to `GET /v1/models`:
//! the status, and its clock. To connect, to open a tunnel and shake hands, and to ask: each ends after
//! `CONNECT_TIMEOUT`, also where bytes keep coming. Never: a part of the answer's body.

use crate::base::civil::parse_imf_fixdate;
use crate::config::{Config, EgressProxy, Secret};
use crate::http::head::{HeadEnd, ResponseHead, storage};
use crate::proxy::egress_tunnel::{self, EgressAnswer};
use crate::tls::{Connector, Session};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// A connection, ready for a question.
pub struct Peer {
    stream: TcpStream,
    session: Option<Session>,
}

/// What the target says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// Its `Date`, nanoseconds since the Unix epoch.
    pub date: Option<u64>,
}

/// Connects, and shakes hands where the target speaks TLS.
///
/// # Errors
/// Words for the operator.
pub fn connect(config: &Config, address: SocketAddr) -> Result<Peer, String> {
    let patience = patience(config);
    let mut stream = TcpStream::connect_timeout(&address, patience).map_err(words)?;
    stream.set_write_timeout(Some(patience)).map_err(words)?;
    let until = Instant::now() + patience;
    if let Some(proxy) = config.way().proxy() {
        tunnel(config, proxy, &mut stream, until).map_err(|why| format!("the proxy on the way out {why}"))?;
    }
    if !config.target.tls {
        return Ok(Peer { stream, session: None });
    }
    let connector = Connector::new(&config.target.host, config.tls_ca.as_deref()).map_err(|error| error.to_string())?;
    let mut session = connector.open().map_err(|error| error.to_string())?;
    let mut reply = Vec::new();
    let mut received = session.start(&mut reply);
    let mut buffer = vec![0; 16 * 1024];
    loop {
        // Also after a failure: it ends with the alert that says so to the target.
        stream.write_all(&reply).map_err(words)?;
        reply.clear();
        received.map_err(|error| error.to_string())?;
        if !session.is_handshaking() {
            return Ok(Peer { stream, session: Some(session) });
        }
        let count = read_until(&mut stream, &mut buffer, until).map_err(words)?;
        if count == 0 {
            return Err("it closed the connection in the middle of the TLS handshake".to_owned());
        }
        received = session.receive(&mut buffer[..count], &mut reply, |_| {}).map(|_| ());
    }
}

/// Has the proxy on the way out open a tunnel to the target. Nothing comes through it before we have spoken.
fn tunnel(config: &Config, proxy: &EgressProxy, stream: &mut TcpStream, until: Instant) -> Result<(), String> {
    let broke = |error| format!("gave no answer: {}", words(error));
    let request = egress_tunnel::request(&config.target.host, config.target.port, proxy.credentials());
    stream.write_all(&request).map_err(broke)?;
    let (mut answer, mut buffer) = (EgressAnswer::default(), [0; 4096]);
    loop {
        let count = read_until(stream, &mut buffer, until).map_err(broke)?;
        if count == 0 {
            return Err("closed the connection before it opened a tunnel".to_owned());
        }
        if answer.take(&buffer[..count]).map_err(|error| error.to_string())?.is_some() {
            return Ok(());
        }
    }
}

impl Peer {
    /// Asks for the list of models, with the operator's key if there is one.
    ///
    /// # Errors
    /// Words for the operator.
    pub fn ask(mut self, config: &Config) -> Result<Answer, String> {
        let key = config.api_key.as_ref().map(Secret::expose);
        let key = key.map(|key| format!("authorization: Bearer {key}\r\n")).unwrap_or_default();
        let account = if key.is_empty() { &[][..] } else { &config.account };
        let (prefix, authority) = (&config.target.prefix, &config.target.authority);
        let head = format!("GET {prefix}/v1/models HTTP/1.1\r\nhost: {authority}\r\nconnection: close\r\n{key}");
        let request = [head.as_bytes(), account, b"\r\n"].concat();
        let mut out = Vec::new();
        match &mut self.session {
            Some(session) => session.encrypt(&request, &mut out).map_err(|error| error.to_string())?,
            None => out = request,
        }
        let (mut answer, mut end) = (Vec::new(), HeadEnd::default());
        let (mut buffer, until) = (vec![0; 16 * 1024], Instant::now() + patience(config));
        loop {
            self.stream.write_all(&out).map_err(words)?;
            out.clear();
            let count = read_until(&mut self.stream, &mut buffer, until).map_err(words)?;
            if count == 0 {
                return Err("it closed the connection without an answer".to_owned());
            }
            match &mut self.session {
                Some(session) => {
                    let received =
                        session.receive(&mut buffer[..count], &mut out, |plain| answer.extend_from_slice(plain));
                    received.map_err(|error| error.to_string())?;
                }
                None => answer.extend_from_slice(&buffer[..count]),
            }
            if let Some(end) = end.find(&answer).map_err(|error| error.message())? {
                return read(&answer[..end]);
            }
        }
    }
}

/// How long a step may take; a socket takes no time of 0.
fn patience(config: &Config) -> Duration {
    config.timeouts.connect.max(Duration::from_millis(1))
}

/// Reads what is there, or waits for it up to this instant.
fn read_until(stream: &mut TcpStream, buffer: &mut [u8], until: Instant) -> std::io::Result<usize> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(ErrorKind::TimedOut.into());
    }
    stream.set_read_timeout(Some(left))?;
    stream.read(buffer)
}

fn read(head: &[u8]) -> Result<Answer, String> {
    let mut storage = storage();
    let head = ResponseHead::parse(head, &mut storage, false).map_err(|error| error.message())?;
    let line = head.headers.lines().iter().find(|line| line.name.eq_ignore_ascii_case("date"));
    let date = line.and_then(|line| parse_imf_fixdate(std::str::from_utf8(line.value).ok()?));
    Ok(Answer { status: head.status, date })
}

fn words(error: std::io::Error) -> String {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => "no answer within CONNECT_TIMEOUT".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_targets_clock_is_read() {
        let head = b"HTTP/1.1 401 Unauthorized\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(read(head), Ok(Answer { status: 401, date: Some(784_111_777_000_000_000) }));
        for bad in ["", "Sun, 06 Nov 1994", "Sun, 06 Nvo 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT"] {
            assert_eq!(parse_imf_fixdate(bad), None, "{bad}");
        }
    }
}
