//! The fleet: `FLEET_URL`, `FLEET_NODE`, and the file of passwords that `PGPASSFILE` names.
//!
//! In: the variables. Out: the database that proxies share, and what this one is called there. Never: a part of the URL
//! in a problem.

use super::postgres_url::PostgresUrl;
use super::source::Source;
use super::value;
use crate::limit::purse::OnOutage;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

/// The database that proxies share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fleet {
    pub url: PostgresUrl,
    /// `FLEET_NODE`: what this proxy is called; the host's name where it is not set.
    pub node: String,
    /// The host's name.
    pub host: String,
    /// `FLEET_ON_OUTAGE`
    pub on_outage: OnOutage,
    /// `FLEET_WAIT`: what a request waits for an answer at most.
    pub wait: Duration,
    /// `FLEET_LEASE`: how long what a node holds of a limit of a minute lasts.
    pub lease: Duration,
    /// `FLEET_POLICY_STALE`: for how long the copy of keys and limits holds without the database; zero for ever.
    pub policy_stale: Duration,
}

/// Who waits not at all could never hear an answer; a longer wait than this would be an outage of its own.
const WAITS: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(10);
/// A shorter lease would be void between two beats; a longer one would keep from others what a node that died held.
const LEASES: RangeInclusive<Duration> = Duration::from_secs(2)..=Duration::from_secs(600);

/// Long enough for an outage, and short enough for a key that was revoked meanwhile.
const POLICY_STALE: Duration = Duration::from_secs(24 * 3600);

const EXPECTED_NODE: &str = "a name of 1 to 128 bytes without control characters";

impl Fleet {
    /// `None` without a URL: then the others say nothing. `None` also where something is wrong, which `source` then has
    /// as problems.
    pub(super) fn read(source: &mut Source<'_>) -> Option<Self> {
        let url = source.secret("FLEET_URL", "FLEET_URL_FILE");
        let is_name = |text: &str| (1..=128).contains(&text.len()) && !text.chars().any(char::is_control);
        let node = source.optional("FLEET_NODE", EXPECTED_NODE, |text| is_name(text).then(|| text.to_owned()));
        let on_outage = source.optional("FLEET_ON_OUTAGE", "`share`, `closed` or `open`", |text| match text {
            "share" => Some(OnOutage::Share),
            "closed" => Some(OnOutage::Closed),
            "open" => Some(OnOutage::Open),
            _ => None,
        });
        let wait = source.optional("FLEET_WAIT", "a duration from 1ms to 10s, such as 250ms", |text| {
            value::duration(text).filter(|wait| WAITS.contains(wait))
        });
        let lease = source.optional("FLEET_LEASE", "a duration from 2s to 10m, such as 10s", |text| {
            value::duration(text).filter(|lease| LEASES.contains(lease))
        });
        let policy_stale = source.optional("FLEET_POLICY_STALE", "a duration such as 24h, or 0", value::duration);
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
        Some(Self {
            url,
            node: node.unwrap_or_else(|| host.clone()),
            host,
            on_outage: on_outage.unwrap_or_default(),
            wait: wait.unwrap_or(Duration::from_millis(250)),
            lease: lease.unwrap_or(Duration::from_secs(10)),
            policy_stale: policy_stale.unwrap_or(POLICY_STALE),
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;
    use crate::limit::purse::OnOutage;

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
        assert_eq!((fleet.on_outage, fleet.wait.as_millis(), fleet.lease.as_secs()), (OnOutage::Share, 250, 10));
        let stale = |text: &str| {
            let dotenv = format!("FLEET_URL=postgres://u@db/d\nFLEET_POLICY_STALE={text}\n");
            load(&dotenv).map(|config| config.fleet.unwrap().policy_stale.as_secs())
        };
        assert_eq!((fleet.policy_stale.as_secs(), stale("0").unwrap(), stale("90m").unwrap()), (86_400, 0, 5_400));
        assert!(stale("soon").is_err());
        let fleet = "FLEET_URL=postgres://u@db/d\nFLEET_ON_OUTAGE=closed\nFLEET_WAIT=1s\nFLEET_LEASE=1m\n";
        let fleet = load(fleet).unwrap().fleet.unwrap();
        assert_eq!((fleet.on_outage, fleet.wait.as_millis(), fleet.lease.as_secs()), (OnOutage::Closed, 1_000, 60));
        for wrong in ["FLEET_ON_OUTAGE=shut", "FLEET_WAIT=1h", "FLEET_WAIT=0", "FLEET_LEASE=1s"] {
            let problems = load(&format!("FLEET_URL=postgres://u@db/d\n{wrong}\n")).unwrap_err();
            assert!(format!("{problems:?}").contains(wrong.split_once('=').unwrap().0), "{problems:?}");
        }
        for wrong in ["FLEET_URL=mysql://u:hush@db/d\n", "FLEET_URL=postgres://u:hush@db/d?sslmode=prefer\n"] {
            let problems = format!("{:?}", load(wrong).unwrap_err());
            assert!(problems.contains("FLEET_URL") && !problems.contains("hush"), "{problems}");
        }
    }
}
