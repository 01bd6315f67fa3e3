//! The server that requests are relayed to, from `PROXY_TARGET`.
//!
//! In: a URL. Out: its parts in the forms that connecting, TLS and the request's head need. What could send a key
//! somewhere unexpected (user information, a query, odd characters) is refused, not repaired.

use super::value::http_url;
use std::net::Ipv6Addr;

/// Where requests go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Speak TLS.
    pub tls: bool,
    /// A DNS name in lower case or an IP address, without brackets.
    pub host: String,
    pub port: u16,
    /// What is put before each request's path: empty, or `/…` without a final slash.
    pub prefix: String,
    /// The value of the `Host` header: with brackets around IPv6, and the port unless it is the scheme's own.
    pub authority: String,
}

/// What a target must look like.
pub(super) const EXPECTED: &str = "http:// or https://, a host name or address, and optionally :port and /prefix \
                                   (no user, query or fragment)";

impl Target {
    /// `None`: not as [`EXPECTED`] says.
    pub(super) fn parse(url: &str) -> Option<Self> {
        let uri = http_url(url).filter(|uri| uri.query().is_none())?;
        let (tls, authority) = (uri.scheme_str()? == "https", uri.authority()?);
        let default_port = if tls { 443 } else { 80 };
        let port = authority.port_u16().unwrap_or(default_port);
        let name = authority.host().to_ascii_lowercase();
        let (host, shown) = match name.trim_matches(['[', ']']).parse::<Ipv6Addr>() {
            Ok(address) => (address.to_string(), format!("[{address}]")),
            Err(_) => (name.clone(), name),
        };
        let authority = if port == default_port { shown } else { format!("{shown}:{port}") };
        Some(Self { tls, host, port, prefix: parse_prefix(uri.path())?, authority })
    }
}

/// RFC 3986 section 3.3 `path-abempty`, without dot segments, which two servers could resolve differently.
fn parse_prefix(path: &str) -> Option<String> {
    let path = path.strip_suffix('/').unwrap_or(path);
    let is_path_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:@".contains(&byte);
    let is_dots = |segment: &str| segment == "." || segment == "..";
    let valid = path.bytes().all(is_path_byte) && !path.split('/').any(is_dots) && !path.contains("//");
    valid.then(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn target(tls: bool, host: &str, port: u16, prefix: &str, authority: &str) -> Option<Target> {
        Some(Target { tls, host: host.into(), port, prefix: prefix.into(), authority: authority.into() })
    }

    #[test]
    fn urls_in_parts() {
        for (url, expected) in [
            ("https://api.openai.com", target(true, "api.openai.com", 443, "", "api.openai.com")),
            ("HTTPS://API.OpenAI.com/", target(true, "api.openai.com", 443, "", "api.openai.com")),
            ("http://localhost:11434", target(false, "localhost", 11434, "", "localhost:11434")),
            ("http://h:80/a/b/", target(false, "h", 80, "/a/b", "h")),
            ("https://h:80", target(true, "h", 80, "", "h:80")),
            ("https://127.0.0.1:8443/x", target(true, "127.0.0.1", 8443, "/x", "127.0.0.1:8443")),
            ("http://[::1]:8000/v1", target(false, "::1", 8000, "/v1", "[::1]:8000")),
            ("https://[2001:DB8::1]", target(true, "2001:db8::1", 443, "", "[2001:db8::1]")),
            ("http://my_service.local.", target(false, "my_service.local.", 80, "", "my_service.local.")),
        ] {
            assert_eq!(Target::parse(url), expected, "{url}");
        }
    }

    #[test]
    fn what_could_mislead_is_refused() {
        let long_label = format!("http://{}.com", "a".repeat(64));
        for url in [
            "",
            "api.openai.com",
            "ftp://h",
            "https:/h",
            "https://",
            "https:///x",
            "https://:443",
            "https://h:",
            "https://h:0",
            "https://h:65536",
            "https://h:+80",
            "https://h:8 0",
            "https://user@h",
            "https://u:p@h",
            "https://h?x",
            "https://h/?x",
            "https://h/#x",
            "https://h#x",
            "https://h/a b",
            "https://h/a\r\nb",
            "https://h/../x",
            "https://h/./x",
            "https://h//x",
            "https://h/é",
            "https://é",
            "https://a..b",
            "https://.a",
            "https://[::1",
            "https://::1",
            "https://[::1]x",
            "https://[h]",
            "https://h\\x",
            " https://h",
            &long_label,
        ] {
            assert_eq!(Target::parse(url), None, "{url:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_accepted_is_safe_in_a_head(url in "https?://[ -~\\r\\n\u{e9}]{1,40}") {
            if let Some(target) = Target::parse(&url) {
                let shown = format!("{}{}{}", target.host, target.prefix, target.authority);
                prop_assert!(shown.bytes().all(|byte| byte.is_ascii_graphic()), "{}", shown);
                prop_assert!(!target.authority.contains(['@', '/', '?', '#']));
                prop_assert!(target.prefix.is_empty() || target.prefix.starts_with('/'));
            }
        }
    }
}
