//! The ledger's promises against `kill -9`: rounds of mixed load on one database, each killed at an instant that nobody
//! chose and started again. Left to others: a crash at a chosen byte of the file (`ledger/exact`), one proxy of two
//! (`ledger_faults/shared`), a chosen instant of a request (`journal`).
//!
//! What each client received, what the upstream saw and what the rows say are held against each other after every
//! round, and the counts are printed.
//!
//! `CRASH_ROUNDS` says how many rounds each mode has (10), `TEST_SEED` where chance begins.

#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // tests are the outside world

mod support;

use openai_api_proxy::ledger::append::Writer;
use openai_api_proxy::ledger::database;
use openai_api_proxy::usage::record::{Record, Usage, UsageSource};
use std::collections::BTreeSet;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};
use support::load::{Load, Running};
use support::proxy::Proxy;
use support::rng::Rng;
use support::rows::{self, Comparison};
use tempfile::TempDir;

/// Rounds on one database; then a new one begins, so that looking through all rows stays quick.
const ROUNDS_A_LEDGER: usize = 10;
/// Rows put in beforehand in some rounds, so that the kill meets folds and checkpoints.
const ROWS_TO_FOLD: usize = 40_000;
const CLIENTS: usize = 6;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Relaxed,
    Settled,
    Journaled,
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Self::Relaxed => "relaxed",
            Self::Settled => "settled",
            Self::Journaled => "journaled",
        }
    }
}

#[test]
fn settled() {
    crash(Mode::Settled, rounds());
}

#[test]
fn journaled() {
    crash(Mode::Journaled, rounds());
}

#[test]
fn relaxed() {
    crash(Mode::Relaxed, rounds().div_ceil(4));
}

fn rounds() -> usize {
    std::env::var("CRASH_ROUNDS").map_or(10, |rounds| rounds.parse().expect("CRASH_ROUNDS is a number"))
}

/// What all rounds of a mode came to.
#[derive(Debug, Default)]
struct Counts {
    rounds: usize,
    requests: u64,
    seen: usize,
    received: usize,
    rows: usize,
    interrupted: usize,
    missing: usize,
    doubled: usize,
    /// The oldest of what `relaxed` has lost, when the kill came.
    oldest_lost: Duration,
}

fn crash(mode: Mode, rounds: usize) {
    let seed: u64 = std::env::var("TEST_SEED").map_or(1, |seed| seed.parse().expect("TEST_SEED is a number"));
    println!("TEST_SEED={seed}");
    let mut rng = Rng::new(seed);
    let mut counts = Counts::default();
    while counts.rounds < rounds {
        let mut ledger = Ledger { mode, load: Load::default(), folder: Some(tempfile::tempdir().unwrap()), judged: 0 };
        let mut lost = BTreeSet::new();
        let rounds = ROUNDS_A_LEDGER.min(rounds - counts.rounds);
        let mut last = Comparison::default();
        for round in 0..rounds {
            last = ledger.round(&mut rng, round, &mut counts, &mut lost);
        }
        counts.rounds += rounds;
        counts.requests += ledger.load.account.requests();
        counts.seen += last.seen;
        counts.received += last.received;
        counts.rows += last.rows;
        counts.interrupted += last.interrupted;
        counts.missing += last.missing.len();
        counts.doubled += last.doubled.len();
    }
    support::say(&format!(
        "{} from seed {seed}: {} rounds, {} requests, {} seen by the upstream, {} received whole, {} rows, {} of them left open; \
         {} missing, {} doubled{}",
        mode.name(),
        counts.rounds,
        counts.requests,
        counts.seen,
        counts.received,
        counts.rows,
        counts.interrupted,
        counts.missing,
        counts.doubled,
        if mode == Mode::Relaxed {
            format!(", the oldest lost was {:?} old", counts.oldest_lost)
        } else {
            String::new()
        }
    ));
    assert!(counts.received > rounds, "hardly anything was received: {counts:?}");
    assert_eq!(counts.interrupted > 0, mode == Mode::Journaled, "{counts:?}");
}

/// One database through its rounds.
struct Ledger {
    mode: Mode,
    load: Load,
    /// `None` only within a round.
    folder: Option<TempDir>,
    /// So many of what was received are judged already.
    judged: usize,
}

impl Ledger {
    fn round(&mut self, rng: &mut Rng, round: usize, counts: &mut Counts, lost: &mut BTreeSet<u64>) -> Comparison {
        let folder = self.folder.take().expect("between rounds");
        if round % 4 == 2 {
            preload(&folder.path().join("usage.db"));
        }
        let proxy = self.start(folder);
        let running = self.load.start(proxy.addr(), CLIENTS, rng.next());
        let killed_at = self.kill(rng, proxy, running);

        let folder = self.folder.take().expect("killed");
        let proxy = self.start(folder);
        let conn = rows::reader(&proxy.database());
        rows::assert_sums(&proxy, &conn);
        let compared = rows::compare(&rows::read(&conn), &self.load.account);
        drop(conn);
        let here = format!("{} round {}", self.mode.name(), counts.rounds + round);
        for found in [&compared.wrong, &compared.doubled, &compared.unseen] {
            assert!(found.is_empty(), "{here}: {compared:#?}");
        }
        match self.mode {
            Mode::Relaxed => self.judge_lost(&compared, killed_at, counts, lost),
            Mode::Settled => assert!(compared.missing.is_empty(), "{here}: {compared:#?}"),
            Mode::Journaled => {
                assert!(compared.missing.is_empty() && compared.unrecorded.is_empty(), "{here}: {compared:#?}");
            }
        }
        self.judged = compared.received;
        self.folder = Some(proxy.into_folder());
        compared
    }

    fn start(&self, folder: TempDir) -> Proxy {
        let target = self.load.upstream.url();
        Proxy::start_in(folder, &[("PROXY_TARGET", &target), ("LEDGER_DURABILITY", self.mode.name())])
    }

    /// Kills it: mostly under load, now and then just after, when it begins to fold what is left.
    fn kill(&mut self, rng: &mut Rng, proxy: Proxy, running: Running) -> Instant {
        thread::sleep(Duration::from_micros(5_000 + rng.below(250_000) as u64));
        let running = if rng.below(5) == 0 {
            running.stop();
            thread::sleep(Duration::from_micros(rng.below(15_000) as u64));
            None
        } else {
            Some(running)
        };
        let killed_at = Instant::now();
        self.folder = Some(proxy.into_folder());
        if let Some(running) = running {
            running.join();
        }
        killed_at
    }

    /// Only the youngest may be lost, and with one all that its client received later. How young they were is printed,
    /// not judged: on a busy machine the ledger's thread waits for its turn like all others.
    fn judge_lost(&self, compared: &Comparison, killed_at: Instant, counts: &mut Counts, lost: &mut BTreeSet<u64>) {
        let received = self.load.account.received();
        for missing in compared.missing.iter().filter(|missing| !lost.contains(&missing.n)) {
            let later = received.iter().skip(self.judged).filter(|r| r.client == missing.client && r.at > missing.at);
            let kept: Vec<_> = later.filter(|later| compared.missing.iter().all(|m| m.n != later.n)).collect();
            assert!(kept.is_empty(), "{missing:?} is lost, and these are not: {kept:#?}");
            let age = killed_at.saturating_duration_since(missing.at);
            counts.oldest_lost = counts.oldest_lost.max(age);
        }
        lost.extend(compared.missing.iter().map(|missing| missing.n));
    }
}

/// Rows that wait for their fold, of nobody's requests.
fn preload(database: &Path) {
    let conn = database::open(database).unwrap();
    let mut writer = Writer::new(&conn).unwrap();
    let record = |row: u64| Record {
        started_at: 1_700_000_000_000_000_000 + row * 1_000_000_000,
        user: format!("before-{}", row % 100).into(),
        model: Some("gpt-4o".into()),
        status: 200,
        usage_source: UsageSource::Reported,
        usage: Usage { input_tokens: row, output_tokens: 1, total_tokens: row + 1, ..Usage::default() },
        cost_nano_usd: Some(row),
        key_id: (!row.is_multiple_of(3)).then_some(row.cast_signed() % 100 + 1),
        ..Record::default()
    };
    for first in (0..ROWS_TO_FOLD).step_by(4000) {
        writer.append(&(first..first + 4000).map(|row| record(row as u64)).collect::<Vec<_>>()).unwrap();
    }
}
