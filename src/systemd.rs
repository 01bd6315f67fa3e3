//! What systemd and the proxy tell each other, where it runs as a unit: a socket that is handed over, and states.
//!
//! In: `LISTEN_FDS` and `NOTIFY_SOCKET` of the environment. Out: the listening socket (sd_listen_fds(3)), and datagrams
//! such as `READY=1` (sd_notify(3)). Without the variables nothing happens. Never: a failure because nobody listens.

use listenfd::ListenFd;
use sd_notify::NotifyState;
use std::io;
use std::net::TcpListener;

/// The proxy serves.
pub fn notify_ready() {
    notify(&[NotifyState::Ready]);
}

/// The configuration is being read again; [`notify_ready`] says when that is done.
pub fn notify_reloading() {
    if let Ok(now) = NotifyState::monotonic_usec_now() {
        notify(&[NotifyState::Reloading, now]);
    }
}

/// Requests in flight may finish.
pub fn notify_stopping() {
    notify(&[NotifyState::Stopping]);
}

fn notify(states: &[NotifyState<'_>]) {
    // Nobody can do anything about a manager that does not listen.
    let _ = sd_notify::notify(states);
}

/// The listening socket that was handed over to this process, if there is one. To be called before there are other
/// threads: it takes the variables out of the environment.
///
/// # Errors
/// One sentence: it is not one TCP socket.
pub fn listener() -> Result<Option<TcpListener>, String> {
    let mut handed_over = ListenFd::from_env();
    if handed_over.len() > 1 {
        let count = handed_over.len();
        return Err(format!(
            "expected one socket in LISTEN_FDS, got {count}: the .socket unit must list one ListenStream"
        ));
    }
    let taken: io::Result<_> = handed_over.take_tcp_listener(0).and_then(|listener| {
        listener.as_ref().map(|listener| listener.set_nonblocking(true)).transpose()?;
        Ok(listener)
    });
    taken.map_err(|error| format!("the socket in LISTEN_FDS cannot be taken: {error}"))
}
