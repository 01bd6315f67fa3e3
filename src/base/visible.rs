//! Names as they may be shown: what would steer a terminal, or turn the direction in which a line is read, is written
//! out.

use std::borrow::Cow;
use std::fmt::Write as _;

/// What steers a terminal, ends a line or changes the order in which it is read (Unicode's bidirectional controls). All
/// are below 2¹⁶.
pub fn steers(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{61c}' | '\u{feff}')
        || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The text with each such character as an escape, `\u202e`, as in the log. Two texts that differ are shown
/// differently: where one has an escape of its own, its backslashes are doubled.
pub fn visible(text: &str) -> Cow<'_, str> {
    if !text.contains(steers) && !text.contains("\\u") {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() * 2);
    for c in text.chars() {
        match c {
            '\\' => shown.push_str("\\\\"),
            c if steers(c) => write!(shown, "\\u{:04x}", u32::from(c)).expect("writing into memory cannot fail"),
            c => shown.push(c),
        }
    }
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_steers_is_written_out_and_nothing_else() {
        for (text, shown) in [
            ("太郎", "太郎"),
            ("DOMAIN\\name", "DOMAIN\\name"),
            ("\u{1b}[2J\u{202e}\u{61c}a\n", "\\u001b[2J\\u202e\\u061ca\\u000a"),
            ("\\u202e", "\\\\u202e"),
            ("\u{202e}\\", "\\u202e\\\\"),
        ] {
            assert_eq!(visible(text), shown);
        }
    }

    proptest! {
        /// No two names are shown as one.
        #[test]
        fn names_that_differ_are_shown_differently(one in "[\\\\u0-9\u{202e}a\u{1b}]{0,8}", other in "[\\\\u0-9\u{202e}a\u{1b}]{0,8}") {
            prop_assert_eq!(one == other, visible(&one) == visible(&other));
            prop_assert!(!visible(&one).contains(steers));
        }
    }
}
