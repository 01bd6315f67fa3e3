//! A token bucket without rounding: the level is kept in parts of a token so small that a nanosecond's refill is whole.
//!
//! The level may fall below zero where the truth exceeded what was granted; that debt is repaid by refill before
//! anything else is granted.

use crate::base::clock::SECOND;

/// Parts of one token: a rate in tokens a minute is then the same number in parts a nanosecond.
const PARTS: u64 = 60 * SECOND;
/// As deep as debt goes: as many tokens as nobody takes, and far from where sums end.
const DEBT_MAX: i128 = -(1 << 126);
/// Tokens a minute that flow in at most: thousands of times what can be set.
const PER_MINUTE_MAX: u64 = 1 << 62;

/// The limits of a bucket.
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
    parts: i128,
    /// When `parts` was true, monotonic nanoseconds.
    at: u64,
}

impl Bucket {
    /// A full bucket.
    pub fn full(rate: Rate, now: u64) -> Self {
        Self { parts: parts(rate.burst), at: now }
    }

    /// An empty bucket.
    pub fn empty(now: u64) -> Self {
        Self { parts: 0, at: now }
    }

    /// Whether so many tokens are here; else after how many nanoseconds they will be. More than the burst never are.
    pub fn has(&mut self, rate: Rate, now: u64, tokens: u64) -> Result<(), u64> {
        self.refill(rate, now);
        self.has_now(rate, tokens)
    }

    /// The same at the instant of the last refill.
    pub fn has_now(&self, rate: Rate, tokens: u64) -> Result<(), u64> {
        match parts(tokens) - self.parts {
            missing if missing <= 0 => Ok(()),
            missing => Err(time_for(missing, rate)),
        }
    }

    /// Takes tokens, down into debt.
    pub fn take(&mut self, rate: Rate, now: u64, tokens: u64) {
        self.refill(rate, now);
        self.take_now(tokens);
    }

    /// The same at the instant of the last refill.
    pub fn take_now(&mut self, tokens: u64) {
        self.parts = (self.parts - parts(tokens)).max(DEBT_MAX);
    }

    /// Gives tokens back; never above full.
    pub fn give_back(&mut self, rate: Rate, now: u64, tokens: u64) {
        self.parts += parts(tokens);
        self.refill(rate, now);
    }

    /// Whole tokens that are left.
    pub fn remaining(&self) -> u64 {
        match u64::try_from(self.parts.max(0)) {
            Ok(parts) => parts / PARTS, // many times faster, and enough for 300 million tokens
            Err(_) => u64::try_from(self.parts / i128::from(PARTS)).unwrap_or(u64::MAX),
        }
    }

    /// True where fewer whole tokens are left here than there.
    pub fn has_less(&self, other: &Self) -> bool {
        // Most are far from each other, or equal: that is seen without a division.
        if self.parts >= other.parts || other.parts <= 0 {
            return false;
        }
        other.parts - self.parts.max(0) >= i128::from(PARTS) || self.remaining() < other.remaining()
    }

    /// Nanoseconds until the bucket is full, from the instant of the last call.
    pub fn time_to_full(&self, rate: Rate) -> u64 {
        time_for(parts(rate.burst) - self.parts, rate)
    }

    /// When the bucket will be full, monotonic nanoseconds.
    pub fn full_at(&self, rate: Rate) -> u64 {
        self.at.saturating_add(self.time_to_full(rate))
    }

    /// Brings the level to the present.
    pub fn refill(&mut self, rate: Rate, now: u64) {
        if now > self.at {
            let elapsed = now - self.at;
            self.at = now;
            // Below 2^126: 2^64 ns at 2^62 a minute.
            self.parts += (u128::from(elapsed) * u128::from(rate.per_minute.min(PER_MINUTE_MAX))).cast_signed();
        }
        self.parts = self.parts.min(parts(rate.burst));
    }
}

/// Below 2^100, whatever the count.
fn parts(tokens: u64) -> i128 {
    i128::from(tokens) * i128::from(PARTS)
}

/// Nanoseconds in which so many parts flow in, rounded up: never too early.
fn time_for(parts: i128, rate: Rate) -> u64 {
    match u64::try_from(parts.max(0)) {
        Ok(parts) => parts.div_ceil(rate.per_minute),
        Err(_) => u64::try_from(parts.cast_unsigned().div_ceil(u128::from(rate.per_minute))).unwrap_or(u64::MAX),
    }
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
            steps in proptest::collection::vec((0u64..3_000_000_000, 0u64..60), 1..200),
        ) {
            let rate = Rate { per_minute, burst };
            let (mut now, mut granted) = (7, 0i128);
            let mut bucket = Bucket::full(rate, now);
            let start = now;
            for (wait, tokens) in steps {
                now += wait;
                match bucket.has(rate, now, tokens) {
                    Ok(()) => {
                        bucket.take(rate, now, tokens);
                        granted += i128::from(tokens);
                    }
                    Err(nanoseconds) => {
                        let (mut early, mut exact) = (bucket, bucket);
                        prop_assert!(early.has(rate, now + nanoseconds - 1, tokens).is_err());
                        prop_assert_eq!(exact.has(rate, now + nanoseconds, tokens).is_ok(), tokens <= burst);
                    }
                }
                let earned = i128::from(now - start) * i128::from(per_minute);
                prop_assert!(granted * i128::from(PARTS) <= parts(burst) + earned);
                prop_assert!(bucket.remaining() <= burst);
            }
        }

        /// Many small refills give exactly what one large one gives: no drift, over years.
        #[test]
        fn refills_without_drift(
            per_minute in 1u64..1_000_000,
            debt in any::<u64>(),
            pieces in proptest::collection::vec(0u64..u64::MAX / 64, 1..50),
        ) {
            let rate = Rate { per_minute, burst: u64::MAX };
            let mut many = Bucket { parts: -parts(debt), at: 0 };
            let (mut once, mut now) = (many, 0);
            for piece in pieces {
                now += piece;
                many.refill(rate, now);
            }
            once.refill(rate, now);
            prop_assert_eq!(many, once);
        }

        /// Which of two has less is what whole tokens say, however near they are.
        #[test]
        fn the_one_with_fewer_whole_tokens_has_less(tokens in -2i128..4, more in -2i128..3, at in 0u64..2) {
            let part = i128::from(PARTS);
            let near = tokens * part + more;
            for (one, other) in [(tokens * part, near), (near, tokens * part), (near, (tokens + more) * part)] {
                let of = |parts| Bucket { parts, at };
                prop_assert_eq!(of(one).has_less(&of(other)), of(one).remaining() < of(other).remaining());
            }
        }

        /// What is given back is as if it had not been taken.
        #[test]
        fn giving_back_undoes_taking(
            per_minute in 1u64..1000,
            burst in 1u64..10,
            tokens in any::<u64>(),
            wait in 0u64..SECOND,
        ) {
            let rate = Rate { per_minute, burst };
            let mut bucket = Bucket::full(rate, 0);
            let mut untouched = bucket;
            bucket.take(rate, 0, tokens);
            bucket.give_back(rate, wait, tokens);
            untouched.refill(rate, wait);
            prop_assert_eq!(bucket, untouched);
        }
    }

    #[test]
    fn debt_of_any_size_is_carried_and_repaid() {
        let rate = Rate { per_minute: 60, burst: 10 };
        let mut bucket = Bucket::full(rate, 0);
        bucket.take(rate, 0, 25);
        assert_eq!((bucket.remaining(), bucket.time_to_full(rate)), (0, 25 * SECOND));
        assert_eq!(bucket.has(rate, 0, 1), Err(16 * SECOND), "15 of debt, and the one");
        assert_eq!(bucket.has(rate, 16 * SECOND, 1), Ok(()));
        for _ in 0..3 {
            bucket.take(rate, 0, u64::MAX);
        }
        assert_eq!(bucket.has(rate, u64::MAX, 1), Err(u64::MAX), "no overflow");
    }
}
