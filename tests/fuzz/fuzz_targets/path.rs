//! Path normalisation: one form, whatever is asked for, and nothing left in it that a server behind us could resolve.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weft_proxy::fuzzing::{Slashes, normal_path};

fuzz_target!(|input: &[u8]| {
    if !input.starts_with(b"/") {
        return;
    }
    for normalize in [true, false] {
        for merge in [true, false] {
            for slashes in [Slashes::Keep, Slashes::Reject, Slashes::Unescape] {
                if let Some(normal) = normal_path(input, normalize, merge, slashes) {
                    check(input, &normal, normalize, merge, slashes);
                    let again = normal_path(&normal, normalize, merge, slashes);
                    assert_eq!(again.as_ref(), Some(&normal), "the normal form is its own normal form");
                }
            }
        }
    }
});

fn check(input: &[u8], normal: &[u8], normalize: bool, merge: bool, slashes: Slashes) {
    let split = |target: &[u8]| {
        let end = target.iter().position(|byte| *byte == b'?').unwrap_or(target.len());
        (target[..end].to_ascii_lowercase(), target[end..].to_vec())
    };
    let (path, query) = split(normal);
    assert_eq!(query, split(input).1, "the query is not touched");
    assert!(path.starts_with(b"/"));
    let has = |part: &[u8]| path.windows(part.len()).any(|window| window == part);
    if normalize {
        let mut segments = path.split(|byte| *byte == b'/');
        assert!(!segments.any(|segment| segment == b"." || segment == b".."), "no segment leads elsewhere");
        assert!(!has(b"\\") && !has(b"%2e") && !has(b"%00"));
    }
    if merge {
        assert!(!has(b"//"), "no empty segment");
    }
    if slashes != Slashes::Keep {
        assert!(!has(b"%2f") && !has(b"%5c"), "no slash in disguise");
    }
}
