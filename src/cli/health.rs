//! `proxy-server healthcheck`: whether the server of this configuration answers. For probes of containers, which have
//! no other program to ask with.
//!
//! In: the address that the configuration names. Out: nothing, or why not, within two seconds.

use crate::tls::{Connector, TlsError};
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// For the connection and the answer together.
const PATIENCE: Duration = Duration::from_secs(2);
/// The beginning of an answer that says all.
const ANSWER: &[u8] = b"HTTP/1.1 200 ";

/// Asks the server at this address for `/healthz`, by `tls` where its port speaks that: whatever certificate it shows,
/// for it is asked by an address that need not be in it. Every address (`0.0.0.0`) is asked at loopback.
///
/// # Errors
/// One sentence.
pub fn run(listen: SocketAddr, tls: bool) -> Result<(), String> {
    if listen.port() == 0 {
        return Err("PORT=0 is any free port: set the one to ask".to_owned());
    }
    let address = SocketAddr::new(reachable(listen.ip()), listen.port());
    let answer = ask(address, tls).map_err(|error| format!("no answer from {address}: {error}"))?;
    match answer.starts_with(ANSWER) {
        true => Ok(()),
        false => Err(format!("{address} answers, but not as a proxy that is well")),
    }
}

fn reachable(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    }
}

fn ask(address: SocketAddr, tls: bool) -> std::io::Result<Vec<u8>> {
    let until = Instant::now() + PATIENCE;
    // A timeout of nothing is refused by the system's call.
    let left = || until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    let request = format!("GET /healthz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    let mut session =
        if tls { Some(Connector::to_own_port().and_then(|own| own.open()).map_err(broken)?) } else { None };
    let (mut out, mut has_asked) = (Vec::new(), false);
    if let Some(session) = &mut session {
        session.start(&mut out).map_err(broken)?;
    }
    let mut answer = Vec::new();
    while answer.len() < ANSWER.len() {
        match &mut session {
            _ if has_asked => {}
            Some(session) if session.is_handshaking() => {}
            Some(session) => {
                session.encrypt(request.as_bytes(), &mut out).map_err(broken)?;
                has_asked = true;
            }
            None => {
                out.extend_from_slice(request.as_bytes());
                has_asked = true;
            }
        }
        stream.set_write_timeout(Some(left()))?;
        stream.write_all(&std::mem::take(&mut out))?;
        stream.set_read_timeout(Some(left()))?;
        let mut piece = [0; 4096];
        let count = stream.read(&mut piece)?;
        match &mut session {
            _ if count == 0 => break,
            Some(session) => {
                let received = session.receive(&mut piece[..count], &mut out, |plain| answer.extend_from_slice(plain));
                received.map_err(broken)?;
            }
            None => answer.extend_from_slice(&piece[..count]),
        }
    }
    Ok(answer)
}

fn broken(error: TlsError) -> std::io::Error {
    std::io::Error::other(error.cause())
}
