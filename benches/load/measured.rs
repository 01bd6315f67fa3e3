//! What one generator saw, as it crosses from its process to the benchmark's.
//!
//! In and out: one line of text. Never: a figure of several runs.

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
    /// Latency in microseconds: of the whole answer, for a held stream of its first event.
    pub p50_us: u64,
    pub p99_us: u64,
    /// CPU of the target in the window, nanoseconds; `None` where the system does not account it.
    pub cpu_ns: Option<u64>,
    /// Resident memory of the target before the first connection.
    pub rss_before_kib: Option<u64>,
    /// Resident memory of the target at the end of the window, while streams are held: at most.
    pub rss_kib: Option<u64>,
    /// The first error.
    pub note: String,
}

impl Display for Measured {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { requests, errors, seconds, p50_us, p99_us, .. } = self;
        let optional = |value: Option<u64>| value.map_or("-".to_string(), |v| v.to_string());
        write!(f, "{requests} {errors} {seconds} {p50_us} {p99_us} {} ", optional(self.cpu_ns))?;
        write!(f, "{} {} ", optional(self.rss_before_kib), optional(self.rss_kib))?;
        f.write_str(&self.note.replace('\n', " "))
    }
}

impl Measured {
    /// Reads what `Display` wrote.
    pub fn parse(line: &str) -> Option<Self> {
        let mut fields = line.trim_end_matches('\n').splitn(9, ' ');
        let mut field = || fields.next();
        Some(Self {
            requests: field()?.parse().ok()?,
            errors: field()?.parse().ok()?,
            seconds: field()?.parse().ok()?,
            p50_us: field()?.parse().ok()?,
            p99_us: field()?.parse().ok()?,
            cpu_ns: field()?.parse().ok(),
            rss_before_kib: field()?.parse().ok(),
            rss_kib: field()?.parse().ok(),
            note: field()?.to_string(),
        })
    }

    /// Sets the quantiles.
    pub fn set_latency(&mut self, mut latencies_us: Vec<u64>) {
        latencies_us.sort_unstable();
        let quantile = |share: f64| {
            let rank = (latencies_us.len() as f64 * share).ceil() as usize;
            latencies_us.get(rank.saturating_sub(1)).copied().unwrap_or(0)
        };
        (self.p50_us, self.p99_us) = (quantile(0.50), quantile(0.99));
    }

    /// One more error, the first with its reason.
    pub fn fail(&mut self, fault: String) {
        if self.errors == 0 {
            self.note = fault;
        }
        self.errors += 1;
    }

    pub fn cpu_us_per_request(&self) -> Option<f64> {
        self.cpu_ns.map(|ns| ns as f64 / 1e3 / self.requests.max(1) as f64)
    }

    /// What each of so many streams added to the resident memory.
    pub fn kib_per_stream(&self, streams: usize) -> Option<f64> {
        let added = self.rss_kib?.saturating_sub(self.rss_before_kib?);
        Some(added as f64 / streams.max(1) as f64)
    }
}
