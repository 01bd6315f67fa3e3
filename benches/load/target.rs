//! What is measured: the proxy's release binary, and nginx set up for the same work, each before the same TLS mock.
//!
//! In: nothing but what is installed. Out: a listening [`Target`] with its own folder for database, logs and
//! configuration. Certificates are made anew in each run. Never: a setting that only the proxy would profit from: both
//! check the upstream's certificate, keep upstream connections, replace `Authorization` and log every request.

use crate::process::{Core, Running, find, helper, pinned};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const START_TIMEOUT: Duration = Duration::from_secs(10);
const UPSTREAM_KEY: &str = "sk-upstream-0123456789abcdef";

/// The mock, and the certificate authority that vouches for it.
pub struct Upstream {
    port: u16,
    folder: TempDir,
    _running: Running,
}

impl Upstream {
    /// Makes certificates and starts the mock.
    pub fn start() -> Result<Self, String> {
        let folder = folder()?;
        let file = |name: &str| folder.path().join(name);
        certificates(folder.path()).map_err(|e| format!("certificates: {e}"))?;
        let mut command = helper("mock");
        command.args([file("server.pem"), file("server.key")]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut running = Running::start(&mut command)?;
        let stdout = running.child().stdout.take().expect("stdout is piped");
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).map_err(|e| format!("mock: {e}"))?;
        let port = line.trim().parse().map_err(|_| format!("mock: no port in {line:?}"))?;
        Ok(Self { port, folder, _running: running })
    }

    fn ca_file(&self) -> String {
        self.folder.path().join("ca.pem").display().to_string()
    }
}

fn certificates(folder: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.distinguished_name.push(DnType::CommonName, "bench authority"); // OpenSSL tells issuers by their name
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
    let key = KeyPair::generate()?;
    let server = CertificateParams::new(vec!["localhost".to_string()])?.signed_by(&key, &authority)?;
    std::fs::write(folder.join("ca.pem"), authority.pem())?;
    std::fs::write(folder.join("server.pem"), server.pem())?;
    std::fs::write(folder.join("server.key"), key.serialize_pem())?;
    Ok(())
}

/// A folder that vanishes with its owner, and that nginx's worker may enter when its master runs as root.
fn folder() -> Result<TempDir, String> {
    let folder = tempfile::tempdir().map_err(|e| format!("temporary folder: {e}"))?;
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(folder.path(), open).map_err(|e| format!("temporary folder: {e}"))?;
    Ok(folder)
}

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
    /// nginx with one worker.
    Nginx,
}

/// A target that listens; it stops when dropped.
pub struct Target {
    /// Where it listens.
    pub address: SocketAddr,
    running: Running,
    folder: TempDir,
    /// The server that hangs: the kernel accepts for it.
    _influx: Option<TcpListener>,
}

impl Kind {
    pub const ALL: [Self; 8] = [
        Self::Proxy,
        Self::ProxyRelaxed,
        Self::ProxyJournaled,
        Self::ProxyFsync,
        Self::ProxyQuiet,
        Self::ProxyAsked,
        Self::ProxyInflux,
        Self::Nginx,
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
            Self::Nginx => "nginx",
        }
    }

    /// The proxy always is.
    pub fn is_installed(&self) -> bool {
        *self != Self::Nginx || find("nginx").is_some()
    }

    /// Starts it before the mock and waits until it listens. A proxy has a new ledger, or this one.
    pub fn start(self, upstream: &Upstream, ledger: Option<&Path>) -> Result<Target, String> {
        let folder = folder()?;
        let address = free_address().map_err(|e| format!("no free port: {e}"))?;
        let mut command = match self {
            Self::Proxy | Self::ProxyAsked | Self::ProxyInflux => proxy(upstream, address, "settled"),
            Self::ProxyRelaxed => proxy(upstream, address, "relaxed"),
            Self::ProxyJournaled => proxy(upstream, address, "journaled"),
            Self::ProxyFsync => {
                let mut command = proxy(upstream, address, "settled");
                command.env("LEDGER_FSYNC", "true");
                command
            }
            Self::ProxyQuiet => {
                let mut command = proxy(upstream, address, "settled");
                command.env("LOG", "warn");
                command
            }
            Self::Nginx => nginx(upstream, address, folder.path())?,
        };
        let influx = (self == Self::ProxyInflux).then(|| TcpListener::bind("127.0.0.1:0")).transpose();
        let influx = influx.map_err(|e| format!("no free port: {e}"))?;
        if let Some(Ok(influx)) = influx.as_ref().map(TcpListener::local_addr) {
            command.env("INFLUXDB_URL", format!("http://{influx}/write"));
        }
        command.envs(ledger.map(|ledger| ("DATABASE_PATH", ledger)));
        let log = std::fs::File::create(folder.path().join("log")).map_err(|e| format!("log: {e}"))?;
        command.current_dir(folder.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let mut target = Target { address, running: Running::start(&mut command)?, folder, _influx: influx };
        target.wait(self)?;
        Ok(target)
    }
}

impl Target {
    /// Its processes.
    pub fn tree(&self) -> Vec<u32> {
        self.running.tree()
    }

    /// The proxy says that it listens; who says nothing is asked.
    fn wait(&mut self, kind: Kind) -> Result<(), String> {
        let log = self.folder.path().join("log");
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            let listens = match kind {
                Kind::Nginx | Kind::ProxyQuiet => TcpStream::connect(self.address).is_ok(),
                _ => said.contains("msg=listening"),
            };
            if listens {
                return Ok(());
            }
            if self.running.has_ended() || Instant::now() > deadline {
                return Err(format!("{} does not listen on {}: {said}", kind.name(), self.address));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// A port that was free a moment ago.
fn free_address() -> std::io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr()
}

fn proxy(upstream: &Upstream, address: SocketAddr, durability: &str) -> Command {
    let mut command = pinned(Core::Target, env!("CARGO_BIN_EXE_proxy-server"));
    command.env_clear().envs([
        ("HOST", address.ip().to_string()),
        ("PORT", address.port().to_string()),
        ("PROXY_TARGET", format!("https://localhost:{}", upstream.port)),
        ("TLS_CA_FILE", upstream.ca_file()),
        ("OPENAI_API_KEY", UPSTREAM_KEY.to_string()),
        ("DATABASE_PATH", "usage.db".to_string()),
        ("LEDGER_DURABILITY", durability.to_string()),
        ("RATE_LIMIT_RPM", "1000000000".to_string()),
        ("MAX_CONNECTIONS", "1000".to_string()),
    ]);
    command
}

fn nginx(upstream: &Upstream, address: SocketAddr, folder: &Path) -> Result<Command, String> {
    let (port, ca) = (upstream.port, upstream.ca_file());
    let configuration = format!(
        r#"
worker_processes 1; daemon off; pid nginx.pid; error_log stderr warn;
events {{ worker_connections 1024; }}
http {{
  log_format requests '$remote_addr - [$time_local] "$request" $status $body_bytes_sent "$http_x_user_id"';
  access_log access.log requests;
  client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi;
  scgi_temp_path scgi;
  tcp_nodelay on; keepalive_timeout 600s; keepalive_requests 100000000;
  client_max_body_size 10m; client_body_buffer_size 256k;
  upstream mock {{ server 127.0.0.1:{port}; keepalive 512; keepalive_requests 100000000; keepalive_timeout 600s; }}
  server {{
    listen {address} backlog=1024;
    location / {{
      proxy_pass https://mock; proxy_http_version 1.1; proxy_buffering off;
      proxy_set_header Connection ""; proxy_set_header Host localhost;
      proxy_set_header Authorization "Bearer {UPSTREAM_KEY}";
      proxy_ssl_verify on; proxy_ssl_trusted_certificate {ca}; proxy_ssl_name localhost;
      proxy_ssl_server_name on; proxy_ssl_session_reuse on; proxy_ssl_protocols TLSv1.2 TLSv1.3;
    }}
  }}
}}
"#
    );
    std::fs::write(folder.join("nginx.conf"), configuration).map_err(|e| format!("nginx.conf: {e}"))?;
    let mut command = pinned(Core::Target, &find("nginx").ok_or("nginx is not installed")?);
    let prefix = folder.to_str().ok_or("the temporary folder's name is not UTF-8")?;
    command.args(["-p", prefix, "-e", "stderr", "-c", "nginx.conf"]);
    Ok(command)
}
