//! JSON laid out for a person: a line for each member, every digit and every byte of text as it was.

/// Spaces of one level.
const INDENT: usize = 2;

/// Lays out a valid document without white space between its tokens.
pub fn pretty(json: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(json.len() * 2);
    let (mut depth, mut in_text, mut escaped) = (0, false, false);
    for (place, &byte) in json.iter().enumerate() {
        if in_text {
            out.push(byte);
            in_text = escaped || byte != b'"';
            escaped = byte == b'\\' && !escaped;
            continue;
        }
        let is_empty = place > 0 && matches!(json[place - 1], b'{' | b'[');
        match byte {
            b'}' | b']' => {
                depth -= 1;
                if !is_empty {
                    new_line(&mut out, depth);
                }
                out.push(byte);
                continue;
            }
            _ if is_empty => new_line(&mut out, depth),
            _ => {}
        }
        out.push(byte);
        match byte {
            b'{' | b'[' => depth += 1,
            b',' => new_line(&mut out, depth),
            b':' => out.push(b' '),
            b'"' => in_text = true,
            _ => {}
        }
    }
    out
}

fn new_line(out: &mut Vec<u8>, depth: usize) {
    out.push(b'\n');
    out.resize(out.len() + depth * INDENT, b' ');
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_line_for_each_member() {
        let json = br#"{"a":[],"b":{},"c":[1,{"d":"e,\"{}[]\\"}],"f":0.000000001}"#;
        let laid_out = "{\n  \"a\": [],\n  \"b\": {},\n  \"c\": [\n    1,\n    {\n      \"d\": \"e,\\\"{}[]\\\\\"\n    }\n  \
                        ],\n  \"f\": 0.000000001\n}";
        assert_eq!(std::str::from_utf8(&pretty(json)), Ok(laid_out));
        assert_eq!(pretty(b"{}\n"), b"{}\n");
    }

    proptest! {
        #[test]
        fn any_text_stays_what_it_is(text in ".{0,40}") {
            let value = serde_json::json!([{"a": text}, text]);
            let laid_out = pretty(value.to_string().as_bytes());
            prop_assert_eq!(serde_json::from_slice::<serde_json::Value>(&laid_out).unwrap(), value);
        }
    }
}
