//! The real workers behind the one face that the loop knows.

use super::export::{self, ExportHandle};
use super::ledger::{Backfill, Ledger, LedgerHandle, Options};
use super::query::{Job, QueryHandle};
use super::resolver::Resolver;
use super::{Desk, Done, ToLoop, log};
use crate::base::log::Note;
use crate::usage::record::Record;
use std::path::Path;
use std::sync::Arc;

/// Where records are exported to.
pub struct Export {
    pub target: export::Target,
    pub backfill: Backfill,
}

/// Ledger, query, export and resolver threads of a process.
pub struct Workers {
    to_loop: ToLoop,
    ledger: LedgerHandle,
    query: QueryHandle,
    export: Option<ExportHandle>,
    resolver: Resolver,
}

impl Workers {
    /// Opens the ledger and starts the threads; the target is being looked up from here on.
    ///
    /// # Errors
    /// One sentence: the ledger cannot be used, or the system gives no thread.
    pub fn start(
        database: &Path,
        options: Options,
        export: Option<Export>,
        (host, port): (&str, u16),
        to_loop: ToLoop,
    ) -> Result<Self, String> {
        let options = Options { export: export.as_ref().map(|export| export.backfill), ..options };
        let ledger = Ledger::start(database, options, to_loop.clone())?;
        let query = QueryHandle::start(database, ledger.moves(), to_loop.clone())?;
        let export = export.map(|to| ExportHandle::start(database, to.target, ledger.moves(), ledger.marker()));
        let resolver = Resolver::start(host, port, to_loop.clone())
            .map_err(|error| format!("the resolver thread cannot start: {error}"))?;
        Ok(Self { to_loop, ledger, query, export: export.transpose()?, resolver })
    }

    /// Ends the threads, the ledger last and only when all that was submitted is committed.
    ///
    /// # Errors
    /// One sentence: the ledger could not commit.
    pub fn shutdown(self) -> Result<(), String> {
        drop(self.resolver);
        self.query.shutdown();
        if let Some(export) = self.export {
            export.shutdown();
        }
        self.ledger.shutdown()
    }
}

impl Desk for Workers {
    fn submit(&mut self, records: Vec<Record>) {
        self.ledger.submit(records);
    }

    fn ask(&mut self, job: Job) -> Result<(), Job> {
        self.query.ask(job)
    }

    fn tell(&mut self, notes: Vec<Note>) {
        log::notes(notes);
    }

    fn sum_spendings(&mut self) {
        self.ledger.sum_spendings();
    }

    fn resolve(&mut self) {
        self.resolver.refresh();
    }

    fn collect(&mut self, into: &mut Vec<Done>) {
        self.to_loop.take(into);
    }

    fn export(&self) -> Option<Arc<export::State>> {
        self.export.as_ref().map(ExportHandle::state)
    }
}
