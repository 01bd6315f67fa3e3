//! The comparison names what was planted, and nothing else; a page is read as it is published, or not at all.

use super::*;
use crate::price::PriceTable;
use proptest::prelude::*;
use proptest::test_runner::Config;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

const DAY: u64 = 86_400;
/// Days of a random ledger; the last of them is not closed.
const DAYS: u64 = 4;
const FIRST: u64 = 20_000 * DAY;
const CLOSED: u64 = FIRST + (DAYS - 1) * DAY;
/// The tables' names, and those that the books give two of them, one in two versions.
const MODELS: [(&str, &[&str]); 3] = [
    ("gpt-a", &["gpt-a-2025-08-07", "gpt-a-2025-09-01"]),
    ("gpt-b-mini", &["gpt-b-mini-2025-08-07"]),
    ("gpt-c", &["gpt-c"]),
];

fn prices() -> PriceTable {
    let model = r#"{"input_cost_per_token": 1e-6, "cache_read_input_token_cost": 1e-7, "output_cost_per_token": 4e-6}"#;
    let models = MODELS.map(|(name, _)| format!("\"{name}\": {model}")).join(",");
    PriceTable::parse(&format!("{{{models}}}")).unwrap()
}

/// What one model was used for in one day: requests, input, of which cached, output.
type Used = [u64; 4];

/// A day's place, a model's place.
type Place = (u64, usize);

#[derive(Clone, Debug)]
enum Fault {
    /// This number of the books is more by a part.
    Number(usize),
    /// The books have requests that the ledger has not.
    Beside,
    /// The books have nothing of it.
    Missing,
    /// A line of the costs is dearer: input, cached input or output.
    Price(usize),
    /// Two thirds of a tolerance: no fault.
    Within,
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        (0..4usize).prop_map(Fault::Number),
        Just(Fault::Beside),
        Just(Fault::Missing),
        (0..3usize).prop_map(Fault::Price),
        Just(Fault::Within),
    ]
}

/// Numbers that a tolerance tells something of: each fault changes them by more.
fn ledger() -> impl Strategy<Value = BTreeMap<Place, Used>> {
    let used = (20_000..90_000u64, 500_000..9_000_000u64, 2..9u64, 100_000..900_000u64);
    let used = used.prop_map(|(requests, input, part, output)| [requests, input, input / part, output]);
    prop::collection::btree_map((0..DAYS, 0..MODELS.len()), used, 0..8)
}

fn key(day: u64, book: Book, model: usize) -> CellKey {
    CellKey { start: FIRST + day * DAY, book, model: MODELS[model].0.into() }
}

const USED: [Quantity; 4] = [Quantity::Requests, Quantity::Input, Quantity::CachedInput, Quantity::Output];

/// Nano-dollars of the lines: input, cached input, output.
fn lines([_, input, cached, output]: Used) -> [u64; 3] {
    [(input - cached) * 1_000, cached * 100, output * 4_000]
}

fn own(ledger: &BTreeMap<Place, Used>) -> Cells<OwnCell> {
    let mut cells: Cells<OwnCell> = Cells::default();
    for (&(day, model), &used) in ledger {
        let cell = cells.entry(key(day, Book::Completions, model)).unwrap();
        for (quantity, amount) in USED.into_iter().zip(used) {
            cell.amounts.add(quantity, amount.cast_signed());
        }
        let cost = lines(used).iter().sum::<u64>().cast_signed();
        cells.entry(key(day, Book::Costs, model)).unwrap().amounts.add(Quantity::Cost, cost);
    }
    cells
}

/// The books of a ledger, as the provider's pages have them: a bucket a page, a model in parts by version and tier.
fn books(ledger: &BTreeMap<Place, Used>, faults: &BTreeMap<Place, Fault>, splits: u64) -> [Vec<Value>; 2] {
    let (mut usage, mut costs) = (Vec::new(), Vec::new());
    for day in 0..DAYS {
        let (mut used_up, mut spent) = (Vec::new(), Vec::new());
        for (&(_, model), &used) in ledger.range((day, 0)..(day + 1, 0)) {
            let fault = faults.get(&(day, model));
            if matches!(fault, Some(Fault::Missing)) {
                continue;
            }
            let mut dearer = [1, 1, 1];
            let mut used = used;
            match fault {
                Some(Fault::Number(place)) => used[*place] += used[*place] / 20 + 1,
                Some(Fault::Beside) => used = used.map(|amount| amount + amount / 10),
                Some(Fault::Price(line)) => dearer[*line] = 3,
                Some(Fault::Within) => used = used.map(|amount| amount + amount / 300),
                Some(Fault::Missing) | None => {}
            }
            let names = MODELS[model].1;
            let parts = 1 + splits % 3;
            for part in 0..parts {
                let of = |amount: u64| amount / parts + u64::from(part < amount % parts);
                let [requests, input, cached, output] = used.map(of);
                used_up.push(json!({
                    "object": "organization.usage.completions.result", "model": names[part as usize % names.len()],
                    "batch": false, "service_tier": if part == 0 { "default" } else { "priority" },
                    "num_model_requests": requests, "input_tokens": input, "input_cached_tokens": cached,
                    "input_cache_write_tokens": 0, "output_tokens": output, "input_audio_tokens": 0,
                    "output_audio_tokens": 0, "input_image_tokens": 0, "output_image_tokens": 0,
                }));
            }
            // Costs follow what was really used, not what a book says wrongly.
            let true_use = match fault {
                Some(Fault::Number(_)) => ledger[&(day, model)],
                _ => used,
            };
            let quantities = [true_use[1] - true_use[2], true_use[2], true_use[3]];
            for (line, name) in ["input_tokens", "cached_input", "output"].into_iter().enumerate() {
                let usd = (lines(true_use)[line] * dearer[line]) as f64 / 1e9;
                spent.push(json!({
                    "object": "organization.costs.result", "amount": {"value": usd, "currency": "usd"},
                    "line_item": format!("{}, {name}", names[0]), "quantity": quantities[line],
                    "quantity_unit": "tokens",
                }));
            }
        }
        let start = FIRST + day * DAY;
        let page = |results: Vec<Value>| {
            let next = (day + 1 < DAYS).then(|| format!("page_{day}"));
            let bucket = json!({"object": "bucket", "start_time": start, "end_time": start + DAY, "results": results});
            json!({"object": "page", "data": [bucket], "has_more": next.is_some(), "next_page": next})
        };
        usage.push(page(used_up));
        costs.push(page(spent));
    }
    [usage, costs]
}

fn read(pages: &[Vec<Value>; 2], prices: &PriceTable) -> Cells<TheirCell> {
    let (range, mut cells) = (FIRST..FIRST + DAYS * DAY, Cells::default());
    for (kind, pages) in [Page::Completions, Page::Costs].into_iter().zip(pages) {
        for page in pages {
            let next = kind.read(page.to_string().as_bytes(), (&range, Width::Day, false), prices, &mut cells);
            assert_eq!(next, Ok(page["next_page"].as_str().map(str::to_owned)));
        }
    }
    cells
}

/// What must be named: the cell and quantity, and the first reason.
fn expected(ledger: &BTreeMap<Place, Used>, faults: &BTreeMap<Place, Fault>) -> BTreeMap<(CellKey, Quantity), Reason> {
    let mut named = BTreeMap::new();
    for (&(day, model), fault) in faults.iter().filter(|((day, _), _)| *day < DAYS - 1) {
        let Some(used) = ledger.get(&(day, model)) else { continue };
        let completions = |quantity| (key(day, Book::Completions, model), quantity);
        let cost = (key(day, Book::Costs, model), Quantity::Cost);
        match fault {
            Fault::Number(0) => {
                named.insert(completions(Quantity::Requests), Reason::Beside(used[0] / 20 + 1));
            }
            Fault::Number(place) => {
                named.insert(completions(USED[*place]), Reason::NoneKnown);
            }
            Fault::Beside => {
                named.extend(USED.map(|quantity| (completions(quantity), Reason::Beside(used[0] / 10))));
                named.insert(cost, Reason::Usage);
            }
            Fault::Missing => {
                named.extend(USED.map(|quantity| (completions(quantity), Reason::OnlyHere)));
                named.insert(cost, Reason::Usage);
            }
            Fault::Price(line) => {
                let line = ["input_tokens", "cached_input", "output"][*line];
                named.insert(cost, Reason::Price(format!("{}, {line}", MODELS[model].1[0]).into()));
            }
            Fault::Within => {}
        }
    }
    named
}

fn judge(prices: &PriceTable) -> Judge<'_> {
    Judge { tolerance_ppm: 5_000, closed_before: CLOSED, width: Width::Day, prices }
}

proptest! {
    #![proptest_config(Config::with_cases(1_000))]

    #[test]
    fn what_was_planted_is_named_and_nothing_else(
        ledger in ledger(),
        faults in prop::collection::btree_map((0..DAYS, 0..MODELS.len()), fault(), 0..6),
        splits in 0..9u64,
    ) {
        let prices = prices();
        let mut found = Comparison::default();
        found.judge(&judge(&prices), &own(&ledger), &read(&books(&ledger, &faults, splits), &prices));
        let expected = expected(&ledger, &faults);
        let named: BTreeMap<_, _> = found
            .rows
            .iter()
            .filter(|row| row.verdict == Verdict::Differs)
            .map(|row| ((row.key.clone(), row.quantity), row.reasons[0].clone()))
            .collect();
        prop_assert_eq!(&named, &expected);
        prop_assert_eq!(found.agrees(), expected.is_empty());
        // A price is named with the right one; and what is open is never judged.
        let dear: BTreeSet<_> = found.prices.keys().map(|(start, item)| (*start, item.clone())).collect();
        let planted = expected.iter().filter_map(|((key, _), reason)| match reason {
            Reason::Price(item) => Some((key.start, item.clone())),
            _ => None,
        });
        prop_assert_eq!(dear, planted.collect::<BTreeSet<_>>());
        for of in found.prices.values() {
            let [theirs, ours] = [Some(&of.theirs), of.ours.as_ref()].map(|usd| usd.unwrap().parse::<f64>().unwrap());
            prop_assert!((theirs / ours - 3.0).abs() < 1e-3, "{:?}", of);
        }
        for row in &found.rows {
            prop_assert_eq!(row.key.start >= CLOSED, row.verdict == Verdict::Open);
        }
        let summary = Summary::of(&found, 7);
        prop_assert_eq!(Summary::read(&summary.text()), Some(summary));
    }

    #[test]
    fn any_text_is_read_or_refused(text in "[\\[\\]{}a-z\":, 0-9.e-]{0,80}", page in 0..Page::ALL.len()) {
        let mut cells = Cells::default();
        let _ = Page::ALL[page].read(text.as_bytes(), (&(0..DAY), Width::Day, true), &prices(), &mut cells);
    }
}

/// One cell of ours and one of theirs, of the first day.
fn compared(book: Book, own: OwnCell, theirs: Option<TheirCell>) -> Comparison {
    let (mut ours, mut books, prices) = (Cells::default(), Cells::default(), prices());
    *ours.entry(key(0, book, 0)).unwrap() = own;
    if let Some(theirs) = theirs {
        *books.entry(key(0, book, 0)).unwrap() = theirs;
    }
    let mut found = Comparison::default();
    found.judge(&judge(&prices), &ours, &books);
    found
}

fn amounts(of: &[(Quantity, i64)]) -> Amounts {
    let mut amounts = Amounts::default();
    of.iter().for_each(|&(quantity, amount)| amounts.add(quantity, amount));
    amounts
}

#[test]
fn what_is_not_certain_here_is_a_reason_and_never_more_than_that() {
    use Quantity::{CacheWrite, Output, Requests};
    let sides = |ours: i64, theirs: i64, own: OwnCell| {
        let own = OwnCell { amounts: amounts(&[(Requests, 9), (Output, ours)]), ..own };
        let theirs = TheirCell { amounts: amounts(&[(Requests, 9), (Output, theirs)]), ..TheirCell::default() };
        compared(Book::Completions, own, Some(theirs)).rows
    };
    let estimated = OwnCell { estimated: 2, estimates: amounts(&[(Output, 30)]), unknown: 1, ..OwnCell::default() };
    let rows = sides(100, 60, estimated.clone());
    assert_eq!(rows[0].reasons, [Reason::Estimated(2, Some(30)), Reason::Unknown(1)], "no more than was estimated");
    assert_eq!(sides(100, 140, estimated)[0].reasons[0], Reason::Estimated(2, None), "nobody knows how much");
    assert_eq!(sides(100, 140, OwnCell::default())[0].reasons, [Reason::NoneKnown]);
    // What may be in the next bucket there, and what may be here of another.
    let leaving = OwnCell { leaving: amounts(&[(Output, 40)]), ..OwnCell::default() };
    assert_eq!(sides(100, 60, leaving.clone()), []);
    assert_eq!(sides(100, 59, leaving).len(), 1);
    let arriving = OwnCell { arriving: amounts(&[(Output, 40)]), ..OwnCell::default() };
    assert_eq!(sides(100, 140, arriving.clone()), []);
    assert_eq!(sides(100, 142, arriving).len(), 1);
    // A number that one side does not have is not judged; and is no difference from nothing.
    let mut theirs = TheirCell::default();
    theirs.amounts.lose(CacheWrite);
    let own = |written| OwnCell { amounts: amounts(&[(CacheWrite, written)]), ..OwnCell::default() };
    let found = compared(Book::Completions, own(5), Some(theirs.clone()));
    assert_eq!((found.rows[0].verdict, &found.rows[0].reasons[..]), (Verdict::Unknown, &[Reason::NotKnownThere][..]));
    assert!(found.agrees() && found.totals.get(&CacheWrite).is_none_or(|total| total.ours == 0));
    assert_eq!(compared(Book::Completions, own(0), Some(theirs)).rows, []);
}

#[test]
fn batches_seconds_and_fees_have_their_own_measure() {
    use Quantity::{Cost, Input, Seconds};
    let sides = |book: Book, quantity: Quantity, ours: i64, theirs: i64, own: OwnCell| {
        let own = OwnCell { amounts: amounts(&[(Quantity::Requests, 3), (quantity, ours)]), ..own };
        let theirs = amounts(&[(Quantity::Requests, 3), (quantity, theirs)]);
        compared(book, own, Some(TheirCell { amounts: theirs, ..TheirCell::default() })).rows
    };
    let batch = sides(Book::Batches, Input, 100, 200, OwnCell::default());
    assert_eq!((batch[0].verdict, &batch[0].reasons[..]), (Verdict::Unknown, &[Reason::BatchTime][..]));
    // Three requests of up to a second more than told.
    assert_eq!(sides(Book::Transcriptions, Seconds, 10_400_000, 13_000_000, OwnCell::default()), []);
    assert_eq!(sides(Book::Transcriptions, Seconds, 10_400_000, 14_000_000, OwnCell::default()).len(), 1);
    // A fee that is in a line of its own there. The table of this test has none.
    let fees = OwnCell { fees_out: 2, ..OwnCell::default() };
    assert_eq!(sides(Book::Costs, Cost, 100_000_000, 80_000_000, fees.clone()).len(), 1);
    let table = PriceTable::parse(r#"{"gpt-a": {"code_interpreter_cost_per_session": 0.01}}"#).unwrap();
    let (mut ours, mut books) = (Cells::default(), Cells::default());
    let cost = |amount| amounts(&[(Cost, amount)]);
    *ours.entry(key(0, Book::Costs, 0)).unwrap() = OwnCell { amounts: cost(100_000_000), ..fees };
    *books.entry(key(0, Book::Costs, 0)).unwrap() = TheirCell { amounts: cost(80_000_000), ..TheirCell::default() };
    let mut found = Comparison::default();
    found.judge(&judge(&table), &ours, &books);
    assert_eq!(found.rows, []);
    // Whole cents may be half a cent off.
    let item = |cost| LineItem { name: "gpt-a, x".into(), cost, quantity: None, unit: "".into() };
    assert_eq!((item(10_000_000).rounding(), item(10_000_001).rounding()), (5_000_000, 1));
}

#[test]
fn what_was_spent_beside_the_proxy_is_told_by_model_and_since_when() {
    let (prices, mut found, mut books) = (prices(), Comparison::default(), Cells::default());
    for day in [2, 1] {
        let theirs: &mut TheirCell = books.entry(key(day, Book::Completions, 1)).unwrap();
        theirs.amounts = amounts(&[(Quantity::Requests, 5), (Quantity::Output, 50)]);
    }
    found.judge(&judge(&prices), &Cells::default(), &books);
    let since = FIRST + DAY;
    let expected = SpentBeside { since, amount: 10 };
    assert_eq!(found.beside, [((Book::Completions, "gpt-b-mini".into()), expected)].into());
    assert!(found.rows.iter().all(|row| row.reasons == [Reason::OnlyThere]));
}

#[test]
fn a_page_is_of_what_was_asked_for_or_refused() {
    let (range, prices) = (FIRST..FIRST + DAY, prices());
    let read = |text: &str| {
        Page::Completions.read(text.as_bytes(), (&range, Width::Day, false), &prices, &mut Cells::default())
    };
    let page = |start: u64, rest: &str| {
        format!(r#"{{"object":"page","data":[{{"object":"bucket","start_time":{start},"results":[]}}],{rest}}}"#)
    };
    assert_eq!(read(&page(FIRST, r#""has_more":false,"next_page":null"#)), Ok(None));
    assert_eq!(read(&page(FIRST, r#""has_more":true,"next_page":"x""#)), Ok(Some("x".to_owned())));
    for (text, part) in [
        (String::new(), "no JSON object"),
        ("[]".to_owned(), "no JSON object"),
        (r#"{"has_more":false}"#.to_owned(), "no list of buckets"),
        (r#"{"data":[1],"has_more":false}"#.to_owned(), "no object"),
        (r#"{"data":[{"start_time":-1,"results":[]}],"has_more":false}"#.to_owned(), "no start"),
        (format!(r#"{{"data":[{{"start_time":{FIRST}}}],"has_more":false}}"#), "no list of results"),
        (page(FIRST + DAY, r#""has_more":false"#), "not asked for"),
        (page(FIRST - DAY, r#""has_more":false"#), "not asked for"),
        (page(FIRST + 1, r#""has_more":false"#), "not asked for"),
        (page(FIRST, r#""has_more":true,"next_page":null"#), "where the next page is"),
        (page(FIRST, r#""has_more":true,"next_page":"""#), "where the next page is"),
        (page(FIRST, r#""x":0"#), "whether there is more"),
    ] {
        let found = read(&text);
        assert!(matches!(&found, Err(PageError::Malformed(why)) if why.contains(part)), "{text}: {found:?}");
    }
}

#[test]
fn numbers_that_a_page_does_not_have_are_not_zero() {
    let (range, prices, mut cells) = (FIRST..FIRST + DAY, prices(), Cells::default());
    let result = json!({"model": "gpt-a-2025-08-07", "num_model_requests": 2, "input_tokens": 7.0, "output_tokens": null,
        "input_cached_tokens": -1, "input_audio_tokens": 3, "input_cached_audio_tokens": 4, "output_audio_tokens": 5});
    let bucket = json!({"start_time": FIRST, "results": [result]});
    let page = json!({"data": [bucket], "has_more": false}).to_string();
    Page::Completions.read(page.as_bytes(), (&range, Width::Day, false), &prices, &mut cells).unwrap();
    let of = |quantity| cells.get(&key(0, Book::Completions, 0)).unwrap().amounts.get(quantity);
    use Quantity::{CacheWrite, CachedInput, Input, InputAudio, Output, OutputAudio, Requests};
    let expected = [(Requests, Some(2)), (Input, Some(7)), (Output, None), (CachedInput, None), (CacheWrite, None)];
    for (quantity, amount) in expected.into_iter().chain([(InputAudio, Some(7)), (OutputAudio, Some(5))]) {
        assert_eq!(of(quantity), amount, "{quantity:?}");
    }
    let spent = |value: Value, currency: &str| {
        let mut cells = Cells::default();
        let result = json!({"amount": {"value": value, "currency": currency}, "line_item": "gpt-a, input"});
        let page = json!({"data": [{"start_time": FIRST, "results": [result]}], "has_more": false}).to_string();
        Page::Costs.read(page.as_bytes(), (&range, Width::Day, false), &prices, &mut cells).unwrap();
        cells.get(&key(0, Book::Costs, 0)).unwrap().amounts.get(Quantity::Cost)
    };
    assert_eq!(spent(json!(0.06), "usd"), Some(60_000_000));
    assert_eq!(spent(json!("0.0600000000000000000000"), "USD"), Some(60_000_000));
    assert_eq!([spent(json!(-1), "usd"), spent(json!(1), "eur"), spent(Value::Null, "usd")], [None; 3]);
}

#[test]
fn a_question_names_its_buckets_groups_keys_and_projects() {
    let ids = |id: &str| vec![id.to_owned()];
    let range = FIRST..FIRST + 7 * DAY;
    let query = Page::Completions.query(&range, Width::Day, &ids("key_1"), &ids("proj_1"));
    let expected = format!(
        "start_time={FIRST}&end_time={}&bucket_width=1d&limit=7&group_by[]=model&group_by[]=batch\
         &group_by[]=service_tier&api_key_ids[]=key_1&project_ids[]=proj_1",
        FIRST + 7 * DAY
    );
    assert_eq!(query, expected);
    let hours = Page::WebSearchCalls.query(&(FIRST..FIRST + DAY), Width::Hour, &[], &[]);
    assert!(hours.contains("bucket_width=1h&limit=24&group_by[]=model"), "{hours}");
    let costs = Page::Costs.query(&(FIRST..FIRST + DAY), Width::Hour, &[], &[]);
    assert!(costs.contains("bucket_width=1d&limit=1&group_by[]=line_item"), "{costs}");
    let sessions = Page::CodeInterpreterSessions.query(&range, Width::Day, &ids("key_1"), &[]);
    assert!(!sessions.contains("key_1") && !sessions.contains("group_by"), "{sessions}");
}

#[test]
fn cells_and_rows_are_bounded() {
    let mut cells: Cells<OwnCell> = Cells::default();
    for model in 0..CELLS_MAX {
        cells.entry(CellKey { start: 0, book: Book::Costs, model: model.to_string().into() }).unwrap();
    }
    let one_more = CellKey { start: 1, book: Book::Costs, model: "".into() };
    assert!(cells.entry(one_more).is_err());
    let mut books: Cells<TheirCell> = Cells::default();
    for model in 0..20_000 {
        let key = CellKey { start: FIRST, book: Book::Moderations, model: model.to_string().into() };
        books.entry(key).unwrap().amounts.add(Quantity::Requests, 1);
    }
    let (prices, mut found) = (prices(), Comparison::default());
    found.judge(&judge(&prices), &Cells::default(), &books);
    assert_eq!((found.rows.len(), found.rows_left_out, found.beside.len()), (10_000, 10_000, 1_000));
    assert_eq!(found.counted(Verdict::Differs), 20_000);
}
