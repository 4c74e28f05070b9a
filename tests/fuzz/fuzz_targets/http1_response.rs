//! Responses: understood as a naive strict reader understands them, and passed on as exactly one message that says the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weft_fuzz::{
    pieces,
    rfc9112::{self, Kind, end_to_end, lower},
};
use weft_proxy::fuzzing::{Passed, Reading, response};

fuzz_target!(|input: &[u8]| {
    for to_head in [false, true] {
        let mut rest = input;
        let read = |rest| {
            pieces::same_message(
                rest,
                |sizes| response(rest, to_head, sizes),
                |passed| check(rest, to_head, passed),
            )
        };
        while let Reading::Complete(passed) = read(rest) {
            rest = &rest[passed.consumed..];
        }
    }
});

fn check(input: &[u8], to_head: bool, passed: &Passed) {
    let kind = Kind::Response { to_head };
    let understood = rfc9112::read(input, kind).expect("what is accepted is clear");
    assert_eq!(understood.consumed, passed.consumed, "the message ends where it ends");
    assert_eq!(understood.fields, passed.fields);
    assert_eq!(understood.body, passed.body);

    let next = rfc9112::read(&passed.forwarded, kind).expect("what is passed on is clear");
    assert_eq!(next.consumed, passed.forwarded.len(), "one message came out of one");
    assert_eq!(next.second, understood.second, "the status");
    assert_eq!(next.body, understood.body);
    assert_eq!(next.trailers, passed.trailers);
    let count = |name: &str| next.fields.iter().filter(|(n, _)| lower(n) == name).count();
    assert!(count("transfer-encoding") <= 1);
    assert!(count("transfer-encoding") == 0 || count("content-length") == 0);
    let ours = |name: &[u8]| ["content-length", "transfer-encoding"].contains(&&*lower(name));
    let expected: Vec<_> =
        end_to_end(&understood.fields).into_iter().filter(|(name, _)| !ours(name)).collect();
    let others: Vec<_> = next.fields.iter().filter(|(name, _)| !ours(name)).cloned().collect();
    // An interim response is passed on with the fields that it came with, this hop's excepted.
    assert_eq!(others, expected, "the other fields, as they were and in their order");
}
