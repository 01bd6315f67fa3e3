//! Fuzz target of the property `first_bytes`; see `first_bytes.rs`.
#![no_main]

#[path = "../properties.rs"]
mod properties;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    properties::first_bytes::first_bytes(input);
});
