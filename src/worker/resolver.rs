//! The thread that asks the system for the target's addresses, because getaddrinfo can block for as long as it likes.
//!
//! In: one host and port, and [`Resolver::refresh`]. Out: [`WorkerEvent::Resolved`], at the first answer, whenever the
//! addresses change, and after every refresh that was asked for. Never: an address dropped because a later lookup
//! failed. A failure in the background is not sent once addresses are known, and what the loop has stays good.

use crate::worker::backoff::Backoff;
use crate::worker::event::{EventSender, WorkerEvent};
use crate::worker::process::spawn;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

/// Addresses kept of one name.
const ADDRESSES_MAX: usize = 32;
/// How often a name that was found is looked up again.
const REFRESH_EVERY: Duration = Duration::from_secs(60);

/// Asks for the target's addresses. Dropping it stops the thread, without waiting for a lookup that may hang.
pub struct Resolver {
    /// One that waits is as good as many.
    asks: SyncSender<()>,
}

impl Resolver {
    /// Begins to resolve at once. `host` is a name or an IP address (v6 without brackets); an address is its own
    /// answer, and nothing is looked up.
    ///
    /// # Errors
    /// One sentence: the system gives no thread.
    pub fn start(host: &str, port: u16, events: EventSender) -> Result<Self, String> {
        if let Ok(address) = host.parse::<IpAddr>() {
            let addresses = vec![SocketAddr::new(address, port)];
            return Self::start_with(move || Ok(addresses.clone()), Schedule::new(None), events);
        }
        let host = host.to_owned();
        let lookup = move || match (host.as_str(), port).to_socket_addrs() {
            Ok(found) => Ok(interleave(found.take(ADDRESSES_MAX).collect())),
            Err(error) => Err(format!("cannot resolve {host:?}: {error}")),
        };
        Self::start_with(lookup, Schedule::new(Some(REFRESH_EVERY)), events)
    }

    /// Asks again, because the known addresses do not answer. Never blocks; several requests are answered as one.
    pub fn refresh(&self) {
        let _ = self.asks.try_send(());
    }

    fn start_with(
        lookup: impl FnMut() -> Lookup + Send + 'static,
        schedule: Schedule,
        events: EventSender,
    ) -> Result<Self, String> {
        let (asks, asked) = sync_channel(1);
        spawn("resolver", move || run(&asked, lookup, schedule, &events))?;
        Ok(Self { asks })
    }
}

type Lookup = Result<Vec<SocketAddr>, String>;

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
    fn new(success: Option<Duration>) -> Self {
        let failure = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
        Self { interval_min: Duration::from_secs(1), success, failure }
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

fn run(asks: &Receiver<()>, mut lookup: impl FnMut() -> Lookup, mut schedule: Schedule, events: &EventSender) {
    let mut sent: Option<Lookup> = None;
    let mut next = Some(true);
    while let Some(is_asked) = next {
        let is_asked = is_asked | asks.try_recv().is_ok();
        let result = lookup();
        let ended = Instant::now();
        let pause = schedule.pause(result.is_ok());
        // A failure that nobody has asked for is no news, but for the first answer.
        let is_news = sent.as_ref().is_none_or(|sent| result.is_ok() && *sent != result);
        if is_asked || is_news {
            events.send(WorkerEvent::Resolved { addresses: result.clone() });
            sent = Some(result);
        }
        next = wait(asks, ended + schedule.interval_min, pause.map(|pause| ended + pause));
    }
}

/// Sleeps until `due`, or until it is asked for but not before `earliest`: which of the two it was. `None` when the
/// thread shall end.
fn wait(asks: &Receiver<()>, earliest: Instant, due: Option<Instant>) -> Option<bool> {
    let left = |until: Instant| until.saturating_duration_since(Instant::now());
    match due {
        None => asks.recv().ok()?,
        Some(due) => match asks.recv_timeout(left(due)) {
            Ok(()) => {}
            Err(RecvTimeoutError::Timeout) => return Some(false),
            Err(RecvTimeoutError::Disconnected) => return None,
        },
    }
    let until = due.map_or(earliest, |due| due.min(earliest));
    loop {
        match asks.recv_timeout(left(until)) {
            Ok(()) => {}
            Err(RecvTimeoutError::Timeout) => return Some(true),
            Err(RecvTimeoutError::Disconnected) => return None,
        }
    }
}

/// The families in turn, each in the system's order, the system's first choice first (RFC 8305 section 4): where one
/// family does not work, the next attempt is already the other. Repetitions are left out.
fn interleave(found: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let Some(first) = found.first() else { return found };
    let (preferred, others): (Vec<_>, Vec<_>) = found.iter().partition(|address| address.is_ipv4() == first.is_ipv4());
    let mut addresses = Vec::with_capacity(found.len());
    for place in 0..found.len() {
        for &address in [preferred.get(place), others.get(place)].into_iter().flatten() {
            if !addresses.contains(address) {
                addresses.push(*address);
            }
        }
    }
    addresses
}

#[cfg(test)]
mod tests;
