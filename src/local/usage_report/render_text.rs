//! An answer of `/usage` for a person at a terminal: whose, a table of sums with bars, and the latest requests.
//!
//! Every number is exact, whatever its column's width, but on a terminal that is too narrow: there lines do not wrap.
//! Nothing is coloured: what is shared by `curl` and a pipe cannot know who reads it.

use crate::base::visible::visible;
use crate::limit::status;
use crate::limit::threshold::{BudgetPeriod, hundredths_used};
use crate::local::humanize::{day, dollars, grouped, instant, second};
use crate::local::text_table::{Column, fitted, table};
use crate::reporting::{BucketKey, BudgetUse, Entry, GroupBy, KeyRow, Report, Scope, Totals};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use unicode_width::UnicodeWidthStr as _;

/// Places of the longest bar.
const BAR_WIDTH: u128 = 20;
/// Eighths of a place, filled from the left.
const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];

/// Columns that a narrow terminal can spare: the bars, and what is a part of another column.
const SPARED: [&str; 4] = ["", "REASONING", "CACHED", "ERRORS"];
const SPARED_OF_KEYS: [&str; 7] = ["", "REASONING", "CACHED", "ERRORS", "OUTPUT", "INPUT", "NAME"];
const SPARED_OF_REQUESTS: [&str; 2] = ["ENDPOINT", "SECONDS"];

/// Where a text is read that a command has written.
#[derive(Clone, Debug)]
pub struct Terminal {
    /// Places in a line; none where it is no terminal.
    pub width: Option<usize>,
    /// The command that shows older requests, up to its cursor.
    pub older: String,
}

/// The body of the answer.
pub fn render(report: &Report, terminal: Option<&Terminal>) -> String {
    let width = terminal.and_then(|terminal| terminal.width).unwrap_or(usize::MAX);
    let mut out = heading(report);
    let rows = sums(report);
    out.push_str(&sums_table(report, &rows, width));
    let unpriced = report.totals.unpriced;
    if unpriced > 0 {
        let whose = if unpriced == 1 { "request has" } else { "requests have" };
        let _ = write!(out, "\n{} {whose} no known cost: the sums are without it.\n", grouped(unpriced));
    }
    if report.query.group_by.is_none() && !report.data.is_empty() {
        out.push('\n');
        out.push_str(&requests(&report.data, width));
        match (report.next_cursor, terminal) {
            (Some(cursor), Some(Terminal { older, .. })) => drop(writeln!(out, "older ones: {older} {cursor}")),
            (Some(cursor), None) => drop(writeln!(out, "older ones: cursor={cursor}")),
            (None, _) => {}
        }
    }
    out
}

/// Whose sums these are, and of when.
fn heading(report: &Report) -> String {
    let query = &report.query;
    let mut out = match (&query.user, &query.team) {
        (Some(user), _) => visible(user).into_owned(),
        (None, Some(team)) => format!("team {}", visible(team)),
        (None, None) => "everybody".to_owned(),
    };
    if let Some(model) = &query.model {
        let _ = write!(out, ", {}", visible(model));
    }
    if let Some(node) = &query.node {
        let _ = write!(out, ", node {}", visible(node));
    }
    match (query.from, query.to) {
        (None, None) => out.push_str(", all time"),
        (Some(from), None) => drop(write!(out, ", from {}", instant(from))),
        (None, Some(to)) => drop(write!(out, ", until {}", instant(to))),
        (Some(from), Some(to)) => drop(write!(out, ", from {} until {}", instant(from), instant(to))),
    }
    out.push('\n');
    match report.scope {
        Scope::Alone => {}
        Scope::Node => out.push_str("This node only: the fleet is out of reach.\n"),
        Scope::Fleet { nodes, fresh_to } => {
            let nodes = if nodes == 1 { "1 node".to_owned() } else { format!("{} nodes", grouped(nodes)) };
            let _ = writeln!(out, "A fleet of {nodes}, complete to {}.", second(fresh_to));
        }
    }
    let level_of_rows = query.group_by.and_then(GroupBy::level);
    for budget in report.budgets.iter().filter(|budget| Some(budget.level) != level_of_rows || query.user.is_some()) {
        let [spent, all] = [budget.spent_nano_usd, budget.budget_nano_usd].map(status::dollars);
        let period = match budget.period {
            BudgetPeriod::Day => "today",
            BudgetPeriod::Month => "this month",
        };
        let _ = writeln!(out, "budget: {}% spent, ${spent} of ${all} {period} (UTC)", percent(budget));
    }
    out.push('\n');
    out
}

/// Per cent of a budget that is spent, rounded down.
fn percent(budget: &BudgetUse) -> u64 {
    hundredths_used(budget.spent_nano_usd, budget.budget_nano_usd) / 100
}

/// Of each name at the rows' level the budget that is nearest to its end, as it is shown.
fn budgets_of_rows(report: &Report) -> BTreeMap<&str, String> {
    let Some(level) = report.query.group_by.and_then(GroupBy::level) else { return BTreeMap::new() };
    let mut nearest: BTreeMap<&str, &BudgetUse> = BTreeMap::new();
    let used = |budget: &BudgetUse| hundredths_used(budget.spent_nano_usd, budget.budget_nano_usd);
    for budget in report.budgets.iter().filter(|budget| budget.level == level) {
        let found = nearest.entry(&budget.name).or_insert(budget);
        if used(budget) > used(found) {
            *found = budget;
        }
    }
    let shown = |budget: &BudgetUse| format!("{}% {}", percent(budget), budget.period.label());
    nearest.into_iter().map(|(name, budget)| (name, shown(budget))).collect()
}

/// What a row is of, a cell for each of [`heads`], and its sums.
type Row = (Vec<String>, Totals);

/// What the table has rows of: the buckets where they are asked for, else the models.
fn sums(report: &Report) -> Vec<Row> {
    let of = |key: &BucketKey| match key {
        BucketKey::Start(start) if report.query.group_by == Some(GroupBy::Month) => vec![day(*start)[..7].to_owned()],
        BucketKey::Start(start) => vec![hour(*start)],
        BucketKey::Name(name) => vec![name.clone()],
        BucketKey::Key(key) => of_key(key.as_ref()),
    };
    match &report.buckets {
        Some(buckets) => buckets.list.iter().map(|(key, totals)| (of(key), *totals)).collect(),
        None => report.by_model.iter().map(|(model, totals)| (vec![model.clone()], *totals)).collect(),
    }
}

fn of_key(key: Option<&KeyRow>) -> Vec<String> {
    let Some(key) = key else { return vec!["(no key)".to_owned()] };
    let expires = if key.revoked_at.is_some() { Some("revoked".to_owned()) } else { key.expires_at.map(day) };
    let known = |text: Option<String>| text.filter(|text| !text.is_empty()).unwrap_or_else(|| "-".to_owned());
    let cells = [Some(key.user.clone()), Some(key.name.clone()), key.last_used().map(day), expires];
    [key.id.to_string()].into_iter().chain(cells.map(known)).collect()
}

/// The heads of what rows are of.
fn heads(group_by: GroupBy) -> Vec<Column<'static>> {
    vec![match group_by {
        GroupBy::Hour => Column::Whole("HOUR (UTC)"),
        GroupBy::Day => Column::Whole("DAY (UTC)"),
        GroupBy::Month => Column::Whole("MONTH (UTC)"),
        GroupBy::Model => Column::Left("MODEL"),
        GroupBy::User => Column::Left("USER"),
        GroupBy::Team => Column::Left("TEAM"),
        GroupBy::Endpoint => Column::Left("ENDPOINT"),
        GroupBy::Node => Column::Left("NODE"),
        GroupBy::Key => {
            let [key, last_used, expires] = ["KEY", "LAST USED", "EXPIRES"].map(Column::Whole);
            return vec![key, Column::Left("USER"), Column::Left("NAME"), last_used, expires];
        }
    }]
}

fn sums_table(report: &Report, rows: &[Row], width: usize) -> String {
    let heads = heads(report.query.group_by.unwrap_or(GroupBy::Model));
    let numbers = ["REQUESTS", "ERRORS", "INPUT", "CACHED", "OUTPUT", "REASONING", "TOKENS", "COST USD"];
    let budgets = budgets_of_rows(report);
    let budget_column = (!budgets.is_empty()).then_some("BUDGET USED");
    let columns: Vec<Column<'_>> = heads
        .iter()
        .copied()
        .chain(numbers.into_iter().chain(budget_column).map(Column::Right))
        .chain([Column::Left("")])
        .collect();
    // What the bars are of: the first of these that is known.
    let of: fn(&Totals) -> u64 = match &report.totals {
        Totals { cost_nano_usd: 1.., .. } => |totals| totals.cost_nano_usd,
        Totals { total_tokens: 1.., .. } => |totals| totals.total_tokens,
        _ => |totals| totals.requests,
    };
    let others = others(report, rows).map(|totals| (vec!["(others)".to_owned()], totals));
    let most = rows.iter().chain(&others).map(|(_, totals)| of(totals)).max().unwrap_or(0);
    let places = decimals(rows.iter().map(|(_, totals)| totals).chain([&report.totals]).map(|t| t.cost_nano_usd));
    let line = |of: &[String], totals: &Totals, bar: String| {
        let name = of[0].as_str();
        let counts = [
            totals.requests,
            totals.errors,
            totals.input_tokens,
            totals.cached_input_tokens,
            totals.output_tokens,
            totals.reasoning_tokens,
            totals.total_tokens,
        ];
        let mut line = of.to_vec();
        line.resize(heads.len(), String::new());
        if name.is_empty() {
            line[0].push('-');
        }
        line.extend(counts.map(grouped));
        line.push(dollars(totals.cost_nano_usd, places));
        // The sum of all is no name's.
        line.extend(budget_column.map(|_| budgets.get(name).filter(|_| !bar.is_empty()).cloned().unwrap_or_default()));
        line.push(bar);
        line
    };
    let shared = |totals: &Totals| {
        let share = (u128::from(of(totals)) * 100 + u128::from(of(&report.totals)) / 2)
            .checked_div(u128::from(of(&report.totals)))
            .unwrap_or(0);
        format!("{} {share}%", bar(of(totals), most)).trim_start().to_owned()
    };
    let mut lines: Vec<Vec<String>> =
        rows.iter().chain(&others).map(|(of, totals)| line(of, totals, shared(totals))).collect();
    lines.push(line(&["total".to_owned()], &report.totals, String::new()));
    let exact = table(&columns, &lines);
    if exact.lines().all(|line| line.width() <= width) {
        return exact;
    }
    // Of dollars, cents are enough there; of less than one they are nothing.
    if report.totals.cost_nano_usd >= 1_000_000_000 {
        let costs = rows.iter().chain(&others).map(|(_, totals)| totals).chain([&report.totals]);
        for (line, totals) in lines.iter_mut().zip(costs) {
            line[heads.len() + numbers.len() - 1] = dollars(totals.cost_nano_usd, 2);
        }
    }
    let spared: &[&str] = if heads.len() > 1 { &SPARED_OF_KEYS } else { &SPARED };
    fitted(&columns, &lines, width, spared)
}

/// What the rows lack of the sum, where an answer may not have them all.
fn others(report: &Report, rows: &[Row]) -> Option<Totals> {
    let mut sum = Totals::default();
    rows.iter().for_each(|(_, totals)| sum.add(totals));
    (sum.requests < report.totals.requests).then(|| report.totals.without(&sum))
}

fn requests(data: &[Entry], width: usize) -> String {
    let [user, model, endpoint] = ["USER", "MODEL", "ENDPOINT"].map(Column::Left);
    let names = [Column::Whole("STARTED (UTC)"), user, model, endpoint];
    let numbers = ["STATUS", "INPUT", "OUTPUT", "COST USD", "SECONDS"].map(Column::Right);
    let costs = data.iter().filter_map(|entry| entry.record.counted_nano_usd());
    let places = decimals(costs.map(|cost| cost.unsigned_abs() as u64));
    let rows = data.iter().map(|Entry { record, .. }| {
        let model = record.model_name();
        vec![
            second(record.started_at),
            record.user.to_string(),
            if model.is_empty() { "-".to_owned() } else { model.to_owned() },
            record.endpoint.as_str().to_owned(),
            match record.status {
                _ if !record.is_request() => record.usage_source.as_str().to_owned(),
                0 => "-".to_owned(),
                status => status.to_string(),
            },
            signed(record.counted(|usage| usage.input_tokens), grouped),
            signed(record.counted(|usage| usage.output_tokens), grouped),
            record
                .counted_nano_usd()
                .map_or_else(|| "-".to_owned(), |nano_usd| signed(nano_usd, |nano_usd| dollars(nano_usd, places))),
            format!("{}.{:03}", record.duration_us / 1_000_000, record.duration_us / 1000 % 1000),
        ]
    });
    fitted(&[&names[..], &numbers].concat(), &rows.collect::<Vec<_>>(), width, &SPARED_OF_REQUESTS)
}

/// A number of at most 64 bits without its sign.
fn signed(number: i128, write: impl Fn(u64) -> String) -> String {
    let sign = if number < 0 { "-" } else { "" };
    format!("{sign}{}", write(number.unsigned_abs() as u64))
}

fn bar(value: u64, most: u64) -> String {
    let eighths = (u128::from(value) * BAR_WIDTH * 8).checked_div(u128::from(most)).unwrap_or(0);
    let whole = usize::try_from(eighths / 8).unwrap_or(0);
    format!("{}{}", "█".repeat(whole), EIGHTHS[usize::try_from(eighths % 8).unwrap_or(0)])
}

/// Digits after the point that show all of these exactly; two at least, as people write money.
fn decimals(costs: impl Iterator<Item = u64>) -> usize {
    let needed = |nano_usd: u64| 9 - (0..9).take_while(|&zeros| nano_usd.is_multiple_of(10u64.pow(zeros + 1))).count();
    costs.filter(|&nano_usd| nano_usd > 0).map(needed).max().unwrap_or(0).max(2)
}

/// `2026-11-23 09:00`, or of a day's start the day.
fn hour(unix_ns: u64) -> String {
    let second = second(unix_ns);
    second.strip_suffix(" 00:00:00").or(second.strip_suffix(":00")).unwrap_or(&second).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::{DAY, HOUR};
    use crate::limit::levels::LimitLevel;
    use crate::reporting::{Buckets, Query};
    use crate::usage::record::{Endpoint, Record, Usage};

    fn report() -> Report {
        let totals = |requests, total_tokens, cost_nano_usd| Totals {
            requests,
            total_tokens,
            input_tokens: total_tokens,
            cost_nano_usd,
            ..Totals::default()
        };
        let record = Record {
            started_at: 1_795_426_200_123_456_789,
            user: "太郎".into(),
            endpoint: Endpoint::ChatCompletions,
            model: Some("gpt-4o".into()),
            status: 200,
            usage: Usage { input_tokens: 1500, output_tokens: 3, ..Usage::default() },
            cost_nano_usd: Some(6_600),
            duration_us: 612_034,
            ..Record::default()
        };
        Report {
            query: Query { user: Some("太郎".to_owned()), ..Query::default() },
            totals: Totals { unpriced: 1, ..totals(1235, 4_000_000, 4_000_000_000) },
            by_model: vec![
                ("gpt-4o".to_owned(), totals(1234, 3_000_000, 3_999_993_400)),
                (String::new(), totals(1, 1_000_000, 6_600)),
            ],
            buckets: None,
            budgets: Vec::new(),
            data: vec![Entry { id: 7, record }],
            next_cursor: Some(7),
            scope: Scope::Alone,
        }
    }

    #[test]
    fn sums_bars_and_the_latest_requests() {
        let expected = "\
太郎, all time

MODEL   REQUESTS  ERRORS      INPUT  CACHED  OUTPUT  REASONING     TOKENS   COST USD
gpt-4o     1,234       0  3,000,000       0       0          0  3,000,000  3.9999934  ████████████████████ 100%
-              1       0  1,000,000       0       0          0  1,000,000  0.0000066  0%
total      1,235       0  4,000,000       0       0          0  4,000,000  4.0000000

1 request has no known cost: the sums are without it.

STARTED (UTC)        USER  MODEL   ENDPOINT          STATUS  INPUT  OUTPUT   COST USD  SECONDS
2026-11-23 09:30:00  太郎  gpt-4o  chat/completions     200  1,500       3  0.0000066    0.612
older ones: cursor=7
";
        assert_eq!(render(&report(), None), expected);
    }

    #[test]
    fn nothing_wraps_on_a_narrow_terminal() {
        let mut report = report();
        report.by_model[0].0 = "gpt-4o-2024-08-06-of-a-long-name".to_owned();
        report.data[0].record.user = "研究室の共有ワークステーション".into();
        let terminal = |width| Terminal { width: Some(width), older: "proxy-server usage --cursor".to_owned() };
        let expected = "\
太郎, all time

MODEL           REQUESTS  ERRORS      INPUT  CACHED  OUTPUT     TOKENS  COST USD
gpt-4o-2024-0…     1,234       0  3,000,000       0       0  3,000,000      4.00
-                      1       0  1,000,000       0       0  1,000,000      0.00
total              1,235       0  4,000,000       0       0  4,000,000      4.00

1 request has no known cost: the sums are without it.

STARTED (UTC)        USER               MODEL   STATUS  INPUT  OUTPUT   COST USD
2026-11-23 09:30:00  研究室の共有ワー…  gpt-4o     200  1,500       3  0.0000066
older ones: proxy-server usage --cursor 7
";
        assert_eq!(render(&report, Some(&terminal(80))), expected);
        let wide = render(&report, Some(&terminal(200)));
        assert_eq!(wide.replace("proxy-server usage --cursor 7", "cursor=7"), render(&report, None), "nothing is lost");
    }

    #[test]
    fn of_budgets_the_nearest_to_its_end_is_shown() {
        let budget = |level, name: &str, period, spent_nano_usd| {
            let (name, budget_nano_usd, resets_at) = (name.to_owned(), 10_000_000_000, 0);
            BudgetUse { level, name, period, budget_nano_usd, spent_nano_usd, resets_at }
        };
        let [user, total] = [LimitLevel::User, LimitLevel::Total];
        let mut report = report();
        let row = |name: &str| (BucketKey::Name(name.to_owned()), report.by_model[0].1);
        report.buckets = Some(Buckets { list: vec![row("a"), row("b"), row("total")], truncated: false });
        report.query = Query { group_by: Some(GroupBy::User), ..Query::default() };
        report.budgets = vec![
            budget(user, "a", BudgetPeriod::Day, 8_299_999_999),
            budget(user, "a", BudgetPeriod::Month, 12_000_000_000),
            budget(user, "total", BudgetPeriod::Day, 0),
            budget(total, "", BudgetPeriod::Day, 8_300_000_000),
        ];
        let text = render(&report, None);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[1], "budget: 83% spent, $8.3 of $10 today (UTC)", "{text}");
        assert!(lines[3].ends_with("COST USD  BUDGET USED"), "{text}");
        let cells: Vec<Vec<&str>> = lines[4..8].iter().map(|line| line.split("  ").map(str::trim).collect()).collect();
        let shown: Vec<bool> = cells.iter().map(|cells| cells.contains(&"120% month")).collect();
        assert_eq!(shown, [true, false, false, false], "{text}");
        assert!(cells[2].contains(&"0% day") && !cells[3].contains(&"0% day"), "{text}");
        // Of one user, what is spent stands above; where there is none, nothing does.
        report.query.user = Some("a".to_owned());
        report.budgets.truncate(2);
        assert!(render(&report, None).contains("\nbudget: 120% spent, $12 of $10 this month (UTC)\n\nUSER"));
        report.budgets.clear();
        assert!(!render(&report, None).to_lowercase().contains("budget"));
    }

    #[test]
    fn buckets_and_what_is_not_among_them() {
        let day = |day: u64, requests| (BucketKey::Start(day * DAY), Totals { requests, ..Totals::default() });
        let query = Query { from: Some(0), to: Some(1), group_by: Some(GroupBy::Day), ..Query::default() };
        let buckets = Some(Buckets { list: vec![day(0, 1), day(1, 2)], truncated: true });
        let totals = Totals { requests: 4, ..Totals::default() };
        let text = render(&Report { query, totals, buckets, ..report() }, None);
        let cells: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert!(text.starts_with("everybody, from 1970-01-01T00:00:00Z until 1970-01-01T00:00:00.000000001Z\n"));
        assert_eq!(cells[3][..2], ["1970-01-01", "1"]);
        assert_eq!(cells[4][..2], ["1970-01-02", "2"]);
        assert_eq!(cells[5][..2], ["(others)", "1"]);
        assert_eq!((cells[6][0], cells[6][1], cells.len()), ("total", "4", 7), "no requests beside buckets: {text}");
    }

    #[test]
    fn keys_have_their_user_last_use_and_expiry() {
        let day = |day: u64| Some(day * DAY);
        let key = |id, name: &str| KeyRow { id, user: "太郎".to_owned(), name: name.to_owned(), ..KeyRow::default() };
        let keys = [
            Some(KeyRow { expires_at: day(20_780), last_used_day: Some(20_777), ..key(1, "laptop") }),
            Some(KeyRow { expires_at: day(20_780), revoked_at: day(20_700), ..key(12, "") }),
            None,
        ];
        let row = |key: Option<KeyRow>| (BucketKey::Key(key), Totals { requests: 1, ..Totals::default() });
        let query = Query { group_by: Some(GroupBy::Key), ..Query::default() };
        let buckets = Some(Buckets { list: keys.map(row).into(), truncated: false });
        let totals = Totals { requests: 3, ..Totals::default() };
        let report = Report { query, totals, buckets, ..report() };
        let expected = "\
everybody, all time

KEY       USER  NAME    LAST USED   EXPIRES     REQUESTS  INPUT  OUTPUT  TOKENS  COST USD
1         太郎  laptop  2026-11-20  2026-11-23         1      0       0       0      0.00
12        太郎  -       -           revoked            1      0       0       0      0.00
(no key)                                               1      0       0       0      0.00
total                                                  3      0       0       0      0.00
";
        let terminal = |width| Terminal { width: Some(width), older: String::new() };
        assert_eq!(render(&report, Some(&terminal(90))), expected);
        let narrow = render(&report, Some(&terminal(80)));
        assert!(narrow.lines().all(|line| line.width() <= 80) && narrow.contains("2026-11-23"), "{narrow}");
        let months = Query { group_by: Some(GroupBy::Month), ..Query::default() };
        let list = vec![(BucketKey::Start(20_758 * DAY), report.totals)];
        let text = render(&Report { query: months, buckets: Some(Buckets { list, truncated: false }), ..report }, None);
        assert!(text.contains("\nMONTH (UTC)") && text.contains("\n2026-11 "), "{text}");
    }

    #[test]
    fn numbers_are_exact() {
        assert_eq!(decimals([10_000_000, 500_000_000_000, 0].into_iter()), 2);
        assert_eq!(decimals([1].into_iter()), 9);
        assert_eq!(bar(1, 2), "██████████");
        assert_eq!((bar(1, 160), bar(0, 0)), ("▏".to_owned(), String::new()));
        assert_eq!(hour(9 * HOUR), "1970-01-01 09:00");
    }
}
