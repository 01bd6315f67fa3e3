//! Packs the manual into the program while that is built: the pages of `src/manual`, in both languages, as one stream.
//!
//! In: the pages' files. Out: in the folder that cargo names, `pages.rs` for the crate's docs, and `manual.deflate`,
//! which `src/local/manual.rs` reads: deflated, each page ended by a zero byte, a subject's English before its
//! Japanese. A Japanese letter is three bytes of UTF-8, and few hundred of them are used: they have one or two bytes
//! here, and stand all on the first line, which saves a tenth. A page is packed up to [`END`], where it has that.

#![forbid(unsafe_code)]

#[allow(dead_code)] // what the pages are about
#[path = "../local/manual/subjects.rs"]
mod subjects;

use flate2::{Compression, write::DeflateEncoder};
use std::collections::BTreeMap;
use std::io::{Error, Result, Write as _};
use std::path::Path;
use subjects::{END, SUBJECTS};

/// Letters that have one byte: of 128 beyond ASCII, those that do not begin two.
const SHORT: usize = 120;

fn main() -> Result<()> {
    println!("cargo::rerun-if-changed=src/manual");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/manual");
    let (mut text, mut documented) = (String::new(), String::new());
    for name in SUBJECTS.iter().map(|subject| subject.name) {
        for language in ["en", "ja"] {
            let file = folder.join(language).join(name).with_extension("md");
            let page = std::fs::read_to_string(&file);
            let page = page.map_err(|error| Error::other(format!("{}: {error}", file.display())))?;
            text.push_str(page.split(END).next().unwrap_or_default());
            text.push('\0');
            documented.push_str(&format!("#[doc = {page:?}]\n"));
        }
        documented.push_str(&format!("pub mod {name} {{}}\n"));
    }
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(&shortened(&text)?)?;
    let folder = std::env::var_os("OUT_DIR").ok_or_else(|| Error::other("cargo names no folder"))?;
    std::fs::write(Path::new(&folder).join("pages.rs"), documented)?;
    std::fs::write(Path::new(&folder).join("manual.deflate"), encoder.finish()?)
}

/// The letters beyond ASCII, the most frequent first, a line end, and the text with their places in it.
fn shortened(text: &str) -> Result<Vec<u8>> {
    let mut counts: BTreeMap<char, usize> = BTreeMap::new();
    text.chars().filter(|c| !c.is_ascii()).for_each(|c| *counts.entry(c).or_default() += 1);
    let mut letters: Vec<char> = counts.keys().copied().collect();
    letters.sort_by_key(|letter| std::cmp::Reverse(counts[letter]));
    let places: BTreeMap<char, usize> = letters.iter().copied().zip(0..).collect();
    let mut out = letters.into_iter().collect::<String>().into_bytes();
    out.push(b'\n');
    for c in text.chars() {
        let byte = |number: usize| u8::try_from(number).map_err(|_| Error::other("too many different letters"));
        match places.get(&c) {
            None => out.push(c as u8),
            Some(&place) if place < SHORT => out.push(byte(0x80 + place)?),
            Some(&place) => out.extend([byte(0x80 + SHORT + (place - SHORT) / 256)?, byte((place - SHORT) % 256)?]),
        }
    }
    Ok(out)
}
