//! The watched places of a document, and what the scanner asks of them at each key and value.
//!
//! In: a list, known when the program is compiled. Out: sets of paths, a bit each. Never: a look at the document.

/// Longest watched path.
pub(super) const PATH_KEYS_MAX: usize = 6;
/// Longest watched key, bytes.
pub(super) const WATCHED_BYTES_MAX: usize = 32;
/// Maximum of paths in a list, and of different keys in them: a set is a bit each.
const SET_MAX: usize = u64::BITS as usize;

/// Stands for every element of an array where a path has a key. It never means an object's key of the same spelling, so
/// that nobody can write a document in which one is taken for the other.
pub const EACH: &str = "[]";

/// A watched place: object keys (or [`EACH`]) from the root down, 1 to 6 of them.
#[derive(Debug)]
pub struct Path {
    pub keys: &'static [&'static str],
    /// A value of more raw bytes than this is reported without its bytes.
    pub value_bytes_max: usize,
}

/// A list of watched places, with answers to what the scanner asks at each key and value: a set of paths is a bit each.
#[derive(Debug)]
pub struct Paths {
    pub(super) list: &'static [Path],
    /// Each key once for a level at which it stands.
    keys: [Key; SET_MAX],
    /// The keys (bits) of this level, and those of this length: few are left to compare.
    at_level: [u64; PATH_KEYS_MAX],
    of_length: [u64; WATCHED_BYTES_MAX + 1],
    /// The paths that go on to the elements of an array at this level.
    pub(super) each: [u64; PATH_KEYS_MAX],
    /// The paths of so many keys.
    pub(super) by_keys: [u64; PATH_KEYS_MAX + 1],
}

/// A key, and the paths that have it at its level.
#[derive(Clone, Copy, Debug)]
struct Key {
    text: &'static str,
    paths: u64,
}

impl Paths {
    /// At most 64 paths, of at most 64 different keys; made when the program is compiled.
    ///
    /// # Panics
    /// For more, and for keys or paths that are too long.
    pub const fn new(list: &'static [Path]) -> Self {
        assert!(list.len() <= SET_MAX);
        let mut keys = [Key { text: "", paths: 0 }; SET_MAX];
        let (mut at_level, mut of_length) = ([0; PATH_KEYS_MAX], [0; WATCHED_BYTES_MAX + 1]);
        let (mut each, mut by_keys) = ([0; PATH_KEYS_MAX], [0; PATH_KEYS_MAX + 1]);
        let (mut index, mut known) = (0, 0);
        while index < list.len() {
            let path = list[index].keys;
            assert!(!path.is_empty());
            by_keys[path.len()] |= 1 << index;
            let mut level = 0;
            while level < path.len() {
                let text = path[level];
                if same(text, EACH) {
                    each[level] |= 1 << index;
                } else {
                    let mut key = 0;
                    while key < known && !(at_level[level] & 1 << key != 0 && same(keys[key].text, text)) {
                        key += 1;
                    }
                    if key == known {
                        known += 1;
                    }
                    keys[key] = Key { text, paths: keys[key].paths | 1 << index };
                    at_level[level] |= 1 << key;
                    of_length[text.len()] |= 1 << key;
                }
                level += 1;
            }
            index += 1;
        }
        Self { list, keys, at_level, of_length, each, by_keys }
    }

    /// How many there are.
    pub(crate) const fn len(&self) -> usize {
        self.list.len()
    }

    /// The keys by which they start from the root.
    pub fn first_keys(&self) -> impl Iterator<Item = &'static str> {
        self.list.iter().map(|path| path.keys[0])
    }

    /// Those of `candidates` that have this key at this level.
    pub(super) fn with_key(&self, candidates: u64, level: usize, key: &[u8]) -> u64 {
        let of_length = self.of_length.get(key.len()).copied().unwrap_or(0);
        let mut left = of_length & self.at_level.get(level).copied().unwrap_or(0);
        while left != 0 {
            let watched = &self.keys[left.trailing_zeros() as usize];
            let with_key = watched.paths & candidates;
            if with_key != 0 && watched.text.as_bytes() == key {
                return with_key;
            }
            left &= left - 1;
        }
        0
    }
}

/// Equality, when the program is compiled.
const fn same(one: &str, other: &str) -> bool {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    let mut at = 0;
    while at < one.len() && at < other.len() && one[at] == other[at] {
        at += 1;
    }
    at == one.len() && at == other.len()
}
