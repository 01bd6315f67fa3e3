//! Where keys, limits and teams are kept: in the ledger's file, or for a node of a fleet in the fleet's database.
//!
//! In: questions and changes, of commands and of the administrator. Out: their answers, each from the one place. Never:
//! a change of one place where the other counts.

use crate::config::PostgresUrl;
use crate::fleet::fleet_policy::{self, FleetEditor};
use crate::ledger::offline;
use crate::ledger::policy_editor::{Editor, PolicyEditor};
use crate::postgres::{PostgresClient, SqlError};
use rusqlite::Connection;
use std::path::Path;

/// The place.
#[derive(Clone, Copy, Debug)]
pub enum PolicyStore<'a> {
    Ledger(&'a Path),
    Fleet(&'a PostgresUrl),
}

impl PolicyStore<'_> {
    /// For changes that somebody makes at `now`, nanoseconds since the Unix epoch. A ledger is made where there is
    /// none.
    ///
    /// # Errors
    /// One sentence: the ledger cannot be opened, or the fleet is out of reach.
    pub fn editor(self, who: &str, now: u64) -> Result<Box<dyn PolicyEditor>, String> {
        Ok(match self {
            Self::Ledger(path) => Box::new(Editor::open(path, who, now)?),
            Self::Fleet(url) => Box::new(FleetEditor::connect(url, who, now)?),
        })
    }

    /// The same, where a ledger must be there already.
    ///
    /// # Errors
    /// As of [`PolicyStore::editor`]; there is no ledger.
    pub fn editor_of_existing(self, who: &str, now: u64) -> Result<Box<dyn PolicyEditor>, String> {
        match self {
            Self::Ledger(path) => Ok(Box::new(Editor::open_existing(path, who, now)?)),
            Self::Fleet(_) => self.editor(who, now),
        }
    }

    /// What is there, by the question of either place. Changes nothing.
    ///
    /// # Errors
    /// One sentence: there is no such ledger, or it cannot be read; the fleet is out of reach.
    pub fn read<T>(
        self,
        of_ledger: impl Fn(&Connection) -> rusqlite::Result<T>,
        of_fleet: impl FnOnce(&mut PostgresClient) -> Result<T, SqlError>,
    ) -> Result<T, String> {
        match self {
            Self::Ledger(path) => offline::read(path, of_ledger),
            Self::Fleet(url) => {
                fleet_policy::read(url, of_fleet).map_err(|error| format!("the fleet cannot be read: {error}"))
            }
        }
    }
}
