//! `ALLOWED_HOSTS`, `ALLOWED_ORIGINS`, `ALLOWED_PATHS`: under which names the port is served, to which pages, and what
//! of the API.

use super::source::Source;
use crate::base::list::list;
use crate::door::{Door, host_name};
use crate::policy::AllowedPaths;
use http::Uri;
use std::sync::Arc;

/// The rules of a port that `is_loopback`.
pub(super) fn read(source: &mut Source<'_>, is_loopback: bool) -> Door {
    let hosts = source.optional("ALLOWED_HOSTS", "host names or addresses, parted by commas", |text| list(text, host));
    let expected = "origins as browsers write them (https://app.example.com), parted by commas";
    let origins = source.optional("ALLOWED_ORIGINS", expected, |text| list(text, origin));
    Door::new(is_loopback, hosts.unwrap_or_default(), origins.unwrap_or_default())
}

/// What may be relayed: by default all of it, and to holders of keys what generates.
pub(super) fn paths(source: &mut Source<'_>, keys_only: bool) -> AllowedPaths {
    let default = if keys_only { AllowedPaths::Inference } else { AllowedPaths::All };
    source.value("ALLOWED_PATHS", default, AllowedPaths::EXPECTED, AllowedPaths::parse)
}

fn host(text: &str) -> Option<Box<str>> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
    // An address of version 6 has colons of its own.
    let name = if text.parse::<std::net::Ipv6Addr>().is_ok() { text } else { host_name(text) };
    (!name.is_empty() && text.bytes().all(is_plain)).then(|| name.to_ascii_lowercase().into())
}

/// A scheme, a host, perhaps a port, and nothing behind; of programs that are browsers inside, any scheme.
fn origin(text: &str) -> Option<Arc<str>> {
    let (scheme, rest) = text.split_once("://")?;
    let uri: Uri = format!("http://{rest}").parse().ok()?;
    let is_whole = uri.authority().is_some_and(|authority| authority.as_str() == rest && !rest.contains('@'));
    let is_scheme = scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    (is_whole && is_scheme && !scheme.is_empty()).then(|| text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_lose_their_port_and_origins_keep_it() {
        for (text, name) in [
            ("Box.lan:8080", Some("box.lan")),
            ("192.0.2.7", Some("192.0.2.7")),
            ("[2001:db8::1]:8080", Some("2001:db8::1")),
            ("2001:db8::1", Some("2001:db8::1")),
            ("", None),
            ("http://box", None),
            ("a b", None),
        ] {
            assert_eq!(host(text).as_deref(), name, "{text}");
        }
        for good in ["https://app.example.com", "http://localhost:3000", "app://obsidian.md", "tauri://localhost"] {
            assert_eq!(origin(good).as_deref(), Some(good));
        }
        for bad in ["*", "null", "app.example.com", "https://", "https://a/b", "https://a/", "https://u@a", "://a", ""]
        {
            assert_eq!(origin(bad), None, "{bad}");
        }
        assert_eq!(list("a, b,c", host).map(|list| list.len()), Some(3));
        assert_eq!(list("a,,b", host), None);
    }
}
