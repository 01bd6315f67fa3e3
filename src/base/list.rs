//! Lists in settings: entries that are parted by commas.

/// The most entries of a list.
const ENTRIES_MAX: usize = 256;

/// What is between the commas, each as `entry` makes it; `None` where one of them is none, or there are too many.
pub fn list<T>(text: &str, entry: impl Fn(&str) -> Option<T>) -> Option<Vec<T>> {
    let entries: Option<Vec<T>> = text.split(',').map(|part| entry(part.trim())).collect();
    entries.filter(|entries| entries.len() <= ENTRIES_MAX)
}
