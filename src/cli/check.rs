//! `proxy-server check`: the first thing to run when something does not work.
//!
//! In: the configuration. Out: a line for each thing that the server needs: `ok` and what was found, or `FAILED`, why,
//! and what to do. It may take as long as the target's timeouts. Never: a change of the ledger, a secret in a line.

use super::{EXIT_USAGE, health, prices_command};
use crate::config::{Config, EgressProxy, Problem, Way};
use crate::ledger::database::{self, Found};
use crate::proxy::egress_tunnel::{self, EgressAnswer};
use crate::tls::Connector;
use crate::worker::certificate_watch::{WARN_BEFORE, shown};
use crate::worker::export::Server;
use crate::worker::unix_now;
use std::io::{Error, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs as _};
use std::process::ExitCode;
use std::time::Duration;

/// Why something is not as it must be, and what can be done.
type Failure = (String, &'static str);

/// Checks everything, and gives each line to `print` as soon as it is known; the exit status. Where the configuration
/// is wrong, nothing else is looked at.
pub fn run(config: Result<Config, Vec<Problem>>, print: &mut dyn FnMut(&str)) -> ExitCode {
    let config = match config {
        Ok(config) => config,
        Err(problems) => {
            for problem in problems {
                print(&format!("FAILED  configuration  {problem}\n"));
            }
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let mut status = ExitCode::SUCCESS;
    let mut line = |what: &str, finding: Result<String, Failure>| match finding {
        Ok(found) => print(&format!("ok      {what:13}  {found}\n")),
        Err((why, remedy)) => {
            status = ExitCode::FAILURE;
            print(&format!("FAILED  {what:13}  {why}\n                       {remedy}\n"));
        }
    };
    line("configuration", Ok("every variable has a valid value".to_owned()));
    line("listen", listen(config.listen, config.certificate.is_some()));
    if let Some(certificate) = &config.certificate {
        line("certificate", validity(certificate.acceptor.expires_at()));
    }
    if config.tls_ca.is_none() && std::env::var_os("SSL_CERT_FILE").is_some_and(|file| !file.is_empty()) {
        let found = "SSL_CERT_FILE is not read: TLS_CA_FILE names authorities to trust beside Mozilla's";
        line("authorities", Ok(found.to_owned()));
    }
    for (whom, way) in ways(&config) {
        line("egress", Ok(format!("{whom} {way}")));
    }
    let (host, port) = next_hop(&config);
    match resolve(host, port) {
        Ok(addresses) => {
            let list: Vec<_> = addresses.iter().map(|address| address.ip().to_string()).collect();
            line("resolve", Ok(format!("{host} is {}", list.join(", "))));
            line(if config.target.tls { "tls" } else { "connect" }, reach(&config, &addresses));
        }
        Err(failure) => line("resolve", Err(failure)),
    }
    line("ledger", ledger(&config));
    let remedy = "remove the file: it is fetched again";
    let prices = prices_command::prices(&config);
    line("prices", prices.map(|prices| prices_command::ages(&prices)).map_err(|why| (why, remedy)));
    if let Some(influx) = &config.influx {
        let checked = Server::new(influx.clone(), &config.egress).check();
        let remedy = "look at INFLUXDB_URL and the variables around it, and whether the server runs";
        let failure = |why| (format!("{}: {why}", influx.shown), remedy);
        line("influx", checked.map(|()| format!("{} lets writes in", influx.shown)).map_err(failure));
    }
    status
}

/// Of the certificate that clients are shown, which expires then, seconds since the Unix epoch.
fn validity(expires_at: u64) -> Result<String, Failure> {
    let (expiry, left) = (shown(expires_at), expires_at.saturating_sub(unix_now() / 1_000_000_000));
    match left {
        0 => Err((format!("it has expired on {expiry}"), "renew the file that TLS_CERT_FILE names")),
        left if left < WARN_BEFORE => Ok(format!("it expires on {expiry}: renew it soon")),
        _ => Ok(format!("it is good until {expiry}")),
    }
}

fn listen(address: SocketAddr, tls: bool) -> Result<String, Failure> {
    match TcpListener::bind(address) {
        Ok(_) => Ok(format!("{address} is free")),
        Err(error) if error.kind() == ErrorKind::AddrInUse && health::run(address, tls).is_ok() => {
            Ok(format!("{address} is served by a proxy that answers"))
        }
        Err(error) => {
            let remedy = match error.kind() {
                ErrorKind::AddrInUse => "another program has it: stop that, or choose another PORT",
                ErrorKind::PermissionDenied => "choose a PORT from 1024 on, or allow this one (CAP_NET_BIND_SERVICE)",
                _ => "HOST must be an address of this machine",
            };
            Err((format!("{address}: {error}"), remedy))
        }
    }
}

/// How the target and whatever else is called are reached, where there is a proxy on any way out.
fn ways(config: &Config) -> Vec<(&str, Way<'_>)> {
    let (egress, target) = (&config.egress, &config.target);
    let others = [config.influx.as_ref().map(|influx| &influx.shown), config.prices_url.as_ref().map(|url| &url.shown)];
    let others =
        others.into_iter().flatten().filter_map(|shown| Some((shown.as_str(), egress.way_to(&shown.parse().ok()?))));
    let first = (target.authority.as_str(), egress.way(target.tls, &target.host, target.port));
    [first].into_iter().chain(others).filter(|_| egress.is_set()).collect()
}

/// The proxy on the way to the target.
fn proxy(config: &Config) -> Option<&EgressProxy> {
    config.egress.way(config.target.tls, &config.target.host, config.target.port).proxy()
}

/// What is connected to.
fn next_hop(config: &Config) -> (&str, u16) {
    proxy(config).map_or((&config.target.host, config.target.port), |proxy| (&proxy.host, proxy.port))
}

fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, Failure> {
    let why = match (host, port).to_socket_addrs().map(Iterator::collect::<Vec<_>>) {
        Ok(addresses) if !addresses.is_empty() => return Ok(addresses),
        Ok(_) => "it has no address".to_owned(),
        Err(error) => error.to_string(),
    };
    let remedy = "look at PROXY_TARGET and HTTPS_PROXY, at the network, and at /etc/resolv.conf";
    Err((format!("{host}: {why}"), remedy))
}

/// Any of the addresses will do, as for the server.
fn reach(config: &Config, addresses: &[SocketAddr]) -> Result<String, Failure> {
    let mut failures = Vec::new();
    for &address in addresses {
        let answers = match proxy(config) {
            None => format!("{address} answers"),
            Some(_) => format!("{} answers through {address}", config.target.authority),
        };
        match handshake(config, address) {
            Ok(()) if failures.is_empty() => return Ok(answers),
            Ok(()) => return Ok(format!("{answers}, others do not: {}", failures.join("; "))),
            Err(why) => failures.push(format!("{address}: {why}")),
        }
    }
    let remedy = match (proxy(config), config.target.tls) {
        (Some(_), _) => "look at HTTPS_PROXY, HTTP_PROXY and NO_PROXY; a private authority belongs into TLS_CA_FILE",
        (None, true) => "is PROXY_TARGET right, and reachable from here? A private authority belongs into TLS_CA_FILE",
        (None, false) => "is PROXY_TARGET right, and reachable from here?",
    };
    Err((failures.join("; "), remedy))
}

fn words(error: Error) -> String {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => "no answer within CONNECT_TIMEOUT".to_owned(),
        _ => error.to_string(),
    }
}

fn handshake(config: &Config, address: SocketAddr) -> Result<(), String> {
    let patience = config.timeouts.connect.max(Duration::from_millis(1));
    let mut stream = TcpStream::connect_timeout(&address, patience).map_err(words)?;
    stream.set_read_timeout(Some(patience)).and_then(|()| stream.set_write_timeout(Some(patience))).map_err(words)?;
    if let Some(proxy) = proxy(config) {
        tunnel(config, proxy, &mut stream).map_err(|why| format!("the proxy on the way out {why}"))?;
    }
    if !config.target.tls {
        return Ok(());
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
            session.close(&mut reply);
            let _ = stream.write_all(&reply); // a goodbye
            return Ok(());
        }
        let count = stream.read(&mut buffer).map_err(words)?;
        if count == 0 {
            return Err("it closed the connection in the middle of the TLS handshake".to_owned());
        }
        received = session.receive(&mut buffer[..count], &mut reply, |_| {});
    }
}

/// Has the proxy on the way out open a tunnel to the target. Nothing comes through it before we have spoken.
fn tunnel(config: &Config, proxy: &EgressProxy, stream: &mut TcpStream) -> Result<(), String> {
    let broke = |error| format!("gave no answer: {}", words(error));
    let request = egress_tunnel::request(&config.target.host, config.target.port, proxy.credentials());
    stream.write_all(&request).map_err(broke)?;
    let (mut answer, mut buffer) = (EgressAnswer::default(), [0; 4096]);
    loop {
        let count = stream.read(&mut buffer).map_err(broke)?;
        if count == 0 {
            return Err("closed the connection before it opened a tunnel".to_owned());
        }
        if answer.take(&buffer[..count]).map_err(|error| error.to_string())?.is_some() {
            return Ok(());
        }
    }
}

fn ledger(config: &Config) -> Result<String, Failure> {
    let path = config.database_path.display();
    match database::check(&config.database_path) {
        Ok(Found::Nothing) => Ok(format!("{path} can be created")),
        Ok(Found::Ledger) => Ok(format!("{path} is sound and can be written")),
        Ok(Found::Older) => Ok(format!("{path} is an older version's; the server will bring it up to date")),
        Err(why) => Err((why, "look at DATABASE_PATH, and at the permissions of the file and its folder")),
    }
}
