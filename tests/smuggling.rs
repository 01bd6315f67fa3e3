//! What two parsers could read differently is refused, never repaired: hostile requests and hostile responses, each sent
//! to the running binary, with what the other side saw of them.

#[path = "smuggling/requests.rs"]
mod requests;
#[path = "smuggling/responses.rs"]
mod responses;
mod support;
