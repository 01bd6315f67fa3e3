//! Which deadline each connection has at each moment, and what happens when it passes.
//!
//! A connection has one deadline at a time, chosen by its state, and none can be put off for ever by a trickle:
//!
//! | what is waited for | deadline | starts again |
//! |---|---|---|
//! | a client's TLS handshake with its first head, from the connect | `HEADER_TIMEOUT` | never |
//! | a client's head, a target's head, from the first byte | `HEADER_TIMEOUT`, `RESPONSE_TIMEOUT` | never |
//! | a client between requests, a pooled connection | `IDLE_TIMEOUT` | never |
//! | a lookup, a connect, a tunnel, a TLS handshake | `CONNECT_TIMEOUT` | for each address, of which there are few |
//! | a connect where there is another address | [`ATTEMPT_DELAY`], after which that is tried as well | never |
//! | a client's body, a client that takes an answer | `IDLE_TIMEOUT` | once [`CLIENT_BYTES_PER_SECOND`] have moved |
//! | the same, where [others wait](super::held_bodies) for the body | `HEADER_TIMEOUT` | never |
//! | a target that answers, or takes a request | `RESPONSE_TIMEOUT` | with any byte that is not part of a trickle |
//! | a commit, a target read on without a client, a linger | their own | never |
//! | an answer to one who [guesses keys](super::key_guesses) | a second | never |
//!
//! A client that we do not read from is not timed, as it waits for us; whoever it is that we wait for is. Interim
//! responses are signs of life of the target; there is a bound on their number. A WebSocket has no such bounds: either
//! side may keep a silent session alive with pings for as long as the other plays along.

use super::Timeouts;
use super::dialer::ATTEMPT_DELAY;
use super::downstream::Downstream;
use super::downstream::Phase;
use crate::base::clock::{MILLISECOND, SECOND};
use crate::http::body::BodyReader;

/// How long a closing connection is read on, so that our last words are not lost to a reset.
const LINGER: u64 = 2 * SECOND;

/// The least that a client must move, on average over each `IDLE_TIMEOUT`, of its body or of an answer that it does not
/// keep up with. Any modem does more; Apache's mod_reqtimeout asks for as much.
pub const CLIENT_BYTES_PER_SECOND: u64 = 500;

/// Kinds of deadlines; the discriminant is the class in [`crate::base::deadlines::Deadlines`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// A client between two requests.
    Idle,
    /// A client that sends a head, from its first byte; a new client, from its connect.
    Header,
    /// A client that sends a body: for the next part of it.
    Body,
    /// The same while others wait for it: for all of the rest.
    HurriedBody,
    /// A client that takes an answer: for the next part of it.
    Write,
    /// A client whose connection we have closed for sending; a target that was told that its session ends.
    Linger,
    /// A refusal that waits, as its client guesses keys.
    Delay,
    /// A reply that waits for its commit.
    LedgerWait,
    /// A connection that waits for the target's addresses.
    Resolve,
    /// One that connects, while there is another address to try: until that is tried beside it.
    ConnectDelay,
    /// What is left of the time to connect after that.
    ConnectRest,
    /// One that connects, with all of its time.
    Connect,
    /// One that waits for the proxy on the way out to open a tunnel.
    Egress,
    /// One that shakes hands.
    Handshake,
    /// The target owes an answer: between two signs of life.
    Response,
    /// A response's head has begun: for its rest.
    ResponseHead,
    /// The target answers a client that has gone: until we lose interest.
    ReadOn,
    /// A connection in the pool.
    Pool,
}

/// The classes in the order of their discriminants.
const CLASSES: [Class; 18] = [
    Class::Idle,
    Class::Header,
    Class::Body,
    Class::HurriedBody,
    Class::Write,
    Class::Linger,
    Class::Delay,
    Class::LedgerWait,
    Class::Resolve,
    Class::ConnectDelay,
    Class::ConnectRest,
    Class::Connect,
    Class::Egress,
    Class::Handshake,
    Class::Response,
    Class::ResponseHead,
    Class::ReadOn,
    Class::Pool,
];

impl Class {
    /// The class with this discriminant.
    pub fn from_index(index: u8) -> Self {
        CLASSES[usize::from(index)]
    }
}

/// The duration of each class, nanoseconds.
pub fn durations(timeouts: &Timeouts) -> [u64; CLASSES.len()] {
    CLASSES.map(|class| match class {
        Class::Idle | Class::Body | Class::Write => timeouts.idle,
        Class::Header | Class::HurriedBody => timeouts.header,
        Class::Linger => LINGER,
        Class::Delay => SECOND,
        Class::LedgerWait => timeouts.ledger_wait,
        Class::Resolve | Class::Connect | Class::Egress | Class::Handshake => timeouts.connect,
        Class::ConnectDelay => timeouts.connect.min(ATTEMPT_DELAY),
        Class::ConnectRest => timeouts.connect.saturating_sub(ATTEMPT_DELAY),
        Class::Response | Class::ResponseHead => timeouts.response,
        Class::ReadOn => timeouts.read_on,
        // Shorter than the peer's: servers commonly close at 60 or 75 s, and a request must not meet that.
        Class::Pool => (timeouts.idle / 5 * 4).min(50 * SECOND),
    })
}

impl Downstream {
    /// The deadline that its state asks for. Beside that it matters whether its reply waits for a commit, no longer
    /// than `LEDGER_WAIT`; whether it is read from; whether others wait for its body. Each is looked up where it does.
    pub fn deadline(
        &self,
        awaits_commit: impl Fn() -> bool,
        is_read: impl Fn() -> bool,
        holds_up_others: impl Fn() -> bool,
    ) -> Option<Class> {
        match &self.phase {
            // Whatever TLS has to say meanwhile.
            Phase::Head if !self.served => Some(Class::Header),
            _ if self.unsent() > 0 => Some(Class::Write),
            Phase::Lingering => Some(Class::Linger),
            Phase::Delayed { .. } => Some(Class::Delay),
            _ if awaits_commit() => Some(Class::LedgerWait),
            Phase::Head if !self.input.is_empty() => Some(Class::Header),
            Phase::Head => Some(Class::Idle),
            // Nothing is asked of a client that we do not read from.
            Phase::Body { .. } if !is_read() => None,
            // Nor of a WebSocket, which may be silent for as long as the target's side is.
            Phase::Body { reader: BodyReader::Close, .. } => None,
            Phase::Body { .. } if holds_up_others() => Some(Class::HurriedBody),
            Phase::Body { .. } => Some(Class::Body),
            Phase::Busy | Phase::Asking { .. } | Phase::Closing => None,
        }
    }

    /// True where the deadline that it has is to be replaced by the one that is `wanted`; `progress` says that bytes
    /// have moved.
    pub fn wants_new_deadline(&mut self, wanted: Option<Class>, progress: bool, timeouts: &Timeouts) -> bool {
        let time = match wanted {
            Some(Class::Body | Class::Write) => Some(timeouts.idle),
            _ => None,
        };
        let bytes_min = time.map(|time| time / MILLISECOND * CLIENT_BYTES_PER_SECOND / 1000);
        let restarts = progress && bytes_min.is_some_and(|min| self.moved >= min);
        if self.timing == wanted && !restarts {
            return false;
        }
        (self.timing, self.moved) = (wanted, 0);
        true
    }
}

#[cfg(test)]
mod tests;
