//! Which deadline each connection has at each moment, and what happens when it passes.
//!
//! A connection has one deadline at a time, chosen by its state, and none can be put off for ever by a trickle:
//!
//! | what is waited for | deadline | starts again |
//! |---|---|---|
//! | a client's head, a target's head, from the first byte | `HEADER_TIMEOUT`, `RESPONSE_TIMEOUT` | never |
//! | a client between requests, a pooled connection | `IDLE_TIMEOUT` | never |
//! | a lookup, a connect, a TLS handshake | `CONNECT_TIMEOUT` | for each address, of which there are few |
//! | a connect where there is another address | [`ATTEMPT_DELAY`], after which that is tried as well | never |
//! | a client's body, a client that takes an answer | `IDLE_TIMEOUT` | once [`CLIENT_BYTES_PER_SECOND`] have moved |
//! | the same, where [others wait](super::buffered) for the body | `HEADER_TIMEOUT` | likewise |
//! | a target that answers, or takes a request | `RESPONSE_TIMEOUT` | with any byte that is not part of a trickle |
//! | a commit, a target read on without a client, a linger | their own | never |
//!
//! A client that we do not read from is not timed, as it waits for us; whoever it is that we wait for is. Interim
//! responses are signs of life of the target; there is a bound on their number. A WebSocket has no such bounds: either
//! side may keep a silent session alive with pings for as long as the other plays along.

use super::dialer::ATTEMPT_DELAY;
use super::downstream::Phase;
use super::exchange::{Exchange, Progress, Stage};
use super::{Conn, DownKey, Proxy, Timeouts};
use crate::base::clock::{MILLISECOND, Now, SECOND};
use crate::http::body::BodyReader;
use crate::http::reply::Fault;

/// How long a closing connection is read on, so that our last reply is not lost to a reset.
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
    /// The same while others wait for it.
    HurriedBody,
    /// A client that takes an answer: for the next part of it.
    Write,
    /// A client whose connection we have closed for sending.
    Linger,
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
const CLASSES: [Class; 16] = [
    Class::Idle,
    Class::Header,
    Class::Body,
    Class::HurriedBody,
    Class::Write,
    Class::Linger,
    Class::LedgerWait,
    Class::Resolve,
    Class::ConnectDelay,
    Class::ConnectRest,
    Class::Connect,
    Class::Handshake,
    Class::Response,
    Class::ResponseHead,
    Class::ReadOn,
    Class::Pool,
];

/// The duration of each class, nanoseconds.
pub fn durations(timeouts: &Timeouts) -> [u64; CLASSES.len()] {
    CLASSES.map(|class| match class {
        Class::Idle | Class::Body | Class::Write => timeouts.idle,
        Class::Header | Class::HurriedBody => timeouts.header,
        Class::Linger => LINGER,
        Class::LedgerWait => timeouts.ledger_wait,
        Class::Resolve | Class::Connect | Class::Handshake => timeouts.connect,
        Class::ConnectDelay => timeouts.connect.min(ATTEMPT_DELAY),
        Class::ConnectRest => timeouts.connect.saturating_sub(ATTEMPT_DELAY),
        Class::Response | Class::ResponseHead => timeouts.response,
        Class::ReadOn => timeouts.read_on,
        // Shorter than the peer's: servers commonly close at 60 or 75 s, and a request must not meet that.
        Class::Pool => (timeouts.idle / 5 * 4).min(50 * SECOND),
    })
}

impl Proxy {
    /// When [`Proxy::expire`] must be called next, monotonic nanoseconds.
    pub fn next_deadline(&self) -> Option<u64> {
        let due = [self.deadlines.next_due(), self.limiter.sweep_due(), self.group.due()];
        due.into_iter().flatten().min()
    }

    /// Acts on every deadline that has passed.
    pub fn expire(&mut self, now: Now) {
        while let Some((conn, class)) = self.deadlines.expired(now.mono) {
            match conn {
                Conn::Down(key) => self.expire_down(now, key, CLASSES[usize::from(class)]),
                Conn::Up(key) => self.expire_up(now, key, CLASSES[usize::from(class)]),
            }
        }
        if self.limiter.sweep_due().is_some_and(|due| due <= now.mono) {
            self.limiter.sweep(now.mono);
        }
    }

    fn expire_down(&mut self, now: Now, key: DownKey, class: Class) {
        let Some(down) = self.downs.get_mut(key) else { return };
        self.deadlines.cancel(&mut down.timer);
        down.timing = None;
        let (has_begun, exchange) = (!down.input.is_empty(), down.exchange);
        match class {
            Class::Header if has_begun => {
                self.refuse_and_close(now, key, Fault::HeaderTimeout, "the request's head did not arrive in time");
            }
            // Nobody waits for it any more.
            Class::HurriedBody if self.down_class(key) == Some(Class::Body) => self.retime_down(now, key, false),
            Class::Body | Class::HurriedBody if self.may_still_refuse(key) => {
                self.refuse_and_close(now, key, Fault::HeaderTimeout, "the request's body did not arrive in time");
            }
            Class::LedgerWait if self.is_journaling(key) => {
                let message = "the ledger cannot take the request's entry at the moment";
                self.refuse_and_close(now, key, Fault::LedgerUnavailable, message);
            }
            Class::LedgerWait => {
                self.metrics.ledger_released_uncommitted();
                if let Some(exchange) = exchange {
                    self.uncommitted.retain(|&(_, waiting)| waiting != exchange);
                    self.release_one(now, exchange);
                }
            }
            _ => self.drop_down(now, key),
        }
    }

    /// Arms the deadline that the client's state asks for; `progress` says that bytes have moved.
    pub(super) fn retime_down(&mut self, now: Now, key: DownKey, progress: bool) {
        let wanted = self.down_class(key);
        let Some(down) = self.downs.get_mut(key) else { return };
        let time = match wanted {
            Some(Class::Body | Class::Write) => Some(self.settings.timeouts.idle),
            Some(Class::HurriedBody) => Some(self.settings.timeouts.header),
            _ => None,
        };
        let least = time.map(|time| time / MILLISECOND * CLIENT_BYTES_PER_SECOND / 1000);
        let restarts = progress && least.is_some_and(|least| down.moved >= least);
        if down.timing == wanted && !restarts {
            return;
        }
        down.timing = wanted;
        down.moved = 0;
        match wanted {
            Some(class) => self.deadlines.arm(&mut down.timer, class as u8, Conn::Down(key), now.mono),
            None => self.deadlines.cancel(&mut down.timer),
        }
    }

    fn down_class(&self, key: DownKey) -> Option<Class> {
        let down = self.downs.get(key)?;
        let exchange = down.exchange.and_then(|exchange| self.exchanges.get(exchange));
        let awaits_commit = exchange.is_some_and(Exchange::awaits_commit);
        match &down.phase {
            _ if down.sendable() > 0 => Some(Class::Write),
            _ if down.lingering => Some(Class::Linger),
            _ if awaits_commit && self.settings.timeouts.ledger_wait > 0 => Some(Class::LedgerWait),
            Phase::Head if !down.input.is_empty() || !down.served => Some(Class::Header),
            Phase::Head => Some(Class::Idle),
            // Nothing is asked of a client that we do not read from.
            Phase::Body { .. } if !self.wants_client_bytes(key) => None,
            // Nor of a WebSocket, which may be silent for as long as the target's side is.
            Phase::Body { reader: BodyReader::Close, .. } => None,
            Phase::Body { .. } if self.holds_up_others(key) => Some(Class::HurriedBody),
            Phase::Body { .. } => Some(Class::Body),
            Phase::Busy | Phase::Deaf => None,
        }
    }

    /// True for a request that waits at the door for its entry in the journal.
    fn is_journaling(&self, key: DownKey) -> bool {
        let exchange = self.downs.get(key).and_then(|down| self.exchanges.get(down.exchange?));
        exchange.is_some_and(|exchange| exchange.stage == Stage::Journaling)
    }

    /// True where the client can still be told an error: nothing of an answer has begun.
    fn may_still_refuse(&self, key: DownKey) -> bool {
        let exchange = self.downs.get(key).and_then(|down| self.exchanges.get(down.exchange?));
        exchange.is_some_and(|exchange| exchange.response.progress == Progress::Awaited)
    }
}

#[cfg(test)]
mod tests;
