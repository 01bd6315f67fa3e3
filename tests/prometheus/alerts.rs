//! Each alert of the printed rules, by Prometheus' own unit tests for rules: it fires where it should, alone, and keeps
//! silent where that is nearly so. A ratio of few requests is such a case.
//!
//! A case has the series of one proxy, a sample a minute in promtool's notation (`0+1x30`: from 0, 1 more each of 30
//! times; `_`: none), and the minute in which it is looked at.

use super::{complaints, is_installed};
use openai_api_proxy::cli::ALERT_RULES;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Name and labels without those of the scrape, and values.
type Series = (&'static str, &'static str);
/// The alert, its series, the minute, and whether it fires.
type Case = (&'static str, &'static [Series], u32, bool);

const DOWN: Series = ("up", "1+0x9 0+0x50");
const IS_PROXY: Series = (r#"openai_proxy_build_info{version="1"}"#, "1+0x9 _x50");
const OTHERS: Series = (r#"openai_proxy_requests_total{user="u",status="200"}"#, "0+9x60");
const FEW_OTHERS: Series = (r#"openai_proxy_requests_total{user="u",status="200"}"#, "0+1x60");
const USED: &str = r#"openai_proxy_budget_used_ratio{level="team",name="x",period="month"}"#;
const LIMITED: &str = r#"openai_proxy_rate_limited_total{user="taro",level="user",limit="budget_day"}"#;
const OVERLOADED: &str = r#"openai_proxy_refused_total{reason="overloaded"}"#;
const UNKNOWN: &str = r#"openai_proxy_records_total{usage_source="unknown"}"#;

const CASES: &[Case] = &[
    ("Down", &[DOWN, IS_PROXY], 30, true),
    ("Down", &[DOWN], 30, false), // something else than a proxy
    ("Down", &[("up", "1+0x60"), IS_PROXY], 30, false),
    ("LedgerDown", &[("openai_proxy_ledger_up", "1 0+0x20")], 10, true),
    ("LedgerDown", &[("openai_proxy_ledger_up", "1+0x8 0 1+0x9")], 10, false),
    ("AnswersReleasedUncommitted", &[("openai_proxy_ledger_released_uncommitted_total", "0+0x5 1+0x9")], 9, true),
    ("AnswersReleasedUncommitted", &[("openai_proxy_ledger_released_uncommitted_total", "1+0x20")], 9, false),
    ("UpstreamErrors", &[(r#"openai_proxy_upstream_errors_total{reason="connect"}"#, "0+1x60"), OTHERS], 20, true),
    ("UpstreamErrors", &[(r#"openai_proxy_upstream_errors_total{reason="connect"}"#, "0+1x60"), FEW_OTHERS], 20, false),
    ("UpstreamErrors", &[(r#"openai_proxy_upstream_errors_total{reason="connect"}"#, "0+0.4x60"), OTHERS], 20, false),
    ("ServerErrors", &[(r#"openai_proxy_requests_total{user="v",status="502"}"#, "0+1x60"), OTHERS], 20, true),
    ("ServerErrors", &[(r#"openai_proxy_requests_total{user="v",status="502"}"#, "0+1x60")], 20, false),
    ("ServerErrors", &[(r#"openai_proxy_requests_total{user="v",status="404"}"#, "0+9x60"), OTHERS], 20, false),
    ("UpstreamRateLimits", &[(r#"openai_proxy_requests_total{user="v",status="429"}"#, "0+1x60"), OTHERS], 20, true),
    ("UpstreamRateLimits", &[(r#"openai_proxy_requests_total{user="v",status="429"}"#, "0+1x60")], 20, false),
    ("UpstreamRateLimits", &[("openai_proxy_rate_limited_total{limit=\"tokens\"}", "0+9x60"), OTHERS], 20, false),
    ("BudgetSpent", &[(LIMITED, "_x9 1+0x50")], 15, true), // the first refusal begins the counter
    ("BudgetSpent", &[(LIMITED, "1+0x30 2+0x30")], 35, true),
    ("BudgetSpent", &[(LIMITED, "_x9 1+0x50")], 40, false),
    (
        "BudgetSpent",
        &[(r#"openai_proxy_rate_limited_total{user="taro",level="user",limit="requests"}"#, "0+1x60")],
        15,
        false,
    ),
    ("BudgetNearlySpent", &[(USED, "0.7+0x10 0.85+0x50")], 30, true),
    ("BudgetNearlySpent", &[(USED, "0.79+0x60")], 30, false),
    ("BudgetUsedUp", &[(USED, "0.85+0x10 1+0x50")], 30, true),
    ("BudgetNearlySpent", &[(USED, "0.9999+0x60")], 30, true),
    ("BudgetUsedUp", &[(USED, "0.79+0x60")], 30, false),
    ("Spending", &[(r#"openai_proxy_cost_usd_total{user="a"}"#, "0+0.5x120")], 100, true),
    ("Spending", &[(r#"openai_proxy_cost_usd_total{user="a"}"#, "0+0.1x120")], 100, false),
    ("Overloaded", &[(OVERLOADED, "_x9 1+0x50")], 12, true),
    ("Overloaded", &[(OVERLOADED, "1+0x9 2+0x50")], 12, true),
    ("Overloaded", &[(OVERLOADED, "_x9 1+0x50")], 20, false),
    ("Overloaded", &[(r#"openai_proxy_refused_total{reason="bad_request"}"#, "0+1x60")], 12, false),
    ("BooksDiffer", &[(r#"openai_proxy_reconcile_ratio{quantity="cost_usd"}"#, "0.006+0x60")], 30, true),
    ("BooksDiffer", &[(r#"openai_proxy_reconcile_ratio{quantity="cost_usd"}"#, "0.004+0x60")], 30, false),
    // Promtool's clock begins with the Unix epoch: four days before it, and at it.
    ("NotReconciled", &[("openai_proxy_reconcile_last_success_timestamp_seconds", "-345600+0x60")], 30, true),
    ("NotReconciled", &[("openai_proxy_reconcile_last_success_timestamp_seconds", "0+0x60")], 30, false),
    // Ten and seventeen days after the Unix epoch, which promtool's clock begins with.
    ("CertificateExpires", &[("openai_proxy_tls_certificate_expiry_timestamp_seconds", "864000+0x120")], 90, true),
    ("CertificateExpires", &[("openai_proxy_tls_certificate_expiry_timestamp_seconds", "1468800+0x120")], 90, false),
    (
        "Slow",
        &[
            (r#"openai_proxy_overhead_seconds_bucket{le="0.05"}"#, "0+0x60"),
            (r#"openai_proxy_overhead_seconds_bucket{le="0.1"}"#, "0+9x60"),
            (r#"openai_proxy_overhead_seconds_bucket{le="+Inf"}"#, "0+9x60"),
            ("openai_proxy_overhead_seconds_count", "0+9x60"),
        ],
        30,
        true,
    ),
    (
        "Slow",
        &[
            (r#"openai_proxy_overhead_seconds_bucket{le="0.05"}"#, "0+0x60"),
            (r#"openai_proxy_overhead_seconds_bucket{le="0.1"}"#, "0+1x60"),
            (r#"openai_proxy_overhead_seconds_bucket{le="+Inf"}"#, "0+1x60"),
            ("openai_proxy_overhead_seconds_count", "0+1x60"),
        ],
        30,
        false,
    ),
    ("UnknownUsage", &[(UNKNOWN, "0+1x180")], 150, true),
    ("UnknownUsage", &[(UNKNOWN, "0+0.1x180")], 150, false),
    ("UnknownUsage", &[(UNKNOWN, "0+1x180"), ("openai_proxy_records_total", "0+20x180")], 150, false),
    ("LabelsFull", &[(r#"openai_proxy_requests_total{user="_other",status="200"}"#, "0+1x60")], 30, true),
    ("LabelsFull", &[OTHERS], 30, false),
    ("InfluxLag", &[("openai_proxy_influx_lag_seconds", "700+0x20"), ("openai_proxy_influx_up", "0+0x20")], 10, true),
    ("InfluxLag", &[("openai_proxy_influx_lag_seconds", "700+0x20"), ("openai_proxy_influx_up", "1+0x20")], 10, false),
    ("InfluxRefusals", &[("openai_proxy_influx_lines_refused_total", "0+0x5 1+0x9")], 9, true),
    ("InfluxRefusals", &[("openai_proxy_influx_lines_refused_total", "1+0x20")], 9, false),
    ("FleetAway", &[("openai_proxy_fleet_up", "1 0+0x20")], 10, true),
    ("FleetAway", &[("openai_proxy_fleet_lag_seconds", "700+0x20"), ("openai_proxy_fleet_up", "1+0x20")], 10, true),
    ("FleetAway", &[("openai_proxy_fleet_up", "0+0x4 1+0x20")], 10, false),
    ("FleetPolicyOld", &[("openai_proxy_fleet_policy_timestamp_seconds", "1+0x90")], 80, true),
    ("FleetPolicyOld", &[("openai_proxy_fleet_policy_timestamp_seconds", "1+60x90")], 80, false),
    ("FleetPolicyOld", &[("openai_proxy_fleet_policy_timestamp_seconds", "0+0x90")], 80, false),
    (
        "FewDescriptorsLeft",
        &[("process_open_fds", "95+0x20"), ("process_max_fds", "100+0x20"), ("openai_proxy_build_info", "1+0x20")],
        10,
        true,
    ),
    ("FewDescriptorsLeft", &[("process_open_fds", "95+0x20"), ("process_max_fds", "100+0x20")], 10, false),
];

/// With the labels that a scrape gives.
fn scraped(series: &str) -> String {
    let labels = r#"instance="here:8080",job="proxy""#;
    match series.strip_suffix('}') {
        Some(open) => format!("{open},{labels}}}"),
        None => format!("{series}{{{labels}}}"),
    }
}

/// A test of promtool's: which alerts fire, and how many of each.
fn test(number: usize, (alert, series, minute, fires): &Case) -> Value {
    let input = series.iter().map(|(name, values)| json!({ "series": scraped(name), "values": values }));
    let labels = format!("{{alertname=\"OpenAIProxy{alert}\"}}");
    let firing = if *fires { json!([{ "labels": labels, "value": 1 }]) } else { json!([]) };
    json!({
        "name": format!("{number}: {alert}"),
        "interval": "1m",
        "input_series": input.collect::<Vec<_>>(),
        "promql_expr_test": [{
            "expr": "count by (alertname) (ALERTS{alertstate=\"firing\"})",
            "eval_time": format!("{minute}m"),
            "exp_samples": firing,
        }],
    })
}

#[test]
fn each_alert_fires_where_it_should_and_nowhere_else() {
    let alerts: BTreeSet<&str> =
        ALERT_RULES.lines().filter_map(|line| line.trim().strip_prefix("- alert: OpenAIProxy")).collect();
    for fires in [true, false] {
        let tried: BTreeSet<&str> = CASES.iter().filter(|case| case.3 == fires).map(|case| case.0).collect();
        assert_eq!(tried, alerts, "each alert has cases that fire and such that do not");
    }
    if !is_installed("promtool") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("rules.yaml"), ALERT_RULES).unwrap();
    let mut tests: Vec<Value> = CASES.iter().enumerate().map(|(number, case)| test(number, case)).collect();
    tests.push(json!({
        "name": "a sum of money is written as one",
        "interval": "1m",
        "input_series": [{ "series": scraped("openai_proxy_cost_usd_total"), "values": "0+0.5x120" }],
        "alert_rule_test": [{ "eval_time": "100m", "alertname": "OpenAIProxySpending", "exp_alerts": [{
            "exp_labels": { "severity": "warning", "instance": "here:8080" },
            "exp_annotations": {
                "summary": "here:8080 spends 30.00 USD an hour",
                "description": "`proxy-server usage --by user --from 1h` says who.",
            },
        }] }],
    }));
    let document = json!({ "rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": tests });
    let file = folder.path().join("tests.yaml");
    std::fs::write(&file, document.to_string()).unwrap(); // JSON is YAML
    let said = complaints("promtool", &["test", "rules", file.to_str().unwrap()], "");
    assert!(said.contains("SUCCESS") && !said.contains("FAILED"), "{said}");
}
