//! Where settings come from: the environment, then `.env`. Collects every problem on the way, so that an operator
//! sees all of them at once.

use super::value;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::ops::RangeInclusive;
use std::path::PathBuf;

/// One thing that is wrong with the configuration. Its text never holds a secret's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The variable, or `.env` where the file itself is at fault.
    pub variable: &'static str,
    /// What it must be and what it is.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.variable, self.message)
    }
}

/// How much of a wrong value a problem repeats, in characters.
const SHOWN_MAX: usize = 80;

/// Stands for a dollar sign while a `.env` file is read: one of Unicode's characters that nobody else uses.
const DOLLAR: char = '\u{10fffd}';

/// A `.env` file in which a dollar sign is a character like any other: of a secret that begins with one, substitution
/// would leave nothing. One that is escaped is so already.
fn without_substitution(dotenv: &str) -> String {
    let mut escaped = false;
    let replace = |letter: char| {
        let was_escaped = escaped;
        escaped = letter == '\\' && !was_escaped;
        if letter == '$' && !was_escaped { DOLLAR } else { letter }
    };
    dotenv.chars().map(replace).collect()
}

/// Settings by name, and the problems found so far.
pub(super) struct Source<'a> {
    env: &'a dyn Fn(&str) -> Option<OsString>,
    dotenv: BTreeMap<String, String>,
    pub problems: Vec<Problem>,
}

impl<'a> Source<'a> {
    /// `dotenv` is the text of a `.env` file. Of a name set twice in it the first counts, as with dotenvy's own loader.
    pub fn new(env: &'a dyn Fn(&str) -> Option<OsString>, dotenv: &str) -> Self {
        let mut source = Self { env, dotenv: BTreeMap::new(), problems: Vec::new() };
        let mut before = None;
        // The iterator does not skip a byte order mark by itself.
        let text = without_substitution(dotenv.trim_start_matches('\u{feff}'));
        for entry in dotenvy::Iter::new(text.as_bytes()) {
            match entry {
                Ok((name, value)) => {
                    before = Some(name.clone());
                    source.dotenv.entry(name).or_insert(value.replace(DOLLAR, "$"));
                }
                // The error's own text repeats the line, which may hold a key: say where it is instead.
                Err(_) => source.problem(
                    ".env",
                    match &before {
                        Some(name) => format!("expected NAME=value lines, got something else after {name}"),
                        None => "expected NAME=value lines, got something else at its beginning".to_owned(),
                    },
                ),
            }
        }
        source
    }

    pub fn problem(&mut self, variable: &'static str, message: String) {
        self.problems.push(Problem { variable, message });
    }

    /// The value as it is; an empty one counts as none.
    pub fn os(&self, name: &str) -> Option<OsString> {
        let from_env = (self.env)(name).filter(|value| !value.is_empty());
        from_env.or_else(|| self.dotenv.get(name).filter(|value| !value.is_empty()).map(OsString::from))
    }

    /// Which of several spellings of a name counts: the first that is set in the environment, else in the file.
    pub fn spelling(&self, names: [&'static str; 2]) -> Option<&'static str> {
        let in_env = |name: &&str| (self.env)(name).is_some_and(|value| !value.is_empty());
        let in_file = |name: &&str| self.dotenv.get(*name).is_some_and(|value| !value.is_empty());
        names.into_iter().find(in_env).or_else(|| names.into_iter().find(in_file))
    }

    /// The value that `parse` makes of the text; none, with a problem noted, where it makes none.
    pub fn optional<T>(
        &mut self,
        name: &'static str,
        expected: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let raw = self.os(name)?;
        let value = raw.to_str().and_then(parse);
        if value.is_none() {
            self.problem(name, format!("expected {expected}, got {}", shown(&raw.to_string_lossy())));
        }
        value
    }

    /// What is in the file that is named; none, with a problem noted, where it cannot be read.
    pub fn file(&mut self, name: &'static str, expected: &str) -> Option<Vec<u8>> {
        let path = PathBuf::from(self.os(name)?);
        match fs::read(&path) {
            Ok(bytes) => Some(bytes),
            Err(error) => {
                self.problem(name, format!("expected {expected}, got {}: {error}", path.display()));
                None
            }
        }
    }

    /// A value as `parse` makes it, with a default.
    pub fn value<T>(
        &mut self,
        name: &'static str,
        default: T,
        expected: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> T {
        self.optional(name, expected, parse).unwrap_or(default)
    }

    /// What one of the words means.
    pub fn word<T: Copy>(&mut self, name: &'static str, default: T, words: &[(&str, T)]) -> T {
        let list = words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ");
        let expected = list.rsplit_once(", ").map_or(list.clone(), |(most, last)| format!("{most} or {last}"));
        let meaning = |text: &str| words.iter().find(|(word, _)| *word == text).map(|&(_, meaning)| meaning);
        self.value(name, default, &expected, meaning)
    }

    /// `true` or `false`.
    pub fn switch(&mut self, name: &'static str, default: bool) -> bool {
        self.word(name, default, &[("true", true), ("false", false)])
    }

    /// A whole number within bounds.
    pub fn count(&mut self, name: &'static str, default: u32, range: RangeInclusive<u32>) -> u32 {
        let expected = format!("a whole number, {} to {}", range.start(), range.end());
        self.value(name, default, &expected, |text| value::number(text).filter(|number| range.contains(number)))
    }
}

/// A value as a problem repeats it: quoted, escaped and cut. What stands before an `@` may be a password, what comes in
/// a query or after `sk-` a key that was put in the wrong place.
fn shown(value: &str) -> String {
    if value.contains('@') {
        return "a value with a user or password (not shown)".to_owned();
    }
    if value.contains('?') || value.contains("sk-") {
        return "a value that may hold a key (not shown)".to_owned();
    }
    match value.char_indices().nth(SHOWN_MAX) {
        Some((end, _)) => format!("{:?}… ({} bytes)", &value[..end], value.len()),
        None => format!("{value:?}"),
    }
}
