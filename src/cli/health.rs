//! `proxy-server healthcheck`: whether the server of this configuration answers. For probes of containers, which have
//! no other program to ask with.
//!
//! In: the address that the configuration names. Out: nothing, or why not, within two seconds.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// For the connection and the answer together.
const PATIENCE: Duration = Duration::from_secs(2);
/// The beginning of an answer that says all.
const ANSWER: &[u8] = b"HTTP/1.1 200 ";

/// Asks the server at this address for `/healthz`. Every address (`0.0.0.0`) is asked at loopback.
///
/// # Errors
/// One sentence.
pub fn run(listen: SocketAddr) -> Result<(), String> {
    if listen.port() == 0 {
        return Err("PORT=0 is any free port: set the one to ask".to_owned());
    }
    let address = SocketAddr::new(reachable(listen.ip()), listen.port());
    let answer = ask(address).map_err(|error| format!("no answer from {address}: {error}"))?;
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

fn ask(address: SocketAddr) -> std::io::Result<Vec<u8>> {
    let until = Instant::now() + PATIENCE;
    // A timeout of nothing is refused by the system's call.
    let left = || until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_write_timeout(Some(left()))?;
    stream.write_all(format!("GET /healthz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    while answer.len() < ANSWER.len() {
        stream.set_read_timeout(Some(left()))?;
        let mut piece = [0; 64];
        match stream.read(&mut piece)? {
            0 => break,
            count => answer.extend_from_slice(&piece[..count]),
        }
    }
    Ok(answer)
}
