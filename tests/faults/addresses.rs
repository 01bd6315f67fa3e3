//! A target with several addresses, the first of which swallows whatever is sent to it: the production loop over real
//! sockets, for which the binary has no name that resolves so on every machine.

use super::support::client::get;
use super::support::core;
use super::support::script::{Ending, Reply};
use super::support::upstream::Upstream;
use openai_api_proxy::base::clock::SECOND;
use openai_api_proxy::base::log::{Level, Note};
use openai_api_proxy::base::work::LongWork;
use openai_api_proxy::io::sockets::Sockets;
use openai_api_proxy::limit::budget::Period;
use openai_api_proxy::reactor::Reactor;
use openai_api_proxy::usage::record::Record;
use openai_api_proxy::worker::query::Job;
use openai_api_proxy::worker::{EventSender, WorkerEvent, Workers};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

/// A listener that takes no more connections, nor refuses any: what is sent to it is dropped. `None` where the system
/// does not behave so.
fn black_hole() -> Option<(TcpListener, Vec<TcpStream>)> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let addr = listener.local_addr().unwrap();
    let mut taken = Vec::new();
    while taken.len() < 100 {
        match TcpStream::connect_timeout(&addr, Duration::from_millis(300)) {
            Ok(stream) => taken.push(stream),
            Err(error) if error.kind() == std::io::ErrorKind::TimedOut => return Some((listener, taken)),
            Err(_) => return None,
        }
    }
    None
}

/// Workers that commit at once, know the target's addresses, and hand on what the log is told.
struct Instant {
    events: EventSender,
    addresses: Vec<SocketAddr>,
    notes: Sender<Note>,
}

impl Workers for Instant {
    fn submit(&mut self, records: Vec<Record>) {
        let upto = records.last().expect("at least one").seq;
        self.events.send(WorkerEvent::Committed { upto, retrieved: Vec::new() });
    }

    fn ask(&mut self, _: Job) -> bool {
        false
    }

    fn work(&mut self, work: LongWork) {
        panic!("no body is long: {work:?}");
    }

    fn tell(&mut self, notes: Vec<Note>) {
        // Nobody listens any more once the test is over.
        let _ = notes.into_iter().try_for_each(|note| self.notes.send(note));
    }

    fn sum_spend_sums(&mut self, _: Period) {}

    fn resolve(&mut self) {
        self.events.send(WorkerEvent::Resolved { addresses: Ok(self.addresses.clone()) });
    }

    fn collect(&mut self, into: &mut Vec<WorkerEvent>) {
        self.events.take(into);
    }
}

#[test]
fn an_address_that_swallows_packets_is_raced_once_and_then_avoided() {
    let Some((hole, _taken)) = black_hole() else { return super::support::skip("no listener swallows packets here") };
    let hole = hole.local_addr().unwrap();
    // Each request needs a connection of its own.
    let upstream = Upstream::plain(|_| Reply::new(200, "ok").ending(Ending::Close).steps());
    let sockets = Sockets::listen("127.0.0.1:0".parse().unwrap(), false).unwrap();
    let proxy_addr = sockets.local_addr().unwrap();
    let events = EventSender::new(sockets.waker());
    let (notes, noted) = channel();
    let workers = Instant { events: events.clone(), addresses: vec![hole, upstream.addr()], notes };
    let mut proxy = core::proxy(core::settings());
    proxy.log_up_to(Level::Debug);
    let reactor = std::thread::spawn(move || Reactor::new(sockets, workers, proxy, 30 * SECOND).run());
    for _ in 0..3 {
        get(proxy_addr, "/v1/models").expect(200);
    }
    events.send(WorkerEvent::Stop);
    reactor.join().unwrap().unwrap();
    let connecting = |note: &Note| (note.message == "connecting to the upstream").then(|| note.fields[0].1.clone());
    let tried: Vec<String> = noted.try_iter().filter_map(|note| connecting(&note)).collect();
    let expected = [hole, upstream.addr(), upstream.addr(), upstream.addr()].map(|addr| addr.to_string());
    assert_eq!(tried, expected, "it is tried once, and the other one beside it");
    assert_eq!(upstream.requests().len(), 3);
}
