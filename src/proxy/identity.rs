//! Who is asking: the `X-User-ID` header.

use crate::http::headers::{Header, Known, known};

/// The user of a request that names none.
pub const ANONYMOUS: &str = "anonymous";
/// Longest user id, bytes.
pub const USER_BYTES_MAX: usize = 128;

/// The user's id: 1 to 128 bytes of UTF-8 without control characters. Anything else, or the header twice, is refused
/// with words for the client.
pub fn user<'b>(headers: &[Header<'b>]) -> Result<&'b str, &'static str> {
    let mut ids = headers.iter().filter(|header| known(header.name) == Known::UserId);
    let Some(id) = ids.next() else { return Ok(ANONYMOUS) };
    if ids.next().is_some() {
        return Err("X-User-ID is repeated");
    }
    let id = std::str::from_utf8(id.value).map_err(|_| "X-User-ID is not UTF-8")?;
    if id.is_empty() || id.len() > USER_BYTES_MAX {
        return Err("X-User-ID must have 1 to 128 bytes");
    }
    if id.chars().any(char::is_control) {
        return Err("X-User-ID has a control character");
    }
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_valid_name_or_none() {
        let header = |value: &'static [u8]| Header { name: "x-USER-id", value };
        assert_eq!(user(&[]), Ok(ANONYMOUS));
        assert_eq!(user(&[header("太郎".as_bytes())]), Ok("太郎"));
        assert_eq!(user(&[header(&[b'a'; USER_BYTES_MAX])]).map(str::len), Ok(USER_BYTES_MAX));
        for bad in [&b""[..], &[b'a'; USER_BYTES_MAX + 1], b"\xff", b"a\tb", "\u{85}".as_bytes()] {
            assert!(user(&[header(bad)]).is_err(), "{bad:?}");
        }
        assert!(user(&[header(b"a"), header(b"a")]).is_err());
    }
}
