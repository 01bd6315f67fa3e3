//! The proxy itself: connections and exchanges as state machines. Bytes, events and the turn's instant in; bytes and
//! [`Action`]s out. Never a socket, a clock or a thread: the same code runs over real sockets and in the simulation.
//!
//! ```text
//!   client ──▶ Downstream ──▶ Exchange ──▶ Upstream ──▶ target
//!               (a slot)       (a slot)     (a slot)
//! ```
//!
//! A connection from a client, a connection to the target and the exchange between them are three slots that know each
//! other by generational keys: a link to what is gone finds nothing. One exchange at a time belongs to a connection.
//!
//! An exchange's life, and where each step lives:
//!
//! ```text
//!   head ─▶ admit ─▶ dispatch ─▶ connection ready ─▶ request sent ─▶ response relayed ─▶ settled ─▶ finished
//!        downstream  admission    dispatch           upstream          response          settlement
//! ```
//!
//! From dispatch on, every way out leads through [`settlement`], once: one record, one release of its place.

pub mod accept;
pub mod admission;
mod asked;
pub mod audit;
pub mod buffered;
pub mod dispatch;
pub mod downstream;
pub mod exchange;
#[cfg(test)]
mod fixture;
pub mod forward;
mod group;
pub mod identity;
pub mod limits;
pub mod named;
pub mod notes;
pub mod policy;
pub mod pool;
pub mod replies;
pub mod response;
pub mod retry;
pub mod route;
pub mod settlement;
pub mod timing;
pub mod tunnel;
pub mod upstream;

use crate::access::{Access, Hash};
use crate::base::buffer::Spares;
use crate::base::clock::Now;
use crate::base::deadlines::Deadlines;
use crate::base::log::Notes;
use crate::base::slab::{Key, Slab};
use crate::limit::limiter::Limiter;
use crate::limit::overrides::Limits;
use crate::local::Answer;
use crate::local::dashboard::DashboardQuery;
use crate::local::usage_report::UsageQuery;
use crate::metrics::{Gauges, Metrics, Snapshot};
use crate::price::PriceTable;
use crate::tls::Connector;
use crate::usage::record::Record;
use buffered::Buffered;
use downstream::Downstream;
use exchange::Exchange;
use group::Group;
use pool::Pool;
use std::collections::{BTreeMap, VecDeque};
use std::io::ErrorKind;
use std::net::SocketAddr;
use upstream::Upstream;

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
    /// Answer with [`Proxy::answered`].
    Ask { ticket: u64, question: Question },
}

/// What only a thread that may block, or take its time, can answer.
#[derive(Debug)]
pub enum Question {
    Usage(Box<UsageQuery>),
    Dashboard(Box<DashboardQuery>),
    Metrics(Box<Snapshot>),
}

/// Durations, nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// To resolve, connect and shake hands with one address.
    pub connect: u64,
    /// Between two signs of life of the target while it owes an answer; and for a whole head of it.
    pub response: u64,
    /// For a client between requests; or in the middle of a body or an answer, without getting on.
    pub idle: u64,
    /// For a client to send a whole head.
    pub header: u64,
    /// To read a response on, for its usage, whose client has gone; 0 is not at all.
    pub read_on: u64,
    /// A reply's wait for its commit when the ledger is in trouble; 0 is for ever.
    pub ledger_wait: u64,
    /// For a client to wait for a place among all connections before it is told that there is none; 0 is for ever.
    pub overload: u64,
}

/// Everything that the operator decides about proxying.
pub struct Settings {
    /// Value of `Host` towards the target.
    pub authority: String,
    /// Put before every path; empty or `/…` without a slash at the end.
    pub prefix: String,
    /// How to encrypt; `None` for a plain target.
    pub tls: Option<Connector>,
    /// Value of `Authorization` in place of the client's.
    pub authorization: Option<String>,
    /// The model for a request that names none.
    pub model_name: Option<String>,
    /// Only holders of our keys may relay; what they present is not sent on.
    pub keys_only: bool,
    /// What opens the local endpoints; without it they are open.
    pub admin: Option<Hash>,
    /// What each user may do who has no limits of their own.
    pub limits: Limits,
    /// Most connections from clients.
    pub connections_max: usize,
    /// Largest request body that is held for inspection, bytes.
    pub body_bytes_max: u64,
    /// All request bodies held for inspection together, bytes; beyond, clients are not read from.
    pub buffered_bytes_max: usize,
    /// A reply's last byte waits for its record's commit.
    pub settled: bool,
    /// A request is sent only when the ledger has a row of it.
    pub journaled: bool,
    /// Records that may be under way to the ledger, exchanges in flight included.
    pub ledger_places: usize,
    pub timeouts: Timeouts,
}

/// All connections and exchanges of a process.
pub struct Proxy {
    settings: Settings,
    downs: Slab<Downstream>,
    ups: Slab<Upstream>,
    exchanges: Slab<Exchange>,
    pool: Pool,
    buffered: Buffered,
    limiter: Limiter,
    access: Access,
    metrics: Metrics,
    prices: PriceTable,
    deadlines: Deadlines<Conn>,
    actions: VecDeque<Action>,
    /// The target's addresses, once known.
    addresses: Vec<SocketAddr>,
    /// Connections that wait for `addresses`.
    resolving: Vec<UpKey>,
    /// Records that are to go to the ledger.
    records: Vec<Record>,
    group: Group,
    /// `seq` of the last record.
    settled_seq: u64,
    /// `seq` of the last record that is known to be committed.
    committed_seq: u64,
    /// Exchanges whose reply, or a part of it, waits for a commit, in the order of their `seq`.
    uncommitted: VecDeque<(u64, ExchangeKey)>,
    /// Places in the ledger's queue for records that are still to come.
    places_reserved: u64,
    /// Behind the target every model's name is that of a deployment.
    deploys: bool,
    /// Entries opened in the journal so far.
    journaled: u64,
    /// `seq` of each line on its way that is about the journal only.
    journal_lines: VecDeque<u64>,
    /// How many of those are committed.
    journal_committed: u64,
    /// Tunnels that wait for a place.
    placeless: VecDeque<ExchangeKey>,
    /// Exchanges whose request was completed in this turn, for their overhead.
    dispatched: Vec<ExchangeKey>,
    ledger_trouble: Option<String>,
    ledger_takes_records: bool,
    tickets: BTreeMap<u64, DownKey>,
    next_ticket: u64,
    /// Prefix of our request ids, the same for the life of the process.
    boot_id: u64,
    /// Replies of our own so far.
    replies: u64,
    /// Bytes of large local answers that wait for their clients.
    answer_bytes: usize,
    /// For the log.
    notes: Notes,
    draining: bool,
    /// There have been as many clients as there may be since then, monotonic nanoseconds.
    full_since: Option<u64>,
    /// What TLS itself has to say, loop-wide: no connection has a buffer of its own for it.
    scratch: Vec<u8>,
    /// Ciphertext on its way out, the same.
    sealed: Vec<u8>,
    /// Memory that waits for a buffer to need it.
    spares: Spares,
    /// A piece of an edited stream on its way, loop-wide too.
    edited: Vec<u8>,
}

impl Proxy {
    /// `started` gives request ids that differ between processes.
    pub fn new(settings: Settings, prices: PriceTable, metrics: Metrics, started: Now) -> Self {
        Self {
            limiter: Limiter::new(settings.limits),
            access: Access::new(settings.keys_only, settings.admin),
            deadlines: Deadlines::new(&timing::durations(&settings.timeouts)),
            deploys: named::is_of_deployments(&settings.authority, &settings.prefix),
            pool: Pool::new(settings.connections_max),
            settings,
            prices,
            metrics,
            downs: Slab::default(),
            ups: Slab::default(),
            exchanges: Slab::default(),
            buffered: Buffered::default(),
            actions: VecDeque::new(),
            addresses: Vec::new(),
            resolving: Vec::new(),
            records: Vec::new(),
            group: Group::default(),
            settled_seq: 0,
            committed_seq: 0,
            uncommitted: VecDeque::new(),
            places_reserved: 0,
            journaled: 0,
            journal_lines: VecDeque::new(),
            journal_committed: 0,
            placeless: VecDeque::new(),
            dispatched: Vec::new(),
            ledger_trouble: None,
            ledger_takes_records: true,
            tickets: BTreeMap::new(),
            next_ticket: 0,
            boot_id: started.unix,
            replies: 0,
            answer_bytes: 0,
            notes: Notes::default(),
            draining: false,
            full_since: None,
            scratch: Vec::new(),
            sealed: Vec::new(),
            spares: Spares::default(),
            edited: Vec::new(),
        }
    }

    /// True where more bytes of this connection are wanted now. When it turns true again, [`Action::Read`] says so.
    pub fn wants_read(&self, conn: Conn) -> bool {
        match conn {
            Conn::Down(key) => self.wants_client_bytes(key),
            Conn::Up(key) => self.wants_upstream_bytes(key),
        }
    }

    /// Reading goes on: first with what was read before and had to wait.
    pub fn resumed(&mut self, now: Now, conn: Conn) {
        match conn {
            Conn::Down(key) => self.advance(now, key),
            Conn::Up(key) => self.advance_upstream(now, key),
        }
    }

    /// Bytes were read. They may be decrypted in place.
    pub fn received(&mut self, now: Now, conn: Conn, bytes: &mut [u8]) {
        match conn {
            Conn::Down(key) => self.client_bytes(now, key, bytes),
            Conn::Up(key) => self.upstream_bytes(now, key, bytes),
        }
    }

    /// The peer has shut its sending side down.
    pub fn ended(&mut self, now: Now, conn: Conn) {
        match conn {
            Conn::Down(key) => self.client_ended(now, key),
            Conn::Up(key) => self.upstream_ended(now, key),
        }
    }

    /// The connection is broken, or could not be opened.
    pub fn failed(&mut self, now: Now, conn: Conn, why: ErrorKind) {
        match conn {
            Conn::Down(key) => self.drop_down(now, key),
            Conn::Up(key) => self.upstream_broke(now, key, why),
        }
    }

    /// Hands out what may be written now, piece by piece, until `write` takes less than it is given.
    pub fn flush(&mut self, now: Now, conn: Conn, write: &mut dyn FnMut(&[u8]) -> Written) {
        match conn {
            Conn::Down(key) => self.flush_down(now, key, write),
            Conn::Up(key) => self.flush_up(now, key, write),
        }
    }

    /// The next thing to do, in order.
    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// The records that go to the ledger now, in order; none is lost between here and its commit. Some may wait for
    /// others ([`group`]), until [`Proxy::next_deadline`] at the latest.
    pub fn take_records(&mut self, now: Now) -> Vec<Record> {
        let may_wait = self.settings.settled && !self.draining;
        let open = if may_wait { self.exchanges.len().saturating_sub(self.uncommitted.len()) } else { 0 };
        if self.records.is_empty() || !self.group.is_complete(now.mono, self.records.len(), open) {
            return Vec::new();
        }
        std::mem::take(&mut self.records)
    }

    /// Stop taking work: idle connections close, exchanges run to their end, nothing is kept alive.
    pub fn drain(&mut self, now: Now) {
        self.draining = true;
        let idle: Vec<_> = self.downs.keys().filter(|&key| self.is_between_requests(key)).collect();
        for key in idle {
            self.drop_down(now, key);
        }
        while let Some(key) = self.pool.take() {
            self.close_up(key);
        }
    }

    /// True where no connection and no exchange is left and every record is committed.
    pub fn is_drained(&self) -> bool {
        self.is_quiet() && self.committed_seq == self.settled_seq
    }

    /// True where no client's connection and no exchange is left.
    pub fn is_quiet(&self) -> bool {
        self.downs.is_empty() && self.exchanges.is_empty()
    }

    /// Ends everything now: what was in flight is recorded as interrupted.
    pub fn abort(&mut self, now: Now) {
        let exchanges: Vec<_> = self.exchanges.keys().collect();
        for key in exchanges {
            self.interrupt(now, key);
        }
        let downs: Vec<_> = self.downs.keys().collect();
        for key in downs {
            self.drop_down(now, key);
        }
        let ups: Vec<_> = self.ups.keys().collect();
        for key in ups {
            self.close_up(key);
        }
    }

    /// An answer to [`Action::Ask`] has come.
    pub fn answered(&mut self, now: Now, ticket: u64, answer: &Answer) {
        if let Some(key) = self.tickets.remove(&ticket) {
            self.local_answer(now, key, answer);
        }
    }

    /// The ledger began to fail, or works again; where it will not take records any more, new requests are refused.
    pub fn ledger_state(&mut self, trouble: Option<String>, takes_records: bool) {
        self.ledger_takes_records = takes_records;
        if trouble.is_some() {
            self.metrics.ledger_failed();
        }
        self.ledger_trouble = trouble;
    }

    /// What the loop knows at this instant, for a scrape.
    fn gauges(&self) -> Gauges {
        Gauges {
            requests_in_flight: self.exchanges.len() as u64,
            downstream_connections: self.downs.len() as u64,
            upstream_connections: self.ups.len() as u64,
            ledger_up: self.ledger_trouble.is_none(),
            ledger_queue_records: self.settled_seq - self.committed_seq,
            buffered_bytes: self.buffered.bytes() as u64,
        }
    }
}

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// This many bytes were taken.
    Taken(usize),
    /// None, until the socket is writable again.
    Blocked,
    /// The connection is broken.
    Broken(ErrorKind),
}
