//! L0: data structures that know nothing of HTTP, sockets or time's source.

pub mod buffer;
pub mod civil;
pub mod clock;
pub mod deadlines;
pub mod slab;
