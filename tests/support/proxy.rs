//! The binary under test as a child process, in a folder of its own and with no environment but what the test gives.

use super::DEADLINE;
use super::client;
use super::script::Step;
use super::upstream::{SeenRequest, Upstream};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// An upstream without TLS whose answers are written by the test, and a proxy before it.
pub fn scripted(
    vars: &[(&str, &str)],
    answer: impl Fn(&SeenRequest) -> Vec<Step> + Send + Sync + 'static,
) -> (Upstream, Proxy) {
    let upstream = Upstream::plain(answer);
    let proxy = Proxy::before(&upstream, vars);
    (upstream, proxy)
}

/// A running `proxy-server`; killed with its value.
pub struct Proxy {
    child: Child,
    addr: SocketAddr,
    log: Arc<Log>,
    folder: TempDir,
}

#[derive(Default)]
struct Log {
    state: Mutex<LogState>,
    changed: Condvar,
}

#[derive(Default)]
struct LogState {
    text: String,
    ended: bool,
}

impl Proxy {
    /// Starts it with these variables (and `PORT=0`, a database in its folder) and waits until it listens.
    pub fn start(vars: &[(&str, &str)]) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), vars)
    }

    /// The same before an upstream without TLS.
    pub fn before(upstream: &Upstream, vars: &[(&str, &str)]) -> Self {
        let target = upstream.url();
        Self::start(&[&[("PROXY_TARGET", target.as_str())], vars].concat())
    }

    /// The same in a folder that a test has prepared, or taken over from [`Self::into_folder`].
    pub fn start_in(folder: TempDir, vars: &[(&str, &str)]) -> Self {
        let command = command(folder.path(), vars);
        Self::start_by(folder, command)
    }

    /// The same by a command of the test's own, whose process is or becomes the binary.
    pub fn start_by(folder: TempDir, mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let log = Arc::new(Log::default());
        let (stderr, for_thread) = (child.stderr.take().unwrap(), log.clone());
        std::thread::spawn(move || collect(stderr, &for_thread));
        let line = log.wait_for("listening").unwrap_or_else(|text| {
            let _ = child.kill();
            panic!("it does not listen; it said:\n{text}")
        });
        let addr = match serde_json::from_str::<Value>(&line) {
            Ok(json) => json["addr"].as_str().map(str::to_owned),
            Err(_) => logfmt(&line).remove("addr"),
        };
        let addr = addr.and_then(|addr| addr.parse().ok()).unwrap_or_else(|| panic!("no addr: {line}"));
        Self { child, addr, log, folder }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The folder that holds the database, and is the working directory.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn database(&self) -> PathBuf {
        self.folder.path().join("usage.db")
    }

    /// What it has written to stderr so far: all of it only after its end, since a thread of its own writes the log. A
    /// test that expects a line of a running proxy waits for it, with [`Self::wait_for_log`].
    pub fn stderr(&self) -> String {
        self.log.state.lock().unwrap().text.clone()
    }

    /// Waits for a line with this text on stderr, and gives the line.
    #[track_caller]
    pub fn wait_for_log(&self, text: &str) -> String {
        self.log.wait_for(text).unwrap_or_else(|log| panic!("no {text:?} in its log:\n{log}"))
    }

    /// The answer of `/usage` with this query (`user_id=…`).
    #[track_caller]
    pub fn usage(&self, query: &str) -> Value {
        client::get(self.addr, &format!("/usage?{query}")).expect(200).json()
    }

    /// The only row of this user, once it is there: a client whose response is cut does not wait for its record.
    #[track_caller]
    pub fn only_row(&self, user: &str) -> Value {
        let start = Instant::now();
        while start.elapsed() < DEADLINE {
            let usage = self.usage(&format!("user_id={user}"));
            if usage["totals"]["requests"] != 0 {
                assert_eq!(usage["totals"]["requests"], 1, "one request, one record");
                return usage["data"][0].clone();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("no record of {user}");
    }

    /// The samples of `/metrics`: name with labels, value.
    #[track_caller]
    pub fn metrics(&self) -> BTreeMap<String, f64> {
        let text = client::get(self.addr, "/metrics").expect(200).text();
        let samples = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        let sample = |line: &str| line.rsplit_once(' ').map(|(name, v)| (name.to_owned(), v.parse().unwrap())).unwrap();
        samples.map(sample).collect()
    }

    /// Waits until it has noticed that its clients have left.
    #[track_caller]
    pub fn wait_until_left(&self) {
        let start = Instant::now();
        // The one that is left is the scrape's own.
        while self.metrics()["openai_proxy_connections{side=\"downstream\"}"] > 1.0 {
            assert!(start.elapsed() < DEADLINE, "the client's leaving goes unnoticed");
        }
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Sends SIGTERM and waits for the end.
    #[track_caller]
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// Waits until it ends by itself, and has all that it wrote.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                self.log.wait_for_end();
                return status;
            }
            assert!(start.elapsed() < DEADLINE * 2, "it does not end; it said:\n{}", self.stderr());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Kills it as `kill -9` does, and waits until it is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.log.wait_for_end();
    }

    /// Kills it and keeps its folder, for a next start.
    pub fn into_folder(mut self) -> TempDir {
        self.kill();
        std::mem::replace(&mut self.folder, tempfile::tempdir().unwrap())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- stderr of the proxy ---\n{}", self.stderr());
        }
    }
}

/// The command of a start that is expected to fail, or of another subcommand.
pub fn command(folder: &Path, vars: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_proxy-server"));
    command.env_clear().current_dir(folder).stdin(Stdio::null()).stdout(Stdio::null());
    command.env("PORT", "0").env("DATABASE_PATH", folder.join("usage.db"));
    command.envs(vars.iter().copied());
    command
}

/// Runs a subcommand on the ledger in a folder to its end. White space parts the arguments.
pub fn run(folder: &Path, arguments: &str) -> Output {
    command(folder, &[]).args(arguments.split_whitespace()).stdout(Stdio::piped()).output().unwrap()
}

/// The same; what it printed, where it succeeded.
#[track_caller]
pub fn done(folder: &Path, arguments: &str) -> String {
    let output = run(folder, arguments);
    assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a subcommand with settings: its exit status, what it prints, and what it says on standard error.
pub fn run_with(folder: &Path, arguments: &[&str], vars: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let output = command(folder, vars).args(arguments).stdout(Stdio::piped()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn collect(stderr: impl std::io::Read, log: &Log) {
    for line in BufReader::new(stderr).split(b'\n') {
        let Ok(line) = line else { break };
        let mut state = log.state.lock().unwrap();
        state.text.push_str(&String::from_utf8_lossy(&line));
        state.text.push('\n');
        log.changed.notify_all();
    }
    log.state.lock().unwrap().ended = true;
    log.changed.notify_all();
}

impl Log {
    /// The first line with this text; all that was said where none comes.
    fn wait_for(&self, text: &str) -> Result<String, String> {
        let found = |state: &LogState| state.text.lines().find(|line| line.contains(text)).map(str::to_owned);
        let waiting = |state: &mut LogState| found(state).is_none() && !state.ended;
        let guard = self.state.lock().unwrap();
        let (state, _) = self.changed.wait_timeout_while(guard, DEADLINE, waiting).unwrap();
        found(&state).ok_or_else(|| state.text.clone())
    }

    /// Until nobody holds the other end any more.
    fn wait_for_end(&self) {
        let guard = self.state.lock().unwrap();
        drop(self.changed.wait_timeout_while(guard, DEADLINE, |state| !state.ended).unwrap());
    }
}

/// The pairs of a logfmt line, without quotes.
pub fn logfmt(line: &str) -> BTreeMap<String, String> {
    let mut pairs = BTreeMap::new();
    let mut rest = line;
    while let Some((key, after)) = rest.split_once('=') {
        let (value, next) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => after.split_once(' ').unwrap_or((after, "")),
        };
        pairs.insert(key.trim().to_owned(), value.to_owned());
        rest = next;
    }
    pairs
}
