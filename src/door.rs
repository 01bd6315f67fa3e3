//! Which requests may come in at all, before it is asked who sends them: a web page that somebody on this machine
//! looks at reaches the port as well as they do, and must not spend their key or read their usage.
//!
//! - On loopback, or where `ALLOWED_HOSTS` is set: a domain or an address in `Host` that is none of ours (DNS
//!   rebinding) is refused with 421.
//! - Another origin than our own page's (Fetch §3.2), or `Sec-Fetch-Site: cross-site`, is refused with 403, but for
//!   those in `ALLOWED_ORIGINS`.
//! - So is a page that is to come from the target (`Sec-Fetch-Mode: navigate`).
//!
//! In: a head. Out: the origin that may read the answer, a preflight's answer, or a refusal. Programs that are no
//! browsers send none of these headers but `Host`.

use crate::http::head::RequestHead;
use crate::http::headers::{Headers, Known, write};
use crate::http::reply::Fault;
use std::net::IpAddr;
use std::sync::Arc;

/// How long a browser may keep a preflight's answer, seconds.
const PREFLIGHT_SECONDS: &[u8] = b"600";
/// The rules of the door.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Door {
    /// Names and addresses served beside those of loopback, in small letters and without a port; `None` serves any.
    hosts: Option<Vec<Box<str>>>,
    /// Pages that may ask.
    origins: Vec<Arc<str>>,
}

/// Why a request must not come in, and how its client is told.
pub type TurnedAway = (Fault, &'static str);

/// What comes in.
#[derive(Debug, PartialEq, Eq)]
pub enum Entrance {
    /// A request, whose answer this origin may read.
    Request(Option<Arc<str>>),
    /// A browser's question whether a page of this origin may ask (Fetch, *CORS protocol*): these lines answer it.
    Preflight(Arc<str>, Vec<u8>),
}

impl Door {
    /// A port that `is_loopback`, or has allowed hosts, serves those and loopback's names only. Hosts are in small
    /// letters and without a port, origins as browsers write them (`https://app.example.com`).
    pub fn new(is_loopback: bool, hosts: Vec<Box<str>>, origins: Vec<Arc<str>>) -> Self {
        Self { hosts: (is_loopback || !hosts.is_empty()).then_some(hosts), origins }
    }

    /// What a request is to us. `relayed` says that it is for the target.
    ///
    /// # Errors
    /// It must not come in.
    pub fn enter(&self, head: &RequestHead<'_, '_>, relayed: bool) -> Result<Entrance, TurnedAway> {
        let host = text(&head.headers, Known::Host).unwrap_or_default();
        self.check_host(host)?;
        let origins = head.headers.values(Known::Origin).count();
        let origin = text(&head.headers, Known::Origin).unwrap_or_default();
        let listed = self.origins.iter().find(|listed| listed.eq_ignore_ascii_case(origin));
        let is_own = own_origin(origin, host);
        if origins > 1 || origins == 1 && listed.is_none() && !is_own {
            return Err(foreign("this page's origin is not in ALLOWED_ORIGINS"));
        }
        let site = text(&head.headers, Known::FetchSite).unwrap_or_default();
        if listed.is_none() && (site == "cross-site" || relayed && site == "same-site") {
            return Err(foreign("a page of another origin asks, and none of that is in ALLOWED_ORIGINS"));
        }
        if relayed && text(&head.headers, Known::FetchMode) == Some("navigate") {
            return Err(foreign("what the target answers is not shown as a page"));
        }
        let Some(listed) = listed else { return Ok(Entrance::Request(None)) };
        let asked = head.headers.values(Known::RequestMethod).next();
        Ok(match asked.filter(|_| head.method == "OPTIONS") {
            Some(method) => Entrance::Preflight(Arc::clone(listed), preflight(&head.headers, method)),
            None => Entrance::Request(Some(Arc::clone(listed))),
        })
    }

    fn check_host(&self, host: &str) -> Result<(), TurnedAway> {
        let Some(hosts) = &self.hosts else { return Ok(()) };
        let name = host_name(host).to_ascii_lowercase();
        // A name without a dot is nobody's domain: no page can come from there, and be led here later. Where there is
        // no name (HTTP/1.0), none can be taken for ours.
        let is_bare = !name.contains(['.', ':']);
        if is_bare || is_loopback(&name) || hosts.iter().any(|allowed| **allowed == name) {
            return Ok(());
        }
        let message = "this name is not one of this server's: whoever runs it can add it to ALLOWED_HOSTS";
        Err((Fault::Misdirected, message))
    }
}

fn preflight(headers: &Headers<'_, '_>, method: &[u8]) -> Vec<u8> {
    let mut lines = Vec::new();
    write(&mut lines, "access-control-allow-methods", method);
    if let Some(names) = headers.values(Known::RequestHeaders).next() {
        write(&mut lines, "access-control-allow-headers", names);
    }
    if headers.values(Known::RequestPrivateNetwork).next().is_some() {
        write(&mut lines, "access-control-allow-private-network", b"true");
    }
    write(&mut lines, "access-control-max-age", PREFLIGHT_SECONDS);
    lines
}

fn foreign(message: &'static str) -> TurnedAway {
    (Fault::ForeignOrigin, message)
}

fn text<'b>(headers: &Headers<'_, 'b>, class: Known) -> Option<&'b str> {
    headers.values(class).next().map(|value| std::str::from_utf8(value).unwrap_or("\u{fffd}"))
}

/// True for the origin of a page that came from this very place.
fn own_origin(origin: &str, host: &str) -> bool {
    let plain = |name: &str, port: &str| name.strip_suffix(port).unwrap_or(name).to_ascii_lowercase();
    let of =
        |scheme: &str, port: &str| origin.strip_prefix(scheme).is_some_and(|at| plain(at, port) == plain(host, port));
    !host.is_empty() && (of("http://", ":80") || of("https://", ":443"))
}

/// The name or address in a `Host`, without its port, brackets and last dot.
pub fn host_name(host: &str) -> &str {
    if let Some((address, _)) = host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return address;
    }
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    name.strip_suffix('.').unwrap_or(name)
}

/// True for a name of this machine alone, in small letters (RFC 6761 §6.3).
fn is_loopback(name: &str) -> bool {
    let is_address = |address: IpAddr| address.to_canonical().is_loopback();
    name == "localhost" || name.ends_with(".localhost") || name.parse().is_ok_and(is_address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::head::{self, RequestHead};

    fn door(is_loopback: bool, hosts: &[&str], origins: &[&str]) -> Door {
        let hosts = hosts.iter().map(|host| (*host).into()).collect();
        Door::new(is_loopback, hosts, origins.iter().map(|origin| (*origin).into()).collect())
    }

    /// What a request with this method and these lines is.
    fn enter(door: &Door, method: &str, lines: &str, relayed: bool) -> Result<Entrance, Fault> {
        let head = format!("{method} /v1/models HTTP/1.1\r\n{}\r\n\r\n", lines.replace('|', "\r\n"));
        let mut storage = head::storage();
        let head = RequestHead::parse(head.as_bytes(), &mut storage).expect("a head");
        door.enter(&head, relayed).map_err(|(fault, _)| fault)
    }

    #[test]
    fn a_name_is_one_of_ours() {
        let (local, named) = (door(true, &["box.lan", "192.0.2.7"], &[]), door(false, &["box.lan"], &[]));
        for (host, local_serves, named_serves) in [
            ("localhost", true, true),
            ("LocalHost:8080", true, true),
            ("app.localhost.:1", true, true),
            ("127.0.0.1:8080", true, true),
            ("127.9.9.9", true, true),
            ("[::1]:8080", true, true),
            ("[::ffff:127.0.0.1]", true, true),
            ("box.lan", true, true),
            ("BOX.lan.:80", true, true),
            ("192.0.2.7:8080", true, false),
            ("evil.example", false, false),
            ("localhost.evil.example", false, false),
            ("127.0.0.1.evil.example", false, false),
            ("evil.", true, true),
            ("box", true, true),
            ("box:8080", true, true),
            ("[2001:db8::1]:8080", false, false),
            ("0.0.0.0:8080", false, false),
            ("10.0.0.1", false, false),
        ] {
            for (door, serves) in [(&local, local_serves), (&named, named_serves)] {
                let found = enter(door, "GET", &format!("host: {host}"), true);
                assert_eq!(found, if serves { Ok(Entrance::Request(None)) } else { Err(Fault::Misdirected) }, "{host}");
            }
            assert_eq!(
                enter(&door(false, &[], &[]), "GET", &format!("host: {host}"), true),
                Ok(Entrance::Request(None))
            );
        }
    }

    #[test]
    fn a_page_of_another_origin_does_not_get_in() {
        let door = door(true, &[], &["https://app.example.com"]);
        let listed = || Ok(Entrance::Request(Some("https://app.example.com".into())));
        for (lines, relayed, expected) in [
            ("host: localhost:8080|origin: http://localhost:8080", true, Ok(Entrance::Request(None))),
            ("host: localhost|origin: http://localhost:80", true, Ok(Entrance::Request(None))),
            ("host: LOCALHOST:8443|origin: https://localhost:8443", true, Ok(Entrance::Request(None))),
            ("host: localhost:8080|origin: http://localhost:3000", true, Err(Fault::ForeignOrigin)),
            ("host: localhost:8080|origin: http://127.0.0.1:8080", true, Err(Fault::ForeignOrigin)),
            ("host: localhost:8080|origin: null", true, Err(Fault::ForeignOrigin)),
            ("host: localhost:8080|origin: ", true, Err(Fault::ForeignOrigin)),
            ("host: localhost:8080|origin: \u{fffd}", true, Err(Fault::ForeignOrigin)),
            ("host: localhost|origin: https://evil.example", false, Err(Fault::ForeignOrigin)),
            ("host: localhost|origin: https://app.example.com", true, listed()),
            ("host: localhost|origin: https://app.example.com|sec-fetch-site: cross-site", true, listed()),
            ("host: localhost|origin: https://app.example.com.evil.example", true, Err(Fault::ForeignOrigin)),
            (
                "host: localhost|origin: https://app.example.com|origin: https://app.example.com",
                true,
                Err(Fault::ForeignOrigin),
            ),
            ("host: localhost|sec-fetch-site: cross-site", true, Err(Fault::ForeignOrigin)),
            ("host: localhost|sec-fetch-site: cross-site", false, Err(Fault::ForeignOrigin)),
            ("host: localhost|sec-fetch-site: same-site", true, Err(Fault::ForeignOrigin)),
            ("host: localhost|sec-fetch-site: same-site", false, Ok(Entrance::Request(None))),
            ("host: localhost|sec-fetch-site: same-origin", true, Ok(Entrance::Request(None))),
            ("host: localhost|sec-fetch-site: none|sec-fetch-mode: navigate", true, Err(Fault::ForeignOrigin)),
            ("host: localhost|sec-fetch-site: none|sec-fetch-mode: navigate", false, Ok(Entrance::Request(None))),
        ] {
            assert_eq!(enter(&door, "GET", lines, relayed), expected, "{lines}");
        }
    }

    #[test]
    fn a_listed_pages_preflight_is_answered_here() {
        let door = door(true, &[], &["https://app.example.com"]);
        let asks = "host: localhost|origin: https://app.example.com|access-control-request-method: POST|\
            access-control-request-headers: authorization|access-control-request-private-network: true";
        let Ok(Entrance::Preflight(origin, lines)) = enter(&door, "OPTIONS", asks, true) else {
            panic!("no preflight")
        };
        let lines = String::from_utf8(lines).unwrap();
        assert_eq!(&*origin, "https://app.example.com");
        for line in ["methods: POST\r\n", "headers: authorization\r\n", "private-network: true\r\n", "max-age: 600\r\n"]
        {
            assert!(lines.contains(line), "{lines}");
        }
        assert!(matches!(enter(&door, "POST", asks, true), Ok(Entrance::Request(Some(_)))));
        assert_eq!(enter(&door, "OPTIONS", &asks.replace("app.", "evil."), true), Err(Fault::ForeignOrigin));
        assert_eq!(enter(&door, "OPTIONS", "host: localhost", true), Ok(Entrance::Request(None)));
    }
}
