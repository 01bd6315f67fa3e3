//! What the threads that call out by ureq have in common: who they say they are, the way out, and what keeps something
//! from its server.
//!
//! In: the way that a connection is to take. Out: how an agent begins. Never: a proxy that ureq has found by itself in
//! the environment, where it reads other names than we do.

use crate::config::Way;
use std::time::Duration;
use ureq::Agent;
use ureq::config::ConfigBuilder;
use ureq::http::Response;
use ureq::typestate::AgentScope;

/// The longest pause that a server may ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

/// An agent's configuration, to go on with.
pub fn agent(way: Way<'_>) -> ConfigBuilder<AgentScope> {
    let proxy = way.proxy().map(|proxy| ureq::Proxy::new(proxy.url.expose()).expect("checked by `config`"));
    Agent::config_builder().proxy(proxy).user_agent(concat!("openai-api-proxy/", env!("CARGO_PKG_VERSION")))
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
