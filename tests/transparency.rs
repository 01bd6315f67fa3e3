//! The proxy is transparent: what a client receives through it is what it would have received from the upstream itself,
//! and what the upstream receives is what the client sent, byte for byte, but for the edits that are its purpose. Left
//! to others: when bytes pass, and over which connection (`relay`), recorded traffic (`recorded`), what odd reports
//! count as (`traps`).
//!
//! Each request is made twice, directly and through the proxy, and the two answers are compared.

#[path = "transparency/asking.rs"]
mod asking;
#[path = "transparency/encodings.rs"]
mod encodings;
#[path = "transparency/endpoints.rs"]
mod endpoints;
#[path = "transparency/requests.rs"]
mod requests;
#[path = "transparency/responses.rs"]
mod responses;
mod support;
