//! A value that no log, error or debug print may show.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

/// The largest file with a secret, bytes.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// What is in a file with a secret alone, without the line end after it; or what the file is instead, without a word of
/// what is in it.
pub(super) fn read(path: &Path) -> Result<String, String> {
    // A key that was put where its file's name belongs is not repeated.
    let shown =
        if path.is_absolute() { path.display().to_string() } else { "a file (its name is not shown)".to_owned() };
    let open = |path: &Path| -> io::Result<(bool, Vec<u8>)> {
        // Of a pipe nobody knows when something comes.
        if !path.metadata()?.is_file() {
            return Ok((false, Vec::new()));
        }
        let mut bytes = Vec::new();
        File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
        Ok((true, bytes))
    };
    let bytes = match open(path) {
        Ok((true, bytes)) => bytes,
        Ok((false, _)) => return Err(format!("{shown}, which is no regular file")),
        Err(error) => return Err(format!("{shown}: {error}")),
    };
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("{shown}, which has more than 64 KiB"));
    }
    let Ok(text) = String::from_utf8(bytes) else { return Err(format!("{shown}, which is not UTF-8")) };
    let line = text.strip_suffix('\n').map(|line| line.strip_suffix('\r').unwrap_or(line));
    match line.unwrap_or(&text) {
        "" => Err(format!("{shown}, which is empty")),
        secret => Ok(secret.to_owned()),
    }
}

/// A secret. It prints as `[redacted]`; only [`Secret::expose`] gives it away.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<str>);

impl Secret {
    /// Wraps a value that is safe in a header: visible ASCII only, so that no line can be smuggled in with it.
    pub(super) fn parse(value: &str) -> Result<Self, &'static str> {
        if value.bytes().all(|byte| byte.is_ascii_graphic()) {
            Ok(Self(value.into()))
        } else {
            Err("the key alone: visible ASCII characters, without spaces and without \"Bearer\"")
        }
    }

    /// Wraps a value that goes into no header.
    pub(super) fn text(value: &str) -> Self {
        Self(value.into())
    }

    /// The same behind the name of its scheme, as an `Authorization` has it.
    pub(super) fn after(&self, scheme: &str) -> Self {
        Self(format!("{scheme}{}", self.0).into())
    }

    /// As an `Authorization` has a key (RFC 6750).
    pub fn after_bearer(&self) -> Self {
        self.after("Bearer ")
    }

    /// The secret itself, to be sent where it belongs.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_header_can_carry() {
        assert_eq!(Secret::parse("sk-a_B~!").unwrap().expose(), "sk-a_B~!");
        for value in ["Bearer sk-1", "sk\n1", "sk\r\nx: y", "sk-\u{7f}", "sk-é", "sk-1\t"] {
            assert!(Secret::parse(value).is_err(), "{value:?}");
        }
    }

    #[test]
    fn prints_say_nothing() {
        let secret = Secret::parse("sk-1234").unwrap();
        assert_eq!(format!("{secret} {secret:?} {:?}", Some(&secret)), "[redacted] [redacted] Some([redacted])");
    }
}
