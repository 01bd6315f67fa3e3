//! Wrong keys, by the address that they come from: who guesses waits for the answers.
//!
//! A key is 256 random bits, so a guess is hopeless; but whoever tries is slowed down, and so is who tries the
//! administrator's token, which a person may have chosen. A right key never waits: one address may be a whole office.
//!
//! In: addresses that presented a wrong key. Out: whether its answer waits. Never: a key, or more than
//! [`ADDRESSES_MAX`] addresses.

use super::addresses::network;
use crate::access::{subprotocol_key, subprotocols};
use crate::base::table::Table;
use crate::http::headers::{Headers, Known};
use crate::limit::bucket::{Bucket, Rate};
use std::collections::VecDeque;
use std::net::IpAddr;

/// Wrong keys that are answered at once.
const AT_ONCE: Rate = Rate { per_minute: 10, burst: 10 };
/// Addresses that are remembered; the one that came first is forgotten for the next.
const ADDRESSES_MAX: usize = 10_000;

/// Who has presented wrong keys lately.
#[derive(Default)]
pub struct KeyGuesses {
    buckets: Table<IpAddr, Bucket>,
    /// Each of them once, in the order in which they came.
    order: VecDeque<IpAddr>,
}

impl KeyGuesses {
    /// A wrong key from this address, at `now` (monotonic nanoseconds); true where the answer waits.
    pub fn wrong(&mut self, address: IpAddr, now: u64) -> bool {
        let network = network(address);
        if self.buckets.get(&network).is_none() {
            if self.order.len() >= ADDRESSES_MAX
                && let Some(oldest) = self.order.pop_front()
            {
                self.buckets.remove(&oldest);
            }
            self.order.push_back(network);
            self.buckets.insert(network, Bucket::full(AT_ONCE, now));
        }
        let Some(bucket) = self.buckets.get_mut(&network) else { return false };
        let waits = bucket.has(AT_ONCE, now, 1).is_err();
        if !waits {
            bucket.take(AT_ONCE, now, 1);
        }
        waits
    }
}

/// True where a key, or the administrator's token, is presented in any of the places for it.
pub fn presents_key(headers: &Headers<'_, '_>) -> bool {
    headers.iter().any(|(class, header)| match class {
        Known::Authorization | Known::ApiKey => true,
        Known::Subprotocols => subprotocols(header.value).any(|offered| subprotocol_key(offered).is_some()),
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::SECOND;

    #[test]
    fn after_ten_wrong_keys_in_a_minute_answers_wait() {
        let mut guesses = KeyGuesses::default();
        let [one, other] = [[10, 0, 0, 1], [10, 0, 0, 2]].map(IpAddr::from);
        assert!((0..10).all(|n| !guesses.wrong(one, n)), "people mistype");
        assert!((10..100).all(|n| guesses.wrong(one, n)));
        assert!(!guesses.wrong(other, 100), "others do not wait for that");
        assert!(!guesses.wrong(one, 60 * SECOND), "nor does who has stopped");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut guesses = KeyGuesses::default();
        for n in 0..ADDRESSES_MAX as u32 + 100 {
            guesses.wrong(IpAddr::from(n.to_be_bytes()), 0);
        }
        assert_eq!((guesses.order.len(), guesses.buckets.len()), (ADDRESSES_MAX, ADDRESSES_MAX));
    }
}
