//! What happens in one run: the requests, their right answers, the faults; and the run itself.

pub mod requests;

use crate::budgets::{self, Budgets};
use crate::client::Client;
use crate::invariants::Invariants;
use crate::limits;
use crate::oracle::{self, Seen};
use crate::rng::Rng;
use crate::session::client::Client as SessionClient;
use crate::session::{self, Session};
use crate::tls;
use crate::upstream::{CONNECT, Upstream};
use crate::workers::{FIRST_PORT, FakeWorkers, SharedWorkers};
use crate::world::{Net, World};
use openai_api_proxy::base::clock::{MILLISECOND, Now, SECOND};
use openai_api_proxy::limit::bucket::Rate;
use openai_api_proxy::limit::overrides::Limits;
use openai_api_proxy::metrics::{self, Metrics};
use openai_api_proxy::policy::ReadOn;
use openai_api_proxy::proxy::{Proxy, Settings, Timeouts};
use openai_api_proxy::reactor::{Reactor, Turn};
use openai_api_proxy::usage::record::Record;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

/// Users of several requests are called so.
pub const SHARED: &str = "shared-";

/// Turns after which a run is taken to go on for ever.
const TURNS_MAX: usize = 200_000;
/// Longer than any run.
const LONG: u64 = 10_000_000 * SECOND;
/// Most bytes of a body that is held.
pub const BODY_BYTES_MAX: usize = 1 << 20;
/// Most bytes that an edit makes of a held body in addition, for a moment.
pub const EDIT_BYTES_MAX: usize = 17 * 1024;

/// What a target does wrong, or otherwise than the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Resets after so many bytes of the response.
    Reset(usize),
    /// Ends after so many.
    End(usize),
    /// Never answers.
    Silence,
    /// Answers something that is not HTTP.
    Garbage,
    /// Closes its socket: what is still sent to it breaks.
    Gone,
    /// Sends more than the response.
    Junk,
    /// No fault: the response has no length, and ends with the connection.
    CloseDelimited,
    /// The same, over TLS and without its goodbye: somebody else may have cut it.
    Truncated,
}

/// What a client got for a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Got {
    pub status: u16,
    pub body: Vec<u8>,
    /// The client takes it for complete.
    pub whole: bool,
    /// `x-proxy-error`.
    pub ours: Option<String>,
    /// `x-ratelimit-remaining-requests`.
    pub remaining: Option<u64>,
}

impl Got {
    pub fn cut(status: u16) -> Self {
        Self { status, body: Vec::new(), whole: false, ours: None, remaining: None }
    }
}

/// One request of the run.
pub struct Planned {
    pub user: String,
    /// What its record is known by: its user, or where users are shared the model.
    pub name: String,
    /// The connection that it was sent on.
    pub pipe: Option<usize>,
    /// When its first byte could be sent, and when the client had the whole answer.
    pub asked_at: u64,
    pub answered_at: u64,
    pub wire: Vec<u8>,
    pub upstream_body: Vec<u8>,
    pub response: Vec<u8>,
    /// The body that the client must get.
    pub right_body: Vec<u8>,
    pub right_status: u16,
    /// The tokens that the record must have.
    pub tokens: u64,
    pub fault: Option<Fault>,
    pub to_head: bool,
    /// May be answered before it is whole.
    pub early: bool,
    /// Answered by the proxy itself.
    pub local: bool,
    /// It may be sent twice.
    pub repeatable: bool,
    /// It looks again at what this one has begun, which the target knows of only then.
    pub again: Option<usize>,
    /// Times that an upstream took it.
    pub seen: usize,
    pub got: Option<Got>,
    /// The record was committed when the client had the whole response.
    pub saw_end_at: bool,
    /// The client left before the outcome.
    pub left: bool,
}

impl Planned {
    /// True for its record.
    pub fn is_of(&self, record: &Record) -> bool {
        name_of(record) == self.name
    }

    /// True where the proxy has refused it so.
    pub fn refused_as(&self, code: &str) -> bool {
        self.got.as_ref().is_some_and(|got| got.ours.as_deref() == Some(code))
    }

    /// What it was told of its user's limit.
    pub fn remaining(&self) -> Option<u64> {
        self.got.as_ref()?.remaining
    }
}

/// What a request's record is known by.
pub fn name_of(record: &Record) -> &str {
    if record.user.starts_with(SHARED) { record.model_requested.as_deref().unwrap_or_default() } else { &record.user }
}

/// All requests of the run, and what all of them depend on.
pub struct Plan {
    pub requests: Vec<Planned>,
    pub sessions: Vec<Session>,
    /// How long a reply waits for its commit; 0 is for ever.
    pub ledger_wait: u64,
    /// The ledger has paused for longer.
    pub may_let_go: bool,
    /// Upstreams close idle connections when they like.
    pub idle_closes: bool,
    /// A journal is kept: a target never sees what is not in it.
    pub journaled: Option<BTreeSet<String>>,
    /// The target speaks TLS, and only 1.2.
    pub tls: Option<bool>,
    /// So does the proxy with its clients.
    pub client_tls: bool,
    /// The target is behind a proxy; the tunnels that this has opened, and has refused.
    pub egress: bool,
    pub tunnels: (usize, usize),
    /// The limit of each user.
    pub rate: Option<Rate>,
    /// What each may spend in a month, from some time on; nano-dollars.
    pub budget: Option<u64>,
    /// Records that are committed, and the names of those that are of requests.
    pub committed: usize,
    pub committed_names: BTreeSet<String>,
}

impl Plan {
    /// Takes note of what the ledger has committed meanwhile.
    fn commit(&mut self, records: &[Record]) {
        for record in &records[self.committed..] {
            match self.sessions.iter_mut().find(|session| session.is_of(record)) {
                Some(session) => session.commit(record),
                None => _ = self.committed_names.insert(name_of(record).to_owned()),
            }
        }
        self.committed = records.len();
    }
}

pub fn settings(
    read_on: ReadOn,
    plan: &Plan,
    ledger_places: usize,
    jumps: bool,
    (buffered_bytes_max, long_body_bytes): (usize, usize),
) -> Settings {
    Settings {
        egress: plan.egress.then(|| CONNECT.to_vec()),
        tls: plan.tls.map(|_| tls::connector()),
        acceptor: plan.client_tls.then(tls::acceptor),
        limits: Limits { requests: plan.rate, ..Limits::default() },
        read_on,
        connections_max: CONNECTIONS_MAX,
        body_bytes_max: BODY_BYTES_MAX as u64,
        buffered_bytes_max,
        long_body_bytes,
        journaled: plan.journaled.is_some(),
        ledger_places,
        timeouts: Timeouts {
            // Where time jumps, what comes a byte at a time may take longer than a peer that means well.
            connect: if jumps { LONG } else { 10 * SECOND },
            header: if jumps { LONG } else { 10 * SECOND },
            response: if jumps { LONG } else { 600 * SECOND },
            idle: if jumps { LONG } else { 75 * SECOND },
            read_on: 60 * SECOND,
            ledger_wait: plan.ledger_wait,
            overload: 0,
        },
        ..Settings::default()
    }
}

/// One run; what was seen in it.
pub fn run(seed: u64) -> Seen {
    let mut world = World::new(seed);
    let faults = world.rng.coin();
    world.accept_faults = faults;
    world.connect_faults = faults && world.rng.coin();
    let (count, fine) = (1 + world.rng.below(12), world.fine);
    let rate = (world.rng.below(4) == 0).then(|| limits::rate(&mut world.rng));
    let budget = (rate.is_none() && world.rng.below(4) == 0).then(|| budgets::budget(&mut world.rng));
    let limited = rate.is_some() || budget.is_some();
    world.clock_hours = if !limited && world.rng.below(4) == 0 { 200_000 } else { 0 };
    world.jumps = [0, 0, 0, 8, 60][world.rng.below(5)];
    let mut requests = requests::all(&mut world.rng, count, limited, faults, fine);
    let sessions = world.rng.below(5).saturating_sub(1);
    // A session's server speaks without TLS.
    let tls = (sessions == 0 && world.rng.coin()).then(|| world.rng.coin());
    if tls.is_some() && faults {
        requests::truncate_some(&mut world.rng, &mut requests);
    }
    let ledger_wait = [0, 2 * SECOND][world.rng.below(2)];
    let ledger_places = if world.rng.below(4) == 0 { 3 + world.rng.below(4) } else { 100 };
    // With a journal a request that has to wait is refused, which only the plain runs expect.
    let journaled = sessions == 0 && ledger_wait == 0 && ledger_places == 100 && world.rng.below(4) > 0;
    // Of what is drawn for it, nothing else depends.
    let mut own = Rng::new(seed ^ 0xb0d9e7);
    let mut of_clients = Rng::new(seed ^ 0x715);
    if sessions == 0 && of_clients.coin() {
        world.client_tls = Some(tls::clients(of_clients.coin()));
    }
    let limits_sessions = sessions > 0 && !limited && world.clock_hours == 0 && own.below(3) == 0;
    let mut plan = Plan {
        requests,
        sessions: (0..sessions).map(|number| Session::new(&mut world.rng, number, fine)).collect(),
        ledger_wait,
        may_let_go: world.jumps > 0 && ledger_wait > 0,
        idle_closes: faults && world.rng.coin(),
        journaled: journaled.then(BTreeSet::new),
        tls,
        client_tls: world.client_tls.is_some(),
        egress: Rng::new(seed ^ 0xc044ec7).below(4) == 0,
        tunnels: (0, 0),
        rate,
        budget,
        committed: 0,
        committed_names: BTreeSet::new(),
    };
    if limits_sessions {
        plan.sessions.iter_mut().for_each(|session| session.limit(&mut own));
    }
    // In a crowd each request has a client of its own, and records wait for each other.
    let share = if world.rng.below(8) == 0 { 1 } else { usize::MAX };
    let peers = Peers {
        clients: clients(&mut world, (0..count).collect(), share, faults),
        late: clients(&mut world, (count..plan.requests.len()).collect(), share, false),
        sessions: (0..sessions).map(|number| SessionClient::new(&mut world, number)).collect(),
        upstreams: Vec::new(),
    };
    let read_on = if world.rng.coin() { ReadOn::Everybodys } else { ReadOn::Nobodys };
    let stop_early = faults && world.rng.below(4) == 0;
    let stall_max = [0, 0, 20 * MILLISECOND, 5 * SECOND, 50 * SECOND, 2_000 * SECOND][world.rng.below(6)];
    let addresses = 1 + world.rng.below(4) as u16;
    if !faults && sessions == 0 && world.jumps == 0 {
        // Whoever waits for them does nothing else meanwhile, and nobody leaves.
        let silent = world.rng.below(usize::from(addresses).min(3)) as u16;
        world.silent = (FIRST_PORT..FIRST_PORT + silent).collect();
    }
    let of_teams = Rng::new(seed ^ 0x7ea5).coin();
    let budgets = match budget {
        // One report spends it.
        None if limits_sessions => {
            Budgets::new(Some(1), of_teams, plan.sessions.iter().map(|session| session.user.clone()).collect())
        }
        budget => Budgets::new(budget, of_teams, budgets::users()),
    };
    let workers = Rc::new(RefCell::new(FakeWorkers::new(addresses, stall_max, budgets)));
    let verdict = session::judge::Run {
        faults,
        stopped_early: stop_early,
        crowded: ledger_places < 100,
        jumps: world.jumps > 0,
        full: peers.clients.len() + sessions > CONNECTIONS_MAX || peers.late.len() > CONNECTIONS_MAX,
        roomy: world.roomy,
    };
    let buffered_bytes_max = [256 << 20, 1 << 10, 40_000][world.rng.below(3)];
    let long_body_bytes = [64 << 10, 100, 1][world.rng.below(3)];
    let settings = settings(read_on, &plan, ledger_places, world.jumps > 0, (buffered_bytes_max, long_body_bytes));
    let world = Rc::new(RefCell::new(world));
    let plan = Rc::new(RefCell::new(plan));
    let peers = Rc::new(RefCell::new(peers));
    let act = actor(&workers, &plan, &peers, stop_early);
    let net = Net { world: Rc::clone(&world), act };
    let metrics = Metrics::new(metrics::LabelLimits::default(), 0);
    let proxy = Proxy::new(settings, budgets::prices(), metrics, Now::default());
    let mut reactor = Reactor::new(net, SharedWorkers(Rc::clone(&workers)), proxy, 30 * SECOND);
    let mut invariants = Invariants::new(ledger_places as u64, buffered_bytes_max);
    let mut turns = 0;
    while reactor.turn().expect("the fake poller works") == Turn::Continue {
        turns += 1;
        assert!(turns < TURNS_MAX, "the run does not end");
        invariants.check(reactor.proxy(), &world.borrow());
        if budget.is_some() {
            let workers = workers.borrow();
            let given: Vec<&Record> = workers.committed.iter().chain(&workers.pending).collect();
            budgets::check(reactor.proxy(), &given, world.borrow().turn_at);
        }
    }
    let slots = reactor.proxy().audit().slots();
    assert_eq!(reactor.proxy().audit().permits().0, 0, "places are still reserved");
    let audit = reactor.proxy().audit();
    assert_eq!(audit.held_bytes(), audit.unclaimed_bytes(), "bodies are still counted");
    drop(reactor);
    // What has been sent is read to its end.
    while peers.borrow_mut().act(&mut world.borrow_mut(), &mut plan.borrow_mut()) {}
    let records = {
        let workers = &mut *workers.borrow_mut();
        // What was submitted before the end is committed after it.
        std::mem::take(&mut workers.pending).into_iter().for_each(|line| _ = workers.commit(line));
        assert!(workers.open.is_empty(), "entries are left open: {:?}", workers.open);
        std::mem::take(&mut workers.committed)
    };
    let ledger = std::mem::take(&mut workers.borrow_mut().budgets);
    oracle::judge(&plan.borrow(), &records, &world.borrow(), &ledger, slots, verdict)
}

/// Clients that share the requests, up to `share_max` each.
pub fn clients(world: &mut World, mut ids: Vec<usize>, share_max: usize, faults: bool) -> Vec<Client> {
    let mut clients = Vec::new();
    while !ids.is_empty() {
        let share = 1 + world.rng.below(ids.len().min(share_max));
        let rest = ids.split_off(share);
        clients.push(Client::new(world, std::mem::replace(&mut ids, rest), faults));
    }
    clients
}

/// Clients that there may be at once.
const CONNECTIONS_MAX: usize = 3;

/// Everybody whom the proxy has a connection with.
pub struct Peers {
    pub clients: Vec<Client>,
    pub sessions: Vec<SessionClient>,
    /// They come when all others have gone, to see what those have left.
    pub late: Vec<Client>,
    pub upstreams: Vec<Upstream>,
}

impl Peers {
    /// Lets some act; false where none could do anything.
    pub fn act(&mut self, world: &mut World, plan: &mut Plan) -> bool {
        for pipe in std::mem::take(&mut world.opened) {
            self.upstreams.push(Upstream::new(world, pipe, plan.tls, plan.egress));
        }
        let mut acted = false;
        let count = self.clients.len() + self.sessions.len();
        let first = world.rng.below(count);
        for index in 0..count {
            let at = (first + index) % count;
            let did = match at.checked_sub(self.clients.len()) {
                None => self.clients[at].act(world, plan),
                Some(at) => self.sessions[at].act(world, plan),
            };
            acted |= did;
            if did && world.rng.coin() {
                break;
            }
        }
        if self.others_are_done() && world.open_sockets().0 == 0 || self.late.iter().any(Client::has_come) {
            for client in &mut self.late {
                acted |= client.act(world, plan);
            }
        }
        for upstream in &mut self.upstreams {
            acted |= upstream.act(world, plan);
        }
        acted
    }

    fn are_done(&self) -> bool {
        self.others_are_done() && self.late.iter().all(|client| client.done)
    }

    fn others_are_done(&self) -> bool {
        self.clients.iter().all(|client| client.done) && self.sessions.iter().all(|client| client.done)
    }
}

/// Lets one peer or worker act; the whole world but the loop.
pub fn actor(
    workers: &Rc<RefCell<FakeWorkers>>,
    plan: &Rc<RefCell<Plan>>,
    peers: &Rc<RefCell<Peers>>,
    stop_early: bool,
) -> Rc<dyn Fn(&mut World) -> bool> {
    let (workers, plan, peers) = (Rc::clone(workers), Rc::clone(plan), Rc::clone(peers));
    let stops_left = RefCell::new(if stop_early { 2 } else { 1 });
    Rc::new(move |world| {
        let (plan, peers) = (&mut *plan.borrow_mut(), &mut *peers.borrow_mut());
        let workers = &mut *workers.borrow_mut();
        for client in &peers.sessions {
            client.check_left(world, plan);
        }
        let mut acted = workers.act(&mut world.rng, world.mono);
        plan.commit(&workers.committed);
        if let Some(journaled) = &mut plan.journaled {
            journaled.clone_from(&workers.journaled);
        }
        world.wakes_at = workers.stalled_until;
        plan.may_let_go |= plan.ledger_wait > 0 && workers.stalled_until.is_some();
        acted |= peers.act(world, plan);
        let stops_left = &mut *stops_left.borrow_mut();
        let over = *stops_left == if stop_early { 2 } else { 1 } && peers.are_done();
        // More likely where a reply waits for its commit.
        let odds = if workers.pending.is_empty() { 100 } else { 8 };
        if *stops_left > 0 && (over || stop_early && world.rng.below(odds) == 0) {
            *stops_left -= 1;
            workers.stop();
            acted = true;
        }
        acted
    })
}
