//! The command line of the benchmark.
//!
//! In: arguments. Out: [`Options`], or how to use it. Never: a run that somebody did not ask for: names that are not
//! known are refused.

use crate::target::Kind;
use crate::work::{Case, cases};
use std::path::PathBuf;
use std::time::Duration;

pub const USAGE: &str = "\
usage: cargo bench --bench load -- [options]
  --only NAMES   comma list of targets and cases. Targets: proxy, proxy-relaxed, proxy-journaled, proxy-fsync,
                 proxy-quiet (no line for each request: LOG=warn), proxy-asked (while ten ask for everybody's usage by
                 the days of a year), proxy-influx (while the server that it exports to hangs), nginx, haproxy; with TLS
                 for clients proxy-tls, nginx-tls, haproxy-tls, caddy-tls; litellm
                 (on the PATH, or named by the variable LITELLM), direct (the mock itself, without TLS). Cases: json1,
                 json32, json128, stream1, stream, stream128, body. Without targets: proxy, proxy-relaxed, nginx and
                 haproxy
  --hold N,N     so many streams held open, each with an event a second (5000; none where --only names cases)
  --growth       what a request costs at 1 to 9000 connections, at 10 to 100000 users, and with each --ledger, in place
                 of the comparison; without targets: proxy
  --ledger FILE  the proxies' ledger, such as the one that the ledger bench keeps; rows are added to it. Without: a new
                 one for each start. Several, each with its own --ledger: only with --growth
  --proxy FILE   the proxy's executable, in place of this tree's
  --rounds N     how often each target is started and measured; medians are printed, and the least and the most (3)
  --ms N         length of one measurement in milliseconds, at most 60000 (2500)
  --smoke        one very short round of everything: shows that all of it works, and measures nothing of value";

pub struct Options {
    pub targets: Vec<Kind>,
    pub cases: Vec<Case>,
    pub holds: Vec<usize>,
    pub growth: bool,
    pub ledgers: Vec<PathBuf>,
    pub binary: String,
    pub rounds: usize,
    pub measure: Duration,
    pub warm_up: Duration,
    pub smoke: bool,
}

impl Options {
    /// `Err` with what to print.
    pub fn parse(args: &[String]) -> Result<Self, String> {
        let mut options = Self {
            targets: Vec::new(),
            cases: Vec::new(),
            holds: Vec::new(),
            growth: false,
            ledgers: Vec::new(),
            binary: env!("CARGO_BIN_EXE_proxy-server").into(),
            rounds: 3,
            measure: Duration::from_millis(2500),
            warm_up: Duration::from_millis(500),
            smoke: false,
        };
        let mut rest = args.iter();
        while let Some(arg) = rest.next() {
            let mut value = || rest.next().ok_or(USAGE);
            match arg.as_str() {
                "--only" => options.choose(value()?)?,
                "--hold" => options.holds = value()?.split(',').map(number).collect::<Result<_, _>>()?,
                "--growth" => options.growth = true,
                "--ledger" => options.ledgers.push(absolute(value()?)?),
                "--proxy" => options.binary = absolute(value()?)?.display().to_string(),
                "--rounds" => options.rounds = number(value()?)?.clamp(1, 20),
                "--ms" => options.measure = Duration::from_millis(number(value()?)?.clamp(10, 60_000) as u64),
                "--smoke" => options.smoke = true,
                _ => return Err(USAGE.into()),
            }
        }
        if options.ledgers.len() > 1 && !options.growth {
            return Err(USAGE.into());
        }
        options.fill();
        Ok(options)
    }

    /// The targets and cases of a comma list.
    fn choose(&mut self, names: &str) -> Result<(), &'static str> {
        let known = cases();
        for name in names.split(',') {
            if let Some(kind) = Kind::ALL.into_iter().find(|kind| kind.name() == name) {
                self.targets.push(kind);
            } else {
                self.cases.push(known.iter().find(|case| case.name == name).ok_or(USAGE)?.clone());
            }
        }
        Ok(())
    }

    /// What was not asked for is as it is by default.
    fn fill(&mut self) {
        if self.smoke {
            (self.rounds, self.measure, self.warm_up) = (1, Duration::from_millis(200), Duration::from_millis(50));
        }
        if self.targets.is_empty() {
            self.targets = match self.growth {
                true => vec![Kind::Proxy],
                false => vec![Kind::Proxy, Kind::ProxyRelaxed, Kind::Nginx, Kind::Haproxy],
            };
        }
        if self.holds.is_empty() && self.cases.is_empty() {
            self.holds = vec![if self.smoke { 8 } else { 5000 }];
        }
        if self.cases.is_empty() {
            self.cases = cases();
        }
    }
}

fn number(text: impl AsRef<str>) -> Result<usize, &'static str> {
    text.as_ref().parse().ok().filter(|number| *number > 0).ok_or(USAGE)
}

/// Targets run in folders of their own.
fn absolute(file: &str) -> Result<PathBuf, String> {
    std::path::absolute(file).map_err(|e| format!("{file}: {e}"))
}
