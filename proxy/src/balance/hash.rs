//! The hash functions that affinity is built on, bit for bit those of Envoy: a client finds its endpoint again whichever
//! of the two proxies it comes through.

use xxhash_rust::xxh64::xxh64;

/// Which function places endpoints on a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HashFunction {
    /// XXH64 with seed 0.
    Xx,
    /// What `std::hash<std::string>` is in libstdc++.
    Murmur2,
}

/// Seed and multiplier of libstdc++.
const SEED: u64 = 0xC70F_6907;
const MULTIPLIER: u64 = 0xC6A4_A793_5BD1_E995;

/// What Envoy hashes with everywhere but where configured otherwise.
pub(crate) fn xx(bytes: &[u8]) -> u64 {
    xxh64(bytes, 0)
}

/// Of several texts, each with the hash of the one before as its seed; `None` of none.
pub(crate) fn xx_all(texts: &[Vec<u8>]) -> Option<u64> {
    let (first, others) = texts.split_first()?;
    Some(others.iter().fold(xx(first), |hash, text| xxh64(text, hash)))
}

/// With a seed, for a second function that is independent of the first.
pub(super) fn xx_seeded(bytes: &[u8], seed: u64) -> u64 {
    xxh64(bytes, seed)
}

// === impl HashFunction ===

impl HashFunction {
    pub(super) fn hash(self, bytes: &[u8]) -> u64 {
        match self {
            Self::Xx => xx(bytes),
            Self::Murmur2 => murmur2(bytes),
        }
    }
}

/// MurmurHash64A (Austin Appleby) as libstdc++ has it, which differs in how the last bytes are mixed in on big-endian
/// machines only.
fn murmur2(bytes: &[u8]) -> u64 {
    let mix = |word: u64| {
        let word = word.wrapping_mul(MULTIPLIER);
        (word ^ (word >> 47)).wrapping_mul(MULTIPLIER)
    };
    let words = bytes.chunks_exact(8);
    let rest = words.remainder();
    let mut hash = SEED ^ (bytes.len() as u64).wrapping_mul(MULTIPLIER);
    for word in words {
        let word = word.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
        hash = (hash ^ mix(word)).wrapping_mul(MULTIPLIER);
    }
    if !rest.is_empty() {
        let word = rest.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
        hash = (hash ^ word).wrapping_mul(MULTIPLIER);
    }
    hash = (hash ^ (hash >> 47)).wrapping_mul(MULTIPLIER);
    hash ^ (hash >> 47)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Printed by `std::hash<std::string>` of libstdc++ on x86-64.
    #[test]
    fn murmur_is_that_of_libstdcpp() {
        for (text, hash) in [
            ("", 6_142_509_188_972_423_790),
            ("a", 4_993_892_634_952_068_459),
            ("foo", 9_631_199_822_919_835_226),
            ("bar", 11_474_628_671_133_349_555),
            ("10.0.0.1:80_17", 4_437_040_220_721_654_695),
            ("0123456789abcdef", 10_613_591_747_391_057_286),
        ] {
            assert_eq!(HashFunction::Murmur2.hash(text.as_bytes()), hash, "{text:?}");
        }
    }
}
