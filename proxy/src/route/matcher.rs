//! Conditions on a request.

use regex::bytes::Regex;

use super::cookies::CookieMatch;
use crate::{
    balance::Random,
    http::head::{Head, Method},
    runtime::{Runtime, Share},
};

/// When a route applies; all parts must hold.
#[derive(Debug)]
pub(crate) struct RouteMatch {
    pub(crate) path: PathMatch,
    pub(crate) headers: Vec<HeaderMatch>,
    pub(crate) cookies: Vec<CookieMatch>,
    pub(crate) query: Vec<QueryMatch>,
    /// gRPC requests only.
    pub(crate) grpc: bool,
    /// Whether the client must have shown a certificate, or must not. One that is not valid is not let in at all.
    pub(crate) certificate: Option<bool>,
    /// Share of requests; `None` is all.
    pub(crate) fraction: Option<Share>,
}

/// What a route is looked for.
#[derive(Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) head: &'a Head,
    /// Whether the client has shown a certificate.
    pub(crate) certificate: bool,
    pub(crate) random: &'a Random,
    pub(crate) runtime: &'a Runtime,
    /// Whether what follows a semicolon in the path counts.
    pub(crate) parameters: bool,
}

/// Condition on the path, without its query.
#[derive(Debug)]
pub(crate) enum PathMatch {
    Prefix {
        text: Vec<u8>,
        ignore_case: bool,
    },
    Exact {
        text: Vec<u8>,
        ignore_case: bool,
    },
    /// A prefix that ends at a `/` or at the end of the path.
    SeparatedPrefix {
        text: Vec<u8>,
        ignore_case: bool,
    },
    /// The whole path.
    Regex(Regex),
    /// CONNECT requests, which have no path and match nothing else.
    Connect,
}

/// Condition on one header field.
#[derive(Debug)]
pub(crate) struct HeaderMatch {
    /// Lower case; `:method`, `:path` and `:authority` are those of the request.
    pub(crate) name: Vec<u8>,
    pub(crate) condition: HeaderCondition,
    pub(crate) invert: bool,
    pub(crate) missing_is_empty: bool,
}

/// Condition on a field's value.
#[derive(Debug)]
pub(crate) enum HeaderCondition {
    Present(bool),
    Text(TextMatch),
    /// A whole number in `start..end`.
    Range {
        start: i64,
        end: i64,
    },
}

/// Condition on one query parameter.
#[derive(Debug)]
pub(crate) struct QueryMatch {
    pub(crate) name: Vec<u8>,
    pub(crate) value: QueryCondition,
}

/// Condition on a query parameter's value.
#[derive(Debug)]
pub(crate) enum QueryCondition {
    Present(bool),
    Text(TextMatch),
}

/// Condition on a text.
#[derive(Debug)]
pub(crate) struct TextMatch {
    pub(crate) pattern: TextPattern,
    pub(crate) ignore_case: bool,
}

/// How a text is compared.
#[derive(Debug)]
pub(crate) enum TextPattern {
    Exact(Vec<u8>),
    Prefix(Vec<u8>),
    Suffix(Vec<u8>),
    Contains(Vec<u8>),
    /// The whole text.
    Regex(Regex),
}

// === impl Asked ===

impl Asked<'_> {
    /// The path as routes see it.
    pub(super) fn path(&self) -> &[u8] {
        let path = self.head.path();
        if self.parameters {
            return path;
        }
        &path[..memchr::memchr(b';', path).unwrap_or(path.len())]
    }
}

// === impl RouteMatch ===

impl RouteMatch {
    pub(crate) fn matches(&self, asked: &Asked<'_>) -> bool {
        let head = asked.head;
        (head.method == Method::Connect) == matches!(self.path, PathMatch::Connect)
            && self.path.matches(asked.path())
            && self.headers.iter().all(|header| header.matches(head))
            && self.cookies.iter().all(|cookie| cookie.matches(head))
            && self.query.iter().all(|query| query.matches(head.target()))
            && (!self.grpc || head.is_grpc())
            && self.certificate.is_none_or(|shown| shown == asked.certificate)
            && self.fraction.as_ref().is_none_or(|share| asked.random.chance(share.of(asked.runtime)))
    }
}

// === impl PathMatch ===

impl PathMatch {
    fn matches(&self, path: &[u8]) -> bool {
        match self {
            Self::Prefix { text, ignore_case } => starts_with(path, text, *ignore_case),
            Self::Exact { text, ignore_case } => equals(path, text, *ignore_case),
            Self::SeparatedPrefix { text, ignore_case } => {
                starts_with(path, text, *ignore_case) && matches!(path.get(text.len()), None | Some(b'/'))
            }
            Self::Regex(regex) => regex.is_match(path),
            Self::Connect => true,
        }
    }

    /// How much of a path that matches is what a rewrite of the prefix replaces.
    pub(crate) fn matched_length(&self, path: &[u8]) -> usize {
        match self {
            // Parameters that did not count (see `Asked::parameters`) stay.
            Self::Prefix { text, .. } | Self::SeparatedPrefix { text, .. } | Self::Exact { text, .. } => {
                text.len().min(path.len())
            }
            Self::Regex(_) | Self::Connect => path.len(),
        }
    }
}

// === impl HeaderMatch ===

impl HeaderMatch {
    pub(crate) fn matches(&self, head: &Head) -> bool {
        let single = match self.name.as_slice() {
            b":method" => Some(head.method_text()),
            b":path" => Some(head.target()),
            b":authority" => Some(head.authority()),
            _ => None,
        };
        match single {
            Some(value) => self.holds(std::iter::once(value)),
            None => self.holds(head.get_all(&self.name)),
        }
    }

    /// As Envoy: of several fields of one name, one that meets the condition is enough, and inverted none may. A field
    /// that is not there meets no condition on its value, inverted or not.
    fn holds<'v>(&self, values: impl Iterator<Item = &'v [u8]>) -> bool {
        let mut values = values.peekable();
        let found = match (&self.condition, values.peek()) {
            (HeaderCondition::Present(wanted), first) => {
                (first.is_some() || self.missing_is_empty) == *wanted
            }
            (_, None) if !self.missing_is_empty => return false,
            (condition, None) => condition.meets(b""),
            (condition, Some(_)) => values.any(|value| condition.meets(value)),
        };
        found != self.invert
    }
}

// === impl HeaderCondition ===

impl HeaderCondition {
    /// Whether a value is as wanted.
    fn meets(&self, value: &[u8]) -> bool {
        match self {
            Self::Present(wanted) => *wanted,
            Self::Text(text) => text.matches(value),
            Self::Range { start, end } => {
                let number = std::str::from_utf8(value).ok().and_then(|value| value.parse::<i64>().ok());
                number.is_some_and(|number| (*start..*end).contains(&number))
            }
        }
    }
}

// === impl QueryMatch ===

impl QueryMatch {
    pub(crate) fn matches(&self, target: &[u8]) -> bool {
        match (&self.value, parameter(target, &self.name)) {
            (QueryCondition::Present(wanted), found) => found.is_some() == *wanted,
            (QueryCondition::Text(text), Some(value)) => text.matches(value),
            (QueryCondition::Text(_), None) => false,
        }
    }
}

/// The value of a query parameter.
pub(crate) fn parameter<'t>(target: &'t [u8], name: &[u8]) -> Option<&'t [u8]> {
    let start = memchr::memchr(b'?', target).map_or(target.len(), |at| at + 1);
    target[start..].split(|byte| *byte == b'&').find_map(|parameter| {
        let end = memchr::memchr(b'=', parameter).unwrap_or(parameter.len());
        (parameter[..end] == *name).then(|| parameter.get(end + 1..).unwrap_or(b""))
    })
}

// === impl TextMatch ===

impl TextMatch {
    pub(crate) fn matches(&self, value: &[u8]) -> bool {
        match &self.pattern {
            TextPattern::Exact(text) => equals(value, text, self.ignore_case),
            TextPattern::Prefix(text) => starts_with(value, text, self.ignore_case),
            TextPattern::Suffix(text) => {
                value.len() >= text.len()
                    && equals(&value[value.len() - text.len()..], text, self.ignore_case)
            }
            TextPattern::Contains(text) => {
                if self.ignore_case {
                    memchr::memmem::find(&value.to_ascii_lowercase(), &text.to_ascii_lowercase()).is_some()
                } else {
                    memchr::memmem::find(value, text).is_some()
                }
            }
            TextPattern::Regex(regex) => regex.is_match(value),
        }
    }
}

fn equals(value: &[u8], text: &[u8], ignore_case: bool) -> bool {
    if ignore_case { value.eq_ignore_ascii_case(text) } else { value == text }
}

fn starts_with(value: &[u8], text: &[u8], ignore_case: bool) -> bool {
    value.len() >= text.len() && equals(&value[..text.len()], text, ignore_case)
}
