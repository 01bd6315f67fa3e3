//! A page of the manual as plain text, for a terminal.
//!
//! In: a page as Markdown, the width of its lines. Out: text. Only blocks of code and tables of numbers may be wider,
//! as they have lines of their own.

use super::markdown::{Block, Inline, blocks, inlines, place};
use crate::local::text_table::{Column, table};
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

/// What does not begin a line in Japanese (JIS X 4051), of what the manual uses.
const NEVER_FIRST: &str = "、。，．）」』】・ー！？…：；ぁぃぅぇぉっゃゅょァィゥェォッャュョ";
/// What does not end one.
const NEVER_LAST: &str = "（「『【";

/// The page in lines of at most `width` places.
pub fn plain(page: &str, width: usize) -> String {
    let (mut out, mut in_list) = (String::new(), false);
    for block in blocks(page) {
        let is_item = matches!(block, Block::Item { .. });
        if !(out.is_empty() || is_item && in_list) {
            out.push('\n');
        }
        in_list = is_item;
        match block {
            Block::Heading { level, text } => {
                let text = unmarked(text);
                let rule = if level == 1 { "=" } else { "-" };
                out.push_str(&format!("{text}\n{}\n", rule.repeat(text.width())));
            }
            Block::Code(lines) => lines.lines().for_each(|line| {
                out.push_str(format!("    {line}").trim_end());
                out.push('\n');
            }),
            Block::Table { head, rows } => out.push_str(&told_table(&head, &rows, width)),
            Block::Item { depth, text } => {
                let indent = "  ".repeat(depth);
                wrap(&mut out, &unmarked(&text), width, &format!("{indent}- "), &format!("{indent}  "));
            }
            Block::Quote(text) => wrap(&mut out, &unmarked(&text), width, "  ", "  "),
            Block::Paragraph(text) => wrap(&mut out, &unmarked(&text), width, "", ""),
        }
    }
    out
}

/// A table: as one where it fits, else each row as a name with what is said of it below.
fn told_table(head: &[&str], rows: &[Vec<&str>], width: usize) -> String {
    let cell = |cell: &&str| unmarked(cell);
    let heads: Vec<String> = head.iter().map(cell).collect();
    let columns: Vec<Column<'_>> = heads.iter().map(|head| Column::Left(head)).collect();
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(cell).collect()).collect();
    let aligned = table(&columns, &rows);
    if aligned.lines().all(|line| line.width() <= width) {
        return aligned;
    }
    let mut out = String::new();
    for row in rows {
        wrap(&mut out, &row[0], width, "", "");
        for (head, cell) in heads.iter().zip(&row).skip(1).filter(|(_, cell)| !cell.is_empty()) {
            // Of two columns the second needs no name.
            let named = if row.len() > 2 { format!("{head}: {cell}") } else { cell.clone() };
            wrap(&mut out, &named, width, "    ", "    ");
        }
    }
    out
}

/// A text without its marks but for those of code, and with the pages that its links lead to.
fn unmarked(text: &str) -> String {
    let mut out = String::new();
    for part in inlines(text) {
        match part {
            Inline::Text(text) => out.push_str(text),
            Inline::Code(code) => out.push_str(&format!("`{code}`")),
            Inline::Strong(text) | Inline::Emphasis(text) => out.push_str(&unmarked(text)),
            Inline::Link { text, to } => {
                out.push_str(&unmarked(text));
                if let Some((page, _)) = place(to).filter(|(page, _)| !page.is_empty()) {
                    out.push_str(&format!(" (help {page})"));
                }
            }
        }
    }
    out
}

/// Writes a text in lines of at most `width` places, as far as its words allow: the first begins with `first`, the
/// others with `others`.
fn wrap(out: &mut String, text: &str, width: usize, first: &str, others: &str) {
    let (mut line, mut is_empty) = (first.to_owned(), true);
    for word in words(text) {
        let gap = if is_empty { "" } else { word.gap };
        if !is_empty && line.width() + gap.width() + word.text.width() > width {
            out.push_str(&line);
            out.push('\n');
            line = format!("{others}{}", word.text);
        } else {
            line.push_str(gap);
            line.push_str(&word.text);
        }
        is_empty = false;
    }
    out.push_str(line.trim_end());
    out.push('\n');
}

/// What is not parted, and what is before it where it does not begin a line.
struct Word {
    gap: &'static str,
    text: String,
}

/// A text's words. A letter of two places is one by itself, but for signs that stay with their neighbours.
fn words(text: &str) -> Vec<Word> {
    let (mut words, mut gap) = (Vec::<Word>::new(), "");
    let mut was_wide = false;
    for c in text.chars() {
        if c == ' ' {
            (gap, was_wide) = (" ", false);
            continue;
        }
        let is_wide = c.width() == Some(2);
        let sticks = |last: &Word| {
            let is_bound = NEVER_FIRST.contains(c) || last.text.ends_with(|last| NEVER_LAST.contains(last));
            gap.is_empty() && (is_bound || !is_wide && !was_wide)
        };
        match words.last_mut().filter(|last| sticks(last)) {
            Some(last) => last.text.push(c),
            None => words.push(Word { gap: std::mem::take(&mut gap), text: c.to_string() }),
        }
        was_wide = is_wide;
    }
    words
}
