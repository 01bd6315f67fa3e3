//! Values as operators write them: durations, sizes, switches, addresses, URLs. Text in, a value or `None` out.

use crate::base::digits::whole_number;
use http::Uri;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// The longest duration that can be configured.
const DURATION_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// `500ms`, `10s`, `2m`, `1h`, or `0`: a number without a unit could be either of two things. At most a day.
pub fn duration(text: &str) -> Option<Duration> {
    let (digits, unit) = split_unit(text);
    let number: u64 = number(digits)?;
    let millis = match unit {
        "ms" => number,
        "s" => number.checked_mul(1_000)?,
        "m" => number.checked_mul(60_000)?,
        "h" => number.checked_mul(3_600_000)?,
        "" if number == 0 => 0,
        _ => return None,
    };
    Some(Duration::from_millis(millis)).filter(|&duration| duration <= DURATION_MAX)
}

/// A number of bytes, or of `KiB`, `MiB` or `GiB`.
pub fn size(text: &str) -> Option<usize> {
    let (digits, unit) = split_unit(text);
    let factor = match unit.trim_start() {
        "" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number::<usize>(digits)?.checked_mul(factor)
}

/// Decimal digits and nothing else.
pub fn number<T: TryFrom<u64>>(text: &str) -> Option<T> {
    whole_number(text.as_bytes())?.try_into().ok()
}

/// An IP address to listen on (IPv6 with or without brackets), or `localhost`.
pub fn listen_host(text: &str) -> Option<IpAddr> {
    if text.eq_ignore_ascii_case("localhost") {
        return Some(Ipv4Addr::LOCALHOST.into());
    }
    match text.strip_prefix('[') {
        Some(bracketed) => bracketed.strip_suffix(']')?.parse::<Ipv6Addr>().ok().map(IpAddr::from),
        None => text.parse().ok(),
    }
}

/// An absolute URL of `http` or `https`. What [`Uri`] lets through is refused where it could send a key somewhere
/// unexpected: a user, a port that is none, a fragment, characters that RFC 3986 has no place for.
pub fn http_url(text: &str) -> Option<Uri> {
    let uri: Uri = text.parse().ok()?;
    let authority = uri.authority()?;
    let host = authority.host();
    let port = authority.as_str().strip_prefix(host)?;
    let is_port = |port: &str| number::<u16>(port).is_some_and(|port| port > 0);
    let is_http = matches!(uri.scheme_str()?, "http" | "https");
    let is_clean = text.bytes().all(|byte| byte.is_ascii_graphic() && !b"#\\\"<>^`{|}".contains(&byte));
    let is_whole =
        is_http && is_clean && is_host(host) && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port));
    is_whole.then_some(uri)
}

/// A DNS name or an IPv4 address (letters, digits, `-`, and `_` as in private names, in labels of at most 63), or an
/// IPv6 address in brackets.
pub fn is_host(host: &str) -> bool {
    if let Some(address) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        return address.parse::<Ipv6Addr>().is_ok();
    }
    let name = host.strip_suffix('.').unwrap_or(host);
    let is_label_byte = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let is_label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(is_label_byte);
    name.len() <= 253 && name.split('.').all(is_label)
}

fn split_unit(text: &str) -> (&str, &str) {
    text.split_at(text.find(|digit: char| !digit.is_ascii_digit()).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, millis) in [
            ("0", 0),
            ("0s", 0),
            ("500ms", 500),
            ("10s", 10_000),
            ("2m", 120_000),
            ("24h", 86_400_000),
            ("007s", 7_000),
        ] {
            assert_eq!(duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in
            ["", "10", "s", "-1s", "1.5s", "10 s", "10S", "1d", "1sm", "25h", "86400001ms", "99999999999999999999s"]
        {
            assert_eq!(duration(text), None, "{text}");
        }
        assert_eq!(duration(&format!("{}h", u64::MAX)), None);
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [("0", 0), ("1234", 1234), ("64MiB", 64 << 20), ("1 KiB", 1024), ("2GiB", 2 << 30)] {
            assert_eq!(size(text), Some(bytes), "{text}");
        }
        for text in
            ["", "MiB", "1MB", "1mib", "1k", "-1", "1.5MiB", "1 MiB ", "99999999999999999999", "9999999999999GiB"]
        {
            assert_eq!(size(text), None, "{text}");
        }
    }

    #[test]
    fn addresses() {
        assert_eq!(listen_host("0.0.0.0"), Some(Ipv4Addr::UNSPECIFIED.into()));
        assert_eq!(listen_host("Localhost"), Some(Ipv4Addr::LOCALHOST.into()));
        assert_eq!(listen_host("::1"), Some(Ipv6Addr::LOCALHOST.into()));
        assert_eq!(listen_host("[::]"), Some(Ipv6Addr::UNSPECIFIED.into()));
        for text in ["", "example.com", "127.0.0.1:80", "[127.0.0.1]", "[::1", "*"] {
            assert_eq!(listen_host(text), None, "{text}");
        }
    }

    #[test]
    fn numbers() {
        let long = number::<u64>;
        assert_eq!((long("10"), long("+1"), long("-1"), long(" 1"), long("")), (Some(10), None, None, None, None));
        assert_eq!(long("18446744073709551616"), None);
        assert_eq!((number("65535"), number::<u16>("65536")), (Some(65_535u16), None));
    }
}
