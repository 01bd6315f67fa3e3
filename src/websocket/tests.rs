//! Frames of every kind, cut at every byte, against what was put into them.

use super::*;
use proptest::prelude::*;

/// One thing that a stream of frames says.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Said {
    Text(Vec<u8>),
    Unreadable,
    Close,
    Lost,
}

/// What is said, and how many bytes had been used then.
fn read(stream: &[u8], cuts: &[usize]) -> Vec<(usize, Said)> {
    let (mut frames, mut said, mut text, mut at, mut total) = (Frames::default(), Vec::new(), Vec::new(), 0, 0);
    for cut in cuts.iter().copied().chain([stream.len()]) {
        let end = cut.clamp(at, stream.len());
        let mut part = &stream[at..end];
        at = end;
        loop {
            let (used, piece) = frames.next(part);
            (part, total) = (&part[used..], total + used);
            match piece {
                Piece::More => break assert!(part.is_empty(), "the input is used up"),
                Piece::Text(bytes) => {
                    assert!(!bytes.is_empty() && frames.is_in_text());
                    text.extend_from_slice(bytes);
                }
                Piece::TextEnd => said.push((total, Said::Text(std::mem::take(&mut text)))),
                Piece::Unreadable => {
                    text.clear();
                    said.push((total, Said::Unreadable));
                }
                Piece::Close => said.push((total, Said::Close)),
                Piece::Lost => said.push((total, Said::Lost)),
                Piece::Binary | Piece::FrameEnd => {}
            }
        }
    }
    assert_eq!(total, stream.len());
    said
}

/// The same, whichever byte the stream is cut at; without places.
fn everywhere(stream: &[u8]) -> Vec<Said> {
    let whole = read(stream, &[]);
    for cut in 0..stream.len() {
        assert_eq!(read(stream, &[cut]), whole, "cut at {cut}");
    }
    assert_eq!(read(stream, &(0..stream.len()).collect::<Vec<_>>()), whole, "byte by byte");
    whole.into_iter().map(|(_, said)| said).collect()
}

/// A frame with the shortest length that fits, or a longer one (`extended` 126 or 127).
fn frame(first: u8, payload: &[u8], extended: u8) -> Vec<u8> {
    let length = payload.len();
    let mut out = vec![first];
    if extended == 127 || length > usize::from(u16::MAX) {
        out.push(127);
        out.extend_from_slice(&(length as u64).to_be_bytes());
    } else if extended == 126 || length > 125 {
        out.push(126);
        out.extend_from_slice(&(length as u16).to_be_bytes());
    } else {
        out.push(length as u8);
    }
    out.extend_from_slice(payload);
    out
}

fn text(payload: &[u8]) -> Vec<u8> {
    frame(FIN | TEXT, payload, 0)
}

fn said(payload: &[u8]) -> Said {
    Said::Text(payload.to_vec())
}

#[test]
fn the_examples_of_the_rfc() {
    // §5.7, those that a server may send.
    assert_eq!(everywhere(b"\x81\x05Hello"), [said(b"Hello")]);
    assert_eq!(everywhere(b"\x01\x03Hel\x80\x02lo"), [said(b"Hello")]);
    assert_eq!(everywhere(b"\x89\x05Hello\x8a\x05Hello"), []);
    for length in [256, 65_536] {
        let stream = [frame(FIN | BINARY, &vec![b'x'; length], 0), text(b"y")].concat();
        assert_eq!(read(&stream, &[3, 9, 200])[0].1, said(b"y"));
    }
}

#[test]
fn every_length_of_length() {
    for length in [0, 1, 125, 126, 127, 65_535, 65_536, 70_000] {
        for extended in [0, 126, 127] {
            let payload: Vec<u8> = (0..length).map(|n| n as u8).collect();
            let stream = [frame(FIN | TEXT, &payload, extended), text(b"z")].concat();
            let ends = [stream.len() - 3, stream.len()];
            let expected = vec![(ends[0], said(&payload)), (ends[1], said(b"z"))];
            for cut in (0..12).chain([length, stream.len() - 1]) {
                assert_eq!(read(&stream, &[cut]), expected, "{length} bytes, cut at {cut}");
            }
        }
    }
}

#[test]
fn control_frames_stand_between_fragments() {
    let ping = frame(FIN | PING, b"are you there", 0);
    let pong = frame(FIN | PONG, &[], 0);
    let parts = [frame(TEXT, b"", 0), ping.clone(), frame(CONTINUATION, b"one ", 0), pong];
    let stream = [parts.concat(), frame(CONTINUATION, b"two", 127), ping, frame(FIN | CONTINUATION, b"", 0)].concat();
    assert_eq!(everywhere(&stream), [said(b"one two")]);
    assert_eq!(read(&stream, &[])[0].0, stream.len(), "the message ends with its empty last fragment");
}

#[test]
fn binary_messages_are_passed_over() {
    let stream = [frame(BINARY, b"a", 0), frame(FIN | CONTINUATION, b"b", 0), text(b""), text(b"c")].concat();
    assert_eq!(everywhere(&stream), [said(b""), said(b"c")]);
    let compressed = [frame(FIN | 0x40 | BINARY, b"a", 0), frame(FIN | 0x20 | PING, b"a", 0)].concat();
    assert_eq!(everywhere(&compressed), [], "it could not have been text");
}

#[test]
fn what_cannot_be_read_leaves_the_borders_known() {
    for bit in [0x40, 0x20, 0x10] {
        let stream = [frame(FIN | bit | TEXT, b"packed", 0), text(b"a")].concat();
        assert_eq!(everywhere(&stream), [Said::Unreadable, said(b"a")]);
        let middle = [frame(TEXT, b"a", 0), frame(bit, b"b", 0), frame(bit, b"b", 0), frame(FIN, b"c", 0)].concat();
        assert_eq!(everywhere(&[middle, text(b"d")].concat()), [Said::Unreadable, said(b"d")]);
    }
    assert_eq!(everywhere(b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58\x81\x01a"), [Said::Unreadable, said(b"a")]);
    let long = [&[FIN | TEXT, MASKED | 126, 0, 200, 1, 2, 3, 4][..], &[7; 200], &text(b"a")].concat();
    assert_eq!(everywhere(&long), [Said::Unreadable, said(b"a")]);
}

#[test]
fn what_is_written_is_read_again() {
    for length in [0, 1, 125, 126, 65_535, 65_536] {
        let text = "x".repeat(length);
        let mut stream = Vec::new();
        write_text(&mut stream, &text);
        assert_eq!(stream, frame(FIN | TEXT, text.as_bytes(), 0), "in the shortest form");
    }
    let mut close = Vec::new();
    write_close(&mut close, 1008, "bye", None);
    assert_eq!(close, b"\x88\x05\x03\xf0bye");
    close.clear();
    write_close(&mut close, 1008, "bye", Some([1, 2, 3, 4]));
    assert_eq!(close, [0x88, 0x85, 1, 2, 3, 4, 3 ^ 1, 0xf0 ^ 2, b'b' ^ 3, b'y' ^ 4, b'e' ^ 1]);
    close.clear();
    write_close(&mut close, 1008, &"y".repeat(200), None);
    assert_eq!((close[1], close.len()), (125, 127), "a control frame is short");
}

#[test]
fn nothing_is_read_behind_a_close() {
    for close in
        [&b"\x88\x00"[..], b"\x88\x02\x03\xe8", b"\x88\x7e\x00\x05\x03\xe8bye", b"\x88\x82\x01\x02\x03\x04\x02\xea"]
    {
        let stream = [&text(b"a"), close, &text(b"b"), close, &[0xff; 20]].concat();
        assert_eq!(everywhere(&stream), [said(b"a"), Said::Close], "{close:?}");
    }
    let mut frames = Frames::default();
    assert_eq!(frames.next(b"\x01\x01a"), (3, Piece::Text(b"a")));
    assert_eq!(frames.next(b""), (0, Piece::FrameEnd));
    assert_eq!(frames.next(b"\x88\x00"), (2, Piece::Close));
    assert!(frames.is_in_text(), "a message that was begun will not end");
}

#[test]
fn what_is_no_websocket_is_lost() {
    let begun = frame(TEXT, b"a", 0);
    let broken: [&[&[u8]]; 12] = [
        &[&frame(FIN | CONTINUATION, b"a", 0)],
        &[&frame(CONTINUATION, b"a", 0)],
        &[&begun, &text(b"b")],
        &[&begun, &frame(FIN | BINARY, b"b", 0)],
        &[&frame(BINARY, b"a", 0), &text(b"b")],
        &[&frame(FIN | 0x3, b"a", 0)],
        &[&frame(FIN | 0x7, b"a", 0)],
        &[&frame(FIN | 0xb, b"a", 0)],
        &[&frame(PING, b"a", 0)],
        &[&frame(CLOSE, b"", 0)],
        &[&frame(FIN | PONG, &[0; 126], 0)],
        &[b"\x81\x7f\x80\0\0\0\0\0\0\x01a"],
    ];
    for parts in broken {
        let stream = [&text(b"first")[..], &parts.concat(), &text(b"last"), b"\x88\x00"].concat();
        assert_eq!(everywhere(&stream), [said(b"first"), Said::Lost], "{parts:?}");
    }
    assert_eq!(everywhere(b"HTTP/1.1 200 OK\r\n\r\n"), [Said::Lost], "an `H` is a close in fragments");
}

proptest! {
    /// Any messages, in any fragments with any control frames between, cut anywhere: the same texts, each told at its
    /// last byte.
    #[test]
    fn any_fragments_and_cuts_give_the_same_texts(
        messages in proptest::collection::vec((any::<bool>(), proptest::collection::vec("[ -~]{0,200}", 1..5)), 0..6),
        extended in proptest::sample::select(vec![0u8, 126, 127]),
        pings in proptest::collection::vec(any::<bool>(), 40),
        mut cuts in proptest::collection::vec(0usize..4000, 0..20),
    ) {
        cuts.sort_unstable();
        let (mut stream, mut expected, mut pings) = (Vec::new(), Vec::new(), pings.into_iter().cycle());
        for (is_text, parts) in &messages {
            for (index, part) in parts.iter().enumerate() {
                if pings.next() == Some(true) {
                    stream.extend_from_slice(&frame(FIN | PING, b"\x88\x00", 0));
                }
                let opcode = if index > 0 { CONTINUATION } else if *is_text { TEXT } else { BINARY };
                let fin = if index + 1 == parts.len() { FIN } else { 0 };
                stream.extend_from_slice(&frame(fin | opcode, part.as_bytes(), extended));
            }
            if *is_text {
                expected.push((stream.len(), said(parts.concat().as_bytes())));
            }
        }
        prop_assert_eq!(read(&stream, &cuts), expected);
    }

    /// Any bytes in any split say the same, and none make it panic.
    #[test]
    fn survives_anything(
        bytes in proptest::collection::vec(prop_oneof![Just(0x81u8), Just(0x01), Just(0x80), Just(0), 0u8..4, any::<u8>()], 0..200),
        mut cuts in proptest::collection::vec(0usize..200, 0..9),
    ) {
        cuts.sort_unstable();
        prop_assert_eq!(read(&bytes, &cuts), read(&bytes, &[]));
    }
}
