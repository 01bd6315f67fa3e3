//! What one bucket in true time would have let through, where all nodes took from it themselves.
//!
//! What a request gives back counts when it is taken again, or has reached the engine; what it takes beyond what was
//! expected counts when it has reached the engine: a settlement is told to others within a beat.

use openai_api_proxy::limit::lease::Terms;

/// Parts of a unit: a rate a minute is so many of them a nanosecond.
const PARTS: i128 = 60 * 1_000_000_000;

/// The bucket.
#[derive(Clone, Debug)]
pub struct Oracle {
    terms: Terms,
    /// In parts.
    used: i128,
    at: u64,
    /// The most that was out beyond the capacity, in parts, but for what was told late.
    worst: i128,
}

impl Oracle {
    pub fn new(terms: Terms) -> Self {
        Self { terms, used: 0, at: 0, worst: i128::MIN }
    }

    fn follow(&mut self, now: u64) {
        let back = i128::from(now - self.at) * i128::from(self.terms.per_minute);
        (self.used, self.at) = ((self.used - back).max(0), now);
    }

    /// True where so much more would be too much.
    pub fn lacks(&mut self, now: u64, units: i64) -> bool {
        self.follow(now);
        self.used + i128::from(units) * PARTS > i128::from(self.terms.cap) * PARTS
    }

    /// `late` is what was taken beyond the capacity because it was told late.
    pub fn take(&mut self, now: u64, units: i64, late: i64) {
        self.take_late(now, units);
        self.worst = self.worst.max(self.used - i128::from(self.terms.cap + late) * PARTS);
    }

    /// What nobody could know of: it is no fault that it is too much.
    pub fn take_late(&mut self, now: u64, units: i64) {
        self.follow(now);
        self.used += i128::from(units) * PARTS;
    }

    pub fn give_back(&mut self, now: u64, units: i64) {
        self.follow(now);
        self.used = (self.used - i128::from(units) * PARTS).max(0);
    }

    /// Units by which the limit was exceeded, rounded up, beyond what comes of the engine's reckoning in milliseconds.
    pub fn excess(&self) -> i64 {
        // The engine reckons in whole milliseconds, each time that it is asked.
        let of_rounding = if self.terms.kind.decays() { i128::from(self.terms.per_minute) * 5_000_000 } else { 0 };
        let excess = (self.worst - of_rounding).max(0);
        i64::try_from((excess + PARTS - 1) / PARTS).expect("it is small")
    }
}
