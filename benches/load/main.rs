//! Load benchmark: the release binary between a TLS mock upstream and a closed-loop generator, beside nginx, haproxy, Caddy
//! and LiteLLM on the same work in the same run.
//!
//! `cargo bench --bench load -- --help` lists the options. Prints, for each case and target, the CPU microseconds that
//! one request costs (all threads, from the kernel's accounting), requests a second, p50 and p99 of the latency, and
//! the resident memory; what a held stream adds to it; how soon and how large each target starts; in the end ratios.
//! CPU is the figure to quote, as a ratio within one run: times depend on what else the machine does. Mock and generator
//! are processes of their own (this executable with another first argument), so that the target's CPU is its own; where
//! `taskset` is installed the target has one core and the helpers another. Everything is on loopback and bounded in
//! time; folders and processes are gone at the end.

#![forbid(unsafe_code)]
#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // a benchmark reads clocks

mod answers;
mod askers;
mod client;
mod figure;
mod generator;
mod growth;
mod hold;
mod link;
mod machine;
mod measured;
mod mock;
mod options;
mod peers;
mod process;
mod report;
mod target;
mod upstream;
mod wire;
mod work;

use askers::Askers;
use measured::Measured;
use options::{Options, USAGE};
use process::Descriptors;
use report::{Report, Started};
use target::{Kind, Setup, Target};
use upstream::Upstream;
use work::{Case, Load, Order};

fn main() {
    // `cargo bench` adds `--bench` for harnesses that know it.
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let outcome = match args.first().map(String::as_str) {
        Some("mock") => mock::run(&args[1..]).map_err(|e| format!("mock: {e}")),
        Some("generate") => generator::run(&args[1..]),
        Some("hold") => hold::run(&args[1..]),
        Some("--help") => {
            println!("{USAGE}");
            Ok(())
        }
        _ => Options::parse(&args).and_then(|options| run(&options)),
    };
    if let Err(message) = outcome {
        eprintln!("{message}");
        std::process::exit(1);
    }
}

/// Measures what was asked for.
fn run(options: &Options) -> Result<(), String> {
    let (present, absent): (Vec<Kind>, Vec<Kind>) = options.targets.iter().partition(|kind| kind.is_installed());
    for kind in &absent {
        println!("{} is not installed: left out", kind.name());
    }
    machine::print(&present);
    let within = Descriptors::raise();
    let upstream = Upstream::start()?;
    if !options.growth || options.smoke {
        compare(options, &upstream, &within, &present)?;
    }
    if options.growth || options.smoke {
        growth::run(options, &upstream, &within, &present)?;
    }
    Ok(())
}

/// Runs every case against every target and prints the tables; an error in any answer fails the run.
fn compare(options: &Options, upstream: &Upstream, within: &Descriptors, targets: &[Kind]) -> Result<(), String> {
    let pace_ms = if options.smoke { 50 } else { 1000 };
    let holds = options.holds.iter().filter(|streams| within.allow(**streams));
    let holds: Vec<Case> = holds.map(|streams| Case::hold(*streams, pace_ms)).collect();
    let mut report = Report::new(targets, &[options.cases.clone(), holds.clone()].concat());
    for round in 1..=options.rounds {
        for kind in targets {
            eprintln!("round {round} of {}: {}", options.rounds, kind.name());
            closed_loops(options, upstream, *kind, &mut report)?;
            for case in holds.iter().filter(|_| *kind != Kind::Direct) {
                let (target, _) = Target::start(*kind, &setup(options, upstream, case.load))?;
                report.add(*kind, case, measure(options, upstream, *kind, &target, case.load)?);
            }
        }
    }
    print!("{report}");
    report.verdict()
}

/// Starts a target twice, and keeps it the second time for all cases.
fn closed_loops(options: &Options, upstream: &Upstream, kind: Kind, report: &mut Report) -> Result<(), String> {
    let setup = setup(options, upstream, Load::JSON);
    let unasked_kib = process::rss_kib(&Target::start_unasked(kind, &setup)?.tree());
    let (target, first_answer) = Target::start(kind, &setup)?;
    if kind != Kind::Direct {
        let idle_kib = process::rss_kib(&target.tree());
        let first_answer_ms = first_answer.as_secs_f64() * 1e3;
        report.started(kind, Started { unasked_kib, first_answer_ms, idle_kib });
        report.file(kind, setup.file_bytes(kind));
    }
    let askers = (kind == Kind::ProxyAsked).then(|| Askers::start(target.address));
    for case in &options.cases {
        report.add(kind, case, measure(options, upstream, kind, &target, case.load)?);
    }
    if let Some(askers) = askers {
        println!("{} was asked and answered {} times", kind.name(), askers.stop()?);
    }
    Ok(())
}

fn setup<'a>(options: &'a Options, upstream: &'a Upstream, load: Load) -> Setup<'a> {
    let clients = capacity(load.connections);
    Setup { upstream, binary: &options.binary, ledger: options.ledgers.first().map(|file| file.as_path()), clients }
}

/// What a target is told to serve at once: more than there are, and no more than that, as some take memory for it.
fn capacity(connections: usize) -> usize {
    (connections + 100).max(1000)
}

/// Runs one generator against a target.
fn measure(
    options: &Options,
    upstream: &Upstream,
    kind: Kind,
    target: &Target,
    load: Load,
) -> Result<Measured, String> {
    let order = Order {
        address: target.address,
        mock: upstream.plain_address(),
        rewritten: kind.rewrites(),
        authority: kind.speaks_tls().then(|| upstream.ca_file().into()),
        pids: target.tree(),
        warm_up: options.warm_up,
        measure: options.measure,
        load,
    };
    let role = if load.pace_ms > 0 { "hold" } else { "generate" };
    let run = process::helper(role).args(order.arguments()).output();
    let output = run.map_err(|e| format!("cannot run the generator: {e}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let failed = || format!("{}: {load:?}: {text}{}", kind.name(), String::from_utf8_lossy(&output.stderr));
    Measured::parse(&text).filter(|_| output.status.success()).ok_or_else(failed)
}
