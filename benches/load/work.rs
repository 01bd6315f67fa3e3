//! What a target is asked to do: the cases that are compared, and the numbers that a generator is told.
//!
//! In: nothing, or the arguments that another process of this executable wrote. Out: [`Case`]s and [`Order`]s. Never: a
//! case that only one target has.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Content chunks of a streamed answer that nobody holds open.
pub const EVENTS: usize = 20;
/// Users that take turns.
const USERS: usize = 1000;

/// The numbers behind a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Each with one request in flight.
    pub connections: usize,
    /// Content chunks of the answer, 0 for a plain JSON answer.
    pub events: usize,
    /// Milliseconds between them, 0 where they follow at once. Above 0 each connection has one stream, which has events
    /// until the mock is told to end it.
    pub pace_ms: u64,
    /// Length of the request's body.
    pub body_bytes: usize,
    /// Users that take turns.
    pub users: usize,
    /// Answers that must have come before measuring, beside the first of each connection.
    pub warm_up_requests: usize,
}

impl Load {
    /// Small plain requests of many users.
    pub const JSON: Self =
        Self { connections: 32, events: 0, pace_ms: 0, body_bytes: 300, users: USERS, warm_up_requests: 0 };

    fn numbers(self) -> [u64; 6] {
        let Self { connections, events, pace_ms, body_bytes, users, warm_up_requests } = self;
        [connections as u64, events as u64, pace_ms, body_bytes as u64, users as u64, warm_up_requests as u64]
    }

    fn from_numbers(numbers: &[u64]) -> Option<Self> {
        let [connections, events, pace_ms, body_bytes, users, warm_up_requests] = *numbers else { return None };
        let size = |number: u64| usize::try_from(number).ok();
        Some(Self {
            connections: size(connections)?,
            events: size(events)?,
            pace_ms,
            body_bytes: size(body_bytes)?,
            users: size(users)?,
            warm_up_requests: size(warm_up_requests)?,
        })
    }
}

/// One kind of work.
#[derive(Clone, Debug)]
pub struct Case {
    /// As typed after `--only`.
    pub name: String,
    /// As printed: the work, and how much of it at once.
    pub label: [String; 2],
    pub load: Load,
}

impl Case {
    /// A case under a name of its own.
    pub fn new(name: &str, work: &str, at: &str, load: Load) -> Self {
        Self { name: name.into(), label: [work.into(), at.into()], load }
    }

    /// So many streams open at once, an event each `pace_ms`.
    pub fn hold(streams: usize, pace_ms: u64) -> Self {
        let load = Load { connections: streams, events: EVENTS, pace_ms, ..Load::JSON };
        Self::new(&format!("hold{streams}"), "held", &streams.to_string(), load)
    }
}

/// Every closed loop that is measured, in the order of the table.
pub fn cases() -> Vec<Case> {
    let at = |connections| Load { connections, ..Load::JSON };
    let stream = |connections| Load { connections, events: EVENTS, ..Load::JSON };
    vec![
        Case::new("json1", "JSON", "c=1", at(1)),
        Case::new("json32", "JSON", "c=32", at(32)),
        Case::new("json128", "JSON", "c=128", at(128)),
        Case::new("stream1", "stream", "c=1", stream(1)),
        Case::new("stream", "stream", "c=32", stream(32)),
        Case::new("stream128", "stream", "c=128", stream(128)),
        Case::new("body", "100 KB", "c=32", Load { body_bytes: 100_000, ..at(32) }),
    ]
}

fn loopback(address: &str) -> Option<SocketAddr> {
    address.parse().ok().filter(|address: &SocketAddr| address.ip().is_loopback())
}

/// What one generator does.
pub struct Order {
    pub address: SocketAddr,
    /// The mock's plain port.
    pub mock: SocketAddr,
    /// Answers are not the mock's bytes, but the target's own writing of them.
    pub rewritten: bool,
    /// The target speaks TLS, with a certificate of this authority's, whose file this is.
    pub authority: Option<PathBuf>,
    /// The target's processes.
    pub pids: Vec<u32>,
    pub warm_up: Duration,
    pub measure: Duration,
    pub load: Load,
}

impl Order {
    /// For the command line of the generator.
    pub fn arguments(&self) -> Vec<String> {
        let pids: Vec<String> = self.pids.iter().map(u32::to_string).collect();
        let ms = |duration: Duration| duration.as_millis().to_string();
        let rewritten = self.rewritten.to_string();
        let to = [self.address.to_string(), self.mock.to_string()];
        let authority = self.authority.as_ref().map_or("-".to_owned(), |file| file.display().to_string());
        let how = [rewritten, authority, pids.join(","), ms(self.warm_up), ms(self.measure)];
        to.into_iter().chain(how).chain(self.load.numbers().map(|n| n.to_string())).collect()
    }

    /// Reads what `arguments` wrote.
    pub fn parse(args: &[String]) -> Option<Self> {
        let [address, mock, rewritten, authority, pids, warm_up, measure, numbers @ ..] = args else { return None };
        let ms = |text: &String| text.parse().map(Duration::from_millis).ok();
        let numbers: Vec<u64> = numbers.iter().map_while(|number| number.parse().ok()).collect();
        Some(Self {
            address: loopback(address)?,
            mock: loopback(mock)?,
            rewritten: rewritten.parse().ok()?,
            authority: (authority != "-").then(|| authority.into()),
            pids: pids.split(',').filter_map(|pid| pid.parse().ok()).collect(),
            warm_up: ms(warm_up)?,
            measure: ms(measure)?,
            load: Load::from_numbers(&numbers)?,
        })
    }
}
