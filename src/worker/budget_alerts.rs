//! The thread that tells of budgets which pass 80 and 100 per cent, once a period and budget each: to
//! `ALERT_WEBHOOK_URL`.
//!
//! ```text
//!   rows, limits ──▶ crossings ──by the ledger thread──▶ table `alerts` ──▶ receiver
//!                                                          ▲                 │ taken
//!                                                          └─── sent ◀───────┘
//! ```
//!
//! In: a ledger file, the limits of the settings, a receiver. Out: every crossing there. Never: a wait of the loop or
//! of the ledger; a crossing forgotten while its receiver is away.
//!
//! The ledger is the outbox: what was noticed is kept before it is sent, and sent until it is taken. What was taken
//! when the process was killed, and not yet marked, is sent again, with the same `id`. Of several processes with one
//! ledger, one does all of this.

mod webhook;

use super::backoff::Retry;
use super::logger::{Value, event};
use super::outbound::Trouble;
use super::process::{lower_priority, spawn, unix_now};
use super::settings_in_force::SettingsInForce;
use super::turn::Turn;
use crate::base::civil::write_rfc3339;
use crate::base::log::Level;
use crate::config::{Egress, SecretUrl};
use crate::ledger::alert_outbox::{self, Alert, AlertChange};
use crate::ledger::database;
use crate::ledger::keys_and_limits::{rules, version};
use crate::ledger::spend::{SpendWatch, SpentBy};
use crate::limit::budget::Period;
use crate::limit::in_force::SettingsLimits;
use crate::limit::levels::{Levels, LimitLevel};
use crate::limit::overrides::Overrides;
use crate::limit::threshold::{BudgetPeriod, Crossing, hundredths_used, passed};
use rusqlite::Connection;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::time::{Duration, Instant};
use webhook::{Untaken, Webhook};

/// How often the ledger is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The pauses after the first failure and after many, at most.
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Messages that are read from the table at once.
const PAGE: usize = 100;
/// How long a shutdown waits for the answer to the message that is under way.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(2);

/// The other threads' end of it.
pub struct AlertsHandle {
    /// Dropped, the thread ends.
    stop: Sender<()>,
    ended: Receiver<()>,
}

impl AlertsHandle {
    /// Starts the thread for the ledger at `path`, whose ledger thread is running and `keep`s what it is given.
    ///
    /// # Errors
    /// One sentence: the path is none, or the system gives no thread.
    pub fn start(
        path: &Path,
        (to, egress): (SecretUrl, &Egress),
        settings: SettingsInForce,
        keep: impl Fn(Vec<AlertChange>) + Send + 'static,
    ) -> Result<Self, String> {
        let path = database::absolute(path)?;
        let (stop, stopped) = channel();
        let (end, ended) = channel();
        let failing = "budget alerts cannot be sent, they are kept and tried again";
        let alerts = BudgetAlerts {
            turn: Turn::new(database::beside(&path, "-alerts")),
            path,
            conn: None,
            budgets: Budgets { settings, current: SettingsLimits::default(), version: None, rules: Levels::default() },
            watch: None,
            known: BTreeSet::new(),
            unkept: BTreeMap::new(),
            taken: BTreeMap::new(),
            webhook: Webhook::new(to, egress),
            keep: Box::new(keep),
            retry: Retry::new(failing, "budget alerts are sent again").pausing(PAUSE_MIN, PAUSE_MAX),
            looks: Retry::new("budgets cannot be looked at for alerts", "budgets are looked at again"),
            stopped,
        };
        spawn("alerts", move || {
            lower_priority();
            alerts.run();
            drop(end);
        })?;
        Ok(Self { stop, ended })
    }

    /// Ends the thread after the message that it is at; one that takes too long is left to the end of the process. To
    /// be called before the ledger thread is ended, which keeps what was sent.
    pub fn shutdown(self) {
        drop(self.stop);
        let _ = self.ended.recv_timeout(SHUTDOWN_PATIENCE);
    }
}

/// The budgets as they are now.
struct Budgets {
    settings: SettingsInForce,
    /// What was read last, and the version of the tables then.
    current: SettingsLimits,
    version: Option<i64>,
    rules: Levels<Overrides>,
}

impl Budgets {
    /// Reads them; true where they have changed.
    fn read(&mut self, conn: &Connection) -> rusqlite::Result<bool> {
        let (current, version) = (self.settings.get(), Some(version(conn)?));
        let mut changed = current != self.current;
        self.current = current;
        if version != self.version {
            let rules = rules(conn)?.filter_map(|rule| Some(rule.limits));
            changed |= rules != self.rules;
            (self.rules, self.version) = (rules, version);
        }
        Ok(changed)
    }

    fn is_any(&self) -> bool {
        LimitLevel::ALL.into_iter().any(|level| self.current.has_budget(&self.rules, level))
    }

    /// The thresholds that are passed by who has spent so much.
    fn crossings(&self, present: Period, (level, name, spent): &SpentBy) -> Vec<(Crossing, u64)> {
        let limits = self.current.of(&self.rules, *level, name);
        let mut found = Vec::new();
        for period in BudgetPeriod::ALL {
            let Some(budget_nano_usd) = period.budget(&limits) else { continue };
            let (number, spent, level) = (period.number(present), period.spent(*spent), *level);
            let crossing =
                |threshold| (Crossing { period, number, level, name: name.clone(), threshold, budget_nano_usd }, spent);
            found.extend(passed(spent, budget_nano_usd).map(crossing));
        }
        found
    }
}

struct BudgetAlerts {
    path: PathBuf,
    turn: Turn,
    /// To read with; none before the first look, and after a failure.
    conn: Option<Connection>,
    budgets: Budgets,
    /// None where there is no budget.
    watch: Option<SpendWatch>,
    /// What was noticed in the period of `watch`.
    known: BTreeSet<Crossing>,
    /// What was noticed and is not seen in the table yet: what is spent, and when that was.
    unkept: BTreeMap<Crossing, (u64, u64)>,
    /// Messages that were taken, when, and for which the table does not say so yet.
    taken: BTreeMap<i64, u64>,
    webhook: Webhook,
    keep: Box<dyn Fn(Vec<AlertChange>) + Send>,
    retry: Retry,
    looks: Retry,
    stopped: Receiver<()>,
}

impl BudgetAlerts {
    fn run(mut self) {
        while self.stopped.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
            match self.turn.is_ours() {
                Ok(true) => {}
                Ok(false) => continue,
                Err(why) => {
                    self.looks.failed(&why);
                    continue;
                }
            }
            match self.look() {
                Ok(()) => _ = self.looks.worked(),
                Err(error) => {
                    self.looks.failed(&error);
                    (self.conn, self.watch) = (None, None);
                }
            }
        }
    }

    fn is_stopping(&self) -> bool {
        self.stopped.try_recv() == Err(TryRecvError::Disconnected)
    }

    /// Notices what has passed a threshold, and sends what waits.
    fn look(&mut self) -> rusqlite::Result<()> {
        let conn = match self.conn.take() {
            Some(conn) => conn,
            None => database::open_reader(&self.path)?,
        };
        self.notice(&conn, Period::of(unix_now()))?;
        self.settle(&conn)?;
        if self.retry.retry_at.is_none_or(|retry_at| retry_at <= Instant::now()) {
            match self.send(&conn)? {
                Ok(()) if self.is_stopping() => {}
                Ok(()) => _ = self.retry.worked(),
                Err(trouble) => {
                    self.retry.failed(&format!("{}: {}", self.webhook.shown(), trouble.why));
                    let pause = self.retry.jittered().max(trouble.retry_after.unwrap_or_default());
                    self.retry.retry_at = Some(Instant::now() + pause);
                }
            }
        }
        self.conn = Some(conn);
        Ok(())
    }

    /// Looks at what has come, of the period that was until now as well.
    fn notice(&mut self, conn: &Connection, present: Period) -> rusqlite::Result<()> {
        let changed = self.budgets.read(conn)?;
        if !self.budgets.is_any() {
            self.watch = None;
            return Ok(());
        }
        if let Some(mut watch) = self.watch.take() {
            let spent = watch.look(conn)?;
            let spent = if changed { watch.all(conn)? } else { spent };
            self.judge(watch.period, &spent);
            self.watch = Some(watch).filter(|watch| watch.period == present);
        }
        if self.watch.is_none() {
            self.known = alert_outbox::known(conn, present)?;
            let watch = SpendWatch::new(conn, present)?;
            let spent = watch.all(conn)?;
            self.judge(present, &spent);
            self.watch = Some(watch);
        }
        Ok(())
    }

    fn judge(&mut self, period: Period, spent: &[SpentBy]) {
        for (crossing, spent) in spent.iter().flat_map(|spent| self.budgets.crossings(period, spent)) {
            if self.known.insert(crossing.clone()) {
                self.unkept.insert(crossing, (spent, unix_now()));
            }
        }
    }

    /// Has the ledger thread keep what is not in the table; again, where that has failed.
    fn settle(&mut self, conn: &Connection) -> rusqlite::Result<()> {
        let mut changes = Vec::new();
        for (crossing, (spent_nano_usd, at)) in std::mem::take(&mut self.unkept) {
            if !alert_outbox::is_known(conn, &crossing)? {
                changes.push(AlertChange::Noticed { crossing: crossing.clone(), spent_nano_usd, at });
                self.unkept.insert(crossing, (spent_nano_usd, at));
            }
        }
        for (id, at) in std::mem::take(&mut self.taken) {
            if alert_outbox::is_unsent(conn, id)? {
                changes.push(AlertChange::Sent { id, at });
                self.taken.insert(id, at);
            }
        }
        if !changes.is_empty() {
            (self.keep)(changes);
        }
        Ok(())
    }

    /// Sends all that waits, in order. One that is refused is tried again with all others later: it may be the
    /// receiver's mistake.
    fn send(&mut self, conn: &Connection) -> rusqlite::Result<Result<(), Trouble>> {
        let (mut after, mut refused) = (0, None);
        loop {
            let page = alert_outbox::unsent(conn, after, PAGE)?;
            let Some(last) = page.last() else { return Ok(refused.map_or(Ok(()), Err)) };
            after = last.id;
            for alert in page.iter().filter(|alert| !self.taken.contains_key(&alert.id)).collect::<Vec<_>>() {
                if self.is_stopping() {
                    return Ok(Ok(()));
                }
                match self.webhook.post(&document(alert)) {
                    Ok(()) => self.mark(alert),
                    Err(Untaken::Refused(why)) => refused = Some(Trouble::new(why)),
                    Err(Untaken::Trouble(trouble)) => return Ok(Err(trouble)),
                }
            }
        }
    }

    fn mark(&mut self, alert: &Alert) {
        let at = unix_now();
        self.taken.insert(alert.id, at);
        (self.keep)(vec![AlertChange::Sent { id: alert.id, at }]);
        let Crossing { level, name, period, threshold, .. } = &alert.crossing;
        let fields = [
            ("level", Value::from(level.label())),
            ("name", name.as_str().into()),
            ("period", period.label().into()),
            ("percent", Value::Number(u64::from(*threshold))),
        ];
        event(Level::Info, "budget alert sent", &fields);
    }
}

/// The message: `text`, which Slack shows, and the same for programs. `id` is another for each crossing, and the same
/// whenever one is sent again.
fn document(Alert { crossing, spent_nano_usd, noticed_at, .. }: &Alert) -> String {
    let Crossing { period, number, level, name, threshold, budget_nano_usd } = crossing;
    let (period, start, level) = (period.label(), period.start(*number), level.label());
    let usd = |nano_usd: u64| nano_usd as f64 / 1e9;
    let mut at = Vec::new();
    write_rfc3339(&mut at, *noticed_at, 0);
    json!({
        "text": crossing.text(*spent_nano_usd),
        "id": format!("{level}:{name}:{period}:{start}:{threshold}:{budget_nano_usd}"),
        "level": level,
        "name": name,
        "period": period,
        "period_start": start,
        "threshold": threshold,
        "percent": hundredths_used(*spent_nano_usd, *budget_nano_usd) as f64 / 100.0,
        "budget_usd": usd(*budget_nano_usd),
        "spent_usd": usd(*spent_nano_usd),
        "at": String::from_utf8_lossy(&at),
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_the_same_whenever_it_is_sent() {
        let (level, period, number) = (LimitLevel::Team, BudgetPeriod::Month, (2026 - 1970) * 12 + 10);
        let (name, threshold, budget_nano_usd) = ("x".to_owned(), 80, 10_000_000_000);
        let crossing = Crossing { period, number, level, name, threshold, budget_nano_usd };
        let noticed_at = 1_795_950_000_123_456_789;
        let alert = Alert { id: 7, crossing, spent_nano_usd: 8_314_000_001, noticed_at };
        let expected = json!({
            "text": "Team `x` has spent 83 % of the budget for 2026-11 (UTC): $8.314000001 of $10.",
            "id": "team:x:month:2026-11-01:80:10000000000", "level": "team", "name": "x", "period": "month",
            "period_start": "2026-11-01", "threshold": 80, "percent": 83.14, "budget_usd": 10.0,
            "spent_usd": 8.314_000_001, "at": "2026-11-29T11:00:00Z",
        });
        assert_eq!(serde_json::from_str::<serde_json::Value>(&document(&alert)).unwrap(), expected);
    }
}
