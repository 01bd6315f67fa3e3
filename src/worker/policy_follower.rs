//! The policy thread: copies the fleet's keys, limits and teams into this node's ledger when they have changed, and
//! brings along what this node had of its own.
//!
//! ```text
//!   lease thread ──version, each beat──▶ policy thread ──what has changed──▶ ledger thread ──▶ tables ──▶ loop
//! ```
//!
//! In: the version that the fleet's database tells with each beat. Out: copies for the ledger's thread; how long they
//! hold. Never: a delay of leases or of records, which have connections of their own.

use super::backoff::Retry;
use super::event::{EventSender, WorkerEvent};
use super::process::{spawn, unix_now};
use super::ship::FleetProgress;
use crate::base::clock::nanoseconds;
use crate::config::{Fleet, PostgresUrl};
use crate::fleet::{fleet_policy, incoming_policy};
use crate::ledger::policy_copy::PolicyCopy;
use crate::ledger::{database, file_identity};
use crate::postgres::{PostgresClient, SqlError, SqlFault};
use rusqlite::Connection;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long the database may take for anything.
const PATIENCE: Duration = Duration::from_secs(5);
/// After so long without a beat the database may be another: all is compared again. It is many beats.
const SILENCE: Duration = Duration::from_secs(3);
/// A connection that nothing was asked on for so long is closed.
const IDLE: Duration = Duration::from_secs(10);
/// How often it is told when keys were used last: by the day.
const USES_EVERY: Duration = Duration::from_secs(3600);
/// How often it is kept that the copy is the fleet's, at most and at least.
const CONFIRM_EVERY: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(600)];

/// What the ledger's thread is to keep: what has changed, if anything has; and when the fleet was heard of, nanoseconds
/// since the Unix epoch.
pub type PolicyNews = (Option<PolicyCopy>, u64);

/// The other threads' end of it.
pub struct PolicyHandle {
    versions: Sender<i64>,
    thread: JoinHandle<()>,
}

impl PolicyHandle {
    /// Starts the thread for the ledger at `path`, whose thread is running; `keep` hands it what is to be kept. The
    /// loop is told for how long what the ledger has already holds.
    ///
    /// # Errors
    /// One sentence: the system gives no thread.
    pub fn start(
        path: &Path,
        fleet: &Fleet,
        progress: Arc<FleetProgress>,
        keep: impl Fn(PolicyNews) + Send + 'static,
        events: EventSender,
    ) -> Result<Self, String> {
        let path = database::absolute(path)?;
        let (versions, told) = channel();
        let mut follower = Follower {
            path,
            url: fleet.url.clone(),
            node: fleet.node.clone(),
            stale: fleet.policy_stale,
            progress,
            client: None,
            used_at: Instant::now(),
            known: None,
            uses_at: Instant::now(),
            confirm_at: Instant::now(),
            told_until: 0,
            retry: Retry::new("the fleet's keys and limits cannot be copied", "the fleet's keys and limits are copied"),
            keep: Box::new(keep),
            events,
        };
        follower.look_at_ledger();
        let thread = spawn("policy", move || follower.run(&told))?;
        Ok(Self { versions, thread })
    }

    /// Whom to tell each version that the database tells.
    pub fn versions(&self) -> Sender<i64> {
        self.versions.clone()
    }

    /// Ends the thread, once nobody tells it anything any more.
    pub fn shutdown(self) {
        drop(self.versions);
        let _ = self.thread.join();
    }
}

struct Follower {
    path: PathBuf,
    url: PostgresUrl,
    node: String,
    /// For how long a copy holds without the fleet; zero for ever.
    stale: Duration,
    progress: Arc<FleetProgress>,
    client: Option<PostgresClient>,
    /// When something was asked on it last.
    used_at: Instant,
    /// The version that the ledger has, or is being given; `None` where all is to be compared.
    known: Option<i64>,
    uses_at: Instant,
    confirm_at: Instant,
    /// Until when the loop knows that the copy holds.
    told_until: u64,
    retry: Retry,
    keep: Box<dyn Fn(PolicyNews) + Send>,
    events: EventSender,
}

impl Follower {
    fn run(mut self, told: &Receiver<i64>) {
        loop {
            match told.recv_timeout(SILENCE) {
                Ok(first) => self.look(told.try_iter().last().unwrap_or(first)),
                Err(RecvTimeoutError::Timeout) => {
                    (self.known, self.client) = (None, None);
                    self.look_at_ledger();
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Where another process on this ledger is the fleet's node, it is that one which keeps the copy.
    fn look_at_ledger(&mut self) {
        if let Ok(Some(seen)) = self.read(file_identity::policy_seen_at) {
            self.holds_from(seen.min(unix_now()));
        }
    }

    /// The fleet is at this version.
    fn look(&mut self, version: i64) {
        let now = Instant::now();
        if self.known == Some(version) && now < self.uses_at {
            if self.used_at + IDLE < now {
                self.client = None;
            }
            return self.confirm(None);
        }
        if self.retry.retry_at.is_some_and(|retry_at| now < retry_at) {
            return;
        }
        match self.follow(version) {
            Ok(copy) => {
                self.retry.worked();
                self.confirm(Some(copy).filter(|copy| !copy.is_empty()));
            }
            Err(error) => {
                self.client = None;
                let _ = self.retry.failed(&error);
            }
        }
    }

    /// What has changed since the version that is known; everything where none is, or a later one: the server was set
    /// back then.
    fn follow(&mut self, version: i64) -> Result<PolicyCopy, SqlError> {
        let mut client = match self.client.take() {
            Some(client) => client,
            None => PostgresClient::connect(&self.url, PATIENCE)?,
        };
        self.used_at = Instant::now();
        let since = self.known.filter(|known| *known <= version);
        if since.is_none() || self.uses_at <= self.used_at {
            let own = self.read(PolicyCopy::of_ledger)?;
            if since.is_none() {
                incoming_policy::bring_in(&mut client, &own, &self.node, unix_now())?;
            }
            incoming_policy::tell_uses(&mut client, &own)?;
            self.uses_at = self.used_at + USES_EVERY;
        }
        let (known, copy) = fleet_policy::changes(&mut client, since)?;
        (self.known, self.client) = (Some(known), Some(client));
        Ok(copy)
    }

    /// The ledger has what the fleet has, or will with this.
    fn confirm(&mut self, copy: Option<PolicyCopy>) {
        let seen = unix_now();
        self.progress.policy_seen(seen);
        if copy.is_none() && Instant::now() < self.confirm_at {
            return;
        }
        let [min, max] = CONFIRM_EVERY;
        let every = if self.stale.is_zero() { max } else { (self.stale / 8).clamp(min, max) };
        self.confirm_at = Instant::now() + every;
        (self.keep)((copy, seen));
        self.holds_from(seen);
    }

    /// The copy was the fleet's at this instant.
    fn holds_from(&mut self, seen: u64) {
        let until = seen.saturating_add(nanoseconds(self.stale));
        if !self.stale.is_zero() && until != self.told_until {
            self.told_until = until;
            self.events.send(WorkerEvent::PolicyHolds { until });
        }
    }

    /// What the ledger says.
    fn read<T>(&self, ask: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, SqlError> {
        let answer = database::open_reader(&self.path).and_then(|conn| ask(&conn));
        answer.map_err(|error| SqlError::new(SqlFault::Away, format!("the ledger cannot be read: {error}")))
    }
}
