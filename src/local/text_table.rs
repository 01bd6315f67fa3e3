//! Columns of text, aligned for a person who reads them in a terminal.
//!
//! In: cells. Out: lines. A character that takes two places (漢字) counts as two, one that steers the terminal or the
//! direction of what follows as an escape: whatever a user is called, a row stays a row.

use crate::base::visible::visible;
use std::borrow::Cow;
use unicode_width::UnicodeWidthStr as _;

/// A column's head, and where its cells stand.
#[derive(Clone, Copy, Debug)]
pub enum Column<'a> {
    Left(&'a str),
    /// On the left, and of use only as a whole: a time.
    Whole(&'a str),
    Right(&'a str),
}

/// Places of a name that are left of it at least, where lines are too long.
const NAME_WIDTH_MIN: usize = 10;
/// What stands between two columns.
const GAP: &str = "  ";

/// Lays rows out under a head, two spaces between columns, each line ended by `\n`.
pub fn table(columns: &[Column<'_>], rows: &[Vec<String>]) -> String {
    fitted(columns, rows, usize::MAX, &[])
}

/// The same in lines of at most `width` places, as far as that goes: columns with these heads are left out, one by one,
/// then what stands on the left is cut, the longest first, with a `…` for what is gone.
pub fn fitted(columns: &[Column<'_>], rows: &[Vec<String>], width: usize, spared: &[&str]) -> String {
    let mut columns = columns.to_vec();
    let head = columns.iter().map(|column| column.head().to_owned()).collect();
    let mut lines: Vec<Vec<String>> = std::iter::once(&head)
        .chain(rows)
        .map(|line| line.iter().map(|cell| visible(cell).into_owned()).collect())
        .collect();
    let widest = |column: usize| lines.iter().map(|line| line[column].width()).max().unwrap_or(0);
    let mut widths: Vec<usize> = (0..columns.len()).map(widest).collect();
    for head in spared {
        let least = columns.iter().zip(&widths).map(|(column, &width)| column.least(width));
        if line_width(least) <= width {
            break;
        }
        if let Some(at) = columns.iter().position(|column| column.head() == *head) {
            columns.remove(at);
            widths.remove(at);
            lines.iter_mut().for_each(|line| drop(line.remove(at)));
        }
    }
    while line_width(widths.iter().copied()) > width {
        let names = columns.iter().zip(&mut widths).filter(|(column, width)| column.least(**width) < **width);
        let Some((_, longest)) = names.max_by_key(|(_, width)| **width) else { break };
        *longest -= 1;
    }
    let mut out = String::new();
    for line in &lines {
        let cells = line.iter().zip(&columns).zip(&widths).map(|((cell, column), &width)| {
            let cell = cut(cell, width);
            let space = " ".repeat(width - cell.width());
            match column {
                Column::Left(_) | Column::Whole(_) => format!("{cell}{space}"),
                Column::Right(_) => format!("{space}{cell}"),
            }
        });
        out.push_str(cells.collect::<Vec<_>>().join(GAP).trim_end());
        out.push('\n');
    }
    out
}

impl Column<'_> {
    fn head(&self) -> &str {
        let (Self::Left(head) | Self::Whole(head) | Self::Right(head)) = self;
        head
    }

    /// What such a column of this width can be cut to. Of a number and of a time every digit is needed.
    fn least(&self, width: usize) -> usize {
        match self {
            Self::Left(_) => width.min(NAME_WIDTH_MIN.max(self.head().width())),
            Self::Whole(_) | Self::Right(_) => width,
        }
    }
}

fn line_width(widths: impl ExactSizeIterator<Item = usize>) -> usize {
    let gaps = GAP.len() * widths.len().saturating_sub(1);
    widths.sum::<usize>() + gaps
}

/// The text in at most so many places.
fn cut(text: &str, width: usize) -> Cow<'_, str> {
    if text.width() <= width {
        return text.into();
    }
    let mut end = 0;
    for (at, c) in text.char_indices() {
        if text[..at + c.len_utf8()].width() >= width {
            break;
        }
        end = at + c.len_utf8();
    }
    format!("{}…", &text[..end]).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [vec!["太郎".to_owned(), "1".to_owned()], vec!["a".to_owned(), "100".to_owned()]];
        let columns = [Column::Left("USER"), Column::Right("N")];
        assert_eq!(table(&columns, &rows), "USER    N\n太郎    1\na     100\n");
        assert_eq!(table(&[Column::Right("N"), Column::Left("USER")], &[vec![String::new(); 2]]), "N  USER\n\n");
    }

    #[test]
    fn lines_that_are_too_long_lose_what_can_be_spared_and_then_the_ends_of_names() {
        let columns = [Column::Left("USER"), Column::Left("MODEL"), Column::Right("N"), Column::Left("BAR")];
        let row = |user: &str, model: &str| [user, model, "1,000,000", "████"].map(str::to_owned).to_vec();
        let rows = [row("研究室の共有機器", "gpt-4o-2024-08-06"), row("a", "b")];
        let lines = |width| -> Vec<String> {
            fitted(&columns, &rows, width, &["BAR", "MODEL"]).lines().map(str::to_owned).collect()
        };
        assert_eq!(lines(52), table(&columns, &rows).lines().collect::<Vec<_>>());
        assert_eq!(lines(51)[1], "研究室の共有機器  gpt-4o-2024-08-…  1,000,000  ████", "the longest gives first");
        assert_eq!(lines(38)[1], "研究室の共有…  gpt-4o-2024…  1,000,000", "half a letter is none");
        assert_eq!(lines(30)[1], "研究室の共有機器  1,000,000");
        assert_eq!(lines(1)[1], "研究室の…   1,000,000", "no further than this");
        for width in 21..60 {
            assert!(lines(width).iter().all(|line| line.width() <= width), "{width}: {:?}", lines(width));
        }
    }

    #[test]
    fn no_name_steers_the_terminal() {
        let rows = [vec!["\u{1b}[2J\u{202e}\u{61c}a\n".to_owned()]];
        assert_eq!(table(&[Column::Left("U")], &rows), "U\n\\u001b[2J\\u202e\\u061ca\\u000a\n");
    }
}
