//! The table: medians of the rounds, each target beside the others on the same case.
//!
//! In: one [`Measured`] for each case, target and round, as the generator printed it. Out: text, and the verdict whether
//! every answer was right. Never: a judgement on a time.

use crate::Case;
use crate::target::Kind;
use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};

/// What one generator saw in its measured window.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Measured {
    /// Answers that were whole and right.
    pub requests: u64,
    /// Answers that were not, connections that broke; warm-up included.
    pub errors: u64,
    /// Length of the window.
    pub seconds: f64,
    /// Latency in microseconds.
    pub p50_us: u64,
    pub p99_us: u64,
    /// CPU of the target in the window, nanoseconds; `None` where the system does not account it.
    pub cpu_ns: Option<u64>,
    /// Resident memory of the target at the end of the window.
    pub rss_kib: Option<u64>,
    /// The first error.
    pub note: String,
}

impl Display for Measured {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { requests, errors, seconds, p50_us, p99_us, .. } = self;
        let optional = |value: Option<u64>| value.map_or("-".to_string(), |v| v.to_string());
        write!(f, "{requests} {errors} {seconds} {p50_us} {p99_us} ")?;
        write!(f, "{} {} {}", optional(self.cpu_ns), optional(self.rss_kib), self.note.replace('\n', " "))
    }
}

impl Measured {
    /// Reads what `Display` wrote.
    pub fn parse(line: &str) -> Option<Self> {
        let mut fields = line.trim_end_matches('\n').splitn(8, ' ');
        let mut field = || fields.next();
        Some(Self {
            requests: field()?.parse().ok()?,
            errors: field()?.parse().ok()?,
            seconds: field()?.parse().ok()?,
            p50_us: field()?.parse().ok()?,
            p99_us: field()?.parse().ok()?,
            cpu_ns: field()?.parse().ok(),
            rss_kib: field()?.parse().ok(),
            note: field()?.to_string(),
        })
    }

    fn cpu_us_per_request(&self) -> Option<f64> {
        self.cpu_ns.map(|ns| ns as f64 / 1e3 / self.requests.max(1) as f64)
    }
}

/// All that was measured.
pub struct Report {
    targets: Vec<Kind>,
    cases: Vec<Case>,
    runs: BTreeMap<(&'static str, &'static str), Vec<Measured>>,
    idle_kib: BTreeMap<&'static str, Vec<u64>>,
}

impl Report {
    /// An empty table.
    pub fn new(targets: &[Kind], cases: &[Case]) -> Self {
        Self { targets: targets.to_vec(), cases: cases.to_vec(), runs: BTreeMap::new(), idle_kib: BTreeMap::new() }
    }

    /// Memory of a target before its first request.
    pub fn idle(&mut self, target: Kind, rss_kib: Option<u64>) {
        self.idle_kib.entry(target.name()).or_default().extend(rss_kib);
    }

    /// One more run.
    pub fn add(&mut self, target: Kind, case: Case, measured: Measured) {
        self.runs.entry((case.name, target.name())).or_default().push(measured);
    }

    /// `Err` with the first fault of each run that had one, or that got no answer at all.
    pub fn verdict(&self) -> Result<(), String> {
        let faulty = self.runs.iter().flat_map(|(at, runs)| runs.iter().map(move |run| (at, run)));
        let faults: Vec<String> = faulty
            .filter(|(_, run)| run.errors > 0 || run.requests == 0)
            .map(|((case, target), run)| {
                format!("{target} {case}: {} answers, {} errors, first: {}", run.requests, run.errors, run.note)
            })
            .collect();
        if faults.is_empty() { Ok(()) } else { Err(faults.join("\n")) }
    }

    fn median(&self, case: Case, target: Kind, figure: impl Fn(&Measured) -> Option<f64>) -> Option<f64> {
        median(self.runs.get(&(case.name, target.name()))?.iter().filter_map(figure).collect())
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<19}{:<15}{:>9}{:>11}{:>9}{:>9}{:>9}{:>13}",
            "case", "target", "CPU us", "requests/s", "p50 us", "p99 us", "RSS MiB", "CPU / nginx"
        )?;
        for case in &self.cases {
            let cpu = |target| self.median(*case, target, Measured::cpu_us_per_request);
            for (n, target) in self.targets.iter().enumerate() {
                let cell = |figure: fn(&Measured) -> Option<f64>| self.median(*case, *target, figure);
                let ratio = cpu(*target).zip(cpu(Kind::Nginx)).map(|(own, nginx)| own / nginx);
                writeln!(
                    f,
                    "{:<19}{:<15}{:>9}{:>11}{:>9}{:>9}{:>9}{:>13}",
                    if n == 0 { case.label } else { "" },
                    target.name(),
                    shown(cpu(*target), 1),
                    shown(cell(|m| Some(m.requests as f64 / m.seconds)), 0),
                    shown(cell(|m| Some(m.p50_us as f64)), 0),
                    shown(cell(|m| Some(m.p99_us as f64)), 0),
                    shown(cell(|m| m.rss_kib.map(|kib| kib as f64 / 1024.0)), 1),
                    shown(ratio, 2),
                )?;
            }
        }
        for target in &self.targets {
            let kib = self.idle_kib.get(target.name()).map(|kib| kib.iter().map(|k| *k as f64 / 1024.0).collect());
            writeln!(f, "idle {}: {} MiB", target.name(), shown(kib.and_then(median), 1))?;
        }
        Ok(())
    }
}

fn shown(value: Option<f64>, decimals: usize) -> String {
    value.map_or("-".to_string(), |value| format!("{value:.decimals$}"))
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        n if n % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}
