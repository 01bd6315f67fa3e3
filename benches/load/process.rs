//! Processes of a run: starting them on a core of their own, what they may open, what they cost, and ending them.
//!
//! In: commands and process ids. Out: nanoseconds on the CPU and resident memory, as the kernel accounts them under
//! `/proc`; `None` on systems without it. Never: a measurement of the benchmark's own process.

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// For a target's own files, and what keeps its clients' capacity above their number.
const SPARE_DESCRIPTORS: u64 = 500;

/// Where a process runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Core {
    /// What is measured.
    Target,
    /// Mock and generator.
    Helper,
}

/// Whether `taskset` and a second core exist.
pub fn are_pinned() -> bool {
    std::thread::available_parallelism().is_ok_and(|cores| cores.get() > 1) && find("taskset").is_some()
}

/// `program` pinned to its core where that can be, else free.
pub fn pinned(core: Core, program: &str) -> Command {
    let Some(taskset) = find("taskset").filter(|_| are_pinned()) else { return Command::new(program) };
    let mut command = Command::new(taskset);
    command.args(["-c", if core == Core::Target { "0" } else { "1" }, program]);
    command
}

/// This executable in another role.
pub fn helper(role: &str) -> Command {
    let own = std::env::current_exe().expect("the path of this executable");
    let mut command = pinned(Core::Helper, own.to_str().expect("a UTF-8 path"));
    command.arg(role);
    command
}

/// The path of an installed program; also where Debian keeps servers, which an ordinary user's PATH lacks.
pub fn find(program: &str) -> Option<String> {
    let path = std::env::var("PATH").unwrap_or_default();
    let folders = path.split(':').chain(["/usr/sbin", "/usr/local/sbin"]);
    folders.map(|folder| format!("{folder}/{program}")).find(|file| std::path::Path::new(file).is_file())
}

/// How many files a process of the run may have open.
pub struct Descriptors(Option<u64>);

impl Descriptors {
    /// Raises the soft limit, which children inherit, to the hard one.
    pub fn raise() -> Self {
        let limit = getrlimit(Resource::Nofile);
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        // Where it may not be raised, what is there must do.
        Self(if setrlimit(Resource::Nofile, raised).is_ok() { limit.maximum } else { limit.current })
    }

    /// Whether a target, which needs two for each, can have so many clients; says so where it cannot.
    pub fn allow(&self, clients: usize) -> bool {
        let needed = 2 * clients as u64 + SPARE_DESCRIPTORS;
        let allowed = self.0.is_none_or(|limit| needed <= limit);
        if !allowed {
            println!("{clients} connections need {needed} descriptors (ulimit -Hn): left out");
        }
        allowed
    }
}

/// A child that is told to stop when dropped, and made to when it does not.
pub struct Running {
    child: Child,
}

impl Running {
    /// Starts `command`.
    pub fn start(command: &mut Command) -> Result<Self, String> {
        let child = command.spawn().map_err(|e| format!("cannot start {command:?}: {e}"))?;
        Ok(Self { child })
    }

    /// The child itself, for its pipes.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// The process and all its descendants.
    pub fn tree(&self) -> Vec<u32> {
        let mut pids = vec![self.child.id()];
        let mut next = 0;
        while let Some(pid) = pids.get(next) {
            for task in tasks(*pid) {
                let children = std::fs::read_to_string(format!("{task}/children")).unwrap_or_default();
                pids.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
            }
            next += 1;
        }
        pids
    }

    /// True once the process has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.has_ended() {
            return;
        }
        if let Some(pid) = Pid::from_raw(self.child.id() as i32) {
            let _ = kill_process(pid, Signal::TERM); // gone already: the wait below sees it
        }
        let deadline = Instant::now() + Duration::from_secs(10);
        while !self.has_ended() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Nanoseconds that all threads of these processes have spent on a CPU.
pub fn cpu_ns(pids: &[u32]) -> Option<u64> {
    let threads = pids.iter().flat_map(|pid| tasks(*pid));
    let spent = threads.filter_map(|task| {
        let schedstat = std::fs::read_to_string(format!("{task}/schedstat")).ok()?;
        schedstat.split_whitespace().next()?.parse::<u64>().ok()
    });
    spent.reduce(|a, b| a + b)
}

/// Resident memory of these processes in KiB.
pub fn rss_kib(pids: &[u32]) -> Option<u64> {
    let resident = pids.iter().filter_map(|pid| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    });
    resident.reduce(|a, b| a + b)
}

/// The folders of a process's threads.
fn tasks(pid: u32) -> Vec<String> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    threads.map(|thread| thread.path().to_string_lossy().into_owned()).collect()
}
