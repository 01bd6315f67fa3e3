//! The dashboard as a browser gets it: through the binary, from ledgers of no, one, ten and a thousand users whose names
//! are Japanese, long, or made of markup; and as a real Chromium shows it.
//!
//! `DASHBOARD_PICTURES=folder` keeps pictures of every page that Chromium was shown.

#![allow(clippy::disallowed_methods)] // tests are the outside world

mod support;

use openai_api_proxy::ledger::append::Writer;
use openai_api_proxy::ledger::database;
use openai_api_proxy::usage::record::{Endpoint, Outcome, Record, Usage, UsageSource};
use serde_json::Value;
use std::time::{SystemTime, UNIX_EPOCH};
use support::client::{Client, Response, get, post_json};
use support::proxy::{Proxy, done};
use support::rng::Rng;
use support::script::Reply;
use support::tools;
use support::until;
use support::upstream::Upstream;

const MARKUP: &str = "<b>x</b>\"'><script>alert(1)</script>";
const NS_PER_HOUR: u64 = 3_600_000_000_000;
const MODELS: [(&str, u64); 7] = [
    ("gpt-4o-2024-08-06", 2500),
    ("gpt-4o-mini-2024-07-18", 150),
    ("o3-mini", 1100),
    ("text-embedding-3-small", 20),
    ("gpt-4.1-nano", 100),
    ("<i>模型</i>", 77),
    ("an-unpriced-model", 0),
];

fn name(user: usize) -> String {
    match user {
        0 => "太郎".to_owned(),
        1 => MARKUP.to_owned(),
        2 => "long-".repeat(25),
        3 => "研究室の共有ワークステーション・その二".to_owned(),
        _ => format!("user-{user:04}"),
    }
}

/// Records of so many users over the last 40 days, which each start's order of time repeats.
fn records(users: usize, rng: &mut Rng) -> Vec<Record> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    let count = if users == 1 { 1 } else { users * 20 };
    let mut records: Vec<Record> = (0..count)
        .map(|place| {
            // Everybody asks, and the first users most.
            let user = if place < users { place } else { rng.below(users).pow(2) / users };
            let (model, price) = MODELS[rng.below(MODELS.len()).min(rng.below(MODELS.len()))];
            let (input, output) = (200 + rng.below(8000) as u64, 20 + rng.below(1500) as u64);
            let status = [200, 200, 200, 200, 200, 200, 200, 429, 500, 200][rng.below(10)];
            let usage = Usage {
                input_tokens: input,
                cached_input_tokens: input / (2 + rng.below(5) as u64),
                output_tokens: output,
                total_tokens: input + output,
                ..Usage::default()
            };
            let first_byte_us = 200_000 + rng.below(900_000) as u64;
            Record {
                started_at: now - rng.below(if count == 1 { 1 } else { 40 * 24 }) as u64 * NS_PER_HOUR,
                user: name(user).into(),
                endpoint: Endpoint::ChatCompletions,
                model: Some(model.into()),
                status,
                outcome: if rng.below(40) == 0 { Outcome::ClientAborted } else { Outcome::Completed },
                usage_source: UsageSource::Reported,
                usage: if status == 200 { usage } else { Usage::default() },
                cost_nano_usd: (price > 0).then_some(if status == 200 {
                    input * price + output * price * 4
                } else {
                    0
                }),
                duration_us: first_byte_us + rng.below(9_000_000) as u64,
                first_byte_us: Some(first_byte_us),
                proxy_us: 40 + rng.below(200) as u64,
                ..Record::default()
            }
        })
        .collect();
    records.sort_by_key(|record| record.started_at);
    records
}

/// A proxy on a ledger of so many users, and the number of its requests.
fn proxy_with(users: usize) -> (Proxy, usize) {
    let folder = tempfile::tempdir().unwrap();
    let records = if users == 0 { Vec::new() } else { records(users, &mut Rng::new(7)) };
    let conn = database::open(&folder.path().join("usage.db")).unwrap();
    Writer::new(&conn).unwrap().append(&records).unwrap();
    drop(conn);
    (Proxy::start_in(folder, &[("PROXY_TARGET", "http://127.0.0.1:9")]), records.len())
}

/// Everything between two marks, each time they stand there.
fn between<'a>(text: &'a str, before: &'a str, after: &'a str) -> Vec<&'a str> {
    text.split(before).skip(1).map(|rest| rest.split(after).next().unwrap()).collect()
}

#[track_caller]
fn page(proxy: &Proxy, target: &str) -> String {
    let response = get(proxy.addr(), target).expect(200);
    assert_guarded(&response);
    response.text()
}

/// The head has the browser refuse all that the page could be made to do, and the body asks for nothing.
#[track_caller]
fn assert_guarded(response: &Response) {
    let head = |name| response.head.get(name).unwrap_or_else(|| panic!("no {name} in {:?}", response.head));
    assert_eq!(head("content-type"), "text/html; charset=utf-8");
    assert_eq!((head("x-content-type-options"), head("referrer-policy")), ("nosniff", "same-origin"));
    assert_eq!(head("cache-control"), "no-store");
    let policy: Vec<&str> = head("content-security-policy").split("; ").collect();
    for directive in
        ["default-src 'none'", "form-action 'self'", "frame-ancestors 'none'", "base-uri 'none'", "img-src data:"]
    {
        assert!(policy.contains(&directive), "{policy:?}");
    }
    assert!(policy.iter().any(|directive| directive.starts_with("style-src 'sha256-")), "{policy:?}");
    assert!(!policy.iter().any(|directive| directive.contains("unsafe") || directive.contains('*')), "{policy:?}");
    let text = response.text();
    for refused in ["<script", "javascript:", " onclick", " onload", " style=", "@import", "url(", "<iframe", "<img"] {
        assert!(!text.to_lowercase().contains(refused), "{refused}");
    }
    for name in ["href=\"", "src=\"", "action=\""] {
        for target in between(&text, name, "\"") {
            let ours = ["dashboard", "help/", "usage?", "#", "data:image/svg+xml,"];
            assert!(ours.iter().any(|start| target.starts_with(start)), "{target}");
        }
    }
}

#[test]
fn the_root_leads_to_the_dashboard() {
    let (proxy, _) = proxy_with(0);
    for method in ["GET", "HEAD"] {
        let response = Client::connect(proxy.addr()).request(method, "/", &[], b"").expect(303);
        assert_eq!(response.head.get("location"), Some("dashboard"));
    }
    let head = Client::connect(proxy.addr()).request("HEAD", "/dashboard", &[], b"").expect(200);
    assert!(head.head.get("content-security-policy").is_some() && head.body.is_empty());
    get(proxy.addr(), "/dashboard?range=forever").expect_proxy_error(400, "bad_request");
    Client::connect(proxy.addr()).request("POST", "/dashboard", &[], b"").expect_proxy_error(405, "method_not_allowed");
    assert_eq!(proxy.usage("")["totals"]["requests"], 0, "none of them went to the target");
}

#[test]
fn pages_of_any_number_of_users_are_guarded_and_small() {
    for users in [0, 1, 10, 1000] {
        let (proxy, requests) = proxy_with(users);
        for range in ["24h", "7d", "30d", "month", "last_month", "all"] {
            let text = page(&proxy, &format!("/dashboard?range={range}"));
            assert!(text.len() < 200_000, "{users} users: {} bytes", text.len());
            assert_eq!(text.contains("No request yet"), users == 0);
            if range == "all" && users > 1 {
                let shown: String = requests.to_string();
                let grouped = if shown.len() > 3 {
                    format!("{},{}", &shown[..shown.len() - 3], &shown[shown.len() - 3..])
                } else {
                    shown
                };
                assert!(text.contains(&format!("<dt>Requests</dt><dd class=\"value\">{grouped}</dd>")), "{text}");
            }
        }
        let rows = between(
            &page(&proxy, "/dashboard?range=all"),
            "<th class=\"name\" scope=\"row\"><a href=\"dashboard?range=all&amp;user_id",
            "</th>",
        )
        .len();
        assert_eq!(rows, users.min(20), "the first users have a row each");
        assert_eq!(page(&proxy, "/dashboard?range=all").contains(" others"), users > 20);
    }
}

#[test]
fn names_are_inert_and_lead_to_whom_they_name() {
    let (proxy, _) = proxy_with(10);
    let text = page(&proxy, "/dashboard?range=all");
    assert!(text.contains("太郎") && text.contains("&lt;b&gt;x&lt;/b&gt;") && text.contains("&lt;i&gt;模型"));
    assert!(!text.contains("<b>") && !text.contains("<i>"));
    let totals = |user: &str| proxy.usage(&format!("limit=1&user_id={user}"))["totals"]["requests"].clone();
    let links = between(&text, "<th class=\"name\" scope=\"row\"><a href=\"", "\"");
    let links: Vec<&str> = links.into_iter().filter(|link| link.contains("user_id=")).collect();
    assert_eq!(links.len(), 10);
    for link in links {
        let target = format!("/{}", link.replace("&amp;", "&"));
        let user = target.split_once("user_id=").unwrap().1.to_owned();
        let shown = page(&proxy, &target);
        let requests = between(&shown, "<dt>Requests</dt><dd class=\"value\">", "</dd>")[0].to_owned();
        assert_eq!(requests, totals(&user).to_string(), "{user}");
    }
    assert!(page(&proxy, "/dashboard?range=all&user_id=nobody").contains("No request here"));
}

#[test]
fn it_asks_for_the_token_and_shows_holders_of_keys_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let conn = database::open(&folder.path().join("usage.db")).unwrap();
    Writer::new(&conn).unwrap().append(&records(10, &mut Rng::new(7))).unwrap();
    drop(conn);
    let key = done(folder.path(), "keys create 太郎");
    let vars = [("PROXY_TARGET", "http://127.0.0.1:9"), ("ADMIN_TOKEN", "admin-0123456789"), ("CLIENT_AUTH", "keys")];
    let proxy = Proxy::start_in(folder, &vars);
    let with = |target: &str, secret: &str| {
        let authorization = format!("Bearer {}", secret.trim());
        Client::connect(proxy.addr()).request("GET", target, &[("authorization", &authorization)], b"")
    };
    let refused = get(proxy.addr(), "/dashboard").expect_proxy_error(401, "unauthorized");
    assert!(refused.head.get("www-authenticate").is_some_and(|value| value.starts_with("Basic ")), "a browser asks");
    assert!(with("/dashboard?range=all", "admin-0123456789").expect(200).text().contains("user-0009"));
    let own = with("/dashboard?range=all", &key).expect(200).text();
    assert!(own.contains("太郎") && !own.contains("user-0") && !own.contains("type=\"search\""));
    with("/dashboard?user_id=user-0009", &key).expect_proxy_error(403, "forbidden");
}

#[test]
fn it_tells_how_much_of_each_limit_is_used_to_whom_it_holds_for() {
    let body =
        r#"{"model":"gpt-4o-mini","usage":{"prompt_tokens":1000000,"completion_tokens":0,"total_tokens":1000000}}"#;
    let upstream = Upstream::plain(move |_| Reply::json(body).steps());
    let vars = [
        ("RATE_LIMIT_RPM", "60"),
        ("BUDGET_USD_MONTH", "0.30"),
        ("TOTAL_MAX_CONCURRENT", "7"),
        ("TOTAL_BUDGET_USD_DAY", "1"),
    ];
    let proxy = Proxy::before(&upstream, &vars);
    let ask =
        || post_json(proxy.addr(), "/v1/chat/completions", &[("x-user-id", "太郎")], r#"{"model":"gpt-4o-mini"}"#);
    until("the budgets are known", || ask().head.status() == 200);
    let limits = |target: &str| {
        let text = page(&proxy, target);
        let section = between(&text, "<h2>Limits</h2>", "</section>").pop().unwrap_or_default().to_owned();
        section.replace("</td>", " ")
    };
    let mine = limits("/dashboard?user_id=%E5%A4%AA%E9%83%8E");
    assert!(mine.contains("Requests a minute") && mine.contains("<td>60 "), "{mine}");
    assert!(mine.contains("<td>50% <td>$0.15 <td>$0.30 <td>$0.15 "), "{mine}");
    assert!(mine.contains("<td>15% <td>$0.15 <td>$1.00 <td>$0.85 "), "what is above them, too: {mine}");
    let all = limits("/dashboard");
    assert!(all.contains("<td>$0.30 ") && all.contains("user_id=%E5%A4%AA%E9%83%8E"), "the nearest: {all}");
    assert!(all.contains("<td>7 ") && !all.contains("<td>60 "), "rates of everybody together only: {all}");
    assert_eq!(limits("/dashboard?team=x"), "", "no team is limited");
    ask().expect(200);
    ask().expect_proxy_error(429, "insufficient_quota");
    until("it is spent", || limits("/dashboard?user_id=%E5%A4%AA%E9%83%8E").contains("<td>100% "));
}

/// However many others came since: a thousand newer ones went well.
#[test]
fn failed_requests_are_found_behind_those_that_went_well() {
    let folder = tempfile::tempdir().unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    let record = |hours: u64, user: &str, status| Record {
        started_at: now - hours * NS_PER_HOUR,
        user: user.into(),
        status,
        ..Record::default()
    };
    let mut records = vec![record(200, "taro", 503), record(199, "hana", 502), record(198, "taro", 200)];
    records.extend((0..1500).map(|number| record(100 - number / 20, "taro", 200)));
    let conn = database::open(&folder.path().join("usage.db")).unwrap();
    Writer::new(&conn).unwrap().append(&records).unwrap();
    drop(conn);
    let proxy = Proxy::start_in(folder, &[("PROXY_TARGET", "http://127.0.0.1:9")]);
    let endings = |target: &str| {
        let text = page(&proxy, target);
        let section = between(&text, "<h2>How requests ended</h2>", "</section>").pop().unwrap().to_owned();
        let failed = between(&text, "<section id=\"failed\">", "</section>").concat();
        (between(&section, "scope=\"row\">", "</td>").join(" ").replace("</th><td>", " "), failed)
    };
    // Once they are in the sums, and only from there.
    until("they are summed up", || endings("/dashboard").0 == "succeeded 1,501 502 1 503 1");
    assert!(endings("/dashboard").1.contains("hana"));
    let (of_taro, failed) = endings("/dashboard?user_id=taro");
    assert_eq!(of_taro, "succeeded 1,501 503 1");
    assert!(failed.contains(">503<") && !failed.contains("hana"), "{failed}");
    assert_eq!(endings("/dashboard?range=7d"), ("succeeded 1,500".to_owned(), String::new()));
}

#[test]
fn a_range_that_cannot_be_is_a_page_for_who_reads_pages() {
    let (proxy, _) = proxy_with(0);
    let fields = [("accept", "text/html,*/*"), ("accept-language", "ja")];
    let refused = Client::connect(proxy.addr()).request("GET", "/dashboard?range=forever", &fields, b"");
    assert_guarded(&refused.expect(400));
    let page = Client::connect(proxy.addr()).request("GET", "/dashboard", &fields, b"").expect(200).text();
    assert!(page.contains("<html lang=\"ja\">") && page.contains("まだリクエストがありません"), "{page}");
}

#[test]
fn chromium_shows_it_at_both_widths_by_day_and_by_night() {
    let Some(chromium) = tools::find("chromium") else { return };
    for users in [0, 1, 10, 1000] {
        let Some(mut node) = tools::node(None, "dashboard/browser.mjs") else { return };
        let (proxy, _) = proxy_with(users);
        let pictures = std::env::var("DASHBOARD_PICTURES").map(|folder| format!("{folder}/{users}"));
        let user = if users == 10 { MARKUP } else { "太郎" };
        let output = node.arg(&chromium).args([&proxy.url(), user]).args(pictures.ok()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let visits: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(visits.len(), 4);
        for visit in &visits {
            assert_shown(visit, &proxy, users, user);
        }
        let backgrounds: Vec<&Value> = visits.iter().map(|visit| &visit["first"]["background"]).collect();
        assert_ne!(backgrounds[0], backgrounds[2], "light and dark");
        if users > 0 {
            assert_ne!(visits[0]["first"]["bars"], visits[2]["first"]["bars"], "the charts, too");
        }
    }
}

#[track_caller]
fn assert_shown(visit: &Value, proxy: &Proxy, users: usize, user: &str) {
    let what = format!("{users} users, {} {}", visit["width"], visit["scheme"]);
    assert_eq!(visit["complaints"], Value::Array(vec![]), "{what}");
    for request in visit["requests"].as_array().unwrap() {
        let url = request.as_str().unwrap();
        assert!(
            url.starts_with(&format!("{}/", proxy.url())) || url.starts_with("data:image/svg+xml"), // a browser's own
            "{what}: {url}"
        );
    }
    let shown: Vec<&Value> =
        ["first", "week", "linked", "asked"].iter().map(|name| &visit[name]).filter(|page| !page.is_null()).collect();
    for page in &shown {
        assert_eq!(page["overflow"], 0, "{what}: {}", page["url"]);
        assert_eq!(page["scripts"], 0, "{what}: markup in a name became an element");
    }
    let url = |page: &str| visit[page]["url"].as_str().unwrap().to_owned();
    assert_eq!(url("first"), format!("{}/dashboard", proxy.url()));
    assert_eq!(visit["week"]["current"], "7 days");
    assert!(url("asked").contains("range=7d") && url("asked").contains("user_id="), "{what}");
    assert_eq!(visit["asked"]["heading"], user, "{what}");
    let charts = if users == 0 { 0 } else { 2 };
    assert_eq!(visit["first"]["charts"], charts, "{what}: those for its width only");
    if users > 0 {
        assert_eq!(visit["linked"]["heading"], user, "{what}");
        // Every mark has become a colour of the page.
        let bars = visit["first"]["bars"].as_array().unwrap();
        assert!(!bars.is_empty() && !bars.iter().any(|fill| fill.as_str().unwrap().ends_with(", 0, 0)")), "{bars:?}");
    } else {
        assert!(visit["first"]["text"].as_str().unwrap().contains(&format!("curl {}/v1", proxy.url())), "{what}");
    }
}
