//! Numbers as decimal digits: whole ones as they are read, and those of a small unit as they are written: microseconds
//! as seconds, nano-dollars as dollars.

/// The number that stands in decimal digits and nothing else; `None` for any other text, or beyond 64 bits.
pub fn whole_number(text: &[u8]) -> Option<u64> {
    let add = |number: u64, digit: &u8| {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit <= 9)?;
        number.checked_mul(10)?.checked_add(digit.into())
    };
    text.iter().try_fold(0, add).filter(|_| !text.is_empty())
}

/// An amount in US dollars with at most nine decimals, in nano-dollars; at most a hundred million dollars.
pub fn nano_usd(text: &str) -> Option<u64> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
    let digits = u32::try_from(decimals.len()).ok().filter(|&digits| digits <= 9)?;
    let whole = whole_number(whole.as_bytes())?.checked_mul(1_000_000_000)?;
    let nano_usd = whole.checked_add(whole_number(decimals.as_bytes())? * 10u64.pow(9 - digits))?;
    Some(nano_usd).filter(|&nano_usd| nano_usd <= 100_000_000 * 1_000_000_000)
}

/// Appends `value` × 10^-`scale`, exactly, without zeros at its end. `scale` is at most 18.
pub fn write_decimal(out: &mut Vec<u8>, value: u64, scale: u32) {
    let unit = 10u64.pow(scale);
    let mut digits = itoa::Buffer::new();
    out.extend_from_slice(digits.format(value / unit).as_bytes());
    let fraction = value % unit;
    if fraction > 0 {
        // The unit in front of it keeps its zeros, and is left out.
        out.push(b'.');
        out.extend_from_slice(digits.format(unit + fraction)[1..].trim_end_matches('0').as_bytes());
    }
}

/// The same of a number that may be less than nothing, of at most 64 bits without its sign.
pub fn write_signed_decimal(out: &mut Vec<u8>, value: i128, scale: u32) {
    if value < 0 {
        out.push(b'-');
    }
    write_decimal(out, u64::try_from(value.unsigned_abs()).unwrap_or(u64::MAX), scale);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money() {
        let nano = 1_000_000_000;
        for (text, amount) in [
            ("0", 0),
            ("5", 5 * nano),
            ("0.50", nano / 2),
            ("1.000000001", nano + 1),
            ("100000000", nano * 100_000_000),
        ] {
            assert_eq!(nano_usd(text), Some(amount), "{text}");
        }
        for text in ["", ".5", "5.", "-1", "+1", "1e3", "$1", "0.0000000001", "100000000.1", "99999999999999999999"] {
            assert_eq!(nano_usd(text), None, "{text}");
        }
    }

    #[test]
    fn only_whole_numbers_are_whole_numbers() {
        assert_eq!(whole_number(b"18446744073709551615"), Some(u64::MAX));
        assert_eq!(whole_number(b"0"), Some(0));
        for other in ["18446744073709551616", "", "-1", "1.0", "1e3", "null", "\"1\"", "1 ", "/", ":"] {
            assert_eq!(whole_number(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn exact_and_without_needless_zeros() {
        for (value, scale, text) in [
            (0, 9, "0"),
            (1, 9, "0.000000001"),
            (1_500_000_000, 9, "1.5"),
            (u64::MAX, 9, "18446744073.709551615"),
            (12_340, 3, "12.34"),
            (7, 0, "7"),
            (u64::MAX, 18, "18.446744073709551615"),
        ] {
            let mut out = Vec::new();
            write_decimal(&mut out, value, scale);
            assert_eq!(String::from_utf8(out).unwrap(), text);
        }
    }
}
