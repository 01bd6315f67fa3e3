//! The tables of a comparison: medians and spread of the rounds, each target beside the others on the same case, and in
//! the end one table with everything as ratios to nginx.
//!
//! In: one [`Measured`] for each case, target and round, and how each target started. Out: text of at most 120 columns,
//! and the verdict whether every answer was right. Never: a judgement on a time.

use crate::figure::{Figure, or_dash, short};
use crate::measured::Measured;
use crate::target::Kind;
use crate::work::Case;
use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};

/// How a target started, twice: once left alone, once asked.
pub struct Started {
    /// Resident before any request.
    pub unasked_kib: Option<u64>,
    /// From its start to its first right answer.
    pub first_answer_ms: f64,
    /// Resident after that answer.
    pub idle_kib: Option<u64>,
}

/// All that was measured.
pub struct Report {
    targets: Vec<Kind>,
    cases: Vec<Case>,
    runs: Runs,
    started: BTreeMap<&'static str, Vec<Started>>,
    /// Sizes of executables in bytes.
    files: BTreeMap<&'static str, u64>,
}

/// The rounds of each case and target.
#[derive(Default)]
pub struct Runs(BTreeMap<(String, &'static str), Vec<Measured>>);

impl Runs {
    pub fn add(&mut self, case: &str, target: Kind, measured: Measured) {
        self.0.entry((case.into(), target.name())).or_default().push(measured);
    }

    pub fn figure(&self, case: &str, target: Kind, of: impl Fn(&Measured) -> Option<f64>) -> Option<Figure> {
        Figure::of(self.0.get(&(case.into(), target.name()))?.iter().filter_map(of))
    }

    /// `Err` with the first fault of each run that had one, or that got no answer at all.
    pub fn verdict(&self) -> Result<(), String> {
        let all = self.0.iter().flat_map(|(at, runs)| runs.iter().map(move |run| (at, run)));
        let faults: Vec<String> = all
            .filter(|(_, run)| run.errors > 0 || run.requests == 0)
            .map(|((case, target), run)| {
                format!("{target} {case}: {} answers, {} errors, first: {}", run.requests, run.errors, run.note)
            })
            .collect();
        if faults.is_empty() { Ok(()) } else { Err(faults.join("\n")) }
    }

    /// One line of a table of closed loops.
    pub fn row(&self, label: &str, case: &str, target: Kind, ratio: Option<f64>) -> String {
        let cell = |figure: fn(&Measured) -> Option<f64>| self.figure(case, target, figure);
        let median = |figure| cell(figure).map(|figure| short(figure.median));
        format!(
            "{label:<18}{:<16}{:>20}{:>7}{:>8}{:>21}{:>22}{:>8}",
            target.name(),
            or_dash(cell(Measured::cpu_us_per_request)),
            or_dash(ratio.map(short)),
            or_dash(median(|m| Some(m.requests as f64 / m.seconds))),
            or_dash(cell(|m| Some(m.p50_us as f64))),
            or_dash(cell(|m| Some(m.p99_us as f64))),
            or_dash(median(|m| m.rss_kib.map(|kib| kib as f64 / 1024.0))),
        )
    }

    /// What stands above [`Self::row`].
    pub fn heading(label: &str, base: &str) -> String {
        let ratio = format!("/{base}");
        let times = format!("{:>8}{:>21}{:>22}", "req/s", "p50 us", "p99 us");
        format!("{label:<18}{:<16}{:>20}{ratio:>7}{times}{:>8}", "target", "CPU us a request", "MiB")
    }
}

impl Report {
    /// An empty table.
    pub fn new(targets: &[Kind], cases: &[Case]) -> Self {
        let (targets, cases) = (targets.to_vec(), cases.to_vec());
        Self { targets, cases, runs: Runs::default(), started: BTreeMap::new(), files: BTreeMap::new() }
    }

    pub fn file(&mut self, target: Kind, bytes: Option<u64>) {
        self.files.extend(bytes.map(|bytes| (target.name(), bytes)));
    }

    pub fn started(&mut self, target: Kind, started: Started) {
        self.started.entry(target.name()).or_default().push(started);
    }

    /// One more run.
    pub fn add(&mut self, target: Kind, case: &Case, measured: Measured) {
        self.runs.add(&case.name, target, measured);
    }

    /// See [`Runs::verdict`].
    pub fn verdict(&self) -> Result<(), String> {
        self.runs.verdict()
    }

    fn start_figure(&self, target: Kind, of: impl Fn(&Started) -> Option<f64>) -> Option<Figure> {
        Figure::of(self.started.get(target.name())?.iter().filter_map(of))
    }

    fn loops(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n{}", Runs::heading("case", "nginx"))?;
        for case in self.cases.iter().filter(|case| case.load.pace_ms == 0) {
            let cpu = |target| self.runs.figure(&case.name, target, Measured::cpu_us_per_request);
            for (n, target) in self.targets.iter().enumerate() {
                let label = if n == 0 { case.label.join(" ") } else { String::new() };
                let ratio = cpu(*target).zip(cpu(Kind::Nginx)).map(|(own, nginx)| own.median / nginx.median);
                writeln!(f, "{}", self.runs.row(&label, &case.name, *target, ratio))?;
            }
        }
        Ok(())
    }

    fn holds(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let holds: Vec<&Case> = self.cases.iter().filter(|case| case.load.pace_ms > 0).collect();
        if holds.is_empty() {
            return Ok(());
        }
        let figures = format!("{:>22}{:>22}{:>22}", "KiB a stream", "MiB at most", "CPU us a stream");
        writeln!(f, "\n{:<19}{:<16}{figures}{:>9}", "held streams", "target", "errors")?;
        for case in holds {
            for (n, target) in self.targets.iter().enumerate() {
                let figure = |of: &dyn Fn(&Measured) -> Option<f64>| self.runs.figure(&case.name, *target, of);
                let Some(errors) = figure(&|m| Some(m.errors as f64)) else { continue };
                writeln!(
                    f,
                    "{:<19}{:<16}{:>22}{:>22}{:>22}{:>9}",
                    if n == 0 { &case.label[1] } else { "" },
                    target.name(),
                    or_dash(figure(&|m| m.kib_per_stream(case.load.connections))),
                    or_dash(figure(&|m| m.rss_kib.map(|kib| kib as f64 / 1024.0))),
                    or_dash(figure(&Measured::cpu_us_per_request)),
                    format!("{:.0}", errors.median),
                )?;
            }
        }
        Ok(())
    }

    fn starts(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let figures = format!("{:>24}{:>24}{:>24}", "first answer ms", "MiB before it", "idle MiB after it");
        writeln!(f, "\n{:<19}{:<16}{figures}{:>16}", "start", "target", "executable MiB")?;
        for target in self.targets.iter().filter(|target| self.started.contains_key(target.name())) {
            let mib = |kib: Option<u64>| kib.map(|kib| kib as f64 / 1024.0);
            writeln!(
                f,
                "{:<19}{:<16}{:>24}{:>24}{:>24}{:>16}",
                "",
                target.name(),
                or_dash(self.start_figure(*target, |s| Some(s.first_answer_ms))),
                or_dash(self.start_figure(*target, |s| mib(s.unasked_kib))),
                or_dash(self.start_figure(*target, |s| mib(s.idle_kib))),
                or_dash(self.file_mib(*target).map(short)),
            )?;
        }
        Ok(())
    }

    fn file_mib(&self, target: Kind) -> Option<f64> {
        self.files.get(target.name()).map(|bytes| *bytes as f64 / 1024.0 / 1024.0)
    }

    /// Everything in one table: what the medians are, and then each as a ratio to nginx's.
    fn summary(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let columns = self.columns();
        for line in 0..2 {
            let heads: String = columns.iter().map(|(head, _)| format!("{:>7}", head[line])).collect();
            writeln!(f, "{}{:<15}{heads}", if line == 0 { "\n" } else { "" }, ["", "medians"][line])?;
        }
        let row = |name: &str, cells: String| format!("{name:<15}{cells}");
        for target in &self.targets {
            let cells = columns.iter().map(|(_, of)| format!("{:>7}", or_dash(of(*target).map(short))));
            writeln!(f, "{}", row(target.name(), cells.collect()))?;
        }
        if !self.targets.contains(&Kind::Nginx) {
            return Ok(());
        }
        writeln!(f, "ratios to nginx")?;
        for target in self.targets.iter().filter(|target| **target != Kind::Nginx) {
            let cells = columns.iter().map(|(_, of)| {
                let ratio = of(*target).zip(of(Kind::Nginx)).map(|(own, nginx)| format!("{:.2}", own / nginx));
                format!("{:>7}", or_dash(ratio))
            });
            writeln!(f, "{}", row(target.name(), cells.collect()))?;
        }
        Ok(())
    }

    /// Heads of two words, and the median of a target.
    fn columns(&self) -> Vec<([String; 2], Median<'_>)> {
        let mut columns: Vec<([String; 2], Median<'_>)> = Vec::new();
        for case in &self.cases {
            let streams = case.load.connections;
            columns.push(match case.load.pace_ms {
                0 => (case.label.clone(), self.median(case, Measured::cpu_us_per_request)),
                _ => (case.label.clone(), self.median(case, move |m| m.kib_per_stream(streams))),
            });
        }
        let case = |name: &str| self.cases.iter().find(|case| case.name == name);
        let head = |words: [&str; 2]| words.map(String::from);
        if let Some(json1) = case("json1") {
            columns.push((head(["p50 us", "c=1"]), self.median(json1, |m| Some(m.p50_us as f64))));
        }
        if let Some(json32) = case("json32") {
            columns.push((head(["p99 us", "c=32"]), self.median(json32, |m| Some(m.p99_us as f64))));
        }
        let idle = |target| self.start_figure(target, |s| s.idle_kib.map(|kib| kib as f64 / 1024.0));
        columns.push((head(["idle", "MiB"]), Box::new(move |target| idle(target).map(|figure| figure.median))));
        let start = |target| self.start_figure(target, |s| Some(s.first_answer_ms));
        columns.push((head(["start", "ms"]), Box::new(move |target| start(target).map(|figure| figure.median))));
        columns.push((head(["file", "MiB"]), Box::new(|target| self.file_mib(target))));
        columns
    }

    fn median<'a>(&'a self, case: &Case, of: impl Fn(&Measured) -> Option<f64> + 'a) -> Median<'a> {
        let name = case.name.clone();
        Box::new(move |target| self.runs.figure(&name, target, &of).map(|figure| figure.median))
    }
}

/// A target's median of something.
type Median<'a> = Box<dyn Fn(Kind) -> Option<f64> + 'a>;

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.loops(f)?;
        self.holds(f)?;
        self.starts(f)?;
        self.summary(f)?;
        writeln!(
            f,
            "\nCPU is that of all the target's threads, in microseconds for one answer. In brackets: the least and the most\n\
             of the rounds. stream: 20 chunks, each a write of its own. held: KiB of resident memory that each open\n\
             stream adds. idle: half a second after the first answer. start: to the first answer. file: the executable\n\
             without the libraries that it links."
        )?;
        if self.targets.contains(&Kind::Litellm) {
            writeln!(f, "litellm has the plain upstream, without TLS, and answers in words of its own.")?;
        }
        Ok(())
    }
}
