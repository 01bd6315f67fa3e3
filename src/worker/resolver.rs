//! The thread that asks the system for the target's addresses, because getaddrinfo can block for as long as it likes.
//!
//! In: one host and port, and [`Resolver::refresh`]. Out: [`WorkerEvent::Resolved`], at the first answer, whenever the
//! addresses change, and after every refresh that was asked for. Never: an address dropped because a later lookup
//! failed. A failure in the background is not sent once addresses are known, and what the loop has stays good.

#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // the outside world: clocks

use crate::worker::event::{EventSender, WorkerEvent};
use crate::worker::retry::Backoff;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Addresses kept of one name.
const ADDRESSES_MAX: usize = 32;

/// Asks for the target's addresses. Dropping it stops the thread, without waiting for a lookup that may hang.
#[derive(Debug)]
pub struct Resolver {
    shared: Arc<Shared>,
}

impl Resolver {
    /// Begins to resolve at once. `host` is a name or an IP address (v6 without brackets); an address is its own
    /// answer, and nothing is looked up.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(host: &str, port: u16, events: EventSender) -> io::Result<Self> {
        if let Ok(address) = host.parse::<IpAddr>() {
            let addresses = vec![SocketAddr::new(address, port)];
            return Self::start_with(move || Ok(addresses.clone()), Schedule::for_address(), events);
        }
        let host = host.to_owned();
        let lookup = move || match (host.as_str(), port).to_socket_addrs() {
            Ok(found) => Ok(interleave(found.take(ADDRESSES_MAX).collect())),
            Err(error) => Err(format!("cannot resolve {host:?}: {error}")),
        };
        Self::start_with(lookup, Schedule::for_name(), events)
    }

    /// Asks again, because the known addresses do not answer. Never blocks; several requests are answered as one.
    pub fn refresh(&self) {
        self.shared.lock().asked = true;
        self.shared.changed.notify_one();
    }

    fn start_with(
        lookup: impl FnMut() -> Lookup + Send + 'static,
        schedule: Schedule,
        events: EventSender,
    ) -> io::Result<Self> {
        let shared =
            Arc::new(Shared { requests: Mutex::new(Requests { asked: true, stop: false }), changed: Condvar::new() });
        let resolver = Self { shared: Arc::clone(&shared) };
        thread::Builder::new().name("resolver".into()).spawn(move || run(&shared, lookup, schedule, &events))?;
        Ok(resolver)
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.changed.notify_one();
    }
}

type Lookup = Result<Vec<SocketAddr>, String>;

#[derive(Debug)]
struct Shared {
    requests: Mutex<Requests>,
    changed: Condvar,
}

#[derive(Debug)]
struct Requests {
    /// An answer is wanted even if nothing changes.
    asked: bool,
    stop: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Requests> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When to look up again.
#[derive(Clone, Copy, Debug)]
struct Schedule {
    /// At the earliest after the last lookup, however often it is asked for: a target that is down must not turn every
    /// failed request into a DNS query.
    interval_min: Duration,
    /// In the background after a success; `None` is never.
    success: Option<Duration>,
    /// In the background after failures.
    failure: Backoff,
}

impl Schedule {
    fn for_name() -> Self {
        Self {
            interval_min: Duration::from_secs(1),
            success: Some(Duration::from_secs(60)),
            failure: Backoff::new(Duration::from_secs(1), Duration::from_secs(30)),
        }
    }

    fn for_address() -> Self {
        Self { success: None, ..Self::for_name() }
    }

    /// After a lookup.
    fn pause(&mut self, is_success: bool) -> Option<Duration> {
        if !is_success {
            return Some(self.failure.failed());
        }
        self.failure.worked();
        self.success
    }
}

fn run(shared: &Shared, mut lookup: impl FnMut() -> Lookup, mut schedule: Schedule, events: &EventSender) {
    let mut sent: Option<Lookup> = None;
    loop {
        let asked = {
            let mut requests = shared.lock();
            if requests.stop {
                return;
            }
            std::mem::take(&mut requests.asked)
        };
        let result = lookup();
        let ended = Instant::now();
        let pause = schedule.pause(result.is_ok());
        if asked || is_news(sent.as_ref(), &result) {
            events.send(WorkerEvent::Resolved { addresses: result.clone() });
            sent = Some(result);
        }
        if !wait(shared, ended + schedule.interval_min, pause.map(|pause| ended + pause)) {
            return;
        }
    }
}

/// Whether the loop needs to hear of a result that it did not ask for.
fn is_news(sent: Option<&Lookup>, result: &Lookup) -> bool {
    match (sent, result) {
        (None, _) => true,
        (Some(Ok(before)), Ok(now)) => before != now,
        (Some(Err(_)), Ok(_)) => true,
        (Some(_), Err(_)) => false,
    }
}

/// Sleeps until `due`, or until it is asked for but not before `earliest`. False when the thread shall end.
fn wait(shared: &Shared, earliest: Instant, due: Option<Instant>) -> bool {
    let mut requests = shared.lock();
    loop {
        if requests.stop {
            return false;
        }
        let until = if requests.asked { Some(due.map_or(earliest, |due| due.min(earliest))) } else { due };
        let now = Instant::now();
        requests = match until {
            Some(until) if until <= now => return true,
            Some(until) => shared.changed.wait_timeout(requests, until - now).unwrap_or_else(PoisonError::into_inner).0,
            None => shared.changed.wait(requests).unwrap_or_else(PoisonError::into_inner),
        };
    }
}

/// The families in turn, each in the system's order, the system's first choice first (RFC 8305 section 4): where one
/// family does not work, the next attempt is already the other. Repetitions are left out.
fn interleave(found: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let Some(first) = found.first() else { return found };
    let (mut preferred, mut others): (Vec<_>, Vec<_>) =
        found.iter().copied().partition(|address| address.is_ipv4() == first.is_ipv4());
    preferred.reverse();
    others.reverse();
    let mut addresses = Vec::with_capacity(found.len());
    while !(preferred.is_empty() && others.is_empty()) {
        for address in [preferred.pop(), others.pop()].into_iter().flatten() {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
    }
    addresses
}

#[cfg(test)]
mod tests;
