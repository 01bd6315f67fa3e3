//! What is measured: the kinds of target, each started before the same mock, and how soon it answers.
//!
//! In: a kind, and what of it differs from run to run. Out: a running [`Target`] with its own folder for database, logs
//! and configuration; it stops when dropped. Never: a target that has served another case's clients, but for those of
//! the same round.

use crate::link::{session, trusting};
use crate::peers::{self, Site};
use crate::process::Running;
use crate::upstream::{Upstream, folder};
use crate::wire::ResponseReader;
use rustls::ClientConfig;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// LiteLLM needs several seconds.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a target is left alone before its memory is read.
const QUIET: Duration = Duration::from_millis(500);

/// The kinds of target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The proxy as it is by default: `LEDGER_DURABILITY=settled`.
    Proxy,
    /// The proxy with `LEDGER_DURABILITY=relaxed`.
    ProxyRelaxed,
    /// The proxy with `LEDGER_DURABILITY=journaled`.
    ProxyJournaled,
    /// The proxy with `LEDGER_FSYNC=true`.
    ProxyFsync,
    /// The proxy with `LOG=warn`: no line for each request.
    ProxyQuiet,
    /// The proxy as it is by default, while ten ask for everybody's usage of a year.
    ProxyAsked,
    /// The proxy as it is by default, while the InfluxDB server that it exports to takes connections and never answers.
    ProxyInflux,
    /// The proxy as it is by default, with TLS for its clients.
    ProxyTls,
    /// nginx with one worker.
    Nginx,
    /// The same with TLS for its clients.
    NginxTls,
    /// haproxy with one thread.
    Haproxy,
    /// The same with TLS for its clients.
    HaproxyTls,
    /// Caddy on one core, with TLS for its clients.
    CaddyTls,
    /// LiteLLM with one worker.
    Litellm,
    /// Nothing in between: the mock itself, without TLS.
    Direct,
}

impl Kind {
    pub const ALL: [Self; 15] = [
        Self::Proxy,
        Self::ProxyRelaxed,
        Self::ProxyJournaled,
        Self::ProxyFsync,
        Self::ProxyQuiet,
        Self::ProxyAsked,
        Self::ProxyInflux,
        Self::ProxyTls,
        Self::Nginx,
        Self::NginxTls,
        Self::Haproxy,
        Self::HaproxyTls,
        Self::CaddyTls,
        Self::Litellm,
        Self::Direct,
    ];

    /// As typed after `--only` and printed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Proxy => "proxy",
            Self::ProxyRelaxed => "proxy-relaxed",
            Self::ProxyJournaled => "proxy-journaled",
            Self::ProxyFsync => "proxy-fsync",
            Self::ProxyQuiet => "proxy-quiet",
            Self::ProxyAsked => "proxy-asked",
            Self::ProxyInflux => "proxy-influx",
            Self::ProxyTls => "proxy-tls",
            Self::Nginx => "nginx",
            Self::NginxTls => "nginx-tls",
            Self::Haproxy => "haproxy",
            Self::HaproxyTls => "haproxy-tls",
            Self::CaddyTls => "caddy-tls",
            Self::Litellm => "litellm",
            Self::Direct => "direct",
        }
    }

    /// A program of others, which may be missing.
    pub fn is_peer(self) -> bool {
        matches!(self, Self::Nginx | Self::NginxTls | Self::Haproxy | Self::HaproxyTls | Self::CaddyTls | Self::Litellm)
    }

    /// Clients come to it by HTTPS.
    pub fn speaks_tls(self) -> bool {
        matches!(self, Self::ProxyTls | Self::NginxTls | Self::HaproxyTls | Self::CaddyTls)
    }

    /// The program of others that it is.
    fn program(self) -> &'static str {
        self.name().trim_end_matches("-tls")
    }

    pub fn is_proxy(self) -> bool {
        !self.is_peer() && self != Self::Direct
    }

    /// The proxy always is.
    pub fn is_installed(self) -> bool {
        !self.is_peer() || peers::executable(self.program()).is_some()
    }

    /// Writes answers of its own from those that it gets.
    pub fn rewrites(self) -> bool {
        self == Self::Litellm
    }

    /// What the proxies differ in.
    fn settings(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::ProxyRelaxed => &[("LEDGER_DURABILITY", "relaxed")],
            Self::ProxyJournaled => &[("LEDGER_DURABILITY", "journaled")],
            Self::ProxyFsync => &[("LEDGER_FSYNC", "true")],
            Self::ProxyQuiet => &[("LOG", "warn")],
            _ => &[],
        }
    }
}

/// What of a target differs from run to run.
pub struct Setup<'a> {
    pub upstream: &'a Upstream,
    /// The proxy's executable.
    pub binary: &'a str,
    /// The proxies' ledger; without: a new one.
    pub ledger: Option<&'a Path>,
    /// The most that it must serve at once.
    pub clients: usize,
}

impl Setup<'_> {
    /// Size of a target's executable, where it is one.
    pub fn file_bytes(&self, kind: Kind) -> Option<u64> {
        let file = match kind {
            Kind::Litellm | Kind::Direct => None,
            kind if kind.is_peer() => peers::executable(kind.program()),
            _ => Some(self.binary.into()),
        };
        std::fs::metadata(file?).ok().map(|metadata| metadata.len())
    }
}

/// A target that runs; it stops when dropped.
pub struct Target {
    kind: Kind,
    /// Where it listens.
    pub address: SocketAddr,
    tls: Option<Arc<ClientConfig>>,
    /// `None` where the mock itself is the target.
    running: Option<Running>,
    launched_at: Instant,
    folder: TempDir,
    /// The server that hangs: the kernel accepts for it.
    _influx: Option<TcpListener>,
}

impl Target {
    /// Starts it before the mock.
    pub fn launch(kind: Kind, setup: &Setup<'_>) -> Result<Self, String> {
        let &Setup { upstream, binary, ledger, clients } = setup;
        let folder = folder()?;
        let unbound = |e| format!("no free port: {e}");
        let mut address = free_address().map_err(unbound)?;
        let site = Site { upstream, address, folder: folder.path(), clients, tls: kind.speaks_tls() };
        let mut command = match kind {
            Kind::Nginx | Kind::NginxTls => peers::nginx(&site)?,
            Kind::Haproxy | Kind::HaproxyTls => peers::haproxy(&site)?,
            Kind::CaddyTls => peers::caddy(&site)?,
            Kind::Litellm => peers::litellm(&site)?,
            _ => peers::proxy(binary, &site, kind.settings()),
        };
        let mut influx = None;
        if kind == Kind::ProxyInflux {
            let hangs = TcpListener::bind("127.0.0.1:0").map_err(unbound)?;
            command.env("INFLUXDB_URL", format!("http://{}/write", hangs.local_addr().map_err(unbound)?));
            influx = Some(hangs);
        }
        command.envs(ledger.filter(|_| kind.is_proxy()).map(|ledger| ("DATABASE_PATH", ledger)));
        let logs = std::fs::File::create(log(folder.path())).and_then(|log| Ok((log.try_clone()?, log)));
        let (stdout, stderr) = logs.map_err(|e| format!("log: {e}"))?;
        command.current_dir(folder.path()).stdin(Stdio::null()).stdout(stdout).stderr(stderr);
        let launched_at = Instant::now();
        let running = match kind {
            Kind::Direct => {
                address = upstream.plain_address();
                None
            }
            _ => Some(Running::start(&mut command)?),
        };
        let tls = kind.speaks_tls().then(|| trusting(upstream.ca_file().as_ref())).transpose()?;
        Ok(Self { kind, address, tls, running, launched_at, folder, _influx: influx })
    }

    /// Starts it and waits until it is quiet again after its first answer, which came after so long.
    pub fn start(kind: Kind, setup: &Setup<'_>) -> Result<(Self, Duration), String> {
        let mut target = Self::launch(kind, setup)?;
        target.wait(|target| target.ask())?;
        let after = target.launched_at.elapsed();
        std::thread::sleep(QUIET);
        Ok((target, after))
    }

    /// Starts it and waits until it listens and is quiet, asked for nothing.
    pub fn start_unasked(kind: Kind, setup: &Setup<'_>) -> Result<Self, String> {
        let mut target = Self::launch(kind, setup)?;
        target.wait(|target| TcpStream::connect(target.address).map(drop))?;
        std::thread::sleep(QUIET);
        Ok(target)
    }

    /// Its processes.
    pub fn tree(&self) -> Vec<u32> {
        self.running.as_ref().map_or_else(Vec::new, Running::tree)
    }

    fn wait(&mut self, ready: impl Fn(&Self) -> std::io::Result<()>) -> Result<(), String> {
        while let Err(error) = ready(self) {
            let has_ended = self.running.as_mut().is_some_and(Running::has_ended);
            if has_ended || self.launched_at.elapsed() > START_TIMEOUT {
                let said = std::fs::read_to_string(log(self.folder.path())).unwrap_or_default();
                return Err(format!("{} does not answer on {}: {error}: {said}", self.kind.name(), self.address));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// One request, on a connection of its own.
    fn ask(&self) -> std::io::Result<()> {
        let mut socket = TcpStream::connect(self.address)?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut session = self.tls.as_ref().map(session);
        let mut socket: Box<dyn ReadWrite + '_> = match &mut session {
            Some(session) => Box::new(rustls::Stream::new(session, &mut socket)),
            None => Box::new(&mut socket),
        };
        let body = r#"{"model":"gpt-4o-mini","messages":[{"role":"user","content":"hi"}]}"#;
        let (host, length) = (self.address, body.len());
        write!(
            socket,
            "POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer sk-client-0123456789abcdef\r\n\
             Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        )?;
        let (mut response, mut scratch) = (ResponseReader::new(), [0; 4096]);
        loop {
            let n = socket.read(&mut scratch)?;
            if n == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            if response.feed(&scratch[..n]).map_err(std::io::Error::other)? {
                let status = response.status;
                return if status == 200 { Ok(()) } else { Err(std::io::Error::other(format!("status {status}"))) };
            }
        }
    }
}

/// A connection, encrypted or not.
trait ReadWrite: Read + Write {}
impl<T: Read + Write> ReadWrite for T {}

/// What a target says.
fn log(folder: &Path) -> PathBuf {
    folder.join("log")
}

/// A port that was free a moment ago.
fn free_address() -> std::io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr()
}
