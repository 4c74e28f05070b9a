//! The bootstrap loader: every text is either a configuration or an error that says where, in bounded time and memory.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use weft_xds::json::{Descriptors, Format, parse_bootstrap};

/// Kept for all runs: decoding them takes longer than everything else.
static DESCRIPTORS: LazyLock<Descriptors> = LazyLock::new(Descriptors::load);

fuzz_target!(|input: &[u8]| {
    LazyLock::force(&DESCRIPTORS);
    let Ok(text) = std::str::from_utf8(input) else { return };
    // A configuration may name any file of the machine; a fuzzer must not.
    if ["filename", "environment", "path", "\\"].iter().any(|word| text.to_ascii_lowercase().contains(word)) {
        return;
    }
    if let Ok(bootstrap) = parse_bootstrap(text, Format::Auto) {
        let _ = weft_proxy::server::validate(bootstrap);
    }
});
