//! The leases of a fleet: nodes with production purses around a model of the engine, from a seed ([`world`]), judged by
//! one bucket in true time ([`oracle`]); and the model against the engine's functions, on a real PostgreSQL
//! ([`postgres`]).
//!
//! Some rules of the model have tests of their own ([`rules`]).
//!
//! `LEASE_SEED=n` replays one seed, `LEASE_SEEDS=n` runs that many of each plan.

#![allow(clippy::disallowed_methods)] // tests are the outside world

mod engine;
mod oracle;
#[cfg(feature = "fleet")]
mod postgres;
mod rules;
#[path = "../support/mod.rs"]
mod support;
mod world;

use openai_api_proxy::base::clock::SECOND;
use openai_api_proxy::limit::bucket::Rate;
use openai_api_proxy::limit::lease::{Kind, Terms};
use openai_api_proxy::limit::purse::OnOutage;
use world::{Plan, Seen, World};

/// Seeds of an ordinary test run, of each plan.
const SEEDS: u64 = 28;

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

fn seeds() -> std::ops::Range<u64> {
    match variable("LEASE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..variable("LEASE_SEEDS").unwrap_or(SEEDS),
    }
}

fn rate(kind: Kind, burst: u64, per_minute: u64) -> Terms {
    Terms::of_rate(kind, Rate { per_minute, burst })
}

/// Limits of all kinds, each with requests of its sizes, and so many a second.
fn plans() -> Vec<(Terms, &'static [i64], u64)> {
    const SIZES: &[i64] = &[1, 1, 2, 5, 20];
    vec![
        (rate(Kind::Tokens, 600, 600), SIZES, 4),
        (rate(Kind::Tokens, 5_000, 60_000), SIZES, 400),
        (rate(Kind::Requests, 60, 60), &[1], 3),
        (rate(Kind::Requests, 3, 3), &[1], 1),
        (Terms::of_stock(Kind::Budget, 5_000), SIZES, 20),
        (Terms::of_stock(Kind::Slots, 8), &[1], 20),
    ]
}

fn plan(seed: u64, terms: Terms, sizes: &'static [i64], load: u64) -> Plan {
    Plan {
        terms,
        nodes: 2 + (seed % 4) as usize,
        sizes,
        load,
        lasts: 120 * SECOND,
        faults: true,
        policy: OnOutage::Closed,
        cuts: Vec::new(),
        loss: None,
        exceeds: false,
        settles: true,
        bursts: false,
        at_once: None,
    }
}

/// Of a budget, the last answer may cost more than was left.
fn excess_max(terms: Terms, sizes: &[i64]) -> i64 {
    if terms.kind == Kind::Budget { *sizes.iter().max().expect("some") - 1 } else { 0 }
}

#[test]
fn no_seed_lets_more_through_than_one_bucket_would() {
    let mut all = Seen::default();
    for (terms, sizes, load) in plans() {
        for seed in seeds() {
            for (exceeds, bursts) in [(false, false), (true, false), (false, true)] {
                let seen = World::new(seed, Plan { exceeds, bursts, ..plan(seed, terms, sizes, load) }).run();
                let most = excess_max(terms, sizes);
                assert!(seen.excess <= most, "{terms:?}: seed {seed} lets {} too many through: {seen:?}", seen.excess);
                all.add(&seen);
            }
        }
    }
    println!("{} seeds of each limit: {all:?}", seeds().end - seeds().start);
    let Seen { admitted, refused, parked, crashes, cuts, sleeps, jumps, lost, doubled, last_of_budget, .. } = all;
    let happened = [admitted, refused, parked, crashes, cuts, sleeps, jumps, lost, doubled, last_of_budget];
    assert!(variable("LEASE_SEED").is_some() || !happened.contains(&0), "something never happened: {all:?}");
}

/// All nodes are cut off: together they let through no more than the limit. Some of them: their shares beyond it.
#[test]
fn shares_of_nodes_that_are_cut_off_are_bounded() {
    const CUT: u64 = 45 * SECOND;
    let terms = rate(Kind::Tokens, 6_000, 6_000);
    for seed in seeds() {
        for cut in [3, 1] {
            let cuts = (0..cut).map(|node| (node, 60 * SECOND, 60 * SECOND + CUT)).collect();
            let plan = Plan {
                nodes: 3,
                lasts: 240 * SECOND,
                faults: false,
                policy: OnOutage::Share,
                cuts,
                ..plan(seed, terms, &[1, 2, 5], 150)
            };
            let seen = World::new(seed, plan).run();
            let share = if cut == 3 { 0 } else { 6_000 * 45 / 60 / 3 };
            // Clocks of nodes are fast and slow by 0.02 %.
            assert!(seen.excess <= share + 2, "seed {seed}: {cut} of 3 exceed the limit by {}", seen.excess);
            assert!(seen.without_engine > 0 && seen.cuts == cut as u64, "seed {seed}: {seen:?}");
        }
    }
}

/// An engine that comes back without its last seconds: no more is let through than what it had granted in them, and of
/// what flowed back meanwhile.
#[test]
fn an_engine_that_forgets_its_last_seconds_lets_through_what_it_has_forgotten() {
    const SIZES: &[i64] = &[1, 1, 2, 5, 20];
    for (terms, load, lost) in [
        (rate(Kind::Tokens, 5_000, 60_000), 400, 1),
        (rate(Kind::Tokens, 5_000, 60_000), 400, 5),
        (Terms::of_stock(Kind::Budget, 5_000), 20, 5),
    ] {
        let (mut worst, mut forgotten) = (0, 0);
        for seed in seeds() {
            let loss = Some((20 * SECOND + seed % 60 * SECOND / 2, lost * SECOND));
            let plan = Plan { nodes: 3, lasts: 60 * SECOND, faults: false, loss, ..plan(seed, terms, SIZES, load) };
            let seen = World::new(seed, plan).run();
            assert_eq!(seen.losses, 1);
            let most = seen.forgotten + excess_max(terms, SIZES);
            assert!(seen.excess <= most, "{terms:?}: seed {seed}: {seen:?}");
            (worst, forgotten) = (worst.max(seen.excess), forgotten.max(seen.forgotten));
        }
        println!("{terms:?} without {lost} s: {worst} too many at worst, at most {forgotten} had been granted");
    }
}

/// Where there is more demand than the limit lets through, nearly all of the limit is used, with few messages.
#[test]
fn a_limit_is_used_up() {
    for (terms, sizes, load, minutes) in [
        (rate(Kind::Requests, 600, 600), &[1_i64][..], 15, 5),
        (rate(Kind::Requests, 3, 3), &[1], 1, 40),
        (rate(Kind::Tokens, 2_000_000, 2_000_000), &[500, 1_000, 2_000, 4_000], 27, 5),
    ] {
        let (mut used, mut asks) = (0, 0);
        for seed in 0..4 {
            let plan = Plan { nodes: 3, lasts: minutes * 60 * SECOND, faults: false, ..plan(seed, terms, sizes, load) };
            let seen = World::new(seed, Plan { settles: false, ..plan }).run();
            used += seen.units;
            asks += seen.asks;
        }
        let limit = 4 * (terms.cap + terms.per_minute * minutes.cast_signed());
        println!("{terms:?}: {} ‰ are used, {} messages a minute", used * 1000 / limit, asks / 4 / minutes);
        assert!(used * 100 >= limit * 97, "{terms:?}: only {used} of {limit} are used");
    }
}

/// Of 600 requests at once as many are let through as one node would let through.
#[test]
fn many_requests_at_once_find_the_limit_and_no_more() {
    for (terms, size) in [
        (rate(Kind::Requests, 60, 60), 1),
        (rate(Kind::Requests, 7, 7), 1),
        (rate(Kind::Tokens, 3_000, 3_000), 30),
        (Terms::of_stock(Kind::Slots, 10), 1),
        (Terms::of_stock(Kind::Budget, 5_000), 100),
    ] {
        for seed in seeds() {
            let sizes: &'static [i64] = Box::leak(vec![size].into_boxed_slice());
            let plan = Plan {
                nodes: 3,
                lasts: 150 * 1_000_000,
                faults: false,
                at_once: Some(600),
                ..plan(seed, terms, sizes, 1)
            };
            let seen = World::new(seed, plan).run();
            assert_eq!(seen.units, terms.cap, "{terms:?}: seed {seed}: {seen:?}");
        }
    }
}

#[test]
fn a_seed_replays_exactly() {
    for (terms, sizes, load) in plans() {
        let run = || World::new(7, plan(7, terms, sizes, load)).run();
        assert_eq!(run(), run());
    }
}
