//! Virtual hosts and their routes.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::{
    Route,
    demand::OnDemand,
    index::PathIndex,
    matcher::{Asked, PathMatch},
    prefixes::Prefixes,
};
use crate::http::head::Known;

/// A compiled `RouteConfiguration`. However many hosts and routes it has, a look-up takes about the same time.
#[derive(Debug)]
pub(crate) struct RouteTable {
    hosts: Vec<VirtualHost>,
    /// Lower-case host to index in `hosts`.
    exact: HashMap<Vec<u8>, usize>,
    /// `*.suffix` and `*-suffix`, back to front.
    suffixes: Prefixes<usize>,
    /// `prefix.*` and `prefix-*`.
    prefixes: Prefixes<usize>,
    any: Option<usize>,
    ignore_port: bool,
    /// Whether what follows a semicolon in a path counts for routes.
    parameters: bool,
    /// Fields that clients may not send.
    pub(crate) internal_only: Vec<Vec<u8>>,
    /// Whether any route is for CONNECT requests.
    pub(crate) connects: bool,
    /// Where virtual hosts can be asked for that are not here.
    pub(crate) on_demand: Option<OnDemand>,
}

/// The routes of some hosts.
#[derive(Debug)]
pub(crate) struct VirtualHost {
    domains: Vec<String>,
    /// The first that matches counts.
    routes: Vec<Arc<Route>>,
    /// Of `routes`, if they are many.
    index: Option<PathIndex>,
    /// For requests that came without TLS, if they may not.
    pub(crate) to_tls: Option<Arc<Route>>,
}

/// What a table is made with, beside its hosts.
#[derive(Debug, Default)]
pub(crate) struct Settings {
    pub(crate) ignore_port: bool,
    pub(crate) ignore_parameters: bool,
    pub(crate) internal_only: Vec<Vec<u8>>,
}

// === impl RouteTable ===

impl RouteTable {
    /// A table of these hosts; the error is a domain that is there twice or has a `*` in the wrong place.
    pub(crate) fn new(hosts: Vec<VirtualHost>, settings: Settings) -> Result<Self, String> {
        let (mut exact, mut any) = (HashMap::new(), None);
        let (mut suffixes, mut prefixes) = (BTreeMap::new(), BTreeMap::new());
        for (index, host) in hosts.iter().enumerate() {
            for domain in &host.domains {
                let lower = domain.to_ascii_lowercase().into_bytes();
                let before = match (lower.strip_prefix(b"*"), lower.strip_suffix(b"*")) {
                    (Some(b""), _) => any.replace(index),
                    (Some(suffix), _) if !suffix.contains(&b'*') => {
                        suffixes.insert(suffix.iter().rev().copied().collect(), index)
                    }
                    (_, Some(prefix)) if !prefix.contains(&b'*') => prefixes.insert(prefix.to_vec(), index),
                    _ if lower.is_empty() || lower.contains(&b'*') => {
                        return Err(format!("{domain:?} is not a domain"));
                    }
                    _ => exact.insert(lower, index),
                };
                if before.is_some() {
                    return Err(format!("domain {domain:?} is in more than one place"));
                }
            }
        }
        let (suffixes, prefixes) = (Prefixes::new(suffixes), Prefixes::new(prefixes));
        let mut routes = hosts.iter().flat_map(|host| &host.routes);
        let connects = routes.any(|route| matches!(route.matches.path, PathMatch::Connect));
        let Settings { ignore_port, ignore_parameters, internal_only } = settings;
        let parameters = !ignore_parameters;
        Ok(Self {
            hosts,
            exact,
            suffixes,
            prefixes,
            any,
            ignore_port,
            parameters,
            internal_only,
            connects,
            on_demand: None,
        })
    }

    /// The route of a request.
    pub(crate) fn find(&self, asked: &Asked<'_>) -> Option<&Arc<Route>> {
        self.hosts[self.host_index(asked.head.authority())?]
            .find(&Asked { parameters: self.parameters, ..*asked })
    }

    /// Whether there is a virtual host for a request to this authority.
    pub(crate) fn has_host(&self, authority: &[u8]) -> bool {
        self.host_index(authority).is_some()
    }

    /// The host of an authority as virtual hosts have it.
    pub(crate) fn host(&self, authority: &[u8]) -> Vec<u8> {
        let mut lower = authority.to_ascii_lowercase();
        if self.ignore_port
            && let Some(colon) = lower.iter().rposition(|byte| *byte == b':')
            && colon + 1 < lower.len()
            && lower[colon + 1..].iter().all(u8::is_ascii_digit)
        {
            lower.truncate(colon);
        }
        lower
    }

    fn host_index(&self, authority: &[u8]) -> Option<usize> {
        // Most tables of a mesh have nothing but `*`.
        if self.exact.is_empty() && self.suffixes.is_empty() && self.prefixes.is_empty() {
            return self.any;
        }
        let lower = self.host(authority);
        if let Some(index) = self.exact.get(&lower) {
            return Some(*index);
        }
        // The longest wildcard wins, and it stands for at least one character.
        let longest = |prefixes: &Prefixes<usize>, host: &[u8]| {
            prefixes.of(host).find(|(text, _)| text.len() < host.len()).map(|(_, index)| *index)
        };
        let prefix = |lower: &[u8]| longest(&self.prefixes, lower).or(self.any);
        if self.suffixes.is_empty() {
            return prefix(&lower);
        }
        let backwards: Vec<u8> = lower.iter().rev().copied().collect();
        longest(&self.suffixes, &backwards).or_else(|| prefix(&lower))
    }
}

// === impl VirtualHost ===

impl VirtualHost {
    pub(crate) fn new(domains: Vec<String>, routes: Vec<Arc<Route>>) -> Self {
        Self { domains, index: PathIndex::new(&routes), routes, to_tls: None }
    }

    fn find(&self, asked: &Asked<'_>) -> Option<&Arc<Route>> {
        if self.to_tls.is_some() && asked.head.known(Known::XForwardedProto) != Some(b"https") {
            return self.to_tls.as_ref();
        }
        match &self.index {
            Some(index) => index.find(&self.routes, asked),
            None => self.routes.iter().find(|route| route.matches.matches(asked)),
        }
    }
}

/// Host and port of an authority.
pub(crate) fn split_port(authority: &str) -> (&str, Option<u16>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => match port.parse() {
            Ok(port) => (host, Some(port)),
            Err(_) => (authority, None),
        },
        _ => (authority, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(domains: &[&[&str]], ignore_port: bool) -> Result<RouteTable, String> {
        let hosts = domains
            .iter()
            .map(|domains| {
                VirtualHost::new(domains.iter().map(|domain| (*domain).to_owned()).collect(), Vec::new())
            })
            .collect();
        RouteTable::new(hosts, Settings { ignore_port, ..Settings::default() })
    }

    #[test]
    fn the_most_specific_domain_wins() {
        let domains: &[&[&str]] =
            &[&["*"], &["*.com"], &["*.example.com"], &["www.example.com"], &["www.*"], &["*-x.com"]];
        let table = table(domains, false).expect("valid");
        for (host, expected) in [
            ("WWW.example.com", 3),
            ("a.example.com", 2),
            ("example.com", 1),
            ("a-x.com", 5),
            ("www.org", 4),
            ("other", 0),
            ("www.example.com:80", 4),
        ] {
            assert_eq!(table.host_index(host.as_bytes()), Some(expected), "{host}");
        }
    }

    #[test]
    fn the_port_counts_unless_told_otherwise() {
        let domains: &[&[&str]] = &[&["web"]];
        assert_eq!(table(domains, false).expect("valid").host_index(b"web:80"), None);
        assert_eq!(table(domains, true).expect("valid").host_index(b"web:80"), Some(0));
    }

    #[test]
    fn a_domain_in_two_places_is_refused() {
        assert!(table(&[&["a"], &["A"]], false).is_err());
        assert!(table(&[&["*"], &["*"]], false).is_err());
        assert!(table(&[&["a*b"]], false).is_err());
    }
}
