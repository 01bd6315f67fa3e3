//! A value that no log, error or debug print may show.

use std::fmt;

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

    /// The same behind the name of its scheme, as an `Authorization` has it.
    pub(super) fn after(&self, scheme: &str) -> Self {
        Self(format!("{scheme}{}", self.0).into())
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
