//! What each user may do who has no limits of their own: the `RATE_LIMIT_*`, `MAX_CONCURRENT_PER_USER` and `BUDGET_*`
//! variables; and what everybody may do together: `TOTAL_*`. Everywhere 0 is no limit.

use super::source::Source;
use super::value;
use crate::base::digits::nano_usd;
use crate::limit::bucket::Rate;
use crate::limit::overrides::{LIMIT_MAX, Limits};

/// The largest number of requests that can be set.
const REQUESTS_MAX: u32 = 1_000_000_000;

/// Reads those of each user.
pub fn read(source: &mut Source<'_>) -> Limits {
    let rpm = source.count("RATE_LIMIT_RPM", 600, 0..=REQUESTS_MAX);
    let burst = source.count("RATE_LIMIT_BURST", rpm.max(1), 1..=REQUESTS_MAX);
    if rpm == 0 && source.os("RATE_LIMIT_BURST").is_some() {
        source.warnings.push("RATE_LIMIT_BURST is set without RATE_LIMIT_RPM: it says nothing".to_owned());
    }
    Limits {
        requests: (rpm > 0).then_some(Rate { per_minute: rpm.into(), burst: burst.into() }),
        tokens: tokens(source, "RATE_LIMIT_TPM"),
        concurrent: concurrent(source, "MAX_CONCURRENT_PER_USER"),
        day_nano_usd: budget(source, "BUDGET_USD_DAY"),
        month_nano_usd: budget(source, "BUDGET_USD_MONTH"),
    }
}

/// Reads those of everybody together.
pub fn read_total(source: &mut Source<'_>) -> Limits {
    let rpm = source.count("TOTAL_RATE_LIMIT_RPM", 0, 0..=REQUESTS_MAX);
    Limits {
        requests: rate(rpm.into()),
        tokens: tokens(source, "TOTAL_RATE_LIMIT_TPM"),
        concurrent: concurrent(source, "TOTAL_MAX_CONCURRENT"),
        day_nano_usd: budget(source, "TOTAL_BUDGET_USD_DAY"),
        month_nano_usd: budget(source, "TOTAL_BUDGET_USD_MONTH"),
    }
}

/// A bucket that holds what flows in within a minute.
fn rate(per_minute: u64) -> Option<Rate> {
    (per_minute > 0).then_some(Rate { per_minute, burst: per_minute })
}

fn tokens(source: &mut Source<'_>, name: &'static str) -> Option<Rate> {
    let expected = format!("a whole number, 0 to {LIMIT_MAX}");
    rate(source.value(name, 0, &expected, |text| value::number(text).filter(|&tokens| tokens <= LIMIT_MAX)))
}

fn concurrent(source: &mut Source<'_>, name: &'static str) -> Option<u32> {
    Some(source.count(name, 0, 0..=1_000_000)).filter(|&max| max > 0)
}

fn budget(source: &mut Source<'_>, name: &'static str) -> Option<u64> {
    let expected = "an amount in US dollars with at most 9 decimals, as in 5 or 0.50, up to 100000000";
    Some(source.value(name, 0, expected, nano_usd)).filter(|&max| max > 0)
}
