//! What a user may do: the operator's limits for everybody, and the ones that a user has of their own.

use super::bucket::Rate;

/// A user's limits. `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Requests.
    pub requests: Option<Rate>,
    /// Tokens, input and output together.
    pub tokens: Option<Rate>,
    /// Requests in flight, at least 1.
    pub concurrent: Option<u32>,
    /// Nano-dollars in a UTC day.
    pub day_nano_usd: Option<u64>,
    /// Nano-dollars in a UTC month.
    pub month_nano_usd: Option<u64>,
}

/// The largest limit of a minute that can be set: far from where sums of them would end.
pub const LIMIT_MAX: u64 = 1_000_000_000_000_000;

/// What a user has instead of everybody's limits: `None` leaves those, 0 lifts the limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// Requests a minute, which is the bucket's size too.
    pub rpm: Option<u64>,
    /// Tokens a minute, which is the bucket's size too.
    pub tpm: Option<u64>,
    /// Requests in flight.
    pub concurrent: Option<u32>,
    /// Nano-dollars in a UTC day.
    pub day_nano_usd: Option<u64>,
    /// Nano-dollars in a UTC month.
    pub month_nano_usd: Option<u64>,
}

impl Limits {
    /// These limits with a user's own in place of those that they name.
    pub fn with(&self, overrides: &Overrides) -> Self {
        let rate = |per_minute: Option<u64>, default| match per_minute {
            None => default,
            Some(0) => None,
            Some(per_minute) => Some(Rate { per_minute, burst: per_minute }),
        };
        let budget = |nano_usd: Option<u64>, default| nano_usd.map_or(default, |own| (own > 0).then_some(own));
        Self {
            requests: rate(overrides.rpm, self.requests),
            tokens: rate(overrides.tpm, self.tokens),
            concurrent: overrides.concurrent.map_or(self.concurrent, |own| (own > 0).then_some(own)),
            day_nano_usd: budget(overrides.day_nano_usd, self.day_nano_usd),
            month_nano_usd: budget(overrides.month_nano_usd, self.month_nano_usd),
        }
    }

    /// True where money is limited.
    pub fn has_budget(&self) -> bool {
        self.day_nano_usd.is_some() || self.month_nano_usd.is_some()
    }

    /// True where nothing is limited.
    pub fn is_unlimited(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_users_overrides_replace_everybodys_limits_and_zero_lifts_one() {
        let rate = |per_minute, burst| Some(Rate { per_minute, burst });
        let everybody = Limits {
            requests: rate(60, 5),
            tokens: None,
            concurrent: Some(2),
            day_nano_usd: Some(7),
            month_nano_usd: None,
        };
        assert_eq!(everybody.with(&Overrides::default()), everybody);
        let own = Overrides {
            rpm: Some(9),
            tpm: Some(100),
            concurrent: Some(0),
            day_nano_usd: Some(0),
            month_nano_usd: None,
        };
        let limits = Limits { requests: rate(9, 9), tokens: rate(100, 100), ..Limits::default() };
        assert_eq!(everybody.with(&own), limits);
        assert!(everybody.has_budget() && !limits.has_budget() && !limits.is_unlimited());
        assert!(everybody.with(&Overrides { rpm: Some(0), ..own }).requests.is_none());
    }
}
