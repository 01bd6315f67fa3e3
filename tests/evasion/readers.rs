//! What Python, Node and `serde_json` make of the same bytes, held against what the proxy makes of them for a user whose
//! money is limited: what two of them read as a request that costs is read so here as well, or is refused.

use super::support::rng::Rng;
use super::support::tools;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use openai_api_proxy::usage::inspect::{Inspected, inspect, unclear_key};
use openai_api_proxy::usage::record::Endpoint;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};

/// Bodies that are a few bytes at random away from one that can be read.
const RANDOM: usize = 300;

/// Requests that are metered, in every way to write their members.
fn plain() -> Vec<String> {
    let mut bodies = Vec::new();
    for stream in [
        "true",
        "1",
        "0",
        "-0",
        "0.0",
        "1e0",
        "0e5",
        "-1.5E+3",
        "1e999",
        "\"true\"",
        "\"1\"",
        "\"\"",
        "\"\\u0074rue\"",
        "[]",
        "[0]",
        "{}",
        "{\"a\":1}",
        "null",
        "false",
        "NaN",
        "Infinity",
        "True",
        "01",
        "+1",
        ".5",
        "tru",
        "true1",
        "\"a\nb\"",
        "\"\\ud800\"",
        "\"\\x41\"",
    ] {
        bodies.push(format!(r#"{{"model":"gpt-4o","stream":{stream}}}"#));
    }
    for members in [
        r#""stream":true,"stream":false"#,
        r#""stream":false,"stream":true"#,
        r#""str\u0065am":true,"stream":false"#,
        r#""stream":false,"\u0073tream":true"#,
        r#""Stream":true"#,
        r#""stream ":true"#,
        r#""ſtream":true"#,
        r#""\u017ftream":true"#,
        r#""stream":true,"""#,
        r#""stream":true,"":1"#,
        r#""stream":true,"stream""#,
        r#""x":{"stream":true}"#,
        r#""x":[{"stream":true}],"stream":true"#,
        r#""x":"\"stream\":true""#,
        r#""x":"\\","stream":true"#,
        r#""x":"\\\",","stream":true"#,
        r#""x":"\/\b\f\u2028","stream":true"#,
        r#""x":"\ud83d\ude00","stream":true"#,
        r#""\ud800":1,"stream":true"#,
        r#""__proto__":{"stream":true}"#,
        r#""constructor":1,"stream":true"#,
        r#""max_tokens":5,"max_tokens":9,"stream":true"#,
        r#""max_tokens":5e2,"stream":true"#,
        r#""max_tokens":18446744073709551616,"stream":true"#,
        r#""n":7,"stream":true"#,
        r#""n":7.0"#,
        r#""n":"7""#,
        r#""n":null"#,
        r#""n":7,"n":1"#,
        r#""model":"gpt-4o-mini""#,
        r#""mod\u0065l":"gpt-4o-mini""#,
        r#""model":null"#,
        r#""model":["gpt-4o"]"#,
    ] {
        bodies.push(format!(r#"{{"model":"gpt-4o",{members}}}"#));
    }
    for levels in [100, 126, 127, 128, 500, 5_000] {
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            let deep = format!("{}1{}", open.repeat(levels), close.repeat(levels));
            bodies.push(format!(r#"{{"model":"gpt-4o","x":{deep},"stream":true}}"#));
        }
    }
    bodies
}

/// The same around and within a body.
fn spoiled(body: &str) -> Vec<Vec<u8>> {
    let wide =
        |of: fn(u16) -> [u8; 2], mark: &[u8]| [mark.to_vec(), body.encode_utf16().flat_map(of).collect()].concat();
    let wider = |of: fn(u32) -> [u8; 4]| body.chars().flat_map(|letter| of(letter.into())).collect::<Vec<u8>>();
    let mut bodies: Vec<Vec<u8>> = vec![
        wide(u16::to_le_bytes, b""),
        wide(u16::to_be_bytes, b""),
        wide(u16::to_le_bytes, b"\xff\xfe"),
        wide(u16::to_be_bytes, b"\xfe\xff"),
        wider(u32::to_le_bytes),
        wider(u32::to_be_bytes),
        body.replace('"', "'").into_bytes(),
        body.replace(',', ",,").into_bytes(),
        body.replace(',', ", // a remark\n").into_bytes(),
        body.replace(':', "/* a remark */:").into_bytes(),
        body.replace(':', " \t\r\n: \t\r\n").into_bytes(),
        body.replace(':', "\u{b}:").into_bytes(),
        body.replace(',', ",\u{a0}").into_bytes(),
        body.replace(',', ",\u{2028}").into_bytes(),
        body.replace('}', ",}").into_bytes(),
        body.replace("stream", "str\u{0}eam").into_bytes(),
        body.replace("gpt", "g\u{7f}p\tt").into_bytes(),
        body.as_bytes().to_vec().repeat(2),
    ];
    let around: [(&[u8], &[u8]); 16] = [
        (b"", b""),
        (b" \r\n\t", b" \r\n\t"),
        (b"\xef\xbb\xbf", b""),
        (b"\xef\xbb\xbf\xef\xbb\xbf", b""),
        (b" \xef\xbb\xbf", b""),
        (b"", b"\xef\xbb\xbf"),
        (b"\x0c", b""),
        (b"\0", b""),
        (b"", b"\0"),
        (b"", b"}"),
        (b"", b"x"),
        (b"[", b"]"),
        (b"\xff", b""),
        (b")]}',\n", b""),
        (b"", b"\xc2\x85"),
        (b"\x1e", b"\n"),
    ];
    bodies.extend(around.iter().map(|(before, behind)| [before, body.as_bytes(), behind].concat()));
    for bad in [&b"\xff"[..], b"\xc0\xaf", b"\xed\xa0\x80", b"\xc3", b"\xf4\x90\x80\x80", b"\xf0\x9f\x98\x80"] {
        let at = body.find("gpt").unwrap_or(1);
        bodies.push([&body.as_bytes()[..at], bad, &body.as_bytes()[at..]].concat());
    }
    bodies
}

fn corpus() -> Vec<Vec<u8>> {
    let plain = plain();
    let mut bodies: Vec<Vec<u8>> = plain.iter().map(|body| body.clone().into_bytes()).collect();
    bodies.extend(
        plain
            .iter()
            .filter(|body| body.contains("e\":1") || body.contains("true,\"str"))
            .flat_map(|body| spoiled(body)),
    );
    bodies.extend(spoiled(r#"{"model":"gpt-4o","messages":[],"stream":true,"max_tokens":7}"#));
    let mut rng = Rng::new(21);
    for n in 0..RANDOM {
        let mut body = plain[n % plain.len()].clone().into_bytes();
        body.truncate(400);
        for _ in 0..=rng.below(2) {
            let at = rng.below(body.len());
            let byte = b"{}[]\",:\\u0 e1tn/'#\xef\xff\0"[rng.below(21)];
            match rng.below(3) {
                0 => body[at] = byte,
                1 => body.insert(at, byte),
                _ => drop(body.remove(at)),
            }
        }
        bodies.push(body);
    }
    bodies
}

/// What a reader finds: `None` where that is no object.
type Reading = Option<Value>;

fn by_serde(body: &[u8]) -> Reading {
    let members: BTreeMap<String, Value> = serde_json::from_slice(body).ok()?;
    let of = |key: &str| members.get(key).cloned().unwrap_or_default();
    let is_true = match of("stream") {
        Value::Null => false,
        Value::Bool(value) => value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(values) => !values.is_empty(),
        Value::Object(values) => !values.is_empty(),
    };
    Some(json!({"model": of("model"), "stream": is_true, "max_tokens": of("max_tokens"), "n": of("n")}))
}

/// One process for all bodies.
fn by(mut reader: Command, bodies: &[Vec<u8>]) -> Vec<Reading> {
    let mut child = reader.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut to = child.stdin.take().unwrap();
    let lines: String = bodies.iter().map(|body| BASE64.encode(body) + "\n").collect();
    let writer = std::thread::spawn(move || to.write_all(lines.as_bytes()).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let readings: Vec<Reading> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(readings.len(), bodies.len(), "a line each");
    readings
}

/// A number as two languages print it.
fn number(reading: &Value, key: &str) -> Option<u64> {
    reading[key].as_f64().filter(|number| *number >= 0.0).map(|number| number as u64)
}

/// What the proxy reads in less than two readers agree on; `None` where nothing is wrong.
fn missed(inspected: &Inspected, one: &Value, other: &Value) -> Option<&'static str> {
    let agree = |key: &str| one[key] == other[key];
    if agree("stream") && one["stream"] == true && !inspected.stream {
        return Some("its stream");
    }
    if agree("model") && one["model"].as_str().is_some_and(|model| Some(model) != inspected.model.as_deref()) {
        return Some("its model");
    }
    let max = number(one, "max_tokens").filter(|max| number(other, "max_tokens") == Some(*max));
    if max.is_some_and(|max| inspected.output_max.is_some_and(|known| known < max)) {
        return Some("its maximum");
    }
    let n = number(one, "n").filter(|n| number(other, "n") == Some(*n));
    n.is_some_and(|n| inspected.choices < n).then_some("its number of answers")
}

#[test]
fn what_two_readers_take_for_a_metered_request_is_metered_or_refused() {
    let python = tools::python("json", "evasion/json_reader.py");
    let node = tools::node(None, "evasion/json_reader.mjs");
    let (Some(python), Some(node)) = (python, node) else { return };
    let bodies = corpus();
    let (python, node) = (by(python, &bodies), by(node, &bodies));
    let (mut found, mut metered, mut refused) = (Vec::new(), 0, 0);
    for (body, (python, node)) in bodies.iter().zip(python.iter().zip(&node)) {
        let serde = by_serde(body);
        let readings = [python, node, &serde];
        let pairs = [(0, 1), (0, 2), (1, 2)].map(|(one, other)| readings[one].as_ref().zip(readings[other].as_ref()));
        let inspected = inspect(body, Endpoint::ChatCompletions, None);
        if inspected.unclear.is_some() || unclear_key(body).is_some() {
            refused += usize::from(pairs.iter().any(Option::is_some));
            continue;
        }
        metered += usize::from(pairs.iter().any(Option::is_some));
        for (one, other) in pairs.into_iter().flatten() {
            let why = missed(&inspected, one, other);
            found.extend(why.map(|why| format!("{why}: {:.200}", String::from_utf8_lossy(body))));
        }
    }
    super::none(&found);
    // Of each enough that the readers are known to have read.
    assert!(metered > 100 && refused > 20, "{metered} metered, {refused} refused of {}", bodies.len());
}
