//! What systemd and the proxy tell each other, where it runs as a unit: a socket that is handed over, and states.
//!
//! In: `LISTEN_FDS` and `NOTIFY_SOCKET` of the environment. Out: the listening socket (sd_listen_fds(3)), and datagrams
//! such as `READY=1` (sd_notify(3)). Without the variables nothing happens. Never: a failure because nobody listens.

#![allow(clippy::disallowed_methods)] // the outside world

use rustix::process::{ForeignRawFd, Pid, PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use rustix::time::{ClockId, clock_gettime};
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// SD_LISTEN_FDS_START
const FIRST_DESCRIPTOR: ForeignRawFd = 3;

/// Tells the service manager how the proxy is. Every copy talks to the same one.
#[derive(Clone, Debug)]
pub struct Notifier {
    to: Option<SocketAddr>,
}

impl Notifier {
    /// `name` is the value of `NOTIFY_SOCKET`: a path, or an abstract name after an `@`.
    pub fn new(name: Option<&str>) -> Self {
        let address = |name: &str| match name.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name),
            None => SocketAddr::from_pathname(name),
        };
        Self { to: name.and_then(|name| address(name).ok()) }
    }

    /// The one that the environment names.
    pub fn from_process() -> Self {
        Self::new(std::env::var("NOTIFY_SOCKET").ok().as_deref())
    }

    /// The proxy serves.
    pub fn ready(&self) {
        self.send("READY=1");
    }

    /// The configuration is being read again; [`Notifier::ready`] says when that is done.
    pub fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let us = now.tv_sec.saturating_mul(1_000_000).saturating_add(now.tv_nsec / 1_000);
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={us}"));
    }

    /// Requests in flight may finish.
    pub fn stopping(&self) {
        self.send("STOPPING=1");
    }

    fn send(&self, state: &str) {
        let Some(to) = &self.to else { return };
        // Nobody can do anything about a manager that does not listen; and nobody waits for one.
        if let Ok(socket) = UnixDatagram::unbound() {
            let _ = socket.set_nonblocking(true).and_then(|()| socket.send_to_addr(state.as_bytes(), to));
        }
    }
}

/// The listening socket that was handed over to this process, if there is one.
///
/// # Errors
/// One sentence: it is not one TCP socket, or it cannot be taken.
pub fn listener() -> Result<Option<TcpListener>, String> {
    let number = |name| std::env::var(name).ok().and_then(|value| value.parse::<i32>().ok());
    let pid = getpid();
    match (number("LISTEN_PID"), number("LISTEN_FDS")) {
        (Some(to), Some(count)) if Some(pid) == Pid::from_raw(to) && count != 0 => take(pid, count).map(Some),
        _ => Ok(None),
    }
}

/// A descriptor that is only known by its number can be taken over without unsafe code in one way: the kernel is asked
/// for a copy of it, as for another process's. The one that was handed over stays open; systemd has it too.
fn take(pid: Pid, count: i32) -> Result<TcpListener, String> {
    if count != 1 {
        return Err(format!(
            "expected one socket in LISTEN_FDS, got {count}: the .socket unit must list one ListenStream"
        ));
    }
    let copied = pidfd_open(pid, PidfdFlags::empty())
        .and_then(|own| pidfd_getfd(own, FIRST_DESCRIPTOR, PidfdGetfdFlags::empty()))
        .map_err(|error| {
            format!(
                "the socket in LISTEN_FDS cannot be taken: {error} (it needs the system call pidfd_getfd, Linux 5.6)"
            )
        })?;
    let listener = TcpListener::from(copied);
    let usable = listener.local_addr().and_then(|_| listener.set_nonblocking(true));
    usable.map_err(|error| format!("the socket in LISTEN_FDS is no TCP socket: {error}"))?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_reach_a_path_and_an_abstract_name_and_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let name = format!("@openai-api-proxy-test-{}", getpid().as_raw_nonzero());
        let sockets = [
            (path.to_str().unwrap().to_owned(), UnixDatagram::bind(&path).unwrap()),
            (
                name.clone(),
                UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(name.trim_start_matches('@')).unwrap())
                    .unwrap(),
            ),
        ];
        for (name, socket) in sockets {
            let notifier = Notifier::new(Some(&name));
            notifier.ready();
            notifier.reloading();
            notifier.stopping();
            let mut buffer = [0; 256];
            let mut next = || {
                let length = socket.recv(&mut buffer).unwrap();
                String::from_utf8(buffer[..length].to_vec()).unwrap()
            };
            assert_eq!(next(), "READY=1");
            let reloading = next();
            let us = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
            assert!(us.parse::<u64>().unwrap() > 0);
            assert_eq!(next(), "STOPPING=1");
        }
        Notifier::new(None).ready();
        Notifier::new(Some("/nowhere/at/all")).ready();
    }
}
