//! Redirects that are followed here instead of by the client.

use crate::http::h1::parse::is_authority;

/// Which redirects of upstreams are followed.
#[derive(Debug)]
pub(crate) struct RedirectPolicy {
    pub(crate) statuses: Vec<u16>,
    /// How many in a row.
    pub(crate) most: u32,
    pub(crate) predicates: Vec<Predicate>,
    pub(crate) cross_scheme: bool,
    /// Fields that the next request takes from the response.
    pub(crate) copy: Vec<Vec<u8>>,
}

/// A condition on where a redirect leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Predicate {
    /// Only to routes of these names.
    AllowListed(Vec<String>),
    /// From each route only once to each other.
    PreviousRoutes,
    /// Never from plain text to TLS.
    SafeCrossScheme,
}

/// Where a redirect leads.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Location {
    pub(crate) https: bool,
    pub(crate) authority: Vec<u8>,
    pub(crate) target: Vec<u8>,
}

/// A way that a request may go.
pub(crate) struct Way<'w> {
    pub(crate) to: &'w str,
    pub(crate) from_https: bool,
    pub(crate) to_https: bool,
    /// Whether it went there before from the same route.
    pub(crate) again: bool,
}

// === impl RedirectPolicy ===

impl RedirectPolicy {
    pub(crate) fn is_for(&self, status: u16) -> bool {
        self.statuses.contains(&status)
    }

    pub(crate) fn accepts(&self, way: &Way<'_>) -> bool {
        self.predicates.iter().all(|predicate| match predicate {
            Predicate::AllowListed(names) => names.iter().any(|name| name == way.to),
            Predicate::PreviousRoutes => !way.again,
            Predicate::SafeCrossScheme => way.from_https || !way.to_https,
        })
    }
}

// === impl Location ===

impl Location {
    /// Reads an absolute URL, as Envoy wants it: others lead nowhere that is certain.
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        let (https, rest) = match (strip(text, b"http://"), strip(text, b"https://")) {
            (Some(rest), _) => (false, rest),
            (_, Some(rest)) => (true, rest),
            _ => return None,
        };
        let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?' | b'#')).unwrap_or(rest.len());
        let (authority, rest) = rest.split_at(end);
        if !is_authority(authority) {
            return None;
        }
        // What follows a '#' is for the client only.
        let target = &rest[..memchr::memchr(b'#', rest).unwrap_or(rest.len())];
        if !target.iter().all(|byte| byte.is_ascii_graphic() || *byte >= 0x80) {
            return None;
        }
        let slash: &[u8] = if target.starts_with(b"/") { b"" } else { b"/" };
        Some(Self { https, authority: authority.to_vec(), target: [slash, target].concat() })
    }
}

fn strip<'t>(text: &'t [u8], scheme: &[u8]) -> Option<&'t [u8]> {
    let (start, rest) = text.split_at_checked(scheme.len())?;
    start.eq_ignore_ascii_case(scheme).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_absolute_urls_lead_somewhere() {
        let read = |text: &str| Location::parse(text.as_bytes());
        let to = |https, authority: &str, target: &str| {
            Some(Location { https, authority: authority.into(), target: target.into() })
        };
        assert_eq!(read("http://a/b?c=d"), to(false, "a", "/b?c=d"));
        assert_eq!(read("HTTPS://a.example:8443"), to(true, "a.example:8443", "/"));
        assert_eq!(read("http://[::1]:80?q#f"), to(false, "[::1]:80", "/?q"));
        for nowhere in
            ["", "/b", "//a/b", "ftp://a/b", "http:///b", "http://a@b/c", "http://a/b c", "http://a\r\n/b"]
        {
            assert_eq!(read(nowhere), None, "{nowhere:?}");
        }
    }
}
