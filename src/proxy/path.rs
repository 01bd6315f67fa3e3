//! What a target makes of a path, however it is spelled: for knowing which operation it is, never for passing it on.
//!
//! In: the path of a target, as it came. Out: its segments as the most lenient of servers would read them (percent-
//! encoding undone, RFC 3986 §6.2.2; `;parameters` and empty segments gone), or why no two servers need agree on it.

use crate::base::percent;
use std::borrow::Cow;

/// The escapes of `/`, `\`, `?` and `#`.
const PARTING: &[&str] = &["2f", "5c", "3f", "23"];

const DOT_SEGMENT: &str = "a path with `.` or `..` as a segment could be taken for another one";
const DELIMITER: &str = "a path with `\\`, or with an escaped `/`, `\\`, `?` or `#`, could be taken for another one";
const TWICE: &str = "a path with an escape of an escape could be taken for another one";
const CONTROL: &str = "a path with a control character could be taken for another one";
const BROKEN: &str = "a path with an escape that is none, or not of UTF-8, could be taken for another one";

/// A path with its escapes undone, and without parameters and empty segments: each segment behind a `/`. Its letters
/// keep their case. What needs none of this is given back as it is, and then may have empty segments.
///
/// # Errors
/// The message for a path that two servers could resolve to different ones.
pub fn normalized(path: &str) -> Result<Cow<'_, str>, &'static str> {
    if path.bytes().all(|byte| !matches!(byte, b'%' | b';' | b'\\' | b'#') && !byte.is_ascii_control()) {
        let is_dots = |segment: &[u8]| matches!(segment, b"." | b"..");
        let dots = path.as_bytes().split(|&byte| byte == b'/').any(is_dots);
        return if dots { Err(DOT_SEGMENT) } else { Ok(Cow::Borrowed(path)) };
    }
    check_escapes(path)?;
    let decoded = percent::decode(path).ok_or(BROKEN)?;
    check_decoded(&decoded)?;
    let mut normal = String::with_capacity(decoded.len());
    for segment in decoded.split('/') {
        let name = segment.split(';').next().unwrap_or_default();
        if matches!(name.trim(), "." | "..") {
            return Err(DOT_SEGMENT);
        }
        if !name.is_empty() {
            normal.push('/');
            normal.push_str(name);
        }
    }
    Ok(Cow::Owned(normal))
}

/// No escape of what parts a path, whichever way its digits are written.
fn check_escapes(path: &str) -> Result<(), &'static str> {
    let mut escapes = path.as_bytes().windows(3).filter(|window| window[0] == b'%').map(|escape| &escape[1..]);
    let parts = |digits: &[u8]| PARTING.iter().any(|of| digits.eq_ignore_ascii_case(of.as_bytes()));
    if escapes.any(parts) { Err(DELIMITER) } else { Ok(()) }
}

/// Nothing that a second server could decode, or stop at.
fn check_decoded(decoded: &str) -> Result<(), &'static str> {
    if decoded.contains(['\\', '#']) {
        return Err(DELIMITER);
    }
    if decoded.contains(|letter: char| letter.is_control()) {
        return Err(CONTROL);
    }
    // To IIS `%u002f` is an escape too.
    let is_escape = |window: &[u8]| window[0] == b'%' && window[1..].iter().all(u8::is_ascii_hexdigit);
    let twice = decoded.as_bytes().windows(3).any(is_escape);
    if twice || decoded.contains("%u") || decoded.contains("%U") { Err(TWICE) } else { Ok(()) }
}

/// The last segments of a path, the very last first; those that are not there are empty.
pub type Tail<'p> = [&'p str; 5];

/// The last segments of a path that reads the same to everybody; `None` for one that must be [`normalized`] and
/// [`folded`] first. One pass over the bytes, and no memory: nearly every path there is goes through here.
pub fn plain_tail(path: &str) -> Option<Tail<'_>> {
    let bytes = path.as_bytes();
    let mut tail = [""; 5];
    // Where the segment ends that is being looked at, and what is still to be looked at.
    let (mut found, mut end, mut rest) = (0, bytes.len(), bytes.len());
    while let Some(at) = bytes[..rest].iter().rposition(|&byte| !PLAIN[usize::from(byte)]) {
        rest = at;
        match bytes[at] {
            b'/' => {
                if at + 1 < end {
                    if let Some(segment) = tail.get_mut(found) {
                        *segment = &path[at + 1..end];
                    }
                    found += 1;
                }
                end = at;
            }
            // At an end some servers drop it, at the beginning it may be a dot segment, and in the last segment it may
            // begin a suffix: `.json`.
            b'.' if found > 0 && at + 1 < end && at > 0 && bytes[at - 1] != b'/' => {}
            _ => return None,
        }
    }
    // A target begins with a slash: nothing is left before it.
    (end == 0).then_some(tail)
}

/// The last segments of a path in the form that [`folded`] gives.
pub fn tail(path: &str) -> Tail<'_> {
    let mut tail = [""; 5];
    path.split('/').for_each(|segment| shift(&mut tail, segment));
    tail
}

fn shift<'p>(tail: &mut Tail<'p>, segment: &'p str) {
    if !segment.is_empty() {
        let [a, b, c, d, _] = *tail;
        *tail = [segment, a, b, c, d];
    }
}

/// A [`normalized`] path as servers compare them that do not look at case (Azure, IIS, Express), that drop spaces and
/// dots around a segment (Windows), and that know a suffix of the last one (`.json`: Rails, Django).
pub fn folded(path: &str) -> String {
    let mut folded = String::with_capacity(path.len());
    for segment in path.split('/') {
        let name = segment.trim_matches(|letter: char| letter.is_whitespace() || letter == '.');
        if !name.is_empty() {
            folded.push('/');
            folded.extend(name.chars().map(|letter| letter.to_ascii_lowercase()));
        }
    }
    let last = folded.rfind('/').unwrap_or(0);
    if let Some(dot) = folded[last..].find('.') {
        folded.truncate(last + dot);
        folded.truncate(folded.trim_end().len());
    }
    folded
}

/// What stands for itself, everywhere.
const PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let mut byte = 0;
    while byte < 128u8 {
        plain[byte as usize] = matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'~' | b':');
        byte += 1;
    }
    plain
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_two_servers_could_read_differently_are_refused() {
        for (paths, why) in [
            (
                &[
                    "/..",
                    "/.",
                    "/a/../b",
                    "/a/./b",
                    "/a/.%2E/b",
                    "/%2e%2E",
                    "/%2e/a",
                    "/a/..;x/b",
                    "/..;/b",
                    "/.;a=b",
                    "/%2e%2e;x",
                    "/a/..%20/b",
                    "/%20.%2e/b",
                    "/..%3bx",
                    "/a/b/..",
                    "/a%2e/../b",
                ][..],
                DOT_SEGMENT,
            ),
            (
                &[
                    "/a\\..\\b",
                    "/v1\\chat",
                    "/v1/chat%2fcompletions",
                    "/v1/chat%2Fcompletions",
                    "/v1/..%2f..",
                    "/chat%5Ccompletions",
                    "/%5c",
                    "/v1/files%3f/x",
                    "/v1/files%23",
                    "/v1/files#x",
                ],
                DELIMITER,
            ),
            (
                &[
                    "/%252e%252e/a",
                    "/%25252f",
                    "/%255c",
                    "/a%252F",
                    "/ch%2561t",
                    "/%25%32%65",
                    "/%25u002f",
                    "/%25%75002e",
                ],
                TWICE,
            ),
            (&["/a%00", "/a\0", "/v1/cha%09t", "/a%0d%0ab", "/a%7F", "/a%c2%85"], CONTROL),
            (&["/%", "/a%2", "/%zz", "/%u002e", "/%c0%ae%c0%ae/a", "/%c0%af", "/%e0%80%af", "/%ff", "/%+1"], BROKEN),
        ] {
            for path in paths {
                assert_eq!(normalized(path), Err(why), "{path}");
                assert_eq!(plain_tail(path), None, "{path}");
            }
        }
    }

    #[test]
    fn other_paths_lose_what_servers_overlook() {
        for (path, normal) in [
            ("/", "/"),
            ("/a.../b/..c/....", "/a.../b/..c/...."),
            ("//a//b/", "//a//b/"),
            ("/a;x=1/b;y", "/a/b"),
            ("/a/;x/b/;", "/a/b"),
            ("/a%3bx/%61%2D%7e%2E5/%20b", "/a/a-~.5/ b"),
            ("/100%25/%e5%A4%AA", "/100%/太"),
            ("/a%25-1%252", "/a%-1%2"),
        ] {
            assert_eq!(normalized(path).as_deref(), Ok(normal), "{path}");
        }
        assert_eq!(folded("//Chat /. /completions.JSON"), "/chat/completions");
        assert_eq!(folded("/gpt-4.1. /x"), "/gpt-4.1/x");
        assert_eq!(folded("/"), "");
    }

    /// What takes the short way is the same on the long one.
    #[test]
    fn a_plain_path_has_the_tail_of_its_folded_form() {
        for path in
            ["", "/", "/v1/chat/completions", "//openai//deployments/gpt-4.1/chat//completions//", "/a/b/c/d/e/f/g"]
        {
            let long = folded(&normalized(path).expect("plain"));
            assert_eq!(plain_tail(path), Some(tail(&long)), "{path}");
        }
        for path in ["/A", "/a%20", "/a.", "/a./b", "/.a/b", "/a.json", "/a.json/", "/a;b", "/é", "/a b", "/a+b"] {
            assert_eq!(plain_tail(path), None, "{path}");
        }
    }
}
