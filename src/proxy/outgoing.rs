//! The bytes of one request on their way to the target.
//!
//! In: a head, a body that is held and edited, what streams through. Out: the next bytes; all of them once more, where
//! none of the stream have left. Never: a connection.

use crate::base::buffer::Buffer;
use crate::http::body::BodyReader;
use crate::usage::splice::{Splice, write_spliced};
use std::sync::Arc;

/// A held body up to this size travels in one piece with its head: one copy, but one write and one TLS record.
pub const COALESCE_BYTES_MAX: usize = 16 * 1024;

/// The bytes for the target: the head, then a held body, then what streams through.
#[derive(Default)]
pub struct Outgoing {
    pub head: Vec<u8>,
    pub body: Vec<u8>,
    /// Bytes of `body` that have been moved into `head`.
    body_start: usize,
    pub stream: Buffer,
    /// Bytes of memory of a held body that went into `head`.
    joined_bytes: usize,
    /// What of [`Outgoing::held_bytes`] is in the sum of all.
    pub counted: usize,
    /// Whose held body it is, where it is held.
    pub holder: Option<Arc<str>>,
    /// The body does not fit beside the others that are held: its client is not read from.
    pub paused: bool,
    /// Bytes of the held body that were here when all holders were looked at.
    pub looked_at: usize,
    /// Bytes of head and body that were taken.
    sent: usize,
    /// Bytes of the stream were taken: they are gone, nothing can be sent again.
    stream_sent: bool,
}

impl Outgoing {
    /// Memory that the held body takes in addition for `more` bytes, where it can have `most` in the end: it doubles,
    /// and takes all of it once half is here.
    pub fn growth(&self, more: usize, most: usize) -> usize {
        let (length, capacity) = (self.body.len(), self.body.capacity());
        let needed = length.saturating_add(more);
        if needed <= capacity {
            return 0;
        }
        let next = if needed >= most / 2 { most } else { capacity.saturating_mul(2).min(most) };
        needed.max(next) - capacity
    }

    /// Holds bytes of the body; `most` as in [`Outgoing::growth`].
    pub fn hold(&mut self, data: &[u8], most: usize) {
        let spare = self.body.capacity() - self.body.len();
        self.body.reserve_exact(spare + self.growth(data.len(), most));
        self.body.extend_from_slice(data);
    }

    /// Memory that the held body occupies, bytes.
    pub fn held_bytes(&self) -> usize {
        self.body.capacity() + self.joined_bytes
    }

    /// The body is whole: makes its edits, none of which is behind its first [`COALESCE_BYTES_MAX`], and joins it to
    /// the head as far as that is worth it.
    pub fn finish_body(&mut self, splices: &[Splice]) {
        let added: usize = splices.iter().map(|splice| splice.with.len()).sum();
        let edited = splices.last().map_or(0, |splice| splice.at.end);
        let head_bytes = self.head.capacity();
        if self.body.len() <= COALESCE_BYTES_MAX {
            self.head.reserve_exact(self.body.len() + added);
            write_spliced(&mut self.head, &self.body, splices);
            self.body = Vec::new();
        } else {
            self.head.reserve_exact(edited + added);
            write_spliced(&mut self.head, &self.body[..edited], splices);
            self.body_start = edited;
        }
        self.joined_bytes = self.head.capacity() - head_bytes;
    }

    /// The next bytes to send; empty where none are here now.
    pub fn next(&self) -> &[u8] {
        if self.sent < self.head.len() {
            return &self.head[self.sent..];
        }
        let body = self.body.get(self.body_start + self.sent - self.head.len()..).unwrap_or_default();
        if body.is_empty() { self.stream.as_slice() } else { body }
    }

    /// `count` of the bytes that [`Outgoing::next`] gave were taken.
    pub fn advance(&mut self, count: usize) {
        if self.sent < self.fixed_bytes() {
            self.sent += count;
        } else {
            self.stream.consume(count);
            self.stream_sent |= count > 0;
        }
    }

    /// Takes all of head and held body, sent or not.
    pub fn take_all(&mut self) -> Vec<u8> {
        let mut all = std::mem::take(&mut self.head);
        all.extend_from_slice(&self.body[self.body_start..]);
        self.forget_held();
        all
    }

    /// Takes back the last bytes of what streams through, which were not taken yet.
    pub fn take_back(&mut self, count: usize) {
        self.stream.truncate(self.stream.len() - count);
    }

    /// What streams through and was not taken yet.
    pub fn take_stream(&mut self) -> Buffer {
        std::mem::take(&mut self.stream)
    }

    /// True where all bytes that are here were taken.
    pub fn is_sent(&self) -> bool {
        self.sent >= self.fixed_bytes() && self.stream.is_empty()
    }

    /// True where everything from the first byte on is still here.
    pub fn is_replayable(&self) -> bool {
        !self.stream_sent && !self.head.is_empty()
    }

    /// Starts again from the first byte.
    pub fn rewind(&mut self) {
        self.sent = 0;
    }

    /// Gives the memory back of what was sent, once nothing can need it again.
    pub fn forget_sent(&mut self) {
        if self.sent >= self.fixed_bytes() {
            self.forget_held();
        }
    }

    /// Gives the memory of head and held body back, sent or not.
    pub fn forget_held(&mut self) {
        (self.head, self.body, self.body_start, self.sent) = (Vec::new(), Vec::new(), 0, 0);
        self.joined_bytes = 0;
    }

    fn fixed_bytes(&self) -> usize {
        self.head.len() + self.body.len() - self.body_start
    }
}

/// The most bytes that a held body can have in the end, of which so many are here.
pub fn body_bytes_max(max: u64, reader: &BodyReader, have: usize) -> usize {
    match reader {
        BodyReader::Length(left) => usize::try_from(*left).unwrap_or(usize::MAX).saturating_add(have),
        BodyReader::Chunked(_) | BodyReader::Close => usize::try_from(max).unwrap_or(usize::MAX).max(have),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usage::splice::splice_far;

    fn drain(outgoing: &mut Outgoing, step: usize) -> Vec<u8> {
        let mut sent = Vec::new();
        while !outgoing.next().is_empty() {
            let take = outgoing.next().len().min(step);
            sent.extend_from_slice(&outgoing.next()[..take]);
            outgoing.advance(take);
        }
        sent
    }

    fn edit(at: std::ops::Range<usize>, with: &str) -> Splice {
        Splice { at, with: with.into(), asks: false }
    }

    #[test]
    fn head_body_and_stream_leave_in_order_and_again_after_a_rewind() {
        for (body_bytes, late) in [0, 5, COALESCE_BYTES_MAX, COALESCE_BYTES_MAX + 1, 50_000]
            .map(|n| (n, false))
            .into_iter()
            .chain([(50_000, true)])
        {
            let body: Vec<u8> = (0..body_bytes).map(|n| (n % 251) as u8).collect();
            let mut splices = if body_bytes > 4 { vec![edit(2..3, "<edit>")] } else { vec![] };
            if late {
                splices.push(edit(49_000..49_010, "<another, longer edit>"));
            }
            let mut expected = b"head".to_vec();
            write_spliced(&mut expected, &body, &splices);
            let mut outgoing = Outgoing { head: b"head".to_vec(), body, ..Outgoing::default() };
            splice_far(&mut outgoing.body, &mut splices, COALESCE_BYTES_MAX);
            assert_eq!(splices.is_empty(), late || body_bytes <= 4);
            outgoing.finish_body(&splices);
            assert!(drain(&mut outgoing, 7) == expected && outgoing.is_sent() && outgoing.is_replayable());
            outgoing.rewind();
            assert!(drain(&mut outgoing, 70_000) == expected);
            outgoing.forget_sent();
            assert!(outgoing.is_sent() && !outgoing.is_replayable());
            outgoing.stream.append(b"stream");
            assert!(!outgoing.is_sent());
            assert_eq!(drain(&mut outgoing, 4), b"stream");
            assert!(outgoing.is_sent());
        }
    }
}
