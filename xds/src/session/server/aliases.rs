//! Virtual hosts under the names that clients ask for.
//!
//! A client that lacks a virtual host does not know how its server calls it: it asks for the table of routes and the
//! host of a request, `TABLE/HOST`. It is given the virtual host of the table that serves the host, under its own name
//! and with what was asked as an alias, or a resource without a body where there is none.
//!
//! Source: Envoy's "Virtual Host Discovery Service (VHDS)", and `aliases` of `envoy.service.discovery.v3.Resource`.

use std::{cmp::Reverse, collections::HashMap};

use crate::session::{Name, TypeSnapshot};

/// Virtual hosts by the domains that they serve, within their tables.
pub(super) struct ByDomain<'a> {
    exact: HashMap<(&'a str, &'a str), &'a Name>,
    /// Table, and what may be anything at one end or as a whole; what counts more comes first.
    patterns: Vec<(&'a str, &'a str, &'a Name)>,
}

// === impl ByDomain ===

impl<'a> ByDomain<'a> {
    pub(super) fn new(hosts: &'a TypeSnapshot) -> Self {
        let (mut exact, mut patterns) = (HashMap::new(), Vec::new());
        for resource in hosts.iter() {
            let Some((table, _)) = resource.name.rsplit_once('/') else { continue };
            for domain in resource.domains() {
                if domain.starts_with('*') || domain.ends_with('*') {
                    patterns.push((table, domain, &resource.name));
                } else {
                    exact.insert((table, domain), &resource.name);
                }
            }
        }
        // As Envoy has it: the end before the start of a host, and of two the longer one. The names are for the case
        // that two are equal, which no client takes.
        patterns.sort_by_key(|(_, domain, name)| {
            (*domain == "*", !domain.starts_with('*'), Reverse(domain.len()), *name)
        });
        Self { exact, patterns }
    }

    /// The name of the virtual host that serves what a client asked for.
    pub(super) fn find(&self, asked: &str) -> Option<&'a Name> {
        // From the right: a table's name may have slashes, a host has none.
        let (table, host) = asked.rsplit_once('/')?;
        let host = host.to_ascii_lowercase();
        let serves = |(of, domain, _): &&(&str, &str, &Name)| *of == table && matches(domain, &host);
        let exact = || self.exact.get(&(table, host.as_str())).copied();
        exact().or_else(|| self.patterns.iter().find(serves).map(|(.., name)| *name))
    }
}

fn matches(pattern: &str, host: &str) -> bool {
    match (pattern, pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
        ("*", ..) => true,
        (_, Some(end), _) => host.len() > end.len() && host.ends_with(end),
        (_, _, Some(start)) => host.len() > start.len() && host.starts_with(start),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        any, pb::envoy::config::route::v3::VirtualHost, server::Snapshot, session::VersionedSnapshot,
    };

    #[test]
    fn a_host_is_served_by_whom_envoy_would_choose() {
        let mut snapshot = Snapshot::default();
        for (name, domains) in [
            ("r/exact", &["Web.test", "web.test:80"][..]),
            ("r/end", &["*.test"]),
            ("r/longer-end", &["*.web.test"]),
            ("r/start", &["web.*", "api.*"]),
            ("r/rest", &["*"]),
            ("a/b/c", &["other"]),
            ("no table", &["lost"]),
        ] {
            let domains = domains.iter().map(|domain| (*domain).to_owned()).collect();
            let host = VirtualHost { name: name.to_owned(), domains, ..Default::default() };
            snapshot.virtual_hosts.insert(name.to_owned(), any::pack(&host));
        }
        let snapshot = VersionedSnapshot::new(&snapshot, None);
        let hosts = ByDomain::new(snapshot.get(crate::ResourceType::VirtualHost));
        for (asked, expected) in [
            ("r/web.test", Some("r/exact")),
            ("r/WEB.TEST:80", Some("r/exact")),
            ("r/api.test", Some("r/end")),
            ("r/a.web.test", Some("r/longer-end")),
            ("r/api.example", Some("r/start")),
            ("r/.test", Some("r/rest")),
            ("r/web.", Some("r/rest")),
            ("a/b/other", Some("a/b/c")),
            ("a/b/web.test", None),
            ("lost", None),
        ] {
            assert_eq!(hosts.find(asked).map(Name::as_str), expected, "{asked}");
        }
    }
}
