//! Follows the tables of keys, limits and teams, which commands change while the server runs.
//!
//! In: the ledger's connection, now and then. Out: the tables, when they have changed; what was spent, at the start.

use crate::ledger::keys_and_limits::{read, version};
use crate::ledger::spend::spend_sums;
use crate::limit::budget::Period;
use crate::limit::overrides::Limits;
use crate::policy::{Policy, Rule};
use crate::worker::event::{EventSender, WorkerEvent};
use crate::worker::process::unix_now;
use rusqlite::Connection;
use std::time::{Duration, Instant};

/// How often the version is looked at: a change is in force within a second.
pub const FOLLOW_EVERY: Duration = Duration::from_millis(500);

/// The version that the loop was told of, and when to look next.
#[derive(Debug)]
pub struct PolicyWatch {
    version: i64,
    pub look_at: Instant,
}

impl PolicyWatch {
    /// Tells the loop of the tables, and of what was spent where there is a budget (by the settings: `budgets`), so
    /// that it knows before the first request.
    pub fn start(conn: &Connection, budgets: bool, events: &EventSender) -> rusqlite::Result<Self> {
        let (version, policy) = (version(conn)?, read(conn)?);
        let has_budget = |rule: &Rule| Limits::default().with(&rule.limits).has_budget();
        let budgets = budgets || policy.rules.iter().any(|(_, _, rule)| has_budget(rule));
        events.send(WorkerEvent::Policy(policy));
        if budgets {
            events.send(WorkerEvent::SpendSums(spend_sums(conn, Period::of(unix_now()), 0)?));
        }
        Ok(Self { version, look_at: Instant::now() + FOLLOW_EVERY })
    }

    /// The tables, if it was time to look and they have changed. Errors are for the next look.
    pub fn look<'c>(&mut self, conn: impl FnOnce() -> &'c Connection) -> Option<Policy> {
        let now = Instant::now();
        if now < self.look_at {
            return None;
        }
        let conn = conn();
        self.look_at = now + FOLLOW_EVERY;
        let version = version(conn).ok().filter(|&version| version != self.version)?;
        let policy = read(conn).ok()?;
        self.version = version;
        Some(policy)
    }
}
