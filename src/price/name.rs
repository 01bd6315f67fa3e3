//! Names of models that are another's with a version: `gpt-4o-2024-08-06` is `gpt-4o` of a day.
//!
//! In: names. Out: their parts. Never: a price.

/// When a version was made, as far as its name says. A date without a year is older than any with one: OpenAI has given
/// none since 2024.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version<'a> {
    /// `-0613`
    NoYear,
    /// `-2024-08-06`, or `:20230824-v2` without its number: the digits alone.
    Day([&'a str; 3]),
}

impl Version<'_> {
    /// True where this is certainly the later one.
    pub(super) fn is_after(self, other: Self) -> bool {
        match (self, other) {
            (Self::Day(this), Self::Day(other)) => this > other,
            (Self::Day(_), Self::NoYear) => true,
            (Self::NoYear, _) => false,
        }
    }
}

/// The name before a version's date, and the date; `None` when it ends in none.
pub(super) fn undated(name: &str) -> Option<(&str, Version<'_>)> {
    let year_first = || {
        let (name, tail) = tail(name, "-YYYY-MM-DD")?;
        day(&tail[1..5], &tail[6..8], &tail[9..]).map(|version| (name, version))
    };
    let no_year = || {
        let (name, tail) = tail(name, "-MMDD")?;
        day("", &tail[1..3], &tail[3..]).map(|_| (name, Version::NoYear))
    };
    let behind_colon = || {
        let (name, version) = name.split_once(':')?;
        let (date, number) = version.split_once("-v").unwrap_or((version, "0"));
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let is_version = date.len() == 8 && is_number(date) && is_number(number) && !name.is_empty();
        is_version.then(|| day(&date[..4], &date[4..6], &date[6..])).flatten().map(|version| (name, version))
    };
    year_first().or_else(no_year).or_else(behind_colon)
}

fn day<'a>(year: &'a str, month: &'a str, day: &'a str) -> Option<Version<'a>> {
    let is_date = ("01"..="12").contains(&month) && ("01"..="31").contains(&day);
    is_date.then_some(Version::Day([year, month, day]))
}

/// The end of a name that has this shape, where letters stand for digits, and what is before it.
fn tail<'a>(name: &'a str, shape: &str) -> Option<(&'a str, &'a str)> {
    let (before, tail) = name.split_at_checked(name.len().checked_sub(shape.len())?)?;
    let matches = tail.bytes().zip(shape.bytes()).all(|(byte, want)| match want {
        b'-' => byte == b'-',
        _ => byte.is_ascii_digit(),
    });
    matches.then_some((before, tail))
}

/// The name of the prices of a fine-tuned model, `ft:BASE` of `ft:BASE:ORG:NAME:ID`; any other name itself.
pub(super) fn without_owner(name: &str) -> &str {
    match name.strip_prefix("ft:") {
        Some(rest) => &name[..rest.find(':').map_or(name.len(), |end| end + "ft:".len())],
        None => name,
    }
}
