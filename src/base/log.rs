//! What is reported to the operator: how important it is, and a line in the making.
//!
//! In: what happens in a core, as it happens. Out: [`Note`]s that the outside world writes down. Never: a write, a
//! clock, or the text of a prompt, an answer or a header. What the level leaves out costs one comparison.

use std::fmt::Display;

/// How important a line is; the order is that of the words below.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    #[default]
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl Level {
    /// Every level, the most important first.
    pub const ALL: [Self; 5] = [Self::Error, Self::Warn, Self::Info, Self::Debug, Self::Trace];

    /// As it is typed and written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }

    /// The level that is typed so.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.as_str() == text)
    }
}

/// How lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// `name=value name="a value"`
    #[default]
    Logfmt,
    /// `{"name":"value"}`
    Json,
}

/// One line: what happened, and with what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    pub level: Level,
    pub message: &'static str,
    pub fields: Vec<(&'static str, String)>,
}

impl Note {
    /// A line without fields.
    pub const fn new(level: Level, message: &'static str) -> Self {
        Self { level, message, fields: Vec::new() }
    }

    /// The same with one field more.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Display) -> Self {
        self.fields.push((name, value.to_string()));
        self
    }
}

/// Notes kept at most until they are taken: a turn of the loop has hardly ever as many.
const NOTES_MAX: usize = 1_024;

/// Notes taken since they were last asked for, of what the level lets in.
#[derive(Debug, Default)]
pub struct Notes {
    level: Level,
    taken: Vec<Note>,
}

impl Notes {
    /// From here on, notes up to this level are taken.
    pub fn set_level(&mut self, level: Level) {
        self.level = level;
    }

    /// Takes the note that `make` makes, which is not called where the level leaves it out.
    pub fn add(&mut self, level: Level, message: &'static str, make: impl FnOnce(Note) -> Note) {
        if level <= self.level && self.taken.len() < NOTES_MAX {
            self.taken.push(make(Note::new(level, message)));
        }
    }

    /// All of them, in order.
    pub fn take(&mut self) -> Vec<Note> {
        std::mem::take(&mut self.taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_ordered_and_read_as_they_are_written() {
        assert!(Level::ALL.is_sorted());
        for level in Level::ALL {
            assert_eq!(Level::parse(level.as_str()), Some(level));
        }
        assert_eq!(Level::parse("INFO"), None);
    }

    #[test]
    fn notes_are_taken_up_to_the_level_and_never_without_bound() {
        let mut notes = Notes::default();
        notes.add(Level::Warn, "unwanted", |_| panic!("not made"));
        notes.set_level(Level::Debug);
        notes.add(Level::Debug, "seen", |note| note.with("count", 3));
        notes.add(Level::Trace, "unwanted", |_| panic!("not made"));
        assert_eq!(notes.take(), [Note::new(Level::Debug, "seen").with("count", "3")]);
        (0..2 * NOTES_MAX).for_each(|_| notes.add(Level::Error, "again", |note| note));
        assert_eq!(notes.take().len(), NOTES_MAX);
        assert!(notes.take().is_empty());
    }
}
