//! A line of the log, as logfmt or as a JSON object: names, values, and what must be escaped in them.
//!
//! In: an instant, a level, a message and values. Out: one line, whatever a user or a model is called: no value can end
//! it, hide a part of it or steer a terminal.

use crate::base::civil::write_rfc3339;
use crate::base::digits::write_signed_decimal;
use crate::base::log::{Level, LogFormat};
use crate::base::visible::steers;
use std::fmt::Display;
use std::io::Write as _;

/// Digits of a second in a line's time.
const FRACTION_DIGITS: u32 = 3;

/// Maximum of a text value; what is longer is cut.
const TEXT_BYTES_MAX: usize = 1024;

/// A value of a line.
#[derive(Clone, Copy, Debug)]
pub enum Value<'a> {
    Text(&'a str),
    Number(u64),
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(text)
    }
}

impl From<usize> for Value<'_> {
    fn from(number: usize) -> Self {
        Self::Number(number as u64)
    }
}

/// A line under construction, at the end of `out`. It is whole after [`Line::end`].
pub struct Line<'a> {
    out: &'a mut Vec<u8>,
    format: LogFormat,
}

impl<'a> Line<'a> {
    /// Begins it with `ts`, `level` and `msg`. `unix_ns` in nanoseconds since the Unix epoch.
    pub fn begin(out: &'a mut Vec<u8>, format: LogFormat, unix_ns: u64, level: Level, message: &str) -> Self {
        let (before, after): (&[u8], &[u8]) = match format {
            LogFormat::Logfmt => (b"ts=", b""),
            LogFormat::Json => (b"{\"ts\":\"", b"\""),
        };
        out.extend_from_slice(before);
        write_rfc3339(out, unix_ns, FRACTION_DIGITS);
        out.extend_from_slice(after);
        let mut line = Self { out, format };
        line.text("level", level.as_str());
        line.text("msg", message);
        line
    }

    /// A text value.
    pub fn text(&mut self, name: &str, value: &str) {
        let value = &value[..value.floor_char_boundary(TEXT_BYTES_MAX)];
        self.name(name);
        if self.format == LogFormat::Json || needs_quotes(value) {
            write_quoted(self.out, value);
        } else {
            self.out.extend_from_slice(value.as_bytes());
        }
    }

    /// A number, or `true` or `false`, in the digits that it prints.
    pub fn number(&mut self, name: &str, value: impl Display) {
        self.name(name);
        write!(self.out, "{value}").expect("writing into memory cannot fail");
    }

    /// `value` × 10^-`scale`.
    pub fn decimal(&mut self, name: &str, value: impl Into<i128>, scale: u32) {
        self.name(name);
        write_signed_decimal(self.out, value.into(), scale);
    }

    /// A text or a number.
    pub fn value(&mut self, name: &str, value: Value<'_>) {
        match value {
            Value::Text(text) => self.text(name, text),
            Value::Number(number) => self.number(name, number),
        }
    }

    /// Ends it.
    pub fn end(self) {
        if self.format == LogFormat::Json {
            self.out.push(b'}');
        }
        self.out.push(b'\n');
    }

    fn name(&mut self, name: &str) {
        let (before, after): (&[u8], &[u8]) = match self.format {
            LogFormat::Logfmt => (b" ", b"="),
            LogFormat::Json => (b",\"", b"\":"),
        };
        for part in [before, name.as_bytes(), after] {
            self.out.extend_from_slice(part);
        }
    }
}

/// True for what a reader of logfmt would not take for one whole value.
fn needs_quotes(value: &str) -> bool {
    let breaks = |c: char| matches!(c, '"' | '=' | '\\') || c.is_whitespace() || steers(c);
    value.is_empty() || value.contains(breaks)
}

/// As a JSON string (RFC 8259 §7), which readers of logfmt understand too.
fn write_quoted(out: &mut Vec<u8>, value: &str) {
    out.push(b'"');
    for c in value.chars() {
        match c {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            '\n' => out.extend_from_slice(b"\\n"),
            '\r' => out.extend_from_slice(b"\\r"),
            '\t' => out.extend_from_slice(b"\\t"),
            // All of them are below 2^16: one escape, no surrogates.
            c if steers(c) => write!(out, "\\u{:04x}", u32::from(c)).expect("writing into memory cannot fail"),
            c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn line(format: LogFormat, value: &str) -> String {
        let mut out = Vec::new();
        let mut line = Line::begin(&mut out, format, 1_795_426_200_123_456_789, Level::Warn, "it is so");
        line.text("user", value);
        line.number("count", 3);
        line.number("stream", true);
        line.end();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn both_formats() {
        let logfmt = "ts=2026-11-23T09:30:00.123Z level=warn msg=\"it is so\" user=太郎 count=3 stream=true\n";
        assert_eq!(line(LogFormat::Logfmt, "太郎"), logfmt);
        let json = "{\"ts\":\"2026-11-23T09:30:00.123Z\",\"level\":\"warn\",\"msg\":\"it is so\",\"user\":\"太郎\",\
                    \"count\":3,\"stream\":true}\n";
        assert_eq!(line(LogFormat::Json, "太郎"), json);
    }

    #[test]
    fn what_would_mislead_is_escaped() {
        for (value, written) in [
            ("", r#"user="" "#),
            ("a b", r#"user="a b" "#),
            ("a=b", r#"user="a=b" "#),
            ("\"", r#"user="\"" "#),
            ("\\", r#"user="\\" "#),
            ("a\nlevel=error", r#"user="a\nlevel=error" "#),
            ("\u{1b}[2J\u{9b}2J", r#"user="\u001b[2J\u009b2J" "#),
            ("\u{202e}kcatta", r#"user="\u202ekcatta" "#),
        ] {
            let line = line(LogFormat::Logfmt, value);
            assert!(line.contains(written), "{value:?}: {line}");
        }
    }

    proptest! {
        #[test]
        fn any_value_is_one_line_and_comes_back(value in "\\PC{0,40}|.{0,40}|[\\x00-\\x7f]{0,20}") {
            for format in [LogFormat::Logfmt, LogFormat::Json] {
                let line = line(format, &value);
                prop_assert_eq!(line.matches('\n').count(), 1);
                let whole = line.trim_end_matches('\n');
                prop_assert!(!whole.chars().any(steers));
                let back = match format {
                    LogFormat::Json => {
                        let object: serde_json::Value = serde_json::from_str(whole).unwrap();
                        object["user"].as_str().unwrap().to_owned()
                    }
                    LogFormat::Logfmt => {
                        let written = whole.split_once(" user=").unwrap().1.strip_suffix(" count=3 stream=true").unwrap();
                        match written.starts_with('"') {
                            true => serde_json::from_str(written).unwrap(),
                            false => written.to_owned(),
                        }
                    }
                };
                prop_assert_eq!(back, value.clone());
            }
        }
    }
}
