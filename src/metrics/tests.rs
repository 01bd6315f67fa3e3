//! The rendered scrape, read back: sums equal the records', names are escaped, and nothing grows past its limit.

use super::*;
use crate::base::clock::SECOND;
use crate::base::visible::visible;
use crate::limit::levels::LimitLevel;
use crate::limit::status::Limit;
use crate::price::PriceSource;
use crate::usage::record::{Correction, Outcome};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// One sample line: its name with its labels, decoded.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Sample {
    name: String,
    labels: Vec<(String, String)>,
}

impl Sample {
    fn label(&self, name: &str) -> &str {
        &self.labels.iter().find(|(label, _)| label == name).expect("the label is there").1
    }
}

/// A reader of the text format, strict: one HELP and one TYPE before a family's samples, no sample twice.
fn read(body: &[u8]) -> BTreeMap<Sample, f64> {
    let text = std::str::from_utf8(body).expect("UTF-8");
    assert!(text.ends_with('\n'));
    let mut samples = BTreeMap::new();
    let mut typed = Vec::new();
    for line in text.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let family = comment.split(' ').nth(1).expect("a family's name");
            if comment.starts_with("TYPE") {
                assert!(!typed.contains(&family), "{family} twice");
                typed.push(family);
            }
            continue;
        }
        let (sample, value) = read_sample(line);
        assert!(sample.name.starts_with(typed.last().expect("a TYPE first")), "{line} in another family");
        assert_eq!(samples.insert(sample, value.parse().expect("a number")), None, "{line} twice");
    }
    samples
}

fn read_sample(line: &str) -> (Sample, &str) {
    let Some((name, mut rest)) = line.split_once('{') else {
        let (name, value) = line.split_once(' ').expect("a value");
        return (Sample { name: name.into(), labels: Vec::new() }, value);
    };
    let mut labels = Vec::new();
    loop {
        let (label, after) = rest.split_once("=\"").expect("a label");
        let mut value = String::new();
        let mut chars = after.char_indices();
        let end = loop {
            match chars.next().expect("a closing quote") {
                (at, '"') => break at,
                (_, '\\') => match chars.next().expect("an escaped character").1 {
                    'n' => value.push('\n'),
                    other @ ('\\' | '"') => value.push(other),
                    other => panic!("\\{other} is no escape"),
                },
                (_, other) => value.push(other),
            }
        };
        labels.push((label.to_owned(), value));
        rest = &after[end + 1..];
        match rest.strip_prefix(',') {
            Some(next) => rest = next,
            None => break,
        }
    }
    (Sample { name: name.into(), labels }, rest.strip_prefix("} ").expect("a value"))
}

fn sum(samples: &BTreeMap<Sample, f64>, name: &str, matches: impl Fn(&Sample) -> bool) -> f64 {
    samples.iter().filter(|(sample, _)| sample.name == name && matches(sample)).map(|(_, value)| value).sum()
}

/// As somebody sees it who does not scrape regularly.
fn scrape(metrics: &mut Metrics) -> BTreeMap<Sample, f64> {
    read(&metrics.snapshot(Gauges::default(), None, 0).render(&Surroundings::default()))
}

/// As a server sees it that scrapes, so many seconds after the start.
fn scrape_by(metrics: &mut Metrics, name: &str, second: u64) -> BTreeMap<Sample, f64> {
    read(&metrics.snapshot(Gauges::default(), Some(name), second * SECOND).render(&Surroundings::default()))
}

fn count(metrics: &mut Metrics, record: &Record) {
    metrics.record(record, 0);
}

fn record(user: &str, model: &str, status: u16) -> Record {
    Record { user: user.into(), model: Some(model.into()), status, ..Record::default() }
}

#[test]
fn a_scrape_in_full() {
    let mut metrics = Metrics::new(LabelLimits::default(), 1_700_000_000_500_000_000);
    count(
        &mut metrics,
        &Record {
            endpoint: Endpoint::ChatCompletions,
            usage: Usage { input_tokens: 19, cached_input_tokens: 4, output_tokens: 10, ..Usage::default() },
            usage_source: UsageSource::Reported,
            cost_nano_usd: Some(147_500),
            duration_us: 300_000,
            first_byte_us: Some(250_000),
            proxy_us: 26,
            ..record("太郎", "gpt-4o-2024-08-06", 200)
        },
    );
    metrics.rate_limited("太郎".into(), ["user", "requests"], 0);
    metrics.upstream_error("connect", 0);
    metrics.refused("bad_request", 0);
    metrics.ledger_committed(1);
    metrics.ledger_released_uncommitted();
    metrics.ledger_failed();
    let gauges = Gauges {
        requests_in_flight: 2,
        downstream_connections: 3,
        upstream_connections: 4,
        ledger_up: true,
        ledger_queue_records: 5,
        buffered_bytes: 6,
        leases: None,
        prices: vec![(PriceSource::Url, 1_795_426_200), (PriceSource::BuiltIn, 7)],
        certificate_expires_at: Some(1_795_000_000),
        budgets: vec![LimitUse {
            level: LimitLevel::Team,
            name: "研究".into(),
            limit: Limit::BudgetDay,
            used: 3,
            maximum: 4,
            reset_at: None,
        }],
    };
    let process = Process {
        cpu_seconds: 1.25,
        resident_bytes: 6_000_000,
        virtual_bytes: 90_000_000,
        open_fds: 12,
        max_fds: Some(1024),
    };
    let text = String::from_utf8(
        metrics.snapshot(gauges, None, 0).render(&Surroundings { process: Some(process), ..Surroundings::default() }),
    )
    .unwrap();
    for line in [
        r#"openai_proxy_requests_total{user="太郎",model="gpt-4o-2024-08-06",endpoint="chat/completions",status="200"} 1"#,
        r#"openai_proxy_tokens_total{user="太郎",model="gpt-4o-2024-08-06",type="input"} 19"#,
        r#"openai_proxy_tokens_total{user="太郎",model="gpt-4o-2024-08-06",type="cached_input"} 4"#,
        r#"openai_proxy_cost_usd_total{user="太郎",model="gpt-4o-2024-08-06"} 0.0001475"#,
        r#"openai_proxy_records_total{usage_source="reported"} 1"#,
        r#"openai_proxy_records_total{usage_source="unknown"} 0"#,
        "# TYPE openai_proxy_request_duration_seconds histogram",
        r#"openai_proxy_request_duration_seconds_bucket{le="0.25"} 0"#,
        r#"openai_proxy_request_duration_seconds_bucket{le="0.5"} 1"#,
        r#"openai_proxy_request_duration_seconds_bucket{le="600"} 1"#,
        r#"openai_proxy_request_duration_seconds_bucket{le="+Inf"} 1"#,
        "openai_proxy_request_duration_seconds_sum 0.3",
        r#"openai_proxy_time_to_first_byte_seconds_bucket{le="0.25"} 1"#,
        r#"openai_proxy_overhead_seconds_bucket{le="0.000025"} 0"#,
        r#"openai_proxy_overhead_seconds_bucket{le="0.00005"} 1"#,
        r#"openai_proxy_rate_limited_total{user="太郎",level="user",limit="requests"} 1"#,
        r#"openai_proxy_upstream_errors_total{reason="connect"} 1"#,
        r#"openai_proxy_refused_total{reason="bad_request"} 1"#,
        "openai_proxy_ledger_records_committed_total 1",
        "openai_proxy_ledger_released_uncommitted_total 1",
        "openai_proxy_ledger_failures_total 1",
        "openai_proxy_ledger_up 1",
        "openai_proxy_ledger_queue_records 5",
        "openai_proxy_requests_in_flight 2",
        r#"openai_proxy_connections{side="downstream"} 3"#,
        r#"openai_proxy_connections{side="upstream"} 4"#,
        "openai_proxy_buffered_bytes 6",
        r#"openai_proxy_budget_used_ratio{level="team",name="研究",period="day"} 0.75"#,
        r#"openai_proxy_prices_timestamp_seconds{source="PRICES_URL"} 1795426200"#,
        r#"openai_proxy_prices_timestamp_seconds{source="built-in"} 7"#,
        "openai_proxy_tls_certificate_expiry_timestamp_seconds 1795000000",
        concat!("openai_proxy_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
        "process_start_time_seconds 1700000000.5",
        "process_cpu_seconds_total 1.25",
        "process_resident_memory_bytes 6000000",
        "process_open_fds 12",
        "process_max_fds 1024",
    ] {
        assert!(text.lines().any(|have| have == line), "no line {line:?} in\n{text}");
    }
    assert!(!text.contains("type=\"reasoning\""), "a type that was never used has no sample");
    read(text.as_bytes());
}

#[test]
fn nothing_counted_yet_is_a_valid_scrape() {
    let samples = scrape(&mut Metrics::new(LabelLimits::default(), 0));
    assert!(samples.keys().all(|sample| sample.name != "openai_proxy_requests_total"));
    assert_eq!(sum(&samples, "openai_proxy_records_total", |_| true), 0.0);
}

/// In their order; where all have a sample, none is missing and none is left over.
#[test]
fn every_family_is_described() {
    let mut metrics = Metrics::new(LabelLimits::default(), 0);
    let priced = Record { cost_nano_usd: Some(1), ..record("u", "m", 200) };
    count(&mut metrics, &Record { usage: Usage { input_tokens: 1, ..Usage::default() }, ..priced });
    metrics.rate_limited("u".into(), ["user", "requests"], 0);
    metrics.upstream_error("reset", 0);
    metrics.refused("overloaded", 0);
    let around = Surroundings {
        process: Some(Process { max_fds: Some(1), ..Process::default() }),
        influx: Some(ExportGauges::default()),
        fleet: Some(FleetGauges::default()),
        reconcile: Some(ReconcileGauges { ratios: vec![("requests", 0.0)], succeeded_at: 1.0 }),
        log_lines_dropped: 0,
    };
    let prices = vec![(PriceSource::BuiltIn, 1)];
    let budget = LimitUse {
        level: LimitLevel::Total,
        name: String::new(),
        limit: Limit::BudgetDay,
        used: 0,
        maximum: 1,
        reset_at: None,
    };
    let gauges = Gauges {
        prices,
        certificate_expires_at: Some(1),
        budgets: vec![budget],
        leases: Some([1, 2]),
        ..Gauges::default()
    };
    let body = String::from_utf8(metrics.snapshot(gauges, None, 0).render(&around)).unwrap();
    let described: String =
        body.lines().filter_map(|line| Some(line.strip_prefix("# HELP ")?.to_owned() + "\n")).collect();
    assert_eq!(described, include_str!("families.txt"));
}

#[test]
fn hostile_names_come_back_as_they_were() {
    let mut metrics = Metrics::new(LabelLimits::default(), 0);
    let names = [
        r#"a"b"#,
        r"a\",
        "a\nb",
        "a\u{202e}b",
        r"a\u202eb",
        r#"\"} 1"#,
        "太郎 🙂",
        "_other",
        "",
        " ",
        "{user=\"x\"}",
        "#",
    ];
    for name in names {
        count(&mut metrics, &record(name, name, 200));
        metrics.rate_limited(name.into(), ["user", "requests"], 0);
    }
    let samples = scrape(&mut metrics);
    for name in names {
        assert_eq!(
            sum(&samples, "openai_proxy_requests_total", |sample| sample.label("user") == visible(name)),
            1.0,
            "{name:?}"
        );
        assert_eq!(
            sum(&samples, "openai_proxy_requests_total", |sample| sample.label("model") == visible(name)),
            1.0,
            "{name:?}"
        );
        assert_eq!(
            sum(&samples, "openai_proxy_rate_limited_total", |sample| sample.label("user") == visible(name)),
            1.0
        );
    }
}

#[test]
fn whatever_peers_send_memory_is_bounded() {
    let limits = LabelLimits { users_max: 100, models_max: 20, series_max: 500 };
    let mut metrics = Metrics::new(limits, 0);
    // Ever new users, and the first ones again and again with ever new statuses, valid or not.
    for number in 0..100_000u32 {
        let user = if number % 2 == 0 { number } else { number % 100 };
        let status = (number % 70_000) as u16;
        let mut record = record(&format!("user-{user}"), &format!("model-{}", number % 5_000), status);
        record.usage.input_tokens = 1;
        count(&mut metrics, &record);
        metrics.rate_limited((&*format!("other-{number}")).into(), ["user", "requests"], 0);
    }
    for round in 0..100_000u32 {
        let (user, model, status) = (round % 90, round % 19, (round % 1_000) as u16);
        let mut record = record(&format!("user-{user}"), &format!("model-{model}"), status);
        record.usage.input_tokens = 1;
        count(&mut metrics, &record);
    }
    assert_eq!((metrics.users.values().len(), metrics.models.values().len()), (101, 21));
    // The series of their own, and for each three-digit status one of the overflow.
    assert!(metrics.requests.cells().iter().count() <= 500 + 1_000, "{}", metrics.requests.cells().iter().count());
    assert!(metrics.consumption.cells().iter().count() <= 501);
    let samples = scrape(&mut metrics);
    assert_eq!(sum(&samples, "openai_proxy_requests_total", |_| true), 200_000.0);
    assert_eq!(sum(&samples, "openai_proxy_tokens_total", |_| true), 200_000.0);
    assert_eq!(sum(&samples, "openai_proxy_rate_limited_total", |_| true), 100_000.0);
}

/// A counter never goes down: what a correction takes back is made up for by what comes next, of each series by itself.
#[test]
fn what_is_taken_back_is_made_up_for() {
    let consumed = |input: u64, output: u64, nano_usd: Option<u64>| Record {
        usage: Usage { input_tokens: input, output_tokens: output, ..Usage::default() },
        usage_source: UsageSource::Reported,
        cost_nano_usd: nano_usd,
        ..record("a", "m", 200)
    };
    let taken_back = |input: u64, output: u64, nano_usd: u64, more: Record| Record {
        usage_source: UsageSource::Correction,
        correction: Some(Box::new(Correction {
            less: Usage { input_tokens: input, output_tokens: output, ..Usage::default() },
            less_nano_usd: nano_usd,
            gives_price: false,
        })),
        ..more
    };
    let mut metrics = Metrics::new(LabelLimits::default(), 0);
    let mut truth = [0i64; 3];
    let mut before = [0.0; 3];
    let mut requests = 0.0;
    for (record, truth_of_it) in [
        (consumed(250, 50, Some(900)), [250, 50, 900]),
        (taken_back(210, 0, 600, consumed(0, 10, Some(0))), [-210, 10, -600]),
        (consumed(100, 0, None), [100, 0, 0]),
        (taken_back(50, 0, 0, consumed(0, 0, None)), [-50, 0, 0]),
        (consumed(400, 5, Some(1000)), [400, 5, 1000]),
        (Record { user: "b".into(), ..consumed(7, 7, Some(7)) }, [0, 0, 0]),
    ] {
        count(&mut metrics, &record);
        requests += f64::from(u8::from(record.is_request()));
        truth = std::array::from_fn(|place| truth[place] + truth_of_it[place]);
        let samples = scrape(&mut metrics);
        let of_a = |name: &str, kind: &str| {
            let is_it =
                |sample: &Sample| sample.label("user") == "a" && (kind.is_empty() || sample.label("type") == kind);
            sum(&samples, name, is_it)
        };
        let tokens = "openai_proxy_tokens_total";
        let dollars = of_a("openai_proxy_cost_usd_total", "");
        let now = [of_a(tokens, "input"), of_a(tokens, "output"), (dollars * 1e9).round()];
        assert!(now.iter().zip(&before).all(|(now, before)| now >= before), "{before:?} {now:?}");
        assert!(now.iter().zip(&truth).all(|(now, truth)| *now >= *truth as f64), "{now:?} {truth:?}");
        assert_eq!(sum(&samples, "openai_proxy_requests_total", |_| true), requests);
        assert_eq!(sum(&samples, "openai_proxy_request_duration_seconds_count", |_| true), requests);
        before = now;
    }
    assert_eq!(before, truth.map(|truth| truth as f64), "nothing is owed any more");
}

/// What a scrape says of a user: requests, input tokens, nano-dollars; -1 where it says nothing.
fn of_user(samples: &BTreeMap<Sample, f64>, user: &str) -> [f64; 3] {
    ["requests_total", "tokens_total", "cost_usd_total"].map(|name| {
        let is_it = |sample: &&Sample| sample.name == format!("openai_proxy_{name}") && sample.label("user") == user;
        let value = samples.keys().find(is_it).map_or(-1.0, |sample| samples[sample]);
        if name == "cost_usd_total" { (value * 1e9).round().max(-1.0) } else { value }
    })
}

fn priced(user: &str) -> Record {
    let usage = Usage { input_tokens: 5, ..Usage::default() };
    Record { usage, cost_nano_usd: Some(9), ..record(user, "m", 200) }
}

#[test]
fn who_scrapes_sees_each_new_series_at_0_first_and_who_looks_sees_the_truth() {
    let mut metrics = Metrics::new(LabelLimits::default(), 0);
    metrics.record(&priced("a"), 10 * SECOND);
    metrics.upstream_error("reset", 10 * SECOND);
    metrics.refused("overloaded", 10 * SECOND);
    metrics.rate_limited("a".into(), ["user", "requests"], 10 * SECOND);
    let counted = [[0.0; 3], [0.0; 3], [1.0, 5.0, 9.0]];
    for (second, expected) in [15, 30, 45].into_iter().zip(counted) {
        assert_eq!(of_user(&scrape(&mut metrics), "a"), [1.0, 5.0, 9.0]);
        let samples = scrape_by(&mut metrics, "prometheus", second);
        assert_eq!(of_user(&samples, "a"), expected);
        for name in ["upstream_errors_total", "refused_total", "rate_limited_total"] {
            assert_eq!(sum(&samples, &format!("openai_proxy_{name}"), |_| true), expected[0], "{name}");
        }
    }
    // Each series by itself: the first output of a user whose input was there before.
    let more = Usage { input_tokens: 1, output_tokens: 3, ..Usage::default() };
    metrics.record(&Record { usage: more, ..priced("a") }, 50 * SECOND);
    for (second, expected) in [(60, 0.0), (75, 0.0), (90, 3.0)] {
        let samples = scrape_by(&mut metrics, "prometheus", second);
        let tokens = |kind: &str| sum(&samples, "openai_proxy_tokens_total", |sample| sample.label("type") == kind);
        assert_eq!((tokens("input"), tokens("output")), (6.0, expected));
    }
}

#[test]
fn what_the_ledger_had_is_there_at_0_and_takes_half_of_the_places_at_most() {
    let limits = LabelLimits { users_max: 6, models_max: 4, series_max: 100 };
    let mut metrics = Metrics::new(limits, 0);
    let usage = Usage { input_tokens: 5, ..Usage::default() };
    let former = |user: &str, status, usage, is_priced| {
        FormerSeries::new([user.into(), "m".into()], Endpoint::Other, status, usage, is_priced)
    };
    metrics.expose(
        &[
            former("a", Some(200), &usage, true),
            former("b", None, &usage, false),
            former("c", Some(200), &Usage::default(), false),
            former("d", Some(200), &usage, true),
            former("a", Some(404), &usage, true),
        ],
        0,
    );
    let samples = scrape(&mut metrics);
    assert_eq!(["a", "b", "c"].map(|user| of_user(&samples, user)), [[0.0; 3], [-1.0, 0.0, -1.0], [0.0, -1.0, -1.0]]);
    assert_eq!(of_user(&samples, "d"), [-1.0; 3]);
    assert_eq!(samples.keys().filter(|sample| sample.name == "openai_proxy_requests_total").count(), 3);
    // The other half is for those who come.
    ["d", "e", "f", "g"].iter().for_each(|user| count(&mut metrics, &priced(user)));
    let samples = scrape(&mut metrics);
    assert_eq!(["d", "e", "f", "_other"].map(|user| of_user(&samples, user)), [[1.0, 5.0, 9.0]; 4]);
}

fn records() -> impl Strategy<Value = Record> {
    let usage = prop::array::uniform4(0..1_000_000u64).prop_map(|[input, cached, output, reasoning]| Usage {
        input_tokens: input,
        cached_input_tokens: cached,
        output_tokens: output,
        reasoning_tokens: reasoning,
        ..Usage::default()
    });
    let names = (prop::sample::select(vec!["a", "b", "c", "_other"]), prop::sample::select(vec!["", "m", "n", "o"]));
    let codes = (prop::sample::select(Endpoint::ALL), prop::sample::select(UsageSource::ALL));
    let times = (0..2_000_000_000u64, prop::option::of(0..2_000_000_000u64), 0..200_000u64);
    let cost = prop::option::of(0..1_000_000_000_000u64);
    (names, prop::sample::select(vec![0u16, 200, 429, 500]), codes, usage, times, cost).prop_map(
        |((user, model), status, (endpoint, usage_source), usage, (duration_us, first_byte_us, proxy_us), cost)| {
            Record {
                endpoint,
                usage_source,
                usage,
                cost_nano_usd: cost,
                duration_us,
                first_byte_us,
                proxy_us,
                outcome: Outcome::Completed,
                ..record(user, model, status)
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the limits fold together, every sum over labels is the sum over the records.
    #[test]
    fn sums_over_labels_are_sums_over_records(
        records in prop::collection::vec(records(), 0..60),
        users_max in 0..4usize,
        models_max in 0..4usize,
        series_max in 0..12usize,
    ) {
        let mut metrics = Metrics::new(LabelLimits { users_max, models_max, series_max }, 0);
        records.iter().for_each(|record| count(&mut metrics, record));
        let samples = scrape(&mut metrics);
        let total = |value: &dyn Fn(&Record) -> u64| records.iter().map(value).sum::<u64>() as f64;

        prop_assert_eq!(sum(&samples, "openai_proxy_requests_total", |_| true), records.len() as f64);
        for status in [0, 200, 429, 500] {
            let label = status.to_string();
            prop_assert_eq!(
                sum(&samples, "openai_proxy_requests_total", |sample| sample.label("status") == label),
                total(&|record| u64::from(record.status == status))
            );
        }
        for (kind, value) in [
            ("input", (|usage| usage.input_tokens) as fn(&Usage) -> u64),
            ("cached_input", |usage| usage.cached_input_tokens),
            ("output", |usage| usage.output_tokens),
            ("reasoning", |usage| usage.reasoning_tokens),
        ] {
            prop_assert_eq!(
                sum(&samples, "openai_proxy_tokens_total", |sample| sample.label("type") == kind),
                total(&|record| value(&record.usage))
            );
        }
        let dollars = sum(&samples, "openai_proxy_cost_usd_total", |_| true);
        prop_assert_eq!((dollars * 1e9).round(), total(&|record| record.cost_nano_usd.unwrap_or(0)));
        for source in UsageSource::ALL {
            prop_assert_eq!(
                sum(&samples, "openai_proxy_records_total", |sample| sample.label("usage_source") == source.as_str()),
                total(&|record| u64::from(record.usage_source == *source))
            );
        }
        prop_assert_eq!(sum(&samples, "openai_proxy_request_duration_seconds_count", |_| true), records.len() as f64);
        prop_assert_eq!(
            sum(&samples, "openai_proxy_time_to_first_byte_seconds_count", |_| true),
            total(&|record| u64::from(record.first_byte_us.is_some()))
        );
        prop_assert_eq!(
            (sum(&samples, "openai_proxy_overhead_seconds_sum", |_| true) * 1e6).round(),
            total(&|record| record.proxy_us)
        );
    }
}

/// A user who changes teams has a series for each, and one number for the page.
#[test]
fn a_team_is_a_label_beside_its_user() {
    let mut metrics = Metrics::new(LabelLimits { users_max: 2, ..LabelLimits::default() }, 0);
    let of = |user: &str, team: Option<&str>| Record { team: team.map(Into::into), ..record(user, "m", 200) };
    for team in [None, Some("x"), Some("x"), Some("y")] {
        metrics.record(&of("a", team), 0);
    }
    let payer = |team| Payer { user: "a", team };
    metrics.rate_limited(payer(Some("x")), ["team", "requests"], 0);
    metrics.rate_limited(payer(None), ["user", "tokens"], 0);
    let count = |user| metrics.refusals_of(Some(user)).map(|refused| refused.iter().map(|of| of.count).sum::<u64>());
    assert_eq!((count("a"), count("b")), (Some(2), None));
    let snapshot = metrics.snapshot(Gauges::default(), None, 0);
    let text = String::from_utf8(snapshot.render(&Surroundings::default())).unwrap();
    for line in [
        r#"openai_proxy_requests_total{user="a",model="m",endpoint="other",status="200"} 1"#,
        r#"openai_proxy_requests_total{user="a",team="x",model="m",endpoint="other",status="200"} 2"#,
        r#"openai_proxy_rate_limited_total{user="a",team="x",level="team",limit="requests"} 1"#,
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    let others = text.lines().filter(|line| line.starts_with("openai_proxy_requests_total{user=\"_other\""));
    assert_eq!(others.count(), 1, "the places are as many as there were");
}
