//! The thread that fetches prices from `PRICES_URL`, at the start and once a day.
//!
//! In: an address, and what is known already. Out: [`WorkerEvent::Prices`], and a copy of the file beside the ledger
//! for the next start. Never: half of a table, or one that takes all known prices away; a wait without an end, a body
//! without a bound; more of the address than its host in a line of the log, for the rest may hold a token.

use super::backoff::Retry;
use super::event::{EventSender, WorkerEvent};
use super::logger::event;
use super::outbound::{self, words};
use super::process::{lower_priority, spawn, unix_now};
use crate::base::log::Level;
use crate::config::{Config, Egress, SecretUrl};
use crate::ledger::database;
use crate::price::{PriceSource, PriceTable};
use http::Uri;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant, SystemTime};
use ureq::Body;
use ureq::http::Response;

/// The largest file that is taken, bytes: ten times LiteLLM's.
const BYTES_MAX: u64 = 32 << 20;
/// Connecting, and the whole of it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const FETCH_TIMEOUT: Duration = Duration::from_secs(120);
/// From one success to the next try, and between tries after failures.
const FETCH_EVERY: Duration = Duration::from_secs(24 * 60 * 60);
const PAUSE_MIN: Duration = Duration::from_secs(60);
const PAUSE_MAX: Duration = Duration::from_secs(60 * 60);
const REDIRECTS_MAX: usize = 3;

/// The thread's handle. Dropped, the thread ends after the fetch that it is at, which nobody waits for.
pub struct PriceFetcher {
    _stop: Sender<()>,
}

impl PriceFetcher {
    /// Starts to fetch for a ledger at `database` and a target at `host`. `known` are all prices that hold already.
    ///
    /// # Errors
    /// One sentence: the path is none, or the system gives no thread.
    pub fn start(
        (from, egress): (SecretUrl, Egress),
        database: &Path,
        host: &str,
        known: PriceTable,
        events: EventSender,
    ) -> Result<Self, String> {
        let kept = kept_at(&database::absolute(database)?);
        let (stop, stopped) = channel();
        let retry = Retry::new("prices cannot be fetched, those that are known hold", "prices can be fetched again");
        let retry = retry.pausing(PAUSE_MIN, PAUSE_MAX);
        let fetcher = Fetcher { from, egress, kept, host: host.to_owned(), known, events, retry };
        spawn("prices", move || {
            lower_priority();
            fetcher.run(&stopped);
        })?;
        Ok(Self { _stop: stop })
    }
}

/// The prices that were fetched last for a target at `host`, where some were, as of then.
///
/// # Errors
/// Why the file that keeps them cannot be used.
fn kept(database: &Path, host: &str) -> Result<Option<PriceTable>, String> {
    let path = kept_at(database);
    let Ok(file) = fs::metadata(&path) else { return Ok(None) };
    let text = fs::read_to_string(&path).map_err(|error| error.to_string());
    let table = text.and_then(|text| PriceTable::parse_for(&text, host));
    let fetched = file.modified().ok().and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
    let table = table.map_err(|why| format!("{}: {why}", path.display()))?;
    Ok(Some(table.of(PriceSource::Url, fetched.map_or(0, |at| at.as_secs()))))
}

/// The prices that a server of this configuration has at its start, what it has fetched before included.
///
/// # Errors
/// Why what was fetched cannot be read.
pub fn known(config: &Config) -> Result<PriceTable, String> {
    let mut prices = config.prices.clone();
    if config.prices_url.is_some() {
        kept(&config.database_path, &config.target.host)?.into_iter().for_each(|kept| prices.merge(kept));
    }
    Ok(prices)
}

fn kept_at(database: &Path) -> PathBuf {
    database::beside(database, "-prices")
}

struct Fetcher {
    from: SecretUrl,
    egress: Egress,
    kept: PathBuf,
    host: String,
    known: PriceTable,
    events: EventSender,
    retry: Retry,
}

impl Fetcher {
    fn run(mut self, stopped: &Receiver<()>) {
        loop {
            let pause = match self.step() {
                Ok(()) => {
                    self.retry.worked();
                    FETCH_EVERY
                }
                Err(why) => {
                    self.retry.failed(&format!("{}: {why}", self.from.shown));
                    self.retry.pause
                }
            };
            if stopped.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
                return;
            }
        }
    }

    fn step(&mut self) -> Result<(), String> {
        let text = self.fetch()?;
        let table = checked(&text, &self.host, &self.known)?.of(PriceSource::Url, unix_now() / 1_000_000_000);
        if let Err(error) = keep(&self.kept, &text) {
            let why = format!("{}: {error}", self.kept.display());
            event(Level::Warn, "fetched prices cannot be kept for the next start", &[("error", why.as_str().into())]);
        }
        let models = table.priced_names().count();
        let fields = [("url", self.from.shown.as_str().into()), ("models", models.into())];
        event(Level::Info, "prices fetched", &fields);
        self.known.merge(table.clone());
        self.events.send(WorkerEvent::Prices(table));
        Ok(())
    }

    /// Redirects are followed here, as each may ask for another way out.
    fn fetch(&self) -> Result<String, String> {
        let ends = Instant::now() + FETCH_TIMEOUT;
        let mut url: Uri = self.from.url.expose().parse().expect("checked by `config`");
        for _ in 0..=REDIRECTS_MAX {
            let mut response = self.get(&url, ends)?;
            if !response.status().is_redirection() {
                let body =
                    response.body_mut().with_config().limit(BYTES_MAX).read_to_vec().map_err(|error| words(&error))?;
                return String::from_utf8(body).map_err(|_| "it is not UTF-8".to_owned());
            }
            let location = response.headers().get("location").and_then(|value| value.to_str().ok());
            let next = location.and_then(|location| redirected(&url, location));
            let next = next.ok_or("it redirects to nowhere")?;
            if url.scheme_str() == Some("https") && next.scheme_str() != Some("https") {
                return Err("it redirects from https to http".to_owned());
            }
            url = next;
        }
        Err(format!("it redirects more than {REDIRECTS_MAX} times"))
    }

    fn get(&self, url: &Uri, ends: Instant) -> Result<Response<Body>, String> {
        let times = [CONNECT_TIMEOUT, ends.saturating_duration_since(Instant::now())];
        let agent: ureq::Agent = outbound::agent(self.egress.way_to(url), times).build().into();
        agent.get(url).call().map_err(|error| words(&error))
    }
}

/// Where a redirect leads (RFC 3986 section 5.2; dot segments are the server's to resolve).
fn redirected(from: &Uri, location: &str) -> Option<Uri> {
    let location = location.split('#').next().unwrap_or_default();
    let (scheme, authority, path) = (from.scheme_str()?, from.authority()?, from.path());
    let folder = &path[..path.rfind('/').map_or(0, |slash| slash + 1)];
    let absolute = match location.split_once("://") {
        Some((scheme, _)) if !scheme.contains(['/', '?']) => location.to_owned(),
        _ if location.starts_with("//") => format!("{scheme}:{location}"),
        _ if location.starts_with('/') => format!("{scheme}://{authority}{location}"),
        _ if location.starts_with('?') => format!("{scheme}://{authority}{path}{location}"),
        _ => format!("{scheme}://{authority}{folder}{location}"),
    };
    absolute.parse().ok().filter(|uri: &Uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some())
}

/// A fetched table, where it is whole, has prices, and leaves some that was known before: of what was fetched last, and
/// of all.
fn checked(text: &str, host: &str, known: &PriceTable) -> Result<PriceTable, String> {
    let table = PriceTable::parse_for(text, host)?;
    if table.priced_names().next().is_none() {
        return Err("it has no price".to_owned());
    }
    let mut all = known.clone();
    all.merge(table.clone().of(PriceSource::Url, 0));
    let takes_away = |before: &PriceTable, after: &PriceTable| {
        let mut names = before.priced_names().peekable();
        names.peek().is_some() && !names.any(|name| after.prices(name))
    };
    let fetched = known.part(PriceSource::Url).unwrap_or_default();
    if takes_away(&fetched, &table) || takes_away(known, &all) {
        return Err("not one model that had a price has one in it".to_owned());
    }
    Ok(table)
}

/// Writes a file whole or not at all.
fn keep(path: &Path, text: &str) -> std::io::Result<()> {
    let temporary = database::beside(path, ".new");
    let _ = fs::remove_file(&temporary); // of a process that was killed
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all())?;
    fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_taken_whole_or_not_at_all() {
        const MINE: &str = r#"{"mine": {"input_cost_per_token": 1}}"#;
        let built_in = PriceTable::built_in();
        assert!(checked(MINE, "", &built_in).is_ok());
        for (text, why) in [
            ("", "not a JSON object"),
            (r#"{"mine": {"input_cost_per_token": 1}"#, "not a JSON object"),
            ("<html>", "not a JSON object"),
            ("{}", "no price"),
            (r#"{"mine": {}}"#, "no price"),
            (r#"{"mine": {"input_cost_per_token": 1}, "other": {"input_cost": 1}}"#, "unknown price field"),
            (r#"{"groq/m": {"litellm_provider": "groq", "input_cost_per_token": 1}}"#, "no price"),
        ] {
            let found = checked(text, "api.openai.com", &built_in).expect_err(text);
            assert!(found.contains(why), "{text}: {found}");
        }
        // All that was fetched before is gone; or hidden by what has no price.
        let mut known = built_in.clone();
        known.merge(PriceTable::parse(MINE).unwrap().of(PriceSource::Url, 1));
        assert!(checked(r#"{"yours": {"input_cost_per_token": 1}}"#, "", &known).is_err());
        assert!(checked(r#"{"mine": {"input_cost_per_token": 2}, "gpt-4o": {}}"#, "", &known).is_ok());
        let names: Vec<_> = built_in.priced_names().map(|name| format!("\"{name}\": {{}}")).collect();
        let hides_all = format!("{{{}, \"new\": {{\"input_cost_per_token\": 1}}}}", names.join(","));
        assert!(checked(&hides_all, "", &built_in).is_err());
    }

    #[test]
    fn a_redirect_may_be_relative() {
        let from = "https://a.example:8443/x/y.json?token=1".parse().unwrap();
        for (location, to) in [
            ("http://b.example/z#part", Some("http://b.example/z")),
            ("HTTPS://b.example", Some("https://b.example/")),
            ("//b.example/z", Some("https://b.example/z")),
            ("/z?u=http://c", Some("https://a.example:8443/z?u=http://c")),
            ("z?u=http://c", Some("https://a.example:8443/x/z?u=http://c")),
            ("?page=2", Some("https://a.example:8443/x/y.json?page=2")),
            ("ftp://b.example/z", None),
            ("https://", None),
            ("/a b", None),
        ] {
            let found = redirected(&from, location).map(|uri| uri.to_string());
            assert_eq!(found.as_deref(), to, "{location}");
        }
    }

    #[test]
    fn what_is_kept_is_the_owners_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("usage.db");
        assert_eq!(kept(&database, ""), Ok(None));
        for price in ["1", "2"] {
            keep(&kept_at(&database), &format!(r#"{{"mine": {{"input_cost_per_token": {price}}}}}"#)).unwrap();
        }
        let table = kept(&database, "").unwrap().unwrap();
        assert!(table.prices("mine") && table.dates()[0].0 == PriceSource::Url);
        let mode = fs::metadata(kept_at(&database)).unwrap().permissions().mode();
        assert_eq!((mode & 0o777, fs::read_dir(folder.path()).unwrap().count()), (0o600, 1));
        fs::write(kept_at(&database), "{").unwrap();
        assert!(kept(&database, "").unwrap_err().contains("usage.db-prices"));
    }
}
