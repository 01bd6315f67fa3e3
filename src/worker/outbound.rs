//! What the threads that call out by ureq have in common: who they say they are, and the way out.
//!
//! In: the way that a connection is to take. Out: how an agent begins. Never: a proxy that ureq has found by itself in
//! the environment, where it reads other names than we do.

use crate::config::Way;
use ureq::Agent;
use ureq::config::ConfigBuilder;
use ureq::typestate::AgentScope;

/// An agent's configuration, to go on with.
pub fn agent(way: Way<'_>) -> ConfigBuilder<AgentScope> {
    let proxy = way.proxy().map(|proxy| ureq::Proxy::new(proxy.url.expose()).expect("checked by `config`"));
    Agent::config_builder().proxy(proxy).user_agent(concat!("openai-api-proxy/", env!("CARGO_PKG_VERSION")))
}
