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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_counted() {
        for (one, other, count) in
            [("", "", 0), ("", "AB", 2), ("RPM", "RMP", 1), ("RPM", "RPMS", 1), ("RPM", "TPM", 1), ("ABCD", "DCBA", 3)]
        {
            assert_eq!((edit_distance(one, other), edit_distance(other, one)), (count, count), "{one} {other}");
        }
    }
}
