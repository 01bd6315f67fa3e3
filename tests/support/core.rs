//! The proxy without its process, for tests that need what the binary cannot be given: several addresses of one name, a
//! socket that takes nothing.

use openai_api_proxy::base::clock::{Now, SECOND};
use openai_api_proxy::metrics::{LabelLimits, Metrics};
use openai_api_proxy::price::PriceTable;
use openai_api_proxy::proxy::{Proxy, Settings, Timeouts};

/// Settings in which nothing is in the way. Whoever waits for the target waits for longer than a test may take.
pub fn settings() -> Settings {
    Settings {
        buffered_bytes_max: 1 << 20,
        timeouts: Timeouts {
            connect: 3600 * SECOND,
            response: 3600 * SECOND,
            read_on: 60 * SECOND,
            overload: 0,
            ..Timeouts::default()
        },
        ..Settings::default()
    }
}

/// A proxy that knows no address of its target yet.
pub fn proxy(settings: Settings) -> Proxy {
    Proxy::new(settings, PriceTable::built_in(), Metrics::new(LabelLimits::default(), 0), Now::default())
}
