//! The WebSockets that are open, by user: a request has its end, but a session would go on for ever, whatever becomes
//! of its user's budget or key.
//!
//! In: sessions as they open and end, until when their keys are valid. Out: whose sessions are to be looked at, and
//! when. Never: an exchange, or the decision that one must end.

use super::ExchangeKey;
use crate::base::clock::Now;
use std::collections::BTreeMap;
use std::sync::Arc;

/// All open sessions.
#[derive(Default)]
pub struct OpenSessions {
    by_user: BTreeMap<Arc<str>, Vec<ExchangeKey>>,
    /// When the first of their keys expires, nanoseconds since the Unix epoch, and the same on the monotonic clock, as
    /// far as could be told when it was noted. Too early where that session has ended meanwhile.
    first_expiry: Option<(u64, u64)>,
}

impl OpenSessions {
    /// A user's session has opened.
    pub fn add(&mut self, user: &Arc<str>, key: ExchangeKey) {
        self.by_user.entry(Arc::clone(user)).or_default().push(key);
    }

    /// It has ended.
    pub fn remove(&mut self, user: &str, key: ExchangeKey) {
        let Some(keys) = self.by_user.get_mut(user) else { return };
        keys.retain(|&other| other != key);
        if keys.is_empty() {
            self.by_user.remove(user);
        }
    }

    /// True where none is open.
    pub fn is_empty(&self) -> bool {
        self.by_user.is_empty()
    }

    /// A user's sessions.
    pub fn of(&self, user: &str) -> &[ExchangeKey] {
        self.by_user.get(user).map_or(&[], Vec::as_slice)
    }

    /// All sessions, which are looked at now: what was known of their keys is forgotten.
    pub fn look_at_all(&mut self) -> Vec<ExchangeKey> {
        self.first_expiry = None;
        self.by_user.values().flatten().copied().collect()
    }

    /// A session's key is valid until then, nanoseconds since the Unix epoch.
    pub fn note_expiry(&mut self, now: Now, unix: u64) {
        if unix < u64::MAX && self.first_expiry.is_none_or(|(first, _)| unix < first) {
            self.first_expiry = Some((unix, now.mono.saturating_add(unix.saturating_sub(now.unix))));
        }
    }

    /// When to look at all of them at the latest, monotonic nanoseconds.
    pub fn due(&self) -> Option<u64> {
        self.first_expiry.map(|(_, mono)| mono)
    }

    /// True where it is time: a key has expired, by either clock.
    pub fn are_due(&self, now: Now) -> bool {
        self.first_expiry.is_some_and(|(unix, mono)| unix <= now.unix || mono <= now.mono)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_user_has_their_sessions_and_the_first_key_to_expire_is_waited_for() {
        let (mut sessions, user) = (OpenSessions::default(), Arc::from("u"));
        let keys = [1, 2, 3].map(|index| ExchangeKey::new(index, 0));
        sessions.add(&user, keys[0]);
        sessions.add(&user, keys[1]);
        sessions.add(&"v".into(), keys[2]);
        sessions.remove("u", keys[0]);
        sessions.remove("w", keys[0]);
        assert_eq!((sessions.of("u"), sessions.of("v"), sessions.of("w")), (&keys[1..2], &keys[2..], &[][..]));
        let at = |mono, unix| Now { mono, unix };
        for expiry in [u64::MAX, 1_500, 1_200, 1_300] {
            sessions.note_expiry(at(10, 1_000), expiry);
        }
        assert_eq!(sessions.due(), Some(210));
        assert!(!sessions.are_due(at(209, 1_199)));
        assert!(sessions.are_due(at(20, 1_200)), "the clock was set forward");
        assert!(sessions.are_due(at(210, 500)), "it was set back: they are looked at once more");
        assert_eq!(sessions.look_at_all(), [keys[1], keys[2]]);
        assert_eq!(sessions.due(), None);
        sessions.remove("u", keys[1]);
        sessions.remove("v", keys[2]);
        assert!(sessions.by_user.is_empty());
    }
}
