//! Who may come in: client keys, and the administrator's token. Bytes and `now` in, a verdict out.
//!
//! Secrets are kept as SHA-256 hashes only. A key is 256 random bits, so a plain hash is as good as a slow one: there
//! is nothing to guess. What is presented is hashed whatever it looks like, found by a part of its hash, and compared
//! in constant time, so that the time of an answer tells nothing of how near a guess was.

use crate::base::civil::{parse_date, parse_rfc3339};
use crate::base::clock::{DAY, HOUR};
use crate::base::digits::whole_number;
use crate::http::headers::{Headers, Known};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{SHA256, digest};
use ring::hmac;
use std::collections::BTreeMap;
use std::fmt;
use std::hint::black_box;
use std::sync::Arc;

/// What stands before the key in a WebSocket's list of subprotocols: browsers can set no header there.
const SUBPROTOCOL: &[u8] = b"openai-insecure-api-key.";

/// What every key that we make begins with, so that scanners for leaked secrets can know one.
pub const KEY_PREFIX: &str = "oap_";

/// A SHA-256 hash of a secret.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Hash([u8; 32]);

impl Hash {
    /// The hash of a secret as its holder presents it.
    pub fn of(secret: &[u8]) -> Self {
        Self::from_slice(digest(&SHA256, secret).as_ref()).expect("SHA-256 has 32 bytes")
    }

    /// A hash as it was stored; `None` for another number of bytes.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// The bytes to store.
    pub fn as_slice(&self) -> &[u8] {
        &self.0
    }

    /// Compares all bytes, wherever the first difference is.
    fn matches(&self, other: &Self) -> bool {
        black_box(self.0.iter().zip(&other.0).fold(0, |difference, (a, b)| black_box(difference | (a ^ b)))) == 0
    }

    fn head(&self) -> u64 {
        self.0[..8].iter().fold(0, |head, &byte| head << 8 | u64::from(byte))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[hash]")
    }
}

/// Longest user id, bytes.
pub const USER_BYTES_MAX: usize = 128;

/// True for what can be a user's id: UTF-8 without control characters, not too long.
pub fn is_user(id: &str) -> bool {
    (1..=USER_BYTES_MAX).contains(&id.len()) && !id.chars().any(char::is_control)
}

/// When a key expires: a date, an instant (RFC 3339), or hours or days from `now` on; nanoseconds since the Unix epoch.
///
/// # Errors
/// What was expected; or that it is not in the future.
pub fn expiry(text: &str, now: u64) -> Result<u64, &'static str> {
    let ahead = |digits: &str, unit: u64| now.checked_add(whole_number(digits.as_bytes())?.checked_mul(unit)?);
    let at = match text.split_at_checked(text.len().wrapping_sub(1)) {
        Some((digits, "h")) => ahead(digits, HOUR),
        Some((digits, "d")) => ahead(digits, DAY),
        _ => parse_date(text).or_else(|| parse_rfc3339(text)),
    };
    match at {
        Some(at) if at > now && i64::try_from(at).is_ok() => Ok(at),
        Some(_) => Err("it is not in the future"),
        None => Err("expected 2027-01-31, 2027-01-31T12:00:00Z, 12h or 90d"),
    }
}

/// A client's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    pub id: i64,
    pub user: Arc<str>,
    /// The team that its requests count to, whatever team the user belongs to.
    pub team: Option<Arc<str>>,
    pub hash: Hash,
    /// From then on it opens nothing; nanoseconds since the Unix epoch.
    pub expires_at: Option<u64>,
}

/// Everything that decides who gets in.
#[derive(Debug, Default)]
pub struct Access {
    /// Only holders of keys may relay.
    keys_only: bool,
    admin: Option<Hash>,
    /// Without an administrator's token the local endpoints are open to holders of keys only.
    is_closed: bool,
    keys: BTreeMap<u64, Key>,
    /// Until when each key is valid, by its id.
    valid_until: BTreeMap<i64, u64>,
    /// Users who belong to a team.
    members: BTreeMap<Box<str>, Arc<str>>,
}

/// What a request to a local endpoint may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader<'a> {
    Everything,
    /// The usage of one user.
    Own(&'a Arc<str>),
    Nothing,
}

/// The tokens that forms may hold: today's, and yesterday's.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct FormTokens([Option<String>; 2]);

impl FormTokens {
    /// The one for a form that is made now.
    pub fn newest(&self) -> &str {
        self.0[0].as_deref().unwrap_or_default()
    }

    /// True for one of them, in a time that does not tell how near it was.
    pub fn accept(&self, given: &str) -> bool {
        let given = Hash::of(given.as_bytes());
        self.0.iter().flatten().any(|token| Hash::of(token.as_bytes()).matches(&given))
    }
}

impl fmt::Debug for FormTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[tokens]")
    }
}

impl Access {
    /// `admin` opens the local endpoints. Without it they are open to everybody where `is_open` says so or there are no
    /// keys, and else to holders of keys.
    pub fn new(keys_only: bool, admin: Option<Hash>, is_open: bool) -> Self {
        Self { keys_only, admin, is_closed: keys_only && !is_open, ..Self::default() }
    }

    /// True for a request that presents the administrator's token: it is for nobody else.
    pub fn opens_admin(&self, headers: &Headers<'_, '_>) -> bool {
        self.admin.as_ref().is_some_and(|admin| is_admin(admin, headers))
    }

    /// What a form of ours must hold, so that no other page can send it in the administrator's name: it hangs on the
    /// token and on the day. None without an administrator.
    pub fn form_tokens(&self, now: u64) -> FormTokens {
        let Some(admin) = &self.admin else { return FormTokens::default() };
        let key = hmac::Key::new(hmac::HMAC_SHA256, admin.as_slice());
        let of_day = |day: u64| {
            let tag = hmac::sign(&key, format!("form of day {day}").as_bytes());
            Some(STANDARD.encode(tag.as_ref()))
        };
        FormTokens([of_day(now / DAY), (now / DAY).checked_sub(1).and_then(of_day)])
    }

    /// Another token of the administrator's.
    pub fn set_admin(&mut self, admin: Option<Hash>) {
        self.admin = admin;
    }

    /// The keys that are valid now, in place of all that were.
    pub fn set_keys(&mut self, keys: impl IntoIterator<Item = Key>) {
        self.keys = keys.into_iter().map(|key| (key.hash.head(), key)).collect();
        self.valid_until = self.keys.values().map(|key| (key.id, key.expires_at.unwrap_or(u64::MAX))).collect();
    }

    /// Who belongs to which team, in place of all that were.
    pub fn set_members(&mut self, members: BTreeMap<Box<str>, Arc<str>>) {
        self.members = members;
    }

    /// The team that a user belongs to.
    pub fn team_of(&self, user: &str) -> Option<&Arc<str>> {
        self.members.get(user)
    }

    /// From when on the key with this id opens nothing, nanoseconds since the Unix epoch: 0 for one that is revoked,
    /// `u64::MAX` for one that does not expire.
    pub fn valid_until(&self, key_id: i64) -> u64 {
        self.valid_until.get(&key_id).copied().unwrap_or(0)
    }

    /// True where only holders of keys may relay: what a client presents is then for us, and goes nowhere else.
    pub fn is_keys_only(&self) -> bool {
        self.keys_only
    }

    /// The key that a request presents: as a Bearer token, in `x-api-key` or `api-key`, or as a subprotocol. `now` in
    /// nanoseconds since the Unix epoch.
    pub fn key(&self, headers: &Headers<'_, '_>, now: u64) -> Option<&Key> {
        let presented = headers.iter().find_map(|(class, header)| match class {
            Known::Subprotocols => subprotocols(header.value).find_map(subprotocol_key),
            _ => key_in_header(class, header.value),
        });
        // Hashed also where nothing is presented: the answer takes the same time.
        let hash = Hash::of(presented.unwrap_or_default());
        let key = self.keys.get(&hash.head()).filter(|key| key.hash.matches(&hash))?;
        key.expires_at.is_none_or(|expires_at| now < expires_at).then_some(key)
    }

    /// What a request to a local endpoint may see.
    pub fn reader(&self, headers: &Headers<'_, '_>, now: u64) -> Reader<'_> {
        let key = self.key(headers, now).filter(|_| self.keys_only);
        match (&self.admin, key) {
            (Some(admin), _) if is_admin(admin, headers) => Reader::Everything,
            (_, Some(key)) => Reader::Own(&key.user),
            (Some(_), None) => Reader::Nothing,
            (None, None) if self.is_closed => Reader::Nothing,
            (None, None) => Reader::Everything,
        }
    }
}

/// The subprotocols that a line of them offers.
pub fn subprotocols(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|&byte| byte == b',').map(<[u8]>::trim_ascii).filter(|offered| !offered.is_empty())
}

/// The key that a subprotocol is, in any case of its name.
pub fn subprotocol_key(offered: &[u8]) -> Option<&[u8]> {
    let (name, key) = offered.split_at_checked(SUBPROTOCOL.len())?;
    name.eq_ignore_ascii_case(SUBPROTOCOL).then_some(key)
}

/// True where a key is presented as a subprotocol, and another one there or in a header: whose the request is depends
/// on who reads it.
pub fn keys_differ(headers: &Headers<'_, '_>) -> bool {
    let mut offered = headers.values(Known::Subprotocols).flat_map(subprotocols).filter_map(subprotocol_key);
    let Some(key) = offered.next() else { return false };
    let mut in_headers = headers.iter().filter_map(|(class, header)| key_in_header(class, header.value));
    offered.any(|other| other != key) || in_headers.any(|other| other != key)
}

/// The key in a header of this class.
fn key_in_header(class: Known, value: &[u8]) -> Option<&[u8]> {
    match class {
        Known::Authorization => credentials(value, b"bearer"),
        Known::ApiKey => Some(value),
        _ => None,
    }
}

/// True where the token is presented as a Bearer token, or as the password of HTTP Basic under any name (RFC 7617).
fn is_admin(admin: &Hash, headers: &Headers<'_, '_>) -> bool {
    headers.values(Known::Authorization).any(|value| {
        if let Some(token) = credentials(value, b"bearer") {
            return admin.matches(&Hash::of(token));
        }
        let decoded = credentials(value, b"basic").and_then(|encoded| STANDARD.decode(encoded).ok());
        let Some(pair) = decoded else { return false };
        let password = pair.iter().position(|&byte| byte == b':').map(|colon| &pair[colon + 1..]);
        password.is_some_and(|password| admin.matches(&Hash::of(password)))
    })
}

/// What follows the scheme, which is spelt in any case (RFC 9110 §11.1).
fn credentials<'b>(value: &'b [u8], scheme: &[u8]) -> Option<&'b [u8]> {
    let (given, rest) = value.split_at_checked(scheme.len())?;
    let rest = rest.strip_prefix(b" ").filter(|_| given.eq_ignore_ascii_case(scheme))?;
    Some(rest.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::headers::Header;

    fn header<'b>(name: &'static str, value: &'b str) -> Header<'b> {
        Header { name, value: value.as_bytes() }
    }

    fn access() -> Access {
        let mut access = Access::new(true, Some(Hash::of(b"admin")), true);
        let key = |id, secret: &str, expires_at| Key {
            team: None,
            id,
            user: format!("user-{id}").into(),
            hash: Hash::of(secret.as_bytes()),
            expires_at,
        };
        access.set_keys([key(1, "oap_one", None), key(2, "oap_two", Some(100))]);
        access
    }

    #[test]
    fn a_key_is_presented_in_any_of_four_places() {
        let access = access();
        let id = |name, value| access.key(&Headers::new(&[header(name, value)]), 99).map(|key| key.id);
        assert_eq!(id("Authorization", "Bearer oap_one"), Some(1));
        assert_eq!(id("authorization", "bearer   oap_two "), Some(2));
        assert_eq!(id("x-api-key", "oap_one"), Some(1));
        assert_eq!(id("Api-Key", "oap_one"), Some(1));
        assert_eq!(id("Sec-WebSocket-Protocol", "realtime, OpenAI-insecure-api-key.oap_one ,x"), Some(1));
        for (name, value) in [
            ("authorization", "Bearer oap_on"),
            ("authorization", "Bearer oap_one2"),
            ("authorization", "Beareroap_one"),
            ("authorization", "Basic oap_one"),
            ("authorization", "oap_one"),
            ("authorization", ""),
            ("x-key", "oap_one"),
            ("sec-websocket-protocol", "realtime, oap_one"),
            ("sec-websocket-protocol", "openai-insecure-api-key., openai-insecure-api-key.oap_one"),
        ] {
            assert_eq!(id(name, value), None, "{name}: {value}");
        }
        assert_eq!([1, 2, 3].map(|id| access.valid_until(id)), [u64::MAX, 100, 0]);
        assert_eq!(access.key(&Headers::new(&[]), 0), None);
        assert!(access.key(&Headers::new(&[header("api-key", "oap_two")]), 100).is_none(), "it has expired");
    }

    #[test]
    fn two_keys_of_which_one_is_a_subprotocol_differ_or_not() {
        let one = header("sec-websocket-protocol", "realtime,openai-insecure-api-key.a");
        let bearer = |value| header("authorization", value);
        for (headers, differ) in [
            (&[one][..], false),
            (&[bearer("Bearer b"), bearer("Bearer c")], false),
            (&[one, bearer("Bearer a")], false),
            (&[one, bearer("Basic b")], false),
            (&[one, bearer("Bearer a"), header("api-key", "b")], true),
            (&[bearer("bearer b"), one], true),
            (&[one, header("Sec-WebSocket-Protocol", "openai-insecure-api-key.b")], true),
        ] {
            assert_eq!(keys_differ(&Headers::new(headers)), differ, "{headers:?}");
        }
    }

    #[test]
    fn the_administrator_sees_everything_and_a_key_its_own() {
        let access = access();
        let own = Arc::from("user-1");
        let reader = |value: &str| match access.reader(&Headers::new(&[header("authorization", value)]), 0) {
            Reader::Own(user) => {
                assert_eq!(*user, own);
                "own"
            }
            Reader::Everything => "everything",
            Reader::Nothing => "nothing",
        };
        assert_eq!(reader("Bearer admin"), "everything");
        assert_eq!(reader(&format!("Basic {}", STANDARD.encode("any:admin"))), "everything");
        assert_eq!(reader("Bearer oap_one"), "own");
        for wrong in ["Bearer admi", "Basic admin", "Basic !", "", "Bearer "] {
            assert_eq!(reader(wrong), "nothing", "{wrong}");
        }
        assert_eq!(reader(&format!("Basic {}", STANDARD.encode("admin"))), "nothing");
        assert_eq!(access.reader(&Headers::new(&[]), 0), Reader::Nothing);
        assert_eq!(Access::new(true, None, true).reader(&Headers::new(&[]), 0), Reader::Everything);
        assert_eq!(Access::new(false, None, false).reader(&Headers::new(&[]), 0), Reader::Everything);
        assert_eq!(Access::new(true, None, false).reader(&Headers::new(&[]), 0), Reader::Nothing);
    }

    #[test]
    fn a_hash_says_nothing_in_print() {
        let print = format!("{:?}", access());
        assert!(print.contains("[hash]") && !print.contains("oap_"), "{print}");
        assert_eq!(Hash::from_slice(&[0; 31]), None);
        assert_eq!(Hash::from_slice(Hash::of(b"x").as_slice()), Some(Hash::of(b"x")));
    }
}
