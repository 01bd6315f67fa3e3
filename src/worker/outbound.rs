//! What the threads that call out by ureq have in common: who they say they are, the way out, and what keeps something
//! from its server.
//!
//! In: the way that a connection is to take. Out: how an agent begins. Never: a proxy that ureq has found by itself in
//! the environment, where it reads other names than we do.

use crate::config::Way;
use std::cell::Cell;
use std::io::{ErrorKind, Read as _};
use std::time::Duration;
use ureq::config::ConfigBuilder;
use ureq::http::Response;
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::typestate::AgentScope;
use ureq::{Agent, Body};

/// How much of an answer is read for its reason, bytes.
const ANSWER_BYTES_MAX: u64 = 16 * 1024;
/// The longest pause that a server may ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

/// An agent's configuration, to go on with: so long it may connect, TLS included, and take for a whole request and its
/// answer. It follows no redirect, which would carry what a request holds elsewhere, and make a GET of a POST.
pub fn agent(way: Way<'_>, [connect, request]: [Duration; 2]) -> ConfigBuilder<AgentScope> {
    let proxy = way.proxy().map(|proxy| ureq::Proxy::new(proxy.url.expose()).expect("checked by `config`"));
    Agent::config_builder()
        .proxy(proxy)
        .user_agent(concat!("openai-api-proxy/", env!("CARGO_PKG_VERSION")))
        .timeout_connect(Some(connect))
        .timeout_global(Some(request))
        .max_redirects(0)
        .max_redirects_will_error(false)
}

/// Agents for one server: one that trusts the authorities of a file, where there is one, and one that trusts the
/// built-in ones. ureq takes either.
pub struct Agents {
    agents: Vec<Agent>,
    /// Which of them has reached the server.
    current: Cell<usize>,
}

impl Agents {
    /// Each with these times, as [`agent`] has them; `ca` is a file of PEM.
    pub fn new(ca: Option<&[u8]>, way: Way<'_>, times: [Duration; 2]) -> Self {
        let own = ca.map(|pem| {
            let certificates = parse_pem(pem).filter_map(|item| match item {
                Ok(PemItem::Certificate(certificate)) => Some(certificate),
                _ => None,
            });
            RootCerts::new_with_certs(&certificates.collect::<Vec<_>>())
        });
        let trusted = own.into_iter().chain([RootCerts::WebPki]);
        let agents = trusted.map(|roots| {
            let tls = TlsConfig::builder().root_certs(roots).build();
            agent(way, times).tls_config(tls).http_status_as_error(false).max_idle_connections(1).build().into()
        });
        Self { agents: agents.collect(), current: Cell::new(0) }
    }

    /// By the agent that has reached the server; by the other one where that does not trust its certificate any more,
    /// so that nothing was sent.
    pub fn send(
        &self,
        send: impl Fn(&Agent) -> Result<Response<Body>, ureq::Error>,
    ) -> Result<Response<Body>, ureq::Error> {
        let first = self.current.get();
        let sent = send(&self.agents[first]);
        let other = (first + 1) % self.agents.len();
        if other == first || !sent.as_ref().is_err_and(is_of_tls) {
            return sent;
        }
        self.current.set(other);
        send(&self.agents[other])
    }
}

/// True for an error of the handshake, before which nothing is sent.
fn is_of_tls(error: &ureq::Error) -> bool {
    match error {
        ureq::Error::Rustls(_) => true,
        ureq::Error::Io(error) => error.kind() == ErrorKind::InvalidData,
        _ => false,
    }
}

/// The beginning of what a server says, which may repeat what it was sent: without a secret.
pub fn said(response: &mut Response<Body>, secret: &str) -> String {
    let mut answer = Vec::new();
    // What cannot be read of it explains less, and changes nothing.
    let _ = response.body_mut().as_reader().take(ANSWER_BYTES_MAX).read_to_end(&mut answer);
    let said = String::from_utf8_lossy(&answer);
    if secret.is_empty() { said.into_owned() } else { said.replace(secret, "[secret]") }
}

/// Why something did not reach a server, or found no place there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    pub why: String,
    /// How long the server asks to be left alone.
    pub retry_after: Option<Duration>,
}

impl Trouble {
    /// Without a wish of the server's.
    pub fn new(why: String) -> Self {
        Self { why, retry_after: None }
    }
}

/// RFC 9110 §10.2.3, its form in seconds; a date is taken for none, and the usual pause is made.
pub fn retry_after<T>(response: &Response<T>) -> Option<Duration> {
    let seconds: u64 = response.headers().get("retry-after")?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX))
}

/// An error of a request, without the address that it went to.
pub fn words(error: &ureq::Error) -> String {
    match error {
        // The one error that repeats it.
        ureq::Error::BadUri(_) => "its address is not valid".to_owned(),
        error => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_in_seconds_and_has_a_bound() {
        let asks = |value: &str| {
            retry_after(&Response::builder().header("retry-after", value).body(()).unwrap())
                .map(|pause| pause.as_secs())
        };
        assert_eq!(asks("0"), Some(0));
        assert_eq!(asks("120"), Some(120));
        assert_eq!(asks("99999999"), Some(3600));
        for odd in ["-1", "1.5", "Wed, 21 Oct 2026 07:28:00 GMT", ""] {
            assert_eq!(asks(odd), None, "{odd}");
        }
    }
}
