//! The Markdown that the manual is written in, and no more of it: headings, paragraphs, lists, quotations, tables and
//! fenced blocks; in a line code, strong and emphasised text, and links.
//!
//! In: a page. Out: its [`Block`]s, and of a text its [`Inline`]s. What is not closed is taken for letters.

use unicode_width::UnicodeWidthChar as _;

/// A part of a page, from top to bottom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Block<'p> {
    /// `#` is of level 1.
    Heading {
        level: usize,
        text: &'p str,
    },
    /// A fenced block's lines, each ended by `\n`.
    Code(&'p str),
    /// Cells as they are written, as many in each row as in the head.
    Table {
        head: Vec<&'p str>,
        rows: Vec<Vec<&'p str>>,
    },
    /// An item of a list, `depth` levels within another.
    Item {
        depth: usize,
        text: String,
    },
    Quote(String),
    Paragraph(String),
}

/// A part of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inline<'p> {
    Text(&'p str),
    Code(&'p str),
    Strong(&'p str),
    Emphasis(&'p str),
    /// The text has parts of its own.
    Link {
        text: &'p str,
        to: &'p str,
    },
}

/// A page's parts.
pub fn blocks(page: &str) -> Vec<Block<'_>> {
    let (mut blocks, mut rest) = (Vec::new(), page);
    while let Some((line, after)) = cut_line(rest) {
        rest = after;
        if line.starts_with("```") {
            let length = rest.find("\n```").map_or(rest.len(), |at| at + 1);
            blocks.push(Block::Code(&rest[..length]));
            rest = cut_line(&rest[length..]).map_or("", |(_, after)| after);
        } else if line.starts_with('#') {
            let text = line.trim_start_matches('#');
            blocks.push(Block::Heading { level: line.len() - text.len(), text: text.trim() });
        } else if line.starts_with('|') {
            take_row(&mut blocks, line);
        } else if let Some(text) = line.strip_prefix('>') {
            match blocks.last_mut() {
                Some(Block::Quote(quoted)) => join(quoted, text),
                _ => blocks.push(Block::Quote(text.trim().to_owned())),
            }
        } else if let Some(text) = line.trim_start().strip_prefix("- ") {
            let depth = (line.len() - line.trim_start().len()) / 2;
            blocks.push(Block::Item { depth, text: text.trim().to_owned() });
        } else {
            match blocks.last_mut() {
                Some(Block::Paragraph(text) | Block::Item { text, .. }) if !line.is_empty() => join(text, line),
                // An empty line ends what was before it.
                _ => blocks.push(Block::Paragraph(line.trim().to_owned())),
            }
        }
    }
    blocks.retain(|block| !matches!(block, Block::Paragraph(text) if text.is_empty()));
    blocks
}

/// The first line, and what follows it.
fn cut_line(text: &str) -> Option<(&str, &str)> {
    (!text.is_empty()).then(|| text.split_once('\n').unwrap_or((text, "")))
}

/// Takes a row into the table that it belongs to, or begins one with it.
fn take_row<'p>(blocks: &mut Vec<Block<'p>>, line: &'p str) {
    let row = line.strip_prefix('|').unwrap_or(line);
    let cells = row.strip_suffix('|').unwrap_or(row).split('|').map(str::trim).collect::<Vec<_>>();
    match blocks.last_mut() {
        Some(Block::Table { .. }) if line.starts_with("|--") => {}
        Some(Block::Table { head, rows }) if head.len() == cells.len() => rows.push(cells),
        _ => blocks.push(Block::Table { head: cells, rows: Vec::new() }),
    }
}

/// Appends a line to a text. A language that writes without spaces has none at the end of a line either.
fn join(text: &mut String, line: &str) {
    let line = line.trim();
    let is_wide = |c: Option<char>| c.is_some_and(|c| c.width() == Some(2));
    if !text.is_empty() && !is_wide(text.chars().next_back()) && !is_wide(line.chars().next()) {
        text.push(' ');
    }
    text.push_str(line);
}

/// A text's parts.
pub fn inlines(text: &str) -> Vec<Inline<'_>> {
    let (mut parts, mut rest, mut plain) = (Vec::new(), text, 0);
    while plain < rest.len() {
        let Some((part, length)) = marked(&rest[plain..]) else {
            plain += rest[plain..].chars().next().map_or(1, char::len_utf8);
            continue;
        };
        if plain > 0 {
            parts.push(Inline::Text(&rest[..plain]));
        }
        parts.push(part);
        (rest, plain) = (&rest[plain + length..], 0);
    }
    if !rest.is_empty() {
        parts.push(Inline::Text(rest));
    }
    parts
}

/// The marked part at the beginning of a text, and how long it is with its marks.
fn marked(text: &str) -> Option<(Inline<'_>, usize)> {
    let between = |open: &str, close: &str| {
        let inside = text.strip_prefix(open)?;
        let end = inside.find(close).filter(|&end| end > 0)?;
        Some((&inside[..end], open.len() + end + close.len()))
    };
    match text.as_bytes().first()? {
        b'`' => between("`", "`").map(|(code, length)| (Inline::Code(code), length)),
        b'*' if text.starts_with("**") => between("**", "**").map(|(strong, length)| (Inline::Strong(strong), length)),
        b'*' => between("*", "*").map(|(stressed, length)| (Inline::Emphasis(stressed), length)),
        b'<' => between("<", ">").map(|(to, length)| (Inline::Link { text: to, to }, length)),
        b'[' => {
            let (linked, length) = between("[", "](")?;
            let to = &text[length..];
            let end = to.find(')')?;
            Some((Inline::Link { text: linked, to: &to[..end] }, length + end + 1))
        }
        _ => None,
    }
}

/// What a link in a page leads to: another page (by its name) and a place in it, or this page and a place. `None` where
/// it leads out of the manual.
pub fn place(to: &str) -> Option<(&str, &str)> {
    let (file, anchor) = to.split_once('#').unwrap_or((to, ""));
    match file.strip_suffix(".md") {
        Some(name) => Some((name, anchor)),
        None => file.is_empty().then_some(("", anchor)),
    }
}

/// A heading's place, as GitHub names it.
pub fn anchor(heading: &str) -> String {
    let lower = heading.to_lowercase();
    let kept = lower.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}
