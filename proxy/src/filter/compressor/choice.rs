//! Which coding a client gets, of those that it accepts and we have.

/// A decision, and what led to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Choice<'c> {
    /// `None` is the body as it is.
    pub(super) coding: Option<&'c str>,
    pub(super) why: Why,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// The client named it.
    Named,
    /// The client would rather have the body as it is.
    Identity,
    /// The client takes anything.
    Wildcard,
    /// There is nothing that it takes and we have.
    NotValid,
}

/// Chooses for a client that said this in `accept-encoding` among the compressors of a chain, each with whether it is
/// preferred among equals. As Envoy: of two for the same coding only the first counts.
pub(super) fn choose<'c>(accepted: &[u8], compressors: impl Iterator<Item = (&'c str, bool)>) -> Choice<'c> {
    let mut known: Vec<(&str, bool)> = Vec::new();
    for (coding, first) in compressors {
        if !known.iter().any(|(other, _)| *other == coding) {
            known.push((coding, first));
        }
    }
    let mut asked = Vec::new();
    for token in accepted.split(|byte| *byte == b',').filter(|token| !token.is_empty()) {
        let Some((name, quality)) = with_quality(token) else { continue };
        if quality == 0.0 {
            known.retain(|(coding, _)| coding.as_bytes() != name);
        }
        asked.push((name, quality));
    }
    let nothing = Choice { coding: None, why: Why::NotValid };
    if known.is_empty() {
        return nothing;
    }
    let (mut best, mut best_quality): (&[u8], f32) = (b"identity", 0.0);
    for (name, quality) in asked {
        let compressor = known.iter().find(|(coding, _)| coding.as_bytes() == name);
        if compressor.is_none() && !matches!(name, b"identity" | b"*") {
            continue;
        }
        let preferred = compressor.is_some_and(|(_, first)| *first);
        if quality > best_quality || (quality == best_quality && preferred) {
            (best, best_quality) = (name, quality);
        }
    }
    match best {
        _ if best_quality == 0.0 => nothing,
        b"identity" => Choice { coding: None, why: Why::Identity },
        b"*" => Choice { coding: Some(known[0].0), why: Why::Wildcard },
        name => {
            let coding = known.iter().map(|(coding, _)| *coding).find(|coding| coding.as_bytes() == name);
            Choice { coding, why: Why::Named }
        }
    }
}

/// A coding and how much it is liked; `None` if that cannot be read.
fn with_quality(token: &[u8]) -> Option<(&[u8], f32)> {
    let (name, parameters) = split(token, b';');
    let name = name.trim_ascii();
    let Some(parameters) = parameters else { return Some((name, 1.0)) };
    match split(parameters, b'=') {
        (key, Some(value)) if key.trim_ascii().eq_ignore_ascii_case(b"q") => {
            let value = std::str::from_utf8(value.trim_ascii()).ok()?.parse().ok()?;
            Some((name, value))
        }
        _ => Some((name, 1.0)),
    }
}

fn split(text: &[u8], at: u8) -> (&[u8], Option<&[u8]>) {
    match memchr::memchr(at, text) {
        Some(index) => (&text[..index], Some(&text[index + 1..])),
        None => (text, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_liked_of_what_there_is_wins_and_among_equals_the_first_that_was_named() {
        let all = [("gzip", false), ("br", false), ("zstd", false)];
        for (accepted, coding, why) in [
            ("gzip", Some("gzip"), Why::Named),
            ("gzip, br", Some("gzip"), Why::Named),
            ("gzip;q=0.5, br;q=0.8", Some("br"), Why::Named),
            ("deflate, zstd;q=0.1", Some("zstd"), Why::Named),
            ("gzip ; Q = 0.2,identity;q=0.9", None, Why::Identity),
            ("identity", None, Why::Identity),
            ("*", Some("gzip"), Why::Wildcard),
            ("gzip;q=0, *", Some("br"), Why::Wildcard),
            ("gzip;q=0", None, Why::NotValid),
            ("gzip;q=much", None, Why::NotValid),
            ("gzip;x=1", Some("gzip"), Why::Named),
            ("GZIP", None, Why::NotValid),
            ("deflate", None, Why::NotValid),
            ("", None, Why::NotValid),
            (",, ;q=1", None, Why::NotValid),
        ] {
            assert_eq!(choose(accepted.as_bytes(), all.into_iter()), Choice { coding, why }, "{accepted:?}");
        }
    }

    #[test]
    fn one_that_is_to_be_first_wins_among_equals_the_last_of_several() {
        let chain = [("gzip", true), ("br", true), ("zstd", false)];
        for (accepted, coding) in [
            ("zstd,gzip", "gzip"),
            ("zstd,gzip,br", "br"),
            ("br,gzip", "gzip"),
            ("zstd;q=0.9,gzip;q=0.8", "zstd"),
        ] {
            let choice = choose(accepted.as_bytes(), chain.into_iter());
            assert_eq!(choice, Choice { coding: Some(coding), why: Why::Named }, "{accepted}");
        }
        let without = choose(b"gzip", std::iter::empty());
        assert_eq!(without, Choice { coding: None, why: Why::NotValid });
    }
}
