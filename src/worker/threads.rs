//! The workers as the loop sees them, and the real ones behind that.

use super::budget_alerts::AlertsHandle;
use super::daily_reconciliation::{ReconciliationHandle, SharedGauges};
use super::event::{EventSender, WorkerEvent};
use super::export::{self, ExportHandle};
use super::fleet_reader::FleetReader;
use super::lease_carrier::LeaseHandle;
use super::ledger::{Ledger, LedgerHandle, Options};
use super::logger;
use super::long_work::LongWorkHandle;
use super::policy_follower::PolicyHandle;
use super::query::{Job, QueryHandle};
use super::resolver::Resolver;
use super::settings_in_force::SettingsInForce;
use super::ship::{FleetProgress, ShipHandle};
use crate::base::log::Note;
use crate::base::work::LongWork;
use crate::config::{Config, Egress, Fleet, Influx, SecretUrl};
use crate::limit::budget::Period;
use crate::limit::lease::Ask;
use crate::metrics::FormerSeries;
use crate::usage::record::Record;
use std::path::Path;
use std::sync::Arc;

/// The workers as the loop sees them. Nothing here blocks.
pub trait Workers {
    /// A turn's records, in order; each is acknowledged by [`WorkerEvent::Committed`].
    fn submit(&mut self, records: Vec<Record>);

    /// A question, answered by [`WorkerEvent::Answered`]; false where too many wait.
    fn ask(&mut self, job: Job) -> bool;

    /// What takes too long for the loop; answered by [`WorkerEvent::Worked`].
    fn work(&mut self, work: LongWork);

    /// Messages to the fleet's engine, answered by [`WorkerEvent::Leases`].
    fn lease(&mut self, asks: Vec<Ask>) {
        drop(asks);
    }

    /// What the log is told of this turn.
    fn tell(&mut self, notes: Vec<Note>) {
        drop(notes);
    }

    /// Sum up what users have spent in a period; answered by [`WorkerEvent::SpendSums`].
    fn sum_spend_sums(&mut self, period: Period);

    /// Look the target up again; answered by [`WorkerEvent::Resolved`].
    fn resolve(&mut self);

    /// Moves every message to `into`, in order.
    fn collect(&mut self, into: &mut Vec<WorkerEvent>);

    /// How the export is, where there is one; to be read on another thread.
    fn export(&self) -> Option<Arc<export::ExportProgress>> {
        None
    }

    /// How the fleet is, where there is one; to be read on another thread.
    fn fleet(&self) -> Option<Arc<FleetProgress>> {
        None
    }

    /// What the last comparison with the provider's books came to, where there are any.
    fn reconciliation(&self) -> Option<SharedGauges> {
        None
    }
}

/// Ledger, query, long-work, export, ship, lease, policy, alerts, reconciliation and resolver threads of a process.
pub struct WorkerThreads {
    events: EventSender,
    ledger: LedgerHandle,
    query: QueryHandle,
    long_work: LongWorkHandle,
    export: Option<ExportHandle>,
    alerts: Option<AlertsHandle>,
    reconciliation: Option<ReconciliationHandle>,
    ship: Option<ShipHandle>,
    lease: Option<LeaseHandle>,
    policy: Option<PolicyHandle>,
    resolver: Resolver,
}

impl WorkerThreads {
    /// Opens the ledger and starts the threads. The host is being looked up from here on: the target's, or that of the
    /// proxy on the way to it.
    ///
    /// # Errors
    /// One sentence: the ledger cannot be used, or the system gives no thread.
    pub fn start(
        database: &Path,
        options: Options,
        (export, egress): (Option<Influx>, &Egress),
        fleet: Option<&Fleet>,
        (host, port): (&str, u16),
        settings: SettingsInForce,
        events: EventSender,
    ) -> Result<Self, String> {
        let backfill = export.as_ref().is_some_and(|to| to.backfill);
        let options = Options { export: export.is_some(), backfill, fleet: fleet.is_some(), ..options };
        let ledger = Ledger::start(database, options, events.clone())?;
        let long_work = LongWorkHandle::start(events.clone())?;
        let export = export.map(|to| ExportHandle::start(database, (to, egress), ledger.marker()));
        let (retention_days, mark) = (options.retention_days, || ledger.shipped_marker());
        let ship = fleet.map(|fleet| ShipHandle::start(database, fleet, retention_days, mark(), events.clone()));
        let (export, ship) = (export.transpose()?, ship.transpose()?);
        let reader = |(fleet, ship): (&Fleet, &ShipHandle)| FleetReader::new(fleet.url.clone(), ship.progress());
        let reader = fleet.zip(ship.as_ref()).map(reader);
        let query = QueryHandle::start(database, reader, settings, events.clone())?;
        let policy = |(fleet, ship): (&Fleet, &ShipHandle)| {
            PolicyHandle::start(database, fleet, ship.progress(), ledger.policy_keeper(), events.clone())
        };
        let policy = fleet.zip(ship.as_ref()).map(policy).transpose()?;
        let lease = |((fleet, ship), policy): ((&Fleet, &ShipHandle), &PolicyHandle)| {
            LeaseHandle::start(fleet, ship.progress(), policy.versions(), events.clone())
        };
        let lease = fleet.zip(ship.as_ref()).zip(policy.as_ref()).map(lease).transpose()?;
        let resolver = Resolver::start(host, port, events.clone())?;
        Ok(Self {
            events,
            ledger,
            query,
            long_work,
            export,
            alerts: None,
            reconciliation: None,
            ship,
            lease,
            policy,
            resolver,
        })
    }

    /// Tells somebody of budgets that pass a threshold, from here on.
    ///
    /// # Errors
    /// One sentence: the system gives no thread.
    pub fn start_alerts(
        &mut self,
        database: &Path,
        to: (SecretUrl, &Egress),
        settings: SettingsInForce,
    ) -> Result<(), String> {
        self.alerts = Some(AlertsHandle::start(database, to, settings, self.ledger.alert_keeper())?);
        Ok(())
    }

    /// Holds each day against the provider's books, from here on.
    ///
    /// # Errors
    /// One sentence: the system gives no thread.
    pub fn start_reconciliation(&mut self, config: Config) -> Result<(), String> {
        let keep = self.ledger.reconciliation_keeper();
        self.reconciliation = Some(ReconciliationHandle::start(config, keep)?);
        Ok(())
    }

    /// What the ledger had when it was opened, for the metrics.
    pub fn take_former_series(&mut self) -> Vec<FormerSeries> {
        std::mem::take(&mut self.ledger.former_series)
    }

    /// Ends the threads, the ledger's only when all that was submitted is committed, and after it the one that ships
    /// that to the fleet.
    ///
    /// # Errors
    /// One sentence: the ledger could not commit.
    pub fn shutdown(self) -> Result<(), String> {
        drop(self.resolver);
        self.query.shutdown();
        self.long_work.shutdown();
        if let Some(lease) = self.lease {
            lease.shutdown();
        }
        if let Some(policy) = self.policy {
            policy.shutdown();
        }
        if let Some(export) = self.export {
            export.shutdown();
        }
        if let Some(alerts) = self.alerts {
            alerts.shutdown();
        }
        if let Some(reconciliation) = self.reconciliation {
            reconciliation.shutdown();
        }
        if let Some(ship) = &self.ship {
            ship.rest();
        }
        let committed = self.ledger.shutdown();
        if let Some(ship) = self.ship {
            ship.finish();
        }
        committed
    }
}

impl Workers for WorkerThreads {
    fn submit(&mut self, records: Vec<Record>) {
        self.ledger.submit(records);
    }

    fn ask(&mut self, job: Job) -> bool {
        self.query.ask(job)
    }

    fn work(&mut self, work: LongWork) {
        self.long_work.put(work);
    }

    fn lease(&mut self, asks: Vec<Ask>) {
        if let Some(lease) = &self.lease {
            lease.ask(asks);
        }
    }

    fn tell(&mut self, notes: Vec<Note>) {
        logger::notes(notes);
    }

    fn sum_spend_sums(&mut self, period: Period) {
        self.ledger.sum_spend_sums(period);
    }

    fn resolve(&mut self) {
        self.resolver.refresh();
    }

    fn collect(&mut self, into: &mut Vec<WorkerEvent>) {
        self.events.take(into);
    }

    fn export(&self) -> Option<Arc<export::ExportProgress>> {
        self.export.as_ref().map(ExportHandle::progress)
    }

    fn fleet(&self) -> Option<Arc<FleetProgress>> {
        self.ship.as_ref().map(ShipHandle::progress)
    }

    fn reconciliation(&self) -> Option<SharedGauges> {
        self.reconciliation.as_ref().map(ReconciliationHandle::gauges)
    }
}
