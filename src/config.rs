//! The configuration: environment variables, or the same names in `.env`; the environment wins.
//!
//! In: names and values. Out: a [`Config`] with nothing left to check, or every [`Problem`] at once. Files that
//! variables name are read here, before anything is served. Never: a secret in a problem or in a debug print, or a
//! change of the environment.

mod allowed;
mod authorities;
mod certificate;
mod default_limits;
mod egress;
mod fleet_url;
mod front;
mod influx;
mod postgres_url;
mod prices;
mod provider_books;
mod secret;
mod secret_url;
mod source;
mod target;
mod unknown;
mod value;

pub use certificate::{FilesState, ServerCertificate};
pub use egress::{Egress, EgressProxy, Way};
pub use fleet_url::Fleet;
pub use influx::Influx;
pub use postgres_url::{PostgresHost, PostgresUrl};
pub use provider_books::ProviderBooks;
pub use secret::Secret;
pub use secret_url::SecretUrl;
pub use source::Problem;
pub use target::Target;

use crate::base::log::{Level, LogFormat};
use crate::door::Door;
use crate::http::forwarded_for::TrustedProxies;
use crate::http::front_headers::ForwardedHeaders;
use crate::limit::overrides::Limits;
use crate::metrics;
use crate::policy::{AllowedPaths, ReadOn};
use crate::price::PriceTable;
use source::Source;
use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Everything that an operator can set.
#[derive(Clone, Debug)]
pub struct Config {
    /// `PROXY_TARGET`
    pub target: Target,
    /// `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY`: the way out, to the target and to whatever else is called.
    pub egress: Egress,
    /// `OPENAI_API_KEY`: sent upstream in place of the client's own.
    pub api_key: Option<Secret>,
    /// `OPENAI_ORGANIZATION` and `OPENAI_PROJECT`: sent with that key, as header lines.
    pub account: Vec<u8>,
    /// `ALLOWED_HOSTS` and `ALLOWED_ORIGINS`: which requests come in at all.
    pub door: Door,
    /// `ALLOWED_PATHS`: what may be relayed.
    pub allowed_paths: AllowedPaths,
    /// `FORWARD_HEADERS`: what of that which servers in front add is sent on.
    pub forward_headers: ForwardedHeaders,
    /// `TRUSTED_PROXIES`: whose `X-Forwarded-For` is believed.
    pub trusted_proxies: TrustedProxies,
    /// `MODEL_NAME`: the model for a JSON request that names none.
    pub model_name: Option<String>,
    /// `HOST` and `PORT`; port 0 is any free one.
    pub listen: SocketAddr,
    /// `REUSE_PORT`: other processes of this user listen there too.
    pub shares_port: bool,
    /// `DATABASE_PATH`
    pub database_path: PathBuf,
    /// `LEDGER_DURABILITY`
    pub durability: Durability,
    /// `LEDGER_FSYNC`: each commit waits for the disk.
    pub ledger_fsync: bool,
    /// `LEDGER_WAIT`: how long a reply waits for its commit; `None` is for ever.
    pub ledger_wait: Option<Duration>,
    /// `RETENTION_DAYS`: how long rows are kept; 0 is for ever.
    pub retention_days: u32,
    /// `ON_CLIENT_ABORT`: whose responses are read on for their exact usage when their clients have gone.
    pub read_on: ReadOn,
    /// `DRAIN_MAX_SECONDS`: for how long.
    pub read_on_max: Duration,
    /// `RATE_LIMIT_RPM`, `RATE_LIMIT_BURST`, `RATE_LIMIT_TPM`, `MAX_CONCURRENT_PER_USER`, `BUDGET_USD_DAY` and
    /// `BUDGET_USD_MONTH`: what each user may do.
    pub limits: Limits,
    /// What everybody may do together.
    pub total_limits: Limits,
    /// `BUDGET_RESERVE`: of a budget a request without a maximum takes its user's average, not the model's largest
    /// output.
    pub reserves_average: bool,
    /// `UNMETERED`: a user with a budget may send what cannot be metered.
    pub allows_unmetered: bool,
    /// `STREAM_USAGE`: the usage of a stream is asked for in its client's place.
    pub asks_usage: bool,
    /// `CLIENT_AUTH`: only keys of our own get in.
    pub keys_only: bool,
    /// `ADMIN_TOKEN`: what opens the local endpoints.
    pub admin_token: Option<Secret>,
    /// `MAX_CONNECTIONS`: of clients, at least 1.
    pub connections_max: usize,
    /// `MAX_CONNECTIONS_PER_ADDRESS`: of one address; 0 for no such bound.
    pub connections_of_address_max: usize,
    /// `MAX_BODY_BYTES`: one request's body held in memory.
    pub body_bytes_max: usize,
    /// `MAX_BUFFERED_BYTES`: all of them together.
    pub buffered_bytes_max: usize,
    pub timeouts: Timeouts,
    /// `TLS_CA_FILE`: the file's contents, PEM.
    pub tls_ca: Option<Vec<u8>>,
    /// `TLS_CERT_FILE` and `TLS_KEY_FILE`: what clients are shown; `None` speaks plain HTTP with them.
    pub certificate: Option<ServerCertificate>,
    /// The built-in prices, with those of `PRICES_FILE`, `PRICE_FACTOR` and what the target's region adds.
    pub prices: PriceTable,
    /// `PRICES_URL`: where more are fetched from.
    pub prices_url: Option<SecretUrl>,
    /// `ALERT_WEBHOOK_URL`: who is told when a budget passes 80 and 100 %.
    pub alert_webhook: Option<SecretUrl>,
    /// `OPENAI_ADMIN_KEY` and `RECONCILE*`: the provider's own books, and when the ledger is held against them.
    pub books: ProviderBooks,
    /// `INFLUXDB_URL` and the variables around it: where the ledger is exported to; `None` exports nothing.
    pub influx: Option<Influx>,
    /// `FLEET_URL` and the variables around it: the database that several proxies share; `None` is alone.
    pub fleet: Option<Fleet>,
    /// `METRICS_MAX_USERS` and `METRICS_MAX_MODELS`.
    pub metrics: metrics::LabelLimits,
    /// `LOG`
    pub log: Level,
    /// `LOG_FORMAT`
    pub log_format: LogFormat,
    /// What is no mistake, and probably not meant: a sentence each.
    pub warnings: Vec<String>,
}

/// Shortest token of the administrator's, bytes.
const ADMIN_TOKEN_BYTES_MIN: usize = 16;

const READ_ON_WORDS: [(&str, ReadOn); 3] =
    [("cancel", ReadOn::Nobodys), ("drain", ReadOn::Everybodys), ("auto", ReadOn::LimitedUsers)];
const LOG_FORMAT_WORDS: [(&str, LogFormat); 2] = [("logfmt", LogFormat::Logfmt), ("json", LogFormat::Json)];

/// What the ledger promises of a response that a client has received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Its record is committed within 100 ms.
    Relaxed,
    /// Its record is committed before its last byte.
    Settled,
    /// The same; and each request has a row before it is sent.
    Journaled,
}

impl Durability {
    const WORDS: [(&str, Self); 3] =
        [("relaxed", Self::Relaxed), ("settled", Self::Settled), ("journaled", Self::Journaled)];
}

/// How long the proxy waits for whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// `CONNECT_TIMEOUT`: one address of the target; and as long again for the TLS handshake.
    pub connect: Duration,
    /// `RESPONSE_TIMEOUT`: the upstream, for its head and between bytes.
    pub response: Duration,
    /// `IDLE_TIMEOUT`: a client's connection between requests.
    pub idle: Duration,
    /// `HEADER_TIMEOUT`: a client's request head from its first byte.
    pub header: Duration,
    /// `SHUTDOWN_DELAY`: after the first signal to stop, until new clients are turned away.
    pub shutdown_delay: Duration,
    /// `DRAIN_TIMEOUT`: exchanges in flight after that.
    pub drain: Duration,
}

impl Config {
    /// How the target is reached.
    pub fn way(&self) -> Way<'_> {
        self.egress.way(self.target.tls, &self.target.host, self.target.port)
    }

    /// What is connected to on that way: the target, or the proxy before it.
    pub fn next_hop(&self) -> (&str, u16) {
        self.way().proxy().map_or((&self.target.host, self.target.port), |proxy| (&proxy.host, proxy.port))
    }

    /// Reads the process's environment and `.env` in the working directory.
    ///
    /// # Errors
    /// All problems together.
    pub fn from_process() -> Result<Self, Vec<Problem>> {
        let env = |name: &str| std::env::var_os(name);
        let names: Vec<String> = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()).collect();
        match fs::read_to_string(".env") {
            Ok(dotenv) => Self::load_among(&env, &names, &dotenv),
            Err(error) if error.kind() == ErrorKind::NotFound => Self::load_among(&env, &names, ""),
            Err(error) => {
                let mut problems = Self::load(&env, "").err().unwrap_or_default();
                let message = format!("expected a readable text file: {error}");
                problems.insert(0, Problem { variable: ".env", line: None, message });
                Err(problems)
            }
        }
    }

    /// `env` looks a variable up, `dotenv` is the text of a `.env` file (empty for none). A name without a value, or
    /// with an empty one, has its default.
    ///
    /// # Errors
    /// All problems together.
    pub fn load(env: &dyn Fn(&str) -> Option<OsString>, dotenv: &str) -> Result<Self, Vec<Problem>> {
        Self::load_among(env, &[], dotenv)
    }

    /// The same with all names of the environment, among which misspelt ones are looked for.
    fn load_among(
        env: &dyn Fn(&str) -> Option<OsString>,
        names: &[String],
        dotenv: &str,
    ) -> Result<Self, Vec<Problem>> {
        let mut source = Source::new(env, dotenv);
        let config = Self::read(&mut source);
        source.finish(names);
        if source.problems.is_empty() { Ok(Self { warnings: source.warnings, ..config }) } else { Err(source.problems) }
    }

    /// All settings; where one is wrong, `source` has that as a problem.
    fn read(source: &mut Source<'_>) -> Self {
        let api_key = secret(source, "OPENAI_API_KEY", "OPENAI_API_KEY_FILE");
        let admin_key = secret(source, "OPENAI_ADMIN_KEY", "OPENAI_ADMIN_KEY_FILE");
        let keys_only = source.word("CLIENT_AUTH", false, &[("none", false), ("keys", true)]);
        let target = source
            .optional("PROXY_TARGET", target::EXPECTED, Target::parse)
            .unwrap_or_else(|| Target::parse("https://api.openai.com").expect("the default target is valid"));
        let listen = listen(source, api_key.is_some() && !keys_only);
        let fleet = Fleet::read(source);
        let connections_max = source.count("MAX_CONNECTIONS", 10_000, 1..=1_000_000);
        // On loopback all clients have one address.
        let share = if listen.ip().is_loopback() { 0 } else { (connections_max / 4).max(1) };
        Self {
            listen,
            egress: Egress::read(source),
            account: account(source, api_key.is_some()),
            allowed_paths: allowed::paths(source, keys_only),
            forward_headers: front::forward_headers(source),
            trusted_proxies: front::trusted_proxies(source),
            door: allowed::read(source, listen.ip().is_loopback()),
            keys_only,
            admin_token: admin_token(source),
            api_key,
            model_name: source.optional("MODEL_NAME", "a model's name, at most 128 bytes", model_name),
            shares_port: source.switch("REUSE_PORT", false),
            database_path: source.os("DATABASE_PATH").unwrap_or_else(|| "usage.db".into()).into(),
            durability: source.word("LEDGER_DURABILITY", Durability::Settled, &Durability::WORDS),
            ledger_fsync: source.switch("LEDGER_FSYNC", false),
            read_on: source.word("ON_CLIENT_ABORT", ReadOn::LimitedUsers, &READ_ON_WORDS),
            read_on_max: Duration::from_secs(source.count("DRAIN_MAX_SECONDS", 60, 1..=86_400).into()),
            ledger_wait: Some(duration(source, "LEDGER_WAIT", 2, 0)).filter(|wait| !wait.is_zero()),
            retention_days: source.count("RETENTION_DAYS", 0, 0..=36_500),
            limits: default_limits::read(source),
            total_limits: default_limits::read_total(source),
            reserves_average: source.word("BUDGET_RESERVE", false, &[("max", false), ("average", true)]),
            allows_unmetered: source.word("UNMETERED", false, &[("refuse", false), ("allow", true)]),
            asks_usage: source.word("STREAM_USAGE", true, &[("ask", true), ("never", false)]),
            connections_max: connections_max as usize,
            connections_of_address_max: source.count("MAX_CONNECTIONS_PER_ADDRESS", share, 0..=1_000_000) as usize,
            body_bytes_max: source.value(
                "MAX_BODY_BYTES",
                64 << 20,
                "1 KiB to 1 GiB, as in 1048576 or 64MiB",
                |text| value::size(text).filter(|bytes| (1 << 10..=1 << 30).contains(bytes)),
            ),
            buffered_bytes_max: source.value(
                "MAX_BUFFERED_BYTES",
                256 << 20,
                "at least 1 KiB, as in 268435456 or 256MiB",
                |text| value::size(text).filter(|bytes| *bytes >= 1 << 10),
            ),
            timeouts: timeouts(source, fleet.is_some()),
            tls_ca: authorities::read(source, "TLS_CA_FILE"),
            certificate: ServerCertificate::read(source),
            prices: prices::read(source, &target.host),
            prices_url: SecretUrl::read(source, "PRICES_URL", "PRICES_URL_FILE"),
            alert_webhook: SecretUrl::read(source, "ALERT_WEBHOOK_URL", "ALERT_WEBHOOK_URL_FILE"),
            target,
            books: ProviderBooks::read(source, admin_key),
            influx: Influx::read(source),
            fleet,
            metrics: metrics_limits(source),
            log: source.value("LOG", Level::Info, "error, warn, info, debug or trace", Level::parse),
            log_format: source.word("LOG_FORMAT", LogFormat::Logfmt, &LOG_FORMAT_WORDS),
            warnings: Vec::new(),
        }
    }
}

fn secret(source: &mut Source<'_>, name: &'static str, file: &'static str) -> Option<Secret> {
    let (value, variable) = source.secret(name, file)?;
    match Secret::parse(&value) {
        Ok(secret) => Some(secret),
        Err(expected) => {
            source.problem(variable, format!("expected {expected}; its value is not shown"));
            None
        }
    }
}

/// Whoever guesses it sees everybody's usage.
fn admin_token(source: &mut Source<'_>) -> Option<Secret> {
    let token = secret(source, "ADMIN_TOKEN", "ADMIN_TOKEN_FILE")?;
    if token.expose().len() < ADMIN_TOKEN_BYTES_MIN {
        let expected = "expected at least 16 characters, as `openssl rand -hex 16` makes them; its value is not shown";
        source.problem("ADMIN_TOKEN", expected.to_owned());
    }
    Some(token)
}

/// Whose account pays, as header lines beside our key.
fn account(source: &mut Source<'_>, has_key: bool) -> Vec<u8> {
    let is_name = |text: &str| text.len() <= 128 && text.bytes().all(|byte| byte.is_ascii_graphic());
    let mut lines = Vec::new();
    for (name, header) in [("OPENAI_ORGANIZATION", "openai-organization"), ("OPENAI_PROJECT", "openai-project")] {
        let value = source.optional(name, "an id without spaces", |text| is_name(text).then(|| text.to_owned()));
        if value.is_some() && !has_key {
            source.warnings.push(format!("{name} is set without OPENAI_API_KEY: it is not sent"));
        }
        lines.extend(value.map(|value| format!("{header}: {value}\r\n").into_bytes()).unwrap_or_default());
    }
    lines
}

fn listen(source: &mut Source<'_>, open_to_all: bool) -> SocketAddr {
    let port = source.value("PORT", 8080, "a port number, 0 to 65535 (0: any free one)", value::number);
    let host = source.optional("HOST", "an IP address to listen on, or localhost", value::listen_host);
    let host = host.unwrap_or(std::net::Ipv4Addr::LOCALHOST.into());
    let anonymous = source.switch("ALLOW_ANONYMOUS", false);
    if open_to_all && !anonymous && !host.is_loopback() {
        let why = format!(
            "expected a loopback address, got {host}: with OPENAI_API_KEY set, whoever reaches it spends on your \
             account (CLIENT_AUTH=keys lets only holders of keys in, ALLOW_ANONYMOUS=true accepts it)"
        );
        source.problem("HOST", why);
    }
    SocketAddr::new(host, port)
}

fn model_name(text: &str) -> Option<String> {
    (text.len() <= 128 && !text.chars().any(char::is_control)).then(|| text.to_owned())
}

fn metrics_limits(source: &mut Source<'_>) -> metrics::LabelLimits {
    let defaults = metrics::LabelLimits::default();
    let mut label = |name, default: usize| source.count(name, default as u32, 0..=100_000) as usize;
    let users_max = label("METRICS_MAX_USERS", defaults.users_max);
    let models_max = label("METRICS_MAX_MODELS", defaults.models_max);
    metrics::LabelLimits { users_max, models_max, series_max: defaults.series_max.max(users_max.saturating_mul(20)) }
}

fn timeouts(source: &mut Source<'_>, is_in_fleet: bool) -> Timeouts {
    Timeouts {
        connect: duration(source, "CONNECT_TIMEOUT", 10, 1),
        response: duration(source, "RESPONSE_TIMEOUT", 600, 1),
        idle: duration(source, "IDLE_TIMEOUT", 75, 1),
        header: duration(source, "HEADER_TIMEOUT", 10, 1),
        // Before a fleet stands somebody who balances loads.
        shutdown_delay: duration(source, "SHUTDOWN_DELAY", if is_in_fleet { 5 } else { 0 }, 0),
        drain: duration(source, "DRAIN_TIMEOUT", 30, 0),
    }
}

fn duration(source: &mut Source<'_>, name: &'static str, default_seconds: u64, least_ms: u64) -> Duration {
    let expected = format!("a duration, {least_ms}ms to 24h, as in 500ms, 10s or 2m");
    source.value(name, Duration::from_secs(default_seconds), &expected, |text| {
        value::duration(text).filter(|&duration| duration >= Duration::from_millis(least_ms))
    })
}

#[cfg(test)]
mod tests;
