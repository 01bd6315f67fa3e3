//! Who is told of budgets: one post of JSON for each message, and what the answer means.
//!
//! In: an address, and a message. Out: whether it was taken, or why not. Never: a wait without an end, a redirect
//! followed, more of the address than its host in a reason.

use crate::config::{Egress, SecretUrl};
use crate::worker::outbound::{self, Trouble, retry_after};
use http::Uri;
use std::time::Duration;
use ureq::Agent;

/// Connecting, TLS included, to one address.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A whole request and the head of its answer.
const POST_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a message was not taken.
#[derive(Debug)]
pub enum Untaken {
    /// For what it says; others may be taken.
    Refused(String),
    /// It, and any other, may be taken at another time.
    Trouble(Trouble),
}

/// The receiver.
pub struct Webhook {
    agent: Agent,
    url: SecretUrl,
}

impl Webhook {
    /// Connects to nothing yet.
    pub fn new(url: SecretUrl, egress: &Egress) -> Self {
        let shown: Uri = url.shown.parse().expect("checked by `config`");
        let agent = outbound::agent(egress.way_to(&shown), [CONNECT_TIMEOUT, POST_TIMEOUT])
            .http_status_as_error(false)
            // Messages are rare: a connection that was kept would be closed already.
            .max_idle_connections(0)
            .build()
            .into();
        Self { agent, url }
    }

    /// Scheme, host and port, to be shown.
    pub fn shown(&self) -> &str {
        &self.url.shown
    }

    /// Sends one message. Only a status of success says that it was taken.
    pub fn post(&self, body: &str) -> Result<(), Untaken> {
        let sent = self.agent.post(self.url.url.expose()).header("content-type", "application/json").send(body);
        let response = sent.map_err(|error| Untaken::Trouble(Trouble::new(outbound::words(&error))))?;
        // What it says beside that may repeat the address.
        let status = response.status().as_u16();
        let why = format!("status {status}");
        match status {
            200..=299 => Ok(()),
            400 | 413 | 422 => Err(Untaken::Refused(why)),
            300..=399 => Err(Untaken::Trouble(Trouble::new(format!("{why}: redirects are not followed")))),
            _ => Err(Untaken::Trouble(Trouble { why, retry_after: retry_after(&response) })),
        }
    }
}
