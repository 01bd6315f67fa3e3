//! The manual for a browser: `/help/` with the list of its pages, and `/help/SUBJECT`.
//!
//! In: what is asked. Out: the [`Answer`]. The name of a setting, of a metric or of an error's code leads to the row
//! that tells of it, wherever it stands.

use super::markdown::{Block, Inline, anchor, blocks, inlines, place};
use super::subjects::{SUBJECTS, Subject};
use super::{Pages, subject};
use crate::local::Answer;
use crate::local::document::document;
use crate::local::language::Language;
use maud::{Markup, html};
use std::collections::BTreeMap;

/// What is asked of the manual.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HelpQuery {
    /// Its page; none for the list.
    pub subject: Option<&'static Subject>,
    pub language: Language,
    /// Who asks, where that is the holder of a key.
    pub own: Option<String>,
}

/// The pages that have a row for each name, which has its place there.
const REFERENCES: [&str; 3] = ["configuration", "errors", "metrics"];

/// The page.
pub fn answer(query: &HelpQuery) -> Answer {
    let HelpQuery { subject, language, .. } = query;
    let (title, main) = match subject {
        None => (language.say("Manual").to_owned(), contents(*language)),
        Some(subject) => told(subject, *language),
    };
    let head = html! {
        div {
            h1 { (title) }
            p { a href="../dashboard" { (language.say("Usage")) } " " a href="./" { (language.say("Manual")) } }
        }
    };
    let foot = html! { p { "proxy-server " (env!("CARGO_PKG_VERSION")) } };
    document(200, *language, &title, &head, &main, &foot)
}

fn contents(language: Language) -> Markup {
    let about = |subject: &Subject| match language {
        Language::English => subject.about[0],
        Language::Japanese => subject.about[1],
    };
    html! { section { ul { @for subject in SUBJECTS {
        li { a href=(subject.name) { (subject.name) } " – " (about(subject)) }
    } } } }
}

/// A page's title and the rest of it.
fn told(of: &'static Subject, language: Language) -> (String, Markup) {
    let pages = Pages::unpacked();
    let mut rows = BTreeMap::new();
    for (name, subject) in REFERENCES.into_iter().filter_map(|name| Some((name, subject(name)?))) {
        for block in blocks(pages.page(subject, language)) {
            let Block::Table { rows: found, .. } = block else { continue };
            rows.extend(found.iter().filter_map(|row| Some((defined(name, row)?, name))));
        }
    }
    let writer = Writer { name: of.name, rows };
    let (mut title, mut sections, mut parts) = (of.name, Vec::new(), Vec::new());
    let all = blocks(pages.page(of, language));
    for block in &all {
        match block {
            Block::Heading { level: 1, text } => title = text,
            Block::Heading { .. } => {
                sections.push(std::mem::take(&mut parts));
                parts.push(block);
            }
            _ => parts.push(block),
        }
    }
    sections.push(parts);
    let main = html! { @for section in sections.iter().filter(|section| !section.is_empty()) {
        section.manual { @for run in section.chunk_by(|one, other| is_item(one) && is_item(other)) {
            @if is_item(run[0]) { ul { @for item in run { (writer.block(item)) } } }
            @else { (writer.block(run[0])) }
        } }
    } };
    (title.to_owned(), main)
}

fn is_item(block: &Block<'_>) -> bool {
    matches!(block, Block::Item { .. })
}

/// The name that a row of this page tells of, if it is one.
fn defined<'r>(page: &str, row: &[&'r str]) -> Option<&'r str> {
    let name = |cell: &'r str| {
        let code = cell.strip_prefix('`')?.split('`').next()?;
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        (code.len() > 2 && code.chars().all(is_name)).then_some(code)
    };
    match page {
        "errors" => name(row.get(1)?),
        "configuration" | "metrics" => name(row.first()?),
        _ => None,
    }
}

/// Writes a page's parts.
struct Writer<'p> {
    /// The page.
    name: &'static str,
    /// Names that have a row of their own, each with its page.
    rows: BTreeMap<&'p str, &'static str>,
}

impl Writer<'_> {
    fn block(&self, block: &Block<'_>) -> Markup {
        match block {
            Block::Heading { text, .. } => html! { h2 id=(anchor(text)) { (self.text(text)) } },
            Block::Code(lines) => html! { pre tabindex="0" { code { (lines) } } },
            Block::Item { depth, text } => html! { li.within[*depth > 0] { (self.text(text)) } },
            Block::Quote(text) => html! { blockquote { (self.text(text)) } },
            Block::Paragraph(text) => html! { p { (self.text(text)) } },
            Block::Table { head, rows } => html! { div.scroll tabindex="0" { table {
                thead { tr { @for cell in head { th scope="col" { (self.text(cell)) } } } }
                tbody { @for row in rows { tr id=[defined(self.name, row)] {
                    @for cell in row { td { (self.text(cell)) } }
                } } }
            } } },
        }
    }

    fn text(&self, text: &str) -> Markup {
        html! { @for part in inlines(text) { @match part {
            Inline::Text(text) => (text),
            Inline::Code(code) => (self.code(code)),
            Inline::Strong(text) => strong { (self.text(text)) },
            Inline::Emphasis(text) => em { (self.text(text)) },
            Inline::Link { text, to } => (self.link(text, to)),
        } } }
    }

    /// A name that has a row leads there, but from that row's own page, which has it before the reader's eyes.
    fn code(&self, code: &str) -> Markup {
        match self.rows.get(code).filter(|page| **page != self.name) {
            Some(page) => html! { a href={ (page) "#" (code) } { code { (code) } } },
            None => html! { code { (code) } },
        }
    }

    fn link(&self, text: &str, to: &str) -> Markup {
        let text = html! { @for part in inlines(text) { @match part {
            Inline::Code(code) => code { (code) },
            Inline::Text(text) | Inline::Strong(text) | Inline::Emphasis(text) | Inline::Link { text, .. } => (text),
        } } };
        match place(to) {
            Some((page, "")) => html! { a href=(page) { (text) } },
            Some((page, anchor)) => html! { a href={ (page) "#" (anchor) } { (text) } },
            None if to.starts_with("http") => html! { a href=(to) { (text) } },
            // A file of the sources is not here.
            None => text,
        }
    }
}
