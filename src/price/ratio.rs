//! An exact factor on prices: a contract's, or a region's.
//!
//! In: a decimal as text. Out: a reduced fraction. Never: a float.

use super::decimal;

/// The largest factor, and the smallest step of one: products of it with any money that is real fit 128 bits.
const LARGEST: u64 = 1_000;
const STEPS_PER_UNIT: u64 = 1_000_000;
/// Femto-units in one: what a decimal is read in.
const FEMTO: u64 = 1_000_000_000_000_000;

/// A positive fraction in lowest terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ratio {
    pub(super) numerator: u64,
    pub(super) denominator: u64,
}

impl Ratio {
    /// The factor that changes nothing.
    pub const ONE: Self = Self { numerator: 1, denominator: 1 };

    /// A decimal above 0, at most 1000, with at most six decimal places; `None` for any other text.
    pub fn parse(text: &str) -> Option<Self> {
        let femto = decimal::femto_usd(text).ok().filter(|&femto| femto > 0 && femto <= LARGEST * FEMTO)?;
        let step = FEMTO / STEPS_PER_UNIT;
        let steps = (femto % step == 0).then_some(femto / step)?;
        let divisor = greatest_common_divisor(steps, STEPS_PER_UNIT);
        Some(Self { numerator: steps / divisor, denominator: STEPS_PER_UNIT / divisor })
    }

    /// The product of both.
    pub(super) fn times(self, other: Self) -> Self {
        let (numerator, denominator) = (self.numerator * other.numerator, self.denominator * other.denominator);
        let divisor = greatest_common_divisor(numerator, denominator);
        Self { numerator: numerator / divisor, denominator: denominator / divisor }
    }

    /// The order of the values.
    pub(super) fn is_above(self, other: Self) -> bool {
        let cross = |one: Self, two: Self| u128::from(one.numerator) * u128::from(two.denominator);
        cross(self, other) > cross(other, self)
    }
}

fn greatest_common_divisor(mut a: u64, mut b: u64) -> u64 {
    while b > 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_exact_positive_decimals() {
        let ratio = |text| Ratio::parse(text).map(|Ratio { numerator, denominator }| (numerator, denominator));
        for (text, expected) in [
            ("1", (1, 1)),
            ("1.000000", (1, 1)),
            ("1.1", (11, 10)),
            ("0.85", (17, 20)),
            ("0.000001", (1, 1_000_000)),
            ("1000", (1_000, 1)),
            ("9e-1", (9, 10)),
        ] {
            assert_eq!(ratio(text), Some(expected), "{text}");
        }
        for text in ["", "0", "0.0", "-1", "+1", "1,1", "1.", "0.0000001", "1000.1", "1e9", "NaN", "inf", "110%"] {
            assert_eq!(ratio(text), None, "{text}");
        }
        let (tenth, half) = (Ratio::parse("1.1").unwrap(), Ratio::parse("0.5").unwrap());
        assert_eq!(tenth.times(half), Ratio { numerator: 11, denominator: 20 });
        assert!(tenth.is_above(Ratio::ONE) && Ratio::ONE.is_above(half) && !Ratio::ONE.is_above(Ratio::ONE));
    }
}
