//! What is installed: the static binary of the manual's command runs where nothing else is, systemd's protocols are
//! spoken, and the manual's unit files are what systemd takes for valid.
//!
//! The static build takes minutes the first time: it is made only with `TEST_STATIC_BUILD=1`, as `.ci/run` has it, in
//! `static` under the target folder, where the next build is quick.

mod support;

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use support::ca::{Ca, Server};
use support::client::{get, post_json};
use support::manual::blocks_of;
use support::proxy::{Proxy, command};
use support::script::Reply;
use support::upstream::Upstream;
use support::{DEADLINE, say, skip, tools};

const ANSWER: &str = r#"{"model":"gpt-4o-mini","usage":{"prompt_tokens":8,"completion_tokens":9,"total_tokens":17}}"#;
const CHAT: &str = "/v1/chat/completions";
const BODY: &str = r#"{"model":"gpt-4o-mini","messages":[]}"#;

/// The static binary has no more, 6.25 MiB: a dependency that is larger than it is worth shows here. TLS towards
/// clients is a quarter of a MiB, teams with `/admin` and the help of each command another; the administrator's page,
/// Japanese and the webhook of budgets are a third.
const STATIC_BYTES_MAX: u64 = 25 * 256 * 1024;

/// Builds the static binary by the manual's own command.
fn static_binary() -> Option<PathBuf> {
    if std::env::var_os("TEST_STATIC_BUILD").is_none_or(|value| value != "1") {
        say("SKIPPED: the static build takes minutes; TEST_STATIC_BUILD=1 makes it");
        return None;
    }
    let block =
        blocks_of("systemd", "sh").into_iter().find(|block| block.contains("crt-static")).expect("a command for it");
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("static");
    let built = Command::new("sh")
        .args(["-ec", block.trim()])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("CARGO_TARGET_DIR", &target)
        .env_remove("RUSTFLAGS")
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    // The triple of this machine is in the path.
    let folders = fs::read_dir(&target).unwrap().map(|entry| entry.unwrap().path());
    let binary = folders.map(|folder| folder.join("release/proxy-server")).find(|file| file.is_file());
    Some(binary.expect("a binary in target/*/release"))
}

#[test]
fn the_static_binary_runs_in_an_empty_root() {
    let Some(binary) = static_binary() else { return };
    let size = fs::metadata(&binary).unwrap().len();
    say(&format!("the static binary has {:.2} MB", size as f64 / 1e6));
    assert!(size <= STATIC_BYTES_MAX, "{size} bytes, of at most {STATIC_BYTES_MAX}");
    if !rustix::process::geteuid().is_root() {
        return skip("chroot needs root");
    }
    let ca = Ca::new();
    let config = ca.server(&["localhost"], Server::Usual);
    let upstream = Upstream::tls(config, |_| Reply::json(ANSWER).steps());
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().to_owned();
    // Nothing else is there: no library, no CA roots, no shell. Names are resolved by these two files.
    fs::create_dir(root.join("etc")).unwrap();
    fs::write(root.join("etc/hosts"), "127.0.0.1 localhost\n").unwrap();
    fs::write(root.join("etc/resolv.conf"), "nameserver 127.0.0.1\n").unwrap();
    fs::write(root.join("ca.pem"), ca.pem()).unwrap();
    fs::copy(&binary, root.join("proxy-server")).unwrap();
    let target = format!("https://localhost:{}", upstream.addr().port());
    let vars = [("PROXY_TARGET", target.as_str()), ("TLS_CA_FILE", "/ca.pem"), ("PORT", "0")];
    let inside = |argument: &str| {
        let mut command = Command::new("chroot");
        command.arg(&root).arg("/proxy-server").arg(argument);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).envs(vars);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command
    };
    let checked = inside("check").stdout(Stdio::piped()).output().unwrap();
    let said = String::from_utf8(checked.stdout).unwrap();
    assert!(checked.status.success() && said.contains("ok    tls"), "{said}");

    let mut proxy = Proxy::start_by(folder, inside("serve"));
    post_json(proxy.addr(), CHAT, &[("x-user-id", "太郎")], BODY).expect(200);
    assert_eq!(proxy.usage("")["totals"]["total_tokens"], 17);
    let port = proxy.addr().port().to_string();
    assert!(inside("healthcheck").env("PORT", port).status().unwrap().success());
    assert!(proxy.terminate().success());
}

/// systemd binds the socket, and starts the server with it as descriptor 3.
#[test]
fn a_socket_is_taken_over() {
    let Some(python) = tools::find("python3") else { return };
    let upstream = Upstream::plain(|_| Reply::json(ANSWER).steps());
    let folder = tempfile::tempdir().unwrap();
    let target = upstream.url();
    // What systemd does between fork and exec, which Rust does not do without unsafe code.
    let script = "import os, socket, sys\n\
                  listener = socket.socket()\n\
                  listener.bind(('127.0.0.1', 0))\n\
                  listener.listen()\n\
                  os.dup2(listener.fileno(), 3) if listener.fileno() != 3 else os.set_inheritable(3, True)\n\
                  os.environ['LISTEN_PID'] = str(os.getpid())\n\
                  os.environ['LISTEN_FDS'] = sys.argv[2]\n\
                  os.execv(sys.argv[1], sys.argv[1:2])\n";
    let binary = env!("CARGO_BIN_EXE_proxy-server");
    let start = |count: &str| {
        // A port that cannot be listened on: only the socket that was handed over can be in use.
        let mut command = command(folder.path(), &[("PROXY_TARGET", &target), ("HOST", "203.0.113.1")]);
        let environment: Vec<_> =
            command.get_envs().map(|(name, value)| (name.to_owned(), value.unwrap().to_owned())).collect();
        command = Command::new(&python);
        command.env_clear().envs(environment).current_dir(folder.path()).args(["-c", script, binary, count]);
        command
    };
    let two = start("2").output().unwrap();
    let why = String::from_utf8(two.stderr).unwrap();
    assert!(two.status.code() == Some(1) && why.contains("one ListenStream"), "{why}");

    let mut proxy = Proxy::start_by(tempfile::tempdir().unwrap(), start("1"));
    post_json(proxy.addr(), CHAT, &[], BODY).expect(200);
    assert!(proxy.terminate().success());
    drop(folder);
}

#[test]
fn the_service_manager_is_told() {
    let upstream = Upstream::plain(|_| Reply::json(ANSWER).steps());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(DEADLINE)).unwrap();
    let next = || {
        let mut buffer = [0; 256];
        let length = manager.recv(&mut buffer).expect("it tells");
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    };
    let mut proxy = Proxy::before(&upstream, &[("NOTIFY_SOCKET", path.to_str().unwrap())]);
    assert_eq!(next(), "READY=1\n");
    proxy.signal(rustix::process::Signal::HUP);
    let reloading = next();
    let us = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap().trim_end();
    assert!(us.parse::<u64>().unwrap() > 0);
    assert_eq!(next(), "READY=1\n");
    let left = get(proxy.addr(), "/healthz").expect(200);
    drop(left);
    assert!(proxy.terminate().success());
    assert_eq!(next(), "STOPPING=1\n");
}

/// The units stand in the manual as they are to be installed, only the program's path is this test's.
#[test]
fn the_units_are_valid() {
    let folder = tempfile::tempdir().unwrap();
    let units = blocks_of("systemd", "ini");
    assert_eq!(units.len(), 2, "a service and a socket");
    let mut files = Vec::new();
    for unit in units {
        let ending = if unit.contains("[Socket]") { "socket" } else { "service" };
        let unit = unit.replace("/usr/local/bin/proxy-server", env!("CARGO_BIN_EXE_proxy-server"));
        let file = folder.path().join(format!("openai-proxy.{ending}"));
        fs::write(&file, unit).unwrap();
        files.push(file);
    }
    // Not a part of every system, nor to be installed for the sake of a test.
    let Ok(output) = Command::new("systemd-analyze").arg("verify").args(&files).output() else {
        return say("SKIPPED: systemd-analyze is not installed");
    };
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let ours: Vec<_> = said.lines().filter(|line| line.contains("openai-proxy")).collect();
    assert!(output.status.success() && ours.is_empty(), "{said}");
}
