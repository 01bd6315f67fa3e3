//! What is said on stderr, a line at a time. Whoever reads it may have gone: what is said then is lost, and nothing
//! else; the macros of the standard library would panic, and end the thread that has something to say.

use std::fmt::Arguments;
use std::io::Write;

/// Writes a line to stderr, as far as that goes.
pub fn say(line: Arguments<'_>) {
    // One write for one line: those of several threads do not mix.
    let _ = std::io::stderr().lock().write_all(format!("{line}\n").as_bytes());
}
