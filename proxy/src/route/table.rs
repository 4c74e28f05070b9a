//! Virtual hosts and their routes.

use std::{collections::HashMap, sync::Arc};

use crate::{balance::Random, http::head::Head, route::Route};

/// A compiled `RouteConfiguration`.
#[derive(Debug, Default)]
pub(crate) struct RouteTable {
    pub(crate) hosts: Vec<VirtualHost>,
    /// Lower-case host to index in `hosts`.
    exact: HashMap<Vec<u8>, usize>,
    /// `*.suffix` and `*-suffix`, longest first.
    suffixes: Vec<(Vec<u8>, usize)>,
    /// `prefix.*` and `prefix-*`, longest first.
    prefixes: Vec<(Vec<u8>, usize)>,
    any: Option<usize>,
    ignore_port: bool,
}

/// The routes of some hosts.
#[derive(Debug)]
pub(crate) struct VirtualHost {
    pub(crate) domains: Vec<String>,
    /// The first that matches counts.
    pub(crate) routes: Vec<Arc<Route>>,
}

// === impl RouteTable ===

impl RouteTable {
    /// A table of these hosts; the error is a domain that is there twice or has a `*` in the wrong place.
    pub(crate) fn new(hosts: Vec<VirtualHost>, ignore_port: bool) -> Result<Self, String> {
        let mut table = Self { ignore_port, ..Self::default() };
        for (index, host) in hosts.iter().enumerate() {
            for domain in &host.domains {
                let lower = domain.to_ascii_lowercase().into_bytes();
                let duplicate = match (lower.strip_prefix(b"*"), lower.strip_suffix(b"*")) {
                    (Some(b""), _) => table.any.replace(index).is_some(),
                    (Some(suffix), _) if !suffix.contains(&b'*') => {
                        insert(&mut table.suffixes, suffix, index)
                    }
                    (_, Some(prefix)) if !prefix.contains(&b'*') => {
                        insert(&mut table.prefixes, prefix, index)
                    }
                    _ if lower.is_empty() || lower.contains(&b'*') => {
                        return Err(format!("{domain:?} is not a domain"));
                    }
                    _ => table.exact.insert(lower, index).is_some(),
                };
                if duplicate {
                    return Err(format!("domain {domain:?} is in more than one place"));
                }
            }
        }
        table.suffixes.sort_by_key(|(text, _)| std::cmp::Reverse(text.len()));
        table.prefixes.sort_by_key(|(text, _)| std::cmp::Reverse(text.len()));
        table.hosts = hosts;
        Ok(table)
    }

    /// The route of a request.
    pub(crate) fn find(&self, head: &Head, random: &Random) -> Option<&Arc<Route>> {
        let host = &self.hosts[self.host_index(head.authority())?];
        host.routes.iter().find(|route| route.matches.matches(head, random))
    }

    fn host_index(&self, authority: &[u8]) -> Option<usize> {
        // Most tables of a mesh have nothing but `*`.
        if self.exact.is_empty() && self.suffixes.is_empty() && self.prefixes.is_empty() {
            return self.any;
        }
        let mut lower = authority.to_ascii_lowercase();
        if self.ignore_port
            && let Some(colon) = lower.iter().rposition(|byte| *byte == b':')
            && colon + 1 < lower.len()
            && lower[colon + 1..].iter().all(u8::is_ascii_digit)
        {
            lower.truncate(colon);
        }
        // A wildcard stands for at least one character.
        self.exact
            .get(&lower)
            .copied()
            .or_else(|| find(&self.suffixes, |text| lower.len() > text.len() && lower.ends_with(text)))
            .or_else(|| find(&self.prefixes, |text| lower.len() > text.len() && lower.starts_with(text)))
            .or(self.any)
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

fn insert(list: &mut Vec<(Vec<u8>, usize)>, text: &[u8], index: usize) -> bool {
    let duplicate = list.iter().any(|(other, _)| other == text);
    list.push((text.to_vec(), index));
    duplicate
}

fn find(list: &[(Vec<u8>, usize)], matches: impl Fn(&[u8]) -> bool) -> Option<usize> {
    list.iter().find(|(text, _)| matches(text)).map(|(_, index)| *index)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(domains: &[&[&str]], ignore_port: bool) -> Result<RouteTable, String> {
        let hosts = domains
            .iter()
            .map(|domains| VirtualHost {
                domains: domains.iter().map(|domain| (*domain).to_owned()).collect(),
                routes: Vec::new(),
            })
            .collect();
        RouteTable::new(hosts, ignore_port)
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
