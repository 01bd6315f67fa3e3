//! SIGTERM and SIGINT become [`WorkerEvent::Stop`]: the first means drain, the next at once. SIGHUP has the
//! configuration and the certificate read anew. The service manager, where there is one, is notified of both.
//!
//! A small thread waits for them, so that the loop hears of a signal like of any other worker and never handles one.
//! SIGPIPE needs nothing here: Rust's runtime ignores it before `main`, and a write to a closed socket is an error.
//! SIGXFSZ, which comes with a write past the limit on the size of files (`ulimit -f`), ends a process as well; it is
//! caught and ignored, so that the write is an error, as on a full disk.

use crate::base::log::Level;
use crate::limit::in_force::SettingsLimits;
use crate::reload::Reloader;
use crate::systemd::{notify_ready, notify_reloading, notify_stopping};
use crate::worker::certificate_watch::CertificateWatch;
use crate::worker::settings_in_force::SettingsInForce;
use crate::worker::{EventSender, WorkerEvent, logger};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::{Handle, Signals};
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;

/// Watches for signals until it is dropped.
#[derive(Debug)]
pub struct Watch {
    handle: Handle,
}

impl Watch {
    /// From here on none of the signals ends the process by itself. Two of a kind that arrive before the thread has
    /// looked count as one, as everywhere in Unix.
    ///
    /// # Errors
    /// The system gives no descriptors or no thread.
    pub fn start(
        events: EventSender,
        mut reloader: Reloader,
        certificate: Option<CertificateWatch>,
        settings: SettingsInForce,
    ) -> io::Result<Self> {
        signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)))?;
        let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
        let watch = Self { handle: signals.handle() };
        thread::Builder::new().name("signals".into()).spawn(move || {
            let mut message = match reloader.delays_stop() {
                true => "stopping after SHUTDOWN_DELAY, until which requests are served; a second signal stops at once",
                false => "draining: requests in flight may finish, a second signal stops at once",
            };
            for signal in signals.forever() {
                // Logged from here: the loop itself never writes to a pipe that may be full.
                if signal == SIGHUP {
                    notify_reloading();
                    let (change, lines) = reloader.reload();
                    if let Some(change) = change {
                        logger::set_level(change.log);
                        settings.set(SettingsLimits { user: change.limits, total: change.total_limits });
                        events.send(WorkerEvent::Reconfigure(Box::new(change)));
                    }
                    logger::notes(lines);
                    if let Some(certificate) = &certificate {
                        certificate.read_again();
                    }
                    notify_ready();
                    continue;
                }
                notify_stopping();
                logger::event(Level::Info, message, &[]);
                message = "stopping at once";
                events.send(WorkerEvent::Stop);
            }
        })?;
        Ok(watch)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.handle.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use signal_hook::low_level::raise;
    use std::sync::mpsc;

    #[test]
    fn each_signal_is_one_message_and_dropping_ends_the_thread() {
        let (wake, woken) = mpsc::channel();
        let events = EventSender::new(move || wake.send(()).expect("the test listens to its end"));
        let read = || Config::load(&|_| None, "MODEL_NAME=other");
        let reloader = Reloader::new(Config::load(&|_| None, "").unwrap(), read);
        let watch = Watch::start(events.clone(), reloader, None, SettingsInForce::default()).unwrap();
        for signal in [SIGTERM, SIGINT, SIGTERM] {
            raise(signal).unwrap();
            woken.recv().unwrap();
            let mut done = Vec::new();
            events.take(&mut done);
            assert!(matches!(done[..], [WorkerEvent::Stop]), "{done:?}");
        }
        raise(SIGHUP).unwrap();
        woken.recv().unwrap();
        let mut done = Vec::new();
        events.take(&mut done);
        assert!(matches!(&done[..], [WorkerEvent::Reconfigure(change)] if change.model_name.is_some()), "{done:?}");
        drop(watch);
        drop(events);
        assert!(woken.recv().is_err(), "the thread is gone, and its mailbox with it");
    }
}
