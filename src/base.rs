//! L0: data structures and encodings that know nothing of HTTP, sockets or time's source.

pub mod buffer;
pub mod civil;
pub mod clock;
pub mod deadlines;
pub mod digits;
pub mod edit_distance;
pub mod list;
pub mod log;
pub mod network;
pub mod percent;
pub mod slab;
pub mod table;
pub mod visible;
pub mod work;
