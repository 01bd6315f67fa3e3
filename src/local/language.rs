//! The language of a page: English, and Japanese for whom a browser says so.
//!
//! In: values of `Accept-Language`; English texts of ours. Out: the text in the language. Never: a name that somebody
//! chose.

use super::usage_report::weight;
use std::collections::BTreeMap;
use std::sync::LazyLock;

/// Each English text, and behind the bar its Japanese.
static JAPANESE: LazyLock<BTreeMap<&str, &str>> =
    LazyLock::new(|| include_str!("japanese.txt").lines().filter_map(|line| line.split_once(" | ")).collect());

/// A language that pages are written in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Language {
    #[default]
    English,
    Japanese,
}

impl Language {
    /// The one that the values of `Accept-Language` ask for most (RFC 9110 §12.5.4); of those asked for alike, the
    /// first.
    pub fn accepted<'b>(values: impl Iterator<Item = &'b [u8]>) -> Self {
        let values: Vec<&str> = values.filter_map(|value| std::str::from_utf8(value).ok()).collect();
        let mut best = (0, Self::English);
        for range in values.iter().flat_map(|value| value.split(',')) {
            let (tag, parameters) = range.split_once(';').unwrap_or((range, ""));
            let primary = tag.trim().split('-').next().unwrap_or_default();
            let language = match primary {
                _ if primary.eq_ignore_ascii_case("ja") => Self::Japanese,
                _ if primary.eq_ignore_ascii_case("en") => Self::English,
                _ => continue,
            };
            let weight = weight(parameters.split(';')).unwrap_or(0);
            if weight > best.0 {
                best = (weight, language);
            }
        }
        best.1
    }

    /// As HTML names it (BCP 47).
    pub const fn tag(self) -> &'static str {
        match self {
            Self::English => "en",
            Self::Japanese => "ja",
        }
    }

    /// A text of ours.
    pub fn say(self, english: &'static str) -> &'static str {
        match self {
            Self::English => english,
            Self::Japanese => JAPANESE.get(english).copied().unwrap_or(english),
        }
    }

    /// The same with parts in the places of `{0}`, `{1}`, ….
    pub fn fill(self, english: &'static str, parts: &[&str]) -> String {
        let mut pieces = self.say(english).split('{');
        let mut text = pieces.next().unwrap_or_default().to_owned();
        for piece in pieces {
            let (place, rest) = piece.split_once('}').unwrap_or(("", piece));
            text.push_str(place.parse().ok().and_then(|place: usize| parts.get(place)).copied().unwrap_or_default());
            text.push_str(rest);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::path::Path;

    #[test]
    fn the_browser_says_which() {
        let accepted = |value: &str| Language::accepted([value.as_bytes()].into_iter());
        for japanese in ["ja", "ja-JP,ja;q=0.9,en-US;q=0.8", "fr, JA;q=0.5, en;q=0.4", "en;q=0.1,ja"] {
            assert_eq!(accepted(japanese), Language::Japanese, "{japanese}");
        }
        for english in ["", "en-US,ja;q=0.9", "fr", "ja;q=0", "*", "jam", "ja;q=x", "en,ja"] {
            assert_eq!(accepted(english), Language::English, "{english}");
        }
        assert_eq!(Language::Japanese.fill("{0} of {1}", &["a", "b"]), "a(b)");
        assert_eq!(Language::English.fill("{0} of {1}", &["{1}", "b"]), "{1} of b");
    }

    /// Texts that the pages say, as they stand in the source: between `say("`, or `fill("`, and the next quote.
    fn said(folder: &Path, texts: &mut BTreeSet<String>, all: &mut String) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.extension().and_then(|extension| extension.to_str()) {
                None => said(&path, texts, all),
                Some("rs") if !path.ends_with("language.rs") => {
                    let source = std::fs::read_to_string(&path).unwrap();
                    for before in ["say(\"", "fill(\"", "fill(\n"] {
                        let texts_here =
                            source.split(before).skip(1).map(|rest| rest.trim_start().trim_start_matches('"'));
                        texts.extend(texts_here.map(|rest| rest.split('"').next().unwrap().to_owned()));
                    }
                    all.push_str(&source);
                }
                Some(_) => {}
            }
        }
    }

    #[test]
    fn each_text_has_its_japanese_with_the_same_parts_and_each_is_said() {
        let (mut texts, mut all) = (BTreeSet::new(), String::new());
        said(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/local"), &mut texts, &mut all);
        assert!(texts.len() > 50, "{texts:?}");
        let parts = |text: &str| -> BTreeSet<String> {
            text.split('{').skip(1).map(|rest| rest.split('}').next().unwrap().to_owned()).collect()
        };
        for text in texts {
            let japanese = JAPANESE.get(&*text).unwrap_or_else(|| panic!("no Japanese for {text:?}"));
            assert_eq!(parts(japanese), parts(&text), "{text}");
        }
        for english in JAPANESE.keys() {
            assert!(all.contains(&format!("\"{english}\"")), "{english:?} is said nowhere");
        }
    }
}
