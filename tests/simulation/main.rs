//! The production loop over a fake network, from a seed: the same reactor and proxy as in the binary, with clients and
//! upstreams that write a byte at a time, read late, reset, close early, lie, or go away, and a ledger that takes its
//! time, pauses for minutes, or has few places. Beside plain requests there are WebSocket sessions.
//!
//! After every run an oracle checks: each request had one outcome; what a client took for a whole response was whole
//! and right, byte for byte, and its record was committed before its end; there is one record for each request that an
//! upstream saw, and none for the others; nothing is left in the slabs, and no place is reserved. A run in which nothing
//! can happen any more although somebody still waits is a lost wake-up and fails, and so does one that turns and does
//! nothing. In some runs the target speaks TLS, sends tickets when it likes, and ends without a goodbye; in some
//! the proxy does with its clients, who end with a goodbye, without one, or within a record.
//!
//! Of a session: every byte arrives in order on both sides, and all of them that came before an orderly end; there is
//! one record for it and exactly one for each report that passed; a report's last byte leaves after its commit, or
//! after `LEDGER_WAIT`. After every turn: what is held back, or not read on, waits for something that is under way.
//!
//! In some runs users get their first budget in the middle: from then on nobody is let through who had spent it, and
//! nobody is kept out who had not, whatever settles while the ledger's sum is under way. In others sessions do: one that
//! has spent it ends between two messages and behind its response, with our goodbye whole on both sides, at borders of
//! frames, and one record.
//!
//! In some runs the target is behind a proxy, which opens a tunnel when it likes, a byte at a time, or refuses it, lies or
//! goes away: nothing of a request leaves before there is one.
//!
//! In runs of their own the target keeps books of what it truly puts out, reported or not: no budget is exceeded by more
//! than is promised, whatever the clock does, and nothing is missing in the ledger ([`books`]).
//!
//! `SIM_SEED=n` replays one seed, `SIM_SEEDS=n` runs that many.

mod books;
mod budgets;
mod client;
mod invariants;
mod limits;
mod oracle;
#[path = "../support/rng.rs"]
#[allow(dead_code, reason = "each test uses its part")]
mod rng;
mod scenario;
mod session;
mod tls;
mod upstream;
mod workers;
mod world;

use scenario::run;

/// Seeds of an ordinary test run.
const SEEDS: u64 = 600;

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// Runs every seed, and hands on what was seen; how many they were, where they are many.
fn all_seeds<S>(run: fn(u64) -> S, mut add: impl FnMut(&S)) -> Option<u64> {
    let seeds = match variable("SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..variable("SIM_SEEDS").unwrap_or(SEEDS),
    };
    for seed in seeds.clone() {
        match std::panic::catch_unwind(|| run(seed)) {
            Ok(seen) => add(&seen),
            Err(_) => panic!("seed {seed} failed; replay it with SIM_SEED={seed}"),
        }
    }
    variable("SIM_SEED").is_none().then_some(seeds.end)
}

#[test]
fn every_seed_keeps_every_promise() {
    let mut sums = oracle::Sums::default();
    if let Some(seeds) = all_seeds(run, |seen| sums.add(seen)) {
        println!("{seeds} seeds: {sums}");
        sums.assert_everything_happened();
    }
}

#[test]
fn no_seed_spends_beyond_a_budget_and_none_spends_uncounted() {
    let mut sums = books::Sums::default();
    if let Some(seeds) = all_seeds(books::run, |seen| sums.add(seen)) {
        println!("{seeds} seeds of books: {sums}");
        sums.assert_everything_happened();
    }
}

#[test]
fn a_seed_replays_exactly() {
    for seed in 0..5 {
        assert_eq!(run(seed), run(seed));
        assert_eq!(books::run(seed), books::run(seed));
    }
}
