//! Whose ledger it is, and which process ships for it.
//!
//! ```text
//!   join ──nobody, or one that has ended──▶ start ──▶ beats, each second ──▶ end
//!     └────one that was seen lately──▶ watch: it beats again? ──yes──▶ refused
//!                                              └──no: it was killed──▶ start
//! ```
//!
//! A process that starts on a ledger holds a lock on a file beside it, so one before it on the same file is dead,
//! however lately it was seen; one that beats on has another file with the same identity: a copy.

use crate::postgres::{PostgresClient, SqlError, SqlFault};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How often a process says that it lives.
pub const BEAT_EVERY: Duration = Duration::from_secs(1);
/// Whoever was not seen for so long is dead.
const UNSEEN_MS_MAX: i64 = 10_000;
/// How long one that was seen lately is watched for another sign of life.
const WATCH: Duration = Duration::from_secs(3);
const WATCH_PAUSE: Duration = Duration::from_millis(250);

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// The identity in its ledger file: 32 hexadecimal digits.
    pub ledger_uuid: String,
    /// `FLEET_NODE`
    pub name: String,
    pub host: String,
    pub build: &'static str,
    pub retention_days: u32,
}

/// A process that ships for a ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Membership {
    /// The ledger's number in the fleet.
    pub ledger: i16,
    /// The process's.
    pub process: i32,
}

/// What a beat brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beat {
    /// False: another process has taken over.
    pub serves: bool,
    /// Nodes that live.
    pub nodes: u64,
}

impl Membership {
    /// Takes a place in the fleet. May wait for some seconds, to see whether a predecessor lives.
    ///
    /// # Errors
    /// The server's; or the ledger is another's that lives.
    pub fn join(client: &mut PostgresClient, node: &Node) -> Result<Self, SqlError> {
        let look = |client: &mut PostgresClient| {
            let row = client.query_one("SELECT * FROM oap_join_v1($1::uuid)", &[&node.ledger_uuid])?;
            Ok::<(i16, i32, i64), SqlError>((row.get(0)?, row.get(1)?, row.get(2)?))
        };
        let (ledger, rival, mut unseen_ms) = look(client)?;
        let until = Instant::now() + WATCH;
        while rival != 0 && unseen_ms < UNSEEN_MS_MAX && Instant::now() < until {
            sleep(WATCH_PAUSE);
            let (_, same, later_ms) = look(client)?;
            if same != rival || later_ms < unseen_ms {
                let why = "another proxy that lives has this ledger's identity: the ledger file was copied. Stop one \
                           of them, and give it a ledger of its own (another DATABASE_PATH)";
                return Err(SqlError::new(SqlFault::Misconfigured, why));
            }
            unseen_ms = later_ms;
        }
        let Node { name, host, build, retention_days, .. } = node;
        let sql = "SELECT oap_start_v1($1, $2, $3, $4, $5, $6)";
        let row = client.query_one(sql, &[&ledger, &rival, name, host, build, retention_days])?;
        let lost = || SqlError::new(SqlFault::Conflict, "another process took this ledger's place in the fleet");
        Ok(Self { ledger, process: row.get::<Option<i32>>(0)?.ok_or_else(lost)? })
    }

    /// Says that it lives, that all that was committed before `fresh_to` is in the fleet, what its clock says (both
    /// nanoseconds since the Unix epoch), and how many rows wait.
    ///
    /// # Errors
    /// The server's.
    pub fn beat(&self, client: &mut PostgresClient, fresh_to: i64, now: u64, lag_rows: i64) -> Result<Beat, SqlError> {
        let clock_ms = (now / 1_000_000).cast_signed();
        let sql = "SELECT * FROM oap_beat_v1($1, $2, $3, $4)";
        let row = client.query_one(sql, &[&self.process, &fresh_to, &clock_ms, &lag_rows])?;
        Ok(Beat { serves: row.get(0)?, nodes: row.get::<i64>(1)?.unsigned_abs() })
    }

    /// Leaves.
    ///
    /// # Errors
    /// The server's; it is taken for dead after some seconds then.
    pub fn end(&self, client: &mut PostgresClient) -> Result<(), SqlError> {
        client.query("SELECT oap_end_v1($1)", &[&self.process]).map(drop)
    }
}
