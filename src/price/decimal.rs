//! A price as it is written, exactly: the text of a JSON number in, whole femto-dollars out. Never a float: `2e-07` has
//! no exact binary form, and a table of such errors times a million tokens is money.

/// Decimal places kept: prices are whole numbers of 10⁻¹⁵ USD.
const PLACES: i64 = 15;

// Why a number cannot be a price.
const MALFORMED: &str = "expected a number of USD, zero or more";
const TOO_FINE: &str = "has more than 15 decimal places";
const TOO_LARGE: &str = "is more than 18446 USD a unit";

/// Parses a JSON number (RFC 8259 section 6) of dollars into femto-dollars (10⁻¹⁵ USD), without rounding.
///
/// # Errors
/// What is wrong with it, in words that follow a field's name.
pub(super) fn femto_usd(text: &str) -> Result<u64, &'static str> {
    read(text, false)
}

/// The same, rounded half up to a femto-dollar: for tables that were written from floats, in which 1.5e-06 stands as
/// 1.5000000000000002e-06. What is not nothing never becomes nothing.
///
/// # Errors
/// The same.
pub(super) fn rounded_femto_usd(text: &str) -> Result<u64, &'static str> {
    read(text, true)
}

fn read(text: &str, rounds: bool) -> Result<u64, &'static str> {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().map_err(|_| MALFORMED)?),
        None => (text, 0),
    };
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((_, "")) => return Err(MALFORMED),
        Some((whole, fraction)) => (whole, fraction),
        None => (mantissa, ""),
    };
    if whole.is_empty() || (whole.len() > 1 && whole.starts_with('0')) {
        return Err(MALFORMED);
    }
    let mut digits: u128 = 0;
    for byte in whole.bytes().chain(fraction.bytes()) {
        if !byte.is_ascii_digit() {
            return Err(MALFORMED);
        }
        digits =
            digits.checked_mul(10).and_then(|digits| digits.checked_add(u128::from(byte - b'0'))).ok_or(TOO_LARGE)?;
    }
    if digits == 0 {
        return Ok(0);
    }
    // A text is shorter than i64::MAX by far more than any exponent: no overflow.
    scale(digits, PLACES + i64::from(exponent) - fraction.len() as i64, rounds)
}

/// `digits × 10^shift`, exactly or rounded.
fn scale(digits: u128, shift: i64, rounds: bool) -> Result<u64, &'static str> {
    let power = u32::try_from(shift.unsigned_abs()).ok().and_then(|shift| 10u128.checked_pow(shift));
    let scaled = match power {
        Some(power) if shift >= 0 => digits.checked_mul(power).ok_or(TOO_LARGE)?,
        Some(power) if digits.is_multiple_of(power) => digits / power,
        Some(power) if rounds && digits >= power => digits / power + u128::from(digits % power >= power / 2),
        None if shift >= 0 => return Err(TOO_LARGE),
        _ => return Err(TOO_FINE),
    };
    u64::try_from(scaled).map_err(|_| TOO_LARGE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn literals_are_exact() {
        for (text, femto) in [
            ("0", 0),
            ("0.0", 0),
            ("0e99", 0),
            ("1", 1_000_000_000_000_000),
            ("18446", 18_446_000_000_000_000_000),
            ("0.25", 250_000_000_000_000),
            ("2.5e-06", 2_500_000_000),
            ("2.5E-06", 2_500_000_000),
            ("1e-15", 1),
            ("250e-16", 25),
            ("0.000283333333333", 283_333_333_333),
            ("1.5e+1", 15_000_000_000_000_000),
        ] {
            assert_eq!(femto_usd(text), Ok(femto), "{text}");
        }
    }

    #[test]
    fn floats_are_rounded_where_that_is_wanted() {
        for (text, femto) in [
            ("1.5000000000000002e-06", 1_500_000_000),
            ("9.999999999999999e-07", 1_000_000_000),
            ("1.4e-15", 1),
            ("1.5e-15", 2),
            ("2.5e-06", 2_500_000_000),
            ("0.0", 0),
        ] {
            assert_eq!(rounded_femto_usd(text), Ok(femto), "{text}");
        }
        assert_eq!(rounded_femto_usd("9e-16"), Err(TOO_FINE), "it would be free");
        assert_eq!(rounded_femto_usd("-1"), Err(MALFORMED));
    }

    #[test]
    fn what_is_not_an_exact_price_is_refused() {
        for text in ["", "-1", "+1", ".5", "5.", "01", "1e", "1e+", "1e+-5", "1_000", "0x1", "\"1\"", "NaN", " 1"] {
            assert_eq!(femto_usd(text), Err(MALFORMED), "{text}");
        }
        assert_eq!(femto_usd("1e-16"), Err(TOO_FINE));
        assert_eq!(femto_usd("1e-999999999"), Err(TOO_FINE));
        assert_eq!(femto_usd("18447"), Err(TOO_LARGE));
        assert_eq!(femto_usd("1e999999999"), Err(TOO_LARGE));
        assert_eq!(femto_usd("1e9999999999"), Err(MALFORMED));
        assert_eq!(femto_usd(&"9".repeat(60)), Err(TOO_LARGE));
    }

    proptest! {
        /// Every way to write a value gives that value.
        #[test]
        fn all_spellings_agree(femto in 0..=u64::MAX, shift in -20i64..20) {
            let plain = format!("{}.{:015}", femto / 1_000_000_000_000_000, femto % 1_000_000_000_000_000);
            prop_assert_eq!(femto_usd(&plain), Ok(femto));
            prop_assert_eq!(femto_usd(&format!("{femto}e-15")), Ok(femto));
            let zeros = "0".repeat(shift.unsigned_abs() as usize);
            let shifted = if shift >= 0 {
                format!("{femto}{zeros}e{}", -15 - shift)
            } else {
                format!("0.{zeros}{femto}E{}", -15 - shift + femto.to_string().len() as i64)
            };
            let result = femto_usd(&shifted);
            // Twenty zeros behind twenty digits do not fit the parser's 128 bits: refused, never wrong.
            prop_assert!(result == Ok(femto) || result == Err(TOO_LARGE), "{} {:?}", shifted, result);
        }

        #[test]
        fn any_text_is_parsed_or_refused(text in "[0-9eE.+-]{0,60}") {
            if femto_usd(&text).is_ok() {
                prop_assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok(), "{}", text);
            }
        }
    }
}
