//! Percent-encoding (RFC 3986 §2.1), both ways.

use std::fmt::Write as _;

/// The text of an encoded one; `None` where an escape is broken or the result is not UTF-8. A `+` stays what it is:
/// only in a form's encoding it is a space.
pub fn decode(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        out.push(if byte == b'%' { digit(bytes.next()?)? << 4 | digit(bytes.next()?)? } else { byte });
    }
    String::from_utf8(out).ok()
}

/// A text with all escaped but what stands for itself everywhere (RFC 3986 §2.3).
pub fn encode<T: AsRef<[u8]> + ?Sized>(text: &T) -> String {
    let mut out = String::new();
    for &byte in text.as_ref() {
        match byte {
            b'-' | b'.' | b'_' | b'~' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => out.push(char::from(byte)),
            _ => write!(out, "%{byte:02X}").expect("writing to a string cannot fail"),
        }
    }
    out
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).map(|digit| digit as u8)
}

#[cfg(test)]
mod tests {
    use super::{decode, encode};

    #[test]
    fn whole_escapes_of_utf_8_only() {
        assert_eq!(decode("a+b%2B%e5%A4%AA").as_deref(), Some("a+b+太"));
        for broken in ["%", "%4", "%zz", "a%+1", "%ff"] {
            assert_eq!(decode(broken), None, "{broken}");
        }
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        assert_eq!(encode("a-._~ +&=?#\"<太"), "a-._~%20%2B%26%3D%3F%23%22%3C%E5%A4%AA");
        assert_eq!(decode(&encode("<b>太郎</b> & 100%")).as_deref(), Some("<b>太郎</b> & 100%"));
    }
}
