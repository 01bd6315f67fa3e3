//! The page as text: what it asks, what it allows, what is in it. Browsers look at it in `tests/dashboard.rs`.

use super::view::percentile;
use super::*;
use crate::price::{PriceDates, PriceSource};
use crate::reporting::{Entry, Overview, Ranking, Scope, Totals};
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
        scope: Scope::Alone,
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
    assert!(page.contains("fill=\"#020000\""));
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
    assert!(!own.contains("<form") && !own.contains("Show everybody"));
    assert!(own.contains("dashboard?range=7d&amp;user_id=taro"));
}

#[test]
fn times_are_of_what_went_well_and_endings_of_everything() {
    let mut view = view("a");
    let entry = |status, outcome, endpoint, duration_us| Entry {
        id: 1,
        record: Record { status, outcome, endpoint, duration_us, ..Record::default() },
    };
    view.overview.sample = vec![
        entry(200, Outcome::Completed, Endpoint::ChatCompletions, 3),
        entry(200, Outcome::Completed, Endpoint::ChatCompletions, 1),
        entry(200, Outcome::ClientAborted, Endpoint::ChatCompletions, 9),
        entry(429, Outcome::Completed, Endpoint::ChatCompletions, 9),
        entry(0, Outcome::ClientAborted, Endpoint::ChatCompletions, 9),
        entry(101, Outcome::Completed, Endpoint::RealtimeSession, 9),
    ];
    assert_eq!(view.times(|entry| Some(entry.record.duration_us)), [1, 3]);
    let endings = view.endings();
    assert_eq!(endings[0], ("200".to_owned(), 2));
    for ending in ["200, client aborted", "429", "client aborted", "101"] {
        assert!(endings.contains(&(ending.to_owned(), 1)), "{endings:?}");
    }
    let percentiles = [0, 1, 50, 51, 99, 100].map(|hundredths| percentile(&[10, 20, 30, 40], hundredths));
    assert_eq!(percentiles, [10, 10, 20, 30, 40, 40].map(Some));
    assert_eq!(percentile(&[], 50), None);
}

proptest! {
    #[test]
    fn any_name_is_inert(name in "[<>&\"'a-c/=;:#!-]{0,20}|.{0,30}") {
        let plain = html(&view("x"));
        let page = html(&view(&name));
        // As many elements as with any other name.
        prop_assert_eq!(page.matches('<').count(), plain.matches('<').count());
        prop_assert_eq!(page.matches('>').count(), plain.matches('>').count());
    }
}
