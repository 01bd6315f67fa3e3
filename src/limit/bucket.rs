//! A token bucket without rounding: the level is kept in parts of a token so small that a nanosecond's refill is whole.

use crate::base::clock::SECOND;

/// Parts of one token: a rate in tokens a minute is then the same number in parts a nanosecond.
const PARTS: u128 = 60 * SECOND as u128;

/// The terms of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Tokens a minute, at least 1.
    pub per_minute: u64,
    /// Tokens that a full bucket holds, at least 1.
    pub burst: u64,
}

/// A bucket's level at an instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    parts: u128,
    /// When `parts` was true, monotonic nanoseconds.
    at: u64,
}

impl Bucket {
    /// A full bucket.
    pub fn full(rate: Rate, now: u64) -> Self {
        Self { parts: u128::from(rate.burst) * PARTS, at: now }
    }

    /// Takes one token, or says after how many nanoseconds there will be one.
    pub fn take(&mut self, rate: Rate, now: u64) -> Result<(), u64> {
        self.refill(rate, now);
        match self.parts.checked_sub(PARTS) {
            Some(parts) => {
                self.parts = parts;
                Ok(())
            }
            None => Err(time_for(PARTS - self.parts, rate)),
        }
    }

    /// Gives one token back; never above full.
    pub fn give_back(&mut self, rate: Rate, now: u64) {
        self.parts += PARTS;
        self.refill(rate, now);
    }

    /// Whole tokens that are left.
    pub fn remaining(&self) -> u64 {
        (self.parts / PARTS) as u64 // at most the burst
    }

    /// Nanoseconds until the bucket is full, from the instant of the last call.
    pub fn time_to_full(&self, rate: Rate) -> u64 {
        time_for(u128::from(rate.burst) * PARTS - self.parts, rate)
    }

    /// When the bucket will be full, monotonic nanoseconds.
    pub fn full_at(&self, rate: Rate) -> u64 {
        self.at.saturating_add(self.time_to_full(rate))
    }

    fn refill(&mut self, rate: Rate, now: u64) {
        let elapsed = u128::from(now.saturating_sub(self.at));
        self.at = self.at.max(now);
        // 2^64 ns at 2^64 a minute is below 2^128, and so is the sum with a level that was capped before.
        let gained = elapsed * u128::from(rate.per_minute);
        self.parts = self.parts.saturating_add(gained).min(u128::from(rate.burst) * PARTS);
    }
}

/// Nanoseconds in which so many parts flow in, rounded up: never too early.
fn time_for(parts: u128, rate: Rate) -> u64 {
    u64::try_from(parts.div_ceil(u128::from(rate.per_minute))).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Over any run, granted ≤ burst + rate × time, and a refusal's waiting time is exactly enough.
        #[test]
        fn never_grants_more_than_its_rate(
            per_minute in 1u64..100_000,
            burst in 1u64..50,
            steps in proptest::collection::vec((0u64..3_000_000_000, any::<bool>()), 1..200),
        ) {
            let rate = Rate { per_minute, burst };
            let (mut now, mut granted) = (7, 0u128);
            let mut bucket = Bucket::full(rate, now);
            let start = now;
            for (wait, take) in steps {
                now += wait;
                if take {
                    match bucket.take(rate, now) {
                        Ok(()) => granted += 1,
                        Err(nanoseconds) => {
                            let (mut early, mut exact) = (bucket, bucket);
                            prop_assert!(early.take(rate, now + nanoseconds - 1).is_err());
                            prop_assert!(exact.take(rate, now + nanoseconds).is_ok());
                        }
                    }
                }
                let earned = u128::from(now - start) * u128::from(per_minute);
                prop_assert!(granted * PARTS <= u128::from(burst) * PARTS + earned);
                prop_assert!(bucket.remaining() <= burst);
            }
        }

        /// Many small refills give exactly what one large one gives: no drift, over years.
        #[test]
        fn refills_without_drift(per_minute in 1u64..1_000_000, pieces in proptest::collection::vec(0u64..u64::MAX / 64, 1..50)) {
            let rate = Rate { per_minute, burst: u64::MAX };
            let (mut many, mut now) = (Bucket { parts: 0, at: 0 }, 0);
            for piece in pieces {
                now += piece;
                many.refill(rate, now);
            }
            let mut once = Bucket { parts: 0, at: 0 };
            once.refill(rate, now);
            prop_assert_eq!(many, once);
        }

        /// What is given back is as if it had not been taken.
        #[test]
        fn giving_back_undoes_taking(per_minute in 1u64..1000, burst in 1u64..10, wait in 0u64..SECOND) {
            let rate = Rate { per_minute, burst };
            let mut bucket = Bucket::full(rate, 0);
            let mut untouched = bucket;
            bucket.take(rate, 0).unwrap();
            bucket.give_back(rate, wait);
            untouched.refill(rate, wait);
            prop_assert_eq!(bucket, untouched);
        }
    }
}
