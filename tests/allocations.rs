//! How often the loop asks for memory: the production loop over real sockets, in this test's own thread, with an
//! allocator that counts each thread for itself. Client and upstream are other threads; the ledger commits at once.
//!
//! Counted is the steady state: connections that are kept alive, users that were there before. What a request allocates
//! it gives back, and an event of a stream allocates nothing. The numbers here are what it takes and no more: lower them
//! where it takes less.

#![allow(clippy::disallowed_methods)] // tests are the outside world

mod support;

use allocation_counter::{AllocationInfo, measure};
use openai_api_proxy::base::clock::SECOND;
use openai_api_proxy::base::work::LongWork;
use openai_api_proxy::io::Io;
use openai_api_proxy::io::sockets::Sockets;
use openai_api_proxy::limit::budget::Period;
use openai_api_proxy::metrics::{LabelLimits, Metrics};
use openai_api_proxy::price::PriceTable;
use openai_api_proxy::proxy::{Proxy, Settings, Timeouts};
use openai_api_proxy::reactor::{Reactor, Turn};
use openai_api_proxy::usage::record::{Record, UsageSource};
use openai_api_proxy::worker::query::Job;
use openai_api_proxy::worker::{WorkerEvent, Workers};
use serde_json::json;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use support::client::{self, Client};
use support::script::{self, Reply, Step};
use support::upstream::{Options, Upstream};

/// Requests before anything is counted: maps and lists have their size then.
const WARM_UP: usize = 300;
/// Requests that are counted together.
const HUNDRED: usize = 100;
/// How often that is done.
const HUNDREDS: usize = 3;
/// Users who take turns.
const USERS: usize = 5;
/// Bytes of text that bring a request and an answer to the size that they often have.
const PROMPT_BYTES: usize = 100;
const ANSWER_BYTES: usize = 500;

/// What a completion allocates. Of its record: the user, the model that was asked for, the model that answered, the
/// response's id, the target's id of the request, the service tier, and the list in which records of a turn go to the
/// ledger. Of its way through: the head for the target, the body that is held, the reader of the answer, and the usage
/// in it.
const REQUEST_ALLOCATIONS: u64 = 11;
const REQUEST_BYTES: u64 = 3_500;
/// What a stream allocates in addition. The list of edits in its request, and the one that asks for usage; the counter
/// of its text, and the editor that takes usage out again, with an event and the longest that was; and once more what
/// the chunk with the usage calls itself: model, id, tier.
const STREAM_ALLOCATIONS: u64 = REQUEST_ALLOCATIONS + 9;
const STREAM_BYTES: u64 = 4_700;

/// A ledger that has every record at once, and the target's address.
struct Ledger {
    target: SocketAddr,
    wake: Box<dyn Fn()>,
    done: Vec<WorkerEvent>,
    records: u64,
}

impl Workers for Ledger {
    fn submit(&mut self, records: Vec<Record>) {
        for record in records {
            assert_eq!(record.usage_source, UsageSource::Reported);
            self.records += 1;
            self.done.push(WorkerEvent::Committed { upto: record.seq, retrieved: Vec::new() });
        }
        (self.wake)();
    }

    fn ask(&mut self, _: Job) -> bool {
        false
    }

    fn work(&mut self, work: LongWork) {
        panic!("no body is long: {work:?}");
    }

    fn sum_spend_sums(&mut self, _: Period) {}

    fn resolve(&mut self) {
        self.done.push(WorkerEvent::Resolved { addresses: Ok(vec![self.target]) });
        (self.wake)();
    }

    fn collect(&mut self, into: &mut Vec<WorkerEvent>) {
        into.append(&mut self.done);
    }
}

fn settings(target: SocketAddr) -> Settings {
    let minute = 60 * SECOND;
    Settings {
        authority: target.to_string(),
        prefix: "/v1".to_owned(),
        authorization: Some("Bearer sk-proj-0123456789".to_owned()),
        connections_max: 10,
        body_bytes_max: 1024 * 1024,
        buffered_bytes_max: 1024 * 1024,
        timeouts: Timeouts {
            connect: minute,
            response: minute,
            idle: minute,
            header: minute,
            read_on: minute,
            ledger_wait: minute,
            overload: minute,
        },
        ..Settings::default()
    }
}

/// What the client shall do.
#[derive(Clone, Copy)]
struct Work {
    requests: usize,
    /// Events of each answer; without them it is one document.
    events: Option<usize>,
}

/// The loop in this thread, and a client in another.
struct Bench {
    reactor: Reactor<Sockets, Ledger>,
    work: Sender<Work>,
    idle: Arc<AtomicBool>,
    client: JoinHandle<()>,
    _upstream: Upstream,
}

impl Bench {
    fn start() -> Self {
        let (gates, opened) = channel();
        let gates = Mutex::new(gates);
        let upstream = Upstream::start(Options { forgets: true, ..Options::default() }, move |request| {
            let asked = request.json();
            match asked["max_completion_tokens"].as_u64() {
                Some(events) => stream(events, &gates.lock().expect("one connection")),
                None => reply().steps(),
            }
        });
        let mut sockets = Sockets::listen(([127, 0, 0, 1], 0).into(), false).expect("a port");
        let (addr, now, target) = (sockets.local_addr().expect("an address"), sockets.now(), upstream.addr());
        let ledger = Ledger { target, wake: Box::new(sockets.waker()), done: Vec::new(), records: 0 };
        let metrics = Metrics::new(LabelLimits::default(), now.unix);
        let proxy = Proxy::new(settings(target), PriceTable::built_in(), metrics, now);
        let (idle, wake) = (Arc::new(AtomicBool::new(false)), sockets.waker());
        let reactor = Reactor::new(sockets, ledger, proxy, 0);
        let ((work, orders), is_idle) = (channel(), idle.clone());
        let client = thread::spawn(move || {
            let mut client = Client::connect(addr);
            for order in orders {
                perform(&mut client, order, &opened);
                is_idle.store(true, Ordering::SeqCst);
                wake();
            }
        });
        Self { reactor, work, idle, client, _upstream: upstream }
    }

    /// Turns until the client has done that; what the loop has allocated meanwhile.
    fn count(&mut self, requests: usize, events: Option<usize>) -> AllocationInfo {
        self.idle.store(false, Ordering::SeqCst);
        self.work.send(Work { requests, events }).expect("the client lives");
        measure(|| {
            while !self.idle.load(Ordering::SeqCst) {
                assert!(!self.client.is_finished(), "the client has failed");
                assert_eq!(self.reactor.turn().expect("it polls"), Turn::Continue);
            }
        })
    }

    /// Waits for the client's end; the records that the ledger got.
    fn stop(self) -> u64 {
        drop(self.work);
        self.client.join().expect("all answers were right");
        self.reactor.into_workers().records
    }
}

/// One request after another, event by event: each is there before the next is sent.
fn perform(client: &mut Client, Work { requests, events }: Work, gates: &Receiver<Vec<Sender<()>>>) {
    for n in 0..requests {
        client.send(request(n % USERS, events));
        if events.is_none() {
            client.response("POST").expect(200);
            continue;
        }
        let gates = gates.recv_timeout(support::DEADLINE).expect("the request has arrived");
        let head = client.head().expect("it is right").expect("there is one");
        let mut body = client::response_framing("POST", &head).expect("it has a body");
        for gate in gates {
            gate.send(()).expect("the upstream waits");
            client.body_piece(&mut body).expect("it is right").expect("an event");
        }
        while client.body_piece(&mut body).expect("it is right").is_some() {}
    }
}

fn request(user: usize, events: Option<usize>) -> Vec<u8> {
    let mut body = json!({
        "model": "gpt-4o-mini",
        "messages": [{"role": "user", "content": "x".repeat(PROMPT_BYTES)}],
    });
    if let Some(events) = events {
        body["stream"] = true.into();
        body["max_completion_tokens"] = events.into();
    }
    let user = format!("user-{user}");
    let fields = [("content-type", "application/json"), ("x-user-id", &*user), ("accept-encoding", "gzip, br")];
    client::request("POST", "/chat/completions", &fields, body.to_string().as_bytes())
}

fn reply() -> Reply {
    let answer = json!({
        "id": "chatcmpl-0123456789abcdefghijklmnopqrs", "object": "chat.completion", "created": 1_700_000_000,
        "model": "gpt-4o-mini-2024-07-18", "service_tier": "default", "system_fingerprint": "fp_0123456789",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "x".repeat(ANSWER_BYTES)},
            "logprobs": null, "finish_reason": "stop"}],
        "usage": support::api::chat_usage(),
    });
    with_ids(Reply::json(answer.to_string()))
}

fn with_ids(reply: Reply) -> Reply {
    reply.field("x-request-id", "req_0123456789abcdef0123456789abcdef").field("openai-processing-ms", "12")
}

/// A stream with usage, as it was asked for in the client's place: its head, then so many chunks with a word each, of
/// which each waits for its gate, and the last brings the rest along.
fn stream(events: u64, opened: &Sender<Vec<Sender<()>>>) -> Vec<Step> {
    let event = |choices, usage| {
        let chunk = json!({
            "id": "chatcmpl-0123456789abcdefghijklmnopqrs", "object": "chat.completion.chunk", "created": 1_700_000_000,
            "model": "gpt-4o-mini-2024-07-18", "service_tier": "default", "system_fingerprint": "fp_0123456789",
            "choices": choices, "usage": usage,
        });
        script::chunk(format!("data: {chunk}\n\n").as_bytes())
    };
    let choices = json!([{"index": 0, "delta": {"content": " word"}, "logprobs": null, "finish_reason": null}]);
    let word = event(choices, serde_json::Value::Null);
    let end = [event(json!([]), support::api::chat_usage()), script::chunk(b"data: [DONE]\n\n"), b"0\r\n\r\n".to_vec()];
    let (mut gates, mut steps) = (Vec::new(), vec![Step::Send(with_ids(Reply::sse("")).head())]);
    for n in 1..=events {
        let (gate, wait) = script::gate();
        gates.push(gate);
        let rest = if n == events { end.concat() } else { Vec::new() };
        steps.extend([wait, Step::Send([word.clone(), rest].concat())]);
    }
    opened.send(gates).expect("the client waits");
    steps
}

/// Allocations and bytes of each request.
fn each(counted: &AllocationInfo) -> (u64, u64) {
    let requests = HUNDRED as u64;
    (counted.count_total.div_ceil(requests), counted.bytes_total.div_ceil(requests))
}

#[test]
fn a_request_in_the_steady_state_allocates_little_and_leaves_nothing() {
    let mut bench = Bench::start();
    bench.count(WARM_UP, None);
    for hundred in 1..=HUNDREDS {
        let counted = bench.count(HUNDRED, None);
        let (allocations, bytes) = each(&counted);
        assert!(allocations <= REQUEST_ALLOCATIONS, "{allocations} in the {hundred}. hundred");
        assert!(bytes <= REQUEST_BYTES, "{bytes} bytes in the {hundred}. hundred");
        assert_eq!((counted.count_current, counted.bytes_current), (0, 0), "remain of the {hundred}. hundred");
    }
    assert_eq!(bench.stop(), (WARM_UP + HUNDREDS * HUNDRED) as u64);
}

/// Each event is read, edited and written by itself: nothing is saved by taking several at once.
#[test]
fn an_event_of_a_stream_allocates_nothing() {
    let mut bench = Bench::start();
    bench.count(WARM_UP, Some(20));
    let hundreds = [20, 20, 40, 20];
    for events in hundreds {
        let counted = bench.count(HUNDRED, Some(events));
        let (allocations, bytes) = each(&counted);
        assert!(allocations <= STREAM_ALLOCATIONS, "{allocations} for {events} events");
        assert!(bytes <= STREAM_BYTES, "{bytes} bytes for {events} events");
        assert_eq!((counted.count_current, counted.bytes_current), (0, 0), "remain after streams of {events} events");
    }
    assert_eq!(bench.stop(), (WARM_UP + hundreds.len() * HUNDRED) as u64);
}
