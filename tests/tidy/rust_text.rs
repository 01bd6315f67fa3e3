//! Reads Rust as text for the rules of `tidy`: words, marks and lines, then paths, test modules and functions.
//!
//! In: a source text that the compiler accepts. Out: what the rules ask about, with line numbers. Knows literals,
//! comments, braces, `mod` and `use`, and nothing of types or macros: it is a tokeniser, never a parser.

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind<'a> {
    Word(&'a str),
    /// `::`
    Colons,
    Mark(char),
}

#[derive(Clone, Copy, Debug)]
pub struct Token<'a> {
    /// From 1.
    pub line: usize,
    pub kind: Kind<'a>,
}

/// Words and marks of a source text; comments, strings and characters are left out.
pub fn tokens(text: &str) -> Vec<Token<'_>> {
    let (mut out, mut at, mut line) = (Vec::new(), 0, 1);
    while at < text.len() {
        let rest = &text[at..];
        let (kind, length) = next_token(rest);
        if let Some(kind) = kind {
            out.push(Token { line, kind });
        }
        line += rest[..length].matches('\n').count();
        at += length;
    }
    out
}

/// The token at the start of `rest` (`None` for space, comments and literals) and how many bytes it takes.
fn next_token(rest: &str) -> (Option<Kind<'_>>, usize) {
    let first = rest.chars().next().expect("not at the end");
    let word = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
    if rest.starts_with("//") {
        return (None, rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return (None, block_comment(rest));
    }
    if matches!(&rest[..word], "" | "r" | "b" | "br" | "c" | "cr") {
        let raw = rest[..word].contains('r');
        let hashes = if raw { rest[word..].len() - rest[word..].trim_start_matches('#').len() } else { 0 };
        if rest[word + hashes..].starts_with('"') {
            return (None, word + hashes + string(&rest[word + hashes..], raw, hashes));
        }
    }
    match first {
        '\'' => (None, character(rest)),
        _ if word > 0 => (Some(Kind::Word(&rest[..word])), word),
        _ if rest.starts_with("::") => (Some(Kind::Colons), 2),
        _ if first.is_whitespace() => (None, first.len_utf8()),
        _ => (Some(Kind::Mark(first)), first.len_utf8()),
    }
}

/// Length of a block comment, which may nest.
fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        let step = &rest.as_bytes()[at..];
        match (step.starts_with(b"/*"), step.starts_with(b"*/")) {
            (true, _) => (depth, at) = (depth + 1, at + 2),
            (_, true) => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

/// Length of a string literal from its opening quote.
fn string(rest: &str, raw: bool, hashes: usize) -> usize {
    let close = format!("\"{}", "#".repeat(hashes));
    let bytes = rest.as_bytes();
    let mut at = 1;
    while at < bytes.len() && !bytes[at..].starts_with(close.as_bytes()) {
        at += if bytes[at] == b'\\' && !raw { 2 } else { 1 };
    }
    (at + close.len()).min(bytes.len())
}

/// Length of a character literal from its quote; 1 for the quote of a lifetime.
fn character(rest: &str) -> usize {
    let mut chars = rest.char_indices().skip(1);
    match (chars.next(), chars.next()) {
        (Some((_, '\\')), Some((escaped, _))) => rest[escaped + 1..].find('\'').map_or(1, |end| escaped + 1 + end + 1),
        (Some(_), Some((close, '\''))) => close + 1,
        _ => 1,
    }
}

/// A path as written, groups of a `use` expanded: `use a::{b, c::*}` gives `a::b` and `a::c::*`.
pub struct PathUse {
    pub line: usize,
    pub segments: Vec<String>,
    /// How many `mod x { … }` of this file stand around it.
    pub inline_depth: usize,
    /// Directly after `use`.
    pub in_use: bool,
    /// Directly after `pub use`, or `pub(…) use`.
    pub re_exported: bool,
    /// `c` in `use a::b as c`.
    pub alias: Option<String>,
}

impl PathUse {
    /// The name by which an imported path is known from then on.
    pub fn name(&self) -> Option<&str> {
        let last = self.segments.last().map(String::as_str).filter(|_| self.in_use);
        self.alias.as_deref().or(last)
    }
}

/// Every path of a source, in order; a lone word is a path of one segment.
pub fn paths(tokens: &[Token]) -> Vec<PathUse> {
    let (mut out, mut at, mut depth, mut inline): (Vec<PathUse>, _, usize, Vec<usize>) = (Vec::new(), 0, 0, Vec::new());
    while at < tokens.len() {
        match tokens[at].kind {
            Kind::Word("mod") if tokens.get(at + 2).is_some_and(|t| t.kind == Kind::Mark('{')) => {
                inline.push(depth);
                at += 1;
            }
            Kind::Mark('{') => depth += 1,
            Kind::Mark('}') => {
                depth = depth.saturating_sub(1);
                inline.pop_if(|opened| *opened == depth);
            }
            Kind::Word(_) => {
                let in_use = at > 0 && tokens[at - 1].kind == Kind::Word("use");
                let before = at.checked_sub(2).map(|before| tokens[before].kind);
                let re_exported = in_use && matches!(before, Some(Kind::Word("pub") | Kind::Mark(')')));
                let first = out.len();
                at = expand(tokens, at, &[], &mut out);
                if in_use && kind_at(tokens, at) == Some(Kind::Word("as")) {
                    at = rename(tokens, at, &mut out);
                }
                for path in &mut out[first..] {
                    (path.inline_depth, path.in_use, path.re_exported) = (inline.len(), in_use, re_exported);
                }
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    out
}

fn kind_at<'a>(tokens: &[Token<'a>], at: usize) -> Option<Kind<'a>> {
    tokens.get(at).map(|token| token.kind)
}

/// Reads one path from its first word, after `prefix`; returns the position behind it.
fn expand(tokens: &[Token], mut at: usize, prefix: &[String], out: &mut Vec<PathUse>) -> usize {
    let mut segments = prefix.to_vec();
    let line = tokens[at].line;
    loop {
        match kind_at(tokens, at) {
            Some(Kind::Word(word)) => segments.push(word.to_string()),
            Some(Kind::Mark('*')) => segments.push(String::from("*")),
            _ => break,
        }
        at += 1;
        if kind_at(tokens, at) != Some(Kind::Colons) {
            break;
        }
        if kind_at(tokens, at + 1) == Some(Kind::Mark('{')) {
            at += 2;
            loop {
                at = match kind_at(tokens, at) {
                    None | Some(Kind::Mark('}')) => return at + 1,
                    Some(Kind::Word("as")) => rename(tokens, at, out),
                    Some(Kind::Word(_) | Kind::Mark('*')) => expand(tokens, at, &segments, out),
                    Some(_) => at + 1,
                };
            }
        }
        at += 1;
    }
    if segments.len() > 1 && segments.last().is_some_and(|last| last == "self") {
        segments.pop();
    }
    out.push(PathUse { line, segments, inline_depth: 0, in_use: false, re_exported: false, alias: None });
    at
}

/// Gives the path before an `as` the name behind it; returns the position behind both.
fn rename(tokens: &[Token], at: usize, out: &mut [PathUse]) -> usize {
    if let (Some(path), Some(Kind::Word(name))) = (out.last_mut(), kind_at(tokens, at + 1)) {
        path.alias = Some(name.to_string());
    }
    at + 2
}

/// `#[cfg(test)]`
const TEST_GATE: [Kind; 7] = [
    Kind::Mark('#'),
    Kind::Mark('['),
    Kind::Word("cfg"),
    Kind::Mark('('),
    Kind::Word("test"),
    Kind::Mark(')'),
    Kind::Mark(']'),
];

/// Positions of `#[cfg(test)] mod x` that go on with this mark, and the module's name.
fn gated_modules<'a>(tokens: &[Token<'a>], mark: char) -> Vec<(usize, &'a str)> {
    let gates = tokens.windows(TEST_GATE.len() + 3).enumerate().filter_map(|(at, window)| {
        let kinds: Vec<Kind> = window.iter().map(|t| t.kind).collect();
        let (gate, rest) = kinds.split_at(TEST_GATE.len());
        match rest {
            [Kind::Word("mod"), Kind::Word(name), last] if gate == TEST_GATE && *last == Kind::Mark(mark) => {
                Some((at, *name))
            }
            _ => None,
        }
    });
    gates.collect()
}

/// Token ranges of `#[cfg(test)] mod x { … }`, both ends included.
pub fn test_modules(tokens: &[Token]) -> Vec<(usize, usize)> {
    let gates = gated_modules(tokens, '{').into_iter();
    gates.map(|(from, _)| (from, closing(tokens, from + TEST_GATE.len() + 2))).collect()
}

/// Names of the modules that have a file and are built for tests only: `#[cfg(test)] mod x;`.
pub fn test_files<'a>(tokens: &[Token<'a>]) -> Vec<&'a str> {
    gated_modules(tokens, ';').into_iter().map(|(_, name)| name).collect()
}

/// The tokens outside `#[cfg(test)] mod x { … }`.
pub fn without_tests<'a>(tokens: &[Token<'a>]) -> Vec<Token<'a>> {
    let tests = test_modules(tokens);
    let kept = tokens.iter().enumerate().filter(|(at, _)| !tests.iter().any(|(from, to)| (from..=to).contains(&at)));
    kept.map(|(_, token)| *token).collect()
}

/// Position of the brace that closes the one at `open`.
fn closing(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.kind {
            Kind::Mark('{') => depth += 1,
            Kind::Mark('}') if depth == 1 => return at,
            Kind::Mark('}') => depth -= 1,
            _ => {}
        }
    }
    tokens.len() - 1
}

/// Every block that opens with this word: where the word stands, where its brace opens, and where that closes.
pub fn blocks(tokens: &[Token], word: &str) -> Vec<(usize, usize, usize)> {
    let found = (0..tokens.len()).filter(|&at| tokens[at].kind == Kind::Word(word)).filter_map(|at| {
        let mut depth = 0;
        let open = (at..tokens.len()).find(|&i| {
            match tokens[i].kind {
                Kind::Mark('(' | '[') => depth += 1,
                Kind::Mark(')' | ']') => depth -= 1,
                _ => {}
            }
            depth == 0 && matches!(tokens[i].kind, Kind::Mark('{' | ';'))
        })?;
        (tokens[open].kind == Kind::Mark('{')).then(|| (at, open, closing(tokens, open)))
    });
    found.collect()
}

/// Every function with a body: name, first line, number of lines.
pub fn functions(tokens: &[Token]) -> Vec<(String, usize, usize)> {
    let named = blocks(tokens, "fn").into_iter().filter_map(|(at, _, end)| match tokens[at + 1].kind {
        Kind::Word(name) => Some((name.to_string(), tokens[at].line, tokens[end].line - tokens[at].line + 1)),
        _ => None,
    });
    named.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<&str> {
        let word = |token: Token<'static>| match token.kind {
            Kind::Word(word) => Some(word),
            _ => None,
        };
        tokens(text.to_string().leak()).into_iter().filter_map(word).collect()
    }

    #[test]
    fn comments_and_literals_hold_no_words() {
        assert_eq!(words("a // b\n/* c /* d */ e */ f"), ["a", "f"]);
        assert_eq!(
            words(r####"g("h \" i", r"j\", r#"k " l"#, b"m", b'n', 'o', '\'', '\u{1F}', '"') p"####),
            ["g", "b", "p"]
        );
        assert_eq!(words("fn q<'r>(s: &'r str) {}"), ["fn", "q", "r", "s", "r", "str"]);
    }

    #[test]
    fn lines_are_counted_through_literals() {
        let all = tokens("a\n\"b\nc\"\n/* d\n */ e");
        assert_eq!(all.iter().map(|t| t.line).collect::<Vec<_>>(), [1, 5]);
    }

    #[test]
    fn groups_are_expanded() {
        let all = tokens("use a::{self, b::{c, d as e}, f::*};\nmod g { h::i(j::k::<l>()); }");
        let found: Vec<String> = paths(&all).iter().filter(|p| p.segments.len() > 1).map(written).collect();
        assert_eq!(found, ["1: a::b::c +0", "1: a::b::d +0", "1: a::f::* +0", "2: h::i +1", "2: j::k +1"]);
        assert!(paths(&all)[1].in_use && paths(&all)[1].segments == ["a"]);
    }

    #[test]
    fn imports_have_names() {
        let all = tokens("pub use a::{b, c as d};\npub(super) use e as f;\nuse g;\nfn h(x: u8) { x as u16 }");
        let all = paths(&all);
        let named: Vec<_> = all.iter().filter_map(|path| Some((path.name()?, path.re_exported))).collect();
        assert_eq!(named, [("b", true), ("d", true), ("f", true), ("g", false)]);
    }

    fn written(path: &PathUse) -> String {
        format!("{}: {} +{}", path.line, path.segments.join("::"), path.inline_depth)
    }

    #[test]
    fn functions_are_measured_to_their_brace() {
        let all = tokens("trait T { fn a(&self) -> [u8; 2]; }\nfn b(x: [u8; 2]) {\n if x { }\n}\nfn c() {}");
        assert_eq!(functions(&all), [("b".to_string(), 2, 3), ("c".to_string(), 5, 1)]);
    }

    #[test]
    fn test_modules_are_left_out() {
        let all = tokens("fn a() {}\n#[cfg(test)]\nmod tests {\n fn b() {}\n}\nmod c { fn d() {} }");
        let names: Vec<String> = functions(&without_tests(&all)).into_iter().map(|f| f.0).collect();
        assert_eq!(names, ["a", "d"]);
        assert_eq!(test_files(&tokens("#[cfg(test)]\nmod a;\nmod b;\n#[cfg(test)]\nmod c {}")), ["a"]);
    }
}
