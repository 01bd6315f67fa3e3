//! What is read of the pages is all of them, in a terminal and in a browser.

use super::html::{HelpQuery, answer};
use super::markdown::{Block, Inline, anchor, blocks, inlines, place};
use super::plain::plain;
use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;
use unicode_width::UnicodeWidthStr as _;

const LANGUAGES: [Language; 2] = [Language::English, Language::Japanese];

fn html_of(subject: Option<&'static Subject>, language: Language) -> String {
    let answer = answer(&HelpQuery { subject, language, own: None });
    assert_eq!((answer.status, answer.content_type), (200, "text/html; charset=utf-8"));
    String::from_utf8(answer.body).unwrap()
}

fn page(subject: &Subject, language: Language) -> String {
    Pages::unpacked().page(subject, language).to_owned()
}

#[test]
fn a_name_is_found_and_a_misspelt_one_is_guessed() {
    assert_eq!(subject("tls").map(|subject| subject.name), Some("tls"));
    assert_eq!((subject("TLS"), meant("configuraton"), meant("demonstrate")), (None, Some("configuration"), None));
}

/// Nothing of a page is lost on its way to a terminal, and lines end where it does.
#[test]
fn a_page_fits_a_terminal() {
    for (subject, language) in SUBJECTS.iter().flat_map(|subject| LANGUAGES.map(|language| (subject, language))) {
        let text = page(subject, language);
        let letters = |text: &str| text.chars().filter(|c| c.is_alphanumeric()).collect::<String>();
        for width in [20, 80, 200] {
            let told = plain(&text, width);
            let own_lines = |line: &str| line.starts_with("    ") || line.starts_with("---") || line.starts_with("===");
            for line in told.lines().filter(|line| width >= 80 && !own_lines(line)) {
                let is_one_word = !line.trim().trim_start_matches("- ").contains(' ');
                assert!(line.width() <= width || is_one_word, "{} {width}: {line}", subject.name);
            }
            for code in text.split("```").skip(1).step_by(2) {
                let lines = code.lines().skip(1).filter(|line| !line.trim().is_empty());
                lines.for_each(|line| assert!(told.contains(&format!("    {}", line.trim_end())), "{line}"));
            }
            for block in blocks(&text) {
                let Block::Paragraph(text) = block else { continue };
                let bare = text.split("](").map(|part| part.split_once(')').map_or(part, |(_, rest)| rest));
                let first = letters(bare.take(1).collect::<String>().as_str());
                assert!(letters(&told).contains(&first), "{text}");
            }
        }
    }
}

#[test]
fn a_page_is_whole_in_a_browser_and_its_links_lead_somewhere() {
    for language in LANGUAGES {
        let all: Vec<String> = SUBJECTS.iter().map(|subject| html_of(Some(subject), language)).collect();
        let attributes = |html: &str, name: &str| -> BTreeSet<String> {
            let values = html.split(name).skip(1).map(|rest| rest.split('"').next().unwrap().to_owned());
            values.collect()
        };
        let mut links = 0;
        for (subject, html) in SUBJECTS.iter().zip(&all) {
            for to in attributes(html, "href=\"") {
                if to.contains(':') || to.starts_with('.') {
                    continue; // out of the manual
                }
                let (name, place) = to.split_once('#').unwrap_or((&to, ""));
                let page = if name.is_empty() { subject.name } else { name };
                let at = SUBJECTS.iter().position(|subject| subject.name == page).unwrap_or_else(|| panic!("{to}"));
                let is_there = place.is_empty() || attributes(&all[at], "id=\"").contains(place);
                assert!(is_there, "{}: {to}", subject.name);
                links += 1;
            }
            assert!(!html.contains("](") && !html.contains("**"), "{}: marks are left", subject.name);
        }
        assert!(links > 100, "{links}");
        let errors = &all[SUBJECTS.iter().position(|subject| subject.name == "errors").unwrap()];
        assert!(
            errors.contains("<tr id=\"rate_limit_exceeded\">") && errors.contains("\"configuration#MAX_BODY_BYTES\"")
        );
        let list = html_of(None, language);
        assert!(SUBJECTS.iter().all(|subject| list.contains(&format!("<a href=\"{0}\">{0}</a>", subject.name))));
    }
}

#[test]
fn the_subset_of_markdown_is_read() {
    let page = "# A\n\nOne\ntwo `|`\n- x\n  y\n  - z\n\n日本\n語\n\n> q\n> r\n\n```sh\na | b\n```\n| h | |\n|---|---|\n| 1 | |\n## B c\n";
    let found = blocks(page);
    assert_eq!(
        found,
        [
            Block::Heading { level: 1, text: "A" },
            Block::Paragraph("One two `|`".to_owned()),
            Block::Item { depth: 0, text: "x y".to_owned() },
            Block::Item { depth: 1, text: "z".to_owned() },
            Block::Paragraph("日本語".to_owned()),
            Block::Quote("q r".to_owned()),
            Block::Code("a | b\n"),
            Block::Table { head: vec!["h", ""], rows: vec![vec!["1", ""]] },
            Block::Heading { level: 2, text: "B c" },
        ]
    );
    assert_eq!(
        inlines("a `b` **c** *d* [e `f`](g.md#h) <http://i> 2 * 3 `"),
        [
            Inline::Text("a "),
            Inline::Code("b"),
            Inline::Text(" "),
            Inline::Strong("c"),
            Inline::Text(" "),
            Inline::Emphasis("d"),
            Inline::Text(" "),
            Inline::Link { text: "e `f`", to: "g.md#h" },
            Inline::Text(" "),
            Inline::Link { text: "http://i", to: "http://i" },
            Inline::Text(" 2 * 3 `"),
        ]
    );
    assert_eq!((place("g.md#h"), place("#h"), place("../x.rs")), (Some(("g", "h")), Some(("", "h")), None));
    assert_eq!(
        (anchor("Keys, and who"), anchor("何を数え、どこまで")),
        ("keys-and-who".into(), "何を数えどこまで".into())
    );
}

proptest! {
    /// Whatever is written: no panic, and no letter is lost.
    #[test]
    fn any_text_is_read(text in "[-a`*\\[\\]()<>|# \\n日、]{0,60}", width in 1_usize..40) {
        let count = |text: &str| text.chars().filter(|c| "a日、".contains(*c)).count();
        let without_links = !text.contains(']') && !text.contains('|');
        let told = plain(&text, width);
        prop_assert!(!without_links || text.contains("```") || count(&told) == count(&text), "{told}");
    }
}
