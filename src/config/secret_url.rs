//! An address that is called from here, and that may hold a token: `PRICES_URL`, `ALERT_WEBHOOK_URL`.
//!
//! In: the variable, or a file that has its value. Out: the address, and what may be shown of it. Never: its path or
//! query in a problem.

use super::secret::Secret;
use super::source::Source;
use super::value;

/// Where something is fetched from or sent to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretUrl {
    /// The whole address.
    pub url: Secret,
    /// Scheme, host and port, to be shown: path and query may hold a token.
    pub shown: String,
}

impl SecretUrl {
    /// Of the variable `name`, or of the one that names a file with it.
    pub(super) fn read(source: &mut Source<'_>, name: &'static str, file: &'static str) -> Option<Self> {
        let (url, variable) = source.secret(name, file)?;
        let (Some(uri), Ok(secret)) = (value::http_url(&url), Secret::parse(&url)) else {
            let expected = "expected http:// or https://, a host, and optionally :port, /path and a query (no user); \
                            its value is not shown";
            source.problem(variable, expected.to_owned());
            return None;
        };
        let shown = format!("{}://{}", uri.scheme_str()?, uri.authority()?);
        Some(Self { url: secret, shown })
    }
}
