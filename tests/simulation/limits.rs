//! A shadow of the users' request buckets: from the instants at which requests were admitted, what each bucket held
//! then, against what the proxy told of it.
//!
//! A request that leaves a record has taken one from its user's bucket at its start. One that was refused after all, or
//! whose client left before it was sent, has given back what it took, at the latest when its connection was closed.

use crate::rng::Rng;
use crate::scenario::Planned;
use crate::world::{EPOCH, World};
use openai_api_proxy::limit::bucket::Rate;
use openai_api_proxy::usage::record::Record;

/// A token in the unit of the shadow: a rate a minute is so many of it a nanosecond.
const TOKEN: i128 = 60 * 1_000_000_000;

/// A limit under which some requests are refused.
pub fn rate(rng: &mut Rng) -> Rate {
    Rate { per_minute: [1, 60, 60_000][rng.below(3)], burst: 1 + rng.below(4) as u64 }
}

/// A request that may have held a token for a while.
struct Withdrawn {
    /// It holds none from then on.
    until: u64,
}

/// Judges the requests of one user; how many were refused by the limit, and how many standings were checked.
pub fn judge(user: &str, requests: &[&Planned], records: &[Record], rate: Rate, world: &World) -> (usize, usize) {
    let of = |request: &Planned| records.iter().find(|record| request.is_of(record));
    let is_limited = |request: &&&Planned| request.refused_as("rate_limit_exceeded");
    let limited = requests.iter().filter(is_limited).count();
    let mut granted: Vec<(u64, &Planned)> =
        requests.iter().filter_map(|request| Some((of(request)?.started_at - EPOCH, *request))).collect();
    granted.sort_by_key(|&(at, request)| (at, std::cmp::Reverse(request.remaining())));
    let withdrawn: Vec<Withdrawn> = requests
        .iter()
        .filter(|request| !is_limited(request) && of(request).is_none())
        .filter_map(|request| world.pipes[request.pipe?].closed_at)
        .map(|until| Withdrawn { until })
        .collect();
    let full = i128::from(rate.burst) * TOKEN;
    // What is given back once others were admitted may let one more in than the bucket holds.
    let spare = withdrawn.len() as i128 * TOKEN;
    let (mut level, mut last, mut checked) = (full, 0, 0);
    let mut levels = vec![(0, full)];
    for group in granted.chunk_by(|one, other| one.0 == other.0) {
        let at = group[0].0;
        level = full.min(level + i128::from(at - last) * i128::from(rate.per_minute));
        last = at;
        let least = level - group.len() as i128 * TOKEN;
        assert!(least + spare >= 0, "{user} was admitted at {at} beyond the limit");
        let held = withdrawn.iter().filter(|withdrawn| withdrawn.until >= at).count() as i128 * TOKEN;
        for remaining in group.iter().filter_map(|(_, request)| request.remaining()) {
            let told = i128::from(remaining) * TOKEN;
            assert!(told <= level - TOKEN + spare, "{user} was told of {remaining} at {at}, the bucket held {level}");
            assert!(told + TOKEN > least - held, "{user} was told of {remaining} at {at}, the bucket held {level}");
            checked += 1;
        }
        level = least;
        levels.push((at, level));
    }
    for request in requests.iter().filter(is_limited) {
        let Planned { asked_at, answered_at, .. } = **request;
        let (before, since) = levels.split_at(levels.partition_point(|&(at, _)| at < asked_at));
        let &(at, level) = before.last().unwrap_or(&(0, full));
        let then = full.min(level + i128::from(asked_at - at) * i128::from(rate.per_minute));
        let meanwhile = since.iter().take_while(|&&(at, _)| at <= answered_at).map(|&(_, level)| level);
        let held = withdrawn.iter().filter(|withdrawn| withdrawn.until >= asked_at).count() as i128 * TOKEN;
        let least = meanwhile.chain([then]).min().unwrap_or(then) - held;
        assert!(least < TOKEN, "{user} was refused between {asked_at} and {answered_at}, the bucket held {least}");
    }
    (limited, checked)
}
