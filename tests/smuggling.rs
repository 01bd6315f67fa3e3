//! What two parsers could read differently is refused, never repaired: hostile requests and hostile responses, each
//! sent to the running binary, with what the other side saw of them. What is accepted is the same message to others.
//! Left to others: bytes in no form at all (`fuzz_corpus`), honest faults (`faults`), handshakes of WebSockets
//! (`realtime`).

#[path = "smuggling/differential.rs"]
mod differential;
#[path = "smuggling/parsers.rs"]
mod parsers;
#[path = "smuggling/recorder.rs"]
mod recorder;
#[path = "smuggling/requests.rs"]
mod requests;
#[path = "smuggling/responses.rs"]
mod responses;
#[path = "smuggling/spellings.rs"]
mod spellings;
mod support;
