//! How each target is set up: the proxy's release binary and its peers, each for the same work.
//!
//! In: where to listen, what is upstream, how many clients there will be. Out: a command that stays in the foreground.
//! Never: a setting that only the proxy would profit from: all but LiteLLM check the upstream's certificate, and all
//! keep upstream connections (nginx and haproxy at most 512 idle ones, more than any case but a hold has), replace
//! `Authorization` and write a line for each request into a file.

use crate::process::{Core, find, pinned};
use crate::upstream::Upstream;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

const UPSTREAM_KEY: &str = "sk-upstream-0123456789abcdef";

/// Where a target is put.
pub struct Site<'a> {
    pub upstream: &'a Upstream,
    pub address: SocketAddr,
    /// Its own, for what it writes.
    pub folder: &'a Path,
    /// The most that it must serve at once.
    pub clients: usize,
    /// It speaks TLS with its clients.
    pub tls: bool,
}

/// The executable of a peer; `LITELLM` names one that is not on the PATH.
pub fn executable(peer: &str) -> Option<PathBuf> {
    let named = std::env::var_os(peer.to_uppercase()).map(PathBuf::from).filter(|file| file.is_file());
    named.or_else(|| find(peer).map(PathBuf::from))
}

fn command(peer: &str) -> Result<Command, String> {
    let program = executable(peer).ok_or(format!("{peer} is not installed"))?;
    Ok(pinned(Core::Target, program.to_str().ok_or("an executable's name is not UTF-8")?))
}

fn write(file: PathBuf, text: String) -> Result<PathBuf, String> {
    std::fs::write(&file, text).map_err(|e| format!("{}: {e}", file.display()))?;
    Ok(file)
}

/// The proxy, with nothing set that its users would not set.
pub fn proxy(binary: &str, site: &Site<'_>, more: &[(&str, &str)]) -> Command {
    let mut command = pinned(Core::Target, binary);
    command.env_clear().envs([
        ("HOST", site.address.ip().to_string()),
        ("PORT", site.address.port().to_string()),
        ("PROXY_TARGET", format!("https://localhost:{}", site.upstream.tls_port)),
        ("TLS_CA_FILE", site.upstream.ca_file()),
        ("OPENAI_API_KEY", UPSTREAM_KEY.to_string()),
        ("DATABASE_PATH", "usage.db".to_string()),
        ("RATE_LIMIT_RPM", "1000000000".to_string()),
        ("MAX_CONNECTIONS", site.clients.to_string()),
    ]);
    if site.tls {
        let [certificate, key] = site.upstream.pair();
        command.env("TLS_CERT_FILE", certificate).env("TLS_KEY_FILE", key);
    }
    command.envs(more.iter().copied());
    command
}

/// One worker.
pub fn nginx(site: &Site<'_>) -> Result<Command, String> {
    let Site { upstream, address, folder, clients, tls } = site;
    let [certificate, key] = upstream.pair();
    let (ssl, pair) = match tls {
        true => (" ssl", format!("ssl_certificate {certificate}; ssl_certificate_key {key};")),
        false => ("", String::new()),
    };
    // Two a client, and some: it closes connections that it could keep while less than a sixteenth is free.
    let (port, ca, connections) = (upstream.tls_port, upstream.ca_file(), clients * 5 / 2);
    let configuration = format!(
        r#"
worker_processes 1; daemon off; pid nginx.pid; error_log stderr warn;
events {{ worker_connections {connections}; }}
http {{
  log_format requests '$remote_addr - [$time_local] "$request" $status $body_bytes_sent "$http_x_user_id"';
  access_log access.log requests;
  client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi;
  scgi_temp_path scgi;
  tcp_nodelay on; keepalive_timeout 600s; keepalive_requests 100000000;
  client_max_body_size 10m; client_body_buffer_size 256k;
  upstream mock {{ server 127.0.0.1:{port}; keepalive 512; keepalive_requests 100000000; keepalive_timeout 600s; }}
  server {{
    listen {address}{ssl} backlog=4096; {pair} ssl_protocols TLSv1.2 TLSv1.3;
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
    write(folder.join("nginx.conf"), configuration)?;
    let mut command = command("nginx")?;
    command.arg("-p").arg(folder).args(["-e", "stderr", "-c", "nginx.conf"]);
    Ok(command)
}

/// One thread.
pub fn haproxy(site: &Site<'_>) -> Result<Command, String> {
    let Site { upstream, address, folder, clients, tls } = site;
    let pair = folder.join("pair.pem");
    let texts = upstream.pair().map(|file| std::fs::read_to_string(&file).map_err(|e| format!("{file}: {e}")));
    let [certificate, key] = texts;
    write(pair.clone(), certificate? + &key?)?;
    let ssl = if *tls { format!(" ssl crt {} alpn http/1.1", pair.display()) } else { String::new() };
    let (port, ca) = (upstream.tls_port, upstream.ca_file());
    let configuration = format!(
        r#"
global
  nbthread 1
  maxconn {clients}
  log stdout format raw local0
  ssl-server-verify required
defaults
  mode http
  log global
  option httplog
  option http-keep-alive
  timeout connect 10s
  timeout client 600s
  timeout server 600s
  timeout http-keep-alive 600s
frontend clients
  bind {address}{ssl}
  default_backend mock
backend mock
  http-reuse always
  http-request set-header Host localhost
  http-request set-header Authorization "Bearer {UPSTREAM_KEY}"
  server mock 127.0.0.1:{port} ssl verify required ca-file {ca} sni str(localhost) verifyhost localhost pool-max-conn 512
"#
    );
    let file = write(folder.join("haproxy.cfg"), configuration)?;
    let mut command = command("haproxy")?;
    command.args(["-db", "-f"]).arg(file);
    Ok(command)
}

/// On one core, without its administration.
pub fn caddy(site: &Site<'_>) -> Result<Command, String> {
    let Site { upstream, address, folder, .. } = site;
    let (port, ca, [certificate, key]) = (upstream.tls_port, upstream.ca_file(), upstream.pair());
    let (own, host) = (address.port(), address.ip());
    let configuration = format!(
        r#"
{{
  admin off
  auto_https off
  servers {{
    protocols h1
  }}
}}
:{own} {{
  bind {host}
  tls {certificate} {key}
  log {{
    output file access.log
  }}
  reverse_proxy https://localhost:{port} {{
    flush_interval -1
    header_up Host localhost
    header_up Authorization "Bearer {UPSTREAM_KEY}"
    transport http {{
      tls_trusted_ca_certs {ca}
      tls_server_name localhost
      versions 1.1
      keepalive_idle_conns_per_host 512
    }}
  }}
}}
"#
    );
    let file = write(folder.join("Caddyfile"), configuration)?;
    let mut command = command("caddy")?;
    command.args(["run", "--adapter", "caddyfile", "--config"]).arg(file).env("GOMAXPROCS", "1").env("HOME", folder);
    Ok(command)
}

/// One worker, no database, the plain upstream.
pub fn litellm(site: &Site<'_>) -> Result<Command, String> {
    let mock = site.upstream.plain_address();
    let configuration = format!(
        r#"
model_list:
  - model_name: gpt-4o-mini
    litellm_params:
      model: openai/gpt-4o-mini
      api_base: http://{mock}/v1
      api_key: {UPSTREAM_KEY}
general_settings:
  dangerously_permit_weak_or_unset_master_key: true # on loopback, asked by nobody else
litellm_settings:
  num_retries: 0
  telemetry: false
"#
    );
    let file = write(site.folder.join("litellm.yaml"), configuration)?;
    let mut command = command("litellm")?;
    command.arg("--config").arg(file).args(["--host", "127.0.0.1", "--num_workers", "1", "--port"]);
    command.arg(site.address.port().to_string()).env("LITELLM_LOCAL_MODEL_COST_MAP", "True");
    Ok(command)
}
