//! Where settings come from: the environment, then `.env`; secrets also from files of their own. Collects every problem
//! on the way, so that an operator sees all of them at once.

use super::{secret, unknown, value};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io::Read;
use std::ops::RangeInclusive;
use std::path::PathBuf;

/// One thing that is wrong with the configuration. Its text never holds a secret's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The variable, or `.env` where the file itself is at fault.
    pub variable: &'static str,
    /// Where in that file.
    pub line: Option<usize>,
    /// What it must be and what it is.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.variable, self.message),
            None => write!(f, "{}: {}", self.variable, self.message),
        }
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

/// A file's text a line at a time, and how many have been given.
struct Lines<'t> {
    rest: &'t [u8],
    given: &'t Cell<usize>,
}

impl Read for Lines<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let end = memchr::memchr(b'\n', self.rest).map_or(self.rest.len(), |at| at + 1).min(into.len());
        into[..end].copy_from_slice(&self.rest[..end]);
        let is_whole = self.rest[..end].last() == Some(&b'\n') || (end > 0 && end == self.rest.len());
        self.given.set(self.given.get() + usize::from(is_whole));
        self.rest = &self.rest[end..];
        Ok(end)
    }
}

/// A name in `.env`: its value, and its line.
struct Entry {
    value: String,
    line: usize,
}

/// Settings by name, and the problems found so far.
pub(super) struct Source<'a> {
    env: &'a dyn Fn(&str) -> Option<OsString>,
    dotenv: BTreeMap<String, Entry>,
    /// Every name that was looked for: those that there are.
    asked: RefCell<BTreeSet<&'static str>>,
    pub problems: Vec<Problem>,
    /// What is no mistake, and probably not meant.
    pub warnings: Vec<String>,
}

impl<'a> Source<'a> {
    /// `dotenv` is the text of a `.env` file.
    pub fn new(env: &'a dyn Fn(&str) -> Option<OsString>, dotenv: &str) -> Self {
        let asked = RefCell::default();
        let mut source = Self { env, dotenv: BTreeMap::new(), asked, problems: Vec::new(), warnings: Vec::new() };
        // The iterator does not skip a byte order mark by itself.
        let text = without_substitution(dotenv.trim_start_matches('\u{feff}'));
        let (given, lines) = (Cell::new(0), text.lines().collect::<Vec<_>>());
        let mut entries = dotenvy::Iter::new(Lines { rest: text.as_bytes(), given: &given });
        loop {
            let before = given.get();
            let Some(entry) = entries.next() else { return source };
            // Where it begins: comments may stand before it, and a value in quotes may have more lines than one.
            let is_blank = |line: &&str| line.trim().is_empty() || line.trim_start().starts_with('#');
            let line = 1 + before + lines[before..].iter().take_while(|line| is_blank(line)).count();
            match entry {
                Ok((name, value)) => source.put(name, Entry { value: value.replace(DOLLAR, "$"), line }),
                // The error's own text repeats the line, which may hold a key: say where it is instead.
                Err(_) => source.problem_at(line, "expected NAME=value, got something else".to_owned()),
            }
        }
    }

    fn put(&mut self, name: String, entry: Entry) {
        match self.dotenv.get(&name) {
            Some(first) => {
                let why = format!("{} is set twice, in line {} already", shown_name(&name), first.line);
                self.problem_at(entry.line, why);
            }
            None => _ = self.dotenv.insert(name, entry),
        }
    }

    pub fn problem(&mut self, variable: &'static str, message: String) {
        self.problems.push(Problem { variable, line: None, message });
    }

    fn problem_at(&mut self, line: usize, message: String) {
        self.problems.push(Problem { variable: ".env", line: Some(line), message });
    }

    /// To be called when all settings have been looked for: what else `.env` holds is a mistake, and what else in the
    /// environment looks like one of them may be one.
    pub fn finish(&mut self, environment: &[String]) {
        let asked = self.asked.take();
        let unknown = self.dotenv.iter().filter(|(name, _)| !asked.contains(name.as_str()));
        let told: Vec<_> = unknown.map(|(name, entry)| (entry.line, why_unknown(name, &asked))).collect();
        told.into_iter().for_each(|(line, why)| self.problem_at(line, why));
        let misses = environment.iter().filter_map(|name| Some((name, unknown::near_miss(name, &asked)?)));
        self.warnings
            .extend(misses.map(|(name, near)| format!("{name} of the environment is unknown; did you mean {near}?")));
    }

    /// The value as it is; an empty one counts as none.
    pub fn os(&self, name: &'static str) -> Option<OsString> {
        self.asked.borrow_mut().insert(name);
        let from_env = (self.env)(name).filter(|value| !value.is_empty());
        let from_file = || self.dotenv.get(name).filter(|entry| !entry.value.is_empty());
        from_env.or_else(|| from_file().map(|entry| OsString::from(&entry.value)))
    }

    /// A secret, and the variable that it comes from: its own, the one that names a file with it (`file`), or its own
    /// where it is one of systemd's credentials (systemd.exec(5)), which are files named like the variable, in capitals
    /// or in small letters.
    pub fn secret(&mut self, name: &'static str, file: &'static str) -> Option<(String, &'static str)> {
        let value = self.os(name).map(|value| Ok(value.to_string_lossy().into_owned()));
        let named = self.os(file).map(PathBuf::from);
        let folder = (self.env)("CREDENTIALS_DIRECTORY").map(PathBuf::from);
        let credentials = [name.to_owned(), name.to_ascii_lowercase()];
        let credentials = credentials.iter().filter_map(|name| Some(folder.as_ref()?.join(name)));
        let credentials = credentials.filter(|path| path.symlink_metadata().is_ok());
        let mut places: Vec<(&'static str, String, Result<String, String>)> = Vec::new();
        places.extend(value.map(|value| (name, name.to_owned(), value)));
        places.extend(named.map(|path| (file, file.to_owned(), secret::read(&path))));
        places
            .extend(credentials.map(|path| (name, format!("the credential {}", path.display()), secret::read(&path))));
        match places.len() {
            0 => return None,
            1 => {}
            _ => {
                let all: Vec<_> = places.iter().map(|(_, place, _)| place.as_str()).collect();
                self.problem(name, format!("expected one place for it, got {}", all.join(" and ")));
                return None;
            }
        }
        let (variable, place, value) = places.remove(0);
        match value {
            Ok(value) => Some((value, variable)),
            Err(why) => {
                let of_credential = if place == variable { String::new() } else { format!("{place}: ") };
                self.problem(variable, format!("expected a file with the secret alone, got {of_credential}{why}"));
                None
            }
        }
    }

    /// Which of several spellings of a name counts: the first that is set in the environment, else in the file.
    pub fn spelling(&self, names: [&'static str; 2]) -> Option<&'static str> {
        self.asked.borrow_mut().extend(names);
        let in_env = |name: &&str| (self.env)(name).is_some_and(|value| !value.is_empty());
        let in_file = |name: &&str| self.dotenv.get(*name).is_some_and(|entry| !entry.value.is_empty());
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

/// What is wrong with a name in `.env`.
fn why_unknown(name: &str, known: &BTreeSet<&'static str>) -> String {
    match unknown::nearest(name, known) {
        Some(near) => format!("unknown {name}; did you mean {near}?"),
        None => format!("unknown {}; .env.example lists all names", shown_name(name)),
    }
}

/// A name in `.env`. One that does not look like a variable's is not repeated: a line of a key may pass for it.
fn shown_name(name: &str) -> &str {
    let is_letter = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
    if name.bytes().all(is_letter) { name } else { "name (not shown)" }
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
