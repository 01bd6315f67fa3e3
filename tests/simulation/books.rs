//! The target's own books beside ours: what it truly puts out for each user, reported or not, whatever becomes of the
//! answer, at the prices of the built-in table; against a budget of a day or a month, and against the ledger.
//!
//! The promise: for each user, or in half of the runs for all of them together, and each day or month of the clock wherever that is set to, the books exceed the budget
//! by no more than one answer's cost (of a request that was let through because something was left). A session is let
//! through by the worst of one response, and is ended behind the one that spends the budget: so each session may exceed
//! it by one answer more; and by those that it gets while nobody knows what is spent, as the clock has gone back.
//!
//! And whatever is in the books is in the ledger: as reported, as an estimate that is not below the truth, or as unknown
//! with its reservation spent; never as nothing.
//!
//! The target keeps to what it is told: no answer is longer than its stated maximum or its model's, no input is more
//! than its text. What it breaks off itself it bills as far as it went out whole.

mod judge;
mod plan;
mod watch;

use crate::budgets::Budgets;
use crate::invariants::Invariants;
use crate::rng::Rng;
use crate::scenario::{Peers, Plan, actor, clients, settings};
use crate::session::client::Client as SessionClient;
use crate::workers::{FakeWorkers, SharedWorkers};
use crate::world::{Net, World};
pub use judge::{Seen, Sums};
use openai_api_proxy::base::clock::{MILLISECOND, Now, SECOND};
use openai_api_proxy::limit::overrides::Limits;
use openai_api_proxy::metrics::{self, Metrics};
use openai_api_proxy::policy::ReadOn;
use openai_api_proxy::price::PriceTable;
use openai_api_proxy::proxy::{Proxy, Settings};
use openai_api_proxy::reactor::{Reactor, Turn};
use plan::Kind;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use watch::Watch;

/// Turns after which a run is taken to go on for ever.
const TURNS_MAX: usize = 200_000;

/// What the target puts out for a request.
#[derive(Clone, Debug)]
pub struct Truth {
    pub kind: Kind,
    /// What it calls its model.
    pub model: String,
    pub input: u64,
    pub output: u64,
    /// Nano-dollars a token.
    pub price_in: u64,
    pub price_out: u64,
    /// The target breaks its answer off.
    pub cut: bool,
}

impl Default for Truth {
    fn default() -> Self {
        let (input, output, price_in, price_out) = (0, 0, 0, 0);
        Self { kind: Kind::Json, model: String::new(), input, output, price_in, price_out, cut: false }
    }
}

impl Truth {
    /// Nano-dollars.
    pub fn cost(&self) -> u64 {
        self.input * self.price_in + self.output * self.price_out
    }
}

/// An entry of the target's books: a request, or a response of a session.
#[derive(Clone, Debug, Default)]
pub struct Books {
    pub cost: u64,
    /// Of a session's: where in the answer its beginning has been told.
    pub begun_at: usize,
    /// It is in the books: the target has begun with it.
    pub billed: bool,
    /// The days of the clock while it was asked for, until it was begun.
    pub days: BTreeSet<i64>,
}

/// What is asked in a run, and what the target's books say.
pub struct Ledgers {
    pub truths: Vec<Truth>,
    pub requests: Vec<Books>,
    pub sessions: Vec<Vec<Books>>,
    pub limits: Limits,
    /// They are of everybody together.
    pub of_all: bool,
}

/// What users may spend.
fn limits(rng: &mut Rng) -> Limits {
    let budget = [1_000_000, 100_000_000, 300_000_000, 1_000_000_000, 3_000_000_000][rng.below(5)];
    match rng.below(3) {
        0 => Limits { month_nano_usd: Some(budget), ..Limits::default() },
        1 => Limits { day_nano_usd: Some(budget), month_nano_usd: Some(2 * budget), ..Limits::default() },
        _ => Limits { day_nano_usd: Some(budget), ..Limits::default() },
    }
}

/// What is decided for a run.
struct Setup {
    world: World,
    plan: Plan,
    peers: Peers,
    workers: FakeWorkers,
    settings: Settings,
    ledgers: Ledgers,
    stop_early: bool,
    ledger_places: usize,
}

fn setup(seed: u64) -> Setup {
    // A world of its own: no other run depends on what is drawn here.
    let mut world = World::new(seed ^ 0x0b00_c5ee_d000);
    world.clock_hours = [0, 48, 48, 1_500][world.rng.below(4)];
    world.jumps = [0, 0, 60][world.rng.below(3)];
    let (fine, users) = (world.fine, 1 + world.rng.below(2));
    let (requests, truths) = plan::requests(&mut world.rng, users, fine);
    let count = [0, 0, 1, 2][world.rng.below(4)];
    let (sessions, of_sessions) = (0..count).map(|number| plan::session(&mut world.rng, number, fine, users)).unzip();
    let ledger_wait = [0, 2 * SECOND][world.rng.below(2)];
    let journaled = count == 0 && ledger_wait == 0 && world.rng.below(3) == 0;
    let plan = Plan {
        requests,
        sessions,
        ledger_wait,
        may_let_go: world.jumps > 0 && ledger_wait > 0,
        idle_closes: false,
        journaled: journaled.then(BTreeSet::new),
        tls: None,
        client_tls: false,
        egress: false,
        tunnels: (0, 0),
        rate: None,
        budget: None,
        committed: 0,
        committed_names: BTreeSet::new(),
    };
    let aborts = world.rng.below(4) > 0;
    let share = 1 + world.rng.below(3);
    let peers = Peers {
        clients: clients(&mut world, (0..plan.requests.len()).collect(), share, aborts),
        late: Vec::new(),
        sessions: (0..count).map(|number| SessionClient::new(&mut world, number)).collect(),
        upstreams: Vec::new(),
    };
    let read_on = [ReadOn::Nobodys, ReadOn::LimitedUsers, ReadOn::Everybodys][world.rng.below(3)];
    let stall_max = [0, 0, 20 * MILLISECOND, 50 * SECOND][world.rng.below(4)];
    let limits = limits(&mut world.rng);
    // Of what is drawn for it, nothing else depends.
    let of_all = Rng::new(seed ^ 0xa11).coin();
    let (of_each, of_total) = if of_all { (Limits::default(), limits) } else { (limits, Limits::default()) };
    let settings = settings(read_on, &plan, 100, world.jumps > 0, (256 << 20, [64 << 10, 1][world.rng.below(2)]));
    let places = |plan: &Plan| plan.requests.iter().map(|_| Books::default()).collect::<Vec<_>>();
    let mut entries = places(&plan);
    entries.iter_mut().zip(&truths).for_each(|(entry, truth)| entry.cost = truth.cost());
    Setup {
        workers: FakeWorkers::new(1, stall_max, Budgets::default()),
        settings: Settings { limits: of_each, total_limits: of_total, connections_max: 8, ..settings },
        ledgers: Ledgers { truths, requests: entries, sessions: of_sessions, limits, of_all },
        stop_early: world.rng.below(6) == 0,
        ledger_places: 100,
        world,
        plan,
        peers,
    }
}

/// One run; what was seen in it.
pub fn run(seed: u64) -> Seen {
    let Setup { world, plan, peers, workers, settings, ledgers, stop_early, ledger_places } = setup(seed);
    let workers = Rc::new(RefCell::new(workers));
    let world = Rc::new(RefCell::new(world));
    let plan = Rc::new(RefCell::new(plan));
    let ledgers = Rc::new(RefCell::new(ledgers));
    let others = actor(&workers, &plan, &Rc::new(RefCell::new(peers)), stop_early);
    let act = {
        let (plan, ledgers) = (Rc::clone(&plan), Rc::clone(&ledgers));
        Rc::new(move |world: &mut World| {
            let acted = others(world);
            ledgers.borrow_mut().follow(world, &plan.borrow());
            acted
        })
    };
    let net = Net { world: Rc::clone(&world), act };
    let metrics = Metrics::new(metrics::LabelLimits::default(), 0);
    let proxy = Proxy::new(settings, PriceTable::built_in(), metrics, Now::default());
    let mut reactor = Reactor::new(net, SharedWorkers(Rc::clone(&workers)), proxy, 30 * SECOND);
    let mut invariants = Invariants::new(ledger_places as u64, 256 << 20);
    let mut watch = Watch::default();
    let mut turns = 0;
    while reactor.turn().expect("the fake poller works") == Turn::Continue {
        turns += 1;
        assert!(turns < TURNS_MAX, "the run does not end");
        invariants.check(reactor.proxy(), &world.borrow());
        watch.check(reactor.proxy(), &workers.borrow(), &world.borrow(), &plan.borrow(), &ledgers.borrow());
    }
    drop(reactor);
    let workers = &mut *workers.borrow_mut();
    std::mem::take(&mut workers.pending).into_iter().for_each(|line| _ = workers.commit(line));
    judge::judge(&ledgers.borrow(), &plan.borrow(), &workers.committed, &watch)
}
