//! Who is asking: the holder of a key, or whoever the `X-User-ID` header names, or `X-User-ID*` (RFC 8187), for clients
//! that can send nothing but ASCII.

use super::refusal::Refusal;
use crate::access::{Access, is_user, keys_differ};
use crate::base::percent;
use crate::http::headers::{Headers, Known};
use crate::http::reply::Fault;
use std::borrow::Cow;
use std::sync::Arc;

/// The user of a request that names none.
pub const ANONYMOUS: &str = "anonymous";

/// Who is asking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Who<'b> {
    /// The user, by a name that is shared already or by one that is not.
    pub user: Result<Arc<str>, Cow<'b, str>>,
    /// The team that the request counts to.
    pub team: Option<Arc<str>>,
    /// The key that they presented.
    pub key_id: Option<i64>,
}

/// Who is asking. Where keys are asked for, the key's user, whatever `X-User-ID` says; why else nobody gets in.
pub fn who<'b>(headers: &Headers<'_, 'b>, access: &Access, now: u64) -> Result<Who<'b>, Refusal> {
    if keys_differ(headers) {
        let message = "the key in Sec-WebSocket-Protocol is not the one in another place";
        return Err(Refusal::new(Fault::BadRequest, message));
    }
    if !access.is_keys_only() {
        let name = user(headers).map_err(|message| Refusal::new(Fault::BadRequest, message))?;
        return Ok(Who { team: access.team_of(&name).cloned(), user: Err(name), key_id: None });
    }
    match access.key(headers, now) {
        Some(key) => {
            let team = key.team.as_ref().or_else(|| access.team_of(&key.user)).cloned();
            Ok(Who { user: Ok(Arc::clone(&key.user)), team, key_id: Some(key.id) })
        }
        None => {
            let message = "a valid client key is needed: ask whoever runs this proxy for one";
            Err(Refusal::new(Fault::InvalidClientKey, message))
        }
    }
}

/// The user's id: 1 to 128 bytes of UTF-8 without control characters. Anything else, or more than one of the two
/// headers, is refused with words for the client.
fn user<'b>(headers: &Headers<'_, 'b>) -> Result<Cow<'b, str>, &'static str> {
    let (mut plain, mut encoded) = (headers.values(Known::UserId), headers.values(Known::EncodedUserId));
    let id = match (plain.next(), encoded.next(), plain.next().or(encoded.next())) {
        (None, None, _) => return Ok(Cow::Borrowed(ANONYMOUS)),
        (Some(id), None, None) => Cow::Borrowed(std::str::from_utf8(id).map_err(|_| "X-User-ID is not UTF-8")?),
        (None, Some(id), None) => Cow::Owned(extended_value(id).ok_or("X-User-ID* must be UTF-8'' and %-escapes")?),
        _ => return Err("X-User-ID is repeated"),
    };
    if is_user(&id) { Ok(id) } else { Err("X-User-ID must have 1 to 128 bytes, and no control character") }
}

/// The text of an `ext-value` (RFC 8187 §3.2.1): in UTF-8, of a language or none; `None` for anything else.
fn extended_value(value: &[u8]) -> Option<String> {
    let mut parts = std::str::from_utf8(value).ok()?.splitn(3, '\'');
    let (charset, language, text) = (parts.next()?, parts.next()?, parts.next()?);
    let is_language = language.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    let may_stand = |byte: u8| byte.is_ascii_alphanumeric() || b"%!#$&+-.^_`|~".contains(&byte);
    let is_whole = charset.eq_ignore_ascii_case("UTF-8") && is_language && text.bytes().all(may_stand);
    percent::decode(text).filter(|_| is_whole)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::USER_BYTES_MAX;
    use crate::http::headers::Header;

    #[test]
    fn a_keys_user_cannot_be_overridden() {
        use crate::access::{Hash, Key};
        let mut access = Access::new(true, None, true);
        access.set_keys([Key { id: 7, user: "key's".into(), team: None, hash: Hash::of(b"oap_1"), expires_at: None }]);
        access.set_members([("key's".into(), "t".into()), ("other".into(), "u".into())].into());
        let authorization = Header { name: "authorization", value: b"Bearer oap_1" };
        let other = Header { name: "x-user-id", value: b"other" };
        let keys = Who { user: Ok("key's".into()), team: Some("t".into()), key_id: Some(7) };
        assert_eq!(who(&Headers::new(&[other, authorization]), &access, 0), Ok(keys.clone()));
        assert_eq!(who(&Headers::new(&[other]), &access, 0).unwrap_err().fault, Fault::InvalidClientKey);
        // A key may say the team, whatever its user belongs to.
        let team = Some("v".into());
        access.set_keys([Key { id: 7, user: "key's".into(), team, hash: Hash::of(b"oap_1"), expires_at: None }]);
        let keys = Who { team: Some("v".into()), ..keys };
        assert_eq!(who(&Headers::new(&[authorization]), &access, 0), Ok(keys));
        let mut open = Access::default();
        let nobodys = Who { user: Err("other".into()), team: None, key_id: None };
        assert_eq!(who(&Headers::new(&[other]), &open, 0), Ok(nobodys.clone()));
        open.set_members([("other".into(), "u".into())].into());
        assert_eq!(who(&Headers::new(&[other]), &open, 0), Ok(Who { team: Some("u".into()), ..nobodys }));
    }

    #[test]
    fn one_valid_name_or_none() {
        let header = |value: &'static [u8]| Header { name: "x-USER-id", value };
        assert_eq!(user(&Headers::new(&[])), Ok(ANONYMOUS.into()));
        assert_eq!(user(&Headers::new(&[header("太郎".as_bytes())])), Ok("太郎".into()));
        assert_eq!(user(&Headers::new(&[header(&[b'a'; USER_BYTES_MAX])])).map(|id| id.len()), Ok(USER_BYTES_MAX));
        for bad in [&b""[..], &[b'a'; USER_BYTES_MAX + 1], b"\xff", b"a\tb", "\u{85}".as_bytes()] {
            assert!(user(&Headers::new(&[header(bad)])).is_err(), "{bad:?}");
        }
        assert!(user(&Headers::new(&[header(b"a"), header(b"a")])).is_err());
    }

    #[test]
    fn a_name_may_be_encoded_and_is_then_the_only_one() {
        let header = |value: &'static [u8]| Header { name: "X-User-Id*", value };
        for (value, name) in [
            (&b"UTF-8''%E5%A4%AA%e9%83%8e"[..], "太郎"),
            (b"utf-8'ja'taro", "taro"),
            (b"UTF-8'en-GB'%27a%27%20b!#$&+-.^_`|~", "'a' b!#$&+-.^_`|~"),
        ] {
            assert_eq!(user(&Headers::new(&[header(value)])), Ok(name.into()));
        }
        for bad in [
            &b""[..],
            b"taro",
            b"UTF-8''",
            b"UTF-8'taro",
            b"ISO-8859-1''%E9",
            b"''taro",
            b"UTF-8''%",
            b"UTF-8''%e5%A4",
            b"UTF-8''a b",
            b"UTF-8''a'b",
            b"UTF-8''\"a\"",
            b"\"UTF-8''a\"",
            b"UTF-8''%00",
            b"UTF-8''%0d%0a",
            b"UTF-8'_'a",
            "UTF-8''太".as_bytes(),
        ] {
            assert!(user(&Headers::new(&[header(bad)])).is_err(), "{}", bad.escape_ascii());
        }
        let (plain, encoded) = (Header { name: "x-user-id", value: b"a" }, header(b"UTF-8''a"));
        for two in [[plain, encoded], [encoded, plain], [encoded, encoded]] {
            assert!(user(&Headers::new(&two)).is_err(), "{two:?}");
        }
    }
}
