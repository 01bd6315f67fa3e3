//! What each user may do who has no limits of their own: the `RATE_LIMIT_*`, `MAX_CONCURRENT_PER_USER` and `BUDGET_*`
//! variables. Everywhere 0 is no limit.

use super::source::Source;
use super::value;
use crate::limit::bucket::Rate;
use crate::limit::overrides::Limits;

/// The maximum that can be set.
const TOKENS_MAX: u64 = 1_000_000_000_000_000;

/// Reads them all.
pub fn read(source: &mut Source<'_>) -> Limits {
    let rpm = source.count("RATE_LIMIT_RPM", 600, 0..=1_000_000_000);
    let burst = source.count("RATE_LIMIT_BURST", rpm.max(1), 1..=1_000_000_000);
    if rpm == 0 && source.os("RATE_LIMIT_BURST").is_some() {
        source.warnings.push("RATE_LIMIT_BURST is set without RATE_LIMIT_RPM: it says nothing".to_owned());
    }
    let expected = format!("a whole number, 0 to {TOKENS_MAX}");
    let tpm =
        source.value("RATE_LIMIT_TPM", 0, &expected, |text| value::number(text).filter(|&tokens| tokens <= TOKENS_MAX));
    let concurrent = source.count("MAX_CONCURRENT_PER_USER", 0, 0..=1_000_000);
    let rate = |per_minute: u64, burst: u64| (per_minute > 0).then_some(Rate { per_minute, burst });
    Limits {
        requests: rate(rpm.into(), burst.into()),
        tokens: rate(tpm, tpm),
        concurrent: Some(concurrent).filter(|&max| max > 0),
        day_nano_usd: budget(source, "BUDGET_USD_DAY"),
        month_nano_usd: budget(source, "BUDGET_USD_MONTH"),
    }
}

fn budget(source: &mut Source<'_>, name: &'static str) -> Option<u64> {
    let expected = "an amount in US dollars with at most 9 decimals, as in 5 or 0.50, up to 100000000";
    Some(source.value(name, 0, expected, value::nano_usd)).filter(|&max| max > 0)
}
