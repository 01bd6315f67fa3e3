//! Holds the properties of the fuzz targets without a fuzzer: every file of `tests/fuzz/corpus` through its property,
//! cut in several ways. What a fuzzer has found becomes a file there.

#[path = "fuzz/properties.rs"]
mod properties;

use std::path::Path;

/// How an input is cut, beside as it says itself: in one piece, byte by byte, and in short parts of three lengths.
const CUTS: [&[u8; 3]; 5] = [b"@@@", b"aaa", b"abc", b"zag", b"cg@"];

fn replay(target: &str, property: fn(&[u8]) -> bool) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target);
    let (mut accepted, mut refused) = (0, 0);
    for entry in std::fs::read_dir(&folder).expect("a corpus for each target") {
        let path = entry.expect("an entry").path();
        println!("{}", path.display()); // shown where the property fails
        let mut input = std::fs::read(&path).expect("a readable file");
        let verdict = property(&input);
        for cut in CUTS {
            input[..3].copy_from_slice(cut);
            assert_eq!(property(&input), verdict, "cut {}", cut.escape_ascii());
        }
        *if verdict { &mut accepted } else { &mut refused } += 1;
    }
    assert!(accepted > 0 && refused > 0, "{target}: a corpus needs both: {accepted} accepted, {refused} refused");
    println!("{target}: {accepted} accepted, {refused} refused");
}

#[test]
fn json() {
    replay("json", properties::json);
}

#[test]
fn sse() {
    replay("sse", properties::sse);
}

#[test]
fn request_head() {
    replay("request_head", properties::request_head);
}

#[test]
fn response_head() {
    replay("response_head", properties::response_head);
}

#[test]
fn chunked() {
    replay("chunked", properties::chunked);
}

#[test]
fn capture() {
    replay("capture", properties::capture);
}

#[test]
fn connection() {
    replay("connection", properties::connection::connection);
}

#[test]
fn websocket() {
    replay("websocket", properties::websocket);
}

#[test]
fn first_bytes() {
    replay("first_bytes", properties::first_bytes::first_bytes);
}
