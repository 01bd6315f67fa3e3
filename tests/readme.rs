//! Holds the README and the manual to what they describe: both languages name the same things, and these are the
//! program's own.
//!
//! Reads them, `.env.example`, `.ci/run` and the sources as text; needs no network and starts nothing. What only a
//! reader can judge (is the Japanese good, is a promise kept) is not tested here.

#[path = "support/manual.rs"]
mod manual;

use manual::{LANGUAGES, blocks, blocks_of, documents, halves, page, read};
use openai_api_proxy::local::manual::{UNIT, subjects::SUBJECTS};
use openai_api_proxy::local::usage_report::{Format, UsageQuery, to_json};
use openai_api_proxy::price::PriceTable;
use openai_api_proxy::reporting::{Entry, Query, Report, Scope, Totals};
use openai_api_proxy::usage::record::{Endpoint, Outcome, Record, Usage, UsageSource};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Lines that the README has in a language at most.
const README_LINES_MAX: usize = 150;

/// Everything outside fenced blocks.
fn prose(half: &str) -> String {
    half.split("```").step_by(2).collect()
}

/// What stands in backticks in a piece of prose.
fn names(prose: &str) -> BTreeSet<&str> {
    prose.split('`').skip(1).step_by(2).collect()
}

/// Cells of all table rows, without the rules under their heads.
fn rows(prose: &str) -> Vec<Vec<&str>> {
    let lines = prose.lines().filter(|line| line.starts_with('|') && !line.starts_with("|---"));
    lines.map(|line| line.trim_matches('|').split('|').map(str::trim).collect()).collect()
}

/// The content of a cell that is one name in backticks.
fn sole_name(cell: &str) -> Option<&str> {
    cell.strip_prefix('`')?.strip_suffix('`').filter(|name| !name.contains('`'))
}

/// The string literals of a source that `wanted` knows by their form.
fn literals<'a>(source: &'a str, wanted: impl Fn(&str) -> bool + 'a) -> BTreeSet<&'a str> {
    source.split('"').filter(|piece| wanted(piece)).collect()
}

fn is_variable(text: &str) -> bool {
    text.len() >= 3 && text.chars().all(|c| c.is_ascii_uppercase() || c == '_')
}

/// Variables of the configuration table with their defaults, `None` where the default is words.
fn documented(half: &str) -> BTreeMap<String, Option<String>> {
    let text = prose(half);
    let variables = rows(&text).into_iter().filter_map(|cells| {
        let name = sole_name(cells[0]).filter(|name| is_variable(name) && cells.len() == 3)?;
        Some((name.to_string(), sole_name(cells[1]).map(String::from)))
    });
    variables.collect()
}

#[test]
fn both_languages_say_the_same() {
    for (name, [english, japanese]) in documents() {
        assert_eq!(blocks(&english), blocks(&japanese), "{name}");
        let (english, japanese) = (prose(&english), prose(&japanese));
        assert_eq!(names(&english), names(&japanese), "{name}");
        let headings = |text: &str| -> Vec<usize> {
            let lines = text.lines().filter(|line| line.starts_with('#'));
            lines.map(|line| line.split(' ').next().map_or(0, str::len)).collect()
        };
        assert_eq!(headings(&english), headings(&japanese), "{name}");
        assert_eq!(rows(&english).len(), rows(&japanese).len(), "{name}");
        for (english, japanese) in rows(&english).iter().zip(rows(&japanese)) {
            assert_eq!(names(&english.join("|")), names(&japanese.join("|")), "{english:?}\n{japanese:?}");
        }
    }
    let all: usize = documents().iter().map(|(_, [english, _])| blocks(english).len()).sum();
    assert!(all >= 20, "the blocks are not where they were");
}

/// The README is short, names each page, and says of settings what the manual says.
#[test]
fn the_readme_is_short_and_leads_to_the_manual() {
    for (half, (language, reference)) in halves().iter().zip(LANGUAGES.iter().zip(page("configuration"))) {
        assert!(half.lines().count() < README_LINES_MAX, "{} lines", half.lines().count());
        for subject in SUBJECTS {
            let link = format!("](src/manual/{language}/{}.md)", subject.name);
            assert!(half.contains(&link), "the README does not lead to {link}");
        }
        let all = documented(&reference);
        let text = prose(half);
        let settings: Vec<_> =
            rows(&text).into_iter().filter(|cells| names(cells[0]).iter().any(|name| is_variable(name))).collect();
        assert_eq!(settings.len(), 10, "{settings:?}");
        for cells in settings {
            let named = cells[0].split(", ").map(|cell| sole_name(cell).expect("a name"));
            for (name, default) in named.zip(cells[1].split(", ")) {
                assert_eq!(all[name].as_deref(), sole_name(default), "{name}");
            }
        }
    }
}

#[test]
fn variables_are_those_of_the_configuration() {
    let parts = [
        "allowed",
        "certificate",
        "default_limits",
        "egress",
        "fleet_url",
        "front",
        "influx",
        "prices",
        "provider_books",
    ];
    let parts = parts.map(|part| read(&format!("src/config/{part}.rs")));
    let source = read("src/config.rs") + &parts.concat();
    let accepted = literals(&source, is_variable);

    let example = read(".env.example");
    let lines = example.lines().filter_map(|line| line.trim_start_matches('#').split_once('='));
    let example: BTreeMap<&str, &str> = lines.filter(|(name, _)| is_variable(name)).collect();
    assert_eq!(example.keys().copied().collect::<BTreeSet<_>>(), accepted, ".env.example and src/config.rs");

    for text in page("configuration") {
        let documented = documented(&text);
        let names: BTreeSet<_> = documented.keys().map(String::as_str).collect();
        assert_eq!(names, accepted, "the page `configuration` and src/config.rs");
        for (name, default) in documented {
            let Some(default) = default else { continue };
            assert_eq!(example[name.as_str()], default, "{name}: .env.example and the page `configuration`");
        }
    }
}

#[test]
fn metrics_are_those_of_the_exposition() {
    let is_metric = |text: &str| text.starts_with("openai_proxy_");
    let source = read("src/metrics/exposition.rs");
    let exposed = literals(&source, is_metric);
    assert!(exposed.len() > 10, "the metrics are not where they were");
    let told = read("src/metrics/families.txt");
    for text in page("metrics") {
        let prose = prose(&text);
        let rows: Vec<_> =
            rows(&prose).into_iter().filter(|cells| is_metric(cells[0].trim_start_matches('`'))).collect();
        let documented: BTreeSet<&str> = rows.iter().flat_map(|cells| names(cells[0])).collect();
        assert_eq!(documented, exposed);
        let said: BTreeSet<&str> =
            rows.iter().filter(|cells| sole_name(cells[0]).is_none()).flat_map(|cells| names(cells[0])).collect();
        let histograms = source.split("page.histogram(\"").skip(1).filter_map(|rest| rest.split('"').next());
        assert_eq!(said, histograms.collect(), "which are histograms");
        assert!(documented.iter().all(|name| told.contains(&format!("{name} "))), "a metric without a text");
    }
}

#[test]
fn errors_are_those_that_the_proxy_answers() {
    let source = read("src/http/reply.rs");
    let answered: BTreeSet<(&str, &str)> = source
        .lines()
        .filter_map(|line| {
            let (status, code) = line.trim().split_once(" = ")?.1.strip_suffix("\",")?.split_once(" \"")?;
            Some((status, code))
        })
        .collect();
    assert!(answered.len() > 10, "the errors are not where they were");
    for text in page("errors") {
        let prose = prose(&text);
        let is_status = |cell: &str| cell.len() == 3 && cell.parse::<u16>().is_ok();
        let errors = rows(&prose).into_iter().filter(|cells| is_status(cells[0]));
        let documented: BTreeSet<_> = errors.map(|cells| (cells[0], sole_name(cells[1]).expect("a code"))).collect();
        assert_eq!(documented, answered);
    }
}

#[test]
fn endpoints_are_those_that_are_recorded() {
    let recorded: BTreeSet<&str> = Endpoint::ALL.iter().map(|endpoint| endpoint.as_str()).collect();
    for text in page("counting") {
        let prose = prose(&text);
        let named = names(&prose);
        let missing: Vec<_> = recorded.difference(&named).collect();
        assert!(missing.is_empty(), "the manual does not name {missing:?}");
    }
}

#[test]
fn usage_parameters_are_those_that_are_read() {
    for text in page("usage") {
        let prose = prose(&text);
        let parameters = ["user_id", "team", "node", "from", "to", "model", "limit", "cursor", "group_by", "format"];
        let table = rows(&prose).into_iter().skip_while(|cells| cells[0] != "`user_id`").take(parameters.len() - 1);
        let documented: BTreeSet<&str> = table.flat_map(|cells| names(cells[0])).collect();
        assert_eq!(documented, BTreeSet::from(parameters));
    }
    let unknown = UsageQuery::parse("surely_unknown=1", 0, Format::Json).expect_err("an unknown parameter is refused");
    assert!(unknown.ends_with("user_id, team, node, from, to, model, limit, cursor, group_by, format"), "{unknown}");
}

#[test]
fn the_usage_example_is_what_the_program_prints() {
    let usage = Usage { input_tokens: 8, output_tokens: 9, total_tokens: 17, ..Usage::default() };
    let model = "gpt-4o-mini-2024-07-18";
    let record = Record {
        started_at: 1_795_426_200_123_456_000,
        user: "user123".into(),
        endpoint: Endpoint::ChatCompletions,
        model_requested: Some("gpt-4o-mini".into()),
        model: Some(model.into()),
        status: 200,
        outcome: Outcome::Completed,
        usage_source: UsageSource::Reported,
        usage,
        cost_nano_usd: PriceTable::built_in().cost_nano_usd(model, &usage, None),
        duration_us: 612_034,
        first_byte_us: Some(611_720),
        proxy_us: 84,
        request_bytes: 76,
        response_bytes: 841,
        upstream_request_id: Some("req_0123456789abcdef".into()),
        response_id: Some("chatcmpl-0123456789abcdef".into()),
        ..Record::default()
    };
    let totals = Totals {
        requests: 1,
        input_tokens: usage.input_tokens,
        output_tokens: usage.output_tokens,
        total_tokens: usage.total_tokens,
        cost_nano_usd: record.cost_nano_usd.expect("a priced model"),
        ..Totals::default()
    };
    let report = Report {
        query: Query { user: Some("user123".into()), ..Query::default() },
        totals,
        by_model: vec![(model.into(), totals)],
        buckets: None,
        budgets: Vec::new(),
        data: vec![Entry { id: 1, record }],
        next_cursor: None,
        scope: Scope::Alone,
    };
    let printed: serde_json::Value = serde_json::from_slice(&to_json(&report)).expect("JSON");
    for text in page("usage") {
        let example =
            blocks(&text).into_iter().find_map(|block| block.strip_prefix("json\n").filter(|b| b.contains("totals")));
        let shown: serde_json::Value = serde_json::from_str(example.expect("an example of /usage")).expect("JSON");
        assert_eq!(shown, printed);
    }
}

#[test]
fn commands_are_those_that_are_checked() {
    let commands = blocks_of("internals", "sh").concat();
    let commands: Vec<&str> = commands.lines().collect();
    let test = commands.iter().find(|line| line.starts_with("cargo test")).expect("a test command");
    let ci = read(".ci/run");
    assert!(ci.lines().any(|line| line == format!("run {test}")), ".ci/run does not run the manual's `{test}`");

    let manifest = read("Cargo.toml");
    let benches: Vec<&str> = commands.iter().filter_map(|line| line.strip_prefix("cargo bench --bench ")).collect();
    assert!(!benches.is_empty(), "a command for the benchmarks");
    for bench in benches {
        assert!(manifest.contains(&format!("[[bench]]\nname = \"{bench}\"\n")), "Cargo.toml has no bench `{bench}`");
    }
    let version = manifest.lines().find_map(|line| line.strip_prefix("version = ")).expect("a version");
    let rust = manifest.lines().find_map(|line| line.strip_prefix("rust-version = ")).expect("a Rust version");
    for text in page("upgrade") {
        assert!(text.contains(&format!("\n- {}", version.trim_matches('"'))), "the changelog lacks version {version}");
    }
    for text in halves().iter().chain(&page("start")) {
        assert!(text.contains(rust.trim_matches('"')), "the needed Rust is {rust}");
    }
}

/// Whoever follows the manual makes keys in the ledger that its service uses, and installs the unit that is shown.
#[test]
fn keys_of_the_service_are_made_in_its_ledger() {
    for text in page("systemd") {
        let unit = blocks(&text).into_iter().find(|block| block.contains("[Service]")).expect("a unit");
        assert_eq!(unit.strip_prefix("ini\n"), Some(UNIT));
        let ledger = unit.lines().find_map(|line| line.strip_prefix("Environment=DATABASE_PATH=")).expect("its ledger");
        let command = format!("sudo env DATABASE_PATH={ledger} proxy-server keys create taro");
        assert!(names(&prose(&text)).contains(command.as_str()), "{command}");
    }
}

/// What the proxy answers by itself is told, under the paths that it answers.
#[test]
fn local_paths_are_those_that_are_answered() {
    let source = read("src/proxy/route.rs");
    let (_, answered) = source.split_once("    match path {\n").expect("the paths");
    let (answered, _) = answered.split_once("        _ => {}\n").expect("their end");
    let first = answered.split('"').filter(|path| path.starts_with('/') && !path.trim_matches('/').is_empty());
    let own =
        first.filter(|path| !path.contains('.') && !["/sw", "/service"].iter().any(|start| path.starts_with(start)));
    let answered: BTreeSet<String> = own.map(|path| format!("/{}", path.trim_matches('/'))).collect();
    assert!(answered.len() >= 7, "{answered:?}");
    for language in [0, 1] {
        let all: String = documents().iter().map(|(_, texts)| prose(&texts[language])).collect();
        let named = names(&all);
        let is_told = |path: &String| named.contains(path.as_str()) || named.contains(format!("GET {path}").as_str());
        assert!(answered.iter().all(is_told), "{answered:?}");
    }
}

/// The heading's place, as GitHub names it.
fn anchor(heading: &str) -> String {
    let kept = heading.trim_start_matches('#').trim().to_lowercase();
    kept.chars().filter(|c| c.is_alphanumeric() || " -_ー".contains(*c)).collect::<String>().replace(' ', "-")
}

#[test]
fn links_lead_somewhere() {
    let pages = LANGUAGES
        .iter()
        .flat_map(|language| SUBJECTS.iter().map(move |subject| format!("src/manual/{language}/{}.md", subject.name)));
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut count = 0;
    for file in std::iter::once("README.md".to_owned()).chain(pages) {
        let text = prose(&read(&file));
        let folder = Path::new(&file).parent().expect("a folder");
        for to in text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(to, _)| to) {
            count += 1;
            if to.starts_with("https://") {
                continue;
            }
            let (path, place) = to.split_once('#').unwrap_or((to, ""));
            let path = if path.is_empty() { root.join(&file) } else { root.join(folder).join(path) };
            assert!(path.exists(), "{file}: no file {to}");
            if !place.is_empty() {
                let led_to = std::fs::read_to_string(path).expect("a text");
                let is_place = |line: &str| line.starts_with('#') && anchor(line) == place;
                assert!(prose(&led_to).lines().any(is_place), "{file}: no heading for {to}");
            }
        }
    }
    assert!(count > 100, "the links are not where they were");
}
