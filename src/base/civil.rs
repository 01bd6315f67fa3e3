//! Civil time in UTC: days to dates and back, RFC 3339 text to nanoseconds since the Unix epoch and back.
//!
//! In: text or numbers. Out: numbers or text. Never: a clock, a time zone other than a numeric offset, a leap second
//! table. The range is 1970 to 2262 (an `i64` of nanoseconds), which is what the ledger stores.

use super::clock::SECOND;
use super::digits::whole_number;
use std::io::Write as _;

const SECONDS_PER_DAY: i64 = 86_400;

/// Reads an RFC 3339 date-time as nanoseconds since the Unix epoch. `None` for anything else, and for an instant before
/// 1970 or after 2262.
///
/// RFC 3339 §5.6: `T` and `Z` may be lower case, a space may stand for `T`, the fraction has any number of digits
/// (those past the ninth are dropped), and second 60 is a leap second (read as the second that follows 59). A space
/// may also stand for the offset's `+`: that is what an unescaped `+` becomes in a query string.
pub fn parse_rfc3339(text: &str) -> Option<u64> {
    let (date, rest) = split_date(text.as_bytes())?;
    let (b'T' | b't' | b' ', rest) = rest.split_first().map(|(byte, rest)| (*byte, rest))? else { return None };
    let (hour, rest) = digits(rest, 2)?;
    let (minute, rest) = digits(expect(rest, b':')?, 2)?;
    let (second, rest) = digits(expect(rest, b':')?, 2)?;
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let (fraction_ns, rest) = fraction(rest)?;
    let offset_s = offset(rest)?;
    let seconds = date * SECONDS_PER_DAY + hour * 3600 + minute * 60 + second - offset_s;
    instant(seconds, fraction_ns)
}

/// Reads a date, `2026-11-23`, as the nanoseconds of its midnight (UTC). `None` as for [`parse_rfc3339`].
pub fn parse_date(text: &str) -> Option<u64> {
    match split_date(text.as_bytes())? {
        (days, []) => instant(days * SECONDS_PER_DAY, 0),
        _ => None,
    }
}

/// Appends an instant as RFC 3339 in UTC, with `fraction_digits` (at most 9) of its fraction, cut, never rounded.
pub fn write_rfc3339(out: &mut Vec<u8>, unix_ns: u64, fraction_digits: u32) {
    let seconds = unix_ns / SECOND;
    let (year, month, day) = civil_from_days((seconds / 86_400) as i64);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let _ = write!(out, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}");
    let digits = fraction_digits.min(9) as usize;
    if digits > 0 {
        let _ = write!(out, ".{:0digits$}", unix_ns % SECOND / 10u64.pow(9 - digits as u32));
    }
    out.push(b'Z');
}

/// The months as HTTP writes them.
const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// Appends an instant as HTTP writes it, to the second: `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110 §5.6.7).
pub fn write_imf_fixdate(out: &mut Vec<u8>, unix_ns: u64) {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"]; // 1970-01-01 was a Thursday
    let seconds = unix_ns / SECOND;
    let days = seconds / 86_400;
    let (year, month, day) = civil_from_days(days as i64);
    let (weekday, month) = (DAYS[(days % 7) as usize], MONTHS[month as usize - 1]);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let _ = write!(out, "{weekday}, {day:02} {month} {year:04} {hour:02}:{minute:02}:{second:02} GMT");
}

/// The inverse of [`write_imf_fixdate`], nanoseconds since the Unix epoch; the day of the week is passed over.
pub fn parse_imf_fixdate(date: &str) -> Option<u64> {
    let mut words = date.split(' ').skip(1);
    let (day, month, year, time) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let month = MONTHS.iter().position(|name| *name == month)? + 1;
    parse_rfc3339(&format!("{year}-{month:02}-{day}T{time}Z"))
}

/// Days since 1970-01-01 of a date in the proleptic Gregorian calendar. The date must be valid.
///
/// Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms": a year starts in March, so that the leap day is its
/// last; an era is 400 years.
pub fn days_from_civil(year: i64, month: u64, day: u64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month_from_march = ((month + 9) % 12) as i64;
    let day_of_year = (153 * month_from_march + 2) / 5 + day as i64 - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// The date (year, month 1–12, day 1–31) of a day counted from 1970-01-01: the inverse of [`days_from_civil`].
pub fn civil_from_days(days: i64) -> (i64, u64, u64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = (day_of_year - (153 * month_from_march + 2) / 5 + 1) as u64;
    let month = (if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 }) as u64;
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

/// The month in which a day (counted from 1970-01-01) is, counted from January 1970.
pub fn month_of_day(days: i64) -> i64 {
    let (year, month, _) = civil_from_days(days);
    (year - 1970) * 12 + month as i64 - 1
}

/// The first day of a month: both counted as by [`month_of_day`].
pub fn first_day_of_month(month: i64) -> i64 {
    days_from_civil(1970 + month.div_euclid(12), month.rem_euclid(12) as u64 + 1, 1)
}

/// `2026-11-23` at the start of `text`, as days since the epoch, and what follows it.
fn split_date(text: &[u8]) -> Option<(i64, &[u8])> {
    let (year, rest) = digits(text, 4)?;
    let (month, rest) = digits(expect(rest, b'-')?, 2)?;
    let (day, rest) = digits(expect(rest, b'-')?, 2)?;
    let (month, day) = (month as u64, day as u64);
    let days = days_from_civil(year, month, day);
    (civil_from_days(days) == (year, month, day)).then_some((days, rest))
}

/// `.25` at the start of `text` in nanoseconds; 0 where there is none.
fn fraction(text: &[u8]) -> Option<(u64, &[u8])> {
    let Some(rest) = expect(text, b'.') else { return Some((0, text)) };
    let count = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let known = count.min(9);
    let ns = whole_number(&rest[..known])? * 10u64.pow(9 - known as u32);
    Some((ns, &rest[count..]))
}

/// `Z`, `+09:00` or `-03:30`, which must be all that is left, in seconds east of UTC.
fn offset(text: &[u8]) -> Option<i64> {
    let (sign, rest) = match text {
        [b'Z' | b'z'] => return Some(0),
        [b'+' | b' ', rest @ ..] => (1, rest),
        [b'-', rest @ ..] => (-1, rest),
        _ => return None,
    };
    let (hour, rest) = digits(rest, 2)?;
    let (minute, rest) = digits(expect(rest, b':')?, 2)?;
    (rest.is_empty() && hour <= 23 && minute <= 59).then_some(sign * (hour * 3600 + minute * 60))
}

fn instant(seconds: i64, fraction_ns: u64) -> Option<u64> {
    let ns = u64::try_from(seconds).ok()?.checked_mul(SECOND)?.checked_add(fraction_ns)?;
    (ns <= i64::MAX as u64).then_some(ns)
}

/// Exactly `count` decimal digits at the start of `text`, and what follows.
fn digits(text: &[u8], count: usize) -> Option<(i64, &[u8])> {
    let (number, rest) = text.split_at_checked(count)?;
    Some((whole_number(number)? as i64, rest))
}

fn expect(text: &[u8], byte: u8) -> Option<&[u8]> {
    text.split_first().filter(|(first, _)| **first == byte).map(|(_, rest)| rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(unix_ns: u64, digits: u32) -> String {
        let mut out = Vec::new();
        write_rfc3339(&mut out, unix_ns, digits);
        String::from_utf8(out).unwrap()
    }

    fn days_in_month(year: i64, month: i64) -> i64 {
        match month {
            2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        }
    }

    #[test]
    fn http_dates_are_those_of_the_rfc() {
        for (seconds, text) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (1_709_251_199, "Thu, 29 Feb 2024 23:59:59 GMT"),
        ] {
            let mut out = Vec::new();
            write_imf_fixdate(&mut out, seconds * SECOND + 999_999_999);
            assert_eq!(String::from_utf8(out).unwrap(), text);
        }
    }

    #[test]
    fn known_instants() {
        // RFC 3339 §5.8, and the epoch's edges.
        assert_eq!(parse_rfc3339("1985-04-12T23:20:50.52Z"), Some(482_196_050_520_000_000));
        assert_eq!(parse_rfc3339("1996-12-19T16:39:57-08:00"), parse_rfc3339("1996-12-20T00:39:57Z"));
        assert_eq!(parse_rfc3339("1990-12-31T23:59:60Z"), parse_rfc3339("1991-01-01T00:00:00Z"));
        assert_eq!(parse_rfc3339("1990-12-31T15:59:60-08:00"), parse_rfc3339("1990-12-31T23:59:60Z"));
        assert_eq!(parse_rfc3339("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(parse_rfc3339("1970-01-01t09:00:00.000000001 09:00"), Some(1));
        assert_eq!(parse_rfc3339("2000-02-29 12:00:00z"), Some(951_825_600 * SECOND));
        assert_eq!(parse_date("2026-11-23"), Some(1_795_392_000 * SECOND));
        assert_eq!(text(1_795_392_000_123_456_789, 6), "2026-11-23T00:00:00.123456Z");
        assert_eq!(text(0, 0), "1970-01-01T00:00:00Z");
        assert_eq!(text(i64::MAX as u64, 9), "2262-04-11T23:47:16.854775807Z");
    }

    #[test]
    fn what_is_no_instant() {
        for bad in [
            "",
            "2026",
            "2026-11-23T",
            "2026-11-23T10:00:00",
            "2026-11-23T10:00Z",
            "2026-11-23T10:00:00.Z",
            "2026-11-23T24:00:00Z",
            "2026-11-23T10:60:00Z",
            "2026-11-23T10:00:61Z",
            "2026-13-01T00:00:00Z",
            "2026-00-01T00:00:00Z",
            "2026-02-29T00:00:00Z",
            "1900-02-29T00:00:00Z",
            "2026-11-00T00:00:00Z",
            "2026-11-23T10:00:00+9:00",
            "2026-11-23T10:00:00+24:00",
            "2026-11-23T10:00:00+09:60",
            "2026-11-23T10:00:00Zx",
            "2026-11-23X10:00:00Z",
            "+026-11-23T10:00:00Z",
            "1969-12-31T23:59:59Z",
            "1970-01-01T00:00:00+00:01",
            "2262-04-11T23:47:17Z",
            "9999-12-31T23:59:59Z",
            "２０２６-11-23T10:00:00Z",
        ] {
            assert_eq!(parse_rfc3339(bad), None, "{bad}");
        }
        for bad in ["2026-11-3", "2026-11-31", "2026-11-23 ", "2026/11/23", "1969-12-31", "2262-04-12"] {
            assert_eq!(parse_date(bad), None, "{bad}");
        }
    }

    #[test]
    fn every_day_of_four_centuries_follows_the_one_before() {
        let (mut year, mut month, mut day) = (1999, 12, 31);
        for days in days_from_civil(2000, 1, 1)..days_from_civil(2400, 1, 2) {
            (year, month, day) = match (month, day) {
                (12, 31) => (year + 1, 1, 1),
                (_, last) if last == days_in_month(year, month as i64) as u64 => (year, month + 1, 1),
                _ => (year, month, day + 1),
            };
            assert_eq!(civil_from_days(days), (year, month, day));
            assert_eq!(first_day_of_month(month_of_day(days)), days - day as i64 + 1);
            assert_eq!(days_from_civil(year, month, day), days);
        }
    }

    proptest! {
        #[test]
        fn text_and_back(unix_ns in 0..=i64::MAX as u64) {
            prop_assert_eq!(parse_rfc3339(&text(unix_ns, 9)), Some(unix_ns));
        }

        #[test]
        fn order_of_text_is_order_of_time(a in 0..=i64::MAX as u64, b in 0..=i64::MAX as u64) {
            prop_assert_eq!(text(a, 9).cmp(&text(b, 9)), a.cmp(&b));
        }

        #[test]
        fn an_offset_moves_the_instant(minutes in -1439i64..=1439, unix_s in 86_400u64..4_000_000_000) {
            let local = text(unix_s.checked_add_signed(minutes * 60).unwrap() * SECOND, 0);
            let sign = if minutes < 0 { '-' } else { '+' };
            let (hour, minute) = (minutes.abs() / 60, minutes.abs() % 60);
            let with_offset = format!("{}{sign}{hour:02}:{minute:02}", local.trim_end_matches('Z'));
            prop_assert_eq!(parse_rfc3339(&with_offset), Some(unix_s * SECOND));
        }

        #[test]
        fn any_text_is_read_without_panic(text in ".{0,40}") {
            let _ = (parse_rfc3339(&text), parse_date(&text));
        }
    }
}
