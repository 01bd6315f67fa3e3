//! No room for the ledger: a file system that is full, and a limit on the size of files.

use crate::support::load::{Load, Running};
use crate::support::proxy::Proxy;
use crate::support::{rows, say};
use crate::{
    CLIENTS, assert_exact, assert_nothing_lost, lines, start, until, until_committed, until_in_trouble, until_received,
    until_well, vars,
};
use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A limit of one connection leaves the fewest places.
const PLACES: usize = 10_000 + 4 * CONNECTIONS;
const CONNECTIONS: usize = 8;

/// A proxy whose ledger is on a file system of a few megabytes of its own; how the test sees that. `None` where the system
/// gives none.
fn on_a_small_file_system(load: &Load, more: &[(&str, &str)]) -> Option<(Proxy, PathBuf)> {
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk");
    fs::create_dir(&disk).unwrap();
    let in_namespace = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"]).arg(&disk);
        command
    };
    let mount = "mount -t tmpfs -o size=24m none \"$1\"";
    let tried = in_namespace(mount).stderr(Stdio::null()).status();
    if !tried.is_ok_and(|status| status.success()) {
        // A right of the machine's, no server to install: the limit on a file's size below stands for it.
        say("SKIPPED: no file system of a few megabytes can be mounted here (unshare, mount)");
        return None;
    }
    let mut command = in_namespace(&format!("{mount} && exec \"$2\""));
    let path = disk.join("usage.db");
    let url = load.upstream.url();
    command.arg(env!("CARGO_BIN_EXE_proxy-server")).env_clear().env("PATH", std::env::var_os("PATH").unwrap());
    command.current_dir(folder.path()).stdin(Stdio::null()).stdout(Stdio::null());
    command.env("PORT", "0").env("DATABASE_PATH", &path).envs(vars(&url, more));
    let proxy = Proxy::start_by(folder, command);
    let seen = PathBuf::from(format!("/proc/{}/root{}", proxy.pid(), path.display()));
    Some((proxy, seen))
}

/// Writes into the folder until nothing fits; the file.
fn fill(folder: &Path) -> PathBuf {
    let path = folder.join("filler");
    let mut file = File::create(&path).unwrap();
    for size in [1 << 16, 1 << 12, 1] {
        while file.write_all(&vec![0; size]).is_ok() {}
    }
    path
}

/// The trouble and its end were told, each time: once, or again where it was full for another reason.
#[track_caller]
fn assert_told(proxy: &Proxy, times: usize) {
    until("it is told", || lines(proxy, "ledger commits again") == times);
    assert!((times..=2 * times).contains(&lines(proxy, "ledger cannot commit")), "{}", proxy.stderr());
}

#[test]
fn a_full_file_system() {
    let load = Load::default();
    let Some((proxy, database)) = on_a_small_file_system(&load, &[("LEDGER_WAIT", "50ms")]) else { return };
    let running = load.start(proxy.addr(), CLIENTS, 1);
    until_received(&load, 100);
    for time in 1..=2 {
        let filler = fill(database.parent().unwrap());
        assert!(until_in_trouble(&proxy).contains("full"));
        until_received(&load, 10);
        fs::remove_file(filler).unwrap();
        until_well(&proxy);
        assert_told(&proxy, time);
        until_received(&load, 100);
    }
    running.stop();
    until_committed(&proxy);
    let folder = tempfile::tempdir().unwrap();
    let image = image(&proxy, &database, folder.path());
    rows::assert_sums(&proxy, &rows::reader(&image));
    assert_exact(&load, &image);
}

/// The file and its log as a kill would leave them, where SQLite finds them: it takes a path into another name space
/// for one of its own.
fn image(proxy: &Proxy, database: &Path, to: &Path) -> PathBuf {
    proxy.signal(Signal::STOP);
    let state = || fs::read_to_string(format!("/proc/{}/stat", proxy.pid())).unwrap();
    until("it is stopped", || state().rsplit(')').next().unwrap().trim_start().starts_with('T'));
    for name in ["usage.db", "usage.db-wal"] {
        fs::copy(database.with_file_name(name), to.join(name)).unwrap();
    }
    proxy.signal(Signal::CONT);
    to.join("usage.db")
}

/// The size that files of the proxy may have from now on; `None` is any.
fn limit_files(proxy: &Proxy, bytes: Option<u64>) {
    let limit = Rlimit { current: bytes, maximum: None };
    prlimit(Pid::from_raw(proxy.pid().cast_signed()), Resource::Fsize, limit).unwrap();
}

/// The kernel sends SIGXFSZ with it, which ends a process that does not ask otherwise.
#[test]
fn a_limit_on_the_size_of_files() {
    let load = Load::default();
    let proxy = start(&load, &[("LEDGER_WAIT", "50ms")]);
    let running = load.start(proxy.addr(), CLIENTS, 1);
    until_received(&load, 100);
    for time in 1..=2 {
        limit_files(&proxy, Some(4096));
        until_in_trouble(&proxy);
        until_received(&load, 10);
        limit_files(&proxy, None);
        until_well(&proxy);
        assert_told(&proxy, time);
        until_received(&load, 100);
    }
    running.stop();
    assert_nothing_lost(&load, proxy);
}

/// Until no place is left: then what is asked is refused before it costs anything, and a session waits.
#[test]
fn until_no_place_is_left() {
    let load = Load::default();
    let connections = CONNECTIONS.to_string();
    let proxy = start(&load, &[("LEDGER_DURABILITY", "relaxed"), ("MAX_CONNECTIONS", &connections)]);
    load.converse(proxy.addr(), 3).join();
    limit_files(&proxy, Some(4096));
    // More responses than there are places.
    let sessions: Vec<Running> = (0..3).map(|_| load.converse(proxy.addr(), PLACES.div_ceil(3) + 100)).collect();
    until("no place is left", || load.ask(proxy.addr()).status == 503);
    let seen = load.upstream.requests().len();
    load.ask(proxy.addr()).expect_proxy_error(503, "ledger_unavailable");
    assert_eq!(load.upstream.requests().len(), seen, "what is refused is not sent");
    assert!(until_in_trouble(&proxy).contains("disk I/O error"));
    assert!(proxy.metrics()["openai_proxy_refused_total{reason=\"ledger_unavailable\"}"] > 0.0);
    limit_files(&proxy, None);
    until_well(&proxy);
    for session in sessions {
        session.join();
    }
    let of_sessions = load.account.received().iter().filter(|received| received.status == 101).count();
    assert_eq!(of_sessions, 3 + 3 * (PLACES.div_ceil(3) + 100), "each session came to its end");
    assert_nothing_lost(&load, proxy);
}
