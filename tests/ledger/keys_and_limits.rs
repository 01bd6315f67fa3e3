//! Keys, users' own limits and spending in the ledger's file.

use crate::oracle::{HOUR, START};
use openai_api_proxy::access::Hash;
use openai_api_proxy::ledger::append::Writer;
use openai_api_proxy::ledger::database;
use openai_api_proxy::ledger::fold::fold;
use openai_api_proxy::ledger::keys_and_limits::{audit, keys, members, read, rules, version};
use openai_api_proxy::ledger::policy_editor::{Editor, PolicyEditor as _};
use openai_api_proxy::ledger::spend::spend_sums;
use openai_api_proxy::limit::budget::{Period, Spent};
use openai_api_proxy::limit::levels::LimitLevel;
use openai_api_proxy::limit::overrides::Overrides;
use openai_api_proxy::policy::{AllowedPaths, Models, Rule};
use openai_api_proxy::usage::record::{Correction, Record, UsageSource};
use std::collections::BTreeMap;

const DAY: u64 = 24 * HOUR;

#[test]
fn keys_limits_and_teams_are_what_was_written_last() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("usage.db");
    let mut editor = Editor::open(&path, "me", 5).unwrap();
    let hash = |text: &str| Hash::of(text.as_bytes());
    let first = editor.add_key("太郎", None, "laptop", &hash("a"), None).unwrap();
    let second = editor.add_key("b", Some("t"), "", &hash("b"), Some(9)).unwrap();
    assert!(editor.add_key("c", None, "", &hash("b"), None).is_err(), "a hash opens for one user");
    let mut editor = Editor::open_existing(&path, "you", 8).unwrap();
    assert_eq!(
        (editor.revoke(first), editor.revoke(first), editor.revoke(77)),
        (Ok(Some(true)), Ok(Some(false)), Ok(None))
    );
    let reader = database::open_reader(&path).unwrap();
    let rows: Vec<_> = keys(&reader).unwrap().into_iter().map(|(key, _)| key).collect();
    assert_eq!((rows[0].user.as_str(), rows[0].revoked_at, rows[1].expires_at), ("太郎", Some(8), Some(9)));

    let own = Overrides { rpm: Some(5), day_nano_usd: Some(0), ..Overrides::default() };
    let own = Rule { limits: own, models: Models::parse("gpt-4o*"), ..Rule::default() };
    let more = Overrides { tpm: Some(7), concurrent: Some(2), month_nano_usd: Some(1 << 50), ..Overrides::default() };
    let more = Rule { limits: more, paths: Some(AllowedPaths::Inference), ..Rule::default() };
    let both = Overrides { rpm: Some(5), day_nano_usd: Some(0), ..more.limits };
    let both = Rule { limits: both, models: own.models.clone(), paths: more.paths.clone() };
    for (level, name) in [(LimitLevel::User, "b"), (LimitLevel::Team, "b"), (LimitLevel::Total, "")] {
        assert_eq!(editor.set_rule(level, name, &own), Ok(own.clone()));
        assert_eq!(editor.set_rule(level, name, &more), Ok(both.clone()), "what is not named stays");
        assert_eq!(rules(&reader).unwrap().iter().collect::<Vec<_>>(), [(level, name, &both)]);
        let policy = read(&reader).unwrap();
        assert_eq!(policy.keys.iter().map(|key| (key.id, &*key.user)).collect::<Vec<_>>(), [(second, "b")]);
        assert_eq!(policy.keys[0].team.as_deref(), Some("t"));
        assert_eq!(policy.rules.iter().collect::<Vec<_>>(), [(level, name, &both)]);
        assert_eq!((editor.clear_rule(level, name), editor.clear_rule(level, name)), (Ok(true), Ok(false)));
    }
    let lines = audit(&reader, i64::MAX, 100).unwrap();
    assert_eq!((lines[0].who.as_str(), lines[0].at, lines.len()), ("you", 8, 12));
    assert_eq!(lines[11].what, "key 1 of 太郎 is made");
    assert_eq!(lines[8].what, "limits of user b are set: rpm 5, usd-day 0, models gpt-4o*");
    assert_eq!(audit(&reader, lines[0].id, 1).unwrap(), lines[1..2]);
}

#[test]
fn a_team_with_users_ends_only_where_it_is_said_where_they_go() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("usage.db");
    let mut editor = Editor::open(&path, "me", 5).unwrap();
    let reader = database::open_reader(&path).unwrap();
    let version_before = version(&reader).unwrap();
    assert!(editor.delete_team("x", None).unwrap().unwrap_err().contains("there is no team x"));
    assert_eq!(version(&reader).unwrap(), version_before, "nothing was changed");
    for (user, team) in [("a", Some("x")), ("b", Some("x")), ("c", Some("y")), ("b", Some("y")), ("c", None)] {
        editor.set_team(user, team).unwrap();
    }
    editor.add_key("c", Some("x"), "", &Hash::of(b"c"), None).unwrap();
    let limits = Overrides { rpm: Some(5), ..Overrides::default() };
    editor.set_rule(LimitLevel::Team, "x", &Rule { limits, ..Rule::default() }).unwrap();
    let teams =
        |reader| members(reader).unwrap().into_iter().map(|(user, team)| format!("{user}:{team}")).collect::<Vec<_>>();
    assert_eq!(teams(&reader), ["a:x", "b:y"]);
    let refused = editor.delete_team("x", None).unwrap().unwrap_err();
    assert!(refused.contains("1 users and 1 keys") && refused.contains("--move-to"), "{refused}");
    assert_eq!(editor.delete_team("x", Some("y")), Ok(Ok(())));
    assert_eq!((teams(&reader), rules(&reader).unwrap().is_empty()), (vec!["a:y".to_owned(), "b:y".to_owned()], true));
    assert_eq!(read(&reader).unwrap().keys[0].team.as_deref(), Some("y"));
    assert_eq!(audit(&reader, i64::MAX, 1).unwrap()[0].what, "team x is deleted; its users belong to team y");
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
            team: (n % 4 > 0).then(|| format!("t{}", n % 2).as_str().into()),
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
    // Of users, of teams, and of everybody.
    let mut expected: BTreeMap<String, Spent> = BTreeMap::new();
    for record in &rows {
        let began = Period::of(record.started_at);
        let cost = record.counted_nano_usd().unwrap_or(0) as i64;
        for whose in [Some(&*record.user), record.team.as_deref(), Some("all")].into_iter().flatten() {
            let spent = expected.entry(whose.to_owned()).or_default();
            let add = |sum: u64, counts: bool| if counts { sum.checked_add_signed(cost).unwrap() } else { sum };
            spent.day = add(spent.day, began.day == period.day);
            spent.month = add(spent.month, began.month == period.month);
        }
    }
    writer.append(&rows).unwrap();
    loop {
        let found = spend_sums(&conn, period, 7).unwrap();
        let found_of = found.users.iter().chain(&found.teams).map(|(name, spent)| (name.to_string(), *spent));
        let found_of = found_of.chain([("all".to_owned(), found.total)]);
        assert_eq!((found.period, found.upto_seq), (period, 7));
        assert_eq!(found.next_day, Some(period.day + 1), "the rows go on for forty days");
        let last = spend_sums(&conn, Period::of(START + 79 * DAY), 0).unwrap();
        assert_eq!(last.next_day, None, "no row is of a later day");
        assert_eq!(found_of.collect::<BTreeMap<_, _>>(), expected);
        if fold(&conn, 300).unwrap().pending() == 0 {
            break;
        }
    }
    assert!(expected.values().all(|spent| spent.day > 0 && spent.month > spent.day));
    assert_eq!(spend_sums(&conn, Period::of(START + 400 * DAY), 0).unwrap().users, []);
}
