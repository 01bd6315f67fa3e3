//! `FORWARD_HEADERS`, `TRUSTED_PROXIES`: what servers in front of the proxy add, and which of them is believed.

use super::source::Source;
use crate::base::list::list;
use crate::base::network::Network;
use crate::http::forwarded_for::TrustedProxies;
use crate::http::front_headers::ForwardedHeaders;
use crate::http::headers::{Known, known};

/// What of their headers is sent on to the target.
pub(super) fn forward_headers(source: &mut Source<'_>) -> ForwardedHeaders {
    let expected = "names of headers that servers in front add (cookie, traceparent), parted by commas; one may end in \
                    * (x-b3-*), and none can be a header that has a meaning of its own here";
    let listed = source.optional("FORWARD_HEADERS", expected, |text| list(text, header));
    ForwardedHeaders(listed.unwrap_or_default())
}

/// A name, or the beginning of names before a star; not of those that the proxy itself acts on.
fn header(text: &str) -> Option<Box<str>> {
    let name = text.strip_suffix('*').unwrap_or(text);
    let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.!#$%&'+^`|~".contains(&byte));
    let is_of_front = matches!(known(name), Known::Other | Known::Front | Known::ForwardedFor);
    (is_name && is_of_front && !text.is_empty()).then(|| text.to_ascii_lowercase().into())
}

/// Whose `X-Forwarded-For` is believed.
pub(super) fn trusted_proxies(source: &mut Source<'_>) -> TrustedProxies {
    let expected = "IP addresses or networks of servers in front (10.0.0.0/8, 2001:db8::1), parted by commas";
    let networks = source.optional("TRUSTED_PROXIES", expected, |text| list(text, Network::parse));
    TrustedProxies(networks.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_headers_that_mean_nothing_here() {
        for (text, name) in [
            ("Cookie", Some("cookie")),
            ("x-b3-*", Some("x-b3-*")),
            ("X-Forwarded-For", Some("x-forwarded-for")),
            ("*", Some("*")),
            ("", None),
            ("a b", None),
            ("x-*-y", None),
            ("host", None),
            ("X-User-ID", None),
            ("content_length", None),
            ("x:y", None),
        ] {
            assert_eq!(header(text).as_deref(), name, "{text}");
        }
    }
}
