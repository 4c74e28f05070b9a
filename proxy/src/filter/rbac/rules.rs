//! Policies, and whether a request is one that they speak of.

use std::net::{IpAddr, SocketAddr};

use crate::{
    filter::Request,
    http::{
        exchange::Record,
        head::{Head, Known},
    },
    route::{
        matcher::{HeaderMatch, TextMatch},
        metadata::MetadataMatch,
    },
    tls::Identity,
};

/// Whom and what rules are asked about.
#[derive(Clone, Copy)]
pub(crate) struct Subject<'s> {
    /// `None` for a connection of which nothing was read.
    pub(crate) head: Option<&'s Head>,
    pub(crate) record: Option<&'s Record>,
    /// Who the client is, as far as the connection says.
    pub(crate) source: IpAddr,
    /// Who is connected: the client, or a proxy that spoke for it.
    pub(crate) direct: IpAddr,
    /// Whether a proxy before us is believed where the client is.
    pub(crate) forwarded: bool,
    /// Where the client wanted to go.
    pub(crate) local: SocketAddr,
    pub(crate) tls: Option<&'s Identity>,
    /// Of the ClientHello, if it was looked at.
    pub(crate) server_name: &'s str,
}

/// Policies and what they are for.
#[derive(Debug)]
pub(super) struct Rules {
    pub(super) action: Action,
    /// In the order of their names.
    pub(super) policies: Vec<Policy>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// Only what a policy speaks of is allowed.
    Allow,
    /// What a policy speaks of is denied.
    Deny,
    /// Everything is allowed.
    Log,
}

/// Speaks of a request if one of the permissions and one of the principals do.
#[derive(Debug)]
pub(super) struct Policy {
    pub(super) name: String,
    pub(super) permissions: Vec<Permission>,
    pub(super) principals: Vec<Principal>,
}

/// What is asked for.
#[derive(Debug)]
pub(super) enum Permission {
    Any,
    All(Vec<Self>),
    OneOf(Vec<Self>),
    Not(Box<Self>),
    Header(HeaderMatch),
    /// The path without its query.
    Path(TextMatch),
    /// The address that the client connected to.
    DestinationIp(Network),
    /// From the first to before the second.
    DestinationPort(u16, u32),
    Metadata(MetadataMatch),
    ServerName(TextMatch),
}

/// Who asks.
#[derive(Debug)]
pub(super) enum Principal {
    Any,
    All(Vec<Self>),
    OneOf(Vec<Self>),
    Not(Box<Self>),
    /// Whoever showed a certificate that was verified; with a condition, on its names.
    Authenticated(Option<TextMatch>),
    SourceIp(Network),
    DirectRemoteIp(Network),
    RemoteIp(Network),
    Header(HeaderMatch),
    Path(TextMatch),
    Metadata(MetadataMatch),
}

/// A range of addresses.
#[derive(Debug, Clone, Copy)]
pub(super) struct Network {
    pub(super) address: IpAddr,
    pub(super) length: u8,
}

// === impl Rules ===

impl Rules {
    /// Whether the request is allowed, and the policy that decided, if one did.
    pub(super) fn judge(&self, subject: &Subject<'_>) -> (bool, Option<&str>) {
        let found = self.policies.iter().find(|policy| policy.speaks_of(subject));
        let allowed = match self.action {
            Action::Allow => found.is_some(),
            Action::Deny => found.is_none(),
            Action::Log => true,
        };
        (allowed, found.map(|policy| policy.name.as_str()))
    }

    /// Whether any of them speaks of what only a request has.
    pub(super) fn need_a_request(&self) -> bool {
        self.policies.iter().any(|policy| {
            policy.permissions.iter().any(Permission::needs_a_request)
                || policy.principals.iter().any(Principal::needs_a_request)
        })
    }
}

impl Policy {
    fn speaks_of(&self, subject: &Subject<'_>) -> bool {
        self.permissions.iter().any(|permission| permission.holds(subject))
            && self.principals.iter().any(|principal| principal.holds(subject))
    }
}

// === impl Subject ===

impl<'s> Subject<'s> {
    pub(super) fn of_request(request: &'s Request<'_>) -> Self {
        let cx = request.cx;
        Self {
            head: Some(&*request.head),
            record: Some(&*request.record),
            source: cx.peer.ip(),
            direct: cx.direct().ip(),
            forwarded: !cx.manager.forwarded.use_remote_address,
            local: cx.local,
            tls: cx.tls.as_deref(),
            server_name: cx.server_name().unwrap_or_default(),
        }
    }

    /// Where the client is: as in Envoy, where it is connected to a proxy that is believed, the last address that this
    /// has added to `x-forwarded-for`.
    fn remote(&self) -> IpAddr {
        let head = self.head.filter(|_| self.forwarded);
        let last = head.and_then(|head| head.all_known(Known::XForwardedFor).last());
        last.and_then(|value| {
            let entry = value.rsplit(|byte| *byte == b',').next()?;
            std::str::from_utf8(entry).ok()?.trim().parse().ok()
        })
        .unwrap_or(self.source)
    }

    fn matches(&self, matcher: &HeaderMatch) -> bool {
        self.head.is_some_and(|head| matcher.matches(head))
    }

    fn has_metadata(&self, matcher: &MetadataMatch) -> bool {
        self.record.is_some_and(|record| matcher.matches(&record.metadata))
    }

    fn has_path(&self, matcher: &TextMatch) -> bool {
        self.head.is_some_and(|head| matcher.matches(head.path()))
    }

    /// Whether the client has shown a certificate with such a name: one of its URIs (for a workload, its SPIFFE id), else
    /// one of its DNS names, else its subject.
    fn is_authenticated(&self, condition: Option<&TextMatch>) -> bool {
        let Some(peer) = self.tls.and_then(|identity| identity.peer.as_ref()) else { return false };
        let Some(condition) = condition else { return true };
        let names = peer.names.uri.iter().chain(&peer.names.dns).chain([&peer.subject]);
        names.into_iter().any(|name| condition.matches(name.as_bytes()))
    }
}

// === impl Permission ===

impl Permission {
    fn holds(&self, subject: &Subject<'_>) -> bool {
        match self {
            Self::Any => true,
            Self::All(all) => all.iter().all(|permission| permission.holds(subject)),
            Self::OneOf(some) => some.iter().any(|permission| permission.holds(subject)),
            Self::Not(inner) => !inner.holds(subject),
            Self::Header(matcher) => subject.matches(matcher),
            Self::Path(matcher) => subject.has_path(matcher),
            Self::DestinationIp(network) => network.contains(subject.local.ip()),
            Self::DestinationPort(first, end) => {
                (u32::from(*first)..*end).contains(&u32::from(subject.local.port()))
            }
            Self::ServerName(matcher) => matcher.matches(subject.server_name.as_bytes()),
            Self::Metadata(matcher) => subject.has_metadata(matcher),
        }
    }

    fn needs_a_request(&self) -> bool {
        match self {
            Self::All(inner) | Self::OneOf(inner) => inner.iter().any(Self::needs_a_request),
            Self::Not(inner) => inner.needs_a_request(),
            Self::Header(_) | Self::Path(_) | Self::Metadata(_) => true,
            Self::Any | Self::DestinationIp(_) | Self::DestinationPort(..) | Self::ServerName(_) => false,
        }
    }
}

// === impl Principal ===

impl Principal {
    fn holds(&self, subject: &Subject<'_>) -> bool {
        match self {
            Self::Any => true,
            Self::All(all) => all.iter().all(|principal| principal.holds(subject)),
            Self::OneOf(some) => some.iter().any(|principal| principal.holds(subject)),
            Self::Not(inner) => !inner.holds(subject),
            Self::Authenticated(condition) => subject.is_authenticated(condition.as_ref()),
            Self::SourceIp(network) => network.contains(subject.source),
            Self::DirectRemoteIp(network) => network.contains(subject.direct),
            Self::RemoteIp(network) => network.contains(subject.remote()),
            Self::Header(matcher) => subject.matches(matcher),
            Self::Path(matcher) => subject.has_path(matcher),
            Self::Metadata(matcher) => subject.has_metadata(matcher),
        }
    }

    fn needs_a_request(&self) -> bool {
        match self {
            Self::All(inner) | Self::OneOf(inner) => inner.iter().any(Self::needs_a_request),
            Self::Not(inner) => inner.needs_a_request(),
            Self::Header(_) | Self::Path(_) | Self::Metadata(_) => true,
            Self::Any
            | Self::Authenticated(_)
            | Self::SourceIp(_)
            | Self::DirectRemoteIp(_)
            | Self::RemoteIp(_) => false,
        }
    }
}

// === impl Network ===

impl Network {
    fn contains(self, address: IpAddr) -> bool {
        let shift = |bits: u32| bits - u32::from(self.length);
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                (u32::from(own) ^ u32::from(other)).checked_shr(shift(32)).unwrap_or(0) == 0
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                (u128::from(own) ^ u128::from(other)).checked_shr(shift(128)).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_holds_the_addresses_that_begin_as_it_does() {
        let network = |text: &str, length| Network { address: text.parse().expect("an address"), length };
        let address = |text: &str| text.parse::<IpAddr>().expect("an address");
        for (network, inside, outside) in [
            (network("10.1.0.0", 16), "10.1.255.1", "10.2.0.1"),
            (network("10.1.2.3", 32), "::ffff:10.1.2.3", "10.1.2.4"),
            (network("fd00::", 8), "fdff::1", "fe00::1"),
            (network("0.0.0.0", 0), "255.1.1.1", "::1"),
        ] {
            assert!(network.contains(address(inside)), "{network:?}");
            assert!(!network.contains(address(outside)), "{network:?}");
        }
    }
}
