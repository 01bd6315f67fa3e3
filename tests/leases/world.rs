//! Nodes with production purses around a model engine: messages that are lost, doubled and late, nodes that crash, are
//! cut off or sleep, clocks that are wrong, drift and jump, and an engine that forgets its last seconds. Everything
//! from a seed.

use crate::engine::Engine;
use crate::oracle::Oracle;
use crate::support::rng::Rng;
use openai_api_proxy::base::clock::{MILLISECOND, Now, SECOND};
use openai_api_proxy::limit::lease::{Answer, Ask, FIRST_SEQ, Kind, Terms};
use openai_api_proxy::limit::purse::{BEAT, Demand, OnOutage, Outage, Room};
use openai_api_proxy::limit::purses::Purses;
use std::collections::{BTreeMap, VecDeque};

/// How long a lease lasts.
pub const LEASE: u64 = 10 * SECOND;
/// An ask that is not answered by then has failed.
const ASK_TIMEOUT: u64 = 200 * MILLISECOND;
/// What a request waits for the engine.
const WAIT: u64 = 250 * MILLISECOND;
const ACCOUNT: &str = "x:user::u";
/// The engine's clock when the world begins, milliseconds.
const ENGINE_EPOCH: i64 = 1_700_000_000_000;

/// What a run is like.
#[derive(Clone, Debug)]
pub struct Plan {
    pub terms: Terms,
    pub nodes: usize,
    /// Sizes of requests, one as likely as another.
    pub sizes: &'static [i64],
    /// Requests a second, all nodes together.
    pub load: u64,
    pub lasts: u64,
    /// Nodes crash, are cut off and sleep, clocks jump, messages are lost, doubled and late.
    pub faults: bool,
    pub policy: OnOutage,
    /// A node is cut off from the first instant to the second.
    pub cuts: Vec<(usize, u64, u64)>,
    /// At this instant the engine forgets so much, ns.
    pub loss: Option<(u64, u64)>,
    /// Requests may settle above what they took.
    pub exceeds: bool,
    /// Requests use less than they took; else just that.
    pub settles: bool,
    /// Requests come in bursts, with silence, or few of them, in between.
    pub bursts: bool,
    /// So many requests come at once, and no others.
    pub at_once: Option<u64>,
}

/// What a run has seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub admitted: u64,
    pub units: i64,
    pub refused: u64,
    pub parked: u64,
    pub without_engine: u64,
    pub asks: u64,
    pub crashes: u64,
    pub cuts: u64,
    pub sleeps: u64,
    pub jumps: u64,
    pub lost: u64,
    pub doubled: u64,
    pub losses: u64,
    pub last_of_budget: u64,
    /// Units that an engine had granted and has forgotten.
    pub forgotten: i64,
    /// By which the limit was exceeded.
    pub excess: i64,
}

impl Seen {
    /// Adds what another run has seen.
    pub fn add(&mut self, other: &Self) {
        let Self { admitted, units, refused, parked, without_engine, asks, crashes, cuts, sleeps, jumps, .. } = other;
        self.admitted += admitted;
        self.units += units;
        self.refused += refused;
        self.parked += parked;
        self.without_engine += without_engine;
        self.asks += asks;
        self.crashes += crashes;
        self.cuts += cuts;
        self.sleeps += sleeps;
        self.jumps += jumps;
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.losses += other.losses;
        self.last_of_budget += other.last_of_budget;
        self.excess = self.excess.max(other.excess);
    }
}

#[derive(Debug)]
enum Event {
    Arrive,
    /// The load is another one from now on, perhaps after a silence.
    Silence,
    Beat(usize, i64),
    /// A message reaches the engine; false for its double.
    Serve(Box<Message>, bool),
    Reply(Box<Message>, Answer, bool),
    NoAnswer(usize, i64, i64),
    /// A request has waited for as long as it may.
    Waited(usize, i64, u64),
    /// A request that began then has used so much of what it took.
    Settle(usize, i64, u64, [i64; 2]),
    Fault,
    Restart(usize),
    Heal(usize, u64),
    Cut(usize),
    Snapshot,
    Lose(u64),
}

#[derive(Clone, Debug)]
struct Message {
    node: usize,
    process: i64,
    ask: Ask,
    /// Excess that had settled when it was sent, and what had been given back.
    exceeded: i64,
    given: i64,
}

struct Parked {
    number: u64,
    size: i64,
}

/// What the engine will hear of a process, also when that is gone.
#[derive(Default)]
struct Books {
    /// Given back; and of that, what was told or taken again.
    given: i64,
    credited: i64,
    /// Taken beyond what was expected, and of that, what the engine was told.
    exceeded: (i64, i64),
}

/// A process, with its purses, and what is true of it.
struct Process {
    process: i64,
    purses: Purses,
    parked: VecDeque<Parked>,
    in_flight: i64,
    /// Of requests in flight, those whose slots the engine has let go of when the lease expired.
    let_go: i64,
    let_go_at: u64,
}

struct Node {
    process: Option<Process>,
    /// What its ledger has spent.
    spent: i64,
    is_cut: bool,
    /// While it is cut off nobody asks it.
    is_avoided: bool,
    is_down: bool,
    /// It sleeps until then.
    asleep: u64,
    slept: u64,
    mono_offset: u64,
    unix_offset: u64,
    /// Parts of a million by which its clock is fast, plus 1000.
    drift: u64,
}

pub struct World {
    plan: Plan,
    rng: Rng,
    now: u64,
    queue: BTreeMap<(u64, u64), Event>,
    events: u64,
    engine: Engine,
    snapshots: VecDeque<(u64, Engine)>,
    nodes: Vec<Node>,
    processes: i64,
    books: BTreeMap<i64, Books>,
    oracle: Oracle,
    requests: u64,
    silent_until: u64,
    /// How many quarters of the planned load there are now.
    quarters: u64,
    pub seen: Seen,
}

impl World {
    pub fn new(seed: u64, plan: Plan) -> Self {
        let mut rng = Rng::new(seed);
        let nodes = (0..plan.nodes).map(|_| Node {
            process: None,
            spent: 0,
            is_cut: false,
            is_avoided: false,
            is_down: false,
            asleep: 0,
            slept: 0,
            mono_offset: rng.next() >> 20,
            unix_offset: 1_600_000_000 * SECOND + (rng.next() >> 14),
            drift: 1_000 + rng.next() % 401 - 200,
        });
        let nodes = nodes.collect();
        let oracle = Oracle::new(plan.terms);
        let mut world = Self {
            plan,
            rng,
            now: 0,
            queue: BTreeMap::new(),
            events: 0,
            engine: Engine::default(),
            snapshots: VecDeque::new(),
            nodes,
            processes: 0,
            books: BTreeMap::new(),
            oracle,
            requests: 0,
            silent_until: 0,
            quarters: 4,
            seen: Seen::default(),
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        for node in 0..self.plan.nodes {
            self.start(node);
        }
        match self.plan.at_once {
            None => self.after(0, Event::Arrive),
            Some(count) => (0..count).for_each(|_| self.within(MILLISECOND, Event::Arrive)),
        }
        if self.plan.bursts {
            self.after(0, Event::Silence);
        }
        if self.plan.faults {
            self.within(self.plan.lasts / 4, Event::Fault);
        }
        for (node, from, until) in self.plan.cuts.clone() {
            self.after(from, Event::Cut(node));
            self.after(until, Event::Heal(node, 0));
        }
        if let Some((at, lost)) = self.plan.loss {
            self.after(0, Event::Snapshot);
            self.after(at, Event::Lose(lost));
        }
    }

    /// Runs to the end; what was seen.
    pub fn run(mut self) -> Seen {
        while let Some(((at, _), event)) = self.queue.pop_first() {
            if at > self.plan.lasts {
                break;
            }
            self.now = at;
            self.happen(event);
        }
        let is_budget = self.plan.terms.kind == Kind::Budget;
        self.seen.excess = if is_budget { self.seen.excess } else { self.oracle.excess() };
        self.seen
    }

    fn after(&mut self, wait: u64, event: Event) {
        self.events += 1;
        self.queue.insert((self.now + wait, self.events), event);
    }

    fn within(&mut self, time: u64, event: Event) {
        let wait = self.rng.next() % time.max(1);
        self.after(wait, event);
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.rng.below(count) == 0
    }

    /// A node's clocks.
    fn clock(&self, node: usize) -> Now {
        let Node { mono_offset, unix_offset, drift, slept, .. } = self.nodes[node];
        let real = self.now + self.now / 1_000_000 * drift - self.now / 1_000;
        Now { mono: mono_offset + real - slept, unix: unix_offset + real }
    }

    /// The engine's, with a drift of its own: a limit's minute is the engine's.
    fn engine_clock(&self) -> i64 {
        ENGINE_EPOCH + (self.true_time() / MILLISECOND).cast_signed()
    }

    fn true_time(&self) -> u64 {
        self.now + self.now / 10_000
    }

    fn happen(&mut self, event: Event) {
        // A machine that sleeps does nothing; what comes for it waits.
        let of_node = match &event {
            Event::Beat(node, _) | Event::NoAnswer(node, ..) | Event::Waited(node, ..) => Some(*node),
            Event::Settle(node, ..) => Some(*node),
            Event::Reply(message, ..) => Some(message.node),
            _ => None,
        };
        if let Some(until) = of_node.map(|node| self.nodes[node].asleep).filter(|&until| until > self.now) {
            return self.after(until - self.now, event);
        }
        match event {
            Event::Arrive => self.arrive(),
            Event::Silence => {
                let time = self.rng.next() % (6 * SECOND);
                self.silent_until = self.now + if self.rng.coin() { time } else { 0 };
                self.quarters = [1, 32][self.rng.below(2)];
                self.within(6 * SECOND + time, Event::Silence);
            }
            Event::Beat(node, process) => self.beat(node, process),
            Event::Serve(message, is_first) => self.serve(*message, is_first),
            Event::Reply(message, answer, is_recalled) => self.reply(*message, answer, is_recalled),
            Event::NoAnswer(node, process, seq) => self.no_answer(node, process, seq),
            Event::Waited(node, process, number) => self.waited(node, process, number),
            Event::Settle(node, process, began, sizes) => self.settle(node, process, began, sizes),
            Event::Fault => self.fault(),
            Event::Restart(node) => self.start(node),
            Event::Heal(node, slept) => {
                self.nodes[node].is_cut = false;
                self.nodes[node].slept += slept;
            }
            Event::Cut(node) => self.cut(node),
            Event::Snapshot => {
                self.snapshots.push_back((self.now, self.engine.clone()));
                self.after(100 * MILLISECOND, Event::Snapshot);
            }
            Event::Lose(lost) => self.lose(lost),
        }
    }

    // -------------------------------------------------------------------------------------------------- faults

    fn start(&mut self, node: usize) {
        self.processes += 1;
        let process = self.processes;
        self.nodes[node].is_down = false;
        self.books.insert(process, Books::default());
        self.nodes[node].process = Some(Process {
            process,
            purses: Purses::new(process, LEASE),
            parked: VecDeque::new(),
            in_flight: 0,
            let_go: 0,
            let_go_at: 0,
        });
        self.within(BEAT, Event::Beat(node, process));
    }

    fn fault(&mut self) {
        let node = self.rng.below(self.plan.nodes);
        let is_busy = self.nodes[node].is_cut || self.nodes[node].is_down || self.nodes[node].asleep > self.now;
        if !is_busy {
            match self.rng.below(10) {
                0..4 => self.crash(node),
                4..8 => {
                    self.cut(node);
                    let until = 100 * MILLISECOND + self.rng.next() % (25 * SECOND);
                    self.after(until, Event::Heal(node, 0));
                }
                8 => {
                    let slept = self.rng.next() % (20 * SECOND);
                    self.nodes[node].asleep = self.now + slept;
                    self.after(slept, Event::Heal(node, slept));
                    self.seen.sleeps += 1;
                }
                _ => {
                    let jump = self.rng.next() % (3_600 * SECOND);
                    let offset = &mut self.nodes[node].unix_offset;
                    *offset = if self.rng.coin() { *offset + jump } else { *offset - jump };
                    self.seen.jumps += 1;
                }
            }
        }
        self.within(self.plan.lasts / 4, Event::Fault);
    }

    fn crash(&mut self, node: usize) {
        let Some(process) = self.nodes[node].process.take() else { return };
        self.seen.refused += process.parked.len() as u64;
        if self.plan.terms.kind == Kind::Slots {
            let now = self.true_time();
            self.oracle.give_back(now, process.in_flight - process.let_go);
        }
        // What requests in flight cost, nobody knows: the ledger says the worst.
        self.nodes[node].spent += if self.plan.terms.kind == Kind::Budget { process.in_flight } else { 0 };
        self.nodes[node].is_down = true;
        self.seen.crashes += 1;
        self.within(15 * SECOND, Event::Restart(node));
    }

    fn cut(&mut self, node: usize) {
        self.nodes[node].is_cut = true;
        self.nodes[node].is_avoided = self.plan.faults && self.rng.coin();
        self.seen.cuts += 1;
    }

    fn lose(&mut self, lost: u64) {
        let old = self.snapshots.iter().rev().find(|(at, _)| *at + lost <= self.now);
        if let Some((_, engine)) = old {
            self.seen.forgotten = self.engine.granted - engine.granted;
            self.engine = engine.clone();
            self.seen.losses += 1;
        }
    }

    // ------------------------------------------------------------------------------------------------ requests

    fn arrive(&mut self) {
        if self.now < self.silent_until {
            return self.after(self.silent_until - self.now, Event::Arrive);
        }
        let node = self.rng.below(self.plan.nodes);
        let size = self.plan.sizes[self.rng.below(self.plan.sizes.len())];
        let Node { process, asleep, is_cut, is_avoided, .. } = &self.nodes[node];
        if process.is_some() && *asleep <= self.now && !(*is_cut && *is_avoided) {
            self.requests += 1;
            let number = self.requests;
            self.request(node, Parked { number, size }, true);
            self.send_asks(node);
        }
        if self.plan.at_once.is_none() {
            self.within(8 * SECOND / (self.plan.load * self.quarters), Event::Arrive);
        }
    }

    fn outage(&self) -> Outage {
        Outage { policy: self.plan.policy, nodes: self.plan.nodes as i64 }
    }

    /// A request comes, or is looked at again; true where that is the end of its waiting.
    fn request(&mut self, node: usize, request: Parked, waits: bool) -> bool {
        let now = self.clock(node);
        let (terms, outage) = (self.plan.terms, (!waits).then(|| self.outage()));
        let least = if terms.kind == Kind::Budget { 1 } else { request.size };
        let demand = Demand { least, ..Demand::all(request.size) };
        self.tell_spent(node);
        let Some(process) = &mut self.nodes[node].process else { return true };
        match process.purses.room(ACCOUNT, terms, demand, outage, now) {
            Room::Enough(units) => {
                self.seen.without_engine += u64::from(!waits);
                self.seen.last_of_budget += u64::from(units < request.size);
                self.admit(node, request.size, units);
                true
            }
            Room::Refused(_) | Room::OutOfReach => {
                self.seen.refused += 1;
                true
            }
            Room::Cold => {
                process.parked.push_back(request);
                false
            }
        }
    }

    /// The purse of slots or money says what its account does.
    fn tell_spent(&mut self, node: usize) {
        let now = self.clock(node);
        let (terms, Node { process, spent, .. }) = (self.plan.terms, &mut self.nodes[node]);
        let Some(process) = process.as_mut().filter(|_| !terms.kind.decays()) else { return };
        let before = if terms.kind == Kind::Budget { *spent } else { 0 };
        process.purses.purse(ACCOUNT, terms, now).set_spent(before + process.in_flight, process.in_flight);
    }

    /// `units` is what it holds, less than its size where that was the last of a budget.
    fn admit(&mut self, node: usize, size: i64, units: i64) {
        let clock = self.clock(node);
        let (kind, now) = (self.plan.terms.kind, self.true_time());
        self.seen.admitted += 1;
        self.seen.units += units;
        let process = self.nodes[node].process.as_mut().expect("it has admitted it");
        let id = process.process;
        if kind.decays() {
            process.purses.purse(ACCOUNT, self.plan.terms, clock).take(units, clock);
        } else {
            process.in_flight += units;
        }
        let books = self.books.get_mut(&id).expect("each has some");
        let again = units.min(books.given - books.credited);
        books.credited += again;
        self.tell_spent(node);
        if kind.decays() && self.oracle.lacks(now, units - again) {
            // What others have given back may have reached the engine now.
            for other in self.nodes.iter().filter_map(|node| node.process.as_ref()) {
                let books = self.books.get_mut(&other.process).expect("each has some");
                self.oracle.give_back(now, books.given - books.credited);
                books.credited = books.given;
            }
        }
        if kind != Kind::Budget {
            let late = self.slots_held_again();
            self.oracle.take(now, units - again, late);
        }
        let used = self.used(size, units);
        let takes = 200 * MILLISECOND + self.rng.next() % (3_800 * MILLISECOND);
        self.after(takes, Event::Settle(node, id, self.now, [units, used]));
    }

    /// Slots that the engine had let go of, and that their node turned out to hold: it holds them on.
    fn slots_held_again(&self) -> i64 {
        let account = self.engine.accounts.get(ACCOUNT).filter(|_| self.plan.terms.kind == Kind::Slots);
        account.map_or(0, |account| (account.used - self.plan.terms.cap).max(0))
    }

    /// What a request will have used in the end.
    fn used(&mut self, size: i64, units: i64) -> i64 {
        if !self.plan.settles {
            return units;
        }
        let percent = [20, 50, 90, 100, if self.plan.exceeds { 150 } else { 100 }][self.rng.below(5)];
        match self.plan.terms.kind {
            Kind::Slots => 0,
            Kind::Requests => units,
            Kind::Tokens => size * percent / 100,
            Kind::Budget => size * percent.min(100) / 100,
        }
    }

    fn settle(&mut self, node: usize, process: i64, began: u64, [size, used]: [i64; 2]) {
        let (clock, now, terms) = (self.clock(node), self.true_time(), self.plan.terms);
        let Node { process: found, spent, .. } = &mut self.nodes[node];
        let Some(found) = found.as_mut().filter(|found| found.process == process) else { return };
        if !terms.kind.decays() {
            found.in_flight -= size;
            *spent += used;
            if terms.kind == Kind::Slots {
                *spent = 0;
                let is_let_go = found.let_go > 0 && began <= found.let_go_at;
                found.let_go -= i64::from(is_let_go);
                self.oracle.give_back(now, if is_let_go { 0 } else { size });
            }
            self.tell_spent(node);
            return self.look_at_budget();
        }
        let purse = found.purses.purse(ACCOUNT, terms, clock);
        let books = self.books.get_mut(&process).expect("each has some");
        if used > size {
            purse.charge(used - size, clock);
            books.exceeded.0 += used - size;
            return;
        }
        let back = size - used;
        // It cancels an excess that nobody was told of.
        let of_debt = back.min((-purse.free()).max(0));
        purse.give_back(back);
        books.given += back - of_debt;
        self.oracle.give_back(now, of_debt);
    }

    /// What is truly spent of a budget exceeds it by no more than one answer.
    fn look_at_budget(&mut self) {
        let spent: i64 = self.nodes.iter().map(|node| node.spent).sum();
        self.seen.excess = self.seen.excess.max(spent - self.plan.terms.cap);
    }

    /// Whoever waits is looked at again, in order.
    fn look_again(&mut self, node: usize, waits: bool) {
        let Some(process) = &mut self.nodes[node].process else { return };
        for request in std::mem::take(&mut process.parked) {
            self.request(node, request, waits);
        }
        self.send_asks(node);
    }

    fn waited(&mut self, node: usize, process: i64, number: u64) {
        let Some(found) = self.nodes[node].process.as_mut().filter(|found| found.process == process) else { return };
        if let Some(at) = found.parked.iter().position(|parked| parked.number == number) {
            let request = found.parked.remove(at).expect("it is there");
            self.request(node, request, false);
        }
    }

    // ------------------------------------------------------------------------------------------------ messages

    fn beat(&mut self, node: usize, process: i64) {
        let now = self.clock(node);
        let Some(found) = self.nodes[node].process.as_mut().filter(|found| found.process == process) else { return };
        let mut asks = Vec::new();
        found.purses.beat(now, &mut asks);
        self.send(node, asks);
        self.after(BEAT, Event::Beat(node, process));
    }

    fn send_asks(&mut self, node: usize) {
        let now = self.clock(node);
        let Some(process) = &mut self.nodes[node].process else { return };
        let mut asks = Vec::new();
        process.purses.ask(now, &mut asks);
        let id = process.process;
        let last = process.parked.back().map(|parked| parked.number);
        if let Some(number) = last {
            self.seen.parked += 1;
            self.after(WAIT, Event::Waited(node, id, number));
        }
        self.send(node, asks);
    }

    fn send(&mut self, node: usize, asks: Vec<Ask>) {
        for ask in asks {
            self.seen.asks += 1;
            let process = self.nodes[node].process.as_ref().expect("it has asked");
            let Books { exceeded: (exceeded, _), given, .. } = self.books[&process.process];
            let message = Message { node, process: process.process, ask, exceeded, given };
            self.after(ASK_TIMEOUT, Event::NoAnswer(node, message.process, message.ask.seq));
            let travels = 150_000 + self.rng.next() % MILLISECOND;
            if self.plan.faults && !self.nodes[node].is_cut && self.one_in(30) {
                self.seen.doubled += 1;
                let late = self.rng.next() % [3 * SECOND, 15 * SECOND][self.rng.below(2)];
                self.after(late, Event::Serve(Box::new(message.clone()), false));
            }
            if self.nodes[node].is_cut || self.plan.faults && self.one_in(30) {
                self.seen.lost += 1;
            } else {
                self.after(travels, Event::Serve(Box::new(message), true));
            }
        }
    }

    fn serve(&mut self, message: Message, is_first: bool) {
        let ledger = message.node as i64;
        let before = self.lease_of(&message);
        let (now, at) = (self.engine_clock(), self.true_time());
        let asks = std::slice::from_ref(&message.ask);
        let (answers, recalled) = self.engine.exchange(now, (LEASE / MILLISECOND).cast_signed(), ledger, asks);
        let is_applied = answers[0].granted.is_some() && before.is_none_or(|(seq, _)| message.ask.seq > seq);
        if is_applied {
            let books = self.books.get_mut(&message.process).expect("each has some");
            let late = (message.exceeded - books.exceeded.1).max(0);
            books.exceeded.1 += late;
            self.oracle.take_late(at, late);
            let returned = message.ask.returned - before.map_or(0, |(_, returned)| returned);
            let back = (message.given - books.credited).min(returned).max(0);
            books.credited += back;
            self.oracle.give_back(at, back);
        }
        self.let_go_of_slots();
        let is_lost = self.nodes[message.node].is_cut || self.plan.faults && self.one_in(30);
        if is_first && !is_lost {
            let travels = 150_000 + self.rng.next() % MILLISECOND;
            let is_recalled = recalled.iter().any(|account| account == ACCOUNT);
            self.after(travels, Event::Reply(Box::new(message), answers[0], is_recalled));
        }
    }

    /// Slots are free when their lease expires on the engine, whose requests then go on without one.
    fn let_go_of_slots(&mut self) {
        let now = self.true_time();
        let Some(account) = self.engine.accounts.get(ACCOUNT).filter(|_| self.plan.terms.kind == Kind::Slots) else {
            return;
        };
        for (node, found) in self.nodes.iter_mut().enumerate() {
            let Some(process) = &mut found.process else { continue };
            let lease = account.leases.get(&(node as i64)).filter(|lease| lease.lease / FIRST_SEQ == process.process);
            if lease.is_none_or(|lease| lease.expired) {
                self.oracle.give_back(now, process.in_flight - process.let_go);
                (process.let_go, process.let_go_at) = (process.in_flight, self.now);
            } else {
                self.oracle.take_late(now, process.let_go);
                (process.let_go, process.let_go_at) = (0, 0);
            }
        }
    }

    /// The number and the returns of the message's lease, as the engine has it.
    fn lease_of(&self, message: &Message) -> Option<(i64, i64)> {
        let lease = self.engine.accounts.get(ACCOUNT)?.leases.get(&(message.node as i64))?;
        (lease.lease == message.ask.lease).then_some((lease.seq, lease.returned))
    }

    fn reply(&mut self, message: Message, answer: Answer, is_recalled: bool) {
        let now = self.clock(message.node);
        let found = self.nodes[message.node].process.as_mut().filter(|found| found.process == message.process);
        let Some(process) = found else { return };
        process.purses.answered(ACCOUNT, message.ask.seq, answer, now);
        if is_recalled && let Some(purse) = process.purses.get_mut(ACCOUNT) {
            purse.recall();
        }
        self.look_again(message.node, true);
    }

    fn no_answer(&mut self, node: usize, process: i64, seq: i64) {
        let Some(found) = self.nodes[node].process.as_mut().filter(|found| found.process == process) else { return };
        if found.purses.get_mut(ACCOUNT).is_some_and(|purse| purse.unanswered(seq)) {
            self.look_again(node, false);
        }
    }
}
