//! What the operating system says of this process, for `/metrics`, and gives it: the time, threads and their
//! priorities. Reads files, so never on the loop: the render thread asks for a scrape.

use crate::base::clock::nanoseconds;
use crate::metrics::Process;
use std::fs;
use std::thread::{self, JoinHandle};
use std::time::SystemTime;

/// The `nice` value of threads that nobody waits for: beside a busy loop on one core such a one gets about a tenth of
/// the time.
#[cfg(target_os = "linux")]
const NICENESS: i32 = 10;

/// Descriptors that are neither a client's nor its upstream connection's.
const SPARE_DESCRIPTORS: u64 = 64;

/// The process now; `None` where there is no Linux `/proc`.
pub fn read() -> Option<Process> {
    let [cpu_ticks, virtual_bytes, resident_pages] = stat(&fs::read_to_string("/proc/self/stat").ok()?)?;
    // The listing itself holds one descriptor open.
    let open_fds = fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1) as u64;
    Some(Process {
        cpu_seconds: cpu_ticks as f64 / rustix::param::clock_ticks_per_second() as f64,
        resident_bytes: resident_pages.saturating_mul(rustix::param::page_size() as u64),
        virtual_bytes,
        open_fds,
        max_fds: rustix::process::getrlimit(rustix::process::Resource::Nofile).current,
    })
}

/// Clients that may be connected with so many open files: each may need a second one, for its connection to the target.
pub fn clients_of(descriptors: u64) -> usize {
    usize::try_from(descriptors.saturating_sub(SPARE_DESCRIPTORS) / 2).unwrap_or(usize::MAX).max(1)
}

/// Clients that may be connected where the limit of open files is raised as far as it may be; `None` for any number.
pub fn clients_max() -> Option<usize> {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum.map(clients_of)
}

/// Has the calling thread leave the CPU to the others where they want it: relaying does not wait for an answer, nor for
/// a checkpoint. Only where a thread has a priority of its own, and never a failure.
pub fn lower_priority() {
    #[cfg(target_os = "linux")]
    let _ = rustix::process::setpriority_process(None, NICENESS);
}

/// The present, in nanoseconds since the Unix epoch.
pub fn unix_now() -> u64 {
    nanoseconds(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}

/// Starts a thread.
///
/// # Errors
/// One sentence: the system gives none.
pub fn spawn<T: Send + 'static>(name: &str, run: impl FnOnce() -> T + Send + 'static) -> Result<JoinHandle<T>, String> {
    let thread = thread::Builder::new().name(name.to_owned()).spawn(run);
    thread.map_err(|error| format!("the {name} thread cannot start: {error}"))
}

/// CPU ticks, bytes of address space and resident pages in `/proc/PID/stat` (`man 5 proc_pid_stat`). The second field
/// is the program's name in parentheses, which may itself hold spaces and parentheses; numbers are counted from the
/// third.
fn stat(text: &str) -> Option<[u64; 3]> {
    let fields: Vec<&str> = text[text.rfind(')')? + 1..].split_ascii_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    Some([field(14)?.checked_add(field(15)?)?, field(23)?, field(24)?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_stat() {
        let tail = "S 1 2 3 0 -1 4194304 100 0 0 0 250 75 0 0 20 0 4 0 12345 104857600 1500 18446744073709551615 1 1 0";
        for name in ["proxy-server", "a b", ") S 9 (", "()"] {
            assert_eq!(stat(&format!("42 ({name}) {tail}\n")), Some([325, 104_857_600, 1500]), "{name}");
        }
        for text in ["", "42 (x", "42 (x) S 1 2", "42 (x) S 1 2 3 0 -1 4194304 100 0 0 0 x 75 0 0 20 0 4 0 12345 1 2"] {
            assert_eq!(stat(text), None, "{text}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process() {
        let process = read().expect("Linux has /proc");
        assert!(process.resident_bytes > 0 && process.virtual_bytes > process.resident_bytes, "{process:?}");
        assert!(process.open_fds >= 1 && process.max_fds.is_none_or(|max| max >= process.open_fds), "{process:?}");
    }
}
