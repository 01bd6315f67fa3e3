//! Usage accounting: which bytes of a request or response say what was consumed. Pure: bytes in, numbers out.
//!
//! [`inspect`] reads what a JSON request asks for, and asks for usage where the client did not; [`content`] measures
//! what it holds, and [`multipart`] finds the fields of a form. [`reader`] reads a response beside its relaying, and
//! splits it once for three: [`capture`] takes the usage at the paths where the endpoint's [`shapes`] have it,
//! [`estimate`] counts the text for a response that does not report, and `editor` takes out what only our asking for
//! usage brought. [`session`] reads the messages of a WebSocket. [`dialects`] turns every dialect's usage object into
//! one [`record::Usage`]; [`response_id`] bounds ids without making two of them one.

pub mod capture;
pub mod content;
mod counted;
pub mod dialects;
pub mod draft;
pub mod each_member;
mod editor;
pub mod estimate;
mod gunzip;
pub mod inspect;
pub mod multipart;
pub mod reader;
pub mod record;
pub mod response_id;
pub mod session;
pub mod shapes;
pub mod splice;
pub mod tool_calls;
