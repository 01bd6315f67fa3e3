//! A proxy in front of the OpenAI API that knows, for every user, what was consumed.
#![forbid(unsafe_code)]

pub mod base;
pub mod cli;
pub mod config;
pub mod http;
pub mod io;
pub mod json;
pub mod limit;
pub mod local;
pub mod metrics;
pub mod price;
pub mod proxy;
pub mod reactor;
pub mod signal;
pub mod sse;
pub mod tls;
pub mod usage;
pub mod worker;
