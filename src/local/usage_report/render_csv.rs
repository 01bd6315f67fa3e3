//! An answer of `/usage` as CSV (RFC 4180): the records, or the buckets where the question asks for them.
//!
//! Text that a spreadsheet would take for a formula is led by an apostrophe: users choose their own names, and what a
//! cell runs, runs on the machine of whoever opens the file.

use super::columns::{self, Columns, Value};
use crate::base::civil::write_rfc3339;
use crate::base::digits::write_signed_decimal;
use crate::base::visible::visible;
use crate::reporting::{BucketKey, Entry, GroupBy, Report, Totals};
use crate::usage::record::Record;

/// What a spreadsheet takes for the start of a formula, also as it is typed in Chinese, Japanese and Korean.
const FORMULA_STARTS: [char; 10] = ['=', '+', '-', '@', '\t', '\r', '＝', '＋', '－', '＠'];

/// The body of the answer.
pub fn render(report: &Report) -> Vec<u8> {
    let mut out = Vec::new();
    match (report.query.group_by, &report.buckets) {
        (Some(group_by), Some(buckets)) => {
            let bucket = |line: &mut Line<'_>, key: &BucketKey, totals: &Totals| {
                columns::bucket_key(line, group_by, key);
                columns::totals(line, totals);
            };
            let any = match group_by {
                GroupBy::Key => BucketKey::Key(None),
                _ if group_by.is_time() => BucketKey::Start(0),
                _ => BucketKey::Name(String::new()),
            };
            Line::write(&mut out, true, |line| bucket(line, &any, &Totals::default()));
            for (key, totals) in &buckets.list {
                Line::write(&mut out, false, |line| bucket(line, key, totals));
            }
        }
        _ => {
            let any = Entry { id: 0, record: Record::default() };
            Line::write(&mut out, true, |line| columns::entry(line, &any));
            for entry in &report.data {
                Line::write(&mut out, false, |line| columns::entry(line, entry));
            }
        }
    }
    out
}

/// A line being written: of the fields, their names or their values.
struct Line<'a> {
    out: &'a mut Vec<u8>,
    names: bool,
    empty: bool,
}

impl Line<'_> {
    fn write(out: &mut Vec<u8>, names: bool, fill: impl FnOnce(&mut Line<'_>)) {
        fill(&mut Line { out: &mut *out, names, empty: true });
        out.extend_from_slice(b"\r\n");
    }
}

impl Columns for Line<'_> {
    fn put(&mut self, name: &'static str, value: Value<'_>) {
        if !std::mem::take(&mut self.empty) {
            self.out.push(b',');
        }
        match value {
            _ if self.names => self.out.extend_from_slice(name.as_bytes()),
            Value::Unknown => {}
            Value::Number(value) => self.out.extend_from_slice(value.to_string().as_bytes()),
            Value::Flag(value) => self.out.extend_from_slice(value.to_string().as_bytes()),
            Value::Decimal(value, scale) => write_signed_decimal(self.out, value, scale),
            Value::Text(text) => write_text(self.out, text),
            Value::Instant(unix_ns, digits) => write_rfc3339(self.out, unix_ns, digits),
        }
    }

    fn rare(&mut self, name: &'static str, value: u64) {
        self.number(name, value);
    }

    fn cost(&mut self, nano_usd: Option<i128>) {
        self.put("cost_usd", nano_usd.map_or(Value::Unknown, |nano_usd| Value::Decimal(nano_usd, 9)));
    }
}

/// Text as a cell: quoted where it must be (RFC 4180 §2, rules 5 to 7).
pub fn write_text(out: &mut Vec<u8>, text: &str) {
    let lead = if text.starts_with(FORMULA_STARTS) { "'" } else { "" };
    let text = format!("{lead}{}", visible(text));
    if text.contains([',', '"', '\r', '\n']) {
        out.extend_from_slice(format!("\"{}\"", text.replace('"', "\"\"")).as_bytes());
    } else {
        out.extend_from_slice(text.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reporting::{Buckets, GroupBy, KeyRow, Query, Scope};
    use proptest::prelude::*;

    fn report(user: &str) -> Report {
        let record = Record { user: user.into(), cost_nano_usd: Some(1_500_000_000), ..Record::default() };
        let unpriced = Record { cost_nano_usd: None, ..record.clone() };
        Report {
            query: Query::default(),
            totals: Totals::default(),
            by_model: vec![],
            buckets: None,
            budgets: Vec::new(),
            data: vec![Entry { id: 8, record }, Entry { id: 7, record: unpriced }],
            next_cursor: None,
            scope: Scope::Alone,
        }
    }

    /// The cells of a text that another reader of RFC 4180 would see.
    fn read(csv: &[u8]) -> Vec<Vec<String>> {
        let text = std::str::from_utf8(csv).unwrap();
        let (mut rows, mut row, mut cell) = (vec![], vec![], String::new());
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                '"' if cell.is_empty() => loop {
                    match chars.next().unwrap() {
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
        assert!(row.is_empty() && cell.is_empty(), "the last line has an end");
        rows
    }

    #[test]
    fn records_with_their_names_above() {
        let rows = read(&render(&report("a,\"b\"")));
        assert_eq!(rows.len(), 3);
        assert_eq!(rows[0][..4], ["id", "started_at", "user_id", "team"]);
        assert_eq!(rows[1][..4], ["8", "1970-01-01T00:00:00.000000Z", "a,\"b\"", ""]);
        let cost = rows[0].iter().position(|name| name == "cost_usd").unwrap();
        assert_eq!((rows[1][cost].as_str(), rows[2][cost].as_str()), ("1.5", ""));
        assert!(rows.iter().all(|row| row.len() == rows[0].len()));
    }

    #[test]
    fn buckets_where_they_are_asked_for() {
        let totals = Totals { requests: 3, cost_nano_usd: 1, ..Totals::default() };
        let answer = |group_by, key| {
            let query = Query { group_by: Some(group_by), ..Query::default() };
            let buckets = Some(Buckets { list: vec![(key, totals)], truncated: false });
            String::from_utf8(render(&Report { query, buckets, ..report("a") })).unwrap()
        };
        let names = "requests,errors,unpriced_requests,input_tokens,cached_input_tokens,output_tokens,\
                     reasoning_tokens,total_tokens,cost_usd\r\n";
        assert_eq!(
            answer(GroupBy::Day, BucketKey::Start(0)),
            format!("start,{names}1970-01-01T00:00:00Z,3,0,0,0,0,0,0,0,0.000000001\r\n")
        );
        assert_eq!(
            answer(GroupBy::User, BucketKey::Name("=1+1".to_owned())),
            format!("user_id,{names}'=1+1,3,0,0,0,0,0,0,0,0.000000001\r\n")
        );
        let key = KeyRow {
            id: 7,
            user: "u".to_owned(),
            name: "@x".to_owned(),
            last_used_day: Some(1),
            revoked_at: Some(0),
            ..KeyRow::default()
        };
        let names = format!("key_id,user_id,key_name,expires_at,revoked_at,last_used,{names}");
        assert_eq!(
            answer(GroupBy::Key, BucketKey::Key(Some(key))),
            format!("{names}7,u,'@x,,1970-01-01T00:00:00Z,1970-01-02,3,0,0,0,0,0,0,0,0.000000001\r\n")
        );
        assert_eq!(answer(GroupBy::Key, BucketKey::Key(None)), format!("{names},,,,,,3,0,0,0,0,0,0,0,0.000000001\r\n"));
    }

    proptest! {
        #[test]
        fn any_name_is_one_cell_and_no_formula(user in "[=+@,\"\r\n\t'＝a-]{1,12}|.{1,30}") {
            let rows = read(&render(&report(&user)));
            prop_assert_eq!(rows.len(), 3);
            let cell = &rows[1][2];
            prop_assert!(!cell.starts_with(FORMULA_STARTS));
            let shown = cell.strip_prefix('\'').filter(|_| user.starts_with(FORMULA_STARTS)).unwrap_or(cell);
            prop_assert_eq!(shown, visible(&user));
        }
    }
}
