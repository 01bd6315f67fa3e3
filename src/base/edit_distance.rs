//! How far two words are apart, for whoever has misspelt one of them.

/// How many slips turn one into the other (a byte left out, put in, taken for another, or two that have changed
/// places): the restricted Damerau-Levenshtein distance.
pub fn edit_distance(one: &str, other: &str) -> usize {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=other.len()).collect();
    for (i, &a) in one.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, &b) in other.iter().enumerate() {
            let mut least = (last[j] + usize::from(a != b)).min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && a == other[j - 1] && one[i - 1] == b {
                least = least.min(before[j - 1] + 1);
            }
            row.push(least);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[other.len()]
}

/// The name that was probably meant: the one with the fewest slips, of less than half of its letters, as more are
/// another word.
pub fn nearest<'n>(word: &str, known: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    // What is far longer is not near: nobody's length is worth the work.
    let known = known.filter(|known| word.len() <= known.len() * 2);
    let (slips, near) = known.map(|known| (edit_distance(word, known), known)).min()?;
    (slips * 2 < near.len()).then_some(near)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_is_meant_where_it_is_near() {
        let of = |word: &str| nearest(word, ["usage", "limits", "log"].into_iter());
        assert_eq!((of("usgae"), of("limit"), of("lgo")), (Some("usage"), Some("limits"), Some("log")));
        assert_eq!((of("fleet"), of(""), nearest("a", [].into_iter())), (None, None, None));
        assert_eq!(of(&"log".repeat(10_000_000)), None, "and that is soon known");
    }

    #[test]
    fn slips_are_counted() {
        for (one, other, count) in
            [("", "", 0), ("", "AB", 2), ("RPM", "RMP", 1), ("RPM", "RPMS", 1), ("RPM", "TPM", 1), ("ABCD", "DCBA", 3)]
        {
            assert_eq!((edit_distance(one, other), edit_distance(other, one)), (count, count), "{one} {other}");
        }
    }
}
