//! A word to search documents for: prepared once for the process, not for each event, which is shorter than the
//! preparation is long.

use memchr::memmem::Finder;
use std::sync::LazyLock;

/// A word with its prepared search.
pub type Needle = LazyLock<Finder<'static>>;

/// Declares needles: a name and its bytes.
macro_rules! needles {
    ($($visibility:vis $name:ident = $bytes:literal;)+) => {
        $($visibility static $name: $crate::usage::needle::Needle =
            std::sync::LazyLock::new(|| memchr::memmem::Finder::new($bytes));)+
    };
}
pub(super) use needles;
