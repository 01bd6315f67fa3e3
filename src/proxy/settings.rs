//! Everything that the operator decides about proxying, as the loop takes it.

use crate::access::Hash;
use crate::base::clock::SECOND;
use crate::door::Door;
use crate::http::forwarded_for::TrustedProxies;
use crate::http::front_headers::ForwardedHeaders;
use crate::limit::overrides::Limits;
use crate::policy::{AllowedPaths, ReadOn};
use crate::tls::{Acceptor, Connector};
use std::sync::Arc;

/// Durations, nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// To resolve the name, to connect to one address, to shake hands with it: each.
    pub connect: u64,
    /// Between two signs of life of the target while it owes an answer; and for a whole head of it.
    pub response: u64,
    /// For a client between requests; or in the middle of a body or an answer, without getting on.
    pub idle: u64,
    /// For a client to send a whole head.
    pub header: u64,
    /// To read a response on, for its usage, whose client has gone.
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
    /// What the proxy on the way out is asked for a tunnel with; `None` where there is none.
    pub egress: Option<Vec<u8>>,
    /// How to encrypt; `None` for a plain target.
    pub tls: Option<Connector>,
    /// Value of `Authorization` in place of the client's.
    pub authorization: Option<String>,
    /// Header lines that say whose account pays, each ended by CRLF, in place of the client's.
    pub account: Vec<u8>,
    /// How to speak TLS with clients; `None` for a plain port.
    pub acceptor: Option<Acceptor>,
    /// Which requests come in at all.
    pub door: Door,
    /// What may be relayed.
    pub allowed_paths: AllowedPaths,
    /// What of that which servers in front add is sent on.
    pub forward_headers: ForwardedHeaders,
    /// Whose `X-Forwarded-For` is believed.
    pub trusted_proxies: TrustedProxies,
    /// The model for a request that names none.
    pub model_name: Option<Arc<str>>,
    /// Only holders of our keys may relay; what they present is not sent on.
    pub keys_only: bool,
    /// What opens the local endpoints.
    pub admin: Option<Hash>,
    /// Without that, they are open to everybody; else to holders of keys, each for their own.
    pub is_open: bool,
    /// What each user may do who has no limits of their own.
    pub limits: Limits,
    /// What everybody may do together.
    pub total_limits: Limits,
    /// Of a budget a request without a maximum takes its user's average, not the model's largest output.
    pub reserves_average: bool,
    /// A user with a budget may send what cannot be metered.
    pub allows_unmetered: bool,
    /// The usage of a stream is asked for in its client's place.
    pub asks_usage: bool,
    /// Whose responses are read on without them.
    pub read_on: ReadOn,
    /// Most connections from clients.
    pub connections_max: usize,
    /// Most of them from one address; 0 for no such bound.
    pub connections_of_address_max: usize,
    /// Largest request body that is held for inspection, bytes.
    pub body_bytes_max: u64,
    /// From so many bytes on, reading a body would take milliseconds of everybody's time: a thread does.
    pub long_body_bytes: usize,
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

/// Settings in which nothing is in the way: of a plain target, with the timeouts of a start without configuration.
impl Default for Settings {
    fn default() -> Self {
        Self {
            authority: "target".to_owned(),
            prefix: String::new(),
            egress: None,
            tls: None,
            authorization: None,
            account: Vec::new(),
            acceptor: None,
            door: Door::default(),
            allowed_paths: AllowedPaths::All,
            forward_headers: ForwardedHeaders::default(),
            trusted_proxies: TrustedProxies::default(),
            model_name: None,
            keys_only: false,
            admin: None,
            is_open: true,
            limits: Limits::default(),
            total_limits: Limits::default(),
            reserves_average: false,
            allows_unmetered: false,
            asks_usage: true,
            read_on: ReadOn::Nobodys,
            connections_max: 100,
            connections_of_address_max: 0,
            body_bytes_max: 1 << 20,
            long_body_bytes: 64 << 10,
            buffered_bytes_max: 256 << 20,
            settled: true,
            journaled: false,
            ledger_places: 100,
            timeouts: Timeouts::default(),
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: 10 * SECOND,
            response: 600 * SECOND,
            idle: 75 * SECOND,
            header: 10 * SECOND,
            read_on: 0,
            ledger_wait: 0,
            overload: 2 * SECOND,
        }
    }
}
