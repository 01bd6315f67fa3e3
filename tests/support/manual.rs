//! The README and the manual as text: what is written in them, page by page, in both languages.

use openai_api_proxy::local::manual::subjects::SUBJECTS;
use std::path::Path;

/// The folders of the two languages.
pub const LANGUAGES: [&str; 2] = ["en", "ja"];

/// A file of the repository.
pub fn read(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// The README's two halves.
pub fn halves() -> [String; 2] {
    let text = read("README.md");
    let (_, both) = text.split_once("\n## English\n").expect("an English half");
    let (english, japanese) = both.split_once("\n## 日本語\n").expect("a Japanese half");
    [english.to_owned(), japanese.to_owned()]
}

/// A page in both languages.
pub fn page(name: &str) -> [String; 2] {
    LANGUAGES.map(|language| read(&format!("src/manual/{language}/{name}.md")))
}

/// The README, and then each page, in the order in which they are read: its name, and its text in both languages.
pub fn documents() -> Vec<(&'static str, [String; 2])> {
    let pages = SUBJECTS.iter().map(|subject| (subject.name, page(subject.name)));
    std::iter::once(("README", halves())).chain(pages).collect()
}

/// Fenced blocks, each with its language on the first line.
pub fn blocks(text: &str) -> Vec<&str> {
    text.split("```").skip(1).step_by(2).collect()
}

/// The blocks in this language of a page's English text, which both languages share (`readme`).
pub fn blocks_of(page_name: &str, language: &str) -> Vec<String> {
    let [english, _] = page(page_name);
    let blocks = blocks(&english).into_iter();
    blocks.filter_map(|block| block.strip_prefix(&format!("{language}\n")).map(str::to_owned)).collect()
}
