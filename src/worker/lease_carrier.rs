//! The lease thread: carries the messages of purses to the fleet's engine, and the answers back, on a connection of its
//! own, so that no bulk delays them.
//!
//! In: messages, of which each turn of the loop sends a batch. Out: [`WorkerEvent::Leases`] for each, soon: where the
//! engine does not answer in time, that nothing came. Never: a message twice; a wait of the loop.

use super::event::{EventSender, WorkerEvent};
use super::process::spawn;
use super::ship::FleetProgress;
use crate::base::clock::nanoseconds;
use crate::config::{Fleet, PostgresUrl};
use crate::fleet::leases;
use crate::fleet::membership::Membership;
use crate::limit::lease::{Ask, FIRST_SEQ, Heard};
use crate::postgres::PostgresClient;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

/// How long the engine may take for a batch, where requests do not wait longer.
const PATIENCE: Duration = Duration::from_millis(200);
/// How long a host may take to be connected to.
const CONNECT_PATIENCE: Duration = Duration::from_secs(1);
/// The pause after a connection that failed.
const PAUSE: Duration = Duration::from_millis(250);
/// How often it is looked for a place in the fleet.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Messages of one statement.
const BATCH_MAX: usize = 500;

/// The loop's end of the thread.
pub struct LeaseHandle {
    asks: Sender<Vec<Ask>>,
    thread: JoinHandle<()>,
}

impl LeaseHandle {
    /// Starts the thread; `progress` says which place the ledger has in the fleet, and `policy_versions` is told which
    /// keys, limits and teams the fleet has.
    ///
    /// # Errors
    /// One sentence: the system gives no thread.
    pub fn start(
        fleet: &Fleet,
        progress: Arc<FleetProgress>,
        policy_versions: Sender<i64>,
        events: EventSender,
    ) -> Result<Self, String> {
        let (asks, asked) = channel();
        let carrier = Carrier {
            url: fleet.url.clone(),
            lasts_ms: (nanoseconds(fleet.lease) / 1_000_000).cast_signed(),
            patience: PATIENCE.max(fleet.wait),
            client: None,
            again_at: Instant::now(),
            first_process: None,
            progress,
            policy_versions,
        };
        let thread = spawn("lease", move || carrier.run(&asked, &events))?;
        Ok(Self { asks, thread })
    }

    /// Sends messages. Never blocks.
    pub fn ask(&self, asks: Vec<Ask>) {
        let _ = self.asks.send(asks); // where the thread has ended, nobody waits any more
    }

    /// Ends the thread when what was sent before has its answers.
    pub fn shutdown(self) {
        drop(self.asks);
        let _ = self.thread.join();
    }
}

struct Carrier {
    url: PostgresUrl,
    lasts_ms: i64,
    patience: Duration,
    /// None before the first connection, and after a failure.
    client: Option<PostgresClient>,
    again_at: Instant,
    /// Its number is the base of all messages: a later one, after a time without a connection, would begin all leases
    /// anew.
    first_process: Option<i64>,
    progress: Arc<FleetProgress>,
    policy_versions: Sender<i64>,
}

impl Carrier {
    fn run(mut self, asked: &Receiver<Vec<Ask>>, events: &EventSender) {
        while let Ok(first) = asked.recv() {
            let mut asks = first;
            asks.extend(asked.try_iter().flatten());
            loop {
                let rest = asks.split_off(asks.len().min(BATCH_MAX));
                events.send(WorkerEvent::Leases(self.carry(asks)));
                if rest.is_empty() {
                    break;
                }
                asks = rest;
            }
        }
    }

    fn carry(&mut self, mut asks: Vec<Ask>) -> Heard {
        let seqs = |asks: &[Ask]| asks.iter().map(|ask| (Arc::clone(&ask.account), ask.seq)).collect::<Vec<_>>();
        let told = seqs(&asks);
        let Some((place, nodes)) = self.place() else { return Heard::Nothing { asks: told } };
        let base = *self.first_process.get_or_insert(place.process.into()) * FIRST_SEQ;
        for ask in &mut asks {
            (ask.lease, ask.seq) = (ask.lease + base, ask.seq + base);
        }
        let began = Instant::now();
        let exchanged = self.exchange(&place, &asks);
        let Some(exchanged) = exchanged.filter(|exchanged| exchanged.answers.len() == asks.len()) else {
            return Heard::Nothing { asks: told };
        };
        let _ = self.policy_versions.send(exchanged.policy_version); // where that thread has ended, so does this one
        if !asks.is_empty() {
            self.progress.asked(began.elapsed());
        }
        let answers = told.into_iter().zip(exchanged.answers);
        Heard::Answers {
            answers: answers.map(|((account, seq), answer)| (account, seq, answer)).collect(),
            recalled: exchanged.recalled,
            nodes: i64::try_from(nodes).unwrap_or(i64::MAX),
        }
    }

    /// The ledger's place in the fleet. At the start it is being taken: that is no outage yet.
    fn place(&self) -> Option<(Membership, u64)> {
        let until = Instant::now() + PATIENCE;
        loop {
            let place = self.progress.place();
            if place.is_some() || Instant::now() >= until {
                return place;
            }
            sleep(LOOK_EVERY);
        }
    }

    fn exchange(&mut self, place: &Membership, asks: &[Ask]) -> Option<leases::Exchanged> {
        if self.client.is_none() && Instant::now() < self.again_at {
            return None;
        }
        let client = match self.client.take() {
            Some(client) => Ok(client),
            None => PostgresClient::connect(&self.url, CONNECT_PATIENCE).map(|mut client| {
                client.set_limit(self.patience);
                client
            }),
        };
        let exchanged = client.and_then(|mut client| {
            let exchanged = leases::exchange(&mut client, None, self.lasts_ms, place.ledger, asks)?;
            self.client = Some(client);
            Ok(exchanged)
        });
        // Why it fails the thread that ships says.
        exchanged.inspect_err(|_| self.again_at = Instant::now() + PAUSE).ok()
    }
}
