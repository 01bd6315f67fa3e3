//! Percent-encoding (RFC 3986 §2.1), decoded.

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

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).map(|digit| digit as u8)
}

#[cfg(test)]
mod tests {
    use super::decode;

    #[test]
    fn whole_escapes_of_utf_8_only() {
        assert_eq!(decode("a+b%2B%e5%A4%AA").as_deref(), Some("a+b+太"));
        for broken in ["%", "%4", "%zz", "a%+1", "%ff"] {
            assert_eq!(decode(broken), None, "{broken}");
        }
    }
}
