//! What happens in one run: the requests, their right answers, the faults; and the run itself.

use crate::client::Client;
use crate::desk::{FakeDesk, Workers};
use crate::oracle::{self, Seen};
use crate::rng::Rng;
use crate::session::client::Client as SessionClient;
use crate::session::{self, Session};
use crate::upstream::Upstream;
use crate::world::{Net, World};
use openai_api_proxy::base::clock::{MILLISECOND, Now, SECOND};
use openai_api_proxy::limit::terms::Terms;
use openai_api_proxy::metrics::{self, Metrics};
use openai_api_proxy::price::PriceTable;
use openai_api_proxy::proxy::{Proxy, Settings, Timeouts};
use openai_api_proxy::reactor::{Reactor, Turn};
use openai_api_proxy::usage::record::Record;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

/// Turns after which a run is taken to go on for ever.
const TURNS_MAX: usize = 200_000;
/// Most bytes of a body that is held.
const BODY_BYTES_MAX: usize = 1 << 20;
/// Most bytes that an edit makes of a held body in addition, for a moment.
const EDIT_BYTES_MAX: usize = 17 * 1024;

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
    /// Sends more than the response.
    Junk,
    /// No fault: the response has no length, and ends with the connection.
    CloseDelimited,
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
}

impl Got {
    pub fn cut(status: u16) -> Self {
        Self { status, body: Vec::new(), whole: false, ours: None }
    }
}

/// One request of the run.
pub struct Planned {
    pub user: String,
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
    /// Times that an upstream took it.
    pub seen: usize,
    pub got: Option<Got>,
    /// The record was committed when the client had the whole response.
    pub saw_end_at: bool,
    /// The client left before the outcome.
    pub left: bool,
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
    /// Records that are committed, and the users of those that are of requests.
    pub committed: usize,
    pub committed_users: BTreeSet<String>,
}

impl Plan {
    /// Takes note of what the ledger has committed meanwhile.
    fn commit(&mut self, records: &[Record]) {
        for record in &records[self.committed..] {
            match record.user.strip_prefix("session-").and_then(|number| number.parse::<usize>().ok()) {
                Some(number) => self.sessions[number].commit(record),
                None => _ = self.committed_users.insert(record.user.to_string()),
            }
        }
        self.committed = records.len();
    }
}

/// Kinds of answers that a target gives.
fn planned(rng: &mut Rng, id: usize, faults: bool, fine: bool) -> Planned {
    let user = format!("user-{id}");
    let tokens = rng.next() % 1000 + 1;
    let usage = format!("{{\"prompt_tokens\":{tokens},\"completion_tokens\":1,\"total_tokens\":{}}}", tokens + 1);
    let pad = "x".repeat(if fine { [0, 10, 100, 1_000] } else { [0, 1_000, 30_000, 200_000] }[rng.below(4)]);
    let mut request = Planned {
        user,
        wire: Vec::new(),
        upstream_body: Vec::new(),
        response: Vec::new(),
        right_body: Vec::new(),
        right_status: 200,
        tokens: 0,
        fault: None,
        to_head: false,
        early: false,
        local: false,
        repeatable: false,
        seen: 0,
        got: None,
        saw_end_at: false,
        left: false,
    };
    match rng.below(8) {
        0 => local(&mut request, rng),
        1 => stream(&mut request, rng, id, &usage, tokens),
        2 => bodiless(&mut request, rng, id),
        3 | 4 => upload(&mut request, rng, id, &pad, faults),
        _ => chat(&mut request, rng, id, &usage, tokens, &pad),
    }
    if faults && !request.local && rng.below(3) == 0 && request.fault.is_none() {
        let at = rng.below(request.response.len());
        let at = if rng.coin() { at } else { at.min(rng.below(200)) };
        // What may be sent again is sent again only where nothing came back.
        let (at, kinds) = if request.repeatable && rng.coin() { (0, 2) } else { (at, 5) };
        request.fault =
            Some([Fault::Reset(at), Fault::End(at), Fault::Silence, Fault::Garbage, Fault::Junk][rng.below(kinds)]);
    }
    request
}

fn head(request: &Planned, id: usize, line: &str, more: &str) -> Vec<u8> {
    format!("{line} HTTP/1.1\r\nHost: proxy\r\nX-User-ID: {}\r\nx-sim: {id}\r\n{more}\r\n", request.user).into_bytes()
}

fn local(request: &mut Planned, rng: &mut Rng) {
    let path = ["/usage", "/metrics", "/healthz"][rng.below(3)];
    request.wire = format!("GET {path} HTTP/1.1\r\nHost: proxy\r\n\r\n").into_bytes();
    request.local = true;
}

fn chat(request: &mut Planned, rng: &mut Rng, id: usize, usage: &str, tokens: u64, pad: &str) {
    let body = format!("{{\"model\":\"m\",\"messages\":[\"{pad}\"]}}");
    request.upstream_body = body.clone().into_bytes();
    request.wire =
        head(request, id, "POST /v1/chat/completions", &framing(rng, &body, "Content-Type: application/json\r\n"));
    request.wire.extend(framed(rng, &request.wire, body.as_bytes()));
    request.tokens = tokens;
    request.right_body = format!("{{\"model\":\"m-1\",\"choices\":[\"{pad}\"],\"usage\":{usage}}}").into_bytes();
    let interim = ["", "HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"][rng.below(2)];
    request.response = interim.as_bytes().to_vec();
    respond(request, rng, "application/json");
}

fn stream(request: &mut Planned, rng: &mut Rng, id: usize, usage: &str, tokens: u64) {
    let body = "{\"stream\":true}";
    request.upstream_body = b"{\"stream_options\":{\"include_usage\":true},\"stream\":true}".to_vec();
    request.wire =
        head(request, id, "POST /v1/chat/completions", &framing(rng, body, "Content-Type: application/json\r\n"));
    request.wire.extend(framed(rng, &request.wire, body.as_bytes()));
    request.tokens = tokens;
    let (mut with, mut without) = (String::new(), String::new());
    for n in 0..rng.below(30) {
        with += &format!("data: {{\"choices\":[{{\"n\":{n}}}],\"usage\":null}}\n\n");
        without += &format!("data: {{\"choices\":[{{\"n\":{n}}}]}}\n\n");
    }
    with += &format!("data: {{\"choices\":[],\"usage\":{usage}}}\n\ndata: [DONE]\n\n");
    without += "data: [DONE]\n\n";
    request.right_body = with.into_bytes();
    respond(request, rng, "text/event-stream");
    request.right_body = without.into_bytes();
}

fn bodiless(request: &mut Planned, rng: &mut Rng, id: usize) {
    request.repeatable = true;
    if rng.coin() {
        request.to_head = true;
        request.wire = head(request, id, "HEAD /v1/models", "");
        request.response = b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n".to_vec();
    } else {
        request.wire = head(request, id, "GET /v1/models", "");
        request.right_status = 204;
        request.response = b"HTTP/1.1 204 No Content\r\n\r\n".to_vec();
    }
}

fn upload(request: &mut Planned, rng: &mut Rng, id: usize, pad: &str, faults: bool) {
    request.upstream_body = pad.as_bytes().to_vec();
    request.wire = head(request, id, "POST /v1/files", &framing(rng, pad, "Content-Type: multipart/form-data\r\n"));
    request.wire.extend(framed(rng, &request.wire, pad.as_bytes()));
    request.early = faults && rng.below(4) == 0;
    request.right_body = pad.as_bytes().to_vec();
    respond(request, rng, "application/octet-stream");
}

/// Header lines for a body by length or in chunks.
fn framing(rng: &mut Rng, body: &str, more: &str) -> String {
    let length = format!("Content-Length: {}\r\n", body.len());
    format!("{more}{}", if rng.coin() { &length } else { "Transfer-Encoding: chunked\r\n" })
}

/// The body as the head before it says.
fn framed(rng: &mut Rng, head: &[u8], body: &[u8]) -> Vec<u8> {
    if !head.windows(7).any(|window| window == b"chunked") {
        return body.to_vec();
    }
    let mut out = Vec::new();
    for part in rng.cut(body, 4) {
        out.extend(format!("{:x}\r\n", part.len()).into_bytes());
        out.extend_from_slice(part);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"0\r\n\r\n");
    out
}

fn respond(request: &mut Planned, rng: &mut Rng, content_type: &str) {
    let body = request.right_body.clone();
    let framing = match rng.below(3) {
        0 => format!("content-length: {}\r\n", body.len()),
        1 => "transfer-encoding: chunked\r\n".to_owned(),
        _ => {
            request.fault = Some(Fault::CloseDelimited);
            String::new()
        }
    };
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\n{framing}\r\n");
    request.response.extend_from_slice(head.as_bytes());
    request.response.extend(framed(rng, head.as_bytes(), &body));
}

fn settings(
    read_on: bool,
    journaled: bool,
    ledger_wait: u64,
    ledger_places: usize,
    buffered_bytes_max: usize,
) -> Settings {
    Settings {
        authority: "target".to_owned(),
        prefix: String::new(),
        tls: None,
        authorization: None,
        model_name: None,
        keys_only: false,
        admin: None,
        terms: Terms::default(),
        connections_max: 3,
        body_bytes_max: BODY_BYTES_MAX as u64,
        buffered_bytes_max,
        settled: true,
        journaled,
        ledger_places,
        timeouts: Timeouts {
            connect: 10 * SECOND,
            response: 600 * SECOND,
            idle: 75 * SECOND,
            header: 10 * SECOND,
            read_on: if read_on { 60 * SECOND } else { 0 },
            ledger_wait,
            overload: 0,
        },
    }
}

/// One run; what was seen in it.
pub fn run(seed: u64) -> Seen {
    let mut world = World::new(seed);
    let faults = world.rng.coin();
    world.accept_faults = faults;
    world.connect_faults = faults && world.rng.coin();
    let (count, fine) = (1 + world.rng.below(12), world.fine);
    let requests: Vec<Planned> = (0..count).map(|id| planned(&mut world.rng, id, faults, fine)).collect();
    let sessions = world.rng.below(5).saturating_sub(1);
    let ledger_wait = [0, 2 * SECOND][world.rng.below(2)];
    let ledger_places = if world.rng.below(4) == 0 { 3 + world.rng.below(4) } else { 100 };
    // With a journal a request that has to wait is refused, which only the plain runs expect.
    let journaled = sessions == 0 && ledger_wait == 0 && ledger_places == 100 && world.rng.coin();
    let plan = Plan {
        requests,
        sessions: (0..sessions).map(|number| Session::new(&mut world.rng, number, fine)).collect(),
        ledger_wait,
        may_let_go: false,
        idle_closes: faults && world.rng.coin(),
        journaled: journaled.then(BTreeSet::new),
        committed: 0,
        committed_users: BTreeSet::new(),
    };
    let peers = Peers {
        clients: clients(&mut world, count, faults),
        sessions: (0..sessions).map(|number| SessionClient::new(&mut world, number)).collect(),
        upstreams: Vec::new(),
    };
    let read_on = world.rng.coin();
    let stop_early = faults && world.rng.below(8) == 0;
    let stall_max = [0, 0, 20 * MILLISECOND, 5 * SECOND, 50 * SECOND, 2_000 * SECOND][world.rng.below(6)];
    let workers = Rc::new(RefCell::new(Workers::new(1 + world.rng.below(3) as u16, stall_max)));
    let verdict =
        session::judge::Run { faults, stopped_early: stop_early, crowded: ledger_places < 100, roomy: world.roomy };
    let buffered_bytes_max = [256 << 20, 1 << 10, 40_000][world.rng.below(3)];
    let settings = settings(read_on, journaled, plan.ledger_wait, ledger_places, buffered_bytes_max);
    let world = Rc::new(RefCell::new(world));
    let plan = Rc::new(RefCell::new(plan));
    let peers = Rc::new(RefCell::new(peers));
    let act = actor(&workers, &plan, &peers, stop_early);
    let net = Net { world: Rc::clone(&world), act };
    let metrics = Metrics::new(metrics::Limits::default(), 0);
    let proxy = Proxy::new(settings, PriceTable::built_in(), metrics, Now::default());
    let mut reactor = Reactor::new(net, FakeDesk(Rc::clone(&workers)), proxy, 30 * SECOND);
    let mut turns = 0;
    while reactor.turn().expect("the fake poller works") == Turn::Continue {
        turns += 1;
        assert!(turns < TURNS_MAX, "the run does not end");
        assert_eq!(reactor.proxy().forgotten(), 0, "something is held for which nothing is under way");
        let (reserved, uncommitted) = reactor.proxy().places();
        assert!(reserved + uncommitted <= ledger_places as u64, "more records than places");
        let buffered = reactor.proxy().buffered_bytes();
        assert!(buffered <= buffered_bytes_max + BODY_BYTES_MAX + 3 * EDIT_BYTES_MAX, "{buffered} bytes are held");
    }
    let slots = reactor.proxy().slots();
    assert_eq!(reactor.proxy().places().0, 0, "places are still reserved");
    assert_eq!(reactor.proxy().buffered_bytes(), 0, "bodies are still counted");
    drop(reactor);
    // What has been sent is read to its end.
    while peers.borrow_mut().act(&mut world.borrow_mut(), &mut plan.borrow_mut()) {}
    let records = {
        let workers = &mut *workers.borrow_mut();
        // What was submitted before the end is committed after it.
        std::mem::take(&mut workers.pending).into_iter().for_each(|line| workers.commit(line));
        assert!(workers.open.is_empty(), "entries are left open: {:?}", workers.open);
        std::mem::take(&mut workers.committed)
    };
    oracle::judge(&plan.borrow(), &records, &world.borrow(), slots, verdict)
}

/// Clients that share the requests.
fn clients(world: &mut World, count: usize, faults: bool) -> Vec<Client> {
    let mut ids: Vec<usize> = (0..count).collect();
    let mut clients = Vec::new();
    while !ids.is_empty() {
        let share = 1 + world.rng.below(ids.len());
        let rest = ids.split_off(share);
        clients.push(Client::new(world, std::mem::replace(&mut ids, rest), faults));
    }
    clients
}

/// Everybody whom the proxy has a connection with.
struct Peers {
    clients: Vec<Client>,
    sessions: Vec<SessionClient>,
    upstreams: Vec<Upstream>,
}

impl Peers {
    /// Lets some act; false where none could do anything.
    fn act(&mut self, world: &mut World, plan: &mut Plan) -> bool {
        for pipe in std::mem::take(&mut world.opened) {
            self.upstreams.push(Upstream::new(world, pipe));
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
        for upstream in &mut self.upstreams {
            acted |= upstream.act(world, plan);
        }
        acted
    }

    fn are_done(&self) -> bool {
        self.clients.iter().all(|client| client.done) && self.sessions.iter().all(|client| client.done)
    }
}

/// Lets one peer or worker act; the whole world but the loop.
fn actor(
    workers: &Rc<RefCell<Workers>>,
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
        if *stops_left > 0 && (over || stop_early && world.rng.below(200) == 0) {
            *stops_left -= 1;
            workers.stop();
            acted = true;
        }
        acted
    })
}
