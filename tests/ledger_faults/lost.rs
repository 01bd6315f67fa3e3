//! The file deleted, moved or replaced while it is open.

use crate::support::load::Load;
use crate::support::proxy::Proxy;
use crate::{
    CLIENTS, assert_exact, assert_nothing_lost, lines, start, until, until_committed, until_in_trouble, until_received,
    until_well, vars,
};
use openai_api_proxy::ledger::database;
use std::fs;
use std::path::{Path, PathBuf};

const AGAIN: &str = "ledger is at its path again";
const LOST: &str = "was deleted or moved";

fn side(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// The process's open files of a ledger that have no name any more; `None` where no system tells.
fn nameless(proxy: &Proxy) -> Option<Vec<PathBuf>> {
    let descriptors = fs::read_dir(format!("/proc/{}/fd", proxy.pid())).ok()?;
    let mut open: Vec<_> = descriptors.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok()).collect();
    open.retain(|file| file.to_string_lossy().contains("usage.db"));
    assert!(open.len() >= 3, "{open:?}");
    open.retain(|file| file.to_string_lossy().ends_with("(deleted)"));
    Some(open)
}

/// Does this to the ledger's files under load, and expects them back with all that was ever asked.
fn comes_back(more: &[(&str, &str)], lose: impl Fn(&Path)) {
    let load = Load::default();
    let proxy = start(&load, more);
    let running = load.start(proxy.addr(), CLIENTS, 1);
    until_received(&load, 100);
    for time in 1..=2 {
        lose(&proxy.database());
        until("it is written back", || lines(&proxy, AGAIN) == time);
        until_received(&load, 100);
        assert_eq!(lines(&proxy, LOST), time, "told once");
    }
    running.stop();
    until_well(&proxy);
    until_committed(&proxy);
    assert_eq!(proxy.metrics()["openai_proxy_ledger_failures_total"], 2.0);
    proxy.usage("");
    assert!(nameless(&proxy).is_none_or(|files| files.is_empty()), "{:?}", nameless(&proxy));
    assert!(!side(&proxy.database(), "-copy").exists());
    assert_nothing_lost(&load, proxy);
}

fn delete(path: &Path) {
    fs::remove_file(path).unwrap();
}

#[test]
fn deleted() {
    comes_back(&[], delete);
}

#[test]
fn deleted_with_its_log() {
    comes_back(&[("LEDGER_DURABILITY", "journaled")], |path| {
        // As `rm usage.db*` does.
        for entry in fs::read_dir(path.parent().unwrap()).unwrap() {
            let entry = entry.unwrap().path();
            if entry.to_string_lossy().contains("usage.db") {
                let _ = fs::remove_file(entry);
            }
        }
    });
}

#[test]
fn moved_away() {
    comes_back(&[("LEDGER_FSYNC", "true")], |path| fs::rename(path, side(path, ".old")).unwrap());
}

#[test]
fn only_its_log_is_deleted() {
    comes_back(&[], |path| delete(&side(path, "-wal")));
}

#[test]
fn only_the_index_of_its_log_is_deleted() {
    comes_back(&[], |path| delete(&side(path, "-shm")));
}

#[test]
fn behind_a_link() {
    let load = Load::default();
    let folder = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let real = elsewhere.path().join("real.db");
    std::os::unix::fs::symlink(&real, folder.path().join("usage.db")).unwrap();
    let proxy = Proxy::start_in(folder, &vars(&load.upstream.url(), &[]));
    let running = load.start(proxy.addr(), CLIENTS, 1);
    until_received(&load, 100);
    delete(&real);
    proxy.wait_for_log(AGAIN);
    until_received(&load, 100);
    running.stop();
    assert!(real.is_file() && proxy.database().is_symlink());
    assert_nothing_lost(&load, proxy);
}

/// Nobody asks anything: it is noticed all the same.
#[test]
fn deleted_while_idle() {
    let load = Load::default();
    let proxy = start(&load, &[]);
    let running = load.start(proxy.addr(), CLIENTS, 1);
    until_received(&load, 50);
    running.stop();
    until_committed(&proxy);
    delete(&proxy.database());
    proxy.wait_for_log(AGAIN);
    assert_nothing_lost(&load, proxy);
}

/// And stopped before anything could notice.
#[test]
fn deleted_just_before_the_end() {
    let load = Load::default();
    let mut proxy = start(&load, &[]);
    let running = load.start(proxy.addr(), CLIENTS, 1);
    until_received(&load, 50);
    running.stop();
    until_committed(&proxy);
    delete(&proxy.database());
    assert!(proxy.terminate().success());
    assert_exact(&load, &proxy.database());
}

/// With its folder, so that there is nowhere to write it to, until there is a folder again.
#[test]
fn deleted_with_its_folder() {
    let load = Load::default();
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    fs::create_dir(&data).unwrap();
    let path = data.join("usage.db");
    let url = load.upstream.url();
    let vars = vars(&url, &[("DATABASE_PATH", path.to_str().unwrap()), ("LEDGER_WAIT", "50ms")]);
    let proxy = Proxy::start_in(folder, &vars);
    let running = load.start(proxy.addr(), CLIENTS, 1);
    until_received(&load, 50);
    fs::remove_dir_all(&data).unwrap();
    assert!(until_in_trouble(&proxy).contains(LOST));
    until_received(&load, 10);
    fs::create_dir(&data).unwrap();
    until_well(&proxy);
    until_received(&load, 50);
    running.stop();
    until_committed(&proxy);
    assert_exact(&load, &path);
}

/// A ledger of another life in the place of the one that is open.
fn replace(path: &Path) -> Vec<u8> {
    let other = side(path, ".other");
    drop(database::open(&other).unwrap());
    let bytes = fs::read(&other).unwrap();
    fs::rename(&other, path).unwrap();
    bytes
}

#[test]
fn replaced_and_taken_away_again() {
    let load = Load::default();
    let proxy = start(&load, &[("LEDGER_WAIT", "50ms")]);
    let running = load.start(proxy.addr(), CLIENTS, 1);
    until_received(&load, 100);
    let bytes = replace(&proxy.database());
    assert!(until_in_trouble(&proxy).contains("another is in its place"));
    // Clients get their answers, and `/usage` what the ledger says, not what that file does.
    until_received(&load, 10);
    assert!(proxy.usage("")["totals"]["requests"].as_u64().unwrap() >= 100);
    assert_eq!(fs::read(proxy.database()).unwrap(), bytes, "it is left as it was");
    delete(&proxy.database());
    until_well(&proxy);
    proxy.wait_for_log(AGAIN);
    assert_eq!(lines(&proxy, "another is in its place"), 1, "told once");
    until_received(&load, 50);
    running.stop();
    assert_nothing_lost(&load, proxy);
}

/// The file itself comes back.
#[test]
fn replaced_and_put_back() {
    let load = Load::default();
    let proxy = start(&load, &[("LEDGER_WAIT", "50ms")]);
    let running = load.start(proxy.addr(), CLIENTS, 1);
    until_received(&load, 100);
    let (path, own) = (proxy.database(), side(&proxy.database(), ".own"));
    fs::hard_link(&path, &own).unwrap();
    replace(&path);
    until_in_trouble(&proxy);
    fs::rename(&own, &path).unwrap();
    until_well(&proxy);
    until_received(&load, 50);
    running.stop();
    assert_nothing_lost(&load, proxy);
}

/// The proxy is stopped while another file is in its ledger's place: all of it is in a file beside that.
#[test]
fn replaced_until_the_end() {
    let load = Load::default();
    let mut proxy = start(&load, &[("LEDGER_WAIT", "50ms"), ("DRAIN_TIMEOUT", "100ms")]);
    let running = load.start(proxy.addr(), CLIENTS, 1);
    until_received(&load, 100);
    let bytes = replace(&proxy.database());
    until_in_trouble(&proxy);
    until_received(&load, 10);
    let status = proxy.terminate();
    running.join();
    let said = proxy.wait_for_log("the whole ledger is in");
    assert_eq!(status.code(), Some(1), "{said}");
    assert_eq!(fs::read(proxy.database()).unwrap(), bytes);
    let kept = PathBuf::from(said.rsplit(' ').next().unwrap());
    assert_exact(&load, &kept);
    // It is a ledger like any other.
    fs::rename(&kept, proxy.database()).unwrap();
    assert_nothing_lost(&load, Proxy::start_in(proxy.into_folder(), &vars(&load.upstream.url(), &[])));
}
