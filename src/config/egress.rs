//! The way out: `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY`, in capitals or not, as curl and Go's net/http read them.
//!
//! In: the variables, and where a connection is to go. Out: whether it goes by a proxy, by which, and why not. Never: a
//! name looked up; a user or a password in a problem or in words. Other names (`ALL_PROXY`) are not read.

use super::Secret;
use super::source::Source;
use super::value;
use crate::base::network::Network;
use crate::base::percent::{decode, encode};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use http::Uri;
use std::fmt;
use std::net::IpAddr;

/// The proxies on the way out, and what goes past them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Egress {
    https: Option<EgressProxy>,
    http: Option<EgressProxy>,
    exceptions: Vec<Exception>,
}

/// A proxy that opens tunnels by CONNECT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EgressProxy {
    /// A DNS name or an IP address, without brackets.
    pub host: String,
    pub port: u16,
    /// The value of `Proxy-Authorization`.
    authorization: Option<Secret>,
    /// All of it as a URL, its user and password percent-encoded.
    pub url: Secret,
    /// Scheme, host and port, to be shown.
    shown: String,
    /// The variable that names it, in capitals.
    variable: &'static str,
}

/// How something outside is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way<'a> {
    /// There is no proxy for its scheme.
    Direct,
    /// `NO_PROXY` names it.
    Exempt(&'a EgressProxy),
    By(&'a EgressProxy),
}

/// What goes past the proxies.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Exception {
    whom: Whom,
    /// Its only port; `None` is any.
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Whom {
    Everybody,
    Network(Network),
    /// This name and all below it; in lower case, without dots at its ends.
    Domain(String),
}

const EXPECTED_EXCEPTIONS: &str = "names of hosts or domains, addresses and networks, parted by commas, as in \
                                   example.com,10.0.0.0/8,192.0.2.1:8080, or * for all";

impl Egress {
    pub(super) fn read(source: &mut Source<'_>) -> Self {
        let https = proxy(source, ["https_proxy", "HTTPS_PROXY"]);
        let http = proxy(source, ["http_proxy", "HTTP_PROXY"]);
        let exceptions = source.spelling(["no_proxy", "NO_PROXY"]).filter(|_| https.is_some() || http.is_some());
        let exceptions = exceptions.and_then(|name| source.optional(name, EXPECTED_EXCEPTIONS, Exception::parse_list));
        Self { https, http, exceptions: exceptions.unwrap_or_default() }
    }

    /// True where there is a proxy for anything.
    pub fn is_set(&self) -> bool {
        self.https.is_some() || self.http.is_some()
    }

    /// How a host (without brackets) is reached on this port; `tls` where by https.
    pub fn way(&self, tls: bool, host: &str, port: u16) -> Way<'_> {
        let Some(proxy) = (if tls { &self.https } else { &self.http }) else { return Way::Direct };
        let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        let address = name.parse::<IpAddr>().ok().map(|address| address.to_canonical());
        match self.exceptions.iter().any(|exception| exception.is_of(&name, address, port)) {
            true => Way::Exempt(proxy),
            false => Way::By(proxy),
        }
    }

    /// How the host of an absolute URL is reached.
    pub fn way_to(&self, url: &Uri) -> Way<'_> {
        let tls = url.scheme_str() == Some("https");
        let port = url.port_u16().unwrap_or(if tls { 443 } else { 80 });
        self.way(tls, url.host().unwrap_or_default().trim_matches(['[', ']']), port)
    }
}

impl<'a> Way<'a> {
    /// The proxy on it.
    pub fn proxy(self) -> Option<&'a EgressProxy> {
        match self {
            Self::By(proxy) => Some(proxy),
            Self::Direct | Self::Exempt(_) => None,
        }
    }
}

/// Goes on after what is reached.
impl fmt::Display for Way<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct => f.write_str("directly"),
            Self::Exempt(proxy) => write!(f, "directly: NO_PROXY exempts it from {}", proxy.variable),
            Self::By(proxy) => proxy.fmt(f),
        }
    }
}

impl fmt::Display for EgressProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let credentials = if self.authorization.is_some() { ", with a user and a password" } else { "" };
        write!(f, "by the proxy {} ({}{credentials})", self.shown, self.variable)
    }
}

/// The proxy of a variable, which is spelled in small letters or, second, in capitals.
fn proxy(source: &mut Source<'_>, spellings: [&'static str; 2]) -> Option<EgressProxy> {
    let name = source.spelling(spellings)?;
    let value = source.os(name)?;
    let proxy = EgressProxy::parse(&value.to_string_lossy(), spellings[1]);
    proxy.inspect_err(|why| source.problem(name, format!("{why}; its value is not shown"))).ok()
}

impl EgressProxy {
    /// The value of `Proxy-Authorization`.
    pub fn credentials(&self) -> Option<&str> {
        self.authorization.as_ref().map(Secret::expose)
    }

    /// `http://[user:password@]host[:port]`, or the same without the scheme. What is wrong with it, without any of it.
    fn parse(text: &str, variable: &'static str) -> Result<Self, String> {
        const EXPECTED: &str = "expected http://host:port of a proxy, or http://user:password@host:port with user and \
                                password percent-encoded";
        let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
        if !scheme.eq_ignore_ascii_case("http") {
            return Err(format!("{EXPECTED}: it is asked for tunnels over plain HTTP, not over https or socks"));
        }
        let (userinfo, place) = rest.rsplit_once('@').map_or((None, rest), |(user, place)| (Some(user), place));
        let place = format!("http://{}", place.strip_suffix('/').unwrap_or(place));
        let uri = value::http_url(&place).filter(|uri| uri.query().is_none() && uri.path() == "/");
        let authority = uri.as_ref().and_then(Uri::authority).ok_or(EXPECTED)?;
        let port = authority.port_u16().unwrap_or(80);
        let host = authority.host().to_ascii_lowercase();
        let credentials = userinfo.map(|text| credentials(text).ok_or(EXPECTED)).transpose()?;
        let shown = format!("http://{host}:{port}");
        let (authorization, url) = match credentials {
            None => (None, shown.clone()),
            Some((user, password)) => {
                let basic = Secret::parse(&BASE64_STANDARD.encode(format!("{user}:{password}")))?;
                let url = format!("http://{}:{}@{host}:{port}", encode(&user), encode(&password));
                (Some(basic.after("Basic ")), url)
            }
        };
        let host = host.trim_matches(['[', ']']).to_owned();
        Ok(Self { host, port, authorization, url: Secret::parse(&url)?, shown, variable })
    }
}

/// A user and a password (RFC 7617 section 2), which may be empty.
fn credentials(text: &str) -> Option<(String, String)> {
    let (user, password) = text.split_once(':').unwrap_or((text, ""));
    let (user, password) = (decode(user)?, decode(password)?);
    let is_whole = !user.contains(':') && !user.chars().chain(password.chars()).any(char::is_control);
    is_whole.then_some((user, password))
}

impl Exception {
    /// All of a list; `None` where one of them is none.
    fn parse_list(text: &str) -> Option<Vec<Self>> {
        let texts = text.split(|letter: char| letter == ',' || letter.is_ascii_whitespace());
        texts.filter(|text| !text.is_empty()).map(Self::parse).collect()
    }

    fn parse(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Self { whom: Whom::Everybody, port: None });
        }
        let bare = |text: &str| {
            let address = text.trim_matches(['[', ']']);
            Network::parse(address).filter(|_| !address.contains('/'))
        };
        if let Some(network) = bare(text).or_else(|| Network::parse(text)) {
            return Some(Self { whom: Whom::Network(network), port: None });
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host, Some(value::number::<u16>(port)?)),
            None => (text, None),
        };
        let whom = match bare(host) {
            Some(address) => Whom::Network(address),
            None => {
                let name = host.strip_prefix('*').unwrap_or(host).trim_matches('.').to_ascii_lowercase();
                Whom::Domain(Some(name).filter(|name| value::is_host(name))?)
            }
        };
        Some(Self { whom, port })
    }

    /// `name` is in lower case, without a dot at its end; `address` is what it is, where it is one.
    fn is_of(&self, name: &str, address: Option<IpAddr>, port: u16) -> bool {
        let is_host = match &self.whom {
            Whom::Everybody => true,
            Whom::Network(network) => address.is_some_and(|address| {
                network.is_ipv4() == address.is_ipv4() && network.holds(address) // `::/0` is of version 6 only
            }),
            Whom::Domain(domain) => name.strip_suffix(domain).is_some_and(|sub| sub.is_empty() || sub.ends_with('.')),
        };
        is_host && self.port.is_none_or(|only| only == port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::ffi::OsString;

    fn read(env: &[(&str, &str)], dotenv: &str) -> Result<Egress, Vec<String>> {
        let env: BTreeMap<&str, &str> = env.iter().copied().collect();
        let env = |name: &str| env.get(name).map(OsString::from);
        let mut source = Source::new(&env, dotenv);
        let egress = Egress::read(&mut source);
        let problems: Vec<String> = source.problems.iter().map(ToString::to_string).collect();
        if problems.is_empty() { Ok(egress) } else { Err(problems) }
    }

    fn parse(text: &str) -> Option<(String, u16, Option<String>)> {
        let proxy = EgressProxy::parse(text, "HTTPS_PROXY").ok()?;
        Some((proxy.host, proxy.port, proxy.authorization.map(|secret| secret.expose().to_owned())))
    }

    #[test]
    fn a_proxy_is_a_host_with_a_port_and_credentials() {
        let basic = |text: &str| Some(format!("Basic {}", BASE64_STANDARD.encode(text)));
        for (text, host, port, authorization) in [
            ("http://proxy.example:3128", "proxy.example", 3128, None),
            ("HTTP://Proxy.Example:3128/", "proxy.example", 3128, None),
            ("proxy:8080", "proxy", 8080, None),
            ("http://proxy", "proxy", 80, None),
            ("http://[2001:DB8::1]:3128", "2001:db8::1", 3128, None),
            ("http://me:p%40ss%3A%2F@proxy:1", "proxy", 1, basic("me:p@ss:/")),
            ("me:p@ss/w#rd@proxy:1", "proxy", 1, basic("me:p@ss/w#rd")),
            ("http://%E5%A4%AA:@proxy:1", "proxy", 1, basic("太:")),
            ("http://me@proxy:1", "proxy", 1, basic("me:")),
        ] {
            assert_eq!(parse(text), Some((host.to_owned(), port, authorization)), "{text}");
        }
        let proxy = EgressProxy::parse("me:p@ss/w#rd@[::1]:3128", "HTTPS_PROXY").unwrap();
        assert_eq!(proxy.url.expose(), "http://me:p%40ss%2Fw%23rd@[::1]:3128");
        let said = format!("{proxy} {proxy:?}");
        assert!(
            said.contains("with a user and a password") && !said.contains("w#rd") && !said.contains("bWU6"),
            "{said}"
        );
    }

    #[test]
    fn what_is_no_such_proxy_is_told_without_its_value() {
        for text in [
            "https://u:hush@proxy:443",
            "socks5://u:hush@proxy:1080",
            "http://u:hush@",
            "http://u:hush@proxy:0",
            "http://u:hush@proxy:port",
            "http://u:hush@proxy:1/path",
            "http://u:hush@proxy:1?query",
            "http://u:hush%@proxy:1",
            "http://u:hush%0a@proxy:1",
            "http://u%3Ahush:x@proxy:1",
            "http://u:hush@pro xy:1",
            "hush:hush",
        ] {
            let problems = read(&[("HTTPS_PROXY", text)], "").expect_err(text);
            assert!(problems.len() == 1 && problems[0].starts_with("HTTPS_PROXY: expected http://"), "{problems:?}");
            assert!(!problems[0].contains("hush"), "{problems:?}");
        }
        let problems = read(&[("http_proxy", "socks5://proxy:1")], "").unwrap_err();
        assert!(problems[0].starts_with("http_proxy: ") && problems[0].contains("not over https or socks"));
        let vars = [("HTTP_PROXY", "proxy:1"), ("NO_PROXY", "a.example,10.0.0.0/33")];
        let problems = read(&vars, "").unwrap_err();
        assert!(problems.len() == 1 && problems[0].starts_with("NO_PROXY: expected names"), "{problems:?}");
        assert!(read(&vars[1..], "").is_ok(), "it says nothing where there is no proxy");
    }

    #[test]
    fn small_letters_come_first_and_the_environment_before_the_file() {
        let host = |env: &[(&str, &str)], dotenv| {
            let egress = read(env, dotenv).unwrap();
            egress.way(true, "api.openai.com", 443).proxy().map(|proxy| proxy.host.clone())
        };
        let both = [("HTTPS_PROXY", "large:1"), ("https_proxy", "small:1")];
        assert_eq!(host(&both, "").as_deref(), Some("small"));
        assert_eq!(host(&both[..1], "https_proxy=file:1").as_deref(), Some("large"));
        assert_eq!(host(&[("https_proxy", "")], "HTTPS_PROXY=file:1").as_deref(), Some("file"));
        assert_eq!(host(&[("HTTP_PROXY", "plain:1"), ("all_proxy", "all:1"), ("HTTPS_PROXY", "")], ""), None);
    }

    #[test]
    fn each_scheme_has_its_proxy_and_this_machine_is_no_exception() {
        let egress = read(&[("HTTPS_PROXY", "tls:1"), ("HTTP_PROXY", "plain:1")], "").unwrap();
        let by = |url: &str| egress.way_to(&url.parse().unwrap()).proxy().map(|proxy| proxy.host.as_str());
        assert_eq!((by("https://a.example"), by("http://a.example")), (Some("tls"), Some("plain")));
        for here in ["localhost", "127.0.0.1", "[::1]"] {
            assert_eq!(by(&format!("https://{here}:8443/x")), Some("tls"), "{here}: as curl has it");
        }
        assert_eq!(Egress::default().way(true, "a", 1), Way::Direct);
    }

    #[test]
    fn exceptions_are_hosts_domains_networks_and_ports() {
        let past = |list: &str, urls: &str, expected: bool| {
            let egress = read(&[("HTTP_PROXY", "p:1"), ("no_proxy", list)], "").unwrap();
            for host in urls.split_whitespace() {
                let way = egress.way_to(&format!("http://{host}").parse().unwrap());
                assert_eq!(matches!(way, Way::Exempt(_)), expected, "{host} with {list}");
            }
        };
        for list in ["example.com", ".example.com", "*.example.com", "x, EXAMPLE.com.,y", "x example.com"] {
            past(list, "example.com a.example.com A.B.Example.COM. example.com:99", true);
            past(list, "notexample.com example.com.de com 10.0.0.1", false);
        }
        past("*", "example.com 10.0.0.1 [2001:db8::1]", true);
        past("10.1.0.0/16,2001:db8::/33", "10.1.255.255 [2001:db8::1] [::ffff:10.1.0.1]", true);
        past("10.1.0.0/16,2001:db8::/33", "10.2.0.0 [2001:db8:8000::1] a.example", false);
        past("0.0.0.0/0", "10.2.0.0", true);
        past("0.0.0.0/0", "[2001:db8::1] a.example", false);
        past("192.0.2.1,[2001:db8::1],2001:db8::2", "192.0.2.1:99 [2001:db8::1] [2001:db8::2]:99", true);
        past("192.0.2.1,[2001:db8::1]", "192.0.2.2 [2001:db8::2] 1.192.0.2.1.example", false);
        past("a.example:81,192.0.2.1:80,[2001:db8::1]:81", "b.a.example:81 192.0.2.1 [2001:db8::1]:81", true);
        past("a.example:81,192.0.2.1:80,[2001:db8::1]:81", "a.example 192.0.2.1:81 [2001:db8::1]", false);
        past("", "a.example", false);
    }
}
