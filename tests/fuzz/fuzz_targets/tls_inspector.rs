//! ClientHellos: one verdict however the bytes arrive, names that can be compared, and an end to the waiting.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weft_fuzz::pieces;
use weft_proxy::fuzzing::{Reading, client_hello};

const LIMIT: usize = 1024;

fuzz_target!(|input: &[u8]| {
    // As much as is ever read for it.
    let input = &input[..input.len().min(LIMIT)];
    match pieces::same(input, |sizes| client_hello(input, LIMIT, sizes)) {
        Reading::Incomplete => assert!(input.len() < LIMIT, "nobody waits for ever"),
        Reading::Complete(Some((Some(name), _))) => {
            assert!(!name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic()), "{name:?}");
            assert_eq!(name, name.to_ascii_lowercase());
        }
        _ => {}
    }
});
