//! Conditions on a request.

use regex::bytes::Regex;

use crate::{balance::Random, http::head::Head};

/// When a route applies; all parts must hold.
#[derive(Debug)]
pub(crate) struct RouteMatch {
    pub(crate) path: PathMatch,
    pub(crate) headers: Vec<HeaderMatch>,
    pub(crate) query: Vec<QueryMatch>,
    /// gRPC requests only.
    pub(crate) grpc: bool,
    /// Share of requests in parts per million; `None` is all.
    pub(crate) fraction: Option<u32>,
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
    /// `None`: it only must be there.
    pub(crate) value: Option<TextMatch>,
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

// === impl RouteMatch ===

impl RouteMatch {
    pub(crate) fn matches(&self, head: &Head, random: &Random) -> bool {
        self.path.matches(head.path())
            && self.headers.iter().all(|header| header.matches(head))
            && self.query.iter().all(|query| query.matches(head.target()))
            && (!self.grpc || head.is_grpc())
            && self.fraction.is_none_or(|share| (random.below(1_000_000) as u32) < share)
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
        }
    }

    /// How much of a path that matches is what a rewrite of the prefix replaces.
    pub(crate) fn matched_length(&self, path: &[u8]) -> usize {
        match self {
            Self::Prefix { text, .. } | Self::SeparatedPrefix { text, .. } => text.len().min(path.len()),
            Self::Exact { .. } | Self::Regex(_) => path.len(),
        }
    }
}

// === impl HeaderMatch ===

impl HeaderMatch {
    pub(crate) fn matches(&self, head: &Head) -> bool {
        let joined;
        let value = match self.name.as_slice() {
            b":method" => Some(head.method_text()),
            b":path" => Some(head.target()),
            b":authority" => Some(head.authority()),
            name => {
                let mut values = head.get_all(name);
                match (values.next(), values.next()) {
                    (Some(first), Some(second)) => {
                        // As Envoy: several fields of one name are matched as the list that they are.
                        let mut all = [first, b",", second].concat();
                        for value in values {
                            all.push(b',');
                            all.extend_from_slice(value);
                        }
                        joined = all;
                        Some(joined.as_slice())
                    }
                    (first, _) => first,
                }
            }
        };
        let value = if value.is_none() && self.missing_is_empty { Some(&b""[..]) } else { value };
        match (&self.condition, value) {
            (HeaderCondition::Present(wanted), value) => (value.is_some() == *wanted) != self.invert,
            // As Envoy: a field that is not there matches no condition on its value, inverted or not.
            (_, None) => false,
            (HeaderCondition::Text(text), Some(value)) => text.matches(value) != self.invert,
            (HeaderCondition::Range { start, end }, Some(value)) => {
                let number = std::str::from_utf8(value).ok().and_then(|value| value.parse::<i64>().ok());
                number.is_some_and(|number| (*start..*end).contains(&number)) != self.invert
            }
        }
    }
}

// === impl QueryMatch ===

impl QueryMatch {
    fn matches(&self, target: &[u8]) -> bool {
        let Some(start) = memchr::memchr(b'?', target) else { return false };
        let found = target[start + 1..].split(|byte| *byte == b'&').find_map(|parameter| {
            let end = memchr::memchr(b'=', parameter).unwrap_or(parameter.len());
            (parameter[..end] == *self.name).then(|| parameter.get(end + 1..).unwrap_or(b""))
        });
        match (&self.value, found) {
            (_, None) => false,
            (None, Some(_)) => true,
            (Some(text), Some(value)) => text.matches(value),
        }
    }
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
