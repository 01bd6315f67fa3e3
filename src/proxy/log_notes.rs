//! What the log is told of connections, retries and refusals. A request's own line is made of its record.
//!
//! In: what happens. Out: notes, taken once a turn. Never: a path, a header, a key or a text of a client's; those who
//! ask are told apart by their records.

use super::channel::Mistake;
use super::failure::{Failure, Reached};
use crate::base::log::{Level, Notes};
use crate::http::reply::Fault;
use crate::tls::TlsError;
use crate::usage::record::Record;
use std::net::SocketAddr;
use std::sync::Arc;

/// A client has come or gone; so many are connected now.
pub fn client(notes: &mut Notes, what: &'static str, connections: usize) {
    notes.add(Level::Trace, what, |note| note.with("connections", connections));
}

/// A client speaks what its port does not.
pub fn mistaken(notes: &mut Notes, mistake: Mistake) {
    let (what, next) = match mistake {
        Mistake::Tls => ("a client speaks TLS", "set TLS_CERT_FILE and TLS_KEY_FILE, or have it use http://"),
        Mistake::Plain => ("a client does not speak TLS", "have it use https://"),
        Mistake::Unable => ("no random bytes for TLS", "the client is sent away"),
    };
    notes.add(Level::Debug, what, |note| note.with("next", next));
}

/// TLS with a client is over before its connection.
pub fn client_tls(notes: &mut Notes, error: &TlsError) {
    notes.add(Level::Debug, "TLS with a client failed", |note| note.with("error", error.cause()));
}

/// There are as many clients as there may be.
pub fn crowd(notes: &mut Notes, what: &'static str, connections: usize) {
    notes.add(Level::Warn, what, |note| {
        note.with("connections", connections).with("next", "said once a minute at most")
    });
}

/// A connection to the target is being opened.
pub fn connecting(notes: &mut Notes, address: SocketAddr) {
    notes.add(Level::Debug, "connecting to the upstream", |note| note.with("address", address));
}

/// An address has not answered while another one did.
pub fn silent(notes: &mut Notes, address: SocketAddr) {
    notes.add(Level::Warn, "an address of the upstream does not answer", |note| {
        note.with("address", address).with("next", "it is tried last")
    });
}

/// A request was refused.
pub fn refusal(notes: &mut Notes, fault: Fault) {
    notes.add(Level::Debug, "request refused", |note| note.with("code", fault.code()));
}

/// A model has answered that may not be asked for.
pub fn other_model(notes: &mut Notes, record: &Record) {
    let named = |model: &Option<Arc<str>>| model.as_deref().unwrap_or_default().to_owned();
    let (asked, served) = (named(&record.model_requested), named(&record.model));
    notes.add(Level::Warn, "a model has answered that is not allowed (limits set --models)", |note| {
        note.with("user", record.user.to_string()).with("asked", asked).with("served", served)
    });
}

/// A session must end.
pub fn dismissal(notes: &mut Notes, fault: Fault) {
    notes.add(Level::Info, "a session is ended", |note| note.with("code", fault.code()));
}

/// A target refuses the question for a stream's usage.
pub fn asking_refused(notes: &mut Notes) {
    notes.add(Level::Warn, "the upstream refuses to be asked for a stream's usage (stream_options)", |note| {
        note.with("next", "requests like this one are sent as they are for a day, and their usage is estimated")
    });
}

/// The target refuses the key of a request: the operator's, or the client's own.
pub fn key_refused(notes: &mut Notes, is_operators: bool) {
    let next = match is_operators {
        true => "OPENAI_API_KEY is wrong, revoked or of another target: set it anew; proxy-server check asks with it",
        false => {
            "the client sends its own key, which is wrong or missing: set it there, or OPENAI_API_KEY here for all"
        }
    };
    notes.add(Level::Warn, "the upstream refuses the key that it was sent (401)", |note| note.with("next", next));
}

/// An attempt at the upstream has failed; `next` says what follows of it.
pub fn failure(notes: &mut Notes, level: Level, failure: &Failure, reached: Reached, next: &'static str) {
    notes.add(level, "upstream error", |note| {
        note.with("reason", failure.label()).with("error", failure.message(reached)).with("next", next)
    });
}
