//! Columns of text, aligned for a person to read.

/// Lays rows out under a head, two spaces between columns, each line ended by `\n`. A cell's width is its number of
/// characters.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let head: Vec<String> = head.iter().map(|&cell| cell.to_owned()).collect();
    let lines = || std::iter::once(&head).chain(rows);
    let width = |column: usize| lines().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut out = String::new();
    for line in lines() {
        let cells = line.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}"));
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
        let rows = [vec!["太郎".to_owned(), "1".to_owned()], vec!["a".to_owned(), String::new()]];
        assert_eq!(table(&["USER", "N"], &rows), "USER  N\n太郎    1\na\n");
    }
}
