//! Where the ledger is exported to: the parts of a write URL, put together.
//!
//! In: the `INFLUXDB_…` variables as they are. Out: one URL and one `Authorization`, or every problem with them. Never:
//! a part of them in a problem: a token or a password may stand anywhere.

use super::source::Source;
use super::{Secret, authorities, value};
use crate::base::percent::encode;
use base64::prelude::{BASE64_STANDARD, Engine as _};

/// A server to write to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Influx {
    /// The whole write URL, with its query.
    pub url: Secret,
    /// The value of the `Authorization` header.
    pub authorization: Option<Secret>,
    /// `INFLUXDB_CA_FILE`: authorities to trust beside the built-in ones, PEM.
    pub ca: Option<Vec<u8>>,
    /// Scheme, host and port, to be shown.
    pub shown: String,
    /// `INFLUXDB_BACKFILL`: records that were there before the first export are exported too.
    pub backfill: bool,
}

/// The variables that make a write request, as they are set.
struct Parts {
    /// With the variable that it comes from.
    token: Option<(String, &'static str)>,
    org: Option<String>,
    bucket: Option<String>,
    database: Option<String>,
    username: Option<String>,
    password: Option<String>,
}

const URL: &str = "INFLUXDB_URL";
const EXPECTED: &str = "expected http:// or https://, a host, and optionally :port and /prefix, or a full write URL \
                        with its query (a user and password go into variables of their own); its value is not shown";

impl Influx {
    /// `None` without a URL, without which the other variables say nothing: taking it away turns the export off. `None`
    /// also where something is wrong, which `source` then has as problems.
    pub(super) fn read(source: &mut Source<'_>) -> Option<Self> {
        let backfill = source.switch("INFLUXDB_BACKFILL", true);
        let url = source.secret(URL, "INFLUXDB_URL_FILE").map(|(url, _)| url);
        let ca = authorities::read(source, "INFLUXDB_CA_FILE");
        let token = source.secret("INFLUXDB_TOKEN", "INFLUXDB_TOKEN_FILE");
        let password = source.secret("INFLUXDB_PASSWORD", "INFLUXDB_PASSWORD_FILE").map(|(password, _)| password);
        let text = |name| source.os(name).map(|value| value.to_string_lossy().into_owned());
        let parts = Parts {
            token,
            org: text("INFLUXDB_ORG"),
            bucket: text("INFLUXDB_BUCKET"),
            database: text("INFLUXDB_DATABASE"),
            username: text("INFLUXDB_USERNAME"),
            password,
        };
        let Some(url) = url else {
            source
                .warnings
                .extend(parts.first().map(|name| format!("{name} is set without {URL}: nothing is exported")));
            return None;
        };
        let before = source.problems.len();
        let Some(uri) = value::http_url(&url) else {
            source.problem(URL, EXPECTED.to_owned());
            return None;
        };
        let (path, query) = (uri.path(), uri.query());
        let origin = format!("{}://{}", uri.scheme_str()?, uri.authority()?);
        let is_full = query.is_some() || path.ends_with("/write");
        if query.is_some_and(|query| query.split('&').any(|pair| pair.starts_with("precision=") && !is_nanos(pair))) {
            source.problem(URL, "expected precision=ns, or none: timestamps are in nanoseconds".to_owned());
        }
        parts.check(source, is_full);
        let authorization = parts.authorization(source);
        let write = match (is_full, parts.bucket, parts.database) {
            (true, _, _) => url,
            (false, Some(bucket), _) => {
                let org = parts.org.map(|org| format!("&org={}", encode(&org))).unwrap_or_default();
                let bucket = encode(&bucket);
                format!("{origin}{}/api/v2/write?bucket={bucket}{org}&precision=ns", path.trim_end_matches('/'))
            }
            (false, None, database) => {
                let database = encode(&database.unwrap_or_default());
                format!("{origin}{}/write?db={database}&precision=ns", path.trim_end_matches('/'))
            }
        };
        let url = Secret::parse(&write).ok()?; // checked by `http_url`
        (source.problems.len() == before).then_some(Self { url, authorization, ca, shown: origin, backfill })
    }
}

impl Parts {
    /// One that is set, by its variable.
    fn first(&self) -> Option<&'static str> {
        let text = [
            ("INFLUXDB_ORG", &self.org),
            ("INFLUXDB_BUCKET", &self.bucket),
            ("INFLUXDB_DATABASE", &self.database),
            ("INFLUXDB_USERNAME", &self.username),
            ("INFLUXDB_PASSWORD", &self.password),
        ];
        let token = self.token.as_ref().map(|(_, variable)| *variable);
        token.or_else(|| text.iter().find(|(_, value)| value.is_some()).map(|(name, _)| *name))
    }

    /// What does not go together.
    fn check(&self, source: &mut Source<'_>, is_full: bool) {
        let mut wrong = |name, why: &str| source.problem(name, why.to_owned());
        let of_two = self.org.is_some() || self.bucket.is_some() || self.token.is_some();
        let of_one = self.database.is_some() || self.username.is_some() || self.password.is_some();
        let place = [
            ("INFLUXDB_ORG", self.org.is_some()),
            ("INFLUXDB_BUCKET", self.bucket.is_some()),
            ("INFLUXDB_DATABASE", self.database.is_some()),
        ];
        if of_two && of_one {
            let why = "expected either INFLUXDB_TOKEN, INFLUXDB_ORG and INFLUXDB_BUCKET (InfluxDB 2 and 3), or \
                       INFLUXDB_DATABASE, INFLUXDB_USERNAME and INFLUXDB_PASSWORD (InfluxDB 1), got some of both";
            wrong(URL, why);
        } else if is_full {
            for (name, _) in place.iter().filter(|(_, is_set)| *is_set) {
                wrong(name, "expected nothing: INFLUXDB_URL is a full write URL, which says where to write");
            }
        } else if of_two && self.bucket.is_none() {
            wrong("INFLUXDB_BUCKET", "expected a bucket's name, as INFLUXDB_TOKEN or INFLUXDB_ORG is set");
        } else if !of_two && self.database.is_none() {
            let why = "expected a database's name (InfluxDB 1), or INFLUXDB_BUCKET with INFLUXDB_ORG and \
                       INFLUXDB_TOKEN (InfluxDB 2 and 3)";
            wrong("INFLUXDB_DATABASE", why);
        }
        if self.username.is_none() && self.password.is_some() {
            wrong("INFLUXDB_USERNAME", "expected a user's name, as INFLUXDB_PASSWORD is set");
        }
        if self.username.as_ref().is_some_and(|name| name.contains(':')) {
            wrong("INFLUXDB_USERNAME", "expected a name without a colon (RFC 7617 §2)");
        }
    }

    fn authorization(&self, source: &mut Source<'_>) -> Option<Secret> {
        if let Some((token, variable)) = &self.token {
            match Secret::parse(token) {
                Ok(token) => return Some(token.after("Token ")),
                Err(expected) => {
                    source.problem(variable, format!("expected {expected}; its value is not shown"));
                    return None;
                }
            }
        }
        let username = self.username.as_ref()?;
        let password = self.password.as_deref().unwrap_or_default();
        let basic = BASE64_STANDARD.encode(format!("{username}:{password}"));
        Secret::parse(&basic).ok().map(|basic| basic.after("Basic "))
    }
}

fn is_nanos(pair: &str) -> bool {
    matches!(pair, "precision=ns" | "precision=n")
}
