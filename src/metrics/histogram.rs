//! A histogram of durations in whole microseconds, with fixed bounds. Recording is one search in a short array.

/// Counts of durations by upper bound. Memory: one number a bound.
#[derive(Clone, Debug)]
pub struct Histogram {
    /// Inclusive upper bounds in microseconds, ascending.
    bounds_us: &'static [u64],
    /// Durations in each bucket alone; the last has no upper bound.
    counts: Box<[u64]>,
    sum_us: u64,
}

impl Histogram {
    /// `bounds_us` ascend.
    pub fn new(bounds_us: &'static [u64]) -> Self {
        debug_assert!(bounds_us.is_sorted());
        Self { bounds_us, counts: vec![0; bounds_us.len() + 1].into(), sum_us: 0 }
    }

    pub fn observe(&mut self, us: u64) {
        self.counts[self.bounds_us.partition_point(|&bound| bound < us)] += 1;
        self.sum_us = self.sum_us.saturating_add(us);
    }

    /// The sum of all durations, microseconds.
    pub fn sum_us(&self) -> u64 {
        self.sum_us
    }

    /// Number of durations.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Each bound with the number of durations at or under it.
    pub fn cumulative(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.bounds_us.iter().zip(&self.counts).scan(0, |sum, (&bound, &count)| {
            *sum += count;
            Some((bound, *sum))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BOUNDS: &[u64] = &[10, 20, 50];

    proptest! {
        #[test]
        fn buckets_count_what_is_at_or_under_their_bound(values in prop::collection::vec(0..60u64, 0..50)) {
            let mut histogram = Histogram::new(BOUNDS);
            values.iter().for_each(|&value| histogram.observe(value));
            let under = |bound: u64| values.iter().filter(|&&value| value <= bound).count() as u64;
            let expected: Vec<_> = BOUNDS.iter().map(|&bound| (bound, under(bound))).collect();
            prop_assert_eq!(histogram.cumulative().collect::<Vec<_>>(), expected);
            prop_assert_eq!(histogram.count(), values.len() as u64);
            prop_assert_eq!(histogram.sum_us(), values.iter().sum::<u64>());
        }
    }
}
