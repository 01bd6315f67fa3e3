//! The three formats of `/usage`, over HTTP and from the command line: each is parsed back and held against the
//! ledger's own rows. Left to others: whether rows and sums are right (`ledger`, `traps`), who may ask (`keys`), the
//! parameters' names (`readme`), the page (`dashboard`).

#![allow(clippy::disallowed_methods)] // tests are the outside world

mod support;

use rusqlite::Connection;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use support::api;
use support::client::{Client, Response, post_json};
use support::proxy::{Proxy, command};
use support::rows::reader;
use support::tools;
use support::upstream::Upstream;
use unicode_width::UnicodeWidthStr as _;

/// Users as they are, and as a CSV cell has them.
const USERS: [(&str, &str); 4] =
    [("太郎", "太郎"), ("=1+1", "'=1+1"), ("a \"b\", c", "a \"b\", c"), ("<b>x</b>", "<b>x</b>")];
const MODELS: [&str; 3] = ["gpt-4o", "gpt-4o-mini", "an-unpriced-model"];
/// What is summed, under the names that JSON and CSV have, with the columns of a text.
const COUNTS: [(&str, &str); 5] = [
    ("input_tokens", "INPUT"),
    ("cached_input_tokens", "CACHED"),
    ("output_tokens", "OUTPUT"),
    ("reasoning_tokens", "REASONING"),
    ("total_tokens", "TOKENS"),
];

/// A proxy through which every user has used every model, and one has made a mistake.
fn used() -> (Upstream, Proxy) {
    let upstream = Upstream::plain(|request| api::answer(request).steps());
    let proxy = Proxy::before(&upstream, &[]);
    for (repeat, (user, _)) in (1..).zip(USERS) {
        for model in MODELS {
            for _ in 0..repeat {
                ask(&proxy, user, model, 200);
            }
        }
    }
    ask(&proxy, USERS[0].0, "missing", 404);
    (upstream, proxy)
}

#[track_caller]
fn ask(proxy: &Proxy, user: &str, model: &str, status: u16) {
    let body = json!({"model": model, "messages": []}).to_string();
    post_json(proxy.addr(), "/v1/chat/completions", &[("x-user-id", user)], &body).expect(status);
}

fn get(proxy: &Proxy, query: &str, accept: Option<&str>) -> Response {
    let fields: Vec<(&str, &str)> = accept.map(|accept| ("accept", accept)).into_iter().collect();
    Client::connect(proxy.addr()).request("GET", &format!("/usage?{query}"), &fields, b"")
}

fn run(folder: &Path, arguments: &[&str]) -> Output {
    command(folder, &[]).arg("usage").args(arguments).stdout(Stdio::piped()).output().unwrap()
}

#[track_caller]
fn done(folder: &Path, arguments: &[&str]) -> String {
    let output = run(folder, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Sums by user: requests, errors, those of [`COUNTS`] and nano-dollars.
type Sums = BTreeMap<String, Vec<u64>>;

fn by_user(conn: &Connection) -> Sums {
    let sums = COUNTS.map(|(name, _)| format!("sum({name})")).join(", ");
    let sql = format!(
        "SELECT name, count(*), sum(status >= 400 OR outcome <> 0), {sums}, sum(coalesce(cost_nano_usd, 0))
            FROM records r JOIN users u ON u.id = r.user_id GROUP BY name"
    );
    let mut statement = conn.prepare(&sql).unwrap();
    let row = |row: &rusqlite::Row<'_>| {
        let sums = (1..4 + COUNTS.len()).map(|column| row.get::<_, i64>(column).map(i64::unsigned_abs));
        Ok((row.get(0)?, sums.collect::<Result<_, _>>()?))
    };
    statement.query_map([], row).unwrap().map(Result::unwrap).collect()
}

/// Dollars in digits as nano-dollars.
fn nano(dollars: &str) -> u64 {
    let (whole, fraction) = dollars.split_once('.').unwrap_or((dollars, ""));
    format!("{whole}{fraction:0<9}").parse().unwrap_or_else(|_| panic!("{dollars:?} is no amount"))
}

fn of_json(text: &str) -> Sums {
    let answer: Value = serde_json::from_str(text).unwrap();
    let buckets = answer["buckets"].as_array().unwrap();
    let sums = |bucket: &Value| {
        let names = ["requests", "errors"].into_iter().chain(COUNTS.map(|(name, _)| name));
        let counts = names.map(|name| bucket[name].as_u64().unwrap());
        counts.chain([(bucket["cost_usd"].as_f64().unwrap() * 1e9).round() as u64]).collect()
    };
    buckets.iter().map(|bucket| (bucket["user_id"].as_str().unwrap().to_owned(), sums(bucket))).collect()
}

/// The cells of a text in which every line ends with CRLF (RFC 4180 §2).
fn cells(csv: &str) -> Vec<Vec<String>> {
    let (mut rows, mut row, mut cell) = (Vec::new(), Vec::new(), String::new());
    let mut chars = csv.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if cell.is_empty() => loop {
                match chars.next().expect("a closing quote") {
                    '"' if chars.next_if_eq(&'"').is_none() => break,
                    c => cell.push(c),
                }
            },
            ',' => row.push(std::mem::take(&mut cell)),
            '\r' => {
                assert_eq!(chars.next(), Some('\n'));
                row.push(std::mem::take(&mut cell));
                rows.push(std::mem::take(&mut row));
            }
            c => cell.push(c),
        }
    }
    assert!(row.is_empty() && cell.is_empty(), "a last line without its end");
    rows
}

/// Rows by the names above them.
fn named(csv: &str) -> Vec<BTreeMap<String, String>> {
    let mut rows = cells(csv).into_iter();
    let head = rows.next().expect("a head");
    let named = |row: Vec<String>| {
        assert_eq!(row.len(), head.len());
        head.iter().cloned().zip(row).collect()
    };
    rows.map(named).collect()
}

fn of_csv(csv: &str) -> Sums {
    let user = |cell: &str| USERS.iter().find(|(_, shown)| *shown == cell).expect("a user of ours").0.to_owned();
    let sums = |row: &BTreeMap<String, String>| {
        let names = ["requests", "errors"].into_iter().chain(COUNTS.map(|(name, _)| name));
        names.map(|name| row[name].parse().unwrap()).chain([nano(&row["cost_usd"])]).collect()
    };
    named(csv).iter().map(|row| (user(&row["user_id"]), sums(row))).collect()
}

/// Sums of a table whose columns stand under their heads, the last number of each right under its head's end.
fn of_text(text: &str) -> Sums {
    let mut lines = text.lines().skip(2);
    let heads: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
    let wanted = ["REQUESTS", "ERRORS"].into_iter().chain(COUNTS.map(|(_, head)| head)).chain(["COST"]);
    assert!(heads[1..].iter().copied().take(8).eq(wanted), "{heads:?}");
    let sums = |line: &str| {
        // From the right: a share and a bar, then the numbers; what is left is a name, with whatever is in it.
        let words: Vec<&str> = line.split_whitespace().collect();
        let end = words.iter().rposition(|word| word.contains('.') && word.starts_with(|c: char| c.is_ascii_digit()));
        let end = end.unwrap_or_else(|| panic!("no cost in {line:?}"));
        let numbers: Vec<String> = words[end - 7..=end].iter().map(|word| word.replace(',', "")).collect();
        let counts = numbers[..7].iter().map(|number| number.parse().unwrap());
        (words[..end - 7].join(" "), counts.chain([nano(&numbers[7])]).collect())
    };
    lines.take_while(|line| !line.is_empty()).map(sums).collect()
}

/// The sums of all users together.
fn total(sums: &Sums) -> Vec<u64> {
    let mut total = vec![0; 3 + COUNTS.len()];
    sums.values().for_each(|sums| total.iter_mut().zip(sums).for_each(|(sum, one)| *sum += one));
    total
}

#[track_caller]
fn assert_agree(expected: &Sums, json: &str, csv: &str, text: &str) {
    assert_eq!(of_json(json), *expected);
    assert_eq!(of_csv(csv), *expected);
    let mut shown = of_text(text);
    assert_eq!(shown.remove("total"), Some(total(expected)), "{text}");
    assert_eq!(shown, *expected, "{text}");
}

#[test]
fn text_csv_and_json_agree_with_the_ledger_however_they_are_asked() {
    let (_upstream, mut proxy) = used();
    let expected = by_user(&reader(&proxy.database()));
    assert_eq!(expected.len(), USERS.len());
    assert_eq!(total(&expected)[..2], [31, 1]);
    let folder = proxy.folder().to_owned();
    let by_user = |format: &str| get(&proxy, &format!("group_by=user&format={format}"), None).expect(200).text();
    assert_agree(&expected, &by_user("json"), &by_user("csv"), &by_user("text"));
    let accepted = |accept: &str| get(&proxy, "group_by=user", Some(accept)).expect(200).text();
    assert_agree(&expected, &accepted("*/*"), &accepted("text/csv"), &accepted("text/plain"));

    let from_file = || {
        let [json, csv, text] =
            ["json", "csv", "text"].map(|format| done(&folder, &["--by", "user", "--format", format]));
        assert_agree(&expected, &json, &csv, &text);
    };
    from_file(); // beside the running server
    assert!(proxy.terminate().success());
    from_file();
    let names = |folder: &Path| {
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
        entries.collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(names(&folder), ["usage.db".into()].into(), "a file is read, and none is made");
}

#[test]
fn what_only_the_log_of_a_killed_server_has_is_read_too() {
    let (_upstream, mut proxy) = used();
    proxy.kill();
    let text = done(proxy.folder(), &["--by", "user"]);
    let conn = reader(&proxy.database());
    assert_eq!(of_text(&text).remove("total"), Some(total(&by_user(&conn))));
}

#[test]
fn records_as_csv_are_those_of_json() {
    let (_upstream, proxy) = used();
    let json = get(&proxy, "limit=1000", None).expect(200).json();
    let csv = get(&proxy, "limit=1000&format=csv", None).expect(200).text();
    let rows = named(&csv);
    let data = json["data"].as_array().unwrap();
    assert_eq!((rows.len(), data.len()), (31, 31));
    for (row, record) in rows.iter().zip(data) {
        for (name, value) in record.as_object().unwrap() {
            let shown = match value {
                Value::Null => String::new(),
                Value::String(text) if name == "user_id" => {
                    USERS.iter().find(|(user, _)| user == text).expect("a user of ours").1.to_owned()
                }
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            if name == "cost_nano_usd" {
                let cost = &row["cost_usd"];
                assert_eq!(value.as_u64(), (!cost.is_empty()).then(|| nano(cost)));
            } else {
                assert_eq!(row[name], shown, "{name} of {row:?}");
            }
        }
        assert_eq!(row.len(), record.as_object().unwrap().len());
    }
    let page = get(&proxy, &format!("format=csv&limit=2&cursor={}", rows[1]["id"]), None).expect(200).text();
    assert_eq!(named(&page), rows[2..4], "the last id is the cursor to read on");
}

#[test]
fn each_format_says_what_it_is() {
    let (_upstream, proxy) = used();
    for (query, accept, content_type) in [
        ("", None, "application/json"),
        ("", Some("text/plain"), "text/plain; charset=utf-8"),
        ("", Some("text/csv, */*;q=0.1"), "text/csv; charset=utf-8; header=present"),
        ("format=json", Some("text/plain"), "application/json"),
        ("format=text", Some("application/json"), "text/plain; charset=utf-8"),
        ("format=csv", None, "text/csv; charset=utf-8; header=present"),
    ] {
        let response = get(&proxy, query, accept).expect(200);
        assert_eq!(response.head.get("content-type"), Some(content_type), "{query} {accept:?}");
        assert_eq!(response.head.get("vary"), Some("accept"));
    }
    let refused = get(&proxy, "format=xml", None).expect_proxy_error(400, "bad_request").json();
    assert!(refused["error"]["message"].as_str().unwrap().contains("`xml`"), "{refused}");
    // As a person sees it: the newest ten, and how to go on.
    let text = get(&proxy, "format=text", None).expect(200).text();
    assert!(text.contains("10 requests have no known cost"), "{text}");
    assert!(text.lines().last().unwrap().starts_with("older ones: cursor="), "{text}");
    assert_eq!(text.matches("chat/completions").count(), 10);
}

/// The dearest, and of the others the sum.
#[test]
fn the_command_shows_the_first_of_many() {
    let (_upstream, proxy) = used();
    let text = done(proxy.folder(), &["--by", "user", "--top", "1"]);
    let rows: Vec<&str> = text.lines().skip(3).take(3).collect();
    let names = rows.iter().map(|row| row.split("  ").next().unwrap());
    assert_eq!(names.collect::<Vec<_>>(), [USERS[3].0, "(others)", "total"], "{text}");
    assert!(rows.iter().all(|row| row.matches('█').count() <= 20), "the longest bar is as long as ever: {text}");
    let count = |arguments: &[&str]| done(proxy.folder(), arguments).lines().count();
    assert_eq!(count(&["--by", "user", "--top", "9"]), count(&["--by", "user"]));
    let answer: Value =
        serde_json::from_str(&done(proxy.folder(), &["--by", "user", "--top", "2", "--format", "json"])).unwrap();
    assert_eq!((answer["buckets"].as_array().unwrap().len(), &answer["buckets_truncated"]), (2, &json!(true)));
    let answer: Value = serde_json::from_str(&done(proxy.folder(), &["--top", "1", "--format", "json"])).unwrap();
    assert_eq!(answer["by_model"].as_array().unwrap().len(), 1);
}

/// A terminal is 80 columns wide here, as `stty` says; names and counts are longer than that.
#[test]
fn nothing_wraps_on_a_terminal() {
    let Some(script) = tools::find("script") else { return };
    let (_upstream, proxy) = used();
    ask(&proxy, &"long-".repeat(25), "gpt-4o", 200);
    for arguments in ["", "--by user", "--by day"] {
        let mut command = Command::new(&script);
        let typed = format!("stty cols 80; exec {} usage {arguments}", env!("CARGO_BIN_EXE_proxy-server"));
        command.args(["-qec", &typed, "/dev/null"]).env_clear().env("PATH", std::env::var("PATH").unwrap());
        let output = command.current_dir(proxy.folder()).stdin(Stdio::null()).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with("ledger: ")).collect();
        assert!(output.status.success() && lines.len() > 3, "{text}");
        assert!(lines.iter().all(|line| line.trim_end().width() <= 80), "{text}");
        assert_eq!(text.contains("long-long"), arguments != "--by day", "{text}");
        assert!(!text.contains('█'), "{text}");
    }
    // Into a pipe all goes as it is.
    assert!(done(proxy.folder(), &["--by", "user"]).contains(&"long-".repeat(25)));
}

#[test]
fn the_command_helps_and_fails_as_documented() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    assert!(done(path, &["--help"]).contains("proxy-server usage --by user"));
    for (arguments, code, part) in [
        (&[][..], 1, "there is no ledger"),
        (&["--by", "week"], 2, "--by must be one of"),
        (&["--format", "xml"], 2, "`xml`"),
        (&["--since", "1h"], 2, "--since"),
        (&["taro"], 2, "taro"),
    ] {
        let output = run(path, arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(said.starts_with("proxy-server: ") && said.contains(part) && said.lines().count() == 1, "{said}");
    }
    assert_eq!(std::fs::read_dir(path).unwrap().count(), 0, "nothing is made");
    std::fs::write(path.join("usage.db"), "this is not a ledger, whatever it is").unwrap();
    let said = String::from_utf8(run(path, &[]).stderr).unwrap();
    assert!(said.contains("is not a SQLite database"), "{said}");
}
