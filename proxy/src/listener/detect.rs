//! Telling HTTP from everything else by the first bytes (Envoy's HTTP inspector).

use std::borrow::Cow;

use super::{
    filter::{Facts, Look, Stop},
    matching::Transport,
};

/// How a connection over HTTP/2 without TLS begins.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// First lines longer than this are not taken for HTTP.
const MAX_LINE: usize = 8 * 1024;

/// What the bytes so far say.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Http10,
    Http11,
    Http2,
    /// Something else.
    Other,
    /// Too early to say.
    Unclear,
}

/// Reads until it is clear what the connection is.
pub(super) async fn run(facts: &mut Facts, look: &mut Look<'_>) -> Result<(), Stop> {
    // In TLS there is nothing to see, and what it carries was said in the ClientHello.
    if facts.traits.transport == Transport::Tls {
        return Ok(());
    }
    let protocol = loop {
        match verdict(look.recv.data()) {
            Verdict::Http10 => break Some("http/1.0"),
            Verdict::Http11 => break Some("http/1.1"),
            Verdict::Http2 => break Some("h2c"),
            Verdict::Other => break None,
            Verdict::Unclear => {}
        }
        match look.more(MAX_LINE).await {
            Ok(()) => {}
            // It said all that it had to say.
            Err(Stop::Gone) if !look.recv.is_empty() => break None,
            Err(stop) => return Err(stop),
        }
    };
    facts.traits.applications = protocol.map(Cow::Borrowed).into_iter().collect();
    Ok(())
}

/// Judges the first bytes of a connection.
pub(crate) fn verdict(data: &[u8]) -> Verdict {
    if data.is_empty() {
        return Verdict::Unclear;
    }
    let common = data.len().min(PREFACE.len());
    if data[..common] == PREFACE[..common] {
        return if common == PREFACE.len() { Verdict::Http2 } else { Verdict::Unclear };
    }
    let line = &data[..memchr::memchr(b'\n', data).unwrap_or(data.len())];
    let method = line.iter().position(|byte| *byte == b' ').unwrap_or(line.len());
    // Methods are short words of capital letters; anything else is known not to be HTTP at its first odd byte.
    if method == 0
        || method > 24
        || !line[..method].iter().all(|byte| byte.is_ascii_uppercase() || *byte == b'-')
    {
        return Verdict::Other;
    }
    if line.len() == data.len() {
        return if data.len() >= MAX_LINE { Verdict::Other } else { Verdict::Unclear };
    }
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.ends_with(b" HTTP/1.1") {
        Verdict::Http11
    } else if line.ends_with(b" HTTP/1.0") {
        Verdict::Http10
    } else {
        Verdict::Other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decides_as_early_as_it_can() {
        for (data, expected) in [
            ("", Verdict::Unclear),
            ("G", Verdict::Unclear),
            ("GET / HTTP/1.1", Verdict::Unclear),
            ("GET / HTTP/1.1\r\n", Verdict::Http11),
            ("GET / HTTP/1.0\r\nHost: a\r\n", Verdict::Http10),
            ("PRI * HTTP/2.0\r\n\r\n", Verdict::Unclear),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Verdict::Http2),
            ("PROPFIND / HTTP/1.1\r\n", Verdict::Http11),
            ("\u{16}\u{3}\u{1}", Verdict::Other),
            ("SELECT 1\n", Verdict::Other),
            ("*1\r\n$4\r\nPING\r\n", Verdict::Other),
            ("hello", Verdict::Other),
        ] {
            assert_eq!(verdict(data.as_bytes()), expected, "{data:?}");
        }
    }
}
