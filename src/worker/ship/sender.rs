//! One connection to the fleet, from its first word to its last: a place in the fleet, then what comes next, step by
//! step.
//!
//! In: the ledger as an outbox. Out: where the fleet is with it. Never: a pause; a second try.

use super::outbox::Outbox;
use super::{lost_sums, rows};
use crate::base::civil::month_of_day;
use crate::config::PostgresUrl;
use crate::fleet::membership::{BEAT_EVERY, Membership, Node};
use crate::fleet::shipment::{Rows, Shipped};
use crate::fleet::{leases, schema};
use crate::ledger::file_identity;
use crate::ledger::marks::{self, LAST_ID};
use crate::ledger::partition::NS_PER_DAY;
use crate::ledger::prune::first_id;
use crate::postgres::{PostgresClient, SqlError, SqlFault};
use crate::worker::process::unix_now;
use rusqlite::OptionalExtension as _;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Rows of one transaction.
const ROWS_MAX: usize = 5_000;
/// How long the database may take for anything.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often old months, and accounts of limits that tell nothing any more, are looked for.
const RETAIN_EVERY: Duration = Duration::from_secs(3600);

/// A place in the fleet, and how far it is.
pub struct FleetSender {
    client: PostgresClient,
    membership: Membership,
    /// The last row that is in the fleet.
    cursor: i64,
    /// What was pruned before it was sent, if it was.
    lost: Lost,
    /// Months that have a partition.
    months: BTreeSet<i64>,
    nodes: u64,
    beat_at: Instant,
    retain_at: Instant,
}

/// The place that a process has, and in which fleet: a database that was emptied is another.
pub struct Place {
    membership: Membership,
    epoch: String,
}

/// Rows that are gone, and go as sums.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lost {
    /// Whether there are any is not known: rows may still be pruned.
    Unknown,
    /// The sums of the hours from this one on are to be sent.
    From(i64),
    Nothing,
}

/// What a step leaves.
pub struct Sent {
    pub cursor: i64,
    pub nodes: u64,
    /// When the oldest response that waits ended, nanoseconds since the Unix epoch; 0 where none does.
    pub oldest_unix_ns: i64,
    /// There may be more to send at once.
    pub more: bool,
}

impl FleetSender {
    /// Connects, brings the schema forward, and takes the place that it had, or a new one. Leases last for so long.
    ///
    /// # Errors
    /// The server's; the place is another's; the ledger is not the one that the fleet knows.
    pub fn connect(
        url: &PostgresUrl,
        (node, lasts): (&mut Node, Duration),
        place: &mut Option<Place>,
        outbox: &mut Outbox,
    ) -> Result<Self, SqlError> {
        let mut client = PostgresClient::connect(url, PATIENCE)?;
        schema::prepare(&mut client)?;
        let epoch = schema::epoch(&mut client)?;
        node.ledger_uuid = outbox.read(file_identity::read)?.unwrap_or_default();
        if place.as_ref().is_some_and(|place| place.epoch != epoch) {
            // What its forerunner has granted is held on to for a while; and its numbers are others' now.
            leases::be_quiet(&mut client, lasts)?;
            *place = None;
        }
        let is_kept = match place {
            Some(place) => place.membership.beat(&mut client, 0, unix_now(), 0)?.serves,
            None => false,
        };
        if !is_kept {
            *place = None;
        }
        let membership = match place {
            Some(place) => place.membership,
            None => place.insert(Place { membership: Membership::join(&mut client, node)?, epoch }).membership,
        };
        let (cursor, cursor_at) = membership.mark(&mut client)?;
        check_ledger(outbox, cursor, cursor_at)?;
        Ok(Self {
            client,
            membership,
            cursor,
            lost: Lost::Unknown,
            months: BTreeSet::new(),
            nodes: 0,
            beat_at: Instant::now(),
            retain_at: Instant::now(),
        })
    }

    /// Its place in the fleet.
    pub fn membership(&self) -> Membership {
        self.membership
    }

    /// Sends what comes next, and says that it lives where that is due. `mark` is told how much the fleet has.
    ///
    /// # Errors
    /// The server's; then the connection is to be given up.
    pub fn step(&mut self, outbox: &mut Outbox, mark: &dyn Fn(i64)) -> Result<Sent, SqlError> {
        let now = unix_now();
        let (batch, oldest) = match self.lost {
            Lost::Nothing => outbox.read(|conn| rows::read(conn, self.cursor, ROWS_MAX, now.cast_signed()))?,
            _ => (Rows::default(), 0),
        };
        let waits = batch.upto - batch.after; // all of them, or a batch at least
        let more = match self.lost {
            Lost::Unknown => self.look_for_lost(outbox, mark)?,
            Lost::From(hour) => self.send_lost(outbox, hour, mark)?,
            Lost::Nothing if waits > 0 => self.send(&batch, mark)?,
            Lost::Nothing => false,
        };
        if !more || Instant::now() >= self.beat_at {
            self.beat_at = Instant::now() + BEAT_EVERY;
            let lag = if more { waits } else { 0 };
            let beat = self.membership.beat(&mut self.client, batch.fresh_to, unix_now(), lag)?;
            if !beat.serves {
                let why = "another process has taken this ledger's place in the fleet";
                return Err(SqlError::new(SqlFault::Conflict, why));
            }
            self.nodes = beat.nodes;
            self.retain(now)?;
        }
        Ok(Sent { cursor: self.cursor, nodes: self.nodes, oldest_unix_ns: if more { oldest } else { 0 }, more })
    }

    /// Leaves. Where that fails, it is taken for dead after some seconds.
    pub fn leave(mut self) {
        let _ = self.membership.end(&mut self.client);
    }

    fn send(&mut self, batch: &Rows, mark: &dyn Fn(i64)) -> Result<bool, SqlError> {
        let month = month_of_day(batch.upto_at / NS_PER_DAY);
        if batch.starts.iter().any(|start| !self.months.contains(&month_of_day(start / NS_PER_DAY))) {
            for start in &batch.starts {
                Membership::make_month(&mut self.client, *start)?;
                self.months.insert(month_of_day(start / NS_PER_DAY));
            }
            self.months = self.months.split_off(&(month - 1)); // those before are rare
        }
        match self.membership.ship(&mut self.client, batch)? {
            Shipped::Taken => self.cursor = batch.upto,
            Shipped::MarkIs(cursor) => self.cursor = cursor,
        }
        mark(self.cursor);
        Ok(batch.is_full)
    }

    /// Whether rows are gone that the fleet lacks. First no more of them may go: where the ledger's own mark is past
    /// the server's (it was set back), that is told first.
    fn look_for_lost(&mut self, outbox: &mut Outbox, mark: &dyn Fn(i64)) -> Result<bool, SqlError> {
        let (first, kept) = outbox.read(|conn| Ok((first_id(conn)?, marks::read(conn, marks::FLEET)?)))?;
        if kept > self.cursor.max(first - 1) {
            mark(self.cursor);
            return Ok(false);
        }
        self.lost = if first - 1 > self.cursor { Lost::From(0) } else { Lost::Nothing };
        Ok(true)
    }

    fn send_lost(&mut self, outbox: &mut Outbox, hour: i64, mark: &dyn Fn(i64)) -> Result<bool, SqlError> {
        let (first, sums) = outbox.read(|conn| Ok((first_id(conn)?, lost_sums::read(conn, hour)?)))?;
        let (lines, hours, is_last) =
            sums.map_or((Vec::new(), (0, -1), true), |sums| (sums.lines, sums.hours, sums.is_last));
        let upto = is_last.then_some(first - 1);
        self.membership.ship_history(&mut self.client, &lines, hours, upto)?;
        self.lost = Lost::From(hours.1 + 1);
        if let Some(upto) = upto {
            (self.cursor, self.lost) = (upto, Lost::Nothing);
            mark(upto);
        }
        Ok(true)
    }

    fn retain(&mut self, now: u64) -> Result<(), SqlError> {
        if Instant::now() >= self.retain_at {
            self.retain_at = Instant::now() + RETAIN_EVERY;
            Membership::retain(&mut self.client, now.cast_signed())?;
            leases::prune(&mut self.client)?;
        }
        Ok(())
    }
}

/// Refuses a ledger whose rows are not those that the fleet has of it.
fn check_ledger(outbox: &mut Outbox, cursor: i64, cursor_at: i64) -> Result<(), SqlError> {
    let (last, at): (i64, Option<i64>) = outbox.read(|conn| {
        let at =
            conn.query_row("SELECT started_at FROM records WHERE id = ?", [cursor], |row| row.get(0)).optional()?;
        Ok((conn.query_row(LAST_ID, [], |row| row.get(0))?, at))
    })?;
    if cursor <= last && at.is_none_or(|at| cursor_at == 0 || at == cursor_at) {
        return Ok(());
    }
    let why = format!(
        "the ledger is not the one of which the fleet has {cursor} rows: it is an older copy (a backup?), and what \
         it adds would be taken for what is there. Put the newer file back, or begin with a new one (another \
         DATABASE_PATH)"
    );
    Err(SqlError::new(SqlFault::Misconfigured, why))
}
