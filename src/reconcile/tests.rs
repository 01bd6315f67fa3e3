//! The comparison names what was planted, and nothing else.
