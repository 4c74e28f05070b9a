//! The chunked coding: exactly the bodies that a naive strict reader accepts, however they are cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weft_fuzz::{pieces, rfc9112};
use weft_proxy::fuzzing::{Reading, chunked};

fuzz_target!(|input: &[u8]| {
    let naive = rfc9112::chunked(input);
    match (pieces::same(input, |sizes| chunked(input, sizes)), naive) {
        (Reading::Complete(ours), Some((body, trailers, rest))) => {
            assert_eq!(ours.body, body);
            assert_eq!(ours.consumed, input.len() - rest.len(), "the body ends where it ends");
            assert!(ours.trailers.iter().all(|trailer| trailers.contains(trailer)));
        }
        (Reading::Complete(ours), None) => panic!("accepted what is not clear: {ours:?}"),
        // More trailer fields than are taken.
        (Reading::Refused, Some((_, trailers, _))) if trailers.len() > 100 => {}
        (ours, Some(naive)) => panic!("{ours:?} instead of {naive:?}"),
        (_, None) => {}
    }
});
