//! The production ledger thread, fed in lockstep: a batch is one commit, and the next is submitted when it is
//! acknowledged. So batches are exactly as large as asked, and no moment is quiet: all that follows behind the rows is
//! done between commits, as under steady load.
//!
//! In: a path, rows, a batch size. Out: what a row cost and how long commits took. Never: a shortcut past the thread.

use crate::rows::Rows;
use openai_api_proxy::worker::ledger::{Ledger, LedgerHandle, Options};
use openai_api_proxy::worker::{EventSender, WorkerEvent};
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// The writer's threads, as they are named: what is counted as the ledger's.
const THREADS: [&str; 2] = ["ledger", "checkpoint"];
/// A ledger that is silent for so long has failed.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Feeder {
    ledger: LedgerHandle,
    events: EventSender,
    woken: Receiver<()>,
    rows: Rows,
}

/// What some rows cost.
pub struct Cost {
    pub rows: usize,
    pub batch: usize,
    /// Nanoseconds on a CPU, of all threads of the writer; `None` on systems without `/proc`.
    pub cpu_ns: Option<u64>,
    /// From submitting to acknowledging, a commit each, sorted.
    pub commits: Vec<Duration>,
}

impl Feeder {
    pub fn start(path: &Path, rows: Rows, options: Options) -> Result<Self, String> {
        let (wake, woken) = channel();
        let events = EventSender::new(move || _ = wake.send(()));
        let ledger = Ledger::start(path, options, events.clone())?;
        Ok(Self { ledger, events, woken, rows })
    }

    /// Commits so many rows, in batches of this size.
    pub fn feed(&mut self, rows: usize, batch: usize) -> Result<Cost, String> {
        let before = cpu_ns();
        let mut commits = Vec::with_capacity(rows / batch + 1);
        let mut left = rows;
        while left > 0 {
            let records = self.rows.batch(batch.min(left));
            left -= records.len();
            let Some(last) = records.last().map(|record| record.seq) else { break };
            let submitted = Instant::now();
            self.ledger.submit(records);
            self.wait_for(last)?;
            commits.push(submitted.elapsed());
        }
        commits.sort_unstable();
        Ok(Cost { rows, batch, cpu_ns: cpu_ns().zip(before).map(|(after, before)| after - before), commits })
    }

    fn wait_for(&self, seq: u64) -> Result<(), String> {
        let mut messages = Vec::new();
        loop {
            self.woken.recv_timeout(PATIENCE).map_err(|_| "the ledger is silent".to_owned())?;
            self.events.take(&mut messages);
            for message in messages.drain(..) {
                match message {
                    WorkerEvent::Committed { upto, .. } if upto == seq => return Ok(()),
                    WorkerEvent::Committed { .. } | WorkerEvent::Policy(_) => {}
                    other => return Err(format!("the ledger says {other:?}")),
                }
            }
        }
    }

    /// Writes the log back and ends the threads.
    pub fn stop(self) -> Result<(), String> {
        self.ledger.shutdown()
    }
}

/// Nanoseconds that the writer's threads have spent on a CPU; `None` where there is no `/proc`.
fn cpu_ns() -> Option<u64> {
    let threads = std::fs::read_dir("/proc/self/task").ok()?.flatten();
    let spent = threads.filter_map(|thread| {
        let name = std::fs::read_to_string(thread.path().join("comm")).ok()?;
        let schedstat = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        THREADS.contains(&name.trim()).then(|| schedstat.split_whitespace().next()?.parse::<u64>().ok())?
    });
    Some(spent.sum())
}

impl Cost {
    /// `batch  us of CPU a row  commits: median, p99, longest`.
    pub fn print(&self) {
        let cpu = self.cpu_ns.map_or("-".to_owned(), |ns| format!("{:.2}", ns as f64 / 1000.0 / self.rows as f64));
        let at = |share: f64| {
            let place = ((self.commits.len() as f64 * share) as usize).min(self.commits.len() - 1);
            self.commits[place].as_secs_f64() * 1e3
        };
        println!(
            "{:>9}{:>12}{cpu:>16}{:>12.3}{:>12.3}{:>12.3}{:>12.3}",
            self.batch,
            self.rows,
            at(0.5),
            at(0.99),
            at(0.999),
            at(1.0)
        );
    }

    pub fn print_heading() {
        println!("\nCommits, their threads' CPU, and from submitting to acknowledging in ms");
        println!(
            "{:>9}{:>12}{:>16}{:>12}{:>12}{:>12}{:>12}",
            "batch", "rows", "us of CPU/row", "median", "p99", "p99.9", "longest"
        );
    }
}
