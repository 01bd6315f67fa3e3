//! Usage accounting: which bytes of a request or response say what was consumed. Pure: bytes in, numbers out.
//!
//! [`request`] reads what is asked for and asks for usage where the client did not; [`form`] finds the model in what is
//! not held for that; [`capture`] reads a response beside its relaying, at the [`places`] where its endpoint reports,
//! and [`session`] the messages of a WebSocket; [`editor`] takes out again what only our asking brought; [`fields`]
//! turns every dialect's usage object into one [`record::Usage`]; [`estimate`] counts where a response was cut before
//! it reported.

pub mod capture;
pub mod editor;
pub mod estimate;
pub mod fields;
pub mod form;
mod gunzip;
mod mark;
pub mod places;
pub mod record;
pub mod request;
pub mod session;
