//! Ten who ask the proxy for everybody's days of a year, again and again, while it relays for others.
//!
//! In: an address. Out: how many answers came; an error where one was not a 200. Never: a pause.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

const ASKERS: usize = 10;
const QUESTION: &str = "/usage?group_by=day&from=2025-01-01&to=2026-01-01";
const PATIENCE: Duration = Duration::from_secs(20);

/// They ask until this is dropped or stopped.
pub struct Askers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<std::io::Result<u64>>>,
}

impl Askers {
    pub fn start(address: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..ASKERS).map(|_| {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || ask(address, &stop))
        });
        Self { threads: threads.collect(), stop }
    }

    /// Ends them; how many answers they got.
    pub fn stop(self) -> Result<u64, String> {
        self.stop.store(true, Ordering::Relaxed);
        let mut answers = 0;
        for thread in self.threads {
            answers += thread.join().map_err(|_| "an asker panicked")?.map_err(|e| format!("asking: {e}"))?;
        }
        Ok(answers)
    }
}

fn ask(address: SocketAddr, stop: &AtomicBool) -> std::io::Result<u64> {
    let mut socket = TcpStream::connect(address)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(socket.try_clone()?);
    let mut answers = 0;
    while !stop.load(Ordering::Relaxed) {
        write!(socket, "GET {QUESTION} HTTP/1.1\r\nHost: {address}\r\n\r\n")?;
        let (mut line, mut length, mut first) = (String::new(), 0, true);
        loop {
            line.clear();
            reader.read_line(&mut line)?;
            let lower = line.trim_end().to_ascii_lowercase();
            if std::mem::take(&mut first) && !lower.starts_with("http/1.1 200 ") {
                return Err(std::io::Error::other(lower));
            }
            if let Some(value) = lower.strip_prefix("content-length:") {
                length = value.trim().parse().map_err(std::io::Error::other)?;
            }
            if lower.is_empty() {
                break;
            }
        }
        std::io::copy(&mut reader.by_ref().take(length), &mut std::io::sink())?;
        answers += 1;
    }
    Ok(answers)
}
