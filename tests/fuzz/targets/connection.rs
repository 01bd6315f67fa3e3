//! Fuzz target of the property `connection`; see `connection.rs`.
#![no_main]

#[path = "../properties.rs"]
mod properties;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    properties::connection::connection(input);
});
