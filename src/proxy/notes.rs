//! What the log is told of connections, retries and refusals. A request's own line is made of its record.
//!
//! In: what happens, as the other parts call it. Out: [`Note`]s, taken once a turn. Never: a path, a header, a key or a
//! text of a client's; those who ask are told apart by their records.

use super::Proxy;
use super::upstream::{Failure, Link};
use crate::base::log::{Level, Note};
use crate::http::reply::Fault;
use std::net::SocketAddr;

impl Proxy {
    /// From here on, notes up to this level are taken. Until it is called, only errors are.
    pub fn log_up_to(&mut self, level: Level) {
        self.notes.set_level(level);
    }

    /// What has happened since this was last called, in order.
    pub fn take_notes(&mut self) -> Vec<Note> {
        self.notes.take()
    }

    pub(super) fn note_client(&mut self, what: &'static str) {
        let connections = self.downs.len();
        self.notes.add(Level::Trace, what, |note| note.with("connections", connections));
    }

    pub(super) fn note_connecting(&mut self, address: SocketAddr) {
        self.notes.add(Level::Debug, "connecting to the upstream", |note| note.with("address", address));
    }

    /// An address has not answered while another one did, where that is news.
    pub(super) fn note_silent(&mut self, address: Option<SocketAddr>) {
        if let Some(address) = address {
            self.notes.add(Level::Warn, "an address of the upstream does not answer", |note| {
                note.with("address", address).with("next", "it is tried last")
            });
        }
    }

    pub(super) fn note_refusal(&mut self, fault: Fault) {
        self.notes.add(Level::Debug, "request refused", |note| note.with("code", fault.code()));
    }

    /// An attempt at the upstream has failed; `next` says what follows of it.
    pub(super) fn note_failure(&mut self, level: Level, failure: &Failure, link: Link, next: &'static str) {
        self.notes.add(level, "upstream error", |note| {
            note.with("reason", failure.label()).with("error", failure.message(link)).with("next", next)
        });
    }
}
