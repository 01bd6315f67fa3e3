//! The fleet: `FLEET_URL`, `FLEET_NODE`, and the file of passwords that `PGPASSFILE` names.
//!
//! In: the variables. Out: the database that proxies share, and what this one is called there. Never: a part of the URL
//! in a problem.

use super::postgres_url::PostgresUrl;
use super::source::Source;
use std::path::Path;

/// The database that proxies share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fleet {
    pub url: PostgresUrl,
    /// `FLEET_NODE`: what this proxy is called; the host's name where it is not set.
    pub node: String,
    /// The host's name.
    pub host: String,
}

const EXPECTED_NODE: &str = "a name of 1 to 128 bytes without control characters";

impl Fleet {
    /// `None` without a URL: then the others say nothing. `None` also where something is wrong, which `source` then has
    /// as problems.
    pub(super) fn read(source: &mut Source<'_>) -> Option<Self> {
        let url = source.secret("FLEET_URL", "FLEET_URL_FILE");
        let is_name = |text: &str| (1..=128).contains(&text.len()) && !text.chars().any(char::is_control);
        let node = source.optional("FLEET_NODE", EXPECTED_NODE, |text| is_name(text).then(|| text.to_owned()));
        let passfile = source.os("PGPASSFILE");
        let Some((url, variable)) = url else {
            if node.is_some() {
                source.warnings.push("FLEET_NODE is set without FLEET_URL: there is no fleet".to_owned());
            }
            return None;
        };
        if !cfg!(feature = "fleet") {
            source.problem(variable, "expected none: this build has no fleet (the cargo feature `fleet`)".to_owned());
        }
        let url = PostgresUrl::parse(&url, passfile.as_deref().map(Path::new));
        let url = url.map_err(|why| source.problem(variable, format!("{why}; its value is not shown"))).ok()?;
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Some(Self { url, node: node.unwrap_or_else(|| host.clone()), host })
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    #[test]
    fn a_fleet_has_a_url_and_this_proxy_a_name_in_it() {
        let load = |dotenv: &str| Config::load(&|_| None, dotenv);
        assert!(load("").unwrap().fleet.is_none());
        let fleet = load("FLEET_URL=postgres://u:hush@db/d\nFLEET_NODE=\"東京 1\"\n").unwrap().fleet.unwrap();
        assert_eq!((fleet.node.as_str(), fleet.url.hosts[0].name.as_str()), ("東京 1", "db"));
        let fleet = load("FLEET_URL=postgres://u@db/d\n").unwrap().fleet.unwrap();
        assert!(!fleet.node.is_empty() && fleet.node == fleet.host);
        let delay = |dotenv: &str| load(dotenv).unwrap().timeouts.shutdown_delay.as_secs();
        assert_eq!([delay(""), delay("FLEET_URL=postgres://u@h/d\n")], [0, 5]);
        assert!(load("FLEET_NODE=a\n").unwrap().warnings[0].contains("there is no fleet"));
        for wrong in ["FLEET_URL=mysql://u:hush@db/d\n", "FLEET_URL=postgres://u:hush@db/d?sslmode=prefer\n"] {
            let problems = format!("{:?}", load(wrong).unwrap_err());
            assert!(problems.contains("FLEET_URL") && !problems.contains("hush"), "{problems}");
        }
    }
}
