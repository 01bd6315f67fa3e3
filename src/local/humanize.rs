//! Numbers, money, times and instants as people read them.

use crate::base::civil::write_rfc3339;
use crate::base::clock::SECOND;

/// A number with commas between its thousands.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A number in at most four digits and a letter: `12.3k`, `4.56M`.
pub fn short(number: u64) -> String {
    let (unit, letter) = match number {
        0..10_000 => return grouped(number),
        10_000..1_000_000 => (1_000, "k"),
        1_000_000..1_000_000_000 => (1_000_000, "M"),
        1_000_000_000..1_000_000_000_000 => (1_000_000_000, "G"),
        _ => (1_000_000_000_000, "T"),
    };
    let whole = number / unit;
    let hundredths = number % unit * 100 / unit;
    let fraction = match whole {
        0..10 => format!(".{hundredths:02}"),
        10..100 => format!(".{}", hundredths / 10),
        _ => String::new(),
    };
    let fraction = fraction.trim_end_matches('0').trim_end_matches('.');
    format!("{}{fraction}{letter}", grouped(whole))
}

/// Nano-dollars as dollars, with so many digits after the point, at most nine; a half is rounded up.
pub fn dollars(nano_usd: u64, places: usize) -> String {
    let nano_usd = nano_usd.saturating_add(10u64.pow(9 - places as u32) / 2);
    let fraction = format!("{:09}", nano_usd % 1_000_000_000);
    format!("{}.{}", grouped(nano_usd / 1_000_000_000), &fraction[..places])
}

/// Nano-dollars as an amount of which the first three digits that count are told, and the cents.
pub fn money(nano_usd: u64) -> String {
    let places = match nano_usd {
        0 => return "$0".to_owned(),
        1..1_000_000_000 => (11 - nano_usd.ilog10() as usize).clamp(2, 9),
        _ => 2,
    };
    let amount = dollars(nano_usd, places);
    let (whole, fraction) = amount.split_once('.').unwrap_or((&amount, ""));
    format!("${whole}.{:0<2}", fraction.trim_end_matches('0'))
}

/// Microseconds.
pub fn duration(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..10_000 => format!("{}.{} ms", us / 1_000, us / 100 % 10),
        10_000..1_000_000 => format!("{} ms", us / 1_000),
        1_000_000..60_000_000 => format!("{}.{:02} s", us / 1_000_000, us / 10_000 % 100),
        _ => format!("{} min {} s", grouped(us / 60_000_000), us / 1_000_000 % 60),
    }
}

/// A part in per cent, with a digit after the point where it is small; nothing of nothing.
pub fn share(part: u64, whole: u64) -> Option<String> {
    let thousandths = (u128::from(part) * 1000 + u128::from(whole) / 2).checked_div(u128::from(whole))?;
    Some(match thousandths {
        0 if part > 0 => "<0.1%".to_owned(),
        0..100 => format!("{}.{}%", thousandths / 10, thousandths % 10),
        _ => format!("{}%", (thousandths + 5) / 10),
    })
}

/// An instant in RFC 3339, with as much of its fraction as it has.
pub fn instant(unix_ns: u64) -> String {
    let mut out = Vec::new();
    write_rfc3339(&mut out, unix_ns, if unix_ns.is_multiple_of(SECOND) { 0 } else { 9 });
    String::from_utf8_lossy(&out).into_owned()
}

/// `2026-11-23 09:30:00`.
pub fn second(unix_ns: u64) -> String {
    let rfc3339 = instant(unix_ns - unix_ns % SECOND);
    rfc3339.replace('T', " ").trim_end_matches('Z').to_owned()
}

/// `2026-11-23`.
pub fn day(unix_ns: u64) -> String {
    second(unix_ns).split(' ').next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        let shown = [9_999, 10_000, 12_345, 123_456, 1_000_000, 4_567_890, 45_600_000_000].map(short);
        assert_eq!(shown, ["9,999", "10k", "12.3k", "123k", "1M", "4.56M", "45.6G"]);
        assert_eq!(short(u64::MAX), "18,446,744T");
        assert_eq!(
            [(0, 7), (1, 2000), (1, 3000), (1, 10), (2, 3), (3, 3)].map(|(a, b)| share(a, b).unwrap()),
            ["0.0%", "0.1%", "<0.1%", "10%", "67%", "100%"]
        );
        assert_eq!(share(0, 0), None);
    }

    #[test]
    fn amounts() {
        assert_eq!(dollars(u64::MAX, 9), "18,446,744,073.709551615");
        for (nano_usd, shown) in [
            (0, "$0"),
            (1, "$0.000000001"),
            (6_600, "$0.0000066"),
            (12_345_678, "$0.0123"),
            (100_000_000, "$0.10"),
            (999_999_999, "$1.00"),
            (1_500_000_000, "$1.50"),
            (1_234_567_890_123, "$1,234.57"),
            (5_526_900_000, "$5.53"),
        ] {
            assert_eq!(money(nano_usd), shown);
        }
    }

    #[test]
    fn times() {
        let shown = [84, 1_250, 612_034, 1_240_000, 125_000_000].map(duration);
        assert_eq!(shown, ["84 µs", "1.2 ms", "612 ms", "1.24 s", "2 min 5 s"]);
        assert_eq!(second(1_795_426_200_123_456_789), "2026-11-23 09:30:00");
        assert_eq!(instant(1_795_426_200_500_000_000), "2026-11-23T09:30:00.500000000Z");
    }
}
