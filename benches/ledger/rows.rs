//! The rows of a year: 1,000 users of whom few ask much and many little, 6 models, 4 endpoints.
//!
//! In: how many rows and a seed. Out: [`Record`]s in the order in which they settle, always the same ones. Never: a
//! clock.

use openai_api_proxy::usage::record::{Endpoint, Outcome, Record, Usage, UsageSource};
use std::sync::Arc;

pub const USERS: usize = 1_000;
/// Each with its share of the requests in percent.
const MODELS: [(&str, u64); 6] = [
    ("gpt-5-mini-2025-08-07", 45),
    ("gpt-4o-2024-08-06", 25),
    ("gpt-4o-mini-2024-07-18", 15),
    ("text-embedding-3-small", 8),
    ("gpt-5-2025-08-07", 5),
    ("o4-mini-2025-04-16", 2),
];
const ENDPOINTS: [(Endpoint, u64); 4] =
    [(Endpoint::ChatCompletions, 70), (Endpoint::Responses, 20), (Endpoint::Embeddings, 7), (Endpoint::Completions, 3)];

const NS_PER_MS: u64 = 1_000_000;
/// 2025-01-01T00:00:00Z
pub const YEAR_START_NS: u64 = 1_735_689_600_000 * NS_PER_MS;
pub const YEAR_NS: u64 = 365 * 86_400_000 * NS_PER_MS;

/// An endless supply of rows, the first `per_year` of them within the year.
pub struct Rows {
    state: u64,
    next: u64,
    per_year: u64,
    users: Vec<Arc<str>>,
    models: Vec<Arc<str>>,
    /// `cumulated[n]`: the share of the users 0 to n, of `u32::MAX`. User n asks 1/(n+1) as much as user 0 (Zipf).
    cumulated: Vec<u32>,
}

impl Rows {
    pub fn new(per_year: u64) -> Self {
        let weight = |user: usize| 1.0 / (user + 1) as f64;
        let all: f64 = (0..USERS).map(weight).sum();
        let share = |sum: &mut f64, user| {
            *sum += weight(user);
            Some((*sum / all * f64::from(u32::MAX)) as u32)
        };
        Self {
            state: 1,
            next: 0,
            per_year,
            users: (0..USERS).map(|user| user_name(user).into()).collect(),
            models: MODELS.iter().map(|(name, _)| (*name).into()).collect(),
            cumulated: (0..USERS).scan(0.0, share).collect(),
        }
    }

    /// The rows that follow the year's.
    pub fn after_the_year(per_year: u64) -> Self {
        Self { next: per_year, ..Self::new(per_year) }
    }

    pub fn batch(&mut self, rows: usize) -> Vec<Record> {
        (0..rows).map(|_| self.row()).collect()
    }

    fn row(&mut self) -> Record {
        let settled = YEAR_START_NS + (u128::from(self.next) * u128::from(YEAR_NS) / u128::from(self.per_year)) as u64;
        self.next += 1;
        let point = (self.random() >> 32) as u32;
        let user = self.cumulated.partition_point(|share| *share < point).min(USERS - 1);
        let duration_ms = match self.below(1000) {
            0 => 60_000 + self.below(7_200_000), // a session
            _ => 200 + self.below(8_000),
        };
        let input = 20 + self.below(4_000);
        let output = 1 + self.below(800);
        let usage = Usage {
            input_tokens: input,
            cached_input_tokens: if self.below(3) == 0 { input / 2 } else { 0 },
            output_tokens: output,
            reasoning_tokens: if self.below(4) == 0 { output / 2 } else { 0 },
            total_tokens: input + output,
            ..Usage::default()
        };
        let model = self.pick(&MODELS.map(|(_, share)| share));
        let model = Arc::clone(&self.models[model]);
        let fails = self.below(100) == 0;
        Record {
            seq: self.next,
            started_at: settled.saturating_sub(duration_ms * NS_PER_MS).max(YEAR_START_NS),
            user: Arc::clone(&self.users[user]),
            endpoint: ENDPOINTS[self.pick(&ENDPOINTS.map(|(_, share)| share))].0,
            model_requested: Some(Arc::clone(&model)),
            model: Some(model),
            stream: self.below(2) == 0,
            status: if fails { 500 } else { 200 },
            outcome: Outcome::Completed,
            usage_source: UsageSource::Reported,
            usage,
            cost_nano_usd: Some(input * 150 + output * 600),
            duration_us: duration_ms * 1000,
            first_byte_us: Some(duration_ms * 400),
            proxy_us: 40 + self.below(60),
            request_bytes: input * 4,
            response_bytes: output * 150,
            upstream_request_id: Some(format!("req_{:016x}{:016x}", self.random(), self.random()).into()),
            response_id: Some(format!("chatcmpl-{:016x}{:013x}", self.random(), self.random() >> 12).into()),
            ..Record::default()
        }
    }

    /// The place of a share.
    fn pick(&mut self, shares: &[u64]) -> usize {
        let mut left = self.below(shares.iter().sum());
        for (place, share) in shares.iter().enumerate() {
            if left < *share {
                return place;
            }
            left -= share;
        }
        unreachable!("less than the sum of all shares");
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.random() % bound
    }

    /// SplitMix64.
    fn random(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// The name of a user, 0 being the busiest.
pub fn user_name(user: usize) -> String {
    format!("user-{user:04}")
}
