//! What the log is told of the settings when a server starts: who is sent what, and what is easily overlooked.
//!
//! In: the configuration. Out: lines of the log. Never: a secret.

use crate::base::log::Level;
use crate::config::Config;
use crate::ledger::database;
use crate::worker::logger::event;
use std::path::Path;

/// Who is sent what, beside the target.
pub fn tell_of_others(config: &Config) {
    if let Some(influx) = &config.influx {
        event(Level::Info, "exporting to influx", &[("url", influx.shown.as_str().into())]);
    }
    if let Some(url) = &config.alert_webhook {
        event(Level::Info, "budget alerts are sent", &[("url", url.shown.as_str().into())]);
    }
    if let Some(fleet) = &config.fleet {
        let url = fleet.url.shown();
        event(Level::Info, "in a fleet", &[("url", url.as_str().into()), ("node", fleet.node.as_str().into())]);
    }
}

/// The target as it is told, after the way to it where there is a proxy on one.
pub fn told_target(config: &Config) -> String {
    if config.egress.is_set() {
        event(Level::Info, "the way to the target", &[("way", config.way().to_string().as_str().into())]);
    }
    let target = &config.target;
    format!("{}://{}{}", if target.tls { "https" } else { "http" }, target.authority, target.prefix)
}

/// What operators of client keys easily overlook.
pub fn warn_of_keys(config: &Config) {
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
pub fn warn_of_modes(config: &Config) {
    for path in [config.database_path.as_path(), Path::new(".env")].into_iter().filter(|path| database::exposed(path)) {
        let path = path.display().to_string();
        let why = "others on this machine may read a file that is nobody else's business: chmod 600";
        event(Level::Warn, why, &[("path", path.as_str().into())]);
    }
}
