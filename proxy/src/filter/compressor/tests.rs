use std::io::Read as _;

use super::{coder::*, *};
use crate::{
    http::{body::Trailers, change::Transform as _},
    metrics::NamedCounters,
};

fn libraries() -> [Library; 3] {
    let brotli = Brotli {
        quality: 3,
        mode: BrotliMode::Generic,
        window_bits: 18,
        block_bits: None,
        literal_context: true,
    };
    [
        Library::Gzip { level: 6, window_bits: 12 },
        Library::Brotli(brotli),
        Library::Zstd { level: 3, checksum: false },
    ]
}

fn decoded(library: &Library, data: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    // What a flush left is a part of a stream: all that can be read of it is what was said so far.
    let _ = match library {
        Library::Gzip { .. } => flate2::bufread::GzDecoder::new(data).read_to_end(&mut out),
        Library::Brotli(_) => brotli::Decompressor::new(data, 4096).read_to_end(&mut out),
        Library::Zstd { .. } => {
            zstd::stream::read::Decoder::new(data).expect("a decoder").read_to_end(&mut out)
        }
    };
    out
}

#[test]
fn each_coding_is_read_back_and_says_all_that_it_has_when_flushed() {
    let stats = NamedCounters::new(1).get(&COUNTERS, &[]);
    let words: Vec<u8> = (0..60_000u32).flat_map(|n| format!("word {} ", n % 977).into_bytes()).collect();
    for library in libraries() {
        for length in [None, Some(words.len() as u64)] {
            let mut coder = Coder::new(&library, length, Arc::clone(&stats), 0);
            let mut out = Vec::new();
            coder.flush(&mut out).expect("flushes");
            assert!(out.is_empty(), "nothing came that could be said");
            for (index, piece) in words.chunks(16 * 1024).enumerate() {
                coder.data(piece, &mut out).expect("data");
                if index == 2 {
                    coder.flush(&mut out).expect("flushes");
                    assert_eq!(decoded(&library, &out).len(), 3 * 16 * 1024, "{library:?}");
                }
            }
            coder.end(&mut Trailers::new(), &mut out).expect("ends");
            assert_eq!(decoded(&library, &out), words, "{library:?}");
            assert!(out.len() < words.len() / 4, "{library:?}: {}", out.len());
        }
        let mut empty = Vec::new();
        let mut coder = Coder::new(&library, None, Arc::clone(&stats), 0);
        coder.end(&mut Trailers::new(), &mut empty).expect("ends");
        assert!(!empty.is_empty() && decoded(&library, &empty).is_empty());
    }
}

#[test]
fn a_tag_of_the_exact_bytes_goes_or_is_weakened_and_a_weak_one_stays() {
    for (etag, before, after) in [
        (Etag::Remove, "\"abc\"", None),
        (Etag::Weaken, "\"abc\"", Some("W/\"abc\"")),
        (Etag::Remove, "W/\"abc\"", Some("W/\"abc\"")),
        (Etag::Weaken, "w/\"abc\"", Some("w/\"abc\"")),
    ] {
        let mut head = Head::default();
        head.append(b"etag", before.as_bytes());
        etag.apply(&mut head);
        assert_eq!(head.get(b"etag"), after.map(str::as_bytes), "{etag:?} {before}");
    }
}

#[test]
fn caches_are_told_once() {
    for (before, after) in [
        (None, "Accept-Encoding"),
        (Some("origin"), "origin, Accept-Encoding"),
        (Some("a,accept-encoding"), "a,accept-encoding"),
    ] {
        let mut head = Head::default();
        if let Some(before) = before {
            head.append(b"vary", before.as_bytes());
        }
        vary(&mut head);
        assert_eq!(head.get_all(b"vary").collect::<Vec<_>>(), [after.as_bytes()]);
    }
}
