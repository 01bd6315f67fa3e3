//! The query thread's connection to the fleet's database.
//!
//! In: questions. Out: answers, or that the database is away, so that the node's own ledger is to be asked. Never: a
//! long wait for a database that is known to be away.

use super::ship::FleetProgress;
use crate::config::PostgresUrl;
use crate::postgres::{PostgresClient, SqlError, SqlFault};
use std::sync::Arc;
use std::time::Duration;

/// How long the database may take beyond what a statement may: to connect, and to send an answer.
const PATIENCE: Duration = Duration::from_secs(8);

/// Asks the fleet.
pub struct FleetReader {
    url: PostgresUrl,
    /// Whether the thread that ships reaches it.
    progress: Arc<FleetProgress>,
    client: Option<PostgresClient>,
}

/// What became of a question.
pub enum Asked<T> {
    Found(T),
    /// It takes longer than a question may.
    TooLong,
    /// The database is away.
    Away,
}

impl FleetReader {
    /// Connects when it is asked first.
    pub fn new(url: PostgresUrl, progress: Arc<FleetProgress>) -> Self {
        Self { url, progress, client: None }
    }

    /// The database; `None` while it is known to be away.
    pub fn reached(&self) -> Option<&PostgresUrl> {
        self.progress.is_up().then_some(&self.url)
    }

    /// What `ask` finds.
    pub fn ask<T>(&mut self, mut ask: impl FnMut(&mut PostgresClient) -> Result<T, SqlError>) -> Asked<T> {
        if !self.progress.is_up() {
            self.client = None;
            return Asked::Away;
        }
        // A connection that was kept may have been closed meanwhile: a new one is tried then.
        let kept = self.client.take().map(|client| self.try_on(client, &mut ask));
        let asked = match kept {
            Some(Err(error)) if error.fault == SqlFault::Away => None,
            kept => kept,
        };
        let asked = match asked {
            Some(asked) => asked,
            None => match PostgresClient::connect(&self.url, PATIENCE) {
                Ok(client) => self.try_on(client, &mut ask),
                Err(error) => Err(error),
            },
        };
        match asked {
            Ok(found) => Asked::Found(found),
            Err(error) if error.fault == SqlFault::Cancelled => Asked::TooLong,
            Err(_) => Asked::Away, // the thread that ships says why
        }
    }

    fn try_on<T>(
        &mut self,
        mut client: PostgresClient,
        ask: &mut impl FnMut(&mut PostgresClient) -> Result<T, SqlError>,
    ) -> Result<T, SqlError> {
        let asked = ask(&mut client);
        if asked.as_ref().err().is_none_or(|error| error.fault == SqlFault::Cancelled) {
            self.client = Some(client);
        }
        asked
    }
}
