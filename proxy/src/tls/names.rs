//! The names in a certificate, and conditions on them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer as _};

use crate::route::matcher::{TextMatch, TextPattern};

/// The subject alternative names of a certificate.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Names {
    pub(crate) dns: Vec<String>,
    pub(crate) uri: Vec<String>,
    pub(crate) email: Vec<String>,
    pub(crate) ip: Vec<IpAddr>,
}

/// Which kind of name a condition is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Dns,
    Uri,
    Email,
    Ip,
}

/// A condition on one kind of name.
#[derive(Debug)]
pub(crate) struct NameMatch {
    pub(crate) kind: Kind,
    pub(crate) text: TextMatch,
}

/// A certificate whose names nobody should believe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the certificate's names are malformed")]
pub(crate) struct BadNames;

// === impl Names ===

impl Names {
    /// Reads the names of a certificate. One with a name that could be read in two ways (a NUL or another control
    /// character, something that is not text) is refused as a whole.
    pub(crate) fn of(der: &[u8]) -> Result<Self, BadNames> {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|_| BadNames)?;
        Self::of_parsed(&certificate)
    }

    pub(crate) fn of_parsed(certificate: &X509Certificate<'_>) -> Result<Self, BadNames> {
        let mut names = Self::default();
        let Some(extension) = certificate.subject_alternative_name().map_err(|_| BadNames)? else {
            return Ok(names);
        };
        for name in &extension.value.general_names {
            match name {
                GeneralName::DNSName(name) => names.dns.push(clean(name)?),
                GeneralName::URI(name) => names.uri.push(clean(name)?),
                GeneralName::RFC822Name(name) => names.email.push(clean(name)?),
                GeneralName::IPAddress(bytes) => names.ip.push(address(bytes)?),
                GeneralName::Invalid(..) => return Err(BadNames),
                _ => {}
            }
        }
        Ok(names)
    }

    /// Whether one of the conditions holds, of which there is at least one.
    pub(crate) fn match_any(&self, conditions: &[NameMatch]) -> bool {
        conditions.iter().any(|condition| match condition.kind {
            Kind::Dns => self.dns.iter().any(|name| condition.matches_dns(name)),
            // A SPIFFE identity is the only URI of its certificate; with more it is anybody's.
            Kind::Uri => matches!(self.uri.as_slice(), [name] if condition.text.matches(name.as_bytes())),
            Kind::Email => self.email.iter().any(|name| condition.text.matches(name.as_bytes())),
            Kind::Ip => self.ip.iter().any(|ip| condition.text.matches(ip.to_string().as_bytes())),
        })
    }
}

// === impl NameMatch ===

impl NameMatch {
    /// As Envoy: a wildcard in the certificate stands for one label of the name that an exact condition asks for.
    fn matches_dns(&self, name: &str) -> bool {
        let name = name.to_ascii_lowercase();
        if let TextPattern::Exact(wanted) = &self.text.pattern {
            let wanted = wanted.to_ascii_lowercase();
            if let Some(suffix) = name.strip_prefix('*').filter(|suffix| suffix.starts_with('.')) {
                let label = wanted.strip_suffix(suffix.as_bytes());
                return label.is_some_and(|label| !label.is_empty() && !label.contains(&b'.'));
            }
            return wanted == name.as_bytes();
        }
        self.text.matches(name.as_bytes())
    }
}

fn clean(name: &str) -> Result<String, BadNames> {
    let is_clean = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
    if is_clean { Ok(name.to_owned()) } else { Err(BadNames) }
}

fn address(bytes: &[u8]) -> Result<IpAddr, BadNames> {
    if let Ok(bytes) = <[u8; 4]>::try_from(bytes) {
        return Ok(Ipv4Addr::from(bytes).into());
    }
    <[u8; 16]>::try_from(bytes).map(|bytes| Ipv6Addr::from(bytes).into()).map_err(|_| BadNames)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exact(kind: Kind, text: &str) -> NameMatch {
        let pattern = TextPattern::Exact(text.as_bytes().to_vec());
        NameMatch { kind, text: TextMatch { pattern, ignore_case: false } }
    }

    #[test]
    fn a_wildcard_stands_for_one_label() {
        let names = Names { dns: vec!["*.Mesh.test".into()], ..Names::default() };
        assert!(names.match_any(&[exact(Kind::Dns, "a.mesh.test")]));
        assert!(!names.match_any(&[exact(Kind::Dns, "a.b.mesh.test")]));
        assert!(!names.match_any(&[exact(Kind::Dns, ".mesh.test")]));
        assert!(!names.match_any(&[exact(Kind::Dns, "mesh.test")]));
    }

    #[test]
    fn a_second_uri_makes_an_identity_worthless() {
        let mut names = Names { uri: vec!["spiffe://mesh/a".into()], ..Names::default() };
        assert!(names.match_any(&[exact(Kind::Uri, "spiffe://mesh/a")]));
        assert!(!names.match_any(&[exact(Kind::Uri, "spiffe://other/a")]));
        assert!(!names.match_any(&[exact(Kind::Dns, "spiffe://mesh/a")]));
        names.uri.push("spiffe://mesh/b".into());
        assert!(!names.match_any(&[exact(Kind::Uri, "spiffe://mesh/a")]));
    }

    #[test]
    fn a_name_with_a_nul_is_refused_as_a_whole() {
        assert_eq!(clean("good.test\0.evil.test"), Err(BadNames));
        assert_eq!(clean("a\nb"), Err(BadNames));
        assert_eq!(address(&[1, 2, 3]), Err(BadNames));
    }
}
