//! The watched places of a document, and what the scanner asks of them at each key and value.
//!
//! In: a list, known when the program is compiled. Out: sets of paths, a bit each. Never: a look at the document.

/// Longest watched path.
pub(super) const PATH_KEYS_MAX: usize = 5;
/// Longest watched key, bytes.
pub(super) const WATCHED_BYTES_MAX: usize = 32;

/// Stands for every element of an array where a path has a key. It never means an object's key of the same spelling, so
/// that nobody can write a document in which one is taken for the other.
pub const EACH: &str = "[]";

/// A watched place: object keys (or [`EACH`]) from the root down, 1 to 5 of them.
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
    /// The paths whose key at this level has this length: few are left to compare.
    by_length: [[u64; WATCHED_BYTES_MAX + 1]; PATH_KEYS_MAX],
    /// The paths that go on to the elements of an array at this level.
    pub(super) each: [u64; PATH_KEYS_MAX],
    /// The paths of so many keys.
    pub(super) by_keys: [u64; PATH_KEYS_MAX + 1],
}

impl Paths {
    /// At most 64 paths; made when the program is compiled.
    ///
    /// # Panics
    /// For more, and for keys or paths that are too long.
    pub const fn new(list: &'static [Path]) -> Self {
        assert!(list.len() <= u64::BITS as usize);
        let mut by_length = [[0; WATCHED_BYTES_MAX + 1]; PATH_KEYS_MAX];
        let (mut each, mut by_keys) = ([0; PATH_KEYS_MAX], [0; PATH_KEYS_MAX + 1]);
        let mut index = 0;
        while index < list.len() {
            let keys = list[index].keys;
            assert!(!keys.is_empty());
            by_keys[keys.len()] |= 1 << index;
            let mut level = 0;
            while level < keys.len() {
                let key = keys[level].as_bytes();
                match matches!(key, b"[]") {
                    true => each[level] |= 1 << index,
                    false => by_length[level][key.len()] |= 1 << index,
                }
                level += 1;
            }
            index += 1;
        }
        Self { list, by_length, each, by_keys }
    }

    /// How many there are.
    pub const fn len(&self) -> usize {
        self.list.len()
    }

    /// True where there is none.
    pub const fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Those of `candidates` that have this key at this level.
    pub(super) fn with_key(&self, candidates: u64, level: usize, key: &[u8]) -> u64 {
        let by_length = self.by_length.get(level).and_then(|lengths| lengths.get(key.len()));
        let mut left = candidates & by_length.copied().unwrap_or(0);
        let mut with_key = 0;
        while left != 0 {
            let index = left.trailing_zeros() as usize;
            left &= left - 1;
            with_key |= u64::from(self.list[index].keys[level].as_bytes() == key) << index;
        }
        with_key
    }
}
