//! From a snapshot to the Prometheus text format: the only place that names the `prometheus` crate.
//!
//! In: a [`Snapshot`] and the process's own numbers. Out: the body of a scrape. The library writes the format, escapes
//! the labels and prints the numbers; a family without a sample is left out.

use super::histogram::Histogram;
use super::{Snapshot, token_counts};
use crate::usage::record::{Usage, UsageSource};
use prometheus::proto::{self, Bucket, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Encoder, TextEncoder};

/// The media type of the body.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

const NANOS_PER_UNIT: f64 = 1e9;
const MICROS_PER_SECOND: f64 = 1e6;

/// The process as the operating system accounts it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Process {
    /// Processor time used, user and system, seconds.
    pub cpu_seconds: f64,
    /// Memory resident, bytes.
    pub resident_bytes: u64,
    /// Address space, bytes.
    pub virtual_bytes: u64,
    /// Open file descriptors.
    pub open_fds: u64,
    /// The soft limit on them; `None` where there is none.
    pub max_fds: Option<u64>,
}

/// What the scrape reports beside the loop's own counters.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Surroundings {
    /// `None` where the operating system does not say.
    pub process: Option<Process>,
    /// `None` where nothing is exported.
    pub influx: Option<ExportGauges>,
    /// Lines of the log that nobody read in time.
    pub log_lines_dropped: u64,
}

/// The export to InfluxDB.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ExportGauges {
    /// The last try went well, or there was nothing to try.
    pub is_up: bool,
    /// Records in the ledger that are not exported.
    pub lag_records: u64,
    /// How long the oldest of them has been waiting.
    pub lag_seconds: f64,
    /// Lines that the server took.
    pub lines_sent: u64,
    /// Lines that it refused for ever.
    pub lines_refused: u64,
    /// Tries that failed.
    pub failures: u64,
}

impl Snapshot {
    /// The body of a scrape.
    pub fn render(self, around: &Surroundings) -> Vec<u8> {
        let mut page = Page { body: Vec::new() };
        self.requests_and_money(&mut page);
        self.times(&mut page);
        self.refusals(&mut page);
        self.ledger(&mut page);
        self.state(&mut page);
        page.count(
            "openai_proxy_log_lines_dropped_total",
            "Lines of the log that were dropped, because nobody read them in time.",
            around.log_lines_dropped as f64,
        );
        if let Some(influx) = &around.influx {
            influx.write(&mut page);
        }
        if let Some(process) = &around.process {
            process.write(&mut page);
        }
        page.body
    }

    fn requests_and_money(&self, page: &mut Page) {
        page.counter(
            "openai_proxy_requests_total",
            "Requests relayed, by who asked, for what, and the status that was sent.",
            self.requests.iter().map(|(key, count)| {
                let status = key.status.to_string();
                let labels = [
                    ("user", self.user(key.user)),
                    ("model", self.model(key.model)),
                    ("endpoint", key.endpoint.as_str()),
                    ("status", &status),
                ];
                counter(&labels, *count as f64)
            }),
        );
        page.counter(
            "openai_proxy_tokens_total",
            "Tokens consumed. Types other than input and output are parts of these two.",
            self.consumption.iter().flat_map(|(key, consumed)| {
                let kinds = token_counts(&Usage::default()).map(|(kind, _)| kind);
                kinds.into_iter().zip(consumed.tokens).filter(|&(_, count)| count > 0).map(|(kind, count)| {
                    let labels = [("user", self.user(key.user)), ("model", self.model(key.model)), ("type", kind)];
                    counter(&labels, count as f64)
                })
            }),
        );
        page.counter(
            "openai_proxy_cost_usd_total",
            "Cost of the requests whose price is known, in US dollars.",
            self.consumption.iter().filter_map(|(key, consumed)| {
                let labels = [("user", self.user(key.user)), ("model", self.model(key.model))];
                consumed.cost_nano_usd.map(|nano| counter(&labels, nano as f64 / NANOS_PER_UNIT))
            }),
        );
        page.counter(
            "openai_proxy_records_total",
            "Usage records, by how their numbers are known.",
            UsageSource::ALL.iter().map(|source| {
                counter(&[("usage_source", source.as_str())], self.totals.records[usize::from(source.code())] as f64)
            }),
        );
    }

    fn times(&self, page: &mut Page) {
        page.histogram(
            "openai_proxy_request_duration_seconds",
            "From a request's head to the end of its response.",
            &self.totals.duration,
        );
        page.histogram(
            "openai_proxy_time_to_first_byte_seconds",
            "From a request's head to the first byte of its response's body.",
            &self.totals.first_byte,
        );
        page.histogram(
            "openai_proxy_overhead_seconds",
            "What the proxy itself added before a request was on its way.",
            &self.totals.overhead,
        );
    }

    fn refusals(&self, page: &mut Page) {
        page.counter(
            "openai_proxy_rate_limited_total",
            "Requests refused because a limit of the user was reached.",
            self.rate_limited
                .iter()
                .map(|((user, limit), count)| counter(&[("user", self.user(*user)), ("limit", limit)], *count as f64)),
        );
        page.counter(
            "openai_proxy_upstream_errors_total",
            "Failures of the upstream.",
            self.upstream_errors.iter().map(|(reason, count)| counter(&[("reason", reason)], *count as f64)),
        );
        page.counter(
            "openai_proxy_refused_total",
            "Requests answered with an error of the proxy's own and never relayed.",
            self.refused.iter().map(|(reason, count)| counter(&[("reason", reason)], *count as f64)),
        );
    }

    fn ledger(&self, page: &mut Page) {
        page.count(
            "openai_proxy_ledger_records_committed_total",
            "Usage records committed to the ledger.",
            self.totals.ledger_committed as f64,
        );
        page.count(
            "openai_proxy_ledger_released_uncommitted_total",
            "Replies let go before their record was committed, because the ledger took too long.",
            self.totals.ledger_released as f64,
        );
        page.count(
            "openai_proxy_ledger_failures_total",
            "Times that the ledger began to fail, or went on failing for another reason.",
            self.totals.ledger_failures as f64,
        );
        page.level(
            "openai_proxy_ledger_up",
            "1 while the ledger commits, 0 while it fails.",
            self.gauges.ledger_up.into(),
        );
        page.level(
            "openai_proxy_ledger_queue_records",
            "Lines of the ledger (records, and entries of the journal) on their way and not yet committed.",
            self.gauges.ledger_queue_records as f64,
        );
    }

    fn state(&self, page: &mut Page) {
        page.level("openai_proxy_requests_in_flight", "Requests being relayed.", self.gauges.requests_in_flight as f64);
        page.gauge(
            "openai_proxy_connections",
            "Open connections, to clients (downstream) and to the target (upstream).",
            [
                gauge(&[("side", "downstream")], self.gauges.downstream_connections as f64),
                gauge(&[("side", "upstream")], self.gauges.upstream_connections as f64),
            ],
        );
        page.level(
            "openai_proxy_buffered_bytes",
            "Memory that held request bodies occupy.",
            self.gauges.buffered_bytes as f64,
        );
        page.gauge(
            "openai_proxy_build_info",
            "The version that is running.",
            [gauge(&[("version", env!("CARGO_PKG_VERSION"))], 1.0)],
        );
        page.level(
            "process_start_time_seconds",
            "When the process started, since the Unix epoch.",
            self.totals.started_at as f64 / NANOS_PER_UNIT,
        );
    }

    fn user(&self, number: u32) -> &str {
        &self.users[number as usize]
    }

    fn model(&self, number: u32) -> &str {
        &self.models[number as usize]
    }
}

impl Process {
    /// Under the names that every Prometheus client library gives them.
    fn write(&self, page: &mut Page) {
        page.count("process_cpu_seconds_total", "Processor time used, user and system.", self.cpu_seconds);
        page.level("process_resident_memory_bytes", "Memory resident.", self.resident_bytes as f64);
        page.level("process_virtual_memory_bytes", "Address space.", self.virtual_bytes as f64);
        page.level("process_open_fds", "Open file descriptors.", self.open_fds as f64);
        if let Some(max) = self.max_fds {
            page.level("process_max_fds", "The most file descriptors that may be open.", max as f64);
        }
    }
}

impl ExportGauges {
    fn write(&self, page: &mut Page) {
        page.level(
            "openai_proxy_influx_up",
            "1 while the export to InfluxDB works, 0 while it fails.",
            self.is_up.into(),
        );
        page.level(
            "openai_proxy_influx_lag_records",
            "Usage records in the ledger that are not exported yet.",
            self.lag_records as f64,
        );
        page.level(
            "openai_proxy_influx_lag_seconds",
            "Time since the end of the oldest request that is not exported yet.",
            self.lag_seconds,
        );
        page.count(
            "openai_proxy_influx_lines_sent_total",
            "Lines (one a record) that the server has taken.",
            self.lines_sent as f64,
        );
        page.count(
            "openai_proxy_influx_lines_refused_total",
            "Lines that the server refused for their own sake, and that were passed over.",
            self.lines_refused as f64,
        );
        page.count(
            "openai_proxy_influx_failures_total",
            "Failed attempts at exporting; each is made again.",
            self.failures as f64,
        );
    }
}

/// The body under construction. One family at a time is held in the library's form, which is large.
struct Page {
    body: Vec<u8>,
}

impl Page {
    fn counter(&mut self, name: &str, help: &str, metrics: impl IntoIterator<Item = Metric>) {
        self.family(name, help, MetricType::COUNTER, metrics.into_iter().collect());
    }

    /// A counter without labels.
    fn count(&mut self, name: &str, help: &str, value: f64) {
        self.counter(name, help, [counter(&[], value)]);
    }

    /// A gauge without labels.
    fn level(&mut self, name: &str, help: &str, value: f64) {
        self.gauge(name, help, [gauge(&[], value)]);
    }

    fn gauge(&mut self, name: &str, help: &str, metrics: impl IntoIterator<Item = Metric>) {
        self.family(name, help, MetricType::GAUGE, metrics.into_iter().collect());
    }

    fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        let buckets = histogram.cumulative().map(|(bound_us, count)| {
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(bound_us as f64 / MICROS_PER_SECOND);
            bucket.set_cumulative_count(count);
            bucket
        });
        let mut out = proto::Histogram::default();
        out.set_bucket(buckets.collect());
        out.set_sample_count(histogram.count());
        out.set_sample_sum(histogram.sum_us() as f64 / MICROS_PER_SECOND);
        let mut metric = Metric::default();
        metric.set_histogram(out);
        self.family(name, help, MetricType::HISTOGRAM, vec![metric]);
    }

    fn family(&mut self, name: &str, help: &str, kind: MetricType, metrics: Vec<Metric>) {
        if metrics.is_empty() {
            return;
        }
        let mut family = MetricFamily::default();
        family.set_name(name.to_owned());
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        family.set_metric(metrics);
        TextEncoder::new().encode(&[family], &mut self.body).expect("a named family with samples, into memory");
    }
}

/// A sample's value is a float in the text format: whole numbers are exact up to 2^53.
fn counter(labels: &[(&str, &str)], value: f64) -> Metric {
    let mut counter = proto::Counter::default();
    counter.set_value(value);
    let mut metric = Metric::from_label(label_pairs(labels));
    metric.set_counter(counter);
    metric
}

fn gauge(labels: &[(&str, &str)], value: f64) -> Metric {
    let mut gauge = proto::Gauge::default();
    gauge.set_value(value);
    let mut metric = Metric::from_label(label_pairs(labels));
    metric.set_gauge(gauge);
    metric
}

fn label_pairs(labels: &[(&str, &str)]) -> Vec<LabelPair> {
    let pair = |&(name, value): &(&str, &str)| {
        let mut pair = LabelPair::default();
        pair.set_name(name.to_owned());
        pair.set_value(value.to_owned());
        pair
    };
    labels.iter().map(pair).collect()
}
