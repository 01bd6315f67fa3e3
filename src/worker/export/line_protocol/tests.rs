//! Lines, read back by the protocol's own parser; names and timestamps that never make two rows one point.

use super::*;
use crate::ledger::append::Writer;
use crate::ledger::database;
use crate::usage::record::{Correction, Record, Usage};
use influxdb_line_protocol::{FieldValue, parse_lines};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// Undoes [`tag`], as any decoder of percent escapes that leaves alone what is none.
fn decode(value: &str) -> String {
    let mut out = Vec::new();
    let mut rest = value.as_bytes();
    while let [byte, tail @ ..] = rest {
        let hex = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
        match (byte, tail) {
            (b'%', [a, b, after @ ..]) if hex(*a).is_some() && hex(*b).is_some() => {
                out.push(hex(*a).unwrap() << 4 | hex(*b).unwrap());
                rest = after;
            }
            _ => {
                out.push(*byte);
                rest = tail;
            }
        }
    }
    String::from_utf8(out).unwrap()
}

/// The only line of a ledger with this record, with its tags and fields.
fn exported(record: Record) -> (String, BTreeMap<String, String>, BTreeMap<String, String>, i64) {
    let folder = tempfile::tempdir().unwrap();
    let conn = database::open(&folder.path().join("usage.db")).unwrap();
    Writer::new(&conn).unwrap().append(&[record]).unwrap();
    let batch = Batch::read(&conn, 0, 10).unwrap();
    assert_eq!((batch.len(), batch.id(0)), (1, 1));
    let text = String::from_utf8(batch.lines(0..1).to_vec()).unwrap();
    let lines: Vec<_> = parse_lines(&text).collect::<Result<_, _>>().unwrap();
    let [line] = lines.as_slice() else { panic!("{} lines in {text:?}", lines.len()) };
    assert_eq!(line.series.measurement, MEASUREMENT);
    let tags = line.series.tag_set.iter().flatten();
    let tags = tags.map(|(key, value)| (key.to_string(), value.to_string())).collect();
    let field = |value: &FieldValue<'_>| match value {
        FieldValue::I64(value) => format!("{value}i"),
        FieldValue::F64(value) => value.to_string(),
        other => panic!("{other}"),
    };
    let fields = line.field_set.iter().map(|(key, value)| (key.to_string(), field(value))).collect();
    (text.clone(), tags, fields, line.timestamp.unwrap())
}

#[test]
fn a_record_is_a_point() {
    let (text, tags, fields, at) = exported(Record {
        started_at: 1_790_000_000_123_456_789,
        user: "太郎 \"x\", y=z".into(),
        model_requested: Some("asked".into()),
        model: Some("gpt-4o".into()),
        endpoint: Endpoint::ChatCompletions,
        status: 200,
        usage: Usage { input_tokens: 8, output_tokens: 9, total_tokens: 17, audio_us: 1_500_000, ..Usage::default() },
        cost_nano_usd: Some(6_600),
        duration_us: 12,
        ..Record::default()
    });
    assert!(text.starts_with("openai_usage,user=太郎\\ \"x\"\\,\\ y\\=z,model=gpt-4o,"), "{text}");
    let expected =
        [("user", "太郎 \"x\", y=z"), ("model", "gpt-4o"), ("endpoint", "chat/completions"), ("status", "200")];
    assert_eq!(tags, expected.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
    assert_eq!(at, 1_790_000_000_100_000_001);
    let found = |name: &str| fields.get(name).map(String::as_str);
    assert_eq!((found("input_tokens"), found("total_tokens")), (Some("8i"), Some("17i")));
    assert_eq!((found("cost_nano_usd"), found("cost_usd")), (Some("6600i"), Some("0.0000066")));
    assert_eq!(
        (found("audio_seconds"), found("duration_us"), found("first_byte_us")),
        (Some("1.5"), Some("12i"), None)
    );
    assert_eq!(fields.len(), 19);
}

#[test]
fn a_correction_is_a_point_with_numbers_below_zero_and_no_request() {
    let less = Usage { input_tokens: 210, audio_us: 500_000, ..Usage::default() };
    let (_, _, fields, _) = exported(Record {
        user: "u".into(),
        usage: Usage { output_tokens: 10, ..Usage::default() },
        cost_nano_usd: Some(0),
        correction: Some(Box::new(Correction { less, less_nano_usd: 320, gives_price: false })),
        ..Record::default()
    });
    let found = ["input_tokens", "output_tokens", "cost_nano_usd", "audio_seconds"].map(|name| &*fields[name]);
    assert_eq!(found, ["-210i", "10i", "-320i", "-0.5"]);
    assert!(!fields.contains_key("duration_us"), "counted by it, it is no request");
}

#[test]
fn what_is_not_known_is_left_out() {
    let (text, tags, fields, _) = exported(Record { user: "".into(), ..Record::default() });
    assert!(text.starts_with("openai_usage,endpoint=other,status=0 "), "{text}");
    assert_eq!((tags.len(), fields.contains_key("cost_usd"), fields.contains_key("cost_nano_usd")), (2, false, false));
}

#[test]
fn a_batch_is_what_is_past_the_cursor() {
    let folder = tempfile::tempdir().unwrap();
    let conn = database::open(&folder.path().join("usage.db")).unwrap();
    let row = Record { started_at: 5_000_000_000, duration_us: 7, user: "u".into(), ..Record::default() };
    Writer::new(&conn).unwrap().append(&vec![row; 9]).unwrap();
    let batch = Batch::read(&conn, 3, 4).unwrap();
    assert_eq!((0..batch.len()).map(|line| batch.id(line)).collect::<Vec<_>>(), [4, 5, 6, 7]);
    assert_eq!(batch.oldest_unix_ns, 5_000_007_000);
    assert_eq!([batch.lines(0..1), batch.lines(1..3), batch.lines(3..4)].concat(), batch.lines(0..4));
    assert!(batch.lines(1..2).ends_with(b" 5000000005\n"));
    assert!(Batch::read(&conn, 9, 4).unwrap().is_empty());
}

proptest! {
    /// Hostile names: any text up to a record's length, much of what the protocol gives a meaning to.
    #[test]
    fn any_name_is_one_tag_that_names_it(name in "([\\\\%,= \"\n\r\t#0-9A-F]|.){1,40}") {
        prop_assert_eq!(&decode(&tag(&name)), &name);
        let record = Record { user: name.as_str().into(), model: Some(name.as_str().into()), ..Record::default() };
        let (text, tags, _, _) = exported(record);
        prop_assert_eq!(text.matches('\n').count(), 1);
        prop_assert_eq!(decode(&tags["user"]), name.as_str());
        prop_assert_eq!(decode(&tags["model"]), name);
        // A backslash stands before what it escapes, and nowhere else.
        let mut after_backslash = text.split('\\').skip(1);
        prop_assert!(after_backslash.all(|rest| rest.starts_with([',', '=', ' '])));
    }

    #[test]
    fn what_needs_no_escape_has_none(name in "[^\\\\%\\p{Cc}]{0,40}") {
        prop_assert_eq!(&*tag(&name), name.as_str());
    }

    /// Rows that began in the same tenth of a second are kept apart by their ids, all others by their time.
    #[test]
    fn no_two_rows_have_one_timestamp(
        started_at in 0..i64::MAX, later in 0..3_000_000_000_i64, id in 1..i64::MAX / 2, beyond in 1..TIMESTAMP_STEP,
    ) {
        let second = started_at.saturating_add(later).min(i64::MAX - 1);
        let (a, b) = (timestamp(started_at, id), timestamp(second, id + beyond));
        prop_assert_ne!(a, b);
        prop_assert!(a >= 0 && (0..i64::MAX).contains(&b));
        if started_at < i64::MAX - 2 * TIMESTAMP_STEP {
            prop_assert!((a - started_at).abs() < TIMESTAMP_STEP);
        }
    }
}
