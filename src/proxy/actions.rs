//! What the proxy and whoever drives it say to each other: connections by their keys, and what must be done.

use super::downstream::Downstream;
use super::exchange::Exchange;
use super::upstream::Upstream;
use crate::base::slab::Key;
use crate::base::work::LongWork;
use crate::local::admin_request::AdminRequest;
use crate::local::dashboard::DashboardQuery;
use crate::local::manual::html::HelpQuery;
use crate::local::usage_report::UsageQuery;
use crate::metrics::Snapshot;
use std::net::SocketAddr;

/// Key of a client's connection.
pub type DownKey = Key<Downstream>;
/// Key of a connection to the target.
pub type UpKey = Key<Upstream>;
/// Key of an exchange.
pub type ExchangeKey = Key<Exchange>;

/// Bytes waiting for one peer at which reading from the other stops.
pub const HIGH_WATERMARK: usize = 64 * 1024;
/// Bytes waiting for one peer below which reading from the other goes on.
pub const LOW_WATERMARK: usize = 16 * 1024;

/// A connection, on either side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conn {
    Down(DownKey),
    Up(UpKey),
}

impl Conn {
    /// `generation << 32 | index << 1 | side`: what a poller keeps beside a socket.
    pub fn token(self) -> u64 {
        let (generation, index, side) = match self {
            Self::Down(key) => (key.generation, key.index, 0),
            Self::Up(key) => (key.generation, key.index, 1),
        };
        u64::from(generation) << 32 | u64::from(index) << 1 | side
    }

    /// The inverse of [`Conn::token`].
    pub fn from_token(token: u64) -> Self {
        let (generation, index) = ((token >> 32) as u32, (token as u32) >> 1);
        if token & 1 == 0 { Self::Down(Key::new(index, generation)) } else { Self::Up(Key::new(index, generation)) }
    }
}

/// What the outside world must do.
#[derive(Debug)]
pub enum Action {
    /// Open a socket to this address; tell [`Proxy::connected`] or [`Proxy::failed`].
    Connect { up: UpKey, address: SocketAddr },
    /// Read whatever is there now, without waiting for an event; then tell [`Proxy::looked`].
    Look(UpKey),
    /// Something may be written: call [`Proxy::flush`] before the turn ends.
    Flush(Conn),
    /// Reading, paused until now, may go on: call [`Proxy::resumed`], then read; no event will come for what waits.
    Read(Conn),
    /// The slot is gone; close the socket at the end of the turn, after writing `last` as far as it goes at once. With
    /// `reset` so that the peer cannot take it for the end of a message.
    Close { conn: Conn, last: Vec<u8>, reset: bool },
    /// Nothing more will be written: shut the sending side down.
    HalfClose(DownKey),
    /// Look the target up again.
    Resolve,
    /// Have it done by a thread; then tell [`Proxy::worked`].
    Work(LongWork),
    /// Answer with [`Proxy::answered`].
    Ask { ticket: u64, question: Question },
}

/// What only a thread that may block, or take its time, can answer.
#[derive(Debug)]
pub enum Question {
    Usage(Box<UsageQuery>),
    Dashboard(Box<DashboardQuery>),
    Admin(Box<AdminRequest>),
    Metrics(Box<Snapshot>),
    Help(Box<HelpQuery>),
}
