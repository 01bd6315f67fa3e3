//! The file made read-only, its folder closed: what is open stays open, and a start says what is wrong.

use crate::support::load::Load;
use crate::support::proxy::{Proxy, command};
use crate::{CLIENTS, assert_exact, lines, until_committed, until_received, until_well, vars};
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// Who may not do everything, where the test itself may: `nobody`.
const NOBODY: u32 = 65_534;

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// The binary as somebody to whom permissions apply, with its database in a folder of its own.
fn as_somebody(folder: &Path, vars: &[(&str, &str)]) -> Command {
    let data = folder.join("data");
    let binary = folder.join("proxy-server");
    if !data.exists() {
        fs::create_dir(&data).unwrap();
        fs::copy(env!("CARGO_BIN_EXE_proxy-server"), &binary).unwrap();
    }
    let mut somebody = Command::new(binary);
    somebody.env_clear().envs(command(folder, vars).get_envs().filter_map(|(name, value)| Some((name, value?))));
    somebody.env("DATABASE_PATH", data.join("usage.db")).current_dir(folder);
    somebody.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    if is_root() {
        set_mode(folder, 0o755);
        chown(&data, Some(NOBODY), Some(NOBODY)).unwrap();
        somebody.uid(NOBODY).gid(NOBODY);
    }
    somebody
}

#[test]
fn read_only_under_load_and_at_a_start() {
    let load = Load::default();
    let url = load.upstream.url();
    let vars = vars(&url, &[("LEDGER_WAIT", "50ms")]);
    let folder = tempfile::tempdir().unwrap();
    let (data, path) = (folder.path().join("data"), folder.path().join("data/usage.db"));
    let first = as_somebody(folder.path(), &vars);
    let proxy = Proxy::start_by(folder, first);
    let running = load.start(proxy.addr(), CLIENTS, 1);
    until_received(&load, 50);
    set_mode(&path, 0o444);
    set_mode(&data, 0o555);
    until_received(&load, 100);
    assert_eq!(lines(&proxy, "level=error"), 0, "what is open may be written");
    running.stop();
    until_committed(&proxy);
    let folder = proxy.into_folder();
    set_mode(&data, 0o755);
    assert_exact(&load, &path);

    set_mode(&path, 0o444);
    let output = as_somebody(folder.path(), &vars).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("usage.db cannot be opened: it may not be written"), "{said}");
    set_mode(&path, 0o644);
    let again = as_somebody(folder.path(), &vars);
    let proxy = Proxy::start_by(folder, again);
    until_well(&proxy);
    assert_exact(&load, &path);
}
