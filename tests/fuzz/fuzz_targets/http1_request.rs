//! Requests: understood as a naive strict reader understands them, and forwarded as exactly one message that says the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weft_fuzz::{
    pieces,
    rfc9112::{self, Kind, end_to_end, lower},
};
use weft_proxy::fuzzing::{MAX_REQUEST_FIELDS, Passed, Reading, request};

fuzz_target!(|input: &[u8]| {
    let mut rest = input;
    // All messages of a connection, so that a wrong boundary shows in the next one.
    let read = |rest| pieces::same_message(rest, |sizes| request(rest, sizes), |passed| check(rest, passed));
    while let Reading::Complete(passed) = read(rest) {
        rest = &rest[passed.consumed..];
    }
});

fn check(input: &[u8], passed: &Passed) {
    let understood = rfc9112::read(input, Kind::Request).expect("what is accepted is clear");
    assert_eq!(understood.consumed, passed.consumed, "the message ends where it ends");
    assert_eq!(understood.fields, passed.fields);
    assert_eq!(understood.body, passed.body);

    let next = rfc9112::read(&passed.forwarded, Kind::Request).expect("what is forwarded is clear");
    assert_eq!(next.consumed, passed.forwarded.len(), "one message came out of one");
    assert_eq!(next.first, understood.first, "the method");
    assert_eq!(next.second, passed.target, "the target in its normal form");
    assert_eq!(next.body, understood.body);
    assert_eq!(next.trailers, passed.trailers);
    assert!(next.trailers.iter().all(|trailer| understood.trailers.contains(trailer)));

    let sent = |name: &str| -> Vec<&[u8]> {
        next.fields.iter().filter(|(n, _)| lower(n) == name).map(|(_, value)| &value[..]).collect()
    };
    assert_eq!(sent("host"), [&passed.authority[..]], "exactly one host, the one that was understood");
    assert!(sent("content-length").len() + sent("transfer-encoding").len() <= 1);
    let ours =
        |name: &[u8]| ["host", "content-length", "transfer-encoding", "expect"].contains(&&*lower(name));
    let expected: Vec<_> =
        end_to_end(&understood.fields).into_iter().filter(|(name, _)| !ours(name)).collect();
    let others: Vec<_> = next.fields.iter().filter(|(name, _)| !ours(name)).cloned().collect();
    assert_eq!(others, expected, "the other fields, as they were and in their order");

    // A request of HTTP/1.0 may be for no host; to that version we do not forward, and of HTTP/1.1 we refuse it.
    // And a request that may have a body gets a length: one that had as many fields as are allowed has one more now.
    if passed.authority.is_empty() || next.fields.len() > MAX_REQUEST_FIELDS {
        return;
    }
    let Reading::Complete(again) = request(&passed.forwarded, &mut std::iter::empty()) else {
        panic!("what is forwarded is what we would accept")
    };
    assert_eq!(again.forwarded, passed.forwarded, "a second proxy changes nothing");
}
