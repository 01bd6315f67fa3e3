//! Columns of text, aligned for a person who reads them in a terminal.
//!
//! In: cells. Out: lines. A character that takes two places (漢字) counts as two, one that steers the terminal or the
//! direction of what follows as an escape: whatever a user is called, a row stays a row.

use crate::base::visible::visible;
use unicode_width::UnicodeWidthStr as _;

/// A column's head, and where its cells stand.
#[derive(Clone, Copy, Debug)]
pub enum Column<'a> {
    Left(&'a str),
    Right(&'a str),
}

/// Lays rows out under a head, two spaces between columns, each line ended by `\n`.
pub fn table(columns: &[Column<'_>], rows: &[Vec<String>]) -> String {
    let head = columns.iter().map(|(Column::Left(head) | Column::Right(head))| (*head).to_owned()).collect();
    let lines: Vec<Vec<String>> = std::iter::once(&head)
        .chain(rows)
        .map(|line| line.iter().map(|cell| visible(cell).into_owned()).collect())
        .collect();
    let width = |column: usize| lines.iter().map(|line| line[column].width()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let mut out = String::new();
    for line in &lines {
        let cells = line.iter().zip(columns).zip(&widths).map(|((cell, column), width)| {
            let space = " ".repeat(width - cell.width());
            match column {
                Column::Left(_) => format!("{cell}{space}"),
                Column::Right(_) => format!("{space}{cell}"),
            }
        });
        out.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        out.push('\n');
    }
    out
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
    fn no_name_steers_the_terminal() {
        let rows = [vec!["\u{1b}[2J\u{202e}\u{61c}a\n".to_owned()]];
        assert_eq!(table(&[Column::Left("U")], &rows), "U\n\\u001b[2J\\u202e\\u061ca\\u000a\n");
    }
}
