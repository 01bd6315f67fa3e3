//! Documents cut anywhere: what is found, and that it is what serde_json finds.

use super::*;
use proptest::prelude::*;
use serde_json::Value;

const PATHS: Paths = Paths::new(&[
    Path { keys: &["usage"], value_bytes_max: 64 },
    Path { keys: &["response", "usage"], value_bytes_max: 64 },
    Path { keys: &["model"], value_bytes_max: 16 },
    Path { keys: &["a", "usage", "b"], value_bytes_max: 64 },
    Path { keys: &["a", EACH], value_bytes_max: 0 },
    Path { keys: &["b", EACH, "model"], value_bytes_max: 64 },
    Path { keys: &["b", EACH, EACH, "a"], value_bytes_max: 64 },
    Path { keys: &[EACH, "usage", EACH], value_bytes_max: 64 },
]);

type Hit = (usize, Range<u64>, Option<Vec<u8>>);

fn scan(document: &[u8], cuts: &[usize]) -> (Vec<Hit>, bool) {
    let (mut scanner, mut hits, mut at) = (Scanner::new(&PATHS), Vec::new(), 0);
    for cut in cuts.iter().copied().chain([document.len()]) {
        let end = cut.clamp(at, document.len());
        scanner.feed(&document[at..end], |found| hits.push((found.path, found.at, found.raw.map(<[u8]>::to_vec))));
        assert!(scanner.held.len() <= KEY_BYTES_MAX);
        at = end;
    }
    (hits, scanner.is_done())
}

/// What serde_json finds at the same places, in the document's order.
fn expected<'v>(value: &'v Value, keys: &[&str]) -> Vec<&'v Value> {
    let Some((key, rest)) = keys.split_first() else { return vec![value] };
    let inner: Vec<&Value> = match value {
        Value::Array(elements) if *key == EACH => elements.iter().collect(),
        Value::Object(members) if *key != EACH => members.get(*key).into_iter().collect(),
        _ => Vec::new(),
    };
    inner.into_iter().flat_map(|value| expected(value, rest)).collect()
}

fn json() -> impl Strategy<Value = Value> {
    let key = prop_oneof!["usage", "response", "model", "a", "b", Just(EACH.to_owned()), "[a-z\"\\\\\u{e9}]{0,4}"];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<i32>().prop_map(|number| Value::from(f64::from(number) / 4.0)),
        "[ -~\u{3042}\n]{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 60, 5, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(key.clone(), inner, 0..5)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

#[test]
fn keys_are_compared_unescaped() {
    let document = br#"{"us\u0061ge": {"x": 1}, "\u006d\u006f\u0064\u0065\u006c":"m"}"#;
    for cut in 0..document.len() {
        let (hits, done) = scan(document, &[cut]);
        assert!(done);
        assert_eq!(hits.iter().map(|hit| hit.0).collect::<Vec<_>>(), [0, 2], "cut at {cut}");
    }
}

/// RFC 8259 §8.1: a sender must not add one, a reader may ignore it; the API's clients do.
#[test]
fn a_leading_byte_order_mark_is_passed_over() {
    let document = "\u{feff} {\"model\":\"m\"}".as_bytes();
    for cut in 0..document.len() {
        assert_eq!(scan(document, &[cut]), (vec![(2, 13..16, Some(b"\"m\"".to_vec()))], true), "cut at {cut}");
    }
    for not_there in ["{\u{feff}\"model\":\"m\"}", " \u{feff}{\"model\":\"m\"}", "\u{feff}\u{feff}{\"model\":\"m\"}"] {
        assert_eq!(scan(not_there.as_bytes(), &[]), (vec![], false), "{not_there:?}");
    }
}

#[test]
fn only_the_watched_places_count() {
    let document = br#"{"x":{"usage":1},"y":[{"usage":2}],"z":"\"usage\":3","a":{"usage":[{"b":4}]},"usage":5}"#;
    assert_eq!(scan(document, &[]).0, [(0, 85..86, Some(b"5".to_vec()))]);
}

#[test]
fn every_element_counts_and_no_key_that_is_spelt_like_them() {
    let document = br#"{"b":[{"model":1},[],[{"a":2},3,{"a":[4]}],{"b":[{"model":0}]},{"model":5}],"a":["",{}]}"#;
    let spelt = br#"{"b":{"[]":{"model":1}},"a":{"[]":2},"[]":{"usage":{"[]":3}}}"#;
    for cut in 0..document.len() {
        let found = |hits: Vec<Hit>| hits.into_iter().map(|hit| (hit.0, hit.2)).collect::<Vec<_>>();
        let raw = |path: usize, text: &str| (path, Some(text.as_bytes().to_vec()));
        let expected = [raw(5, "1"), raw(6, "2"), raw(6, "[4]"), raw(5, "5"), (4, None), (4, None)];
        assert_eq!(found(scan(document, &[cut]).0), expected, "cut at {cut}");
        assert_eq!(scan(spelt, &[cut]), (vec![], true));
    }
    let root = br#"[{"usage":[1,2]},{"usage":{"[]":3}},{"usage":[[4]]},[{"usage":[5]}]]"#;
    assert_eq!(scan(root, &[]).0.iter().map(|hit| hit.1.start).collect::<Vec<_>>(), [11, 13, 46]);
}

/// Python's reader and Node's go a thousand levels deep, so what stands behind counts.
#[test]
fn what_stands_behind_a_deep_value_is_found() {
    for depth in [DEPTH_MAX - 2, DEPTH_MAX - 1, DEPTH_MAX, DEPTH_MAX + 1, 2 * DEPTH_MAX, 1000] {
        let (open, close) = ("[{\"x\":".repeat(depth), "}]".repeat(depth));
        let document = format!("{{\"deep\":{open}\"]}}\"{close},\"model\":\"m\"}}");
        for cuts in [vec![], (0..document.len()).collect::<Vec<_>>()] {
            let (hits, done) = scan(document.as_bytes(), &cuts);
            assert_eq!((hits.len(), done), (1, true), "{depth}");
        }
        assert!(!scan(format!("{{\"deep\":{open}1{}}}", &close[1..]).as_bytes(), &[]).1, "one is not closed");
    }
}

#[test]
fn over_the_cap_is_told_without_bytes() {
    let document = format!("{{\"model\":\"{}\",\"usage\":{{}}}}", "m".repeat(1000));
    for cuts in [vec![], (0..document.len()).collect::<Vec<_>>()] {
        let (hits, _) = scan(document.as_bytes(), &cuts);
        assert_eq!(hits[0], (2, 9..1011, None));
        assert_eq!(hits[1].2.as_deref(), Some(&b"{}"[..]));
    }
}

proptest! {
    /// Any split finds the same, at the right place, and it is what serde_json finds there.
    #[test]
    fn agrees_with_serde_json(value in json(), pretty: bool, mut cuts in proptest::collection::vec(0usize..300, 0..12)) {
        cuts.sort_unstable();
        let text = if pretty { serde_json::to_vec_pretty(&value) } else { serde_json::to_vec(&value) }.unwrap();
        let text = [&text[..], b"\n"].concat();
        let (hits, done) = scan(&text, &cuts);
        prop_assert!(done);
        prop_assert_eq!(&hits, &scan(&text, &[]).0);
        for (index, path) in PATHS.list.iter().enumerate() {
            // A path below a captured one is not looked for; the lists in use have none.
            let mut found = Vec::new();
            for (_, at, raw) in hits.iter().filter(|hit| hit.0 == index) {
                let at = &text[at.start as usize..at.end as usize];
                prop_assert_eq!(raw.is_none(), at.len() > path.value_bytes_max);
                found.push(serde_json::from_slice::<Value>(at).unwrap());
            }
            prop_assert_eq!(found.iter().collect::<Vec<_>>(), expected(&value, path.keys));
        }
    }

    /// No bytes make it panic or hold more than its caps.
    #[test]
    fn survives_anything(bytes in proptest::collection::vec(prop_oneof![Just(b'"'), Just(b'{'), Just(b'}'), Just(b'['), Just(b':'), Just(b','), Just(b'\\'), any::<u8>()], 0..200), cuts in proptest::collection::vec(0usize..200, 0..5)) {
        scan(&bytes, &cuts);
    }
}
