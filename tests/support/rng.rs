//! Random numbers from a seed, so that a failure can be played again.

/// SplitMix64.
#[derive(Clone)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// From `TEST_SEED`, else always the same; printed, so that a failing run says what it was.
    pub fn from_env() -> Self {
        let seed = std::env::var("TEST_SEED").ok().map_or(1, |s| s.parse().expect("TEST_SEED is a number"));
        println!("TEST_SEED={seed}");
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In `0..bound`; 0 for a bound of 0.
    pub fn below(&mut self, bound: usize) -> usize {
        if bound == 0 { 0 } else { (self.next() % bound as u64) as usize }
    }

    pub fn coin(&mut self) -> bool {
        self.next() & 1 == 1
    }

    /// `bytes` in at most `pieces` parts that are not empty.
    pub fn cut<'a>(&mut self, bytes: &'a [u8], pieces: usize) -> Vec<&'a [u8]> {
        let mut places: Vec<usize> = (1..pieces).map(|_| self.below(bytes.len())).collect();
        places.extend([0, bytes.len()]);
        places.sort_unstable();
        places.windows(2).map(|w| &bytes[w[0]..w[1]]).filter(|part| !part.is_empty()).collect()
    }
}
