//! How an answer of `/usage` is written, and which of the ways a client's `Accept` asks for.
//!
//! In: values of `Accept`. Out: a [`Format`]. Never an error: who accepts none of them gets JSON, as RFC 9110 §12.4.1
//! allows.

/// How an answer is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For programs; what everybody gets who asks for nothing else.
    #[default]
    Json,
    /// For people.
    Text,
    /// For spreadsheets.
    Csv,
}

impl Format {
    /// Every value, those first that go before others which are accepted as gladly.
    pub const ALL: &'static [Self] = &[Self::Json, Self::Text, Self::Csv];

    /// As users type it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Text => "text",
            Self::Csv => "csv",
        }
    }

    /// The value of `Content-Type`.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Text => "text/plain; charset=utf-8",
            Self::Csv => "text/csv; charset=utf-8; header=present", // RFC 7111 §5.1
        }
    }

    /// The format that the values of `Accept` ask for most (RFC 9110 §12.5.1).
    pub fn accepted<'b>(values: impl Iterator<Item = &'b [u8]>) -> Self {
        let values: Vec<&str> = values.filter_map(|value| std::str::from_utf8(value).ok()).collect();
        let ranges: Vec<Range<'_>> = values.iter().flat_map(|value| value.split(',')).filter_map(Range::read).collect();
        let weight = |format: Self| {
            let matching = ranges.iter().filter_map(|range| range.matches(format).map(|how| (how, range.weight)));
            matching.max().map_or(0, |(_, weight)| weight)
        };
        // Of those that are accepted as gladly, the first.
        Self::ALL.iter().copied().rev().max_by_key(|&format| weight(format)).unwrap_or_default()
    }
}

/// A media range with its weight in thousandths.
struct Range<'a> {
    kind: &'a str,
    subtype: &'a str,
    weight: u16,
}

impl<'a> Range<'a> {
    fn read(text: &'a str) -> Option<Self> {
        let mut parts = text.split(';').map(str::trim);
        let (kind, subtype) = parts.next()?.split_once('/')?;
        Some(Self { kind, subtype, weight: weight(parts)? })
    }

    /// How closely, where at all: the closest match decides.
    fn matches(&self, format: Format) -> Option<u8> {
        let (kind, subtype) = format.content_type().split(';').next()?.split_once('/')?;
        match (self.kind, self.subtype) {
            ("*", "*") => Some(0),
            (own, "*") if own.eq_ignore_ascii_case(kind) => Some(1),
            (own, sub) if own.eq_ignore_ascii_case(kind) && sub.eq_ignore_ascii_case(subtype) => Some(2),
            _ => None,
        }
    }
}

/// The weight among the parameters of a range, in thousandths; `None` where it is no weight.
pub fn weight<'a>(mut parameters: impl Iterator<Item = &'a str>) -> Option<u16> {
    let weight = parameters.find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("q").then(|| value.trim())
    });
    weight.map_or(Some(1000), thousandths)
}

/// `0.5` as 500 (RFC 9110 §12.4.2).
fn thousandths(text: &str) -> Option<u16> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let is_number = fraction.len() <= 3 && fraction.bytes().all(|byte| byte.is_ascii_digit());
    let fraction: u16 = is_number.then(|| format!("{fraction:0<3}").parse().ok())??;
    match whole {
        "0" => Some(fraction),
        "1" if fraction == 0 => Some(1000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_accepted_most_and_json_where_nothing_is_said() {
        for (accept, format) in [
            ("", Format::Json),
            ("*/*", Format::Json),
            ("text/plain", Format::Text),
            ("TEXT/Plain; charset=utf-8", Format::Text),
            ("text/csv", Format::Csv),
            ("text/*", Format::Text),
            ("application/json, text/plain", Format::Json),
            ("application/json;q=0.5, text/plain", Format::Text),
            ("text/plain;q=0.5, text/csv;q=0.51", Format::Csv),
            ("text/plain;q=0, */*", Format::Json),
            ("text/*;q=0.9, text/plain;q=0.1, application/json;q=0.2", Format::Csv),
            ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", Format::Json),
            ("text/html", Format::Json),
            ("text/plain;q=2, text/plain;q=0.1234, text", Format::Json),
        ] {
            assert_eq!(Format::accepted([accept.as_bytes()].into_iter()), format, "{accept}");
        }
        assert_eq!(Format::accepted([&b"text/csv;q=0.1"[..], b"text/plain"].into_iter()), Format::Text);
        assert_eq!(Format::accepted([&b"\xff/plain"[..]].into_iter()), Format::Json);
    }
}
