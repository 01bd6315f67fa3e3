//! The provider's own books over HTTP: one request, and what its answer means.
//!
//! In: where requests are relayed to, and an administrator's key. Out: the text of a page, or why there is none. Never:
//! that key to anybody but OpenAI over TLS, or this machine itself; a redirect followed; a wait without an end, a body
//! without a bound; the key in a reason.

use super::outbound::{self, Agents, Trouble, retry_after};
use crate::access::Hash;
use crate::base::civil::parse_imf_fixdate;
use crate::config::{Config, Secret, Target};
use http::Uri;
use std::cell::Cell;
use std::net::IpAddr;
use std::time::Duration;

/// The largest page, bytes: those of 3,000 models in 31 days are about half of it.
const PAGE_BYTES_MAX: u64 = 128 << 20;
/// Connecting, TLS included; and a whole request with its answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(120);
/// How much of what the provider says is repeated, bytes.
const REASON_BYTES_MAX: usize = 300;
const HOW_TO_GET_ONE: &str =
    "an owner of the organisation makes one at https://platform.openai.com/settings/organization/admin-keys";
/// OpenAI's own host, and the end of its regional ones.
const OPENAI: &str = "api.openai.com";

/// Why there is no page.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It will not be another time.
    Final(String),
    /// It may be another time.
    Trouble(Trouble),
}

/// A client of the books.
pub struct BooksClient {
    agents: Agents,
    /// Scheme, host and port of the target, and its prefix.
    base: String,
    key: Secret,
    /// The provider's clock when it last answered, nanoseconds since the Unix epoch.
    date: Cell<Option<u64>>,
}

impl BooksClient {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// One sentence: there is no key, or the target has no such books.
    pub fn new(config: &Config) -> Result<Self, String> {
        let target = &config.target;
        has_books(target, config.way().proxy().is_some())?;
        let no_key = || format!("OPENAI_ADMIN_KEY is not set: {HOW_TO_GET_ONE}");
        let key = config.books.admin_key.clone().ok_or_else(no_key)?;
        let base = format!("{}://{}{}", if target.tls { "https" } else { "http" }, target.authority, target.prefix);
        let agents = Agents::new(config.tls_ca.as_deref(), config.way(), [CONNECT_TIMEOUT, REQUEST_TIMEOUT]);
        Ok(Self { agents, base, key, date: Cell::new(None) })
    }

    /// Whose books they are: the same for the same key at the same target.
    pub fn identity(&self) -> String {
        let hash = Hash::of(format!("{} {}", self.base, self.key.expose()).as_bytes());
        hash.as_slice().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The provider's clock when it last answered, nanoseconds since the Unix epoch.
    pub fn date(&self) -> Option<u64> {
        self.date.get()
    }

    /// The text of a page.
    ///
    /// # Errors
    /// Why there is none.
    pub fn get(&self, path: &str, query: &str) -> Result<Vec<u8>, Refusal> {
        let invalid = |_| Refusal::Final("a page's address is not valid".to_owned());
        let uri: Uri = format!("{}{path}?{query}", self.base).parse().map_err(invalid)?;
        let authorization = self.key.after_bearer();
        let sent = self.agents.send(|agent| agent.get(&uri).header("authorization", authorization.expose()).call());
        let trouble = |error: &ureq::Error| Refusal::Trouble(Trouble::new(outbound::words(error)));
        let mut response = sent.map_err(|error| trouble(&error))?;
        let date = response.headers().get("date").and_then(|date| parse_imf_fixdate(date.to_str().ok()?));
        self.date.set(date.or(self.date.get()));
        let status = response.status().as_u16();
        if status == 200 {
            let body = response.body_mut().with_config().limit(PAGE_BYTES_MAX).read_to_vec();
            return body.map_err(|error| match error {
                ureq::Error::BodyExceedsLimit(_) => Refusal::Final("a page has more than 128 MiB".to_owned()),
                error => trouble(&error),
            });
        }
        let (retry_after, said) = (retry_after(&response), outbound::said(&mut response, self.key.expose()));
        let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
        let shown = &said[..said.floor_char_boundary(REASON_BYTES_MAX)];
        Err(refusal(status, shown, retry_after))
    }
}

/// What an answer without a page means.
fn refusal(status: u16, said: &str, retry_after: Option<Duration>) -> Refusal {
    let make = HOW_TO_GET_ONE;
    Refusal::Final(match status {
        401 => format!("OPENAI_ADMIN_KEY is refused (401): it must be an administrator's key, not a project's; {make}"),
        403 => format!("OPENAI_ADMIN_KEY may not read usage (403): it needs the right api.usage.read; {make}"),
        404 => "no books to compare with: the target has none (404)".to_owned(),
        300..=399 => format!("the books answer with a redirect ({status}), which is not followed"),
        408 | 429 | 500.. => {
            return Refusal::Trouble(Trouble {
                why: format!("status {status} {said}").trim_end().to_owned(),
                retry_after,
            });
        }
        _ => format!("the books answer with status {status}: {said}"),
    })
}

/// Whether the target keeps books that the key may be sent for.
fn has_books(target: &Target, by_proxy: bool) -> Result<(), String> {
    let Target { host, authority, tls, .. } = target;
    let host = host.trim_end_matches('.');
    let is_here = host == "localhost" || host.parse().is_ok_and(|address: IpAddr| address.is_loopback());
    let region = host.strip_suffix(OPENAI).and_then(|region| region.strip_suffix('.'));
    let is_openai = host == OPENAI || region.is_some_and(|region| !region.is_empty() && !region.contains('.'));
    match (is_openai, is_here, *tls) {
        (true, _, true) | (_, true, true) => Ok(()),
        // What listens there is the operator's; behind a proxy it would be that machine's.
        (_, true, false) if !by_proxy => Ok(()),
        (true, _, false) | (_, true, false) => {
            Err(format!("OPENAI_ADMIN_KEY is not sent unencrypted: PROXY_TARGET is http://{authority}"))
        }
        _ => Err(format!("no books to compare with: {authority} is not OpenAI's own API, which alone keeps them")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsString;

    fn books(target: &str, proxy: &str) -> Result<(), String> {
        let vars = [("PROXY_TARGET", target), ("OPENAI_ADMIN_KEY", "sk-admin-hush"), ("HTTP_PROXY", proxy)];
        let env = |name: &str| vars.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value));
        BooksClient::new(&Config::load(&env, "").unwrap()).map(drop)
    }

    #[test]
    fn the_key_goes_to_openai_alone_or_nowhere() {
        for own in [
            "https://api.openai.com",
            "https://API.OPENAI.COM.",
            "https://eu.api.openai.com/",
            "http://127.0.0.1:9",
            "http://localhost:9/x",
            "https://[::1]:9",
        ] {
            assert_eq!(books(own, ""), Ok(()), "{own}");
        }
        for (other, why) in [
            ("http://api.openai.com", "unencrypted"),
            ("https://x.openai.azure.com/openai", "no books to compare with"),
            ("https://api.openai.com.example", "no books"),
            ("https://evilapi.openai.com", "no books"),
            ("https://a.b.api.openai.com", "no books"),
            ("https://openrouter.ai/api", "no books"),
            ("http://192.0.2.1", "no books"),
            ("https://localhost.example", "no books"),
        ] {
            let said = books(other, "").expect_err(other);
            assert!(said.contains(why) && !said.contains("hush"), "{other}: {said}");
        }
        assert!(books("http://127.0.0.1:9", "proxy.example:1").unwrap_err().contains("unencrypted"));
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        for status in [408, 429, 500, 503] {
            let wait = Some(Duration::from_secs(7));
            let found = refusal(status, "slow down", wait);
            assert!(matches!(&found, Refusal::Trouble(of) if of.retry_after == wait), "{found:?}");
        }
        for (status, part) in
            [(401, "admin-keys"), (403, "api.usage.read"), (404, "no books"), (302, "redirect"), (400, "odd")]
        {
            assert!(matches!(refusal(status, "odd", None), Refusal::Final(why) if why.contains(part)), "{status}");
        }
    }
}
