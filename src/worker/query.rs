//! The query thread answers questions to the ledger, on a read-only connection of its own, one of each who asks in
//! turn. Beside it the render thread makes scrapes, so that what watches the proxy does not wait for what asks the
//! ledger.
//!
//! In: [`Job`]s, a bounded number waiting. Out: one [`WorkerEvent::Answered`] for each job taken. Never: a write, but
//! what the administrator asks for; a read transaction that outlives its question.

use super::admin;
use super::event::{EventSender, WorkerEvent};
use super::fair_queue::{Asker, FairInbox, FairQueue};
use super::fleet_reader::{Asked, FleetReader};
use super::logger::event;
use super::policy_store::PolicyStore;
use super::process::{lower_priority, spawn, unix_now};
use super::settings_in_force::SettingsInForce;
use crate::base::log::Level;
use crate::fleet::fleet_answers;
use crate::http::reply::Fault;
use crate::ledger::{answer, database};
use crate::local::admin_request::AdminRequest;
use crate::local::dashboard::{DashboardQuery, View};
use crate::local::usage_report::{Format, UsageQuery};
use crate::local::{Answer, dashboard, usage_report};
use crate::reporting::{GroupBy, Overview, Query, Ranking, Report, Scope};
use rusqlite::{Connection, ErrorCode};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Questions that may wait, and of one user.
const QUESTIONS_MAX: usize = 64;
const QUESTIONS_OF_USER_MAX: usize = 8;
/// Scrapes that may wait.
const RENDERS_MAX: usize = 8;
/// How long one question may take.
const TIME_LIMIT: Duration = Duration::from_secs(5);
/// SQLite's virtual machine looks at the clock once in this many instructions: about every 100 us.
const INSTRUCTIONS_A_LOOK: i32 = 10_000;

/// A question. `ticket` comes back with the answer.
pub enum Job {
    /// `GET /usage`.
    Usage { ticket: u64, query: UsageQuery },
    /// `GET /dashboard`.
    Dashboard { ticket: u64, query: Box<DashboardQuery> },
    /// `/admin/…`: the one that may write, by a connection of its own.
    Admin { ticket: u64, request: Box<AdminRequest> },
    /// Anything else that takes too long for the loop and needs no database, such as rendering the metrics.
    Render { ticket: u64, render: Render },
}

/// What a scrape is made by, without a database.
type Render = Box<dyn FnOnce() -> Answer + Send>;

impl Job {
    /// Whose turn it is, of questions to the ledger.
    fn asker(&self) -> Asker {
        match self {
            Self::Usage { query, .. } if query.own => query.query.user.clone(),
            Self::Dashboard { query, .. } if query.own => query.user.clone(),
            _ => None,
        }
    }
}

/// The loop's end of the threads.
pub struct QueryHandle {
    inbox: Arc<FairInbox<Job>>,
    renders: SyncSender<(u64, Render)>,
    stopping: Arc<AtomicBool>,
    threads: [JoinHandle<()>; 2],
}

impl QueryHandle {
    /// Starts the threads. The ledger at `path` is opened now, and again after any failure. With a fleet, that is asked
    /// first.
    ///
    /// # Errors
    /// One sentence, if the system gives no thread.
    pub fn start(
        path: &Path,
        fleet: Option<FleetReader>,
        settings: SettingsInForce,
        events: EventSender,
    ) -> Result<Self, String> {
        let inbox = Arc::new(FairInbox::new(FairQueue::new(QUESTIONS_MAX, QUESTIONS_OF_USER_MAX)));
        let stopping = Arc::new(AtomicBool::new(false));
        let (renders, rendered) = sync_channel(RENDERS_MAX);
        let reader = LedgerReader {
            path: database::absolute(path)?,
            settings,
            fleet,
            conn: None,
            failing: false,
            time_limit: TIME_LIMIT,
            deadline: Arc::new(Mutex::new(Instant::now())),
            stopping: Arc::clone(&stopping),
        };
        let (questions, answers) = (Arc::clone(&inbox), events.clone());
        let query = spawn("query", move || reader.run(&questions, &answers))?;
        let render = spawn("render", move || render(&rendered, &events))?;
        Ok(Self { inbox, renders, stopping, threads: [query, render] })
    }

    /// Puts a question; false if too many wait already. Never blocks.
    pub fn ask(&self, job: Job) -> bool {
        match job {
            Job::Render { ticket, render } => self.renders.try_send((ticket, render)).is_ok(),
            question => self.inbox.push(question.asker(), question),
        }
    }

    /// Ends the threads without waiting for the questions that they have; they get no answer.
    pub fn shutdown(self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.inbox.close();
        drop(self.renders);
        self.threads.into_iter().for_each(|thread| _ = thread.join());
    }
}

fn render(inbox: &Receiver<(u64, Render)>, events: &EventSender) {
    lower_priority();
    while let Ok((ticket, render)) = inbox.recv() {
        events.send(WorkerEvent::Answered { ticket, answer: render() });
    }
}

/// Asks the fleet where there is one and it is reached, else the ledger, on connections of its own.
struct LedgerReader {
    path: PathBuf,
    /// The limits of the settings.
    settings: SettingsInForce,
    fleet: Option<FleetReader>,
    conn: Option<Connection>,
    /// The last question found no readable ledger; said once.
    failing: bool,
    time_limit: Duration,
    /// When the question at hand is given up; shared with the connection's progress handler.
    deadline: Arc<Mutex<Instant>>,
    stopping: Arc<AtomicBool>,
}

impl LedgerReader {
    fn run(mut self, inbox: &FairInbox<Job>, events: &EventSender) {
        lower_priority();
        // So that it is the ledger's file, whatever is at the path when the first question comes.
        self.conn = self.open().ok();
        while let Some(job) = inbox.pop() {
            let (ticket, answer) = match job {
                Job::Usage { ticket, query } => (ticket, self.usage(query)),
                Job::Dashboard { ticket, query } => (ticket, self.dashboard(*query)),
                Job::Admin { ticket, request } => (ticket, self.administer(&request)),
                Job::Render { ticket, render } => (ticket, render()),
            };
            events.send(WorkerEvent::Answered { ticket, answer });
        }
    }

    fn administer(&self, request: &AdminRequest) -> Answer {
        match self.fleet.as_ref().map(FleetReader::reached) {
            None => admin::perform(PolicyStore::Ledger(&self.path), request),
            Some(Some(url)) => admin::perform(PolicyStore::Fleet(url), request),
            Some(None) => {
                let why = "The fleet, which keeps keys and limits, is out of reach: nothing is changed; try again.";
                Answer::error(Fault::LedgerUnavailable, why, None)
            }
        }
    }

    fn usage(&mut self, UsageQuery { query, format, .. }: UsageQuery) -> Answer {
        let Some(fleet) = &mut self.fleet else {
            if query.is_of_nodes() {
                let why = "`node` is of a fleet, and this proxy is in none (FLEET_URL)";
                return Answer::error(Fault::BadRequest, why, None);
            }
            return self.own_usage(query, format, Scope::Alone);
        };
        if query.group_by == Some(GroupBy::Key) {
            return Answer::error(Fault::BadRequest, fleet_answers::NO_KEYS, None);
        }
        match fleet.ask(|client| fleet_answers::report(client, query.clone(), TIME_LIMIT)) {
            Asked::Found(report) => usage_report::answer(&report, format, None),
            Asked::TooLong => too_long(),
            Asked::Away if query.is_of_nodes() => {
                let why = "The fleet is out of reach, and this node knows only its own usage; try again.";
                Answer::error(Fault::LedgerUnavailable, why, None)
            }
            Asked::Away => self.own_usage(query, format, Scope::Node),
        }
    }

    /// What the ledger here says.
    fn own_usage(&mut self, query: Query, format: Format, scope: Scope) -> Answer {
        let settings = self.settings.get();
        self.answer(|conn| {
            let report = Report { scope, ..answer::report_with_budgets(conn, query, &settings, unix_now())? };
            Ok(usage_report::answer(&report, format, None))
        })
    }

    fn dashboard(&mut self, query: DashboardQuery) -> Answer {
        let asked = query.overview();
        let scope = match &mut self.fleet {
            None => Scope::Alone,
            Some(fleet) => match fleet.ask(|client| fleet_answers::overview(client, &asked, TIME_LIMIT)) {
                Asked::Found(overview) => return dashboard::answer(&View { query, overview }),
                Asked::TooLong => return too_long(),
                Asked::Away => Scope::Node,
            },
        };
        self.answer(|conn| {
            let mut overview = Overview { scope, ..answer::overview(conn, &asked)? };
            if scope != Scope::Alone {
                // Numbers of keys are the fleet's, and rows of before this node came have its own.
                (overview.keys, overview.keys_from) = (Ranking::default(), None);
            }
            Ok(dashboard::answer(&View { query, overview }))
        })
    }

    /// Answers from the ledger, or says why not.
    fn answer(&mut self, ask: impl FnOnce(&Connection) -> rusqlite::Result<Answer>) -> Answer {
        match self.conn().and_then(ask) {
            Ok(answer) => {
                self.failing = false;
                answer
            }
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted) => too_long(),
            Err(error) => {
                self.conn = None;
                if !std::mem::replace(&mut self.failing, true) {
                    event(Level::Error, "ledger cannot be read", &[("error", error.to_string().as_str().into())]);
                }
                Answer::error(Fault::LedgerUnavailable, "The ledger cannot be read at the moment; try again.", None)
            }
        }
    }

    /// The connection, with the time for one question before it.
    fn conn(&mut self) -> rusqlite::Result<&Connection> {
        *self.deadline.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now() + self.time_limit;
        let conn = match self.conn.take() {
            Some(conn) => conn,
            None => self.open()?,
        };
        Ok(self.conn.insert(conn))
    }

    fn open(&mut self) -> rusqlite::Result<Connection> {
        let mut conn = database::open_reader(&self.path)?;
        let (deadline, stopping) = (Arc::clone(&self.deadline), Arc::clone(&self.stopping));
        let give_up = move || {
            let deadline = *deadline.lock().unwrap_or_else(PoisonError::into_inner);
            Instant::now() > deadline || stopping.load(Ordering::Relaxed)
        };
        conn.progress_handler(INSTRUCTIONS_A_LOOK, Some(give_up))?;
        Ok(conn)
    }
}

/// What is said to whoever asks for too much.
fn too_long() -> Answer {
    let why = "This question takes too long to answer; narrow it with `from`, `to`, `user_id` or `model`.";
    Answer::error(Fault::Overloaded, why, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::append::Writer;
    use crate::local::usage_report::Format;
    use crate::reporting::Query;
    use crate::usage::record::Record;

    #[test]
    fn a_question_that_takes_too_long_is_given_up_and_the_next_is_answered() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("usage.db");
        let writer = database::open(&path).unwrap();
        Writer::new(&writer).unwrap().append(&vec![Record::default(); 4096]).unwrap();
        let mut reader = LedgerReader {
            path,
            settings: SettingsInForce::default(),
            fleet: None,
            conn: None,
            failing: false,
            time_limit: Duration::ZERO,
            deadline: Arc::new(Mutex::new(Instant::now())),
            stopping: Arc::new(AtomicBool::new(false)),
        };
        let ask = |reader: &mut LedgerReader| {
            reader.answer(|conn| {
                let report = answer::report(conn, Query::default())?;
                Ok(usage_report::answer(&report, Format::Json, None))
            })
        };
        let late = ask(&mut reader);
        assert_eq!(late.status, 503);
        let body: serde_json::Value = serde_json::from_slice(&late.body).unwrap();
        assert_eq!(body["error"]["code"], "overloaded");
        assert!(body["error"]["message"].as_str().unwrap().contains("narrow it"));
        // It holds no old state of the ledger.
        Writer::new(&writer).unwrap().append(&[Record::default()]).unwrap();
        reader.time_limit = TIME_LIMIT;
        let body: serde_json::Value = serde_json::from_slice(&ask(&mut reader).body).unwrap();
        assert_eq!(body["totals"]["requests"], 4097);
    }
}
