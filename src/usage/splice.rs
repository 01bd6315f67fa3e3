//! Edits of a body: which bytes stand in place of which. All others stay as they are.

use crate::json;
use std::ops::Range;

/// Room for an edit: for all of them, but a model with a long name.
const EDIT_BYTES: usize = 64;

/// Replacement of a range of the body.
#[derive(Debug, PartialEq, Eq)]
pub struct Splice {
    pub at: Range<usize>,
    pub with: Vec<u8>,
    /// It asks for usage in the client's place.
    pub asks: bool,
}

/// Appends `body` with the splices made.
pub fn write_spliced(out: &mut Vec<u8>, body: &[u8], splices: &[Splice]) {
    let mut at = 0;
    for splice in splices {
        out.extend_from_slice(&body[at..splice.at.start]);
        out.extend_from_slice(&splice.with);
        at = splice.at.end;
    }
    out.extend_from_slice(&body[at..]);
}

/// Makes all splices in the body itself, where one of them is behind its first `near` bytes: no second copy of all that
/// is before it.
pub fn splice_far(body: &mut Vec<u8>, splices: &mut Vec<Splice>, near: usize) {
    if splices.last().is_none_or(|splice| splice.at.end <= near) {
        return;
    }
    body.reserve_exact(splices.iter().map(|splice| splice.with.len()).sum());
    for splice in splices.drain(..).rev() {
        body.splice(splice.at, splice.with);
    }
}

/// The edits of one JSON object, as they are chosen.
pub(super) struct Edit {
    brace: usize,
    empty: bool,
    splices: Vec<Splice>,
}

impl Edit {
    /// No edits yet of a body whose object starts at `brace`.
    pub(super) fn new(body: &[u8], brace: usize) -> Self {
        Self { brace, empty: is_empty_object(body, brace), splices: Vec::new() }
    }

    /// Gives a top-level key a value: in place of the old one, or first in the object.
    pub(super) fn set(&mut self, key: &str, old: Option<Range<usize>>, value: impl FnOnce(&mut Vec<u8>)) {
        let mut with = Vec::with_capacity(EDIT_BYTES);
        if old.is_none() {
            json::write_string(&mut with, key);
            with.push(b':');
        }
        value(&mut with);
        let first = self.brace + 1..self.brace + 1;
        if old.is_none() && !std::mem::take(&mut self.empty) {
            with.push(b',');
        }
        self.splices.push(Splice { at: old.unwrap_or(first), with, asks: false });
    }

    /// The last edit asks for usage.
    pub(super) fn marks_asking(&mut self) {
        self.splices.last_mut().expect("an edit was made").asks = true;
    }

    /// Replaces a value, to ask for usage.
    pub(super) fn replace(&mut self, at: Range<usize>, with: &[u8]) {
        self.splices.push(Splice { at, with: with.to_vec(), asks: true });
    }

    /// The edits in order.
    pub(super) fn into_splices(mut self) -> Vec<Splice> {
        // Stable and reversed for equal places: what was set later stands first, before the comma of the earlier.
        self.splices.reverse();
        self.splices.sort_by_key(|splice| splice.at.start);
        self.splices
    }
}

/// True where nothing stands in the object that starts at `brace`.
pub(super) fn is_empty_object(body: &[u8], brace: usize) -> bool {
    body[brace + 1..].iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'}')
}
