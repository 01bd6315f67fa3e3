//! `proxy-server`: arguments → configuration → workers → loop.

#![forbid(unsafe_code)]
#![deny(clippy::print_stderr)] // it panics where nobody reads it
#![allow(clippy::disallowed_methods)] // the outside world reads the clocks

use openai_api_proxy::base::clock::{Now, nanoseconds};
use openai_api_proxy::base::log::{Level, LogFormat};
use openai_api_proxy::cli::first_lines::{first_lines, url};
use openai_api_proxy::cli::help_command::{language, paged};
use openai_api_proxy::cli::reconcile_command::ReconcileCommand;
use openai_api_proxy::cli::{self, Command, EXIT_USAGE};
use openai_api_proxy::config::{Config, Durability};
use openai_api_proxy::io::Io;
use openai_api_proxy::io::sockets::Sockets;
use openai_api_proxy::ledger::database;
use openai_api_proxy::limit::in_force::SettingsLimits;
use openai_api_proxy::metrics::Metrics;
use openai_api_proxy::price::PriceTable;
use openai_api_proxy::proxy::{Proxy, Settings, Timeouts, egress_tunnel};
use openai_api_proxy::reactor::Reactor;
use openai_api_proxy::reload::{self, Reloader};
use openai_api_proxy::signal::Watch;
use openai_api_proxy::systemd;
use openai_api_proxy::tls::Connector;
use openai_api_proxy::worker::certificate_watch::CertificateWatch;
use openai_api_proxy::worker::ledger::Options;
use openai_api_proxy::worker::logger::{self, event, say};
use openai_api_proxy::worker::price_fetcher::{self, PriceFetcher};
use openai_api_proxy::worker::process;
use openai_api_proxy::worker::settings_in_force::SettingsInForce;
use openai_api_proxy::worker::threads::WorkerThreads;
use openai_api_proxy::worker::{EventSender, unix_now};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::termios::tcgetwinsize;
use std::io::{ErrorKind, IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

/// Lines of the ledger that an exchange may have under way at once: a session's, of a part of it with images, and the
/// journal's.
const RECORDS_PER_CLIENT: usize = 4;
/// Records under way to the ledger beside those of the exchanges in flight.
const LEDGER_QUEUE_RECORDS: usize = 10_000;

/// From here on a pause of a command is told of.
const TOLD_PAUSE: Duration = Duration::from_secs(5);
/// How long clients beyond `MAX_CONNECTIONS` wait for a place before they are refused.
const OVERLOAD_WAIT: Duration = Duration::from_secs(2);
/// Request bodies of so many bytes are read by a thread: the worst of them take the loop a few milliseconds.
const LONG_BODY_BYTES: usize = 64 * 1024;

fn main() -> ExitCode {
    match cli::parse(std::env::args_os().skip(1)) {
        Ok(Command::Print(text)) => {
            print(text);
            ExitCode::SUCCESS
        }
        Ok(Command::Serve) => {
            let code = configured(serve);
            logger::finish();
            code
        }
        Ok(Command::Check { json }) => cli::check::run(Config::from_process(), json, &mut print),
        Ok(Command::Healthcheck) => configured(|config| cli::health::run(config.listen, config.certificate.is_some())),
        Ok(Command::Help(command)) => {
            let text = cli::help_command::text(command, terminal_columns(), language(variable));
            if !paged(&text, variable("PAGER")) {
                print(&text);
            }
            ExitCode::SUCCESS
        }
        Ok(Command::Keys(command)) => on_ledger(command.is_for_people(), |path, _| {
            let (out, aside) = cli::keys_command::run(&command, path, unix_now())?;
            print(&out);
            aside.into_iter().for_each(|line| say(format_args!("{line}")));
            Ok(())
        }),
        Ok(Command::Usage(command)) => on_ledger(command.is_for_people(), |path, settings| {
            let stdout = std::io::stdout();
            let answer = cli::usage_command::run(&command, (path, settings), unix_now(), terminal_columns())?;
            match stdout.lock().write_all(&answer) {
                // Whoever reads it has enough, as `head` has.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
                written => written.map_err(|error| format!("the answer cannot be written: {error}")),
            }
        }),
        Ok(Command::Prices(command)) => configured(|config| {
            print(&cli::prices_command::run(&command, &config)?);
            Ok(())
        }),
        Ok(Command::Reconcile(command)) => reconcile(&command),
        Ok(Command::Limits(command)) => on_ledger(command.is_for_people(), |path, _| {
            print(&cli::limits_command::run(&command, path, unix_now())?);
            Ok(())
        }),
        Ok(Command::Users(command)) => on_ledger(command.is_for_people(), |path, _| {
            print(&cli::users_command::run(&command, path, unix_now())?);
            Ok(())
        }),
        Err(message) => {
            logger::failure(&message);
            ExitCode::from(EXIT_USAGE)
        }
    }
}

/// Writes to standard output. Whoever reads it may have had enough (`| head`), which is no failure.
fn print(text: &str) {
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}

/// Columns of the terminal that standard output is; none where it is none, or does not say.
fn terminal_columns() -> Option<usize> {
    let size = tcgetwinsize(std::io::stdout()).ok()?;
    Some(usize::from(size.ws_col)).filter(|&columns| columns > 0)
}

fn configured(run: impl FnOnce(Config) -> Result<(), String>) -> ExitCode {
    let config = match Config::from_process() {
        Ok(config) => config,
        Err(problems) => {
            for problem in problems {
                say(format_args!("proxy-server: {problem}"));
            }
            return ExitCode::from(EXIT_USAGE);
        }
    };
    match run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            logger::failure(&message);
            ExitCode::FAILURE
        }
    }
}

/// Runs a command on the ledger. Which file that is depends on the folder, so it is told, beside the answer: also where
/// the command then fails. `is_told` is false where the answer is for a program, which may take any line for trouble.
fn on_ledger(is_told: bool, run: impl FnOnce(&Path, &SettingsLimits) -> Result<(), String>) -> ExitCode {
    configured(|config| {
        let path = database::absolute(&config.database_path)?;
        let tell = |note: &str| {
            if is_told && path.exists() {
                say(format_args!("ledger: {}{note}", path.display()));
            }
            path.exists()
        };
        let was_there = tell("");
        let done = run(&path, &limits(&config));
        if !was_there {
            tell(" (new)");
        }
        done
    })
}

/// Compares with the provider's books: 0 where both agree, 1 where not, 2 where it could not be done.
fn reconcile(command: &ReconcileCommand) -> ExitCode {
    let mut agrees = true;
    let code = configured(|config| {
        let wait = |pause: Duration, why: &str| {
            if pause >= TOLD_PAUSE {
                say(format_args!("OpenAI's books: {why}; the next try is in {} s", pause.as_secs()));
            }
            std::thread::sleep(pause);
            true
        };
        let (text, agreed) = cli::reconcile_command::run(command, &config, unix_now(), terminal_columns(), &wait)?;
        print(&text);
        agrees = agreed;
        Ok(())
    });
    match code {
        ExitCode::SUCCESS if agrees => ExitCode::SUCCESS,
        ExitCode::SUCCESS => ExitCode::FAILURE,
        _ => ExitCode::from(EXIT_USAGE),
    }
}

fn limits(config: &Config) -> SettingsLimits {
    SettingsLimits { user: config.limits, total: config.total_limits }
}

fn serve(config: Config) -> Result<(), String> {
    let handed_over = systemd::listener();
    logger::start(config.log, config.log_format).map_err(|error| format!("the log thread cannot start: {error}"))?;
    let (wanted, listen) = (config.connections_max, config.listen);
    let connections_max = within_descriptors(wanted);
    let settings = settings(&config, connections_max)?;

    let sockets = match handed_over? {
        Some(listener) => Sockets::from_listener(listener),
        None => Sockets::listen(listen),
    };
    let mut sockets = sockets.map_err(|error| {
        let remedy = match error.kind() {
            ErrorKind::AddrInUse => "; another program has it: set PORT, or look with `ss -ltnp`",
            _ => "",
        };
        format!("cannot listen on {listen}: {error}{remedy}")
    })?;
    let address = sockets.local_addr().map_err(|error| error.to_string())?;
    let events = EventSender::new(sockets.waker());
    let ledger = Options {
        fsync: config.ledger_fsync,
        journaled: config.durability == Durability::Journaled,
        relaxed: config.durability == Durability::Relaxed,
        retention_days: config.retention_days,
        export: false,
        backfill: false,
        budgets: config.limits.has_budget() || config.total_limits.has_budget(),
    };
    let export = (config.influx.clone(), &config.egress);
    let limits = SettingsInForce::new(limits(&config));
    let (database, hop) = (&config.database_path, config.next_hop());
    let mut workers = WorkerThreads::start(database, ledger, export, hop, limits.clone(), events.clone())?;
    start_callers(&mut workers, &config, &limits)?;
    let mut prices = config.prices.clone();
    let _fetcher = fetched_prices(&config, &mut prices, &events)?;
    let certificate = config.certificate.clone().map(|found| CertificateWatch::start(found, events.clone()));
    let reloader = Reloader::new(config.clone(), Config::from_process);
    let _watch = Watch::start(events, reloader, certificate.transpose()?, limits)
        .map_err(|error| format!("cannot watch for signals: {error}"))?;
    if connections_max < wanted {
        let why = "MAX_CONNECTIONS lowered: a client may need two open files, and the hard limit of them (ulimit -Hn) \
                   is too low";
        event(Level::Warn, why, &[("wanted", wanted.into()), ("connections", connections_max.into())]);
    }
    config.warnings.iter().for_each(|why| event(Level::Warn, why, &[]));
    warn_of_keys(&config);
    warn_of_modes(&config);
    tell_receivers(&config);
    let families = sockets.families().map_err(|error| error.to_string())?;
    tell_where(&config, address, families)?;
    systemd::notify_ready();

    let started: Now = sockets.now();
    let mut metrics = Metrics::new(config.metrics, started.unix);
    metrics.expose(&workers.take_former_series(), started.mono);
    let mut proxy = Proxy::new(settings, prices, metrics, started);
    proxy.log_up_to(config.log);
    let (delay, drain) = (config.timeouts.shutdown_delay, config.timeouts.drain);
    let mut reactor = Reactor::new(sockets, workers, proxy, nanoseconds(drain)).delayed_by(nanoseconds(delay));
    reactor.run().map_err(|error| format!("cannot wait for events: {error}"))?;
    let ended = reactor.into_workers().shutdown();
    event(Level::Info, "stopped", &[]);
    ended
}

/// Begins to tell of budgets, and to compare with the provider's books, where that is wanted.
fn start_callers(workers: &mut WorkerThreads, config: &Config, limits: &SettingsInForce) -> Result<(), String> {
    if let Some(url) = &config.alert_webhook {
        workers.start_alerts(&config.database_path, (url.clone(), &config.egress), limits.clone())?;
    }
    if config.books.daily && config.books.admin_key.is_some() {
        workers.start_reconciliation(config.clone())?;
    }
    Ok(())
}

/// Where it listens, of these families of addresses; and to a person who looks at a terminal, how to go on.
fn tell_where(config: &Config, address: SocketAddr, families: &'static str) -> Result<(), String> {
    let (told, target) = (address.to_string(), told_target(config));
    let fields = [("addr", told.as_str().into()), ("families", families.into()), ("target", target.as_str().into())];
    event(Level::Info, "listening", &fields);
    if std::io::stderr().is_terminal() && config.log_format == LogFormat::Logfmt {
        let url = url(address, config.certificate.is_some());
        let (language, ledger) = (language(variable), database::absolute(&config.database_path)?);
        first_lines(language, &url, &target, &ledger).iter().for_each(|line| say(format_args!("{line}")));
    }
    Ok(())
}

/// A variable of the environment that is no setting.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Who is sent what, beside the target.
fn tell_receivers(config: &Config) {
    if let Some(influx) = &config.influx {
        event(Level::Info, "exporting to influx", &[("url", influx.shown.as_str().into())]);
    }
    if let Some(url) = &config.alert_webhook {
        event(Level::Info, "budget alerts are sent", &[("url", url.shown.as_str().into())]);
    }
}

/// The target as it is told, after the way to it where there is a proxy on one.
fn told_target(config: &Config) -> String {
    if config.egress.is_set() {
        event(Level::Info, "the way to the target", &[("way", config.way().to_string().as_str().into())]);
    }
    let target = &config.target;
    format!("{}://{}{}", if target.tls { "https" } else { "http" }, target.authority, target.prefix)
}

/// Adds the prices that were fetched last, and begins to fetch them anew.
fn fetched_prices(
    config: &Config,
    prices: &mut PriceTable,
    events: &EventSender,
) -> Result<Option<PriceFetcher>, String> {
    let Some(url) = &config.prices_url else { return Ok(None) };
    match price_fetcher::known(config) {
        Ok(known) => *prices = known,
        Err(why) => event(Level::Warn, "the prices fetched last cannot be read", &[("error", why.as_str().into())]),
    }
    let (database, host) = (&config.database_path, &config.target.host);
    PriceFetcher::start((url.clone(), config.egress.clone()), database, host, prices.clone(), events.clone()).map(Some)
}

/// What operators of client keys easily overlook.
fn warn_of_keys(config: &Config) {
    if config.keys_only && config.api_key.is_none() {
        let why = "CLIENT_AUTH=keys without OPENAI_API_KEY: requests go to the target without any key";
        event(Level::Warn, why, &[]);
    }
    if config.keys_only && config.certificate.is_none() && !config.listen.ip().is_loopback() {
        let why = "client keys cross the network unencrypted: set TLS_CERT_FILE and TLS_KEY_FILE, or let only a server \
                   in front that speaks HTTPS reach this port";
        event(Level::Warn, why, &[]);
    }
    if config.keys_only && config.admin_token.is_none() && !config.listen.ip().is_loopback() {
        let why = "no ADMIN_TOKEN: /usage and /dashboard show each key's holder their own, /metrics is closed; set one \
                   to see all of it";
        event(Level::Warn, why, &[]);
    }
}

/// Files that others on the machine may read.
fn warn_of_modes(config: &Config) {
    for path in [config.database_path.as_path(), Path::new(".env")].into_iter().filter(|path| database::exposed(path)) {
        let path = path.display().to_string();
        let why = "others on this machine may read a file that is nobody else's business: chmod 600";
        event(Level::Warn, why, &[("path", path.as_str().into())]);
    }
}

fn settings(config: &Config, connections_max: usize) -> Result<Settings, String> {
    let (target, changeable) = (&config.target, reload::change(config));
    let tls = target.tls.then(|| Connector::new(&target.host, config.tls_ca.as_deref())).transpose();
    Ok(Settings {
        authority: target.authority.clone(),
        prefix: target.prefix.clone(),
        egress: config
            .way()
            .proxy()
            .map(|proxy| egress_tunnel::request(&target.host, target.port, proxy.credentials())),
        tls: tls.map_err(|error| error.to_string())?,
        authorization: changeable.authorization,
        account: config.account.clone(),
        acceptor: config.certificate.as_ref().map(|certificate| certificate.acceptor.clone()),
        door: config.door.clone(),
        allowed_paths: config.allowed_paths.clone(),
        forward_headers: config.forward_headers.clone(),
        trusted_proxies: config.trusted_proxies.clone(),
        model_name: changeable.model_name,
        keys_only: config.keys_only,
        admin: changeable.admin,
        is_open: config.listen.ip().is_loopback(),
        limits: changeable.limits,
        total_limits: changeable.total_limits,
        reserves_average: config.reserves_average,
        allows_unmetered: config.allows_unmetered,
        asks_usage: config.asks_usage,
        read_on: config.read_on,
        connections_max,
        connections_of_address_max: config.connections_of_address_max,
        body_bytes_max: config.body_bytes_max as u64,
        long_body_bytes: LONG_BODY_BYTES,
        buffered_bytes_max: config.buffered_bytes_max,
        settled: config.durability != Durability::Relaxed,
        journaled: config.durability == Durability::Journaled,
        ledger_places: connections_max * RECORDS_PER_CLIENT + LEDGER_QUEUE_RECORDS,
        timeouts: Timeouts {
            connect: nanoseconds(config.timeouts.connect),
            response: nanoseconds(config.timeouts.response),
            idle: nanoseconds(config.timeouts.idle),
            header: nanoseconds(config.timeouts.header),
            read_on: nanoseconds(config.read_on_max),
            ledger_wait: config.ledger_wait.map_or(0, nanoseconds),
            overload: nanoseconds(OVERLOAD_WAIT),
        },
    })
}

/// Raises the soft descriptor limit, and says how many clients there can be: each may need two descriptors.
fn within_descriptors(wanted: usize) -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    // Where it may not be raised, what is there must do.
    let current = if setrlimit(Resource::Nofile, raised).is_ok() { limit.maximum } else { limit.current };
    current.map_or(wanted, |descriptors| wanted.min(process::clients_of(descriptors)))
}
