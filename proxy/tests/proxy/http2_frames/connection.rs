//! Frames by themselves (RFC 9113 4 to 6) and header blocks as bytes (RFC 7541).

use super::*;

pub(super) fn cases() -> Vec<Case> {
    let half = frame(HEADERS, END_STREAM, 1, &request("GET", &[]));
    vec![
        // 4.1, 5.5
        ("a frame of unknown type", vec![frame(0x16, 0, 0, &[0; 8])], Fine),
        ("unknown flags on a PING", vec![frame(PING, 0x16, 0, &[0; 8])], Fine),
        (
            "an unknown frame inside a header block",
            vec![half.clone(), frame(0x16, 0, 0, &[0; 8])],
            Connection(&[PROTOCOL]),
        ),
        // 4.2
        ("DATA over the frame size", vec![open(1), frame(DATA, 0, 1, &[0; 16_385])], Stream(&[FRAME_SIZE])),
        ("HEADERS over the frame size", vec![frame(HEADERS, END_HEADERS, 1, &[0; 16_385])], SIZE),
        // 4.3
        ("a header block that is no HPACK", vec![raw_block(&[0x40])], CODING),
        (
            "PRIORITY inside a header block",
            vec![half.clone(), frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1])],
            Connection(&[PROTOCOL]),
        ),
        (
            "HEADERS of another stream inside a header block",
            vec![half.clone(), get(3)],
            Connection(&[PROTOCOL]),
        ),
        // 5.1
        ("DATA on an idle stream", vec![frame(DATA, END_STREAM, 1, b"x")], Connection(&[PROTOCOL])),
        (
            "RST_STREAM on an idle stream",
            vec![frame(RST_STREAM, 0, 1, &[0, 0, 0, 8])],
            Connection(&[PROTOCOL]),
        ),
        (
            "WINDOW_UPDATE on an idle stream",
            vec![frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])],
            Connection(&[PROTOCOL]),
        ),
        (
            "CONTINUATION on an idle stream",
            vec![frame(CONTINUATION, END_HEADERS, 1, &[])],
            Connection(&[PROTOCOL]),
        ),
        (
            "DATA after END_STREAM",
            vec![get(1), frame(DATA, END_STREAM, 1, b"x")],
            Stream(&[STREAM_CLOSED, PROTOCOL]),
        ),
        ("HEADERS after END_STREAM", vec![get(1), get(1)], Stream(&[STREAM_CLOSED, PROTOCOL])),
        (
            "CONTINUATION after END_STREAM",
            vec![get(1), frame(CONTINUATION, END_HEADERS, 1, &[])],
            Connection(&[PROTOCOL, STREAM_CLOSED]),
        ),
        // 5.1.1
        ("an even stream number", vec![get(2)], Connection(&[PROTOCOL])),
        ("a stream number that goes back", vec![get(5), get(3)], Connection(&[PROTOCOL, STREAM_CLOSED])),
        // 5.1.2
        ("more streams than allowed", (0..101).map(|index| get(2 * index + 1)).collect(), Stream(&[REFUSED])),
        // 5.3.1
        (
            "a stream that depends on itself",
            vec![frame(PRIORITY, 0, 1, &[0, 0, 0, 1, 1])],
            Stream(&[PROTOCOL]),
        ),
        (
            "HEADERS that depend on themselves",
            vec![frame(
                HEADERS,
                END_HEADERS | END_STREAM | PRIORITIZED,
                1,
                &[&[0, 0, 0, 1, 1][..], &request("GET", &[])].concat(),
            )],
            Stream(&[PROTOCOL]),
        ),
        // 6.1 to 6.4
        ("DATA on stream 0", vec![frame(DATA, 0, 0, b"x")], Connection(&[PROTOCOL])),
        (
            "DATA with more padding than payload",
            vec![open(1), frame(DATA, PADDED, 1, &[9, 0, 0])],
            Connection(&[PROTOCOL]),
        ),
        (
            "HEADERS on stream 0",
            vec![frame(HEADERS, END_HEADERS | END_STREAM, 0, &request("GET", &[]))],
            Connection(&[PROTOCOL]),
        ),
        (
            "HEADERS with more padding than payload",
            vec![frame(HEADERS, END_HEADERS | END_STREAM | PADDED, 1, &[200, 0x82])],
            Connection(&[PROTOCOL]),
        ),
        ("PRIORITY on stream 0", vec![frame(PRIORITY, 0, 0, &[0, 0, 0, 1, 1])], Connection(&[PROTOCOL])),
        (
            "PRIORITY of four bytes",
            vec![frame(PRIORITY, 0, 1, &[0, 0, 0, 3])],
            Stream(&[FRAME_SIZE, PROTOCOL]),
        ),
        ("RST_STREAM on stream 0", vec![frame(RST_STREAM, 0, 0, &[0, 0, 0, 8])], Connection(&[PROTOCOL])),
        ("RST_STREAM of three bytes", vec![open(1), frame(RST_STREAM, 0, 1, &[0, 0, 8])], SIZE),
        // 6.5
        ("SETTINGS ACK with payload", vec![frame(SETTINGS, ACK, 0, &[0; 6])], SIZE),
        ("SETTINGS on a stream", vec![frame(SETTINGS, 0, 1, &[])], Connection(&[PROTOCOL])),
        ("SETTINGS of three bytes", vec![frame(SETTINGS, 0, 0, &[0; 3])], SIZE),
        ("ENABLE_PUSH of 2", vec![setting(2, 2)], Connection(&[PROTOCOL])),
        ("a window beyond the limit", vec![setting(4, 1 << 31)], Connection(&[FLOW_CONTROL, PROTOCOL])),
        ("a frame size below the limit", vec![setting(5, 16_383)], Connection(&[PROTOCOL])),
        ("a frame size beyond the limit", vec![setting(5, 1 << 24)], Connection(&[PROTOCOL])),
        ("an unknown setting", vec![setting(0xff, 1)], Fine),
        // 6.6, 8.4
        (
            "PUSH_PROMISE from a client",
            vec![
                open(1),
                frame(PUSH_PROMISE, END_HEADERS, 1, &[&[0, 0, 0, 2][..], &request("GET", &[])].concat()),
            ],
            Connection(&[PROTOCOL]),
        ),
        // 6.7
        ("PING", vec![], Fine),
        ("PING ACK that nobody asked for", vec![frame(PING, ACK, 0, &[7; 8])], Fine),
        ("PING on a stream", vec![frame(PING, 0, 1, &[0; 8])], Connection(&[PROTOCOL])),
        ("PING of six bytes", vec![frame(PING, 0, 0, &[0; 6])], SIZE),
        // 6.8
        ("GOAWAY on a stream", vec![frame(GOAWAY, 0, 1, &[0; 8])], Connection(&[PROTOCOL])),
        // 6.9
        (
            "WINDOW_UPDATE of 0 on the connection",
            vec![frame(WINDOW_UPDATE, 0, 0, &[0; 4])],
            Connection(&[PROTOCOL]),
        ),
        (
            "WINDOW_UPDATE of 0 on a stream",
            vec![open(1), frame(WINDOW_UPDATE, 0, 1, &[0; 4])],
            Stream(&[PROTOCOL]),
        ),
        ("WINDOW_UPDATE of three bytes", vec![frame(WINDOW_UPDATE, 0, 0, &[0; 3])], SIZE),
        (
            "a connection window that overflows",
            vec![frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff])],
            Connection(&[FLOW_CONTROL]),
        ),
        (
            "a stream window that overflows",
            vec![open(1), frame(WINDOW_UPDATE, 0, 1, &[0x7f, 0xff, 0xff, 0xff])],
            Stream(&[FLOW_CONTROL]),
        ),
        // 6.10
        (
            "CONTINUATION on stream 0",
            vec![half.clone(), frame(CONTINUATION, END_HEADERS, 0, &[])],
            Connection(&[PROTOCOL]),
        ),
        (
            "CONTINUATION after a whole block",
            vec![open(1), frame(CONTINUATION, END_HEADERS, 1, &[])],
            Connection(&[PROTOCOL]),
        ),
        ("DATA inside a header block", vec![half, frame(DATA, END_STREAM, 1, b"x")], Connection(&[PROTOCOL])),
        // RFC 7541 2.3.3, 4.2, 5.2, 6.1, 6.3
        ("an index beyond the table", vec![raw_block(&[0xff, 0x70])], CODING),
        ("index 0", vec![raw_block(&[0x80])], CODING),
        ("a table size beyond the setting", vec![raw_block(&[0x3f, 0xe1, 0xff, 0x7f])], CODING),
        ("a table size in the middle of a block", vec![raw_block(&[0x82, 0x87, 0x84, 0x20])], CODING),
        ("Huffman padding of a whole byte", vec![raw_block(&[0x00, 0x81, 0xff, 0x81, 0xff])], CODING),
        ("an integer without end", vec![raw_block(&[[0xff].as_slice(), &[0xff; 20]].concat())], CODING),
    ]
}
