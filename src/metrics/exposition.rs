//! From a snapshot to the Prometheus text format: the only place that names the `prometheus` crate.
//!
//! In: a [`Snapshot`] and the process's own numbers. Out: the body of a scrape. The library writes the format, escapes
//! the labels and prints the numbers; a family without a sample is left out.

use super::first_zero::Counters;
use super::histogram::Histogram;
use super::{COST, Snapshot, split_team, token_counts};
use crate::base::visible::visible;
use crate::usage::record::{Usage, UsageSource};
use prometheus::proto::{Bucket, Counter, Gauge, Histogram as Buckets, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Encoder, TextEncoder};

/// The media type of the body.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Every family's name, and behind a space what it says.
const FAMILIES: &str = include_str!("families.txt");

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
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Surroundings {
    /// `None` where the operating system does not say.
    pub process: Option<Process>,
    /// `None` where nothing is exported.
    pub influx: Option<ExportGauges>,
    /// `None` where there is no fleet.
    pub fleet: Option<FleetGauges>,
    /// `None` where nothing was compared with the provider's books.
    pub reconcile: Option<ReconcileGauges>,
    /// Lines of the log that nobody read in time.
    pub log_lines_dropped: u64,
}

/// The last comparison with the provider's own books.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReconcileGauges {
    /// By the label of a quantity: the difference as a part of the whole.
    pub ratios: Vec<(&'static str, f64)>,
    /// When one last succeeded, seconds since the Unix epoch.
    pub succeeded_at: f64,
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

/// The fleet, as this node sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct FleetGauges {
    /// The last try to reach it went well.
    pub is_up: bool,
    /// Nodes that live, when it was reached last.
    pub nodes: u64,
    /// Rows of the ledger that it has not got yet.
    pub lag_rows: u64,
    /// How long the oldest of them has been waiting.
    pub lag_seconds: f64,
    /// Exchanges about limits, and how long they took together.
    pub asks: u64,
    pub ask_seconds: f64,
    /// When keys and limits here were last known to be its, seconds since the Unix epoch; 0 before they were.
    pub policy_timestamp: f64,
}

impl Snapshot {
    /// The body of a scrape.
    pub fn render(self, around: &Surroundings) -> Vec<u8> {
        let mut page = Page { body: Vec::new() };
        self.requests_and_money(&mut page);
        page.histogram("openai_proxy_request_duration_seconds", &self.totals.duration);
        page.histogram("openai_proxy_time_to_first_byte_seconds", &self.totals.first_byte);
        page.histogram("openai_proxy_overhead_seconds", &self.totals.overhead);
        self.refusals(&mut page);
        self.ledger(&mut page);
        self.state(&mut page);
        page.value("openai_proxy_log_lines_dropped_total", around.log_lines_dropped as f64);
        if let Some(influx) = &around.influx {
            influx.write(&mut page);
        }
        if let Some(fleet) = &around.fleet {
            fleet.write(&mut page);
        }
        if let Some(of) = &around.reconcile {
            let by_quantity = of.ratios.iter().map(|&(name, ratio)| (label_pairs(&[("quantity", name)]), ratio));
            page.family("openai_proxy_reconcile_ratio", by_quantity);
            page.value("openai_proxy_reconcile_last_success_timestamp_seconds", of.succeeded_at);
        }
        if let Some(process) = &around.process {
            process.write(&mut page);
        }
        page.body
    }

    fn requests_and_money(&self, page: &mut Page) {
        page.family(
            "openai_proxy_requests_total",
            self.requests.iter().filter_map(|(key, count)| {
                let status = key.status.to_string();
                let labels =
                    [("model", self.model(key.model)), ("endpoint", key.endpoint.as_str()), ("status", &status)];
                count.shown(0, self.upto).map(|count| (self.labels_of_user(key.user, &labels), count as f64))
            }),
        );
        page.family(
            "openai_proxy_tokens_total",
            self.consumption.iter().flat_map(|&((user, model), ref consumed)| {
                let kinds = token_counts(&Usage::default()).map(|(kind, _)| kind);
                kinds.into_iter().enumerate().filter_map(move |(place, kind)| {
                    let count = consumed.counters.shown(place, self.upto)?;
                    let labels = [("model", self.model(model)), ("type", kind)];
                    Some((self.labels_of_user(user, &labels), count as f64))
                })
            }),
        );
        page.family(
            "openai_proxy_cost_usd_total",
            self.consumption.iter().filter_map(|&((user, model), ref consumed)| {
                let nano_usd = consumed.counters.shown(COST, self.upto)?;
                let labels = self.labels_of_user(user, &[("model", self.model(model))]);
                Some((labels, nano_usd as f64 / NANOS_PER_UNIT))
            }),
        );
        page.family(
            "openai_proxy_records_total",
            UsageSource::ALL.iter().map(|source| {
                let count = self.totals.records[usize::from(source.code())];
                (label_pairs(&[("usage_source", source.as_str())]), count as f64)
            }),
        );
    }

    fn refusals(&self, page: &mut Page) {
        page.family(
            "openai_proxy_rate_limited_total",
            self.rate_limited.iter().filter_map(|((user, [level, limit]), count)| {
                let labels = || self.labels_of_user(*user, &[("level", level), ("limit", limit)]);
                count.shown(0, self.upto).map(|count| (labels(), count as f64))
            }),
        );
        let by_reason = |(reason, count): &(&str, Counters<1>)| {
            count.shown(0, self.upto).map(|count| (label_pairs(&[("reason", reason)]), count as f64))
        };
        page.family("openai_proxy_upstream_errors_total", self.upstream_errors.iter().filter_map(by_reason));
        page.family("openai_proxy_refused_total", self.refused.iter().filter_map(by_reason));
    }

    fn ledger(&self, page: &mut Page) {
        page.value("openai_proxy_ledger_records_committed_total", self.totals.ledger_committed as f64);
        page.value("openai_proxy_ledger_released_uncommitted_total", self.totals.ledger_released as f64);
        page.value("openai_proxy_ledger_failures_total", self.totals.ledger_failures as f64);
        page.value("openai_proxy_ledger_up", self.gauges.ledger_up.into());
        page.value("openai_proxy_ledger_queue_records", self.gauges.ledger_queue_records as f64);
    }

    fn state(&self, page: &mut Page) {
        page.value("openai_proxy_requests_in_flight", self.gauges.requests_in_flight as f64);
        let sides =
            [("downstream", self.gauges.downstream_connections), ("upstream", self.gauges.upstream_connections)];
        let by_side = sides.map(|(side, count)| (label_pairs(&[("side", side)]), count as f64));
        page.family("openai_proxy_connections", by_side);
        page.value("openai_proxy_connections_evicted_total", self.totals.connections_evicted as f64);
        page.value("openai_proxy_buffered_bytes", self.gauges.buffered_bytes as f64);
        if let Some([parked, purses]) = self.gauges.leases {
            page.value("openai_proxy_fleet_parked", parked as f64);
            page.value("openai_proxy_fleet_purses", purses as f64);
        }
        let dates = self.gauges.prices.iter();
        let dates = dates.map(|&(source, at)| (label_pairs(&[("source", source.as_str())]), at as f64));
        page.family("openai_proxy_prices_timestamp_seconds", dates);
        let budgets = self.gauges.budgets.iter();
        let budgets = budgets.filter_map(|of| {
            let labels = [("level", of.level.label()), ("name", &*of.name), ("period", of.limit.period()?)];
            Some((label_pairs(&labels), of.used as f64 / of.maximum.max(1) as f64))
        });
        page.family("openai_proxy_budget_used_ratio", budgets);
        let expiry = self.gauges.certificate_expires_at.map(|at| (Vec::new(), at as f64));
        page.family("openai_proxy_tls_certificate_expiry_timestamp_seconds", expiry);
        let version = label_pairs(&[("version", env!("CARGO_PKG_VERSION"))]);
        page.family("openai_proxy_build_info", [(version, 1.0)]);
        page.value("process_start_time_seconds", self.totals.started_at as f64 / NANOS_PER_UNIT);
    }

    /// A user, the team where there is one, and others.
    fn labels_of_user(&self, number: u32, others: &[(&str, &str)]) -> Vec<LabelPair> {
        let (user, team) = split_team(&self.users[number as usize]);
        let own = [Some(("user", user)), team.map(|team| ("team", team))];
        let labels: Vec<_> = own.into_iter().flatten().chain(others.iter().copied()).collect();
        label_pairs(&labels)
    }

    fn model(&self, number: u32) -> &str {
        &self.models[number as usize]
    }
}

impl Process {
    /// Under the names that every Prometheus client library gives them.
    fn write(&self, page: &mut Page) {
        page.value("process_cpu_seconds_total", self.cpu_seconds);
        page.value("process_resident_memory_bytes", self.resident_bytes as f64);
        page.value("process_virtual_memory_bytes", self.virtual_bytes as f64);
        page.value("process_open_fds", self.open_fds as f64);
        if let Some(max) = self.max_fds {
            page.value("process_max_fds", max as f64);
        }
    }
}

impl ExportGauges {
    fn write(&self, page: &mut Page) {
        page.value("openai_proxy_influx_up", self.is_up.into());
        page.value("openai_proxy_influx_lag_records", self.lag_records as f64);
        page.value("openai_proxy_influx_lag_seconds", self.lag_seconds);
        page.value("openai_proxy_influx_lines_sent_total", self.lines_sent as f64);
        page.value("openai_proxy_influx_lines_refused_total", self.lines_refused as f64);
        page.value("openai_proxy_influx_failures_total", self.failures as f64);
    }
}

impl FleetGauges {
    fn write(&self, page: &mut Page) {
        page.value("openai_proxy_fleet_up", self.is_up.into());
        page.value("openai_proxy_fleet_nodes", self.nodes as f64);
        page.value("openai_proxy_fleet_lag_rows", self.lag_rows as f64);
        page.value("openai_proxy_fleet_lag_seconds", self.lag_seconds);
        page.value("openai_proxy_fleet_asks_total", self.asks as f64);
        page.value("openai_proxy_fleet_ask_seconds_total", self.ask_seconds);
        page.value("openai_proxy_fleet_policy_timestamp_seconds", self.policy_timestamp);
    }
}

/// The body under construction. One family at a time is held in the library's form, which is large.
struct Page {
    body: Vec<u8>,
}

impl Page {
    /// A family of one sample without labels.
    fn value(&mut self, name: &str, value: f64) {
        self.family(name, [(Vec::new(), value)]);
    }

    /// A family of counters, which end in `_total`, or of gauges. A sample's value is a float in the text format: whole
    /// numbers are exact up to 2^53.
    fn family(&mut self, name: &str, samples: impl IntoIterator<Item = (Vec<LabelPair>, f64)>) {
        let kind = if name.ends_with("_total") { MetricType::COUNTER } else { MetricType::GAUGE };
        let metric = |(labels, value)| {
            let mut metric = Metric::from_label(labels);
            if kind == MetricType::COUNTER {
                let mut counter = Counter::default();
                counter.set_value(value);
                metric.set_counter(counter);
            } else {
                let mut gauge = Gauge::default();
                gauge.set_value(value);
                metric.set_gauge(gauge);
            }
            metric
        };
        self.write(name, kind, samples.into_iter().map(metric).collect());
    }

    fn histogram(&mut self, name: &str, histogram: &Histogram) {
        let buckets = histogram.cumulative().map(|(bound_us, count)| {
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(bound_us as f64 / MICROS_PER_SECOND);
            bucket.set_cumulative_count(count);
            bucket
        });
        let mut out = Buckets::default();
        out.set_bucket(buckets.collect());
        out.set_sample_count(histogram.count());
        out.set_sample_sum(histogram.sum_us() as f64 / MICROS_PER_SECOND);
        let mut metric = Metric::default();
        metric.set_histogram(out);
        self.write(name, MetricType::HISTOGRAM, vec![metric]);
    }

    fn write(&mut self, name: &str, kind: MetricType, metrics: Vec<Metric>) {
        if metrics.is_empty() {
            return;
        }
        let mut described = FAMILIES.lines().filter_map(|line| line.split_once(' '));
        let (_, help) = described.find(|(described, _)| *described == name).expect("every family is described");
        let mut family = MetricFamily::default();
        family.set_name(name.to_owned());
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        family.set_metric(metrics);
        TextEncoder::new().encode(&[family], &mut self.body).expect("a named family with samples, into memory");
    }
}

fn label_pairs(labels: &[(&str, &str)]) -> Vec<LabelPair> {
    let pair = |&(name, value): &(&str, &str)| {
        let mut pair = LabelPair::default();
        pair.set_name(name.to_owned());
        pair.set_value(visible(value).into_owned());
        pair
    };
    labels.iter().map(pair).collect()
}
