//! What describes a request to a rate limiter: the pairs of key and value that a route makes of it.

use std::{borrow::Cow, net::IpAddr, sync::Arc};

use crate::{
    http::head::Head,
    route::matcher::{self, HeaderMatch, QueryMatch},
};

/// One way to describe requests.
#[derive(Debug)]
pub(crate) struct RateLimit {
    /// Which filters are meant.
    pub(crate) stage: u32,
    /// Each gives one pair; a request for which one gives none is not described.
    pub(crate) actions: Vec<Action>,
}

/// What makes one pair.
#[derive(Debug)]
pub(crate) enum Action {
    /// Always the same.
    Generic { key: String, value: String },
    /// The value of a field.
    Header {
        name: Vec<u8>,
        key: String,
        /// Whether a request without it is described by the other pairs alone.
        skip_if_absent: bool,
    },
    /// The value of a query parameter.
    Query { name: Vec<u8>, key: String, skip_if_absent: bool },
    /// `remote_address` and the client's address.
    RemoteAddress,
    /// `masked_remote_address` and the network of so many bits that the client is in.
    Network { v4: u8, v6: u8 },
    /// A fixed value for requests with these fields.
    HeaderMatch { key: String, value: String, expect: bool, headers: Vec<HeaderMatch> },
    /// The same for query parameters.
    QueryMatch { key: String, value: String, expect: bool, parameters: Vec<QueryMatch> },
    /// The name of the service that this proxy is beside.
    SourceCluster,
    /// Where the request goes.
    DestinationCluster,
}

/// The request in question.
pub(crate) struct Asked<'a> {
    pub(crate) head: &'a Head,
    pub(crate) peer: IpAddr,
    /// The name of the service that this proxy is beside.
    pub(crate) service: &'a str,
    /// Where the request goes.
    pub(crate) cluster: Option<&'a str>,
}

/// Pairs of key and value.
pub(crate) type Pairs = Vec<(String, String)>;

/// What an action makes of a request.
enum Made<'a> {
    Pair(&'a str, Cow<'a, [u8]>),
    /// No pair, and that is all right.
    Skipped,
    /// No pair, so that the request is not described.
    Nothing,
}

/// What describes the requests of a route.
#[derive(Debug, Default)]
pub(crate) struct RateLimits {
    pub(crate) own: Vec<RateLimit>,
    /// Those of the virtual host.
    pub(crate) host: Arc<Vec<RateLimit>>,
    /// Whether those always count.
    pub(crate) include_host: bool,
}

/// When those of the virtual host count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum HostLimits {
    /// If the route has none.
    #[default]
    Otherwise,
    Too,
    Never,
}

// === impl RateLimits ===

impl RateLimits {
    /// Those that count, of the route and of the host; what the route says itself goes before `host`.
    pub(crate) fn of(&self, host: HostLimits) -> [&[RateLimit]; 2] {
        let host = match host {
            _ if self.include_host => true,
            HostLimits::Otherwise => self.own.is_empty(),
            HostLimits::Too => true,
            HostLimits::Never => false,
        };
        [&self.own, if host { &self.host } else { &[] }]
    }
}

// === impl RateLimit ===

impl RateLimit {
    /// Whether the pairs that this makes of a request are exactly `entries`.
    pub(crate) fn describes(&self, asked: &Asked<'_>, entries: &[(String, String)]) -> bool {
        let mut left = entries.iter();
        for action in &self.actions {
            match action.make(asked) {
                Made::Pair(key, value) => match left.next() {
                    Some((wanted_key, wanted)) if wanted_key == key && wanted.as_bytes() == &*value => {}
                    _ => return false,
                },
                Made::Skipped => {}
                Made::Nothing => return false,
            }
        }
        left.next().is_none()
    }

    /// The pairs that this makes of a request, if it describes it.
    pub(crate) fn pairs(&self, asked: &Asked<'_>) -> Option<Pairs> {
        let mut pairs = Pairs::new();
        for action in &self.actions {
            match action.make(asked) {
                Made::Pair(key, value) => {
                    pairs.push((key.to_owned(), String::from_utf8_lossy(&value).into_owned()));
                }
                Made::Skipped => {}
                Made::Nothing => return None,
            }
        }
        Some(pairs)
    }
}

// === impl Action ===

impl Action {
    fn make<'a>(&'a self, asked: &Asked<'a>) -> Made<'a> {
        let if_there = |key: &'a str, value: Option<&'a [u8]>, skip: bool| match value {
            Some(value) => Made::Pair(key, Cow::Borrowed(value)),
            None if skip => Made::Skipped,
            None => Made::Nothing,
        };
        let if_so = |key: &'a str, value: &'a str, so: bool| {
            if so { Made::Pair(key, Cow::Borrowed(value.as_bytes())) } else { Made::Nothing }
        };
        let text = |key: &'a str, value: String| Made::Pair(key, Cow::Owned(value.into_bytes()));
        match self {
            Self::Generic { key, value } => if_so(key, value, true),
            Self::Header { name, key, skip_if_absent } => {
                if_there(key, asked.head.get(name), *skip_if_absent)
            }
            Self::Query { name, key, skip_if_absent } => {
                if_there(key, matcher::parameter(asked.head.target(), name), *skip_if_absent)
            }
            Self::RemoteAddress => text("remote_address", asked.peer.to_canonical().to_string()),
            Self::Network { v4, v6 } => {
                let (network, bits) = network(asked.peer.to_canonical(), *v4, *v6);
                text("masked_remote_address", format!("{network}/{bits}"))
            }
            Self::HeaderMatch { key, value, expect, headers } => {
                if_so(key, value, headers.iter().all(|matcher| matcher.matches(asked.head)) == *expect)
            }
            Self::QueryMatch { key, value, expect, parameters } => {
                let target = asked.head.target();
                if_so(key, value, parameters.iter().all(|matcher| matcher.matches(target)) == *expect)
            }
            Self::SourceCluster => Made::Pair("source_cluster", Cow::Borrowed(asked.service.as_bytes())),
            Self::DestinationCluster => {
                if_there("destination_cluster", asked.cluster.map(str::as_bytes), false)
            }
        }
    }
}

/// The network of so many bits that an address is in.
fn network(address: IpAddr, v4: u8, v6: u8) -> (IpAddr, u8) {
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(v4)).unwrap_or(0);
            (IpAddr::from((address.to_bits() & mask).to_be_bytes()), v4)
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(v6)).unwrap_or(0);
            (IpAddr::from((address.to_bits() & mask).to_be_bytes()), v6)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_described_by_all_its_pairs_in_order_and_no_others() {
        let mut head = Head::default();
        head.reset(b"");
        head.append(b"x-user", b"ann");
        let limit = RateLimit {
            stage: 0,
            actions: vec![
                Action::Generic { key: "generic_key".into(), value: "api".into() },
                Action::Header { name: b"x-user".to_vec(), key: "user".into(), skip_if_absent: false },
                Action::Header { name: b"x-none".to_vec(), key: "none".into(), skip_if_absent: true },
                Action::RemoteAddress,
            ],
        };
        let asked = Asked { head: &head, peer: [10, 0, 0, 1].into(), service: "", cluster: None };
        let pairs = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };
        let exact = [("generic_key", "api"), ("user", "ann"), ("remote_address", "10.0.0.1")];
        assert!(limit.describes(&asked, &pairs(&exact)));
        assert!(!limit.describes(&asked, &pairs(&exact[..2])));
        assert!(!limit.describes(&asked, &pairs(&[exact[0], ("user", "bob"), exact[2]])));
        assert!(!limit.describes(&asked, &pairs(&[exact[0], exact[1], exact[2], ("more", "x")])));
    }
}
