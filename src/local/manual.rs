//! The manual, in the program: its pages as text for a terminal, and for a browser.
//!
//! In: a subject, a language. Out: a page. What the pages say is in `src/manual`, in a subset of Markdown that stays
//! readable on GitHub; `src/manual/pack.rs` packs them while the program is built. Never: a file, or a name that a
//! client chose.

pub mod html;
pub mod markdown;
pub mod plain;
pub mod subjects;

use super::language::Language;
use crate::base::edit_distance::nearest;
use flate2::read::DeflateDecoder;
use std::io::Read as _;
use subjects::{SUBJECTS, Subject};

/// All pages in both languages, as `src/manual/pack.rs` has packed them.
const PACKED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/manual.deflate"));

/// The systemd unit that the page `systemd` shows.
pub const UNIT: &str = include_str!("../manual/openai-proxy.service");

/// Letters that have one byte there.
const SHORT: usize = 120;

/// The subject of this name.
pub fn subject(name: &str) -> Option<&'static Subject> {
    SUBJECTS.iter().find(|subject| subject.name == name)
}

/// The subject that somebody may have meant who wrote this.
pub fn meant(name: &str) -> Option<&'static str> {
    nearest(name, SUBJECTS.iter().map(|subject| subject.name))
}

/// All pages as Markdown: each ended by a zero byte, a subject's English before its Japanese.
pub struct Pages(String);

impl Pages {
    /// Takes about a millisecond.
    pub fn unpacked() -> Self {
        Self(unpacked(PACKED))
    }

    /// A subject's page.
    pub fn page(&self, subject: &Subject, language: Language) -> &str {
        let place = SUBJECTS.iter().position(|known| known == subject).unwrap_or(0);
        let of_language = match language {
            Language::English => 0,
            Language::Japanese => 1,
        };
        self.0.split('\0').nth(2 * place + of_language).unwrap_or_default()
    }
}

fn unpacked(packed: &[u8]) -> String {
    let mut bytes = Vec::new();
    // What is built in is whole.
    let _ = DeflateDecoder::new(packed).read_to_end(&mut bytes);
    let end = memchr::memchr(b'\n', &bytes).unwrap_or(0);
    let letters: Vec<char> = String::from_utf8_lossy(&bytes[..end]).chars().collect();
    let (mut out, mut rest) = (String::new(), bytes[end..].iter().skip(1).copied());
    while let Some(byte) = rest.next() {
        let place = match usize::from(byte) {
            ascii @ 0..0x80 => {
                out.push(char::from(ascii as u8));
                continue;
            }
            short if short < 0x80 + SHORT => short - 0x80,
            long => SHORT + (long - 0x80 - SHORT) * 256 + usize::from(rest.next().unwrap_or(0)),
        };
        out.extend(letters.get(place));
    }
    out
}

/// The pages, to be read beside the sources.
#[cfg(all(doc, not(doctest)))]
pub mod pages {
    include!(concat!(env!("OUT_DIR"), "/pages.rs"));
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod packed {
    use super::*;
    use std::path::Path;

    /// So much of the program the manual may be.
    const PACKED_BYTES_MAX: usize = 61_000;

    #[test]
    fn what_is_packed_is_what_is_written() {
        let (folder, pages) = (Path::new(env!("CARGO_MANIFEST_DIR")).join("src/manual"), Pages::unpacked());
        for language in [Language::English, Language::Japanese] {
            let folder = folder.join(language.tag());
            for subject in SUBJECTS {
                let written = std::fs::read_to_string(folder.join(subject.name).with_extension("md")).unwrap();
                let packed = written.split(subjects::END).next();
                assert!(Some(pages.page(subject, language)) == packed, "{} {language:?}", subject.name);
            }
            assert_eq!(std::fs::read_dir(&folder).unwrap().count(), SUBJECTS.len(), "a file that is no page");
        }
        assert!(PACKED.len() <= PACKED_BYTES_MAX, "{} bytes", PACKED.len());
    }
}
