//! Routing: from a request's host, path and fields to what is done with it.

pub(crate) mod affinity;
pub(crate) mod backoff;
pub(crate) mod cookies;
pub(crate) mod demand;
pub(crate) mod duration;
mod index;
pub(crate) mod internal_redirect;
pub(crate) mod matcher;
pub(crate) mod metadata;
pub(crate) mod mirror;
pub(crate) mod mutate;
mod prefixes;
pub(crate) mod rate_limit;
pub(crate) mod retry;
pub(crate) mod scopes;
pub(crate) mod table;
pub(crate) mod template;

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;

use crate::{
    balance::Criteria,
    cluster::{breaker::Priority, directory::ClusterRef},
    filter::Overrides,
    http::head::Head,
    route::{
        affinity::Affinity,
        duration::StreamLimit,
        internal_redirect::RedirectPolicy,
        matcher::RouteMatch,
        mirror::Mirror,
        mutate::{Mutations, Scene, Value},
        rate_limit::RateLimits,
        retry::RetryPolicy,
        table::RouteTable,
    },
};

/// The place of a route table by name: connection managers keep it, updates fill it.
#[derive(Debug)]
pub(crate) struct RouteSlot {
    current: ArcSwapOption<RouteTable>,
}

/// One route.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) name: Arc<str>,
    pub(crate) matches: RouteMatch,
    pub(crate) action: Action,
    /// Changes to the request, the most specific level first.
    pub(crate) request: Mutations,
    /// Changes to the response.
    pub(crate) response: Mutations,
    /// What is said about filters.
    pub(crate) overrides: Overrides,
    /// What describes requests to rate limiters.
    pub(crate) rate_limits: RateLimits,
}

/// What a route does.
#[derive(Debug)]
pub(crate) enum Action {
    Forward(Box<Forward>),
    Redirect(Redirect),
    /// An answer of our own.
    Direct {
        status: u16,
        body: Vec<u8>,
    },
}

/// Sending the request to a cluster.
#[derive(Debug)]
pub(crate) struct Forward {
    pub(crate) target: Target,
    pub(crate) rewrite: PathRewrite,
    pub(crate) host: HostRewrite,
    pub(crate) append_forwarded_host: bool,
    /// From the complete request to the end of the response; `None` is without limit.
    pub(crate) timeout: Option<Duration>,
    pub(crate) stream_limit: StreamLimit,
    /// For a pause of the stream; `None` is what the connection manager says.
    pub(crate) idle_timeout: Option<Duration>,
    pub(crate) retry: Option<Arc<RetryPolicy>>,
    pub(crate) priority: Priority,
    /// Upgrades that this route switches on or off, differing from the connection manager.
    pub(crate) upgrades: Vec<(String, bool)>,
    /// The endpoint gets what is inside the tunnel of a CONNECT, not the request for it.
    pub(crate) terminates_connect: bool,
    /// The answer when there is no such cluster.
    pub(crate) no_cluster_status: u16,
    /// What decides where it goes, in a cluster that goes by hash.
    pub(crate) affinity: Box<[Affinity]>,
    /// Which endpoints of the cluster.
    pub(crate) criteria: Option<Arc<Criteria>>,
    pub(crate) notes: AttemptNotes,
    /// Redirects of the upstream that are followed here.
    pub(crate) internal_redirect: Option<Box<RedirectPolicy>>,
    /// Where requests go as well.
    pub(crate) mirrors: Arc<[Mirror]>,
    /// A try that takes too long goes on, with another one beside it.
    pub(crate) hedge_on_timeout: bool,
}

/// What both sides are told about attempts.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct AttemptNotes {
    /// The upstream: which attempt it is (`x-envoy-attempt-count`).
    pub(crate) in_request: bool,
    /// The client: how many there were.
    pub(crate) in_response: bool,
    /// The upstream: that the one before took too long (`x-envoy-is-timeout-retry`).
    pub(crate) timeout_retry: bool,
}

/// Which cluster.
#[derive(Debug)]
pub(crate) enum Target {
    One(ClusterRef),
    /// At random by weight.
    Weighted {
        total: u32,
        clusters: Vec<WeightedCluster>,
        /// The field with the number that decides, instead of chance.
        by: Option<Vec<u8>>,
    },
}

/// One choice of [`Target::Weighted`].
#[derive(Debug)]
pub(crate) struct WeightedCluster {
    pub(crate) cluster: ClusterRef,
    pub(crate) weight: u32,
    /// The runtime key with another weight.
    pub(crate) key: Option<Box<str>>,
    pub(crate) request: Mutations,
    pub(crate) response: Mutations,
    pub(crate) host: HostRewrite,
    /// Which endpoints of the cluster, the route's own word included.
    pub(crate) criteria: Option<Arc<Criteria>>,
    /// What is said about filters.
    pub(crate) overrides: Overrides,
}

/// What becomes of the path.
#[derive(Debug)]
pub(crate) enum PathRewrite {
    Keep,
    /// The matched prefix (or the whole matched path) is replaced.
    Prefix(Vec<u8>),
    Regex {
        pattern: regex::bytes::Regex,
        substitution: Vec<u8>,
    },
    /// The path becomes this, unless it is empty.
    Text(Value),
}

/// What becomes of the host.
#[derive(Debug)]
pub(crate) enum HostRewrite {
    Keep,
    Literal(Vec<u8>),
    /// The name of the endpoint that is picked, if it has one.
    Endpoint,
    /// The value of this field, if it is there.
    Header(Vec<u8>),
    /// What is made of the path, if that is a host.
    Path {
        pattern: regex::bytes::Regex,
        substitution: Vec<u8>,
    },
    /// This, if it is a host.
    Text(Value),
}

/// Sending the client elsewhere.
#[derive(Debug)]
pub(crate) struct Redirect {
    pub(crate) status: u16,
    pub(crate) scheme: Option<String>,
    pub(crate) host: Option<String>,
    pub(crate) port: Option<u16>,
    pub(crate) path: RedirectPath,
    pub(crate) strip_query: bool,
    /// Whether a port that is usual for the scheme before stays.
    pub(crate) keep_port: bool,
}

/// The path of a redirect.
#[derive(Debug)]
pub(crate) enum RedirectPath {
    Keep,
    Replace(String),
    Prefix(Vec<u8>),
    Regex { pattern: regex::bytes::Regex, substitution: Vec<u8> },
}

// === impl RouteSlot ===

impl RouteSlot {
    pub(crate) fn empty() -> Self {
        Self { current: ArcSwapOption::empty() }
    }

    pub(crate) fn get(&self) -> Option<Arc<RouteTable>> {
        self.current.load_full()
    }

    pub(crate) fn set(&self, table: Option<Arc<RouteTable>>) {
        self.current.store(table);
    }
}

// === impl Route ===

impl Route {
    /// The new target of a request that this route matched, or `None` if it stays.
    pub(crate) fn rewrite(&self, forward: &Forward, request: &Head, scene: &Scene<'_>) -> Option<Vec<u8>> {
        let target = request.target();
        let path_end = memchr::memchr(b'?', target).unwrap_or(target.len());
        let (path, query) = target.split_at(path_end);
        match &forward.rewrite {
            PathRewrite::Keep => None,
            PathRewrite::Prefix(replacement) => {
                let matched = self.matches.path.matched_length(path);
                Some([replacement, &path[matched..], query].concat())
            }
            PathRewrite::Regex { pattern, substitution } => {
                let new = pattern.replace_all(path, substitution.as_slice());
                Some([&new, query].concat())
            }
            PathRewrite::Text(text) => {
                let new = text.text(request, scene);
                // A value of the client's must not end the request line.
                let fits = new.starts_with(b"/") && new.iter().all(u8::is_ascii_graphic);
                fits.then(|| [&new, query].concat())
            }
        }
    }
}

// === impl Redirect ===

impl Redirect {
    /// The `location` for a request, which came over TLS or not.
    pub(crate) fn location(&self, route: &Route, tls: bool, host: &[u8], target: &[u8]) -> Vec<u8> {
        let host = String::from_utf8_lossy(host);
        let before = if tls { "https" } else { "http" };
        let scheme = self.scheme.as_deref().unwrap_or(before);
        // The port of the request does not belong to another host, nor the usual one of its scheme to another scheme.
        let usual = if tls { 443 } else { 80 };
        let (name, port) = table::split_port(&host);
        let name = self.host.as_deref().unwrap_or(name);
        let port = match self.port {
            Some(port) => Some(port),
            None if self.host.is_none() => {
                port.filter(|port| self.keep_port || scheme == before || *port != usual)
            }
            None => None,
        };
        let path_end = memchr::memchr(b'?', target).unwrap_or(target.len());
        let (path, query) = target.split_at(path_end);
        let mut location = format!("{scheme}://{name}").into_bytes();
        if let Some(port) = port {
            location.extend_from_slice(format!(":{port}").as_bytes());
        }
        let mut keep_query = !self.strip_query;
        match &self.path {
            RedirectPath::Keep => location.extend_from_slice(path),
            RedirectPath::Replace(new) => {
                keep_query &= !new.contains('?');
                location.extend_from_slice(new.as_bytes());
            }
            RedirectPath::Prefix(new) => {
                location.extend_from_slice(new);
                location.extend_from_slice(&path[route.matches.path.matched_length(path)..]);
            }
            RedirectPath::Regex { pattern, substitution } => {
                location.extend_from_slice(&pattern.replace_all(path, substitution.as_slice()));
            }
        }
        if keep_query {
            location.extend_from_slice(query);
        }
        location
    }
}
