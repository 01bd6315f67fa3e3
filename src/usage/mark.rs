//! A word to search streams for: prepared once for the process, not for each event, which is shorter than the
//! preparation is long.

use memchr::memmem::Finder;
use std::sync::LazyLock;

/// A word with its prepared search.
pub type Mark = LazyLock<Finder<'static>>;

/// Declares marks: a name and its bytes.
macro_rules! marks {
    ($($visibility:vis $name:ident = $bytes:literal;)+) => {
        $($visibility static $name: $crate::usage::mark::Mark =
            std::sync::LazyLock::new(|| memchr::memmem::Finder::new($bytes));)+
    };
}
pub(super) use marks;
