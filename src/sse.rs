//! Server-sent events (WHATWG HTML, *Server-sent events*): splits a stream into the data of its events, cut anywhere.
//!
//! Lines end in LF, CRLF or CR, and a byte order mark before the first is no part of it. Only `data` fields and the
//! blank lines that end events are reported; comments and other fields are passed over. Nothing is held: the data of a
//! line comes out as it goes in.

/// What the next bytes of the stream are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// The input is used up.
    More,
    /// A whole event with one line of data, of which nothing was reported before: almost every one, where each is in
    /// one piece. The input used ends with the event's last bytes, `LF LF` or `CR LF CR LF`.
    Whole(&'a [u8]),
    /// Bytes of an event's data.
    Data(&'a [u8]),
    /// A line of data has ended: what lines there are in an event's data, each ends with one line feed.
    LineEnd,
    /// A blank line: the event, if it had data (`true`), is complete. A byte order mark at the start of the stream is
    /// reported as one without data, so that whoever cuts the stream into events has it apart.
    Event(bool),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    /// At the start of the stream, of whose byte order mark so many bytes have come.
    Start(u8),
    /// At the start of a line.
    #[default]
    Line,
    /// Within a field name that has matched this many bytes of `data`.
    Name(u8),
    /// Before the one space that may stand between colon and value.
    Space,
    /// Within the value of a `data` field.
    Data,
    /// Within anything else.
    Other,
}

const FIELD: &[u8] = b"data";
/// How the lines begin that streams consist of.
const DATA: &[u8] = b"data: ";
/// U+FEFF in UTF-8.
pub const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Splitter of one stream.
#[derive(Debug)]
pub struct Splitter {
    at: At,
    /// The last line ended in CR: an LF that follows belongs to that line end.
    after_cr: bool,
    /// Data of the event was reported.
    has_data: bool,
}

impl Default for Splitter {
    fn default() -> Self {
        Self { at: At::Start(0), after_cr: false, has_data: false }
    }
}

impl Splitter {
    /// The next piece, and how many bytes of `input` are used up with it.
    pub fn next<'a>(&mut self, input: &'a [u8]) -> (usize, Piece<'a>) {
        let mut used = 0;
        while let Some(&byte) = input.get(used) {
            if std::mem::take(&mut self.after_cr) && byte == b'\n' {
                used += 1;
                continue;
            }
            let line_end = matches!(byte, b'\r' | b'\n');
            match self.at {
                At::Start(matched) if BYTE_ORDER_MARK[usize::from(matched)] == byte => {
                    used += 1;
                    if usize::from(matched) + 1 == BYTE_ORDER_MARK.len() {
                        self.at = At::Line;
                        return (used, Piece::Event(false));
                    }
                    self.at = At::Start(matched + 1);
                    continue;
                }
                // Almost every line, in one step.
                At::Line if input[used..].starts_with(DATA) => {
                    self.at = At::Data;
                    used += DATA.len();
                    continue;
                }
                At::Data if !line_end => {
                    let (length, piece) = self.data(&input[used..]);
                    return (used + length, piece);
                }
                At::Other if !line_end => {
                    let rest = &input[used..];
                    used += memchr::memchr2(b'\r', b'\n', rest).unwrap_or(rest.len());
                    continue;
                }
                _ => used += 1,
            }
            if line_end {
                let crlf = byte == b'\r' && input.get(used) == Some(&b'\n');
                used += usize::from(crlf);
                self.after_cr = byte == b'\r' && !crlf;
                if let Some(piece) = self.end_line() {
                    return (used, piece);
                }
            } else {
                self.name_byte(byte, &mut used);
            }
        }
        (used, Piece::More)
    }

    /// A value up to its line's end, with the event's end where that follows at once.
    fn data<'a>(&mut self, input: &'a [u8]) -> (usize, Piece<'a>) {
        let (value, rest) = input.split_at(memchr::memchr2(b'\r', b'\n', input).unwrap_or(input.len()));
        let end = [&b"\n\n"[..], b"\r\n\r\n"].into_iter().find(|end| rest.starts_with(end));
        match end.filter(|_| !self.has_data) {
            Some(end) => {
                self.at = At::Line;
                (value.len() + end.len(), Piece::Whole(value))
            }
            None => {
                self.has_data = true;
                (value.len(), Piece::Data(value))
            }
        }
    }

    fn end_line(&mut self) -> Option<Piece<'static>> {
        match std::mem::take(&mut self.at) {
            At::Line | At::Start(0) => Some(Piece::Event(std::mem::take(&mut self.has_data))),
            At::Name(matched) if usize::from(matched) < FIELD.len() => None,
            // A field name alone has an empty value.
            At::Name(_) | At::Space | At::Data => {
                self.has_data = true;
                Some(Piece::LineEnd)
            }
            At::Other | At::Start(_) => None,
        }
    }

    fn name_byte(&mut self, byte: u8, used: &mut usize) {
        let matched = match self.at {
            At::Line | At::Start(0) => 0,
            At::Name(matched) => matched,
            At::Start(_) => {
                self.at = At::Other; // a name that begins like a byte order mark
                return;
            }
            _ => {
                // At::Space: only a space is swallowed, anything else is the value's first byte.
                self.at = At::Data;
                *used -= usize::from(byte != b' ');
                return;
            }
        };
        self.at = match FIELD.get(usize::from(matched)) {
            Some(&expected) if expected == byte => At::Name(matched + 1),
            None if byte == b':' => At::Space,
            _ => At::Other,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn split(stream: &[u8], cuts: &[usize]) -> Vec<Vec<u8>> {
        let (mut splitter, mut events, mut data, mut at) = (Splitter::default(), Vec::new(), None::<Vec<u8>>, 0);
        for cut in cuts.iter().copied().chain([stream.len()]) {
            let end = cut.clamp(at, stream.len());
            let mut part = &stream[at..end];
            at = end;
            loop {
                let (used, piece) = splitter.next(part);
                part = &part[used..];
                match piece {
                    Piece::More => break,
                    Piece::Data(bytes) => data.get_or_insert_default().extend_from_slice(bytes),
                    Piece::LineEnd => data.get_or_insert_default().push(b'\n'),
                    Piece::Whole(bytes) => {
                        assert_eq!(data, None);
                        events.push([bytes, b"\n"].concat());
                    }
                    Piece::Event(has_data) => {
                        assert_eq!(data.is_some(), has_data);
                        events.extend(data.take());
                    }
                }
            }
        }
        events.extend(data);
        events
    }

    #[test]
    fn every_line_end_and_the_last_event_without_its_blank_line() {
        for end in ["\n", "\r\n", "\r"] {
            let stream =
                ": hello\n\nevent: x\ndata: one\n\ndata:two\ndata:  2\nid\n\n\n\ndata\n\ndatax: no\n\ndata: last";
            let stream = stream.replace('\n', end);
            for cut in 0..stream.len() {
                let events = split(stream.as_bytes(), &[cut]);
                assert_eq!(events, [&b"one\n"[..], b"two\n 2\n", b"\n", b"last"], "{end:?} cut at {cut}");
            }
        }
    }

    /// WHATWG: "one leading U+FEFF BYTE ORDER MARK character must be ignored if any are present".
    #[test]
    fn one_byte_order_mark_may_open_the_stream() {
        for (stream, expected) in [
            ("\u{feff}data: a\n\ndata: b\n\n", vec!["a\n", "b\n"]),
            ("\u{feff}\r\ndata: a\r\n\r\n", vec!["a\n"]),
            ("\u{feff}data", vec![]),
            ("\u{feff}", vec![]),
            // A second one, or one that stands elsewhere, is a part of its line.
            ("\u{feff}\u{feff}data: a\n\ndata: b\n\n", vec!["b\n"]),
            ("\n\u{feff}data: a\n\ndata: \u{feff}b\n\n", vec!["\u{feff}b\n"]),
            // What only begins like one is a field name.
            ("\u{fec0}data: a\n\ndata: b\n\n", vec!["b\n"]),
            ("\u{f000}\n\ndata: b\n\n", vec!["b\n"]),
        ] {
            for cut in 0..=stream.len() {
                let expected: Vec<&[u8]> = expected.iter().map(|event| event.as_bytes()).collect();
                assert_eq!(split(stream.as_bytes(), &[cut, cut + 1]), expected, "{stream:?} cut at {cut}");
            }
        }
    }

    #[test]
    fn odd_lines() {
        for (stream, expected) in [
            ("data\n\n", vec!["\n"]),
            ("data:\n\n", vec!["\n"]),
            ("data: \n\n", vec!["\n"]),
            ("data:x\n\n", vec!["x\n"]),
            ("data::x\n\n", vec![":x\n"]),
            ("data:\tx\n\n", vec!["\tx\n"]),
            ("data: one\ndata\ndata:two\n\n", vec!["one\n\ntwo\n"]),
            (" data: x\n\nData: x\n\ndata : x\n\ndat\n\n", vec![]),
            ("event: data\nid: data: x\nretry: 1\n\n", vec![]),
            ("data: \0\0\ndata\0: x\n\0data: x\n\n", vec!["\0\0\n"]),
        ] {
            for cut in 0..=stream.len() {
                let expected: Vec<&[u8]> = expected.iter().map(|event| event.as_bytes()).collect();
                assert_eq!(split(stream.as_bytes(), &[cut]), expected, "{stream:?} cut at {cut}");
            }
        }
    }

    proptest! {
        /// Any data, any line ends, cut anywhere: the same events.
        #[test]
        fn any_split_finds_the_same_events(
            events in proptest::collection::vec("[ -~]{0,20}", 0..6),
            ends in proptest::collection::vec(0usize..2, 12),
            mut cuts in proptest::collection::vec(0usize..200, 0..20),
        ) {
            cuts.sort_unstable();
            let mut stream = Vec::new();
            for (index, event) in events.iter().enumerate() {
                let end = ["\n", "\r\n"][ends[index]];
                stream.extend_from_slice(format!("event: e{end}data: {event}{end}: c{end}{end}").as_bytes());
            }
            let expected: Vec<Vec<u8>> = events.iter().map(|event| format!("{event}\n").into_bytes()).collect();
            prop_assert_eq!(split(&stream, &cuts), expected);
        }
    }
}
