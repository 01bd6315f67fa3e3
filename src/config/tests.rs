//! The whole configuration: defaults, precedence, all problems at once, and secrets that stay secret.

use super::*;
use crate::limit::bucket::Rate;
use crate::usage::record::Usage;
use std::collections::BTreeMap;
use std::io::Write;

fn load_with(env: &[(&str, &str)], dotenv: &str) -> Result<Config, Vec<Problem>> {
    let env: BTreeMap<&str, &str> = env.iter().copied().collect();
    Config::load(&|name| env.get(name).map(OsString::from), dotenv)
}

fn load(env: &[(&str, &str)]) -> Result<Config, Vec<Problem>> {
    load_with(env, "")
}

fn problems(env: &[(&str, &str)]) -> Vec<String> {
    load(env).expect_err("has problems").iter().map(Problem::to_string).collect()
}

fn file(content: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(content).unwrap();
    file
}

fn rate(per_minute: u64, burst: u64) -> Option<Rate> {
    Some(Rate { per_minute, burst })
}

#[test]
fn no_configuration_at_all_works() {
    let config = load(&[]).unwrap();
    assert_eq!(config.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(
        (config.target.authority.as_str(), config.target.tls, config.target.port),
        ("api.openai.com", true, 443)
    );
    assert!(config.api_key.is_none() && config.model_name.is_none() && config.tls_ca.is_none());
    assert_eq!(config.database_path, PathBuf::from("usage.db"));
    assert_eq!(config.durability, Durability::Settled);
    assert_eq!((config.ledger_wait, config.retention_days), (Some(Duration::from_secs(2)), 0));
    assert_eq!(config.limits, Limits { requests: rate(600, 600), ..Limits::default() });
    assert!(!config.keys_only && config.admin_token.is_none());
    assert_eq!(
        (config.connections_max, config.body_bytes_max, config.buffered_bytes_max),
        (10_000, 64 << 20, 256 << 20)
    );
    let seconds = Duration::from_secs;
    let Timeouts { connect, response, idle, header, shutdown_delay, drain } = config.timeouts;
    assert_eq!([connect, response, idle, header, shutdown_delay, drain], [10, 600, 75, 10, 0, 30].map(seconds));
    assert_eq!(config.prices, PriceTable::built_in());
    assert_eq!(config.metrics, metrics::LabelLimits::default());
    assert_eq!((config.read_on, config.read_on_max), (ReadOn::LimitedUsers, Duration::from_secs(60)));
    assert!(!config.reserves_average && !config.allows_unmetered);
    assert_eq!((config.log, config.log_format), (Level::Info, LogFormat::Logfmt));
}

#[test]
fn prices_and_what_is_on_them() {
    let tokens = Usage { input_tokens: 1_000, total_tokens: 1_000, ..Usage::default() };
    let cost = |vars: &[(&str, &str)]| load(vars).unwrap().prices.cost_nano_usd("gpt-5.5", &tokens, None);
    let eu = ("PROXY_TARGET", "https://EU.api.openai.com/v1");
    assert_eq!((cost(&[]), cost(&[eu])), (Some(5_000_000), Some(5_500_000)));
    assert_eq!(cost(&[eu, ("PRICE_FACTOR", "0.85")]), Some(4_675_000));
    let litellm = file(br#"{"groq/m": {"litellm_provider": "groq", "input_cost_per_token": 1e-6}}"#);
    let litellm = ("PRICES_FILE", litellm.path().to_str().unwrap());
    let config = load(&[litellm, ("PROXY_TARGET", "https://api.groq.com/openai"), ("PRICE_FACTOR", "2")]).unwrap();
    assert_eq!(config.prices.cost_nano_usd("m", &tokens, None), Some(2_000_000));
    let url = "https://example.com/prices.json?token=hush";
    let config = load(&[("PRICES_URL", url), ("ALERT_WEBHOOK_URL", url)]).unwrap();
    for called in [&config.prices_url, &config.alert_webhook] {
        let called = called.as_ref().unwrap();
        assert_eq!((called.url.expose(), called.shown.as_str()), (url, "https://example.com"));
    }
    assert!(!format!("{config:?}").contains("hush"));
    for wrong in ["ftp://hush", "https://user:hush@example.com/", "hush"] {
        let problems = problems(&[("PRICES_URL", wrong), ("ALERT_WEBHOOK_URL", wrong), ("PRICE_FACTOR", "0")]);
        let shown = problems.join("\n");
        assert!(problems.len() == 3 && !shown.contains("hush") && shown.contains("PRICE_FACTOR: "), "{shown}");
        assert!(shown.contains("ALERT_WEBHOOK_URL: "), "{shown}");
    }
}

#[test]
fn the_log() {
    let config = load(&[("LOG", "trace"), ("LOG_FORMAT", "json")]).unwrap();
    assert_eq!((config.log, config.log_format), (Level::Trace, LogFormat::Json));
    let problems = load(&[("LOG", "loud"), ("LOG_FORMAT", "xml")]).unwrap_err();
    let names: Vec<_> = problems.iter().map(|problem| problem.variable).collect();
    assert_eq!(names, ["LOG", "LOG_FORMAT"]);
}

#[test]
fn everything_can_be_set() {
    let key = rcgen::KeyPair::generate().unwrap();
    let ca = rcgen::CertificateParams::default().self_signed(&key).unwrap();
    let pem = ca.pem();
    let ca = file(pem.as_bytes());
    let prices = file(br#"{"mine": {"input_cost_per_token": 1e-6}}"#);
    let config = load(&[
        ("ON_CLIENT_ABORT", "drain"),
        ("DRAIN_MAX_SECONDS", "5"),
        ("BUDGET_RESERVE", "average"),
        ("UNMETERED", "allow"),
        ("PROXY_TARGET", "http://[::1]:9000/base/"),
        ("OPENAI_API_KEY", "sk-secret"),
        ("MODEL_NAME", "gpt-4o-mini"),
        ("HOST", "0.0.0.0"),
        ("ALLOW_ANONYMOUS", "true"),
        ("PORT", "0"),
        ("DATABASE_PATH", "/data/u.db"),
        ("LEDGER_DURABILITY", "relaxed"),
        ("LEDGER_FSYNC", "true"),
        ("LEDGER_WAIT", "0"),
        ("RETENTION_DAYS", "36500"),
        ("RATE_LIMIT_RPM", "60"),
        ("RATE_LIMIT_BURST", "5"),
        ("RATE_LIMIT_TPM", "1000000000000"),
        ("MAX_CONCURRENT_PER_USER", "4"),
        ("BUDGET_USD_DAY", "0.5"),
        ("BUDGET_USD_MONTH", "10"),
        ("CLIENT_AUTH", "keys"),
        ("ADMIN_TOKEN", "letmein-0123456789"),
        ("MAX_CONNECTIONS", "17"),
        ("MAX_CONNECTIONS_PER_ADDRESS", "5"),
        ("MAX_BODY_BYTES", "1MiB"),
        ("MAX_BUFFERED_BYTES", "2MiB"),
        ("CONNECT_TIMEOUT", "500ms"),
        ("RESPONSE_TIMEOUT", "2m"),
        ("IDLE_TIMEOUT", "1h"),
        ("HEADER_TIMEOUT", "3s"),
        ("DRAIN_TIMEOUT", "0"),
        ("TLS_CA_FILE", ca.path().to_str().unwrap()),
        ("PRICES_FILE", prices.path().to_str().unwrap()),
        ("METRICS_MAX_USERS", "5000"),
        ("METRICS_MAX_MODELS", "7"),
    ])
    .unwrap();
    assert_eq!((config.target.host.as_str(), config.target.prefix.as_str()), ("::1", "/base"));
    assert_eq!(config.api_key.as_ref().map(Secret::expose), Some("sk-secret"));
    assert_eq!(config.model_name.as_deref(), Some("gpt-4o-mini"));
    assert_eq!(config.listen.to_string(), "0.0.0.0:0");
    assert_eq!(config.database_path, PathBuf::from("/data/u.db"));
    assert_eq!((config.durability, config.ledger_fsync, config.ledger_wait), (Durability::Relaxed, true, None));
    assert_eq!(config.retention_days, 36_500);
    let limits = Limits {
        requests: rate(60, 5),
        tokens: rate(1_000_000_000_000, 1_000_000_000_000),
        concurrent: Some(4),
        day_nano_usd: Some(500_000_000),
        month_nano_usd: Some(10_000_000_000),
    };
    assert_eq!(config.limits, limits);
    assert_eq!((config.keys_only, config.admin_token.as_ref().map(Secret::expose)), (true, Some("letmein-0123456789")));
    assert_eq!((config.connections_max, config.body_bytes_max, config.buffered_bytes_max), (17, 1 << 20, 2 << 20));
    let Timeouts { connect, response, idle, header, drain, shutdown_delay: _ } = config.timeouts;
    assert_eq!([connect, response, idle, header, drain].map(|it| it.as_millis()), [500, 120_000, 3_600_000, 3_000, 0]);
    assert_eq!(config.tls_ca.as_deref(), Some(pem.as_bytes()));
    assert_eq!((config.read_on, config.read_on_max), (ReadOn::Everybodys, Duration::from_secs(5)));
    assert!(config.reserves_average && config.allows_unmetered);
    let usage = Usage { input_tokens: 2, ..Usage::default() };
    assert_eq!(config.prices.cost_nano_usd("mine", &usage, None), Some(2_000));
    assert!(config.prices.cost_nano_usd("gpt-4o", &usage, None).is_some());
    assert_eq!((config.metrics.users_max, config.metrics.models_max, config.metrics.series_max), (5_000, 7, 100_000));
    let print = format!("{config:?}");
    assert!(!print.contains("sk-secret") && !print.contains("letmein-0123456789"));
}

#[test]
fn all_problems_are_reported_at_once() {
    let found = problems(&[
        ("PORT", "65536"),
        ("HOST", "example.com"),
        ("PROXY_TARGET", "api.openai.com"),
        ("MODEL_NAME", "a\nb"),
        ("ALLOW_ANONYMOUS", "yes"),
        ("LEDGER_DURABILITY", "eventual"),
        ("LEDGER_WAIT", "2"),
        ("RETENTION_DAYS", "36501"),
        ("RATE_LIMIT_RPM", "-1"),
        ("RATE_LIMIT_BURST", "0"),
        ("RATE_LIMIT_TPM", "1e6"),
        ("MAX_CONCURRENT_PER_USER", "-1"),
        ("BUDGET_USD_DAY", "$5"),
        ("BUDGET_USD_MONTH", "0.0000000001"),
        ("ADMIN_TOKEN", "two words"),
        ("MAX_CONNECTIONS", "0"),
        ("MAX_CONNECTIONS_PER_ADDRESS", "-1"),
        ("MAX_BODY_BYTES", "64MB"),
        ("MAX_BUFFERED_BYTES", "1023"),
        ("CONNECT_TIMEOUT", "0"),
        ("DRAIN_TIMEOUT", "25h"),
        ("TLS_CA_FILE", "/nowhere/ca.pem"),
        ("PRICES_FILE", "/nowhere/prices.json"),
        ("METRICS_MAX_USERS", "many"),
        ("CLIENT_AUTH", "key"),
        ("LEDGER_FSYNC", "sometimes"),
    ]);
    for name in [
        "PORT",
        "HOST",
        "PROXY_TARGET",
        "MODEL_NAME",
        "ALLOW_ANONYMOUS",
        "LEDGER_DURABILITY",
        "LEDGER_WAIT",
        "RETENTION_DAYS",
        "RATE_LIMIT_RPM",
        "RATE_LIMIT_BURST",
        "RATE_LIMIT_TPM",
        "MAX_CONCURRENT_PER_USER",
        "BUDGET_USD_DAY",
        "BUDGET_USD_MONTH",
        "ADMIN_TOKEN",
        "CLIENT_AUTH",
        "MAX_CONNECTIONS",
        "MAX_CONNECTIONS_PER_ADDRESS",
        "MAX_BODY_BYTES",
        "MAX_BUFFERED_BYTES",
        "CONNECT_TIMEOUT",
        "DRAIN_TIMEOUT",
        "TLS_CA_FILE",
        "PRICES_FILE",
        "METRICS_MAX_USERS",
        "LEDGER_FSYNC",
    ] {
        let about = found.iter().filter(|problem| problem.starts_with(&format!("{name}: "))).count();
        assert_eq!(about, 1, "{name} in {found:#?}");
    }
    assert_eq!(found.len(), 26, "{found:#?}");
    for exact in [
        r#"PORT: expected a port number, 0 to 65535 (0: any free one), got "65536""#,
        r#"LEDGER_DURABILITY: expected relaxed, settled or journaled, got "eventual""#,
        r#"LEDGER_WAIT: expected a duration, 0ms to 24h, as in 500ms, 10s or 2m, got "2""#,
        r#"MODEL_NAME: expected a model's name, at most 128 bytes, got "a\nb""#,
        r#"CLIENT_AUTH: expected none or keys, got "key""#,
    ] {
        assert!(found.iter().any(|problem| problem == exact), "no {exact:?} in {found:#?}");
    }
}

#[test]
fn a_switch_has_two_words() {
    let switch = |value| load(&[("LEDGER_FSYNC", value)]).ok().map(|config| config.ledger_fsync);
    assert_eq!((switch("true"), switch("false"), switch("1"), switch("True")), (Some(true), Some(false), None, None));
}

#[test]
fn secrets_are_in_no_problem() {
    for key in ["Bearer sk-secret", "sk-secret\n", "sk-secrét"] {
        let found = problems(&[("OPENAI_API_KEY", key)]).join("\n");
        assert!(found.starts_with("OPENAI_API_KEY: expected the key alone"), "{found}");
        assert!(!found.contains("secr"), "{found}");
    }
    let found = problems(&[("PROXY_TARGET", "https://user:hunter2@example.com")]).join("\n");
    assert!(found.starts_with("PROXY_TARGET: ") && !found.contains("hunter2"), "{found}");
    let found = load_with(&[], "PORT=1\nOPENAI_API_KEY=sk-secret and more\n").unwrap_err();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].to_string(), ".env:2: expected NAME=value, got something else");
    let found = problems(&[("ADMIN_TOKEN", "hunter2-and-mor")]).join("\n");
    assert!(found.starts_with("ADMIN_TOKEN: ") && !found.contains("hunter2"), "{found}");
    let found = problems(&[("ADMIN_TOKEN", "hunter2 and more")]).join("\n");
    assert!(found.starts_with("ADMIN_TOKEN: "), "{found}");
    assert!(!found.contains("hunter2"), "{found}");
}

#[test]
fn the_environment_wins_over_dotenv_and_empty_is_unset() {
    let dotenv = "\u{feff}PORT=9001\nMODEL_NAME = \"from file\" # a comment\nexport RATE_LIMIT_RPM=7\nHOST=\n";
    let config = load_with(&[("PORT", "9000"), ("MODEL_NAME", ""), ("DATABASE_PATH", "")], dotenv).unwrap();
    assert_eq!(config.listen.to_string(), "127.0.0.1:9000");
    assert_eq!(config.model_name.as_deref(), Some("from file"));
    assert_eq!(config.limits.requests, rate(7, 7));
    assert_eq!(config.database_path, PathBuf::from("usage.db"));
    assert_eq!(load_with(&[], dotenv).unwrap().listen.port(), 9001);
}

#[test]
fn an_open_relay_on_the_operators_bill_is_refused() {
    let key = ("OPENAI_API_KEY", "sk-1");
    for host in ["0.0.0.0", "::", "192.168.1.5"] {
        let found = problems(&[key, ("HOST", host)]);
        assert!(found.len() == 1 && found[0].starts_with("HOST: expected a loopback address"), "{found:?}");
        assert!(load(&[("HOST", host)]).is_ok(), "each client pays with its own key");
        assert!(load(&[key, ("HOST", host), ("ALLOW_ANONYMOUS", "true")]).is_ok());
        assert!(load(&[key, ("HOST", host), ("CLIENT_AUTH", "keys")]).is_ok());
    }
    for host in ["127.0.0.1", "127.1.2.3", "::1", "localhost"] {
        assert!(load(&[key, ("HOST", host)]).is_ok(), "{host}");
    }
}

#[test]
fn no_limit_and_no_protection_asked_for() {
    assert!(load(&[("RATE_LIMIT_RPM", "0"), ("RATE_LIMIT_BURST", "5")]).unwrap().limits.is_unlimited());
    let off = [("CLIENT_AUTH", "none"), ("RETENTION_DAYS", "0"), ("BUDGET_USD_DAY", "0"), ("ADMIN_TOKEN", "")];
    assert!(load(&off).is_ok());
}

#[test]
fn files_that_are_not_what_they_should_be() {
    let (ca, prices, binary) = (file(b"not PEM"), file(b"{\"m\": {\"x\": 1}}"), file(b"\xff\xfe"));
    let path = |file: &tempfile::NamedTempFile| file.path().to_str().unwrap().to_owned();
    assert_eq!(
        problems(&[("TLS_CA_FILE", &path(&ca)), ("PRICES_FILE", &path(&prices))]),
        [
            "TLS_CA_FILE: expected a PEM file with certificates, found none in it",
            "PRICES_FILE: expected prices in the built-in table's format, or in LiteLLM's: \"m\": unknown price field \"x\"",
        ]
    );
    assert!(problems(&[("PRICES_FILE", &path(&binary))])[0].contains("invalid utf-8"));
    let bad = file(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let found = problems(&[("TLS_CA_FILE", &path(&bad)), ("PORT", "x")]);
    assert!(
        found.len() == 2 && found[1].starts_with("TLS_CA_FILE: expected a PEM file with certificates, found a bad")
    );
}

/// The file of an authority is often put together by hand, from many.
#[test]
fn a_bad_certificate_is_told_by_its_place() {
    let good = rcgen::CertificateParams::default().self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem();
    let bad = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let no_base64 = bad.replace("AAAA", "AA!A");
    let with = |variable, text: &str| {
        let file = file(text.as_bytes());
        let influx = [("INFLUXDB_URL", "https://h"), ("INFLUXDB_DATABASE", "d")];
        load(&[&influx[..], &[(variable, file.path().to_str().unwrap())]].concat())
    };
    for variable in ["TLS_CA_FILE", "INFLUXDB_CA_FILE"] {
        for (text, place) in [
            (bad.to_owned(), "the 1st certificate: "),
            (format!("{good}# a comment\n{no_base64}{good}"), "the 2nd certificate: "),
            (good.repeat(2) + bad + bad, "the 3rd certificate: "),
            (good.repeat(10) + bad, "the 11th certificate: "),
            (good.repeat(22) + bad, "the 23rd certificate: "),
        ] {
            let problems = with(variable, &text).unwrap_err();
            let told = format!("{variable}: expected a PEM file with certificates, found a bad one: {place}");
            assert!(problems.len() == 1 && problems[0].to_string().starts_with(&told), "{problems:?}");
        }
    }
    // What editors put at a file's head hides nothing.
    assert_eq!(with("TLS_CA_FILE", &format!("\u{feff}{good}")).unwrap().tls_ca.as_deref(), Some(good.as_bytes()));
    let influx = with("INFLUXDB_CA_FILE", &format!("\u{feff}{good}")).unwrap().influx.unwrap();
    assert_eq!(influx.ca.as_deref(), Some(good.as_bytes()));
}

#[cfg(unix)]
#[test]
fn a_path_need_not_be_utf_8_but_a_port_must_be() {
    use std::os::unix::ffi::OsStringExt;
    let odd = || OsString::from_vec(vec![b'a', 0xff]);
    let config = Config::load(&|name| (name == "DATABASE_PATH").then(odd), "").unwrap();
    assert_eq!(config.database_path, PathBuf::from(odd()));
    assert!(Config::load(&|name| (name == "PORT").then(odd), "").is_err());
}

/// `.env.example` shows each variable with its default: taken literally it changes nothing.
#[test]
fn the_example_file_shows_the_defaults() {
    let example = include_str!("../../.env.example");
    let uncommented: String = example
        .lines()
        .filter_map(|line| line.strip_prefix('#'))
        .filter(|line| line.starts_with(|first: char| first.is_ascii_uppercase()) && line.contains('='))
        .flat_map(|line| [line, "\n"])
        .collect();
    let config = load_with(&[], &uncommented).unwrap();
    assert_eq!(format!("{config:?}"), format!("{:?}", load(&[]).unwrap()));
    for name in [
        "OPENAI_API_KEY",
        "PROXY_TARGET",
        "MODEL_NAME",
        "PORT",
        "HOST",
        "ALLOW_ANONYMOUS",
        "DATABASE_PATH",
        "LEDGER_DURABILITY",
        "LEDGER_WAIT",
        "RETENTION_DAYS",
        "RATE_LIMIT_RPM",
        "RATE_LIMIT_BURST",
        "RATE_LIMIT_TPM",
        "MAX_CONCURRENT_PER_USER",
        "BUDGET_USD_DAY",
        "BUDGET_USD_MONTH",
        "ADMIN_TOKEN",
        "CLIENT_AUTH",
        "MAX_CONNECTIONS",
        "MAX_CONNECTIONS_PER_ADDRESS",
        "MAX_BODY_BYTES",
        "MAX_BUFFERED_BYTES",
        "CONNECT_TIMEOUT",
        "RESPONSE_TIMEOUT",
        "IDLE_TIMEOUT",
        "HEADER_TIMEOUT",
        "DRAIN_TIMEOUT",
        "TLS_CA_FILE",
        "PRICES_FILE",
        "METRICS_MAX_USERS",
        "METRICS_MAX_MODELS",
    ] {
        assert!(uncommented.contains(&format!("{name}=")), "{name} is not in .env.example");
    }
    assert!(example.lines().all(|line| line.is_empty() || line.starts_with('#')), "everything is commented out");
}

fn influx(env: &[(&str, &str)]) -> Influx {
    load(env).unwrap().influx.expect("an export")
}

#[test]
fn an_export_has_one_url_and_one_authorization() {
    const HOST: (&str, &str) = ("INFLUXDB_URL", "http://h:8086");
    let says = |influx: &Influx| {
        let authorization = influx.authorization.as_ref().map(|value| value.expose().to_owned());
        (influx.url.expose().to_owned(), authorization.unwrap_or_default())
    };
    let one = influx(&[HOST, ("INFLUXDB_DATABASE", "a b&c")]);
    assert_eq!(says(&one), ("http://h:8086/write?db=a%20b%26c&precision=ns".into(), String::new()));
    assert!(one.backfill);
    let database = ("INFLUXDB_DATABASE", "db");
    let named = [HOST, database, ("INFLUXDB_USERNAME", "u"), ("INFLUXDB_PASSWORD", "pa:ß")];
    assert_eq!(says(&influx(&named)).1, "Basic dTpwYTrDnw==");
    let two = [
        ("INFLUXDB_URL", "https://[::1]:1/base/"),
        ("INFLUXDB_BUCKET", "b"),
        ("INFLUXDB_ORG", "o/p"),
        ("INFLUXDB_TOKEN", "t=="),
        ("INFLUXDB_BACKFILL", "false"),
    ];
    let two = influx(&two);
    assert_eq!(says(&two).0, "https://[::1]:1/base/api/v2/write?bucket=b&org=o%2Fp&precision=ns");
    assert_eq!((says(&two).1.as_str(), two.backfill, two.shown.as_str()), ("Token t==", false, "https://[::1]:1"));
    for full in ["http://h/insert/0/influx/write", "http://h:1/x?db=d&u=a&p=b", "http://h/write?precision=ns"] {
        let as_it_is = influx(&[("INFLUXDB_URL", full), ("INFLUXDB_TOKEN", "t")]);
        assert_eq!(says(&as_it_is), (full.to_owned(), "Token t".to_owned()));
        assert!(!format!("{as_it_is:?}").contains("p=b"));
    }
    assert!(load(&[("INFLUXDB_TOKEN", "t")]).unwrap().influx.is_none(), "off without its URL");
}

#[test]
fn what_an_export_lacks_is_told_without_what_it_has() {
    const HOST: (&str, &str) = ("INFLUXDB_URL", "http://h:8086");
    const FULL: (&str, &str) = ("INFLUXDB_URL", "http://h/write?db=hush");
    type Case<'a> = (&'a [(&'a str, &'a str)], &'a [&'a str]);
    let cases: [Case<'_>; 9] = [
        (&[HOST], &["INFLUXDB_DATABASE"]),
        (&[HOST, ("INFLUXDB_TOKEN", "hush")], &["INFLUXDB_BUCKET"]),
        (&[HOST, ("INFLUXDB_ORG", "o"), ("INFLUXDB_PASSWORD", "hush")], &["INFLUXDB_URL", "INFLUXDB_USERNAME"]),
        (&[HOST, ("INFLUXDB_DATABASE", "d"), ("INFLUXDB_USERNAME", "a:hush")], &["INFLUXDB_USERNAME"]),
        (&[HOST, ("INFLUXDB_BUCKET", "b"), ("INFLUXDB_TOKEN", "hush hush")], &["INFLUXDB_TOKEN"]),
        (&[FULL, ("INFLUXDB_ORG", "o"), ("INFLUXDB_BUCKET", "b")], &["INFLUXDB_ORG", "INFLUXDB_BUCKET"]),
        (&[("INFLUXDB_URL", "http://h/write?p=hush&precision=s")], &["INFLUXDB_URL"]),
        (&[("INFLUXDB_URL", "http://u:hush@h/")], &["INFLUXDB_URL"]),
        (&[HOST, ("INFLUXDB_DATABASE", "d"), ("INFLUXDB_BACKFILL", "hush?")], &["INFLUXDB_BACKFILL"]),
    ];
    for (env, names) in cases {
        let found = problems(env);
        let named: Vec<&str> = found.iter().map(|problem| problem.split(':').next().unwrap()).collect();
        assert_eq!(named, names, "{found:?}");
        assert!(names == ["INFLUXDB_BACKFILL"] || !found.concat().contains("hush"), "{found:?}");
    }
    for url in [
        "",
        "h:8086",
        "ftp://h",
        "http://",
        "http://:1",
        "http://h:0",
        "http://h:x",
        "http://h h",
        "http://[::1",
        "http://h/#x",
        "http://h\r\nx",
        "http://é",
    ] {
        let env = [("INFLUXDB_URL", url), ("INFLUXDB_DATABASE", "d")];
        assert_eq!(load(&env).is_ok(), url.is_empty(), "{url:?}");
    }
}

/// In a secret a dollar sign is a letter: `$ecret` was empty once, and the doors were open.
#[test]
fn a_dollar_sign_in_dotenv_is_text() {
    let dotenv = "ADMIN_TOKEN=$ecretWord-0123456789\nMODEL_NAME=\"a$b${c}\"\nDATABASE_PATH='$x\\$y'\nPORT=1\n\
                  OPENAI_API_KEY=sk-\\$PORT$$\n";
    let config = Config::load(&|_| None, dotenv).unwrap();
    let secret = |secret: &Option<Secret>| secret.as_ref().map(|secret| secret.expose().to_owned());
    assert_eq!(secret(&config.admin_token).as_deref(), Some("$ecretWord-0123456789"));
    assert_eq!(config.model_name.as_deref(), Some("a$b${c}"));
    assert_eq!(config.database_path.to_str(), Some("$x\\$y"));
    assert_eq!(secret(&config.api_key).as_deref(), Some("sk-$PORT$$"));
}

#[test]
fn mistakes_in_dotenv_have_their_lines() {
    let dotenv = "# a comment\r\n\r\nLOG=\"warn\"\nMODEL_NAME='two\nlines'\n\n  # another\nRATE_LIMIT_RMP=5\nsk-line of a key\n\
                  LOG=info\nc2VjcmV0=\nNONSENSE=1\nOPENAI_API_KEY='never closed\nPORT=1\n";
    let mut found: Vec<_> = load_with(&[], dotenv).unwrap_err().iter().map(Problem::to_string).collect();
    found.sort();
    let expected = [
        ".env:10: LOG is set twice, in line 3 already",
        ".env:11: unknown name (not shown); .env.example lists all names",
        ".env:12: unknown NONSENSE; .env.example lists all names",
        ".env:13: expected NAME=value, got something else",
        ".env:8: unknown RATE_LIMIT_RMP; did you mean RATE_LIMIT_RPM?",
        ".env:9: expected NAME=value, got something else",
        "MODEL_NAME: expected a model's name, at most 128 bytes, got \"two\\nlines\"",
    ];
    assert_eq!(found, expected);
}

#[test]
fn what_is_probably_not_meant_is_told() {
    let names = ["RATE_LIMIT_RMP", "OPENAI_BASE_URL", "PATH", "LOG"].map(str::to_owned);
    let config = Config::load_among(&|_| None, &names, "INFLUXDB_BUCKET=b\nOPENAI_PROJECT=p\n").unwrap();
    assert_eq!(
        config.warnings,
        [
            "OPENAI_PROJECT is set without OPENAI_API_KEY: it is not sent",
            "INFLUXDB_BUCKET is set without INFLUXDB_URL: nothing is exported",
            "RATE_LIMIT_RMP of the environment is unknown; did you mean RATE_LIMIT_RPM?",
        ]
    );
}

#[test]
fn secrets_come_from_one_place() {
    let key = |vars: &[(&str, &str)], dotenv: &str| load_with(vars, dotenv).map(|config| config.api_key.unwrap());
    for content in ["sk-hush", "sk-hush\n", "sk-hush\r\n"] {
        let file = file(content.as_bytes());
        let path = file.path().to_str().unwrap();
        assert_eq!(key(&[("OPENAI_API_KEY_FILE", path)], "").unwrap().expose(), "sk-hush", "{content:?}");
        assert_eq!(key(&[], &format!("OPENAI_API_KEY_FILE={path}\n")).unwrap().expose(), "sk-hush");
        let both = key(&[("OPENAI_API_KEY", "sk-hush")], &format!("OPENAI_API_KEY_FILE={path}\n")).unwrap_err();
        let expected = "OPENAI_API_KEY: expected one place for it, got OPENAI_API_KEY and OPENAI_API_KEY_FILE";
        assert_eq!(both[0].to_string(), expected);
    }
    let folder = tempfile::tempdir().unwrap();
    let credentials = [("CREDENTIALS_DIRECTORY", folder.path().to_str().unwrap())];
    std::fs::write(folder.path().join("openai_api_key"), "sk-hush\n").unwrap();
    assert_eq!(key(&credentials, "").unwrap().expose(), "sk-hush");
    std::fs::write(folder.path().join("OPENAI_API_KEY"), "sk-hush\n").unwrap();
    let both = key(&credentials, "").unwrap_err()[0].to_string();
    assert!(both.contains("/OPENAI_API_KEY and the credential /") && !both.contains("hush"), "{both}");
}

#[test]
fn files_that_are_no_secrets_are_named_without_what_they_hold() {
    let folder = tempfile::tempdir().unwrap();
    let with = |name: &str, content: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    };
    for (path, why) in [
        (with("empty", b""), "is empty"),
        (with("blank", b"\n"), "is empty"),
        (with("two", b"sk-hush\n\n"), "the key alone"),
        (with("large", "hush".repeat(20_000).as_bytes()), "more than 64 KiB"),
        (with("binary", b"hush\xff"), "not UTF-8"),
        (folder.path().to_str().unwrap().to_owned(), "no regular file"),
        ("/nowhere/at/all".to_owned(), "/nowhere/at/all: No such file"),
        ("hush-instead-of-a-name".to_owned(), "No such file"),
    ] {
        let found = problems(&[("ADMIN_TOKEN_FILE", &path)]).join("\n");
        assert!(found.starts_with("ADMIN_TOKEN_FILE: expected") && found.contains(why), "{found}");
        assert!(!found.contains("hush"), "{found}");
    }
}

#[test]
fn the_providers_books_are_read_for_some_keys_with_a_secret_of_their_own() {
    let config = load(&[
        ("OPENAI_ADMIN_KEY", "sk-admin-hush"),
        ("RECONCILE", "daily"),
        ("RECONCILE_API_KEY_IDS", "key_1, key_2"),
        ("RECONCILE_PROJECT_IDS", "proj_1"),
    ])
    .unwrap();
    let books = &config.books;
    assert!(books.daily && books.admin_key.as_ref().is_some_and(|key| key.expose() == "sk-admin-hush"));
    assert_eq!((books.key_ids.join(" "), books.project_ids.join(" ")), ("key_1 key_2".to_owned(), "proj_1".to_owned()));
    assert!(config.api_key.is_none() && config.warnings.is_empty());
    assert!(!format!("{config:?}").contains("hush"));
    let secret = file(b"sk-admin-hush\n");
    let path = secret.path().to_str().unwrap();
    assert_eq!(load(&[("OPENAI_ADMIN_KEY_FILE", path)]).unwrap().books.admin_key, books.admin_key);
    // A key where its id belongs is refused, and not repeated.
    for wrong in ["sk-proj-hush", "key_1,,key_2", "key 1", "a,".repeat(200).trim_end_matches(',')] {
        let problems = problems(&[("RECONCILE_API_KEY_IDS", wrong), ("RECONCILE", "hourly")]);
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(!problems.concat().contains("hush"), "{problems:?}");
    }
    let alone = load(&[("RECONCILE", "daily")]).unwrap();
    assert!(alone.warnings[0].contains("without OPENAI_ADMIN_KEY"), "{:?}", alone.warnings);
}
