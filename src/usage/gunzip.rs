//! Decodes a gzip body (RFC 1952) cut anywhere, and distinguishes a body that was cut from one that is corrupt: of the
//! first, what was decoded until then is true; of the second nothing is.
//!
//! In: the body's bytes. Out: the decoded ones, written to a sink as they come. One window and one buffer are held.

use flate2::write::GzDecoder;
use std::io::Write;

/// Decoder of one body, which may have several members, one behind the other.
pub struct Gunzip<W: Write> {
    /// `None` once the body has proved corrupt.
    decoder: Option<GzDecoder<W>>,
    /// A whole member has come, and its checksum was right.
    has_member: bool,
    /// What came behind the last member is none: usually padding, which clients pass over too.
    is_padding: bool,
}

impl<W: Write + Default> Gunzip<W> {
    /// A decoder that writes to `sink`, which must take everything.
    pub fn new(sink: W) -> Self {
        Self { decoder: Some(GzDecoder::new(sink)), has_member: false, is_padding: false }
    }

    /// Takes the body's next bytes.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.is_padding {
            let Some(decoder) = &mut self.decoder else { return };
            match decoder.write(bytes) {
                // The member is whole: the bytes are not its own.
                Ok(0) => {
                    let sink = self.decoder.take().and_then(|decoder| decoder.finish().ok());
                    self.decoder = sink.map(GzDecoder::new);
                    self.has_member = true;
                }
                Ok(used) => bytes = &bytes[used..],
                Err(_) if self.has_member && decoder.header().is_none() => self.is_padding = true,
                Err(_) => self.decoder = None,
            }
        }
    }

    /// Writes out all that can be decoded of what has come: else the last of it waits for more.
    pub fn flush(&mut self) {
        if let Some(decoder) = self.decoder.as_mut().filter(|_| !self.is_padding)
            && decoder.flush().is_err()
        {
            self.decoder = None;
        }
    }

    /// The sink; `None` where the body has proved corrupt.
    pub fn sink(&mut self) -> Option<&mut W> {
        self.decoder.as_mut().map(GzDecoder::get_mut)
    }

    /// The same, to look at.
    pub fn sink_ref(&self) -> Option<&W> {
        self.decoder.as_ref().map(GzDecoder::get_ref)
    }

    /// The body has ended: the sink with all that was decoded, and whether that was the whole; `None` where the body is
    /// corrupt.
    pub fn finish(self) -> Option<(W, bool)> {
        let mut decoder = self.decoder?;
        let flushed = decoder.flush().is_ok();
        let sink = std::mem::take(decoder.get_mut());
        if self.is_padding {
            return Some((sink, flushed));
        }
        // A whole member takes no further byte, and only of a whole one the checksum means something.
        match decoder.write(&[0]) {
            Ok(0) => decoder.try_finish().is_ok().then_some((sink, flushed)),
            _ => Some((sink, false)),
        }
    }
}
