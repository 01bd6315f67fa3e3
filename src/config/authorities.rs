//! The authorities to trust beside the built-in ones, from a file that a variable names.
//!
//! In: a PEM file. Out: what is in it, all of whose certificates can be used; or which one is wrong, by its place.
//! Never: a certificate passed over.

use super::source::Source;
use crate::sse::BYTE_ORDER_MARK;
use crate::tls::{Connector, TlsError};

/// The contents of the file that `name` names, without a byte order mark.
pub(super) fn read(source: &mut Source<'_>, name: &'static str) -> Option<Vec<u8>> {
    let pem = without_mark(source.file(name, "a readable PEM file")?);
    if memchr::memmem::find(&pem, b"-----BEGIN CERTIFICATE-----").is_none() {
        source.problem(name, "expected a PEM file with certificates, found none in it".to_owned());
    } else if let Err(TlsError::Anchors(why)) = Connector::new("localhost", Some(&pem)) {
        source.problem(name, format!("expected a PEM file with certificates, found a bad one: {why}"));
    }
    Some(pem)
}

/// PEM without a byte order mark: editors put it at a file's head, where it would hide the first certificate or a key.
pub(super) fn without_mark(mut pem: Vec<u8>) -> Vec<u8> {
    if pem.starts_with(BYTE_ORDER_MARK) {
        pem.drain(..BYTE_ORDER_MARK.len());
    }
    pem
}
