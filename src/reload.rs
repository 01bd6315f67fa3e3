//! SIGHUP: reads the configuration anew, and hands over what can change without a restart: all of it or nothing.
//!
//! In: the configuration that is in force. Out: [`Change`], and lines that name every variable that differs, those that
//! need a restart apart, or say why nothing was taken. It runs on the thread that watches for signals: files are read,
//! the loop is not held up. Never: a secret in a line.

use crate::access::Hash;
use crate::base::log::{Level, Note};
use crate::config::{Config, Problem, Timeouts};
use crate::policy::Change;
use std::sync::Arc;

/// The configuration in force, and how to read it.
pub struct Reloader {
    current: Config,
    read: fn() -> Result<Config, Vec<Problem>>,
}

impl Reloader {
    /// `read` reads the configuration anew.
    pub fn new(current: Config, read: fn() -> Result<Config, Vec<Problem>>) -> Self {
        Self { current, read }
    }

    /// True where a signal to stop does not drain at once.
    pub fn delays_stop(&self) -> bool {
        !self.current.timeouts.shutdown_delay.is_zero()
    }

    /// The new settings, if the configuration is valid and any of them differs; and what to tell the operator.
    pub fn reload(&mut self) -> (Option<Change>, Vec<Note>) {
        let new = match (self.read)() {
            Ok(new) => new,
            Err(problems) => {
                let refused = "configuration refused";
                let problems = problems.iter().map(|problem| Note::new(Level::Error, refused).with("error", problem));
                let nothing = Note::new(Level::Error, "configuration not reloaded, nothing has changed");
                return (None, problems.chain([nothing]).collect());
            }
        };
        let (at_once, at_restart) = differences(&self.current, &new);
        let changed = |name| Note::new(Level::Info, "configuration changed").with("variables", name);
        let mut lines: Vec<Note> = at_once.iter().map(changed).collect();
        if !at_restart.is_empty() {
            let names = at_restart.join(",");
            lines.push(Note::new(Level::Warn, "variables that need a restart have changed").with("variables", names));
        }
        if lines.is_empty() {
            lines.push(Note::new(Level::Info, "configuration read again, nothing to change"));
        }
        if at_once.is_empty() {
            return (None, lines);
        }
        take(&mut self.current, &new);
        (Some(change(&self.current)), lines)
    }
}

/// The variables whose settings differ: those that [`take`] takes, and those that need a restart.
///
/// The pattern has no `..`: it does not compile with a setting that is added later, until that is compared too.
#[rustfmt::skip] // a table
fn differences(old: &Config, new: &Config) -> (Vec<&'static str>, Vec<&'static str>) {
    let Config {
        target, egress, api_key, account, door, allowed_paths, forward_headers, trusted_proxies, model_name, listen,
        shares_port, database_path, durability, ledger_fsync, ledger_wait, retention_days, read_on, read_on_max, limits,
        total_limits, reserves_average, allows_unmetered, asks_usage, keys_only, admin_token, connections_max,
        connections_of_address_max, body_bytes_max, buffered_bytes_max, timeouts,
        tls_ca, certificate, prices, prices_url, alert_webhook, books, influx, fleet, metrics, log, log_format,
        warnings: _,
    } = new;
    let Timeouts { connect, response, idle, header, shutdown_delay, drain } = timeouts;
    let names = |settings: &[(bool, &'static str)]| {
        settings.iter().filter_map(|&(differs, names)| differs.then_some(names)).collect()
    };
    let is_same_certificate = match (&old.certificate, certificate) {
        (Some(old), Some(new)) => old.is_of_same_files(new), // what is in them is looked after elsewhere
        (old, new) => old.is_none() && new.is_none(),
    };
    let at_once = names(&[
        (old.limits != *limits, "RATE_LIMIT_*,MAX_CONCURRENT_PER_USER,BUDGET_*"),
        (old.total_limits != *total_limits, "TOTAL_*"),
        (old.api_key != *api_key, "OPENAI_API_KEY,OPENAI_API_KEY_FILE"),
        (old.admin_token != *admin_token, "ADMIN_TOKEN,ADMIN_TOKEN_FILE"),
        (old.model_name != *model_name, "MODEL_NAME"),
        (old.prices != *prices, "PRICES_FILE,PRICE_FACTOR"),
        (old.log != *log, "LOG"),
    ]);
    let at_restart = names(&[
        (old.target != *target, "PROXY_TARGET"),
        (old.egress != *egress, "HTTPS_PROXY,HTTP_PROXY,NO_PROXY"),
        (old.account != *account, "OPENAI_ORGANIZATION,OPENAI_PROJECT"),
        (old.door != *door, "ALLOWED_HOSTS,ALLOWED_ORIGINS"),
        (old.allowed_paths != *allowed_paths, "ALLOWED_PATHS"),
        (old.forward_headers != *forward_headers, "FORWARD_HEADERS"),
        (old.trusted_proxies != *trusted_proxies, "TRUSTED_PROXIES"),
        (old.tls_ca != *tls_ca, "TLS_CA_FILE"),
        (!is_same_certificate, "TLS_CERT_FILE,TLS_KEY_FILE"),
        (old.listen != *listen, "HOST,PORT"),
        (old.shares_port != *shares_port, "REUSE_PORT"),
        (old.connections_max != *connections_max, "MAX_CONNECTIONS"),
        (old.connections_of_address_max != *connections_of_address_max, "MAX_CONNECTIONS_PER_ADDRESS"),
        (old.body_bytes_max != *body_bytes_max, "MAX_BODY_BYTES"),
        (old.buffered_bytes_max != *buffered_bytes_max, "MAX_BUFFERED_BYTES"),
        (old.keys_only != *keys_only, "CLIENT_AUTH"),
        (old.database_path != *database_path, "DATABASE_PATH"),
        (old.durability != *durability, "LEDGER_DURABILITY"),
        (old.ledger_fsync != *ledger_fsync, "LEDGER_FSYNC"),
        (old.ledger_wait != *ledger_wait, "LEDGER_WAIT"),
        (old.retention_days != *retention_days, "RETENTION_DAYS"),
        (old.read_on != *read_on, "ON_CLIENT_ABORT"),
        (old.read_on_max != *read_on_max, "DRAIN_MAX_SECONDS"),
        (old.reserves_average != *reserves_average, "BUDGET_RESERVE"),
        (old.allows_unmetered != *allows_unmetered, "UNMETERED"),
        (old.asks_usage != *asks_usage, "STREAM_USAGE"),
        (old.timeouts.connect != *connect, "CONNECT_TIMEOUT"),
        (old.timeouts.response != *response, "RESPONSE_TIMEOUT"),
        (old.timeouts.idle != *idle, "IDLE_TIMEOUT"),
        (old.timeouts.header != *header, "HEADER_TIMEOUT"),
        (old.timeouts.shutdown_delay != *shutdown_delay, "SHUTDOWN_DELAY"),
        (old.timeouts.drain != *drain, "DRAIN_TIMEOUT"),
        (old.metrics != *metrics, "METRICS_*"),
        (old.log_format != *log_format, "LOG_FORMAT"),
        (old.influx != *influx, "INFLUXDB_*"),
        (old.fleet != *fleet, "FLEET_*,PGPASSFILE"),
        (old.prices_url != *prices_url, "PRICES_URL,PRICES_URL_FILE"),
        (old.alert_webhook != *alert_webhook, "ALERT_WEBHOOK_URL,ALERT_WEBHOOK_URL_FILE"),
        (old.books != *books, "OPENAI_ADMIN_KEY,OPENAI_ADMIN_KEY_FILE,RECONCILE*"),
    ]);
    (at_once, at_restart)
}

fn take(current: &mut Config, new: &Config) {
    current.limits = new.limits;
    current.total_limits = new.total_limits;
    current.api_key.clone_from(&new.api_key);
    current.admin_token.clone_from(&new.admin_token);
    current.model_name.clone_from(&new.model_name);
    current.prices.clone_from(&new.prices);
    current.log = new.log;
}

/// The settings of a configuration that can change while the proxy runs.
pub fn change(config: &Config) -> Change {
    Change {
        limits: config.limits,
        total_limits: config.total_limits,
        authorization: config.api_key.as_ref().map(|key| format!("Bearer {}", key.expose())),
        admin: config.admin_token.as_ref().map(|token| Hash::of(token.expose().as_bytes())),
        model_name: config.model_name.as_deref().map(Arc::from),
        prices: config.prices.clone(),
        log: config.log,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    thread_local! {
        static DOTENV: RefCell<String> = const { RefCell::new(String::new()) };
    }

    fn read() -> Result<Config, Vec<Problem>> {
        DOTENV.with_borrow(|dotenv| Config::load(&|_| None, dotenv))
    }

    fn write(dotenv: &str) {
        DOTENV.set(dotenv.to_owned());
    }

    #[test]
    fn what_can_change_does_and_the_rest_is_told() {
        write("PORT=1\nOPENAI_API_KEY=sk-old\n");
        let mut reloader = Reloader::new(read().unwrap(), read);
        assert!(reloader.reload().0.is_none());
        write("PORT=2\nOPENAI_API_KEY=sk-new\nRATE_LIMIT_TPM=7\nADMIN_TOKEN=t-0123456789abcdef\n");
        let (change, lines) = reloader.reload();
        let change = change.unwrap();
        assert_eq!(change.authorization.as_deref(), Some("Bearer sk-new"));
        assert_eq!(change.limits.tokens.map(|rate| rate.per_minute), Some(7));
        assert_eq!(change.admin, Some(Hash::of(b"t-0123456789abcdef")));
        let lines = format!("{lines:?}");
        for part in ["RATE_LIMIT_", "OPENAI_API_KEY", "ADMIN_TOKEN", "need a restart"] {
            assert!(lines.contains(part), "{part} in {lines}");
        }
        assert!(!lines.contains("sk-") && !lines.contains("MODEL_NAME"), "{lines}");
    }

    /// Another value for each variable, and what must be set beside it so that it counts.
    const OTHERS: [(&str, &str, &str); 89] = [
        ("PROXY_TARGET", "http://other", ""),
        ("OPENAI_API_KEY", "sk-hush", ""),
        ("OPENAI_API_KEY_FILE", HUSH, ""),
        ("MODEL_NAME", "other", ""),
        ("OPENAI_ORGANIZATION", "org-1", "OPENAI_API_KEY=k\n"),
        ("OPENAI_PROJECT", "proj_1", "OPENAI_API_KEY=k\n"),
        ("ALLOWED_HOSTS", "box.lan", ""),
        ("ALLOWED_PATHS", "/v1/chat", ""),
        ("ALLOWED_ORIGINS", "https://app.example.com", ""),
        ("FORWARD_HEADERS", "cookie", ""),
        ("TRUSTED_PROXIES", "10.0.0.0/8", ""),
        ("TLS_CA_FILE", CA, ""),
        ("HTTPS_PROXY", "http://u:hush@other:1", ""),
        ("HTTP_PROXY", "http://u:hush@other:1", ""),
        ("NO_PROXY", "other", "HTTP_PROXY=h:1\n"),
        ("TLS_CERT_FILE", CA, PAIR),
        ("TLS_KEY_FILE", KEY, PAIR),
        ("HOST", "127.0.0.2", ""),
        ("PORT", "1", ""),
        ("REUSE_PORT", "true", ""),
        ("MAX_CONNECTIONS", "1", ""),
        ("MAX_CONNECTIONS_PER_ADDRESS", "1", ""),
        ("MAX_BODY_BYTES", "1KiB", ""),
        ("MAX_BUFFERED_BYTES", "1KiB", ""),
        ("RATE_LIMIT_RPM", "1", ""),
        ("RATE_LIMIT_BURST", "1", ""),
        ("RATE_LIMIT_TPM", "1", ""),
        ("MAX_CONCURRENT_PER_USER", "1", ""),
        ("BUDGET_USD_DAY", "1", ""),
        ("BUDGET_USD_MONTH", "1", ""),
        ("TOTAL_RATE_LIMIT_RPM", "1", ""),
        ("TOTAL_RATE_LIMIT_TPM", "1", ""),
        ("TOTAL_MAX_CONCURRENT", "1", ""),
        ("TOTAL_BUDGET_USD_DAY", "1", ""),
        ("TOTAL_BUDGET_USD_MONTH", "1", ""),
        ("CLIENT_AUTH", "keys", ""),
        ("ADMIN_TOKEN", "hush-0123456789ab", ""),
        ("ADMIN_TOKEN_FILE", HUSH, ""),
        ("DATABASE_PATH", "other.db", ""),
        ("LEDGER_DURABILITY", "relaxed", ""),
        ("LEDGER_FSYNC", "true", ""),
        ("LEDGER_WAIT", "1s", ""),
        ("RETENTION_DAYS", "1", ""),
        ("ON_CLIENT_ABORT", "drain", ""),
        ("DRAIN_MAX_SECONDS", "1", ""),
        ("BUDGET_RESERVE", "average", ""),
        ("UNMETERED", "allow", ""),
        ("STREAM_USAGE", "never", ""),
        ("PRICES_FILE", PRICES, ""),
        ("PRICES_URL", "http://other/?token=hush", ""),
        ("PRICES_URL_FILE", URL, ""),
        ("ALERT_WEBHOOK_URL", "http://other/hush", ""),
        ("ALERT_WEBHOOK_URL_FILE", URL, ""),
        ("OPENAI_ADMIN_KEY", "sk-admin-hush", ""),
        ("OPENAI_ADMIN_KEY_FILE", HUSH, ""),
        ("RECONCILE", "daily", "OPENAI_ADMIN_KEY=k\n"),
        ("RECONCILE_API_KEY_IDS", "key_1", "OPENAI_ADMIN_KEY=k\n"),
        ("RECONCILE_PROJECT_IDS", "proj_1", "OPENAI_ADMIN_KEY=k\n"),
        ("PRICE_FACTOR", "2", ""),
        ("CONNECT_TIMEOUT", "1s", ""),
        ("RESPONSE_TIMEOUT", "1s", ""),
        ("IDLE_TIMEOUT", "1s", ""),
        ("HEADER_TIMEOUT", "1s", ""),
        ("SHUTDOWN_DELAY", "1s", ""),
        ("DRAIN_TIMEOUT", "1s", ""),
        ("METRICS_MAX_USERS", "1", ""),
        ("METRICS_MAX_MODELS", "1", ""),
        ("LOG", "debug", ""),
        ("LOG_FORMAT", "json", ""),
        ("INFLUXDB_URL", "http://other", INFLUX_2),
        ("INFLUXDB_URL_FILE", URL, ""),
        ("INFLUXDB_DATABASE", "other", INFLUX_1),
        ("INFLUXDB_USERNAME", "other", INFLUX_1),
        ("INFLUXDB_PASSWORD", "hush", INFLUX_1),
        ("INFLUXDB_PASSWORD_FILE", HUSH, INFLUX_1),
        ("INFLUXDB_BUCKET", "other", INFLUX_2),
        ("INFLUXDB_ORG", "other", INFLUX_2),
        ("INFLUXDB_TOKEN", "hush", INFLUX_2),
        ("INFLUXDB_CA_FILE", CA, INFLUX_2),
        ("INFLUXDB_TOKEN_FILE", HUSH, "INFLUXDB_URL=http://h\nINFLUXDB_BUCKET=b\n"),
        ("INFLUXDB_BACKFILL", "false", INFLUX_2),
        ("FLEET_URL", "postgres://u:hush@other/d", ""),
        ("FLEET_URL_FILE", FLEET, ""),
        ("FLEET_NODE", "other", "FLEET_URL=postgres://u@h/d\n"),
        ("FLEET_ON_OUTAGE", "closed", "FLEET_URL=postgres://u@h/d\n"),
        ("FLEET_WAIT", "1s", "FLEET_URL=postgres://u@h/d\n"),
        ("FLEET_LEASE", "1m", "FLEET_URL=postgres://u@h/d\n"),
        ("FLEET_POLICY_STALE", "1h", "FLEET_URL=postgres://u@h/d\n"),
        ("PGPASSFILE", PASSWORDS, "FLEET_URL=postgres://u@h/d\n"),
    ];
    const INFLUX_1: &str = "INFLUXDB_URL=http://h\nINFLUXDB_DATABASE=d\nINFLUXDB_USERNAME=u\n";
    const INFLUX_2: &str = "INFLUXDB_URL=http://h\nINFLUXDB_BUCKET=b\nINFLUXDB_TOKEN=t\n";
    /// Stand for files that the test makes.
    const CA: &str = "ca.pem";
    const PRICES: &str = "prices.json";
    const HUSH: &str = "secret";
    const URL: &str = "url";
    const FLEET: &str = "fleet";
    const PASSWORDS: &str = "passwords";
    const KEY: &str = "other.key";
    const PAIR: &str = "TLS_CERT_FILE=FOLDER/pair.pem\nTLS_KEY_FILE=FOLDER/pair.key\n";

    /// `INFLUXDB_*` names every variable that begins so.
    fn names(list: &str, variable: &str) -> bool {
        list.split(',').any(|name| name.strip_suffix('*').map_or(name == variable, |start| variable.starts_with(start)))
    }

    #[test]
    fn each_variable_that_changes_is_named_and_never_its_secret() {
        let folder = tempfile::tempdir().unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let ca = rcgen::CertificateParams::default().self_signed(&key).unwrap().pem();
        for (name, text) in
            [(CA, ca.clone()), ("pair.pem", ca), (KEY, key.serialize_pem()), ("pair.key", key.serialize_pem())]
        {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        std::fs::write(folder.path().join(HUSH), "hush-0123456789ab\n").unwrap();
        std::fs::write(folder.path().join(URL), "http://other/write?db=hush\n").unwrap();
        std::fs::write(folder.path().join(FLEET), "postgres://u:hush@other/d\n").unwrap();
        std::fs::write(folder.path().join(PASSWORDS), "*:*:*:*:hush\n").unwrap();
        std::fs::set_permissions(folder.path().join(PASSWORDS), Permissions::from_mode(0o600)).unwrap();
        std::fs::write(folder.path().join(PRICES), r#"{"mine": {"input_cost_per_token": 1e-6}}"#).unwrap();
        let example =
            include_str!("../.env.example").lines().filter_map(|line| line.strip_prefix('#')?.split_once('='));
        // To allow what nobody asks for changes nothing.
        let is_setting = |name: &&str| name.starts_with(|c: char| c.is_ascii_uppercase()) && *name != "ALLOW_ANONYMOUS";
        for variable in example.map(|(name, _)| name).filter(is_setting) {
            let found = OTHERS.iter().find(|(name, ..)| *name == variable);
            let (_, value, beside) = found.unwrap_or_else(|| panic!("no other value for {variable}"));
            let value = match *value {
                CA | PRICES | KEY | HUSH | URL | FLEET | PASSWORDS => {
                    folder.path().join(value).to_str().unwrap().to_owned()
                }
                value => value.to_owned(),
            };
            let beside = beside.replace("FOLDER", folder.path().to_str().unwrap());
            write(&beside);
            let mut reloader = Reloader::new(read().unwrap(), read);
            let set = |line: &&str| line.split_once('=').is_none_or(|(name, _)| name != variable);
            let others: Vec<_> = beside.lines().filter(set).collect();
            write(&format!("{variable}={value}\n{}", others.join("\n")));
            let (change, lines) = reloader.reload();
            let [Note { level, fields, .. }] = &lines[..] else { panic!("{variable}: {lines:?}") };
            let named = fields.iter().any(|(name, list)| *name == "variables" && names(list, variable));
            assert!(named && !format!("{lines:?}").contains("hush"), "{variable}: {lines:?}");
            // What was taken is in force; what was not is named again.
            let (again, lines) = reloader.reload();
            assert!(again.is_none() && lines.len() == 1, "{variable}: {lines:?}");
            let expected = if change.is_some() { (Level::Info, 0) } else { (Level::Warn, 1) };
            assert_eq!((lines[0].level, lines[0].fields.len()), expected, "{variable}: {lines:?}");
            assert_eq!(*level, expected.0);
        }
    }

    #[test]
    fn one_mistake_and_nothing_changes() {
        write("RATE_LIMIT_RPM=5\n");
        let mut reloader = Reloader::new(read().unwrap(), read);
        write("RATE_LIMIT_RPM=6\nBUDGET_USD_DAY=much\n");
        let (change, lines) = reloader.reload();
        assert!(change.is_none() && lines[1].message.contains("nothing has changed"), "{lines:?}");
        assert!(lines[0].fields[0].1.contains("BUDGET_USD_DAY"), "{lines:?}");
        write("RATE_LIMIT_RPM=6\n");
        assert_eq!(reloader.reload().0.unwrap().limits.requests.map(|rate| rate.burst), Some(6));
    }
}
