//! The page as text: what it asks, what it allows, what is in it. Browsers look at it in `tests/dashboard.rs`.

use super::view::percentile;
use super::*;
use crate::limit::levels::LimitLevel;
use crate::limit::status::{Limit, LimitUse};
use crate::price::{PriceDates, PriceSource};
use crate::reporting::{Entry, KeyRow, Overview, Ranking, Refusals, Totals};
use crate::usage::record::{Endpoint, Outcome, Record};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use ring::digest::{SHA256, digest};

const NOW: u64 = 1_795_426_200_000_000_000; // 2026-11-23T09:30:00Z
const DAY: u64 = 86_400_000_000_000;

fn asked(raw: &str) -> DashboardQuery {
    DashboardQuery::parse(raw, NOW).unwrap()
}

fn totals(requests: u64, cost_nano_usd: u64) -> Totals {
    Totals { requests, cost_nano_usd, total_tokens: requests * 10, input_tokens: requests * 8, ..Totals::default() }
}

/// A view of one user's one request, all of whose names are this.
fn view(name: &str) -> View {
    let record = Record {
        started_at: NOW,
        user: name.into(),
        model: Some(name.into()),
        status: 200,
        duration_us: 1_000_000,
        first_byte_us: Some(612_000),
        ..Record::default()
    };
    let ranking = Ranking { top: vec![(name.to_owned(), totals(1, 5))], others: 0, of_others: Totals::default() };
    let overview = Overview {
        ever: true,
        totals: totals(1, 5),
        models: ranking.clone(),
        others: ranking,
        series: vec![(Some(name.to_owned()), [(NOW - NOW % DAY, totals(1, 5))].into())],
        sample: vec![Entry { id: 1, record }],
        ..Overview::default()
    };
    View { query: asked(""), overview }
}

fn html(view: &View) -> String {
    String::from_utf8(answer(view).body).unwrap()
}

#[test]
fn the_age_of_prices_stands_below() {
    let at = |prices: PriceDates| html(&View { query: DashboardQuery { prices, ..asked("") }, ..view("a") });
    let (fresh, old) = ((PriceSource::Url, 1_795_426_200), (PriceSource::BuiltIn, 1_795_426_200 - 43 * 86_400));
    let page = at(vec![fresh, old]);
    assert!(page.contains("Prices: PRICES_URL of 2026-11-23, built-in of 2026-10-11."), "{page}");
    assert!(!page.contains("days old"));
    assert!(at(vec![old]).contains("They are 43 days old"));
    assert!(!at(Vec::new()).contains("Prices"));
}

#[test]
fn what_is_asked_is_read_strictly() {
    let read = |raw: &str| DashboardQuery::parse(raw, NOW).map(|asked| (asked.user, asked.range));
    assert_eq!(read(""), Ok((None, Range::Days30)));
    assert_eq!(read("range=7d&user_id="), Ok((None, Range::Days7)), "a form that was left empty");
    assert_eq!(read("user_id=%E5%A4%AA%E9%83%8E+%26"), Ok((Some("太郎 &".to_owned()), Range::Days30)));
    for (raw, part) in [
        ("user=a", "unknown parameter `user`"),
        ("range=1y", "`range` must be one of"),
        ("from=yesterday", "`from` must be a date"),
        ("from=2026-11-02&to=2026-11-02", "`from` must be before `to`"),
        ("user_id=a&team=b", "`team` is not for one user"),
        ("range=7d&range=7d", "`range` is given more than once"),
        ("user_id=&user_id=a", "`user_id` is given more than once"),
        ("user_id=%0A", "`user_id` must be 1 to 128 bytes"),
        ("user_id=%ff", "`user_id` is not percent-encoded UTF-8"),
    ] {
        let why = read(raw).unwrap_err();
        assert!(why.contains(part), "{raw}: {why}");
    }
}

#[test]
fn the_policy_allows_nothing_but_the_style_that_is_there() {
    let answer = answer(&view("a"));
    let page = String::from_utf8(answer.body).unwrap();
    let (_, rest) = page.split_once("<style>").unwrap();
    let (style, _) = rest.split_once("</style>").unwrap();
    let hash = STANDARD.encode(digest(&SHA256, style.as_bytes()));
    assert!(answer.headers.contains(&format!("style-src 'sha256-{hash}';")), "{}", answer.headers);
    assert!(answer.headers.starts_with("content-security-policy: default-src 'none';"));
    assert!(answer.headers.ends_with("\r\n") && answer.headers.lines().all(|line| line.contains(": ")));
    assert!(!page.contains(" style="), "the policy would refuse it");
}

#[test]
fn a_name_made_of_markup_is_text_and_in_a_link_encoded() {
    let name = "</title></style><script>alert(1)</script>\"'&太郎";
    let page = html(&View { query: DashboardQuery { user: Some(name.to_owned()), ..asked("") }, ..view(name) });
    assert!(!page.contains("<script") && !page.contains("alert(1)<"), "{page}");
    assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;&quot;'&amp;太郎"));
    assert!(page.contains("user_id=%3C%2Ftitle%3E%3C%2Fstyle%3E%3Cscript%3Ealert%281%29"));
}

#[test]
fn others_are_one_row_and_their_models_one_colour() {
    let mut view = view("a");
    view.overview.others = Ranking { others: 980, of_others: totals(5000, 3), ..view.overview.others };
    view.overview.series.push((None, [(NOW - NOW % DAY, totals(7, 2))].into()));
    let page = html(&view);
    assert!(page.contains("980 others") && page.contains(">5,000<") && page.contains("other models"));
    assert!(page.contains("fill=\"#0B0000\""), "what is no model has a colour of its own");
    assert!(page.contains("href=\"usage?format=text&amp;group_by=user"), "all of them");
}

#[test]
fn an_empty_ledger_says_how_to_begin_and_an_empty_range_where_to_look() {
    let empty = View { overview: Overview { totals: Totals::default(), ..view("a").overview }, ..view("a") };
    let begin = |host: Option<&str>| {
        let query = DashboardQuery { host: host.map(str::to_owned), ..asked("") };
        html(&View { query, overview: Overview { ever: false, ..empty.overview.clone() } })
    };
    assert!(begin(Some("pi.local:8080")).contains("curl http://pi.local:8080/v1/chat/completions"));
    assert!(begin(Some("a b\"$(x)")).contains("curl http://127.0.0.1:8080/v1"), "a command that somebody copies");
    assert!(html(&empty).contains("href=\"dashboard?range=all\""));
    assert!(!html(&View { query: asked("range=all"), ..empty }).contains("Look at all time"));
}

#[test]
fn whoever_sees_one_user_only_is_offered_no_other() {
    let own =
        html(&View { query: DashboardQuery { own: true, user: Some("taro".to_owned()), ..asked("") }, ..view("taro") });
    assert!(!own.contains("type=\"search\"") && !own.contains("Show everybody") && !own.contains("admin/"));
    assert!(own.contains("dashboard?range=7d&amp;user_id=taro"));
}

#[test]
fn times_are_of_what_went_well_and_endings_of_everything() {
    let mut view = view("a");
    let entry = |status, outcome, endpoint, duration_us| Entry {
        id: 1,
        record: Record { status, outcome, endpoint, duration_us, ..Record::default() },
    };
    let entries = vec![
        entry(200, Outcome::Completed, Endpoint::ChatCompletions, 3),
        entry(200, Outcome::Completed, Endpoint::ChatCompletions, 1),
        entry(200, Outcome::ClientAborted, Endpoint::ChatCompletions, 9),
        entry(429, Outcome::Completed, Endpoint::ChatCompletions, 9),
        entry(0, Outcome::ClientAborted, Endpoint::ChatCompletions, 9),
        entry(101, Outcome::Completed, Endpoint::RealtimeSession, 9),
    ];
    view.overview.failed = entries.iter().filter(|entry| entry.record.is_error()).cloned().collect();
    view.overview.sample = entries;
    view.overview.totals = Totals { requests: 70, errors: 3, ..totals(70, 5) };
    assert_eq!(view.times(|entry| Some(entry.record.duration_us)), [1, 3]);
    let failures = view.failures();
    assert_eq!(failures.len(), 3);
    for ending in ["200, client aborted", "429", "client aborted"] {
        assert!(failures.contains(&(ending.to_owned(), 1)), "{failures:?}");
    }
    let page = html(&view);
    assert!(page.contains("<th class=\"name\" scope=\"row\">succeeded</th><td>67</td>"), "{page}");
    assert!(page.contains("href=\"#failed\"") && page.contains("id=\"failed\""));
    let percentiles = [0, 1, 50, 51, 99, 100].map(|hundredths| percentile(&[10, 20, 30, 40], hundredths));
    assert_eq!(percentiles, [10, 10, 20, 30, 40, 40].map(Some));
    assert_eq!(percentile(&[], 50), None);
}

#[test]
fn the_cost_is_told_as_far_as_it_is_known_beside_what_was_and_what_will_be() {
    let shown = |unpriced, cost_nano_usd| {
        let mut view = view("a");
        view.query = asked("range=month");
        view.overview.totals = Totals { unpriced, cost_nano_usd, ..totals(9, 0) };
        view.overview.previous = Some(totals(1, 2_500_000_000));
        html(&view)
    };
    assert!(shown(9, 0).contains("<dt>Cost</dt><dd class=\"value\">–</dd>"), "unknown is not nothing");
    let partly = shown(1, 5_526_900_000);
    assert!(partly.contains("<dt>Cost</dt><dd class=\"value\">≥ $5.53</dd>"), "{partly}");
    assert!(partly.contains("the month before: $2.50"));
    // 22.4 of 30 days are over.
    assert!(partly.contains("by the end of the month: about $7.4"), "{partly}");
    assert!(shown(0, 0).contains("<dd class=\"value\">$0</dd>"));
}

#[test]
fn limits_stand_with_the_nearest_to_its_end_first() {
    let limit = |level, limit, used, maximum| LimitUse {
        level,
        name: if level == LimitLevel::Total { String::new() } else { "<taro>".to_owned() },
        limit,
        used,
        maximum,
        reset_at: Some(NOW),
    };
    let limits = vec![
        limit(LimitLevel::Total, Limit::Requests, 6, 60),
        limit(LimitLevel::User, Limit::BudgetDay, 2_500_000_000, 2_000_000_000),
        limit(LimitLevel::Team, Limit::Concurrent, 0, 4),
    ];
    let page = html(&View { query: DashboardQuery { limits, ..asked("") }, ..view("a") });
    let (budget, requests) = (page.find("USD a day").unwrap(), page.find("Requests a minute").unwrap());
    assert!(budget < requests && requests < page.find("Requests at once").unwrap());
    assert!(page.contains("<td>125%</td><td>$2.50</td><td>$2.00</td><td>$0</td>"), "{page}");
    assert!(page.contains("<td>10%</td><td>6</td><td>60</td><td>54</td>"));
    assert!(page.contains("user_id=%3Ctaro%3E\"><bdi>&lt;taro&gt;"), "to whom it is");
    assert_eq!(page.matches("class=\"nearly\"").count(), 1);
}

fn refusals(user: &str, limit: &'static str, count: u64) -> Refusals {
    Refusals { user: user.to_owned(), level: "team", limit, count }
}

#[test]
fn refusals_stand_by_user_and_limit() {
    let mut refused = vec![refusals("<b>", "budget_day", 82), refusals("b", "concurrent", 9)];
    refused.extend((0..30).map(|number| refusals(&format!("u{number}"), "requests", 2)));
    let page = html(&View { query: DashboardQuery { refused: Some(refused), ..asked("") }, ..view("a") });
    let row = "&lt;b&gt;</bdi></th><td class=\"name\">Team: USD a day</td><td>82</td>";
    assert!(page.contains(row), "{page}");
    assert!(page.contains("12 others</th><td></td><td>24</td>"), "{page}");
    assert!(page.contains("<dt>Refused for a limit</dt><dd class=\"value\">151</dd>"), "{page}");
}

#[test]
fn a_model_has_its_colour_in_every_view() {
    let colours = |models: &[&str]| {
        let mut view = view("a");
        view.overview.series = models.iter().map(|model| (Some((*model).to_owned()), [].into())).collect();
        view.colours()
    };
    let (all, few) = (colours(&["gpt-4o", "o3-mini", "gpt-4.1"]), colours(&["gpt-4.1", "gpt-4o"]));
    assert_eq!((all[0], all[2]), (few[1], few[0]));
    let many: Vec<String> = (0..6).map(|number| format!("model-{number}")).collect();
    let many: std::collections::BTreeSet<u8> =
        colours(&many.iter().map(String::as_str).collect::<Vec<_>>()).into_iter().collect();
    assert_eq!(many.len(), 6, "each its own");
}

/// WCAG 2.2, 1.4.11: what carries meaning differs from what is beside it by 3 to 1.
#[test]
fn every_colour_of_a_chart_is_seen_by_day_and_by_night() {
    let style = include_str!("../style.css");
    let channel = |part: &str| {
        let value = f64::from(u8::from_str_radix(part, 16).unwrap()) / 255.0;
        if value <= 0.04045 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
    };
    let luminance = |hex: &str| {
        let hex = if hex.len() == 3 { hex.chars().flat_map(|digit| [digit, digit]).collect() } else { hex.to_owned() };
        0.2126 * channel(&hex[..2]) + 0.7152 * channel(&hex[2..4]) + 0.0722 * channel(&hex[4..6])
    };
    let mut themes = 0;
    for theme in style.split(":root{").skip(1).filter(|theme| theme.contains("--c1:")) {
        let colour = |name: &str| {
            let (_, rest) = theme.split_once(&format!("--{name}:#")).unwrap();
            luminance(rest.split([';', '}']).next().unwrap())
        };
        let card = colour("card");
        for name in (1..=view::COLOURS + 1).map(|number| format!("c{number}")).chain(["bar".to_owned()]) {
            let (light, dark) = (card.max(colour(&name)), card.min(colour(&name)));
            assert!((light + 0.05) / (dark + 0.05) >= 3.0, "{name}");
        }
        themes += 1;
    }
    assert_eq!(themes, 2);
}

#[test]
fn in_japanese_nothing_of_ours_is_english() {
    let language = crate::local::language::Language::Japanese;
    let mut view = view("名");
    view.query = DashboardQuery {
        language,
        refused: Some(vec![refusals("太郎", "tokens", 3)]),
        admin: true,
        ..asked("range=month")
    };
    view.overview.failed = view.overview.sample.clone();
    view.overview.teams = view.overview.others.clone();
    view.overview.previous = Some(totals(1, 1));
    let page = html(&view);
    assert!(page.contains("<html lang=\"ja\">") && page.contains("ユーザー別"));
    let texts =
        page.split("</style>").nth(1).unwrap().split('<').filter_map(|part| part.split_once('>')).map(|(_, text)| text);
    let known =
        ["OpenAI", "UTC", "CSV", "JSON", "chat", "completions", "responses", "other", "µs", "ms", "min", "k", "M", "s"];
    for text in texts {
        let english =
            text.split(|c: char| !c.is_ascii_alphabetic()).find(|word| !word.is_empty() && !known.contains(word));
        assert_eq!(english, None, "{text}");
    }
}

proptest! {
    #[test]
    fn any_name_is_inert(name in "[<>&\"'a-c/=;:#!-]{1,20}|.{1,30}") {
        let plain = html(&view("x"));
        let page = html(&view(&name));
        // As many elements as with any other name.
        prop_assert_eq!(page.matches('<').count(), plain.matches('<').count());
        prop_assert_eq!(page.matches('>').count(), plain.matches('>').count());
    }
}

#[test]
fn keys_are_told_by_whose_they_are_and_when_they_end() {
    let key = |id, expires_at, revoked_at| {
        let (user, name) = ("太郎".to_owned(), "<laptop>".to_owned());
        Some(KeyRow { id, user, name, expires_at, revoked_at, last_used_day: Some(20_777), ..KeyRow::default() })
    };
    let all = [key(1, Some(NOW + DAY), None), key(2, Some(NOW), None), key(3, None, Some(NOW)), None];
    let mut view = view("a");
    assert!(!html(&view).contains("By key"), "there is none");
    view.overview.keys = Ranking { top: all.map(|key| (key, totals(1, 5))).into(), others: 7, of_others: totals(9, 9) };
    view.overview.keys_from = view.query.from();
    let page = html(&view);
    let (_, table) = page.split_once("<h2>By key").unwrap();
    let (table, _) = table.split_once("</section>").unwrap();
    for part in ["1 <bdi>&lt;laptop&gt;</bdi>", ">2026-11-24</span>", "<span class=\"bad\">2026-11-23</span>"] {
        assert!(table.contains(part), "{part}: {table}");
    }
    for part in ["revoked", "no key", "2026-11-20", "7 others", "format=csv&amp;group_by=key", "user_id=%E5%A4%AA"] {
        assert!(table.contains(part), "{part}: {table}");
    }
    assert!(!table.contains("Of whole days"), "{table}");
    let cells = |line: &str| line.matches("<t").count() - line.matches("<tr").count();
    let rows: Vec<usize> = table.split("<tr").skip(1).map(|row| cells(row.split("</tr>").next().unwrap())).collect();
    assert!(rows.iter().all(|cells| *cells == rows[0]), "{rows:?} in {table}");
    view.overview.keys_from = Some(NOW - NOW % DAY);
    view.query.user = Some("太郎".to_owned());
    let page = html(&view);
    assert!(page.contains("Of whole days, from 2026-11-23 on."), "{page}");
}
