//! Keys, users' own limits and spending in the ledger's file.

use crate::oracle::{HOUR, START};
use openai_api_proxy::access::Hash;
use openai_api_proxy::ledger::append::Writer;
use openai_api_proxy::ledger::database;
use openai_api_proxy::ledger::fold::fold;
use openai_api_proxy::ledger::keys_and_limits::{Editor, keys, limits, read};
use openai_api_proxy::ledger::spend::spend_by_user;
use openai_api_proxy::limit::budget::{Period, Spent};
use openai_api_proxy::limit::overrides::Overrides;
use openai_api_proxy::usage::record::{Correction, Record, UsageSource};
use std::collections::BTreeMap;

const DAY: u64 = 24 * HOUR;

#[test]
fn keys_and_limits_are_what_was_written_last() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("usage.db");
    let mut editor = Editor::open(&path).unwrap();
    let hash = |text: &str| Hash::of(text.as_bytes());
    let first = editor.add_key("太郎", "laptop", &hash("a"), 5, None).unwrap();
    let second = editor.add_key("b", "", &hash("b"), 6, Some(9)).unwrap();
    assert!(editor.add_key("c", "", &hash("b"), 6, None).is_err(), "a hash opens for one user");
    assert_eq!(
        (editor.revoke(first, 8), editor.revoke(first, 9), editor.revoke(77, 9)),
        (Ok(Some(true)), Ok(Some(false)), Ok(None))
    );
    let reader = database::open_reader(&path).unwrap();
    let rows: Vec<_> = keys(&reader).unwrap().into_iter().map(|(key, _)| key).collect();
    assert_eq!((rows[0].user.as_str(), rows[0].revoked_at, rows[1].expires_at), ("太郎", Some(8), Some(9)));

    let own = Overrides { rpm: Some(5), day_nano_usd: Some(0), ..Overrides::default() };
    assert_eq!(editor.set_limits("b", &own), Ok(own));
    let more = Overrides { tpm: Some(7), concurrent: Some(2), month_nano_usd: Some(1 << 50), ..Overrides::default() };
    let both = Overrides { rpm: Some(5), day_nano_usd: Some(0), ..more };
    assert_eq!(editor.set_limits("b", &more), Ok(both), "what is not named stays");
    assert_eq!((editor.clear_limits("c"), limits(&reader)), (Ok(false), Ok([("b".into(), both)].into())));

    let policy = read(&reader).unwrap();
    assert_eq!(policy.keys.iter().map(|key| (key.id, &*key.user)).collect::<Vec<_>>(), [(second, "b")]);
    assert_eq!(policy.overrides, BTreeMap::from([("b".into(), both)]));
    assert_eq!((editor.clear_limits("b"), limits(&reader)), (Ok(true), Ok(BTreeMap::new())));
}

/// Wherever the fold stands, what was spent is the sum of the rows of the day and of the month, and of none after them.
#[test]
fn spending_is_the_sum_of_the_rows_at_any_mark() {
    let folder = tempfile::tempdir().unwrap();
    let conn = database::open(&folder.path().join("usage.db")).unwrap();
    let mut writer = Writer::new(&conn).unwrap();
    let now = START + 40 * DAY;
    let period = Period::of(now);
    // Every hour for eighty days, around now, by three users; some cost nothing that is known.
    let mut rows: Vec<Record> = (0..1920u64)
        .map(|n| Record {
            started_at: START + n * HOUR + n,
            user: format!("u{}", n % 3).as_str().into(),
            cost_nano_usd: (n % 5 > 0).then_some(n * n + 1),
            status: 200,
            ..Record::default()
        })
        .collect();
    // The last rows take most of it back from others, which are folded before them.
    let taken_back = |record: &Record| Record {
        usage_source: UsageSource::Correction,
        cost_nano_usd: Some(0),
        correction: Some(Box::new(Correction {
            less_nano_usd: record.cost_nano_usd.unwrap_or(0) / 4 * 3,
            ..Correction::default()
        })),
        ..record.clone()
    };
    let corrections: Vec<Record> = rows.iter().map(taken_back).collect();
    rows.extend(corrections);
    let mut expected: BTreeMap<String, Spent> = BTreeMap::new();
    for record in &rows {
        let began = Period::of(record.started_at);
        let cost = record.counted_nano_usd().unwrap_or(0) as i64;
        let spent = expected.entry(record.user.to_string()).or_default();
        let add = |sum: u64, counts: bool| if counts { sum.checked_add_signed(cost).unwrap() } else { sum };
        spent.day = add(spent.day, began.day == period.day);
        spent.month = add(spent.month, began.month == period.month);
    }
    writer.append(&rows).unwrap();
    loop {
        let found = spend_by_user(&conn, period, 7).unwrap();
        let users = found.users.into_iter().map(|(user, spent)| (user.to_string(), spent));
        assert_eq!((found.period, found.upto_seq), (period, 7));
        assert_eq!(found.next_day, Some(period.day + 1), "the rows go on for forty days");
        let last = spend_by_user(&conn, Period::of(START + 79 * DAY), 0).unwrap();
        assert_eq!(last.next_day, None, "no row is of a later day");
        assert_eq!(users.collect::<BTreeMap<_, _>>(), expected);
        if fold(&conn, 300).unwrap().pending() == 0 {
            break;
        }
    }
    assert!(expected.values().all(|spent| spent.day > 0 && spent.month > spent.day));
    assert_eq!(spend_by_user(&conn, Period::of(START + 400 * DAY), 0).unwrap().users, []);
}
