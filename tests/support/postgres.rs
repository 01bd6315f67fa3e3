//! A real PostgreSQL in a folder of its own, with TLS and SCRAM, and a real pgbouncer before it. `initdb` refuses to run
//! as root: then it, and the server, run as `nobody`.

use super::ca::{Ca, Server};
use super::{DEADLINE, free_port, skip, tools};
use openai_api_proxy::config::PostgresUrl;
use openai_api_proxy::postgres::PostgresClient;
use rustix::process::{Pid, Signal, kill_process};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// `nobody` and `nogroup`, as Debian numbers them.
const NOBODY: u32 = 65_534;

/// A running server; killed with its value.
pub struct Postgres {
    programs: PathBuf,
    folder: TempDir,
    pub port: u16,
    child: Child,
}

/// Whose password it is: both have it.
pub const PASSWORD: &str = "p@ss: wörd/1";
/// The same in a URL.
pub const PASSWORD_IN_URL: &str = "p%40ss%3A%20w%C3%B6rd%2F1";

impl Postgres {
    /// With a user `proxy` who owns a database `fleet`, and a certificate for `localhost`. `None`, said aloud, where
    /// PostgreSQL is not installed.
    pub fn start() -> Option<Self> {
        let Some(programs) = programs() else {
            skip("postgresql is not installed");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        own(folder.path(), 0o700);
        let ca = Ca::new();
        let (certificate, key) = ca.pair(&["localhost"], Server::Usual);
        for (name, text) in
            [("ca.pem", ca.pem()), ("pair.pem", certificate), ("key.pem", key), ("word", PASSWORD.into())]
        {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            own(&path, 0o600);
        }
        let data = folder.path().join("data");
        let mut initdb = unprivileged(&programs.join("initdb"));
        initdb.arg("-D").arg(&data).args(["-U", "admin", "--auth=scram-sha-256", "--no-sync", "-E", "UTF8"]);
        initdb.arg("--locale=C").arg(format!("--pwfile={}", folder.path().join("word").display()));
        let made = initdb.output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let hba = "host all,replication all 127.0.0.1/32 scram-sha-256\n";
        std::fs::write(data.join("pg_hba.conf"), hba).unwrap();
        let port = free_port();
        let child = spawn(&programs, folder.path(), port);
        let postgres = Self { programs, folder, port, child };
        let mut admin = postgres.admin("postgres");
        admin.batch(&format!("CREATE ROLE proxy LOGIN PASSWORD '{PASSWORD}'")).unwrap();
        admin.batch("CREATE DATABASE fleet OWNER proxy").unwrap();
        Some(postgres)
    }

    /// The URL of `proxy` and its database, as the product takes it.
    pub fn url(&self) -> String {
        self.url_of("proxy", "fleet")
    }

    /// By TLS.
    pub fn url_of(&self, user: &str, database: &str) -> String {
        let (port, ca) = (self.port, self.authority());
        format!("postgres://{user}:{PASSWORD_IN_URL}@localhost:{port}/{database}?sslrootcert={}", ca.display())
    }

    /// The file that `sslrootcert` names.
    pub fn authority(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A connection that may do everything, once the server takes one.
    pub fn admin(&self, database: &str) -> PostgresClient {
        connect(&self.url_of("admin", database))
    }

    /// A connection of `proxy`'s to its database.
    pub fn client(&self) -> PostgresClient {
        connect(&self.url())
    }

    /// Ends it as `pg_ctl stop -m immediate` does: no checkpoint, no goodbye.
    pub fn stop_immediately(&mut self) {
        kill_process(Pid::from_child(&self.child), Signal::QUIT).unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again on the same port.
    pub fn restart(&mut self) {
        self.child = spawn(&self.programs, self.folder.path(), self.port);
        drop(self.admin("postgres"));
    }

    /// A copy of it that follows it on a port of its own, and only reads.
    pub fn standby(&self) -> Self {
        let folder = tempfile::tempdir().unwrap();
        own(folder.path(), 0o700);
        for name in ["ca.pem", "pair.pem", "key.pem", "word"] {
            std::fs::copy(self.folder.path().join(name), folder.path().join(name)).unwrap();
            own(&folder.path().join(name), 0o600);
        }
        let mut copy = unprivileged(&self.programs.join("pg_basebackup"));
        copy.args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", "admin", "-R", "-c", "fast", "--no-sync"]);
        copy.arg("-D").arg(folder.path().join("data")).env("PGPASSWORD", PASSWORD);
        let made = copy.output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let port = free_port();
        let child = spawn(&self.programs, folder.path(), port);
        Self { programs: self.programs.clone(), folder, port, child }
    }

    /// Has a copy go on by itself, and write.
    pub fn promote(&self) {
        let url = self.url_of("admin", "postgres") + "&target_session_attrs=any";
        connect(&url).query("SELECT pg_promote()", &[]).unwrap();
        drop(self.admin("postgres"));
    }

    /// A pgbouncer before it, without TLS, as on the host of the proxy. `None`, said aloud, where it is not installed.
    pub fn bouncer(&self, pool_mode: &str) -> Option<Bouncer> {
        let program = tools::find("pgbouncer")?;
        let folder = tempfile::tempdir().unwrap();
        own(folder.path(), 0o700);
        let users = folder.path().join("users");
        let word = PASSWORD.replace('"', "\"\"");
        std::fs::write(&users, format!("\"proxy\" \"{word}\"\n")).unwrap();
        own(&users, 0o600);
        let port = free_port();
        let config = folder.path().join("pgbouncer.ini");
        let text = format!(
            "[databases]\nfleet = host=127.0.0.1 port={} dbname=fleet pool_size=4\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nunix_socket_dir =\nauth_type = scram-sha-256\nauth_file = {}\npool_mode = {pool_mode}\n",
            self.port,
            users.display()
        );
        std::fs::write(&config, text).unwrap();
        own(&config, 0o600);
        let child = unprivileged(&program).arg("-q").arg(&config).stderr(Stdio::null()).spawn().unwrap();
        let url = format!("postgres://proxy:{PASSWORD_IN_URL}@127.0.0.1:{port}/fleet?sslmode=disable");
        drop(connect(&url));
        Some(Bouncer { child, _folder: folder, url })
    }
}

/// A running pgbouncer; killed with its value.
pub struct Bouncer {
    child: Child,
    _folder: TempDir,
    pub url: String,
}

impl Drop for Bouncer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // Its children end with it: they see that it is gone.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Connects as soon as it is possible.
#[track_caller]
pub fn connect(url: &str) -> PostgresClient {
    let url = PostgresUrl::parse(url, None).unwrap();
    let start = Instant::now();
    loop {
        match PostgresClient::connect(&url, DEADLINE) {
            Ok(client) => return client,
            Err(error) => assert!(start.elapsed() < DEADLINE, "never a connection: {error}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Where Debian keeps the newest version's programs, or the PATH.
fn programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let has_all = |folder: &PathBuf| folder.join("initdb").is_file() && folder.join("pg_basebackup").is_file();
    let newest = versions.map(|version| version.path().join("bin")).filter(has_all).max();
    let path = std::env::var_os("PATH").unwrap_or_default();
    newest.or_else(|| std::env::split_paths(&path).find(has_all))
}

fn spawn(programs: &Path, folder: &Path, port: u16) -> Child {
    let at = |name: &str| folder.join(name).display().to_string();
    let mut command = unprivileged(&programs.join("postgres"));
    command.arg("-D").arg(folder.join("data"));
    for setting in [
        "listen_addresses=127.0.0.1".to_owned(),
        format!("port={port}"),
        "unix_socket_directories=".to_owned(),
        "fsync=off".to_owned(), // what a process writes outlives it without, and no test cuts the power
        "max_connections=40".to_owned(),
        "ssl=on".to_owned(),
        format!("ssl_cert_file={}", at("pair.pem")),
        format!("ssl_key_file={}", at("key.pem")),
    ] {
        command.arg("-c").arg(setting);
    }
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// A program, as `nobody` where this process is root.
fn unprivileged(program: &Path) -> Command {
    if !rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args([format!("--reuid={NOBODY}"), format!("--regid={NOBODY}"), "--clear-groups".to_owned()]);
    command.arg(program).current_dir("/");
    command
}

/// Gives a file to whoever runs the server.
fn own(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    if rustix::process::geteuid().is_root() {
        chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
}
