//! Load benchmark: the release binary between a TLS mock upstream and a closed-loop generator, beside nginx on the same
//! work in the same run.
//!
//! `cargo bench --bench load -- --help` lists the options. Prints, for each case and target, the CPU microseconds that
//! one request costs (all threads, from the kernel's accounting), requests a second, p50 and p99 of the latency, and
//! the resident memory. CPU is the figure to quote, as a ratio within one run: times depend on what else the machine
//! does. Mock and generator are processes of their own (this executable with another first argument), so that the
//! target's CPU is its own; where `taskset` is installed the target has one core and the helpers another. Everything is
//! on loopback and bounded in time; folders and processes are gone at the end.

#![forbid(unsafe_code)]
#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // a benchmark reads clocks

mod askers;
mod generator;
mod mock;
mod process;
mod report;
mod target;
mod wire;

use askers::Askers;
use report::{Measured, Report};
use std::path::PathBuf;
use std::time::Duration;
use target::{Kind, Upstream};

const USAGE: &str = "\
usage: cargo bench --bench load -- [options]
  --only NAMES   comma list of targets (proxy, proxy-relaxed, proxy-journaled, proxy-fsync, proxy-quiet, proxy-asked,
                 proxy-influx, nginx) and cases (json1, json32, json128, stream, body); without targets: proxy and
                 nginx. proxy-quiet is the proxy without a line for each request (LOG=warn), proxy-asked the proxy
                 while ten ask for everybody's usage by the days of a year, proxy-influx while the server that it
                 exports to hangs
  --ledger FILE  the proxies' ledger, such as the one that the ledger bench keeps; without: a new one each
  --rounds N     how often each target is started and measured; medians are printed (3)
  --ms N         length of one measurement in milliseconds, at most 60000 (5000)
  --smoke        one very short round: shows that all of it works, and measures nothing of value";

/// One kind of work.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// As typed after `--only`.
    pub name: &'static str,
    /// As printed.
    pub label: &'static str,
    /// Connections, each with one request in flight.
    pub concurrency: usize,
    /// A streamed completion of 20 content chunks instead of a plain one.
    pub stream: bool,
    /// Length of the request's body.
    pub body_bytes: usize,
}

/// Everything that is measured, in the order of the table.
pub const CASES: &[Case] = &[
    Case { name: "json1", label: "JSON c=1", concurrency: 1, stream: false, body_bytes: 300 },
    Case { name: "json32", label: "JSON c=32", concurrency: 32, stream: false, body_bytes: 300 },
    Case { name: "json128", label: "JSON c=128", concurrency: 128, stream: false, body_bytes: 300 },
    Case { name: "stream", label: "stream of 20 c=32", concurrency: 32, stream: true, body_bytes: 300 },
    Case { name: "body", label: "100 KB body c=32", concurrency: 32, stream: false, body_bytes: 100_000 },
];

struct Options {
    targets: Vec<Kind>,
    cases: Vec<Case>,
    rounds: usize,
    ledger: Option<PathBuf>,
    measure: Duration,
    warm_up: Duration,
}

fn main() {
    // `cargo bench` adds `--bench` for harnesses that know it.
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let outcome = match args.first().map(String::as_str) {
        Some("mock") => mock::run(&args[1..]).map_err(|e| format!("mock: {e}")),
        Some("generate") => generator::run(&args[1..]),
        Some("--help") => {
            println!("{USAGE}");
            Ok(())
        }
        _ => parse(&args).and_then(|options| compare(&options)),
    };
    if let Err(message) = outcome {
        eprintln!("{message}");
        std::process::exit(1);
    }
}

fn parse(args: &[String]) -> Result<Options, String> {
    let (mut only, mut rounds, mut ms, mut warm_up_ms, mut ledger) = (Vec::new(), 3, 5000, 1000, None);
    let mut rest = args.iter();
    let number = |value: Option<&String>| value.and_then(|v| v.parse::<u64>().ok()).ok_or(USAGE);
    while let Some(arg) = rest.next() {
        match arg.as_str() {
            "--only" => only = rest.next().ok_or(USAGE)?.split(',').map(String::from).collect(),
            "--ledger" => {
                let file = std::path::absolute(rest.next().ok_or(USAGE)?);
                ledger = Some(file.map_err(|e| format!("--ledger: {e}"))?);
            }
            "--rounds" => rounds = number(rest.next())?.clamp(1, 20) as usize,
            "--ms" => ms = number(rest.next())?.clamp(10, 60_000),
            "--smoke" => (rounds, ms, warm_up_ms) = (1, 200, 50),
            _ => return Err(USAGE.into()),
        }
    }
    let asked_targets: Vec<Kind> = Kind::ALL.into_iter().filter(|k| only.iter().any(|o| o == k.name())).collect();
    let asked_cases: Vec<Case> = CASES.iter().copied().filter(|c| only.iter().any(|o| o == c.name)).collect();
    if asked_targets.len() + asked_cases.len() < only.len() {
        return Err(USAGE.into());
    }
    Ok(Options {
        targets: if asked_targets.is_empty() { vec![Kind::Proxy, Kind::Nginx] } else { asked_targets },
        cases: if asked_cases.is_empty() { CASES.to_vec() } else { asked_cases },
        rounds,
        ledger,
        measure: Duration::from_millis(ms),
        warm_up: Duration::from_millis(warm_up_ms),
    })
}

/// Runs every case against every target and prints the table; an error in any answer fails the run.
fn compare(options: &Options) -> Result<(), String> {
    let upstream = Upstream::start()?;
    let (present, absent): (Vec<Kind>, Vec<Kind>) = options.targets.iter().partition(|kind| kind.is_installed());
    for kind in &absent {
        println!("{} is not installed: left out", kind.name());
    }
    let mut report = Report::new(&present, &options.cases);
    for _ in 0..options.rounds {
        for kind in &present {
            let target = kind.start(&upstream, options.ledger.as_deref())?;
            report.idle(*kind, process::rss_kib(&target.tree()));
            let askers = (*kind == Kind::ProxyAsked).then(|| Askers::start(target.address));
            for case in &options.cases {
                let measured = measure(options, &target, *case).map_err(|e| format!("{}: {e}", kind.name()))?;
                report.add(*kind, *case, measured);
            }
            if let Some(askers) = askers {
                println!("{} was asked and answered {} times", kind.name(), askers.stop()?);
            }
        }
    }
    print!("{report}");
    report.verdict()
}

/// Runs one generator against a target.
fn measure(options: &Options, target: &target::Target, case: Case) -> Result<Measured, String> {
    let pids: Vec<String> = target.tree().iter().map(u32::to_string).collect();
    let ms = |duration: Duration| duration.as_millis().to_string();
    let output = process::helper("generate")
        .args([&target.address.to_string(), case.name, &ms(options.warm_up), &ms(options.measure), &pids.join(",")])
        .output()
        .map_err(|e| format!("cannot run the generator: {e}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let failed = || format!("{}: {text}{}", case.name, String::from_utf8_lossy(&output.stderr));
    Measured::parse(&text).filter(|_| output.status.success()).ok_or_else(failed)
}
