//! A shadow of the users' request buckets: from when requests were asked and when they were over, what each bucket can
//! have held, against what the proxy let through, refused, and told.
//!
//! A request takes one from its user's bucket somewhere between its first byte and its end: a held one when its body is
//! whole. One whose client left before it was sent has given back what it took.

use crate::rng::Rng;
use crate::scenario::Planned;
use crate::world::{EPOCH, World};
use openai_api_proxy::limit::bucket::Rate;
use openai_api_proxy::usage::record::Record;

/// A token in the unit of the shadow: a rate a minute is so many of it a nanosecond.
const TOKEN: u128 = 60 * 1_000_000_000;

/// A limit under which some requests are refused.
pub fn rate(rng: &mut Rng) -> Rate {
    Rate { per_minute: [1, 60, 60_000][rng.below(3)], burst: 1 + rng.below(4) as u64 }
}

/// When a request may have taken its token.
#[derive(Clone, Copy, Debug)]
struct Span {
    from: u64,
    until: u64,
    /// It was forwarded: it has taken one for good.
    forwarded: bool,
}

/// Judges the requests of one user; how many were refused by the limit, and how many statuses were checked.
pub fn judge(user: &str, requests: &[&Planned], records: &[Record], rate: Rate, world: &World) -> (usize, usize) {
    let is_limited = |request: &&&Planned| request.refused_as("rate_limit_exceeded");
    let span = |request: &&Planned| {
        let record = records.iter().find(|record| request.is_of(record));
        let ended = record.map(|record| record.started_at - EPOCH + (record.duration_us + 1) * 1000);
        let closed = || request.pipe.and_then(|pipe| world.pipes[pipe].closed_at);
        let until = ended.or_else(closed).unwrap_or(u64::MAX);
        Span { from: request.asked_at, until, forwarded: record.is_some() }
    };
    let spans: Vec<Span> = requests.iter().filter(|request| !is_limited(request)).map(span).collect();
    granted_within_the_rate(user, &spans, rate);
    let full_in = u64::try_from((u128::from(rate.burst) * TOKEN).div_ceil(rate.per_minute.into())).unwrap_or(u64::MAX);
    // A bucket that nobody took from for so long is full: only these can have left it less.
    let takers = |asked_at: u64, answered_at: u64| {
        let may_matter = |span: &&Span| span.until >= asked_at.saturating_sub(full_in) && span.from <= answered_at;
        spans.iter().filter(may_matter).count() as u64
    };
    let mut checked = 0;
    for request in requests {
        let takers = takers(request.asked_at, request.answered_at);
        if is_limited(&request) {
            assert!(takers >= rate.burst, "{user} was refused, and at most {takers} had taken of {}", rate.burst);
        } else if let Some(remaining) = request.remaining() {
            let least = rate.burst.saturating_sub(takers);
            let range = least..rate.burst;
            assert!(range.contains(&remaining), "{user} was told of {remaining}, the bucket held {range:?}");
            checked += 1;
        }
    }
    (requests.iter().filter(is_limited).count(), checked)
}

/// Whoever was forwarded had taken a token by their end.
fn granted_within_the_rate(user: &str, spans: &[Span], rate: Rate) {
    let mut ends: Vec<u64> = spans.iter().filter(|span| span.forwarded).map(|span| span.until).collect();
    ends.sort_unstable();
    // What is given back once the bucket has refilled may let one more in than it holds.
    let spare = spans.iter().filter(|span| !span.forwarded).count() as u128;
    for (before, end) in ends.into_iter().enumerate() {
        let earned = u128::from(end) * u128::from(rate.per_minute) / TOKEN;
        let granted = before as u128 + 1;
        assert!(granted <= u128::from(rate.burst) + earned + spare, "{user}: {granted} were let through by {end}");
    }
}
