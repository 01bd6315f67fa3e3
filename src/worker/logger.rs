//! The log: lines on stderr, written by a thread of their own.
//!
//! In: events of any thread, and the records that the ledger has committed. Out: lines, as far as somebody reads them.
//! Never: a wait for the reader. What a full pipe leaves no room for is dropped, counted, and reported once the pipe
//! takes lines again. Before [`start`] (commands, tests) an event is written at once, and requests are not logged.
//!
//! A request's line is made from its record when it is committed: the ledger thread hands the records over as they are,
//! for the price of a few words, and all writing of text is done here.

mod line;
mod request_line;

pub use line::Value;

use super::process::unix_now;
use crate::base::log::{Level, LogFormat, Note};
use crate::usage::record::Record;
use line::Line;
use std::fmt::Arguments;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// Lines that wait at most: as many as the ledger commits at once. Beside them the thread has those that it writes.
/// A waiting record has some 500 bytes.
const QUEUE_LINES_MAX: usize = 4096;
/// Text that is written at once.
const WRITE_BYTES: usize = 64 * 1024;
/// After writing, lines collect for so long: under load the thread wakes a hundred times a second, not once a commit.
const PAUSE: Duration = Duration::from_millis(10);
/// How long the end of the process waits for a reader.
const FINISH_PATIENCE: Duration = Duration::from_secs(1);

static LOG: Log = Log {
    level: AtomicU8::new(Level::Info as u8),
    json: AtomicBool::new(false),
    queue: Mutex::new(Queue {
        entries: Vec::new(),
        lines: 0,
        dropped: 0,
        reported: 0,
        started: false,
        asleep: false,
        finishing: false,
    }),
    changed: Condvar::new(),
};

struct Log {
    level: AtomicU8,
    json: AtomicBool,
    queue: Mutex<Queue>,
    changed: Condvar,
}

struct Queue {
    entries: Vec<Entry>,
    /// Lines that the entries will be.
    lines: usize,
    /// Lines that were dropped, and of them those that were reported.
    dropped: u64,
    reported: u64,
    /// The thread runs.
    started: bool,
    /// It has written everything, and waits.
    asleep: bool,
    /// The process ends: no pauses.
    finishing: bool,
}

/// What is to be written.
enum Entry {
    Line(Vec<u8>),
    Requests(Vec<Record>),
}

/// Starts the thread: from here on nobody waits for stderr.
///
/// # Errors
/// The system gives no thread or no descriptor.
pub fn start(level: Level, format: LogFormat) -> std::io::Result<()> {
    set_level(level);
    LOG.json.store(format == LogFormat::Json, Ordering::Relaxed);
    // Not through the standard library's lock, which a panic's message needs while a write waits for a reader.
    let stderr = File::from(std::io::stderr().as_fd().try_clone_to_owned()?);
    thread::Builder::new().name("log".to_owned()).spawn(move || run(stderr))?;
    LOG.lock().started = true;
    Ok(())
}

/// From here on, lines up to this level are written.
pub fn set_level(level: Level) {
    LOG.level.store(level as u8, Ordering::Relaxed);
}

/// Writes a line about what happened.
pub fn event(level: Level, message: &str, fields: &[(&str, Value<'_>)]) {
    if LOG.takes(level) {
        let mut bytes = Vec::with_capacity(256);
        let mut line = Line::begin(&mut bytes, LOG.format(), unix_now(), level, message);
        fields.iter().for_each(|(name, value)| line.value(name, *value));
        line.end();
        LOG.add_line(bytes);
    }
}

/// Writes a line for each note of the loop.
pub fn notes(notes: Vec<Note>) {
    for Note { level, message, fields } in notes {
        let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, Value::Text(value))).collect();
        event(level, message, &fields);
    }
}

/// Writes a line for each of these requests. Entries of the journal may be among them; those are no requests.
pub fn requests(mut records: Vec<Record>) {
    let mut queue = LOG.lock();
    if !LOG.takes(Level::Info) || !queue.started {
        return;
    }
    let room = QUEUE_LINES_MAX.saturating_sub(queue.lines);
    if records.len() > room {
        let more = records.drain(room..).filter(|record| record.journal.is_record()).count();
        queue.dropped += more as u64;
    }
    if !records.is_empty() {
        LOG.add(queue, records.len(), Entry::Requests(records));
    }
}

/// Reports why a command, or the server, has failed: in words for a terminal, or as an object for a collector of them.
pub fn failure(message: &str) {
    match LOG.format() {
        LogFormat::Logfmt => say(format_args!("proxy-server: {message}")),
        LogFormat::Json => event(Level::Error, message, &[]),
    }
}

/// Writes a line for a person, as far as that goes.
pub fn say(line: Arguments<'_>) {
    LOG.add_line(format!("{line}\n").into_bytes());
}

/// Lines that were dropped until now.
pub fn dropped() -> u64 {
    LOG.lock().dropped
}

/// Before the process ends: waits until all is written, but not for a reader who does not read.
pub fn finish() {
    let mut queue = LOG.lock();
    if queue.started {
        queue.finishing = true;
        LOG.changed.notify_all();
        let is_writing = |queue: &mut Queue| !(queue.asleep && queue.entries.is_empty());
        drop(LOG.changed.wait_timeout_while(queue, FINISH_PATIENCE, is_writing));
    }
}

impl Log {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn takes(&self, level: Level) -> bool {
        level as u8 <= self.level.load(Ordering::Relaxed)
    }

    fn format(&self) -> LogFormat {
        if self.json.load(Ordering::Relaxed) { LogFormat::Json } else { LogFormat::Logfmt }
    }

    fn add_line(&self, line: Vec<u8>) {
        let mut queue = self.lock();
        if !queue.started {
            // One write for one line: those of several threads do not mix. Whoever reads may have gone.
            let _ = std::io::stderr().lock().write_all(&line);
        } else if queue.lines >= QUEUE_LINES_MAX {
            queue.dropped += 1;
        } else {
            self.add(queue, 1, Entry::Line(line));
        }
    }

    fn add(&self, mut queue: MutexGuard<'_, Queue>, lines: usize, entry: Entry) {
        queue.entries.push(entry);
        queue.lines += lines;
        let wake = std::mem::replace(&mut queue.asleep, false);
        drop(queue);
        if wake {
            self.changed.notify_all();
        }
    }

    /// Waits for entries; how many lines were dropped since the last time comes with them.
    fn next(&self) -> (Vec<Entry>, u64) {
        let mut queue = self.lock();
        while queue.entries.is_empty() && queue.dropped == queue.reported {
            queue.asleep = true;
            if queue.finishing {
                self.changed.notify_all();
            }
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        queue.lines = 0;
        let dropped = queue.dropped - queue.reported;
        queue.reported = queue.dropped;
        (std::mem::take(&mut queue.entries), dropped)
    }
}

/// The thread.
fn run(mut stderr: File) {
    let mut text = Vec::new();
    loop {
        let (entries, dropped) = LOG.next();
        let format = LOG.format();
        for entry in entries {
            match entry {
                Entry::Line(line) => text.extend_from_slice(&line),
                Entry::Requests(records) => {
                    for record in records.iter().filter(|record| record.journal.is_record()) {
                        request_line::write(&mut text, format, record);
                        if text.len() >= WRITE_BYTES {
                            write(&mut stderr, &mut text);
                        }
                    }
                }
            }
        }
        if dropped > 0 {
            let mut line =
                Line::begin(&mut text, format, unix_now(), Level::Warn, "log lines dropped, nobody read them in time");
            line.number("lines", dropped);
            line.end();
        }
        write(&mut stderr, &mut text);
        let queue = LOG.lock();
        drop(LOG.changed.wait_timeout_while(queue, PAUSE, |queue| !queue.finishing));
    }
}

/// Writes all of it, however long that takes. Where nobody will ever read it, it is lost.
fn write(stderr: &mut File, text: &mut Vec<u8>) {
    let mut rest = &text[..];
    while !rest.is_empty() {
        match stderr.write(rest) {
            Ok(written) if written > 0 => rest = &rest[written..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Whoever shares the descriptor may have set it so.
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(PAUSE),
            _ => break,
        }
    }
    text.clear();
}
