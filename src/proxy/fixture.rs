//! What unit tests of this layer share: settings in which nothing is in the way, and a proxy with them.

use super::api_paths::Cost;
use super::exchange::{Exchange, Request, Response, Stage};
use super::{Action, Conn, DownKey, Proxy, Settings, UpKey, Written};
use crate::base::clock::{Now, SECOND};
use crate::base::work::LongWork;
use crate::limit::reservation::Reservation;
use crate::limit::status::RateLimitStatus;
use crate::metrics::{LabelLimits, Metrics};
use crate::price::PriceTable;
use crate::usage::draft::Draft;
use crate::usage::record::Endpoint;

/// Settings in which nothing is in the way.
pub fn settings() -> Settings {
    Settings::default()
}

/// A proxy that knows its target's address.
pub fn proxy(settings: Settings) -> Proxy {
    let metrics = Metrics::new(LabelLimits::default(), 0);
    let mut proxy = Proxy::new(settings, PriceTable::built_in(), metrics, Now::default());
    proxy.resolved(Now::default(), Ok(vec!["127.0.0.1:1".parse().expect("an address")]));
    proxy
}

/// An exchange that is on its way, of a client that is connected nowhere.
pub fn exchange(endpoint: Endpoint) -> Exchange {
    Exchange {
        down: DownKey::new(0, 0),
        up: None,
        stage: Stage::Forwarding,
        permits: 0,
        tunnel: None,
        abandoned: false,
        reservation: Reservation::default(),
        limit_status: RateLimitStatus::default(),
        request: Request {
            http11: true,
            complete: true,
            cost: if endpoint == Endpoint::Other { Cost::Free } else { Cost::Metered },
            ..Request::default()
        },
        response: Response::default(),
        draft: Draft { endpoint, ..Draft::default() },
        started: 0,
        ready: 0,
    }
}

/// An instant, in seconds.
pub fn at(seconds: u64) -> Now {
    Now { mono: seconds * SECOND, unix: 0 }
}

/// The client sends this, as far as it is read from; what is left of it.
pub fn send<'a>(proxy: &mut Proxy, now: Now, key: DownKey, bytes: &'a [u8]) -> &'a [u8] {
    let mut rest = bytes;
    while !rest.is_empty() && proxy.wants_read(Conn::Down(key)) {
        let (piece, after) = rest.split_at(rest.len().min(1000));
        proxy.received(now, Conn::Down(key), &mut piece.to_vec());
        rest = after;
    }
    rest
}

/// The peer takes all that waits for it.
pub fn take(proxy: &mut Proxy, now: Now, conn: Conn) -> Vec<u8> {
    let mut taken = Vec::new();
    proxy.flush(now, conn, &mut |bytes| {
        taken.extend_from_slice(bytes);
        Written::Taken(bytes.len())
    });
    taken
}

/// Does what the proxy asks for, as a network does that takes everything and never waits; but for the connections to
/// the target that wait to be written to, which are returned.
pub fn act(proxy: &mut Proxy, now: Now) -> Vec<UpKey> {
    let mut to_flush = Vec::new();
    while let Some(action) = proxy.next_action() {
        match action {
            Action::Connect { up, .. } => proxy.connected(now, up),
            Action::Look(up) => proxy.looked(now, up),
            Action::Work(LongWork { ticket, work, .. }) => {
                work();
                proxy.worked(now, ticket);
            }
            Action::Read(conn) => proxy.resumed(now, conn),
            Action::Flush(Conn::Up(up)) => to_flush.push(up),
            _ => {}
        }
    }
    to_flush
}

/// A client that has sent this, the request of which is with the target.
pub fn sent(proxy: &mut Proxy, request: &str) -> (DownKey, UpKey) {
    let key = proxy.accepted(at(0));
    proxy.received(at(0), Conn::Down(key), &mut request.as_bytes().to_vec());
    let up = act(proxy, at(0)).pop().expect("something to send");
    take(proxy, at(0), Conn::Up(up));
    (key, up)
}
