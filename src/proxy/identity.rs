//! Who is asking: the holder of a key, or whoever the `X-User-ID` header names.

use super::refusal::Refusal;
use crate::access::{Access, is_user};
use crate::http::headers::{Headers, Known};
use crate::http::reply::Fault;
use std::sync::Arc;

/// The user of a request that names none.
pub const ANONYMOUS: &str = "anonymous";

/// A user, by a name that is shared already or by one that is not, and the key that they presented.
pub type Who<'b> = (Result<Arc<str>, &'b str>, Option<i64>);

/// Who is asking. Where keys are asked for, the key's user, whatever `X-User-ID` says; why else nobody gets in.
pub fn who<'b>(headers: &Headers<'_, 'b>, access: &Access, now: u64) -> Result<Who<'b>, Refusal> {
    if !access.is_keys_only() {
        return user(headers).map(|name| (Err(name), None)).map_err(|message| Refusal::new(Fault::BadRequest, message));
    }
    match access.key(headers, now) {
        Some(key) => Ok((Ok(Arc::clone(&key.user)), Some(key.id))),
        None => {
            let message = "a valid client key is needed: ask whoever runs this proxy for one";
            Err(Refusal::new(Fault::InvalidClientKey, message))
        }
    }
}

/// The user's id: 1 to 128 bytes of UTF-8 without control characters. Anything else, or the header twice, is refused
/// with words for the client.
fn user<'b>(headers: &Headers<'_, 'b>) -> Result<&'b str, &'static str> {
    let mut ids = headers.values(Known::UserId);
    let Some(id) = ids.next() else { return Ok(ANONYMOUS) };
    if ids.next().is_some() {
        return Err("X-User-ID is repeated");
    }
    let id = std::str::from_utf8(id).map_err(|_| "X-User-ID is not UTF-8")?;
    if is_user(id) { Ok(id) } else { Err("X-User-ID must have 1 to 128 bytes, and no control character") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::USER_BYTES_MAX;
    use crate::http::headers::Header;

    #[test]
    fn a_keys_user_cannot_be_overridden() {
        use crate::access::{Hash, Key};
        let mut access = Access::new(true, None);
        access.set_keys([Key { id: 7, user: "key's".into(), hash: Hash::of(b"oap_1"), expires_at: None }]);
        let authorization = Header { name: "authorization", value: b"Bearer oap_1" };
        let other = Header { name: "x-user-id", value: b"other" };
        assert_eq!(who(&Headers::new(&[other, authorization]), &access, 0), Ok((Ok("key's".into()), Some(7))));
        assert_eq!(who(&Headers::new(&[other]), &access, 0).unwrap_err().fault, Fault::InvalidClientKey);
        assert_eq!(who(&Headers::new(&[other]), &Access::default(), 0), Ok((Err("other"), None)));
    }

    #[test]
    fn one_valid_name_or_none() {
        let header = |value: &'static [u8]| Header { name: "x-USER-id", value };
        assert_eq!(user(&Headers::new(&[])), Ok(ANONYMOUS));
        assert_eq!(user(&Headers::new(&[header("太郎".as_bytes())])), Ok("太郎"));
        assert_eq!(user(&Headers::new(&[header(&[b'a'; USER_BYTES_MAX])])).map(str::len), Ok(USER_BYTES_MAX));
        for bad in [&b""[..], &[b'a'; USER_BYTES_MAX + 1], b"\xff", b"a\tb", "\u{85}".as_bytes()] {
            assert!(user(&Headers::new(&[header(bad)])).is_err(), "{bad:?}");
        }
        assert!(user(&Headers::new(&[header(b"a"), header(b"a")])).is_err());
    }
}
