//! Forms as clients write them, cut anywhere, and what must not be taken for the model.

use super::*;
use proptest::prelude::*;

const TYPE: &[u8] = b"multipart/form-data; boundary=XX";

/// What is read of a body that comes in the pieces between these places.
fn read(body: &[u8], cuts: &[usize]) -> Option<String> {
    let mut reader = MultipartReader::new(TYPE).unwrap();
    let (mut at, mut known) = (0, None);
    for cut in cuts.iter().copied().chain([body.len()]) {
        let end = cut.clamp(at, body.len());
        let before = reader.model().map(String::from);
        let changed = reader.feed(&body[at..end]);
        known = reader.model().map(String::from);
        assert!(changed || known == before, "a change that nobody is told of");
        assert!(reader.held.len() <= HEAD_BYTES_MAX);
        at = end;
    }
    known
}

/// The same, whichever byte the body is cut at.
fn everywhere(body: &str) -> Option<String> {
    let whole = read(body.as_bytes(), &[]);
    for cut in 0..body.len() {
        assert_eq!(read(body.as_bytes(), &[cut]), whole, "cut at {cut}");
    }
    assert_eq!(read(body.as_bytes(), &(0..body.len()).collect::<Vec<_>>()), whole, "byte by byte");
    whole
}

fn field(head: &str, value: &str) -> String {
    format!("--XX\r\nContent-Disposition: form-data; {head}\r\n\r\n{value}\r\n")
}

fn model(value: &str) -> String {
    field("name=\"model\"", value)
}

fn file(content: &str) -> String {
    let head = "name=\"file\"; filename=\"a.wav\"\r\nContent-Type: audio/wav";
    field(head, content)
}

#[test]
fn the_model_before_and_behind_a_file() {
    let (file, model) = (file("RIFF\r\n\r\n-- \r\r\n--X\r\n--\r\n"), model("whisper-1"));
    let response_format = field("name=\"response_format\"", "json");
    for body in [
        format!("{model}{file}--XX--\r\n"),
        format!("{response_format}{file}{model}--XX--"),
        format!("a preamble\r\n{file}{model}--XX--an epilogue\r\n{}", self::model("other")),
        format!("{file}{}--XX \t\r\n", model.replace("--XX", "--XX  ")),
    ] {
        assert_eq!(everywhere(&body).as_deref(), Some("whisper-1"), "{body}");
    }
    assert_eq!(everywhere(&format!("{file}--XX--")), None);
    assert_eq!(everywhere(&format!("{file}--XX--{model}--XX--")), None, "behind the end");
    assert_eq!(everywhere(&model), None, "its end has not come");
}

#[test]
fn the_field_in_every_spelling() {
    for head in [
        "name=model",
        "Name=\"model\"",
        " name=\"model\" ;charset=utf-8;",
        "name=\"model\"\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8BIT",
        "name=\"mod\\el\"",
    ] {
        assert_eq!(everywhere(&format!("{}--XX--", field(head, "m"))).as_deref(), Some("m"), "{head}");
    }
    let lower = model("a\r\nb:\u{e9}").replace("Content-Disposition", "x-first: 1\r\ncontent-DISPOSITION");
    assert_eq!(everywhere(&format!("{lower}--XX--")).as_deref(), Some("a\r\nb:\u{e9}"));
    assert_eq!(everywhere(&format!("{}--XX--", model(&"m".repeat(300)))), Some("m".repeat(128)));
}

#[test]
fn what_is_not_the_field() {
    for head in [
        "name=\"model\"; filename=\"model\"",
        "name=\"model\"; filename*=UTF-8''model",
        "name=\"file\"; filename=\"; name=\\\"model\\\"\"",
        "name=\"file\"; filename=\"\\\\\"; name=\"model\"",
        "name=\"x\"; name=\"model\"",
        "name=\"models\"",
        "name=\"Model\"",
        "name*=UTF-8''model",
        "name=\"model",
        "name=\"model\"x",
        "name=\"model\";;",
        "name",
        "\r\n name=\"model\"",
        "name=\"model\"\r\n folded: 1",
        "name=\"model\"\r\nContent-Disposition: form-data; name=\"model\"",
        "name=\"model\"\r\nContent-Transfer-Encoding: base64",
        "name=\"model\"\r\nno colon",
    ] {
        assert_eq!(everywhere(&format!("{}--XX--", field(head, "m"))), None, "{head}");
    }
    let attachment = model("m").replace("form-data", "attachment");
    assert_eq!(everywhere(&format!("{attachment}--XX--")), None);
    assert_eq!(everywhere(&format!("--XX\r\n\r\nname=\"model\"\r\n{}--XX--", model("m"))).as_deref(), Some("m"));
    let long = format!("name=\"model\"\r\nx: {}", "y".repeat(HEAD_BYTES_MAX));
    assert_eq!(read(format!("{}--XX--", field(&long, "m")).as_bytes(), &[]), None);
    let after = format!("{}{}--XX--", field(&long, "n"), model("m"));
    assert_eq!(read(after.as_bytes(), &[]).as_deref(), Some("m"));
}

#[test]
fn what_readers_differ_in_gives_no_model() {
    for body in [
        format!("{}{}--XX--", model("a"), model("b")),
        format!("{}{}{}--XX--", model("a"), model("b"), model("a")),
        format!("{}--XX--", model("")),
        format!("{}{}--XX--", model("a"), model("")),
        format!("{}--XX--", model("a\r\n--XXb")),
        format!("{}--XX--", model("a\r\n--XX-b")),
        format!("{}--XX--", model("a\r\n--XX \r\r\n--XX\r\n")),
        format!("{}--XX--", model(&"m".repeat(VALUE_BYTES_MAX + 1))),
        format!("{}{}--XX--", model("a"), model(&"m".repeat(VALUE_BYTES_MAX + 1))),
    ] {
        assert_eq!(everywhere(&body), None, "{body}");
    }
    assert_eq!(read(b"--XX\r\nContent-Disposition: form-data; name=model\r\n\r\n\xff\r\n--XX--", &[]), None);
    let twice = format!("{}{}--XX--", model("a"), model("a"));
    assert_eq!(everywhere(&twice).as_deref(), Some("a"));
}

#[test]
fn boundaries() {
    let delimiter = |kind: &str| {
        let reader = MultipartReader::new(kind.as_bytes())?;
        Some(String::from_utf8(reader.delimiter.needle().to_vec()).unwrap())
    };
    let longest = "b".repeat(70);
    for (kind, boundary) in [
        ("multipart/form-data; boundary=----a'()+_,-./:=? ; x=y", Some("----a'()+_,-./:=?")),
        ("Multipart/Form-Data;charset=utf-8;BOUNDARY=\"a'()+_,-./:=? b\"", Some("a'()+_,-./:=? b")),
        (
            "multipart/form-data; boundary=----WebKitFormBoundary7MA4YWxkTrZu0gW",
            Some("----WebKitFormBoundary7MA4YWxkTrZu0gW"),
        ),
        (&format!("multipart/form-data; boundary={longest}"), Some(&*longest)),
        (&format!("multipart/form-data; boundary={longest}b"), None),
        ("multipart/form-data; boundary=\"a \"", None),
        ("multipart/form-data; boundary=\"\"", None),
        ("multipart/form-data; boundary=a; boundary=b", None),
        ("multipart/form-data; boundary=\"a\r\n\"", None),
        ("multipart/form-data", None),
        ("multipart/mixed; boundary=a", None),
        ("application/json", None),
        ("", None),
    ] {
        assert_eq!(delimiter(kind), boundary.map(|boundary| format!("\r\n--{boundary}")), "{kind}");
    }
}

/// What a file may hold: pieces of delimiters and of headers, but never a whole delimiter.
fn content() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("\r"),
        Just("\n"),
        Just("\r\n"),
        Just("\r\n-"),
        Just("\r\n--"),
        Just("\r\n--X"),
        Just("--XX"),
        Just("X"),
        Just("-"),
        Just("\r\n\r\n"),
        Just("Content-Disposition: form-data; name=\"model\"\r\n\r\nfake"),
        Just("a"),
    ];
    let pieces = proptest::collection::vec(piece, 0..30).prop_map(|pieces| pieces.concat());
    pieces.prop_filter("a delimiter", |content| !format!("{content}\r\n").contains("\r\n--XX"))
}

/// What forms are made of, whole or not.
const PIECES: &[&[u8]] = &[
    b"\r\n--XX",
    b"\r\n",
    b"--",
    b"Content-Disposition: form-data; name=\"model\"",
    b"\r\n\r\n",
    b"m",
    b" ",
    b"\"",
    b"\\",
    b"\xff",
    b"\r",
];

proptest! {
    /// Whatever a file holds, and wherever the body is cut: the field's own value, and nothing from inside the file.
    #[test]
    fn any_file_and_any_split(
        files in proptest::collection::vec(content(), 0..3),
        name in proptest::option::of("[a-z0-9.-]{1,20}"),
        place in 0usize..3,
        mut cuts in proptest::collection::vec(0usize..1500, 0..12),
    ) {
        cuts.sort_unstable();
        let mut parts: Vec<String> = files.iter().map(|content| file(content)).collect();
        if let Some(name) = &name {
            parts.insert(place.min(parts.len()), model(name));
        }
        let body = parts.concat() + "--XX--\r\n";
        prop_assert_eq!(&read(body.as_bytes(), &[]), &name);
        prop_assert_eq!(&read(body.as_bytes(), &cuts), &name);
    }

    /// No bytes make it panic or hold more than its bounds, and any split reads the same.
    #[test]
    fn survives_anything(
        pieces in proptest::collection::vec(proptest::sample::select(PIECES), 0..40),
        mut cuts in proptest::collection::vec(0usize..400, 0..6),
    ) {
        cuts.sort_unstable();
        let body = pieces.concat();
        prop_assert_eq!(read(&body, &cuts), read(&body, &[]));
    }
}
