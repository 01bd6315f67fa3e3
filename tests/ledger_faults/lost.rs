//! The file deleted, moved or replaced while it is open: it is noticed, new requests are refused, and at the end all of
//! the ledger is in a file beside its path.

use crate::support::load::Load;
use crate::support::proxy::Proxy;
use crate::{
    CLIENTS, assert_exact, assert_nothing_lost, lines, start, until_committed, until_in_trouble, until_received,
    until_well, vars,
};
use openai_api_proxy::ledger::database;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

const LOST: &str = "was deleted, moved or replaced";
const KEPT: &str = "the whole ledger is in";

fn side(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn delete(path: &Path) {
    fs::remove_file(path).unwrap();
}

/// As `rm usage.db*` does.
fn delete_all(path: &Path) {
    for entry in fs::read_dir(path.parent().unwrap()).unwrap() {
        let entry = entry.unwrap().path();
        if entry.to_string_lossy().contains("usage.db") {
            let _ = fs::remove_file(entry);
        }
    }
}

/// Ends the proxy, which cannot commit, and gives the file that it has written all of its ledger to.
#[track_caller]
pub fn kept(proxy: &mut Proxy) -> PathBuf {
    let status = proxy.terminate();
    let said = proxy.wait_for_log(KEPT);
    assert_eq!(status.code(), Some(1), "{said}");
    PathBuf::from(said.trim_end().trim_end_matches('"').rsplit(' ').next().unwrap())
}

/// The kept file in the ledger's place is a ledger like any other.
fn assert_kept(load: &Load, proxy: Proxy, kept: &Path) {
    assert_exact(load, kept);
    delete_all_but(&proxy.database(), kept);
    fs::rename(kept, proxy.database()).unwrap();
    assert_nothing_lost(load, Proxy::start_in(proxy.into_folder(), &vars(&load.upstream.url(), &[])));
}

fn delete_all_but(path: &Path, kept: &Path) {
    for suffix in ["", "-wal", "-shm"] {
        let file = side(path, suffix);
        if file != kept {
            let _ = fs::remove_file(file);
        }
    }
}

/// Does this to the ledger's files under load, and expects all that was ever asked in the file that is kept.
fn is_kept(more: &[(&str, &str)], lose: impl Fn(&Path)) {
    let load = Load::default();
    let mut proxy = start(&load, &[&[("LEDGER_WAIT", "50ms"), ("DRAIN_TIMEOUT", "100ms")], more].concat());
    let running = load.start(proxy.addr(), CLIENTS, 1);
    until_received(&load, 100);
    lose(&proxy.database());
    assert!(until_in_trouble(&proxy).contains(LOST));
    running.stop();
    let seen = load.upstream.requests().len();
    load.ask(proxy.addr()).expect_proxy_error(503, "ledger_unavailable");
    assert_eq!(load.upstream.requests().len(), seen, "what is refused is not sent");
    assert_eq!(lines(&proxy, LOST), 1, "told once");
    assert!(proxy.usage("")["totals"]["requests"].as_u64().unwrap() >= 100, "what was there can be read");
    let kept = kept(&mut proxy);
    assert_kept(&load, proxy, &kept);
}

#[test]
fn deleted() {
    is_kept(&[], delete);
}

#[test]
fn deleted_with_its_log() {
    is_kept(&[("LEDGER_DURABILITY", "journaled")], delete_all);
}

#[test]
fn moved_away() {
    is_kept(&[("LEDGER_FSYNC", "true")], |path| fs::rename(path, side(path, ".old")).unwrap());
}

#[test]
fn only_its_log_is_deleted() {
    is_kept(&[], |path| delete(&side(path, "-wal")));
}

#[test]
fn only_the_index_of_its_log_is_deleted() {
    is_kept(&[], |path| delete(&side(path, "-shm")));
}

#[test]
fn behind_a_link() {
    let load = Load::default();
    let folder = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let real = elsewhere.path().join("real.db");
    std::os::unix::fs::symlink(&real, folder.path().join("usage.db")).unwrap();
    let mut proxy = Proxy::start_in(folder, &vars(&load.upstream.url(), &[("LEDGER_WAIT", "50ms")]));
    let running = load.start(proxy.addr(), CLIENTS, 1);
    until_received(&load, 100);
    delete(&real);
    until_in_trouble(&proxy);
    running.stop();
    let kept = kept(&mut proxy);
    assert_eq!(kept.parent(), Some(fs::canonicalize(elsewhere.path()).unwrap().as_path()));
    assert_exact(&load, &kept);
}

/// Nobody asks anything: it is noticed all the same.
#[test]
fn deleted_while_idle() {
    let load = Load::default();
    let mut proxy = start(&load, &[]);
    let running = load.start(proxy.addr(), CLIENTS, 1);
    until_received(&load, 50);
    running.stop();
    until_committed(&proxy);
    delete(&proxy.database());
    until_in_trouble(&proxy);
    let kept = kept(&mut proxy);
    assert_kept(&load, proxy, &kept);
}

/// And stopped before anything could notice.
#[test]
fn deleted_just_before_the_end() {
    let load = Load::default();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("usage.db");
    drop(database::open(&path).unwrap());
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    let mut proxy = Proxy::start_in(folder, &vars(&load.upstream.url(), &[]));
    let running = load.start(proxy.addr(), CLIENTS, 1);
    until_received(&load, 50);
    running.stop();
    until_committed(&proxy);
    delete(&proxy.database());
    let kept = kept(&mut proxy);
    let mode = fs::metadata(&kept).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "nobody else may read it than before");
    assert_exact(&load, &kept);
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
fn replaced() {
    let load = Load::default();
    let mut proxy = start(&load, &[("LEDGER_WAIT", "50ms"), ("DRAIN_TIMEOUT", "100ms")]);
    let running = load.start(proxy.addr(), CLIENTS, 1);
    until_received(&load, 100);
    let bytes = replace(&proxy.database());
    assert!(until_in_trouble(&proxy).contains(LOST));
    // `/usage` says what the ledger has, not what that file has.
    assert!(proxy.usage("")["totals"]["requests"].as_u64().unwrap() >= 100);
    running.stop();
    let kept = kept(&mut proxy);
    assert_eq!(fs::read(proxy.database()).unwrap(), bytes, "it is left as it was");
    assert_kept(&load, proxy, &kept);
}

/// The file itself comes back, and all goes on.
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

/// There is nowhere to keep it: that is said.
#[test]
fn deleted_with_its_folder() {
    let load = Load::default();
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    fs::create_dir(&data).unwrap();
    let path = data.join("usage.db");
    let url = load.upstream.url();
    let vars = vars(&url, &[("DATABASE_PATH", path.to_str().unwrap()), ("LEDGER_WAIT", "50ms")]);
    let mut proxy = Proxy::start_in(folder, &vars);
    let running = load.start(proxy.addr(), CLIENTS, 1);
    until_received(&load, 50);
    fs::remove_dir_all(&data).unwrap();
    until_in_trouble(&proxy);
    running.stop();
    assert_eq!(proxy.terminate().code(), Some(1));
    proxy.wait_for_log("what is not in another copy is lost");
    assert!(!data.exists());
}
