//! A queue of bytes: appended at the back, consumed from the front, contiguous to read.
//!
//! An empty buffer holds no memory, so that an idle connection costs only its slot. A few pieces of memory wait for the
//! next buffer that needs one.

/// Pieces of memory that are kept for others.
const SPARES_MAX: usize = 16;
/// Largest of them, bytes: an event of a stream, or a short answer with its head, leaves no larger one behind.
const SPARE_BYTES_MAX: usize = 16 * 1024;

/// Below this many consumed bytes at the front, moving the rest down is not worth it.
const COMPACT_MIN: usize = 4096;

/// A contiguous first-in-first-out queue of bytes.
///
/// ```text
///   bytes:  | consumed | waiting            |
///           0          start                bytes.len()
/// ```
#[derive(Default)]
pub struct Buffer {
    bytes: Vec<u8>,
    start: usize,
}

/// How many bytes wait, not which: they may be somebody's key.
impl std::fmt::Debug for Buffer {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{} bytes", self.len())
    }
}

impl Buffer {
    /// An empty buffer without memory.
    pub const fn new() -> Self {
        Self { bytes: Vec::new(), start: 0 }
    }

    /// The bytes that wait.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// How many bytes wait.
    pub fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// True where nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds bytes at the back.
    pub fn append(&mut self, bytes: &[u8]) {
        self.tail().extend_from_slice(bytes);
    }

    /// The back of the queue, to write into: everything pushed onto it is appended. What is there must stay.
    pub fn tail(&mut self) -> &mut Vec<u8> {
        if self.start >= COMPACT_MIN && self.start * 2 >= self.bytes.len() {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        &mut self.bytes
    }

    /// The same, in the memory of a spare where it has none of its own.
    pub fn tail_from(&mut self, spares: &mut Spares) -> &mut Vec<u8> {
        if self.bytes.capacity() == 0 {
            self.bytes = spares.0.pop().unwrap_or_default();
        }
        self.tail()
    }

    /// Drops `count` bytes from the front. Memory is given back when nothing is left.
    ///
    /// # Panics
    /// Where fewer bytes wait.
    pub fn consume(&mut self, count: usize) {
        drop(self.consumed(count));
    }

    /// The same, with memory given to the spares.
    ///
    /// # Panics
    /// Where fewer bytes wait.
    pub fn consume_to(&mut self, spares: &mut Spares, count: usize) {
        let memory = self.consumed(count);
        spares.put(memory);
    }

    /// Drops bytes; the memory of all, where nothing is left.
    fn consumed(&mut self, count: usize) -> Vec<u8> {
        assert!(count <= self.len(), "consumed more than waits");
        self.start += count;
        if self.start < self.bytes.len() { Vec::new() } else { std::mem::take(self).bytes }
    }

    /// Drops from the back what is beyond `count` bytes. Memory is given back when nothing is left.
    pub fn truncate(&mut self, count: usize) {
        self.bytes.truncate(self.start.saturating_add(count));
        self.consume(0);
    }

    /// Drops everything and gives the memory back.
    pub fn clear(&mut self) {
        *self = Self::new();
    }
}

/// Memory of buffers that have become empty, for the next ones: what goes through at once needs no allocation. Few
/// pieces, none of them large, whatever the number of connections.
#[derive(Default)]
pub struct Spares(Vec<Vec<u8>>);

impl Spares {
    fn put(&mut self, mut memory: Vec<u8>) {
        if self.0.len() < SPARES_MAX && (1..=SPARE_BYTES_MAX).contains(&memory.capacity()) {
            memory.clear();
            self.0.push(memory);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn empty_holds_no_memory() {
        let mut buffer = Buffer::new();
        buffer.append(b"abc");
        buffer.consume(3);
        assert_eq!(buffer.bytes.capacity(), 0);
    }

    #[test]
    fn spares_are_few_small_and_empty() {
        let (mut spares, sizes) = (Spares::default(), [SPARE_BYTES_MAX + 1, SPARE_BYTES_MAX, 10, 0]);
        let filled = |size| Buffer { bytes: vec![7; size], start: 0 };
        for size in sizes {
            filled(size).consume_to(&mut spares, size);
        }
        let kept: Vec<usize> = spares.0.iter().map(Vec::capacity).collect();
        assert_eq!(kept, [SPARE_BYTES_MAX, 10]);
        let mut buffer = Buffer::new();
        assert_eq!(*buffer.tail_from(&mut spares), b"");
        assert_eq!((buffer.bytes.capacity(), spares.0.len()), (10, 1));
        buffer.append(b"abc");
        assert_eq!(*buffer.tail_from(&mut spares), b"abc", "it has memory of its own");
        buffer.consume_to(&mut spares, 2);
        assert_eq!((buffer.as_slice(), spares.0.len()), (&b"c"[..], 1));
        buffer.consume_to(&mut spares, 1);
        buffer.tail_from(&mut spares);
        buffer.consume_to(&mut spares, 0);
        assert_eq!((buffer.bytes.capacity(), spares.0.len()), (0, 2), "nothing was written");
        for _ in 0..2 * SPARES_MAX {
            filled(5).consume_to(&mut spares, 5);
        }
        assert_eq!(spares.0.len(), SPARES_MAX);
    }

    proptest! {
        /// Against the obvious model: any order of appends, consumes and truncations reads the same bytes in the same
        /// order, and nothing at all holds no memory.
        #[test]
        fn is_a_queue(steps in proptest::collection::vec((0..5, 0usize..6000), 1..60)) {
            let (mut buffer, mut model, mut next) = (Buffer::new(), Vec::new(), 0u8);
            for (step, count) in steps {
                match step {
                    0 | 1 => {
                        let bytes: Vec<u8> = (0..count).map(|_| { next = next.wrapping_add(1); next }).collect();
                        buffer.append(&bytes);
                        model.extend_from_slice(&bytes);
                    }
                    2 | 3 => {
                        let count = count.min(model.len());
                        buffer.consume(count);
                        model.drain(..count);
                    }
                    _ => {
                        buffer.truncate(count);
                        model.truncate(count);
                        prop_assert!(!model.is_empty() || buffer.bytes.capacity() == 0);
                    }
                }
                prop_assert_eq!(buffer.as_slice(), &model[..]);
            }
        }
    }
}
