//! The proxy without its process, for tests that need what the binary cannot be given: several addresses of one name, a
//! socket that takes nothing.

use openai_api_proxy::base::clock::{Now, SECOND};
use openai_api_proxy::limit::overrides::Limits;
use openai_api_proxy::metrics::{LabelLimits, Metrics};
use openai_api_proxy::policy::ReadOn;
use openai_api_proxy::price::PriceTable;
use openai_api_proxy::proxy::{Proxy, Settings, Timeouts};

/// Settings in which nothing is in the way. Whoever waits for the target waits for longer than a test may take.
pub fn settings() -> Settings {
    Settings {
        authority: "target".to_owned(),
        prefix: String::new(),
        tls: None,
        authorization: None,
        model_name: None,
        keys_only: false,
        admin: None,
        limits: Limits::default(),
        reserves_average: false,
        allows_unmetered: false,
        asks_usage: true,
        read_on: ReadOn::Nobodys,
        connections_max: 100,
        body_bytes_max: 1 << 20,
        buffered_bytes_max: 1 << 20,
        settled: true,
        journaled: false,
        ledger_places: 100,
        timeouts: Timeouts {
            connect: 3600 * SECOND,
            response: 3600 * SECOND,
            idle: 75 * SECOND,
            header: 10 * SECOND,
            read_on: 60 * SECOND,
            ledger_wait: 0,
            overload: 0,
        },
    }
}

/// A proxy that knows no address of its target yet.
pub fn proxy(settings: Settings) -> Proxy {
    Proxy::new(settings, PriceTable::built_in(), Metrics::new(LabelLimits::default(), 0), Now::default())
}
