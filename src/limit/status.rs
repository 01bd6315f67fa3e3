//! What a user is told of their limits: the `x-ratelimit-*` headers of every answer, and a refusal's reason.
//!
//! Formats are OpenAI's (<https://platform.openai.com/docs/guides/rate-limits>, "Rate limits in headers"); its clients
//! obey `x-should-retry`, then `retry-after-ms`, then `retry-after`.

use crate::base::clock::{MILLISECOND, SECOND};
use crate::base::digits;
use crate::http::headers::{write_decimal, write_number};
use std::fmt::Write as _;

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

/// A user's buckets after an admission or refusal, where they are limited.
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

    /// True where money is limited.
    pub const fn is_budget(self) -> bool {
        matches!(self, Self::BudgetDay | Self::BudgetMonth | Self::BudgetUnknown)
    }
}

/// A refusal: by which limit, and when to come again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    pub limit: Limit,
    pub limit_status: RateLimitStatus,
    /// The limit, in its own unit: requests or tokens a minute, requests in flight, nano-dollars.
    pub maximum: u64,
    /// What the request would have taken of it.
    pub requested: u64,
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

    /// A sentence for the client.
    pub fn message(&self) -> String {
        let (maximum, requested) = (self.maximum, self.requested);
        let mut message = match self.limit {
            Limit::Requests => format!("Rate limit reached for requests: {maximum} per minute."),
            Limit::Tokens if self.retry_after.is_none() => {
                format!(
                    "This request may use {requested} tokens; the limit of {maximum} per minute never lets it through."
                )
            }
            Limit::Tokens => {
                format!("Rate limit reached for tokens: {maximum} per minute; this request may use {requested}.")
            }
            Limit::Concurrent => format!("A user may have {maximum} requests in flight at once."),
            Limit::BudgetDay | Limit::BudgetMonth => self.budget_message(),
            Limit::BudgetUnknown => "There is a budget, and what is spent of it is still being summed up.".to_owned(),
        };
        if let Some(retry_after) = self.retry_after {
            message.push_str(" Try again in ");
            message.push_str(&duration(retry_after));
            message.push('.');
        }
        message
    }

    fn budget_message(&self) -> String {
        let period = if self.limit == Limit::BudgetDay { "day" } else { "month" };
        let mut message = format!("Of the budget of {} USD for this UTC {period}, ", dollars(self.maximum));
        let _ = match (self.retry_after, self.requested) {
            (Some(_), _) => write!(
                message,
                "this user's requests in flight may need all that is left. A request that states a maximum of output \
                 tokens holds less, so that more of them run at once."
            ),
            (None, 0) => write!(message, "nothing is left."),
            (None, cost) => write!(message, "less is left than the {} that this request may cost.", dollars(cost)),
        };
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
        let refused = |limit, maximum, requested, retry_after| {
            let refused = Refused { limit, limit_status: RateLimitStatus::default(), maximum, requested, retry_after };
            let mut out = Vec::new();
            refused.write(&mut out);
            (refused.message(), String::from_utf8(out).unwrap())
        };
        let (message, headers) = refused(Limit::Tokens, 100, 63, Some(SECOND + 1));
        let expected = "Rate limit reached for tokens: 100 per minute; this request may use 63. Try again in 1.001s.";
        assert_eq!(message, expected);
        assert_eq!(headers, "retry-after: 2\r\nretry-after-ms: 1001\r\n");
        let (message, headers) = refused(Limit::BudgetDay, 1_500_000_000, 0, None);
        assert_eq!(message, "Of the budget of 1.5 USD for this UTC day, nothing is left.");
        assert_eq!(headers, "x-should-retry: false\r\n");
        let (message, _) = refused(Limit::BudgetMonth, 20_000_000_000, 3, None);
        let expected = "Of the budget of 20 USD for this UTC month, less is left than the 0.000000003 that this request \
                        may cost.";
        assert_eq!(message, expected);
    }
}
