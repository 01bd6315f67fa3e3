//! `proxy-server check`: the first thing to run when something does not work.
//!
//! In: the configuration. Out: a [`Finding`] for each thing that the server needs, or that an operator would want to
//! know: how it is, why, and what to do. It may take as long as the target's timeouts. Never: a change of the ledger, a
//! secret in a line, a request that costs anything.

use super::findings::{Finding, Findings};
use super::fleet_command::PATIENCE;
use super::target_probe::{self, Answer, Peer};
use super::{EXIT_USAGE, health, prices_command};
use crate::config::{Config, Fleet, Problem, Way};
use crate::fleet::schema;
use crate::io::sockets;
use crate::ledger::database::{self, Found};
use crate::policy::AllowedPaths;
use crate::postgres::PostgresClient;
use crate::worker::certificate_watch::{WARN_BEFORE, shown};
use crate::worker::export::Server;
use crate::worker::price_fetcher;
use crate::worker::process::clients_max;
use crate::worker::reconciler;
use crate::worker::unix_now;
use std::io::ErrorKind;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::Path;
use std::process::ExitCode;

const NANOS_PER_SECOND: u64 = 1_000_000_000;
/// How far the clock may be from the target's, seconds.
const CLOCK_SECONDS_MAX: u64 = 30;
/// Prices are old after so many days.
const PRICES_DAYS_MAX: u64 = 180;

/// Checks everything, and gives each line to `print` as soon as it is known, or all as one document of `json`; the exit
/// status. Where the configuration is wrong, nothing else is looked at.
pub fn run(config: Result<Config, Vec<Problem>>, json: bool, print: &mut dyn FnMut(&str)) -> ExitCode {
    let mut findings = Findings::new(json, print);
    let config = match config {
        Ok(config) => config,
        Err(problems) => {
            let remedy = "change it in the environment or in .env; .env.example says what each name means";
            problems
                .iter()
                .for_each(|problem| findings.add("configuration", Finding::fail(problem.to_string(), remedy)));
            findings.end();
            return ExitCode::from(EXIT_USAGE);
        }
    };
    settings(&config, &mut findings);
    findings.add("listen", listen(config.listen, config.shares_port, config.certificate.is_some()));
    if let Some(certificate) = &config.certificate {
        findings.add("certificate", validity(certificate.acceptor.expires_at()));
    }
    findings.add("anonymous", anonymous(&config));
    findings.add("descriptors", descriptors(config.connections_max, clients_max()));
    target(&config, &mut findings);
    findings.add("ledger", ledger(&config));
    findings.add("files", files(&config));
    findings.add("prices", prices(&config));
    if let Some(influx) = &config.influx {
        let remedy = "look at INFLUXDB_URL and the variables around it, and whether the server runs";
        findings.add(
            "influx",
            match Server::new(influx.clone(), &config.egress).check() {
                Ok(()) => Finding::ok(format!("{} lets writes in", influx.shown)),
                Err(why) => Finding::fail(format!("{}: {why}", influx.shown), remedy),
            },
        );
    }
    if let Some(fleet) = &config.fleet {
        findings.add("fleet", fleet_state(fleet));
    }
    if config.books.admin_key.is_some() {
        findings.add("reconcile", books(&config));
    }
    if findings.end() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Whether the fleet's database is reached, and what it holds.
fn fleet_state(fleet: &Fleet) -> Finding {
    let reached = PostgresClient::connect(&fleet.url, PATIENCE).and_then(|mut client| schema::describe(&mut client));
    match reached {
        Ok(schema) => Finding::ok(format!("{} takes node {} in: {schema}", fleet.url.shown(), fleet.node)),
        Err(why) => Finding::fail(why.to_string(), "look at FLEET_URL, and at the database and its pg_hba.conf"),
    }
}

/// Of settings that are valid, those that are probably not meant.
fn settings(config: &Config, findings: &mut Findings<'_>) {
    let mut doubts: Vec<(String, &str)> =
        config.warnings.iter().map(|why| (why.clone(), "set what belongs to it, or take it away")).collect();
    if config.target.prefix.ends_with("/v1") {
        let why = "PROXY_TARGET ends in /v1, which requests have in their own paths".to_owned();
        doubts.push((why, "take /v1 away, unless the target wants it twice"));
    }
    if config.keys_only && config.api_key.is_none() {
        let why = "CLIENT_AUTH=keys without OPENAI_API_KEY: requests go to the target without any key".to_owned();
        doubts.push((why, "set OPENAI_API_KEY, unless the target asks for none"));
    }
    if config.listen.port() == 0 {
        doubts.push(("PORT=0 is another port at each start".to_owned(), "set the PORT that clients know"));
    }
    if doubts.is_empty() {
        findings.add("configuration", Finding::ok("every variable has a valid value"));
    }
    for (why, remedy) in doubts {
        findings.add("configuration", Finding::warn(why, remedy));
    }
}

/// Of the certificate that clients are shown, which expires then, seconds since the Unix epoch.
fn validity(expires_at: u64) -> Finding {
    let (expiry, left) = (shown(expires_at), expires_at.saturating_sub(unix_now() / NANOS_PER_SECOND));
    let remedy = "renew the file that TLS_CERT_FILE names";
    match left {
        0 => Finding::fail(format!("it has expired on {expiry}"), remedy),
        left if left < WARN_BEFORE => Finding::warn(format!("it expires on {expiry}"), remedy),
        _ => Finding::ok(format!("it is good until {expiry}")),
    }
}

fn listen(address: SocketAddr, shares: bool, tls: bool) -> Finding {
    match sockets::bind(address, shares) {
        Ok(_) if shares => Finding::ok(format!("{address} is free, or shared (REUSE_PORT)")),
        Ok(_) => Finding::ok(format!("{address} is free")),
        Err(error) if error.kind() == ErrorKind::AddrInUse && health::run(address, tls).is_ok() => {
            Finding::ok(format!("{address} is served by a proxy that answers"))
        }
        Err(error) => {
            let remedy = match error.kind() {
                ErrorKind::AddrInUse => "another program has it: look with `ss -ltnp`, or choose another PORT",
                ErrorKind::PermissionDenied => "choose a PORT from 1024 on, or allow this one (CAP_NET_BIND_SERVICE)",
                _ => "HOST must be an address of this machine",
            };
            Finding::fail(format!("{address}: {error}"), remedy)
        }
    }
}

/// How the target and whatever else is called are reached, where there is a proxy on any way out.
fn ways(config: &Config) -> Vec<(&str, Way<'_>)> {
    let (egress, target) = (&config.egress, &config.target);
    let called = [&config.prices_url, &config.alert_webhook].map(|url| url.as_ref().map(|url| &url.shown));
    let others = [config.influx.as_ref().map(|influx| &influx.shown)].into_iter().chain(called);
    let others = others.flatten().filter_map(|shown| Some((shown.as_str(), egress.way_to(&shown.parse().ok()?))));
    let first = (target.authority.as_str(), config.way());
    [first].into_iter().chain(others).filter(|_| egress.is_set()).collect()
}

/// What whoever reaches the port may do without a key or a token.
fn anonymous(config: &Config) -> Finding {
    let is_near = config.listen.ip().is_loopback();
    let who = if is_near { "whoever is on this machine" } else { "whoever reaches the port" };
    let paths = match &config.allowed_paths {
        AllowedPaths::All => "everything".to_owned(),
        AllowedPaths::Inference => "what generates".to_owned(),
        AllowedPaths::Under(paths) => paths.join(", "),
    };
    let relays = match (config.keys_only, config.api_key.is_some()) {
        (true, _) => "nothing is relayed without a client key".to_owned(),
        (false, true) => format!("{who} may relay {paths} on your OPENAI_API_KEY, under any user's name"),
        (false, false) => format!("{who} may relay {paths} with a key of their own, under any user's name"),
    };
    let sees_all = config.admin_token.is_none() && (is_near || !config.keys_only);
    let reads = match (config.admin_token.is_some(), sees_all) {
        (true, _) => "/usage, /dashboard and /metrics ask for ADMIN_TOKEN".to_owned(),
        (false, true) => format!("{who} may read everybody's /usage, /dashboard and /metrics"),
        (false, false) => "holders of client keys read their own /usage and /dashboard".to_owned(),
    };
    let detail = format!("{relays}; {reads}");
    match (is_near, !config.keys_only && config.api_key.is_some(), sees_all) {
        (false, true, _) => Finding::warn(detail, "CLIENT_AUTH=keys lets only holders of keys in"),
        (false, _, true) => Finding::warn(detail, "set ADMIN_TOKEN, at least 16 characters"),
        _ if !is_near && config.keys_only && config.certificate.is_none() => {
            let remedy = "keys cross the network unencrypted: set TLS_CERT_FILE and TLS_KEY_FILE, or let only a server \
                          in front that speaks HTTPS reach this port";
            Finding::warn(detail, remedy)
        }
        _ => Finding::ok(detail),
    }
}

/// Files that may be open, beside the clients that may be connected.
fn descriptors(wanted: usize, possible: Option<usize>) -> Finding {
    match possible {
        Some(possible) if possible < wanted => Finding::warn(
            format!("MAX_CONNECTIONS is {wanted}, and the limit of open files is enough for {possible} clients"),
            "raise the hard limit (LimitNOFILE= in a unit, ulimit -Hn), or lower MAX_CONNECTIONS",
        ),
        _ => Finding::ok(format!("enough for {wanted} clients (MAX_CONNECTIONS)")),
    }
}

/// The way to the target, and what it says.
fn target(config: &Config, findings: &mut Findings<'_>) {
    if config.tls_ca.is_none() && std::env::var_os("SSL_CERT_FILE").is_some_and(|file| !file.is_empty()) {
        let found = "SSL_CERT_FILE is not read: TLS_CA_FILE names authorities to trust beside Mozilla's";
        findings.add("authorities", Finding::ok(found));
    }
    for (whom, way) in ways(config) {
        findings.add("egress", Finding::ok(format!("{whom} {way}")));
    }
    let (host, port) = config.next_hop();
    let addresses = match resolve(host, port) {
        Ok(addresses) => addresses,
        Err(failure) => return findings.add("resolve", failure),
    };
    let list: Vec<_> = addresses.iter().map(|address| address.ip().to_string()).collect();
    findings.add("resolve", Finding::ok(format!("{host} is {}", list.join(", "))));
    let step = if config.target.tls { "tls" } else { "connect" };
    let (found, peer) = reach(config, &addresses);
    findings.add(step, found);
    let Some(peer) = peer else { return };
    match peer.ask(config) {
        Err(why) => {
            let remedy = "does a server that speaks HTTP run at PROXY_TARGET?";
            findings.add("answer", Finding::fail(format!("GET /v1/models: {why}"), remedy));
        }
        Ok(answer) => {
            findings.add("answer", answered(answer, config.api_key.is_some()));
            findings.add("clock", clock(answer.date, unix_now()));
        }
    }
}

fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, Finding> {
    let why = match (host, port).to_socket_addrs().map(Iterator::collect::<Vec<_>>) {
        Ok(addresses) if !addresses.is_empty() => return Ok(addresses),
        Ok(_) => "it has no address".to_owned(),
        Err(error) => error.to_string(),
    };
    let remedy = "look at PROXY_TARGET and HTTPS_PROXY, at the network, and at /etc/resolv.conf";
    Err(Finding::fail(format!("{host}: {why}"), remedy))
}

/// Any of the addresses will do, as for the server.
fn reach(config: &Config, addresses: &[SocketAddr]) -> (Finding, Option<Peer>) {
    let mut failures = Vec::new();
    for &address in addresses {
        let answers = match config.way().proxy() {
            None => format!("{address} answers"),
            Some(_) => format!("{} answers through {address}", config.target.authority),
        };
        match target_probe::connect(config, address) {
            Ok(peer) if failures.is_empty() => return (Finding::ok(answers), Some(peer)),
            Ok(peer) => {
                let detail = format!("{answers}, others do not: {}", failures.join("; "));
                return (Finding::warn(detail, "each new connection may try those first"), Some(peer));
            }
            Err(why) => failures.push(format!("{address}: {why}")),
        }
    }
    let remedy = match (config.way().proxy(), config.target.tls) {
        (Some(_), _) => "look at HTTPS_PROXY, HTTP_PROXY and NO_PROXY; a private authority belongs into TLS_CA_FILE",
        (None, true) => "is PROXY_TARGET right, and reachable from here? A private authority belongs into TLS_CA_FILE",
        (None, false) => "is PROXY_TARGET right, and reachable from here?",
    };
    (Finding::fail(failures.join("; "), remedy), None)
}

/// What the target says to the operator's key, or to none.
fn answered(answer: Answer, has_key: bool) -> Finding {
    let Answer { status, .. } = answer;
    let detail = format!("GET /v1/models is answered {status}");
    match (status, has_key) {
        (401 | 403, true) => Finding::fail(
            format!("{detail}: it refuses the key"),
            "look at OPENAI_API_KEY, OPENAI_ORGANIZATION and OPENAI_PROJECT",
        ),
        (401 | 403, false) => Finding::ok(format!("{detail} without a key, which clients bring")),
        (500.., _) => Finding::warn(detail, "the target is in trouble, or PROXY_TARGET is another server's"),
        (404, _) => Finding::warn(detail, "is PROXY_TARGET right? /v1/… is put after it"),
        _ => Finding::ok(detail),
    }
}

/// The target's clock beside ours, nanoseconds since the Unix epoch: budgets end by ours, and it judges certificates.
fn clock(theirs: Option<u64>, ours: u64) -> Finding {
    let Some(theirs) = theirs else { return Finding::ok("the target does not say what time it is") };
    let seconds = ours.abs_diff(theirs) / NANOS_PER_SECOND;
    let side = if ours > theirs { "ahead of" } else { "behind" };
    match seconds {
        0..=CLOCK_SECONDS_MAX => Finding::ok(format!("{seconds} s from the target's")),
        _ => Finding::warn(format!("{seconds} s {side} the target's"), "set it, by NTP (timedatectl set-ntp true)"),
    }
}

fn ledger(config: &Config) -> Finding {
    let path = config.database_path.display();
    match database::check(&config.database_path) {
        Ok(Found::Nothing) => Finding::ok(format!("{path} can be created")),
        Ok(Found::Ledger) => Finding::ok(format!("{path} is sound and can be written")),
        Ok(Found::Older) => Finding::ok(format!("{path} is an older version's; the server will bring it up to date")),
        Err(why) => Finding::fail(why, "look at DATABASE_PATH, and at the permissions of the file and its folder"),
    }
}

/// Who may read what is nobody else's business.
fn files(config: &Config) -> Finding {
    let paths = [config.database_path.as_path(), Path::new(".env")];
    let exposed: Vec<_> =
        paths.iter().filter(|path| database::exposed(path)).map(|path| path.display().to_string()).collect();
    if exposed.is_empty() {
        return Finding::ok("nobody else on this machine may read the ledger or .env");
    }
    let list = exposed.join(" and ");
    Finding::warn(format!("others on this machine may read {list}"), format!("chmod 600 {}", exposed.join(" ")))
}

/// Whether the provider's own books let themselves be read.
fn books(config: &Config) -> Finding {
    let books = &config.books;
    let what = match (books.key_ids.len(), books.project_ids.len()) {
        (0, 0) => "of the whole organisation".to_owned(),
        (0, projects) => format!("of {projects} projects"),
        (keys, _) => format!("of {keys} keys"),
    };
    let when = if books.daily { "each day" } else { "by proxy-server reconcile alone (RECONCILE=off)" };
    match reconciler::probe(config) {
        Ok(()) => Finding::ok(format!("OPENAI_ADMIN_KEY reads OpenAI's books {what}, {when}")),
        Err(why) => Finding::fail(why, "look at OPENAI_ADMIN_KEY, RECONCILE_API_KEY_IDS and RECONCILE_PROJECT_IDS"),
    }
}

fn prices(config: &Config) -> Finding {
    let prices = match price_fetcher::known(config) {
        Ok(prices) => prices,
        Err(why) => return Finding::fail(why, "remove the file: it is fetched again"),
    };
    let newest = prices.dates().into_iter().map(|(_, at)| at).max().unwrap_or_default();
    let days = (unix_now() / NANOS_PER_SECOND).saturating_sub(newest) / 86_400;
    let detail = format!("{}, {days} days old", prices_command::ages(&prices));
    match days {
        0..=PRICES_DAYS_MAX => Finding::ok(detail),
        _ => Finding::warn(detail, "bring the program up to date, or set PRICES_URL"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(dotenv: &str) -> Finding {
        anonymous(&Config::load(&|_| None, dotenv).expect("it is valid"))
    }

    #[test]
    fn what_strangers_may_do_is_told_as_it_is() {
        const BEYOND: &str = "HOST=0.0.0.0\n";
        const KEYS: &str = "HOST=0.0.0.0\nCLIENT_AUTH=keys\nOPENAI_API_KEY=k\n";
        const ADMIN: &str = "ADMIN_TOKEN=0123456789abcdef\n";
        for (dotenv, status, parts) in [
            (
                String::new(),
                "Ok",
                ["on this machine may relay everything with a key of their own", "everybody's /usage"],
            ),
            (BEYOND.into(), "Warn", ["whoever reaches the port", "set ADMIN_TOKEN"]),
            (format!("{BEYOND}{ADMIN}"), "Ok", ["with a key of their own", "ask for ADMIN_TOKEN"]),
            (
                format!("{BEYOND}{ADMIN}OPENAI_API_KEY=k\nALLOW_ANONYMOUS=true\n"),
                "Warn",
                ["on your", "CLIENT_AUTH=keys"],
            ),
            (KEYS.into(), "Warn", ["nothing is relayed without", "read their own"]),
            (format!("{KEYS}{ADMIN}"), "Warn", ["ask for ADMIN_TOKEN", "TLS_CERT_FILE"]),
            ("ALLOWED_PATHS=/v1/chat\n".into(), "Ok", ["may relay /v1/chat with", "everybody's"]),
        ] {
            let found = format!("{:?}", of(&dotenv));
            assert!(found.contains(status) && parts.iter().all(|part| found.contains(part)), "{dotenv}: {found}");
        }
    }

    #[test]
    fn clocks_and_answers_are_judged() {
        let at = |seconds: u64| seconds * NANOS_PER_SECOND;
        assert_eq!(clock(Some(at(1_000)), at(1_030)), Finding::ok("30 s from the target's"));
        for (ours, side) in [(1_031, "31 s ahead of"), (969, "31 s behind")] {
            assert!(format!("{:?}", clock(Some(at(1_000)), at(ours))).contains(side));
        }
        let judged = |status, has_key| format!("{:?}", answered(Answer { status, date: None }, has_key));
        assert!(judged(401, true).contains("Fail") && judged(401, false).contains("Ok"));
        assert!(judged(404, true).contains("Warn") && judged(200, true).contains("Ok"));
        assert!(format!("{:?}", descriptors(10, Some(9))).contains("Warn"));
        assert_eq!(descriptors(10, None), descriptors(10, Some(10)));
    }
}
