//! Asking for usage in a client's place, of targets that may refuse it (Azure's *On Your Data*, Databricks, some
//! Mistral): an answer that says so goes no further, the request is sent once more as its client wrote it, and requests
//! like it are not asked for usage for a day.
//!
//! In: requests that we ask with, answers of 400 and 422. Out: the request as it was; whether to ask. Never: a
//! connection. Nothing was generated for what is sent a second time here, and nothing charged.
//!
//! Like it are requests to the same path, for the same model, with the same members. So nobody can, by a request that
//! is refused for what else stands in it, have others' streams go unreported.

use super::forward;
use super::outgoing::Outgoing;
use crate::base::clock::{Now, SECOND};
use crate::http::HttpError;
use crate::http::body::BodyReader;
use crate::http::chunked::Piece;
use crate::usage::each_member::each_member;
use crate::usage::splice::{Splice, write_spliced};
use memchr::memmem;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};

/// How long a refusal is remembered, nanoseconds.
const REMEMBERED: u64 = 24 * 3600 * SECOND;
/// Refusals that are remembered; beyond, the oldest is forgotten.
const REFUSALS_MAX: usize = 1024;
/// Longest request whose refusal is remembered, bytes; a longer one is asked for its usage each time.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// Longest answer that is looked into, bytes of its body. A refusal has a few hundred.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// What an answer names that refuses it.
const NAMES: [&str; 2] = ["stream_options", "include_usage"];

/// Which requests are not asked for usage.
#[derive(Default)]
pub struct UsageAsking {
    /// Requests, as hashes, and when they were refused, monotonic nanoseconds.
    refused: BTreeMap<u64, u64>,
    hasher: RandomState,
}

impl UsageAsking {
    /// True where requests like this one were refused. `head` is the request's own for the target, `body` its JSON.
    pub fn is_refused(&self, now: Now, head: &[u8], model: Option<&str>, body: &[u8]) -> bool {
        let kind = if self.refused.is_empty() { None } else { self.kind(head, model, body) };
        let since = kind.and_then(|kind| self.refused.get(&kind));
        since.is_some_and(|since| now.mono - since < REMEMBERED)
    }

    /// Requests like the one that this is the hash of were refused.
    pub fn remember(&mut self, now: Now, kind: u64) {
        if self.refused.len() >= REFUSALS_MAX {
            let oldest = self.refused.iter().min_by_key(|(_, since)| **since).map(|(kind, _)| *kind);
            oldest.map(|kind| self.refused.remove(&kind));
        }
        self.refused.insert(kind, now.mono);
    }

    /// The hash of all requests like this one; none for a long one, which it would take too long to look through.
    pub fn kind(&self, head: &[u8], model: Option<&str>, body: &[u8]) -> Option<u64> {
        if body.len() > BODY_BYTES_MAX {
            return None;
        }
        let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
        let mut members = BTreeSet::new();
        let told = each_member(body, |name, _| {
            members.insert(name.to_owned());
        });
        members.retain(|name| name != "model" && name != NAMES[0]);
        Some(self.hasher.hash_one((line, model, told.is_ok().then_some(members))))
    }
}

/// Of a body, in which these edits are about to be made: what takes those out again that ask for usage.
pub fn undo(body: &[u8], splices: &[Splice]) -> Vec<Splice> {
    let (mut undo, mut added, mut removed) = (Vec::new(), 0, 0);
    for Splice { at, with, asks } in splices {
        let start = at.start + added - removed;
        if *asks {
            undo.push(Splice { at: start..start + with.len(), with: body[at.clone()].to_vec(), asks: false });
        }
        added += with.len();
        removed += at.len();
    }
    undo
}

/// Of a request with which usage is asked for: what it was before.
pub struct Asked {
    /// Bytes of its head.
    head_bytes: usize,
    /// What takes the asking out of its body again.
    undo: Vec<Splice>,
}

impl Asked {
    /// Of a request with a head of so many bytes, what takes the asking out of its body again.
    pub fn new(head_bytes: usize, undo: Vec<Splice>) -> Self {
        Self { head_bytes, undo }
    }

    /// Takes the asking out of a request that is all in `outgoing`; its body is still to be joined to it.
    pub fn take_out(&self, outgoing: &mut Outgoing) {
        let request = outgoing.take_all();
        let (head, body) = request.split_at(self.head_bytes);
        let mut plain = Vec::with_capacity(body.len());
        write_spliced(&mut plain, body, &self.undo);
        // The length is the last line of the head, and ours.
        let length = memmem::rfind(head, b"content-length: ").unwrap_or(head.len());
        outgoing.head = head[..length].to_vec();
        forward::write_length(&mut outgoing.head, plain.len() as u64);
        outgoing.head.extend_from_slice(b"\r\n");
        outgoing.body = plain;
    }
}

/// An answer that may be the refusal: held until it is told.
pub struct HeldAnswer {
    pub head: Vec<u8>,
    /// Its body as it came.
    pub raw: Vec<u8>,
    text: Vec<u8>,
    reader: BodyReader,
}

/// How far an answer that is held has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    More,
    /// So many bytes of the input were its last.
    Complete(usize),
    /// It is too long for a refusal.
    Long,
}

impl HeldAnswer {
    /// One with this head.
    pub fn new(head: &[u8], reader: BodyReader) -> Self {
        Self { head: head.to_vec(), raw: Vec::new(), text: Vec::new(), reader }
    }

    /// Takes what comes of its body.
    ///
    /// # Errors
    /// It breaks its framing.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Held, HttpError> {
        let mut at = 0;
        let held = loop {
            let (used, piece) = self.reader.next(&bytes[at..])?;
            at += used;
            match piece {
                Piece::More => break if self.raw.len() + at > ANSWER_BYTES_MAX { Held::Long } else { Held::More },
                Piece::End => break Held::Complete(at),
                Piece::Data(data) => self.text.extend_from_slice(data),
                Piece::Chunk(_) | Piece::ChunkEnd => {}
            }
            if matches!(self.reader, BodyReader::Length(0)) {
                break Held::Complete(at);
            }
        };
        self.raw.extend_from_slice(&bytes[..at]);
        Ok(held)
    }

    /// True where the end of the connection is its end.
    pub fn ends_by_closing(&self) -> bool {
        matches!(self.reader, BodyReader::Close)
    }

    /// True where it names what we put in.
    pub fn refuses(&self) -> bool {
        let names = |name: &&str| memmem::find(&self.text, name.as_bytes()).is_some();
        self.text.len() <= ANSWER_BYTES_MAX && NAMES.iter().any(names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::outgoing::COALESCE_BYTES_MAX;
    use crate::usage::inspect::inspect;
    use crate::usage::record::Endpoint;
    use crate::usage::splice::splice_far;

    fn at(seconds: u64) -> Now {
        Now { mono: seconds * SECOND, ..Now::default() }
    }

    #[test]
    fn a_refusal_holds_for_a_day_and_for_requests_like_it() {
        const HEAD: &[u8] = b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\n\r\n";
        const BODY: &[u8] = br#"{"model":"m","data_sources":[1],"stream":true}"#;
        let mut asking = UsageAsking::default();
        assert!(!asking.is_refused(at(1), HEAD, Some("m"), BODY));
        let kind = asking
            .kind(HEAD, Some("m"), br#"{"stream":1,"data_sources":2,"stream_options":3,"model":4}"#)
            .expect("it is short");
        assert_eq!(asking.kind(HEAD, Some("m"), &vec![b' '; BODY_BYTES_MAX + 1]), None);
        asking.remember(at(1), kind);
        assert!(asking.is_refused(at(1), HEAD, Some("m"), BODY));
        assert!(asking.is_refused(at(86_400), HEAD, Some("m"), BODY));
        assert!(!asking.is_refused(at(86_401), HEAD, Some("m"), BODY));
        assert!(!asking.is_refused(at(1), HEAD, Some("n"), BODY));
        assert!(!asking.is_refused(at(1), b"POST /x HTTP/1.1\r\n\r\n", Some("m"), BODY));
        assert!(!asking.is_refused(at(1), HEAD, Some("m"), br#"{"model":"m","stream":true}"#));
        for n in 0..2 * REFUSALS_MAX as u64 {
            asking.remember(at(n), n);
        }
        assert_eq!(asking.refused.len(), REFUSALS_MAX);
        assert!(asking.refused.contains_key(&(2 * REFUSALS_MAX as u64 - 1)));
    }

    #[test]
    fn a_request_is_again_what_its_client_wrote() {
        let long = "x".repeat(20_000);
        for options in [
            "",
            r#","stream_options":null"#,
            r#","stream_options":{}"#,
            r#","stream_options":{"include_usage":false,"continuous_usage_stats":true}"#,
            r#","stream_options":{"include_obfuscation":false}"#,
        ] {
            for (text, model) in [("hi", r#""model":"m","#), ("hi", ""), (&long, ""), (&long, r#""model":"m","#)] {
                for body in [
                    format!(r#"{{{model}"stream":true,"messages":"{text}"{options}}}"#),
                    format!(r#"{{{model}"stream":true{options},"messages":"{text}"}}"#),
                ] {
                    let mut inspected = inspect(body.as_bytes(), Endpoint::ChatCompletions, Some("m"));
                    assert!(inspected.usage_asked);
                    let head = b"POST / HTTP/1.1\r\ncontent-length: 9\r\n\r\n".to_vec();
                    let asked = Asked::new(head.len(), undo(body.as_bytes(), &inspected.splices));
                    let mut outgoing = Outgoing::default();
                    (outgoing.head, outgoing.body) = (head, body.clone().into());
                    splice_far(&mut outgoing.body, &mut inspected.splices, COALESCE_BYTES_MAX);
                    outgoing.finish_body(&inspected.splices);
                    outgoing.advance(7);
                    asked.take_out(&mut outgoing);
                    outgoing.finish_body(&[]);
                    let with_model =
                        if model.is_empty() { body.replacen('{', r#"{"model":"m","#, 1) } else { body.clone() };
                    let length = with_model.len();
                    let expected = format!("POST / HTTP/1.1\r\ncontent-length: {length}\r\n\r\n{with_model}");
                    assert!(outgoing.take_all() == expected.as_bytes(), "{options} {length}");
                }
            }
        }
    }

    #[test]
    fn an_answer_is_held_to_its_end_cut_anywhere() {
        let chunked = b"6\r\n{\"stre\r\n9\r\nam_option\r\n2\r\ns\"\r\n0\r\n\r\n";
        for cut in 0..chunked.len() {
            let mut held = HeldAnswer::new(b"head", BodyReader::new(crate::http::framing::Framing::Chunked));
            assert_eq!(held.feed(&chunked[..cut]).unwrap(), Held::More);
            assert_eq!(held.feed(&chunked[cut..]).unwrap(), Held::Complete(chunked.len() - cut));
            assert!(held.refuses() && held.raw == chunked);
        }
        let mut other = HeldAnswer::new(b"", BodyReader::Length(3));
        assert_eq!(other.feed(b"abc and more").unwrap(), Held::Complete(3));
        assert!(!other.refuses() && other.raw == b"abc");
        let mut long = HeldAnswer::new(b"", BodyReader::Close);
        assert_eq!(long.feed(&vec![b'x'; ANSWER_BYTES_MAX]).unwrap(), Held::More);
        assert_eq!(long.feed(b"x").unwrap(), Held::Long);
    }
}
