//! Cookies in requests, and conditions on them.

use super::matcher::TextMatch;
use crate::http::head::{Head, Known};

/// Condition on one cookie.
#[derive(Debug)]
pub(crate) struct CookieMatch {
    pub(crate) name: Vec<u8>,
    pub(crate) value: TextMatch,
    pub(crate) invert: bool,
}

// === impl CookieMatch ===

impl CookieMatch {
    /// As in Envoy: without the cookie only the inverted condition holds.
    pub(crate) fn matches(&self, request: &Head) -> bool {
        value_of(&self.name, request).is_some_and(|value| self.value.matches(value)) != self.invert
    }
}

/// The first value of this cookie, without the quotes around it.
pub(super) fn value_of<'r>(name: &[u8], request: &'r Head) -> Option<&'r [u8]> {
    let pairs = request.all_known(Known::Cookie).flat_map(|field| field.split(|byte| *byte == b';'));
    let value = pairs
        .filter_map(|pair| pair.trim_ascii_start().strip_prefix(name)?.strip_prefix(b"="))
        .next()?
        .trim_ascii_end();
    let quoted = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\""));
    Some(quoted.unwrap_or(value))
}
