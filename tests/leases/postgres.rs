//! The model of the engine against its functions on a real server: the same answers to messages that are repeated,
//! stale, of leases that nobody knows, that have expired or are over.
//!
//! `LEASE_ASKS=n` asks so many.

use crate::engine::Engine;
use crate::support::postgres::Postgres;
use crate::support::rng::Rng;
use openai_api_proxy::fleet::{leases, schema};
use openai_api_proxy::limit::bucket::Rate;
use openai_api_proxy::limit::lease::{Answer, Ask, FIRST_SEQ, Kind, Terms};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Messages of an ordinary test run.
const ASKS: u64 = 5_000;
const LASTS_MS: i64 = 10_000;

/// A lease as a node that forgets nothing has it.
#[derive(Clone, Debug, Default)]
struct Known {
    lease: i64,
    granted: i64,
    spent: i64,
    returned: i64,
}

impl Known {
    fn free(&self) -> i64 {
        self.granted - self.spent - self.returned
    }
}

/// Messages at random, of three ledgers whose processes begin anew from time to time.
struct Nodes {
    rng: Rng,
    accounts: Vec<(Arc<str>, Terms)>,
    leases: BTreeMap<(i16, Arc<str>), Known>,
    sent: Vec<(i16, Ask)>,
    seqs: [i64; 4],
}

impl Nodes {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let kinds = [Kind::Requests, Kind::Tokens, Kind::Slots, Kind::Budget];
        let names = kinds.into_iter().flat_map(|kind| ["x", "ジ", "a:\"b\\ c"].map(|name| (kind, name)));
        let accounts = names.map(|(kind, name)| {
            let cap = [3, 100, 5_000, 1_000_000_000][rng.below(4)];
            let terms = if kind.decays() {
                let per_minute = [3, 600, 100_000, 1_000_000_000][rng.below(4)];
                Terms::of_rate(kind, Rate { per_minute, burst: cap })
            } else {
                Terms::of_stock(kind, cap)
            };
            (format!("{}:user::{name}", kind.letter()).into(), terms)
        });
        Self { accounts: accounts.collect(), rng, leases: BTreeMap::new(), sent: Vec::new(), seqs: [FIRST_SEQ; 4] }
    }

    fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.rng.below(of.len())].clone()
    }

    fn up_to(&mut self, most: i64) -> i64 {
        (self.rng.next() % (most.unsigned_abs() + 1)).cast_signed()
    }

    fn batch(&mut self, ledger: i16) -> Vec<Ask> {
        if self.rng.below(50) == 0 {
            self.seqs[ledger as usize] = (self.seqs[ledger as usize] / FIRST_SEQ + 1) * FIRST_SEQ;
            self.leases.retain(|(of, _), _| *of != ledger);
        }
        let count = 1 + self.rng.below(4);
        let mut asks: Vec<Ask> = Vec::new();
        for (account, terms) in self.accounts.clone() {
            if self.rng.below(self.accounts.len()) >= count {
                continue;
            }
            let mut before = self.sent.iter().filter(|(of, ask)| *of == ledger && ask.account == account);
            if let Some((_, again)) = before.nth(self.rng.below(20)).filter(|_| self.rng.below(8) == 0) {
                asks.push(again.clone());
                continue;
            }
            let ask = self.ask(ledger, account, terms);
            self.sent.push((ledger, ask.clone()));
            asks.push(ask);
        }
        // In any order: each is answered at its place.
        let turn = self.rng.below(asks.len());
        asks.rotate_left(turn);
        asks
    }

    fn ask(&mut self, ledger: i16, account: Arc<str>, terms: Terms) -> Ask {
        self.seqs[ledger as usize] += 1;
        let seq = self.seqs[ledger as usize];
        let mut known = self.leases.get(&(ledger, Arc::clone(&account))).cloned().unwrap_or_default();
        if known.lease == 0 || self.rng.below(40) == 0 {
            known = Known { lease: seq, ..Known::default() };
        }
        let half = known.free().max(0) / 2;
        known.spent += self.pick(&[0, 1, half, 2 * half, 5]);
        if known.spent > 0 && self.rng.below(3) == 0 {
            known.spent -= self.up_to(known.spent);
        }
        if known.free() > 0 && self.rng.below(3) == 0 {
            known.returned += self.up_to(known.free());
        }
        let lease = if self.rng.below(60) == 0 { known.lease - 1 } else { known.lease };
        let need = self.pick(&[0, 0, 1, 7, terms.cap]);
        let ask = Ask {
            account: Arc::clone(&account),
            terms,
            lease,
            opens: known.granted == 0 || self.rng.below(30) == 0,
            seq,
            spent: known.spent,
            returned: known.returned,
            held: if terms.kind == Kind::Budget { self.up_to(known.spent.max(0)) } else { 0 },
            want: self.pick(&[0, 1, 10, terms.cap]),
            need,
            least: if self.rng.coin() { need } else { self.up_to(need) },
            closes: self.rng.below(20) == 0,
        };
        self.leases.insert((ledger, account), known);
        ask
    }

    fn hear(&mut self, ledger: i16, ask: &Ask, answer: Answer) {
        let key = (ledger, Arc::clone(&ask.account));
        match (answer.granted, self.leases.get_mut(&key)) {
            (None, _) => drop(self.leases.remove(&key)),
            (Some(granted), Some(known)) if known.lease == ask.lease => known.granted = granted,
            _ => {}
        }
        if ask.closes && ask.terms.kind.expires() {
            self.leases.remove(&key);
        }
    }
}

#[test]
fn the_model_answers_as_the_engine_does() {
    let Some(server) = Postgres::start() else { return };
    let mut client = server.client();
    schema::prepare(&mut client).unwrap();
    let (mut asked, mut refused, mut unknown, mut recalls) = (0, 0, 0, 0);
    let asks_max = crate::variable("LEASE_ASKS").unwrap_or(ASKS);
    for seed in 0.. {
        let (mut engine, mut nodes, mut now) = (Engine::default(), Nodes::new(seed), 1_700_000_000_000);
        client.batch("TRUNCATE oap_accounts, oap_recalls").unwrap();
        engine.quiet_until = if seed % 8 == 0 { now + 30_000 } else { 0 };
        client.query("UPDATE oap_quiet SET until_ms = $1", &[&engine.quiet_until]).unwrap();
        for step in 0..60 {
            now += match nodes.rng.below(20) {
                0 => -nodes.up_to(3_000),
                1 => 3_700_000,
                _ => nodes.pick(&[0, 1, 50, 1_000, 12_000]),
            };
            let ledger = 1 + nodes.rng.below(3) as i16;
            let asks = nodes.batch(ledger);
            let (answers, recalled) = engine.exchange(now, LASTS_MS, ledger.into(), &asks);
            let found = leases::exchange(&mut client, Some(now), LASTS_MS, ledger, &asks).unwrap();
            assert_eq!(found.answers, answers, "seed {seed}, step {step}: {asks:#?}");
            let mut found = found.recalled;
            found.sort();
            assert_eq!(found, recalled, "seed {seed}, step {step}: {asks:#?}");
            for (ask, answer) in asks.iter().zip(&answers) {
                nodes.hear(ledger, ask, *answer);
                refused += u64::from(answer.wait_ms != 0);
                unknown += u64::from(answer.granted.is_none());
            }
            asked += asks.len() as u64;
            recalls += recalled.len();
        }
        if asked >= asks_max {
            break;
        }
    }
    println!("{asked} messages, {refused} refused, {unknown} of unknown leases, {recalls} recalls: the same answers");
    assert!(refused > 0 && unknown > 0 && recalls > 0, "the same, and of one kind only");
}
