//! The export to InfluxDB: whatever becomes of the server, of its answers and of the proxy, each record of the ledger is
//! there once, with its numbers, under its names.

#![allow(clippy::disallowed_methods)] // records have a time, and waiting has an end

mod support;

#[path = "influx/account.rs"]
mod account;
#[path = "influx/fake.rs"]
mod fake;
#[path = "influx/real.rs"]
mod real;
#[path = "influx/scripted.rs"]
mod scripted;
