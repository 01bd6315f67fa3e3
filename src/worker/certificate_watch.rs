//! The thread that looks after the certificate which clients are shown: reads it again when its files have changed, or
//! when it is asked to, and warns before it expires.
//!
//! In: the files. Out: [`WorkerEvent::Certificate`], lines of the log. Never: a pair that does not fit, or has expired:
//! the one before stays.

use super::event::{EventSender, WorkerEvent};
use super::logger::event;
use super::process::{spawn, unix_now};
use crate::base::civil::civil_from_days;
use crate::base::log::Level;
use crate::config::{FilesState, ServerCertificate};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// Between two looks at the files.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How long before its end a certificate is warned of, seconds; and how often.
pub const WARN_BEFORE: u64 = 14 * 24 * 60 * 60;
const WARN_EVERY: Duration = Duration::from_secs(24 * 60 * 60);

/// The thread's handle. Once all of its clones are dropped, the thread ends.
#[derive(Clone, Debug)]
pub struct CertificateWatch {
    ask: Sender<()>,
}

impl CertificateWatch {
    /// Starts to look after a certificate that was read.
    ///
    /// # Errors
    /// One sentence: the system gives no thread.
    pub fn start(certificate: ServerCertificate, events: EventSender) -> Result<Self, String> {
        let (ask, asked) = channel();
        let keeper = Keeper { seen: certificate.files, certificate, events, warn_at: Instant::now() };
        spawn("certificate", move || keeper.run(&asked))?;
        Ok(Self { ask })
    }

    /// Has the files read again, whether they have changed or not.
    pub fn read_again(&self) {
        let _ = self.ask.send(()); // the thread has ended: so does the process
    }
}

struct Keeper {
    certificate: ServerCertificate,
    /// What the files were like at the last look.
    seen: FilesState,
    events: EventSender,
    warn_at: Instant,
}

impl Keeper {
    fn run(mut self, asked: &Receiver<()>) {
        loop {
            self.warn();
            match asked.recv_timeout(LOOK_EVERY) {
                Ok(()) => self.renew(),
                Err(RecvTimeoutError::Timeout) => self.look(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Two files are not replaced in one instant: they are read once they have stayed the same from one look to the
    /// next.
    fn look(&mut self) {
        let found = self.certificate.state();
        let is_settled = std::mem::replace(&mut self.seen, found) == found;
        if is_settled && found != self.certificate.files {
            self.renew();
        }
    }

    fn renew(&mut self) {
        let before = self.certificate.acceptor.clone();
        let read = self.certificate.read_again().and_then(|()| match self.seconds_left() {
            0 => Err(format!("TLS_CERT_FILE: the certificate has expired on {}", self.expiry())),
            _ => Ok(()),
        });
        match read {
            Ok(()) => {
                event(Level::Info, "certificate read again", &[("expires", self.expiry().as_str().into())]);
                self.events.send(WorkerEvent::Certificate(self.certificate.acceptor.clone()));
                self.warn_at = Instant::now();
            }
            Err(why) => {
                self.certificate.acceptor = before;
                event(Level::Error, "certificate not taken, the one before stays", &[("error", why.as_str().into())]);
            }
        }
    }

    /// Once a day, and whenever there is another certificate.
    fn warn(&mut self) {
        if self.warn_at > Instant::now() {
            return;
        }
        self.warn_at = Instant::now() + WARN_EVERY;
        let expiry = self.expiry();
        let fields = [("expires", expiry.as_str().into())];
        match self.seconds_left() {
            0 => event(Level::Error, "the certificate in TLS_CERT_FILE has expired, clients refuse it", &fields),
            left if left < WARN_BEFORE => {
                event(Level::Warn, "the certificate in TLS_CERT_FILE expires soon, renew it", &fields);
            }
            _ => {}
        }
    }

    fn seconds_left(&self) -> u64 {
        self.certificate.acceptor.expires_at().saturating_sub(unix_now() / 1_000_000_000)
    }

    fn expiry(&self) -> String {
        shown(self.certificate.acceptor.expires_at())
    }
}

/// An instant, seconds since the Unix epoch, as people read it. A certificate may outlive what nanoseconds can count.
pub fn shown(unix: u64) -> String {
    let (year, month, day) = civil_from_days((unix / 86_400).cast_signed());
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", unix / 3600 % 24, unix / 60 % 60, unix % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_instant_that_a_certificate_can_name() {
        assert_eq!(shown(253_402_300_799), "9999-12-31T23:59:59Z");
    }
}
