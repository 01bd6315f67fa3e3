//! What a user is told of their limits: the `x-ratelimit-*` headers of every answer, and a refusal's reason.
//!
//! Formats are OpenAI's (<https://platform.openai.com/docs/guides/rate-limits>, "Rate limits in headers"); its clients
//! obey `x-should-retry`, then `retry-after-ms`, then `retry-after`.

use super::budget::Period;
use super::levels::{LimitLevel, Payer};
use crate::base::civil::{first_day_of_month, write_rfc3339};
use crate::base::clock::{DAY, MILLISECOND, SECOND};
use crate::base::digits;
use crate::http::headers::{write_decimal, write_number};

/// A bucket's state, as the headers of an answer tell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BucketStatus {
    /// What a full bucket allows at once.
    pub limit: u64,
    /// What is allowed at once now.
    pub remaining: u64,
    /// Nanoseconds until the bucket is full.
    pub reset: u64,
}

/// The buckets after an admission or refusal, where they are limited: of the levels, the one that has the least left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateLimitStatus {
    pub requests: Option<BucketStatus>,
    pub tokens: Option<BucketStatus>,
}

/// The names of one bucket's headers.
type Names = [&'static str; 3];

const REQUESTS: Names = ["x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"];
const TOKENS: Names = ["x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"];

/// How all of them begin: few headers of a response do.
const PREFIX: &str = "x-ratelimit-";

impl RateLimitStatus {
    /// Appends the header lines, three a bucket.
    pub fn write(&self, out: &mut Vec<u8>) {
        for ([limit, remaining, reset], status) in self.buckets() {
            write_number(out, limit, status.limit);
            write_number(out, remaining, status.remaining);
            out.extend_from_slice(reset.as_bytes());
            out.extend_from_slice(b": ");
            write_duration(out, status.reset);
            out.extend_from_slice(b"\r\n");
        }
    }

    /// True where the header, in any case of letters, is one that [`RateLimitStatus::write`] writes.
    pub fn writes(&self, header: &str) -> bool {
        let is_one = || self.buckets().flat_map(|(names, _)| names).any(|name| header.eq_ignore_ascii_case(name));
        header.get(..PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(PREFIX)) && is_one()
    }

    fn buckets(&self) -> impl Iterator<Item = (Names, BucketStatus)> {
        [(REQUESTS, self.requests), (TOKENS, self.tokens)]
            .into_iter()
            .filter_map(|(names, status)| Some((names, status?)))
    }
}

/// Which limit refused a request; its name is a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    Requests,
    Tokens,
    Concurrent,
    BudgetDay,
    BudgetMonth,
    /// There is a budget, and the ledger has not said yet what is spent of it.
    BudgetUnknown,
}

impl Limit {
    /// The stable label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Tokens => "tokens",
            Self::Concurrent => "concurrent",
            Self::BudgetDay => "budget_day",
            Self::BudgetMonth => "budget_month",
            Self::BudgetUnknown => "budget_unknown",
        }
    }

    /// Of a budget, its period.
    pub const fn period(self) -> Option<&'static str> {
        match self {
            Self::BudgetDay => Some("day"),
            Self::BudgetMonth => Some("month"),
            _ => None,
        }
    }

    /// True where money is limited.
    pub const fn is_budget(self) -> bool {
        matches!(self, Self::BudgetDay | Self::BudgetMonth | Self::BudgetUnknown)
    }
}

/// How much of a limit is used, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitUse {
    pub level: LimitLevel,
    /// Whose it is; empty for everybody together.
    pub name: String,
    pub limit: Limit,
    /// Used and maximum in the limit's own unit: requests or tokens at once, requests in flight, nano-dollars.
    pub used: u64,
    pub maximum: u64,
    /// When all of it is free again, nanoseconds since the Unix epoch; `None` where that is as requests end.
    pub reset_at: Option<u64>,
}

impl LimitUse {
    /// How near it is to its end, in thousandths; more than 1000 where it is overdrawn.
    pub fn thousandths(&self) -> u64 {
        let thousandths = u128::from(self.used) * 1000 / u128::from(self.maximum.max(1));
        u64::try_from(thousandths).unwrap_or(u64::MAX)
    }
}

/// A refusal: by which limit, and when to come again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Whose limit it is.
    pub level: LimitLevel,
    pub limit: Limit,
    pub limit_status: RateLimitStatus,
    /// The limit, in its own unit: requests or tokens a minute, requests in flight, nano-dollars.
    pub maximum: u64,
    /// What the request would have taken of it.
    pub requested: u64,
    /// What of a budget is not spent, nano-dollars.
    pub left: u64,
    /// Nanoseconds until it is worth trying again; `None` where it is not.
    pub retry_after: Option<u64>,
}

impl Refused {
    /// Appends the state of the limits, and `retry-after` (whole seconds) and `retry-after-ms`, both rounded up: a
    /// client that waits for so long is admitted. Or that there is nothing to wait for.
    pub fn write(&self, out: &mut Vec<u8>) {
        self.limit_status.write(out);
        let Some(retry_after) = self.retry_after else {
            return out.extend_from_slice(b"x-should-retry: false\r\n");
        };
        write_number(out, "retry-after", retry_after.div_ceil(SECOND));
        write_number(out, "retry-after-ms", retry_after.div_ceil(MILLISECOND));
    }

    /// Sentences for the client, who has not said who it is where `is_nameless`. `now` in nanoseconds since the Unix
    /// epoch.
    pub fn message(&self, payer: Payer<'_>, is_nameless: bool, now: u64) -> String {
        let whose = match self.level {
            LimitLevel::User if is_nameless => format!("user \"{}\" (no X-User-ID was sent)", payer.user),
            LimitLevel::User => format!("user \"{}\"", payer.user),
            LimitLevel::Team => format!("team \"{}\"", payer.team.unwrap_or_default()),
            LimitLevel::Total => "all users together".to_owned(),
        };
        let (maximum, requested) = (self.maximum, self.requested);
        let mut message = match self.limit {
            Limit::Requests => format!("Rate limit reached for requests: {maximum} per minute for {whose}."),
            Limit::Tokens if self.retry_after.is_none() => {
                format!(
                    "This request may use {requested} tokens; the limit of {maximum} per minute for {whose} never \
                     lets it through."
                )
            }
            Limit::Tokens => format!(
                "Rate limit reached for tokens: {maximum} per minute for {whose}; this request may use {requested}."
            ),
            Limit::Concurrent => format!("At most {maximum} requests may be in flight at once for {whose}."),
            Limit::BudgetDay | Limit::BudgetMonth => self.budget_message(&whose, now),
            Limit::BudgetUnknown => {
                format!("There is a budget for {whose}, and what is spent of it is still being summed up.")
            }
        };
        if let Some(retry_after) = self.retry_after {
            message.push_str(" Try again in ");
            message.push_str(&duration(retry_after));
            message.push('.');
        }
        message
    }

    fn budget_message(&self, whose: &str, now: u64) -> String {
        let present = Period::of(now);
        let (period, next_day) = match self.limit {
            Limit::BudgetDay => ("today", present.day + 1),
            _ => ("this month", first_day_of_month(present.month + 1)),
        };
        let has = if self.level == LimitLevel::Total { "have" } else { "has" };
        let (left, maximum) = (dollars(self.left), dollars(self.maximum));
        let left = format!("{whose} {has} ${left} left of ${maximum} for {period} (UTC).");
        let mut message = match self.requested {
            0 => [&left[..1].to_uppercase(), &left[1..]].concat(),
            cost => format!("This request may cost ${}; {left}", dollars(cost)),
        };
        if self.retry_after.is_some() {
            message.push_str(
                " Requests in flight may need the rest; one that states a maximum of output tokens holds less.",
            );
            return message;
        }
        message.push_str(if self.requested == 0 { " Wait until " } else { " Lower max_tokens, or wait until " });
        let mut until = Vec::new();
        write_rfc3339(&mut until, next_day.unsigned_abs().saturating_mul(DAY), 0);
        message.push_str(&String::from_utf8_lossy(&until));
        message.push('.');
        message
    }
}

/// Nano-dollars as dollars, without needless zeros.
pub fn dollars(nano_usd: u64) -> String {
    let mut out = Vec::new();
    digits::write_decimal(&mut out, nano_usd, 9);
    String::from_utf8_lossy(&out).into_owned()
}

fn duration(nanoseconds: u64) -> String {
    let mut out = Vec::new();
    write_duration(&mut out, nanoseconds);
    String::from_utf8_lossy(&out).into_owned()
}

/// A duration as Go prints it and OpenAI sends it (`0s`, `6ms`, `8.64s`, `1h8m25.745s`), rounded up to milliseconds.
fn write_duration(out: &mut Vec<u8>, nanoseconds: u64) {
    let milliseconds = nanoseconds.div_ceil(MILLISECOND);
    if (1..1000).contains(&milliseconds) {
        write_decimal(out, milliseconds);
        out.extend_from_slice(b"ms");
        return;
    }
    let seconds = milliseconds / 1000;
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    if hours > 0 {
        write_decimal(out, hours);
        out.push(b'h');
    }
    if hours > 0 || minutes > 0 {
        write_decimal(out, minutes);
        out.push(b'm');
    }
    digits::write_decimal(out, milliseconds % 60_000, 3);
    out.push(b's');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_openai_writes_them() {
        for (nanoseconds, text) in [
            (0, "0s"),
            (1, "1ms"),
            (6 * MILLISECOND, "6ms"),
            (8_640 * MILLISECOND, "8.64s"),
            (60 * SECOND, "1m0s"),
            (864 * SECOND, "14m24s"),
            (4_105_745 * MILLISECOND, "1h8m25.745s"),
        ] {
            assert_eq!(duration(nanoseconds), text);
        }
    }

    #[test]
    fn only_what_is_limited_is_written_and_only_that_is_taken_from_the_target() {
        let status = BucketStatus { limit: 9, remaining: 4, reset: 5 * SECOND / 2 };
        let limit_status = RateLimitStatus { tokens: Some(status), ..RateLimitStatus::default() };
        let mut out = Vec::new();
        limit_status.write(&mut out);
        let expected = "x-ratelimit-limit-tokens: 9\r\nx-ratelimit-remaining-tokens: 4\r\n\
                        x-ratelimit-reset-tokens: 2.5s\r\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
        assert!(limit_status.writes("X-RateLimit-Reset-Tokens") && !limit_status.writes("x-ratelimit-reset-requests"));
    }

    #[test]
    fn a_refusal_says_what_was_reached_and_when_to_come_again() {
        let now = crate::base::civil::parse_rfc3339("2026-12-31T23:00:00Z").unwrap();
        let refused = |level, limit, maximum, requested, retry_after| {
            let limit_status = RateLimitStatus::default();
            let refused = Refused { level, limit, limit_status, maximum, requested, left: 2, retry_after };
            let mut out = Vec::new();
            refused.write(&mut out);
            let payer = Payer { user: "u", team: Some("t") };
            (refused.message(payer, level == LimitLevel::User, now), String::from_utf8(out).unwrap())
        };
        let (message, headers) = refused(LimitLevel::User, Limit::Tokens, 100, 63, Some(SECOND + 1));
        let expected = "Rate limit reached for tokens: 100 per minute for user \"u\" (no X-User-ID was sent); this \
                        request may use 63. Try again in 1.001s.";
        assert_eq!(message, expected);
        assert_eq!(headers, "retry-after: 2\r\nretry-after-ms: 1001\r\n");
        let (message, headers) = refused(LimitLevel::Team, Limit::BudgetDay, 1_500_000_000, 0, None);
        let expected = "Team \"t\" has $0.000000002 left of $1.5 for today (UTC). Wait until 2027-01-01T00:00:00Z.";
        assert_eq!(message, expected);
        assert_eq!(headers, "x-should-retry: false\r\n");
        let (message, _) = refused(LimitLevel::Total, Limit::BudgetMonth, 20_000_000_000, 3, None);
        let expected = "This request may cost $0.000000003; all users together have $0.000000002 left of $20 for this \
                        month (UTC). Lower max_tokens, or wait until 2027-01-01T00:00:00Z.";
        assert_eq!(message, expected);
        let (message, _) = refused(LimitLevel::Total, Limit::Concurrent, 3, 1, Some(SECOND));
        let expected = "At most 3 requests may be in flight at once for all users together. Try again in 1s.";
        assert_eq!(message, expected);
    }
}
