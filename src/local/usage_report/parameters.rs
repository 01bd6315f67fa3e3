//! The parameters of `GET /usage`. Strict: an unknown or repeated parameter or a bad value is refused by name, so that
//! a misspelt filter never answers with everybody's numbers.

use super::media_type::Format;
use crate::access::{USER_BYTES_MAX, is_user};
use crate::base::civil::{parse_date, parse_rfc3339};
use crate::base::clock::{DAY, HOUR, SECOND};
use crate::base::digits::whole_number;
use crate::base::percent;
use crate::reporting::{GroupBy, LIMIT_DEFAULT, LIMIT_MAX, Query};

/// Records in an answer that a person reads, where `limit` is not given.
pub const LIMIT_DEFAULT_TEXT: u32 = 10;

/// Faults named in one answer.
const FAULTS_MAX: usize = 8;
const KNOWN: &str = "user_id, team, node, from, to, model, limit, cursor, group_by, format";

/// What is asked, and how the answer is to be written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UsageQuery {
    pub query: Query,
    pub format: Format,
    /// Whoever asks may see this user's only.
    pub own: bool,
}

impl UsageQuery {
    /// Reads the query string of a target (what follows `?`, undecoded). `now_unix_ns` is what `24h` counts back from;
    /// `accepted` is the format where no parameter says it.
    ///
    /// # Errors
    /// Words for the client, naming every parameter that is wrong and what it expects.
    pub fn parse(raw: &str, now_unix_ns: u64, accepted: Format) -> Result<Self, String> {
        let mut given = Given::default();
        let pairs = raw.split('&').filter(|pair| !pair.is_empty());
        let mut take = |pair| decoded(pair).and_then(|(name, value)| given.set(&name, value, now_unix_ns));
        let faults = pairs.filter_map(|pair| take(pair).err());
        let faults: Vec<String> = faults.take(FAULTS_MAX).collect();
        match given.query(accepted) {
            Ok(query) if faults.is_empty() => Ok(query),
            Err(fault) if faults.len() < FAULTS_MAX => Err([faults, vec![fault]].concat().join("; ")),
            _ => Err(faults.join("; ")),
        }
    }
}

/// What was given so far, parameter by parameter.
#[derive(Debug, Default)]
pub struct Given {
    /// But for its limit.
    query: Query,
    limit: Option<u32>,
    format: Option<Format>,
}

impl Given {
    /// Takes one parameter. `now_unix_ns` is what `24h` counts back from.
    ///
    /// # Errors
    /// Words that name the parameter in backticks, and what it expects.
    pub fn set(&mut self, name: &str, value: String, now_unix_ns: u64) -> Result<(), String> {
        match name {
            "user_id" => once(&mut self.query.user, name, parse_name(name, value)?),
            "team" => once(&mut self.query.team, name, parse_name(name, value)?),
            "node" => once(&mut self.query.node, name, parse_name(name, value)?),
            "from" => once(&mut self.query.from, name, parse_time(name, &value, now_unix_ns)?),
            "to" => once(&mut self.query.to, name, parse_time(name, &value, now_unix_ns)?),
            "model" => once(&mut self.query.model, name, parse_name(name, value)?),
            "limit" => once(&mut self.limit, name, parse_limit(&value)?),
            "cursor" => once(&mut self.query.cursor, name, parse_cursor(&value)?),
            "group_by" => once(&mut self.query.group_by, name, parse_group_by(&value)?),
            "format" => once(&mut self.format, name, parse_format(&value)?),
            _ => Err(format!("unknown parameter `{}`; known are {KNOWN}", shown(name))),
        }
    }

    /// All of it together, in this format where none was given.
    ///
    /// # Errors
    /// Words, where one contradicts another.
    pub fn query(self, format: Format) -> Result<UsageQuery, String> {
        let Self { query, limit, format: given } = self;
        if let (Some(from), Some(to)) = (query.from, query.to)
            && from >= to
        {
            return Err("`from` must be before `to`".to_owned());
        }
        let by = query.group_by;
        if query.user.is_some() && (query.team.is_some() || by == Some(GroupBy::Team)) {
            return Err("`team` and `group_by` team are not for one user: leave `user_id` out".to_owned());
        }
        if query.team.is_some() && matches!(by, Some(GroupBy::User | GroupBy::Team)) {
            return Err("`group_by` user or team is not for one team: leave `team` out".to_owned());
        }
        if query.team.is_some() && by == Some(GroupBy::Key) {
            return Err("`team`: sums by key are not kept by team; leave `team` out".to_owned());
        }
        let format = given.unwrap_or(format);
        let limit_default = if format == Format::Text { LIMIT_DEFAULT_TEXT } else { LIMIT_DEFAULT };
        let query = Query { limit: limit.unwrap_or(limit_default), ..query };
        Ok(UsageQuery { query, format, own: false })
    }
}

/// The two sides of one `name=value`, decoded.
///
/// # Errors
/// Words that name the parameter.
pub fn decoded(pair: &str) -> Result<(String, String), String> {
    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
    let name = decode(name).ok_or("a parameter's name is not percent-encoded UTF-8")?;
    let value = decode(value).ok_or_else(|| format!("`{}` is not percent-encoded UTF-8", shown(&name)))?;
    Ok((name, value))
}

fn once<T>(slot: &mut Option<T>, name: &str, value: T) -> Result<(), String> {
    if slot.replace(value).is_some() {
        return Err(format!("`{name}` is given more than once"));
    }
    Ok(())
}

/// The value of a parameter that is a user's or a model's name.
///
/// # Errors
/// Words that name the parameter.
pub fn parse_name(name: &str, value: String) -> Result<String, String> {
    if !is_user(&value) {
        return Err(format!("`{name}` must be 1 to {USER_BYTES_MAX} bytes without control characters"));
    }
    Ok(value)
}

fn parse_limit(value: &str) -> Result<u32, String> {
    whole_number(value.as_bytes())
        .and_then(|limit| u32::try_from(limit).ok())
        .filter(|limit| (1..=LIMIT_MAX).contains(limit))
        .ok_or_else(|| format!("`limit` must be a whole number from 1 to {LIMIT_MAX}"))
}

fn parse_cursor(value: &str) -> Result<u64, String> {
    whole_number(value.as_bytes())
        .filter(|cursor| i64::try_from(*cursor).is_ok())
        .ok_or_else(|| "`cursor` must be the `next_cursor` of an earlier answer".to_owned())
}

fn parse_group_by(value: &str) -> Result<GroupBy, String> {
    let found = GroupBy::ALL.iter().find(|group_by| group_by.as_str() == value);
    found.copied().ok_or_else(|| {
        let known = GroupBy::ALL.iter().map(|group_by| group_by.as_str()).collect::<Vec<_>>();
        format!("`group_by` must be one of {}", known.join(", "))
    })
}

fn parse_format(value: &str) -> Result<Format, String> {
    let found = Format::ALL.iter().find(|format| format.as_str() == value);
    found.copied().ok_or_else(|| format!("`format` is `{}`, and must be one of json, text, csv", shown(value)))
}

/// RFC 3339, a date, a month, Unix seconds, `today`, `yesterday`, or a length of time before now.
fn parse_time(name: &str, value: &str, now_unix_ns: u64) -> Result<u64, String> {
    let unix_seconds = || whole_number(value.as_bytes())?.checked_mul(SECOND).filter(|ns| i64::try_from(*ns).is_ok());
    parse_rfc3339(value)
        .or_else(|| parse_date(value))
        .or_else(|| parse_date(&format!("{value}-01")))
        .or_else(|| midnight(value, now_unix_ns))
        .or_else(unix_seconds)
        .or_else(|| before(value, now_unix_ns))
        .ok_or_else(|| {
            format!(
                "`{name}` must be a time: RFC 3339 (2026-11-23T09:30:00Z), a date (2026-11-23), a month (2026-11), \
                 Unix seconds, today, yesterday, or before now: 30m, 24h, 7d"
            )
        })
}

/// When the day began (UTC) that is today, or was yesterday.
fn midnight(value: &str, now_unix_ns: u64) -> Option<u64> {
    let today = now_unix_ns / DAY * DAY;
    match value {
        "today" => Some(today),
        "yesterday" => Some(today.saturating_sub(DAY)),
        _ => None,
    }
}

/// `24h` before now, not before 1970.
fn before(value: &str, now_unix_ns: u64) -> Option<u64> {
    let (count, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    let unit = match unit {
        "m" => 60 * SECOND,
        "h" => HOUR,
        "d" => DAY,
        _ => return None,
    };
    let ns = whole_number(count.as_bytes())?.checked_mul(unit)?;
    Some(now_unix_ns.saturating_sub(ns))
}

/// `application/x-www-form-urlencoded`: `+` is a space, `%XX` a byte; the result must be UTF-8.
fn decode(text: &str) -> Option<String> {
    percent::decode(&text.replace('+', " "))
}

/// A client's text as far as a message repeats it.
pub fn shown(text: &str) -> &str {
    text.char_indices().nth(40).map_or(text, |(end, _)| &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: u64 = 1_795_426_200 * SECOND; // 2026-11-23T09:30:00Z

    fn parse(raw: &str) -> Result<Query, String> {
        UsageQuery::parse(raw, NOW, Format::Json).map(|asked| asked.query)
    }

    #[test]
    fn defaults() {
        let nothing = Query { limit: 100, ..Query::default() };
        assert_eq!(parse(""), Ok(nothing.clone()));
        assert_eq!(parse("&&"), Ok(nothing));
    }

    #[test]
    fn every_parameter() {
        let query = UsageQuery::parse(
            "user_id=%E5%A4%AA%E9%83%8E+a%2Bb&node=n&model=gpt-4o&from=24h&to=2026-11-23&limit=1000&cursor=77&group_by=day\
             &format=csv",
            NOW,
            Format::Json,
        );
        let midnight = 1_795_392_000 * SECOND;
        assert_eq!(
            query,
            Ok(UsageQuery {
                query: Query {
                    user: Some("太郎 a+b".to_owned()),
                    team: None,
                    node: Some("n".to_owned()),
                    from: Some(NOW - DAY),
                    to: Some(midnight),
                    model: Some("gpt-4o".to_owned()),
                    limit: 1000,
                    cursor: Some(77),
                    group_by: Some(GroupBy::Day),
                },
                format: Format::Csv,
                own: false,
            })
        );
    }

    #[test]
    fn every_group() {
        for group_by in GroupBy::ALL {
            assert_eq!(parse(&format!("group_by={}", group_by.as_str())).unwrap().group_by, Some(*group_by));
        }
    }

    #[test]
    fn the_parameter_goes_before_what_is_accepted() {
        let parse =
            |raw: &str| UsageQuery::parse(raw, NOW, Format::Text).map(|asked| (asked.format, asked.query.limit));
        assert_eq!(parse(""), Ok((Format::Text, LIMIT_DEFAULT_TEXT)));
        assert_eq!(parse("limit=100"), Ok((Format::Text, 100)));
        assert_eq!(parse("format=json"), Ok((Format::Json, LIMIT_DEFAULT)));
        assert_eq!(parse("format=csv"), Ok((Format::Csv, LIMIT_DEFAULT)));
    }

    #[test]
    fn times() {
        let ns = |text: &str| parse(&format!("from={text}")).map(|query| query.from.unwrap());
        assert_eq!(ns("30m"), Ok(NOW - 1_800 * SECOND));
        assert_eq!(ns("7d"), Ok(NOW - 7 * DAY));
        assert_eq!(ns("100000d"), Ok(0));
        assert_eq!(ns("0"), Ok(0));
        assert_eq!(ns("1795392000"), Ok(1_795_392_000 * SECOND));
        assert_eq!(ns("2026-11-23T18:30:00.5%2B09:00"), Ok(NOW + SECOND / 2));
        assert_eq!(ns("2026-11-23T18:30:00+09:00"), Ok(NOW), "an unescaped plus, as people type it");
        assert_eq!((ns("today"), ns("yesterday")), (ns("2026-11-23"), ns("2026-11-22")));
        assert_eq!(ns("2026-11"), ns("2026-11-01"));
        for bad in [
            "",
            "h",
            "-1h",
            "+5",
            "1.5h",
            "24H",
            "24s",
            "tomorrow",
            "2026-13",
            "2026-1",
            "1795392000000",
            "２４h",
            "2026-11-31",
        ] {
            assert!(ns(bad).unwrap_err().starts_with("`from` must be a time"), "{bad}");
        }
    }

    #[test]
    fn what_is_refused_is_named() {
        for (raw, message) in [
            (
                "by=day",
                "unknown parameter `by`; known are user_id, team, node, from, to, model, limit, cursor, group_by, format",
            ),
            ("group_by=week", "`group_by` must be one of hour, day, month, model, user, team, endpoint, key, node"),
            ("team=a&group_by=key", "`team`: sums by key are not kept by team; leave `team` out"),
            ("group_by=", "`group_by` must be one of"),
            ("group_by=day&group_by=day", "`group_by` is given more than once"),
            ("format=xml", "`format` is `xml`, and must be one of json, text, csv"),
            ("format=", "`format` is ``, and must be"),
            ("format=csv&format=csv", "`format` is given more than once"),
            ("User_id=a", "unknown parameter `User_id`"),
            ("user_id=a&user_id=a", "`user_id` is given more than once"),
            ("user%5Fid=a&user_id=b", "`user_id` is given more than once"),
            ("user_id=", "`user_id` must be 1 to 128 bytes"),
            ("user_id", "`user_id` must be 1 to 128 bytes"),
            ("user_id=a%0Ab", "`user_id` must be 1 to 128 bytes"),
            ("user_id=%ff", "`user_id` is not percent-encoded UTF-8"),
            ("user_id=%4", "`user_id` is not percent-encoded UTF-8"),
            ("model=%zz", "`model` is not percent-encoded UTF-8"),
            ("%ff=1", "a parameter's name"),
            ("limit=0", "`limit` must be a whole number from 1 to 1000"),
            ("limit=1001", "`limit` must be"),
            ("limit=+5", "`limit` must be"),
            ("limit=99999999999999999999", "`limit` must be"),
            ("cursor=-1", "`cursor` must be"),
            ("cursor=9223372036854775808", "`cursor` must be"),
            ("from=2026-11-23&to=2026-11-23", "`from` must be before `to`"),
        ] {
            let error = parse(raw).unwrap_err();
            assert!(error.starts_with(message), "{raw}: {error}");
        }
        let long = parse(&format!("{}=1", "é".repeat(5000))).unwrap_err();
        assert!(long.len() < 200, "a long name is not echoed whole");
        assert!(parse(&format!("user_id={}", "a".repeat(128))).is_ok());
        assert!(parse(&format!("user_id={}", "a".repeat(129))).is_err());
    }

    #[test]
    fn every_fault_is_named_up_to_a_bound() {
        let message = UsageQuery::parse("limit=0&x=1&limit=7&from=2&to=1&user_id=", 0, Format::Json).unwrap_err();
        for part in ["`limit` must be", "unknown parameter `x`", "`from` must be before", "`user_id` must be"] {
            assert!(message.contains(part), "{message}");
        }
        let endless = "x&".repeat(10_000);
        assert_eq!(UsageQuery::parse(&endless, 0, Format::Json).unwrap_err().matches("unknown").count(), FAULTS_MAX);
    }

    proptest! {
        #[test]
        fn any_user_survives_encoding(user in "[^\\p{Cc}]{1,30}") {
            let encoded: String = user.bytes().map(|byte| format!("%{byte:02x}")).collect();
            prop_assert_eq!(parse(&format!("user_id={encoded}")).unwrap().user, Some(user));
        }

        #[test]
        fn any_text_is_read_without_panic(raw in "[a-z_=&%+0-9:é-]{0,60}") {
            let _ = parse(&raw);
        }
    }
}
