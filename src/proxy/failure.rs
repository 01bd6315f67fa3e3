//! What goes wrong with a connection to the target, and what clients and the log are told of it.
//!
//! In: what failed, and how far the answer had come. Out: a fault, words, a label. Never: an address or a key.

use super::egress_tunnel::EgressError;
use crate::http::HttpError;
use crate::http::reply::Fault;
use crate::tls::TlsError;
use std::io::ErrorKind;

/// Why a connection is of no more use.
#[derive(Debug)]
pub enum Failure {
    /// The target's name has no address.
    Resolve(String),
    /// It could not be connected, or broke with an error.
    Broken(ErrorKind),
    /// The target closed it.
    Closed,
    /// The proxy on the way out has opened no tunnel.
    Egress(EgressError),
    /// TLS failed.
    Tls(TlsError),
    /// What the target sent is not HTTP.
    Protocol(HttpError),
    /// It took too long.
    Timeout,
}

/// How far a connection, and the answer on it, had come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reached {
    /// It was not even the target's: the proxy on the way out had not opened a tunnel.
    Egress,
    /// It was not ready for a request.
    Nothing,
    /// It was, and nothing of an answer has come.
    Connected,
    /// Within the answer's head.
    Head,
    /// Behind the head, within the body; where that comes in chunks, between two of them.
    Body,
    /// Within a chunk of it.
    Chunk,
    /// Within a WebSocket.
    Session,
}

impl Failure {
    /// How a client is told.
    pub fn fault(&self, reached: Reached) -> Fault {
        match self {
            Self::Resolve(_) | Self::Egress(_) | Self::Tls(_) => Fault::UpstreamUnreachable,
            Self::Broken(_) | Self::Closed if matches!(reached, Reached::Egress | Reached::Nothing) => {
                Fault::UpstreamUnreachable
            }
            Self::Broken(_) | Self::Closed => Fault::UpstreamClosed,
            Self::Protocol(_) => Fault::UpstreamProtocol,
            Self::Timeout => Fault::UpstreamTimeout,
        }
    }

    /// Words for the client, and what to do where that is known.
    pub fn message(&self, reached: Reached) -> String {
        let place = match reached {
            Reached::Egress | Reached::Nothing | Reached::Connected => "before it answered",
            Reached::Head => "within its answer's head",
            Reached::Body => "after its answer's head, in the middle of the body",
            Reached::Chunk => "after its answer's head, within a chunk of the body",
            Reached::Session => "in the middle of a session",
        };
        match (self, reached) {
            (Self::Resolve(why), Reached::Egress) => {
                format!("the name of the proxy on the way out could not be resolved: {why}")
            }
            (Self::Broken(why), Reached::Egress) => {
                format!("the proxy on the way out could not be connected: {why}")
            }
            (Self::Closed, Reached::Egress) => {
                "the proxy on the way out closed the connection before it opened a tunnel".to_owned()
            }
            (Self::Timeout, Reached::Egress) => "the proxy on the way out opened no tunnel in time".to_owned(),
            (Self::Egress(error), _) => format!("the proxy on the way out {error}"),
            (Self::Resolve(why), _) => format!("the upstream's name could not be resolved: {why}"),
            (Self::Tls(error), _) => format!("TLS with the upstream failed: {error}"),
            (Self::Protocol(error), _) => format!("the upstream's response is not valid HTTP: {}", error.message()),
            (Self::Timeout, Reached::Nothing) => "the upstream could not be connected in time".to_owned(),
            (Self::Timeout, Reached::Connected) => "the upstream did not answer in time".to_owned(),
            (Self::Timeout, _) => format!("the upstream did not go on in time, {place}"),
            (Self::Broken(why), Reached::Nothing) => format!("the upstream could not be connected: {why}"),
            (Self::Closed, Reached::Nothing) => "the upstream closed the connection at once".to_owned(),
            (Self::Broken(_) | Self::Closed, _) => format!("the upstream closed the connection {place}"),
        }
    }

    /// Label of the metric.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Resolve(_) => "resolve",
            Self::Broken(_) => "broken",
            Self::Closed => "closed",
            Self::Egress(_) => "egress",
            Self::Tls(_) => "tls",
            Self::Protocol(_) => "protocol",
            Self::Timeout => "timeout",
        }
    }
}
