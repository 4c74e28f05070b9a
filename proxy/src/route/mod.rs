//! Routing: from a request's host, path and fields to what is done with it.

pub(crate) mod matcher;
pub(crate) mod mutate;
pub(crate) mod retry;
pub(crate) mod table;

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;

use crate::{
    cluster::ClusterSlot,
    route::{matcher::RouteMatch, mutate::Mutations, retry::RetryPolicy, table::RouteTable},
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
}

/// What a route does.
#[derive(Debug)]
pub(crate) enum Action {
    Forward(Forward),
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
    /// For the whole exchange; `None` is without limit.
    pub(crate) timeout: Option<Duration>,
    /// For a pause of the stream; `None` is what the connection manager says.
    pub(crate) idle_timeout: Option<Duration>,
    pub(crate) retry: Option<RetryPolicy>,
    /// Upgrades that this route switches on or off, differing from the connection manager.
    pub(crate) upgrades: Vec<(String, bool)>,
    /// The answer when there is no such cluster.
    pub(crate) no_cluster_status: u16,
}

/// Which cluster.
#[derive(Debug)]
pub(crate) enum Target {
    One(Arc<ClusterSlot>),
    /// At random by weight.
    Weighted {
        total: u32,
        clusters: Vec<WeightedCluster>,
    },
}

/// One choice of [`Target::Weighted`].
#[derive(Debug)]
pub(crate) struct WeightedCluster {
    pub(crate) cluster: Arc<ClusterSlot>,
    pub(crate) weight: u32,
    pub(crate) request: Mutations,
    pub(crate) response: Mutations,
    pub(crate) host: HostRewrite,
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
}

/// What becomes of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum HostRewrite {
    Keep,
    Literal(Vec<u8>),
    /// The name of the endpoint that is picked, if it has one.
    Endpoint,
    /// The value of this field, if it is there.
    Header(Vec<u8>),
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
}

/// The path of a redirect.
#[derive(Debug)]
pub(crate) enum RedirectPath {
    Keep,
    Replace(String),
    Prefix(Vec<u8>),
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
    /// The new target of a request for `target` that this route matched, or `None` if it stays.
    pub(crate) fn rewrite(&self, forward: &Forward, target: &[u8]) -> Option<Vec<u8>> {
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
        }
    }
}

// === impl Redirect ===

impl Redirect {
    /// The `location` for a request.
    pub(crate) fn location(&self, route: &Route, host: &[u8], target: &[u8]) -> Vec<u8> {
        let host = String::from_utf8_lossy(host);
        let scheme = self.scheme.as_deref().unwrap_or("http");
        // The port of the request does not belong to another host or scheme.
        let (name, port) = table::split_port(&host);
        let name = self.host.as_deref().unwrap_or(name);
        let port = match self.port {
            Some(port) => Some(port),
            None if self.host.is_none() && self.scheme.is_none() => port,
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
        }
        if keep_query {
            location.extend_from_slice(query);
        }
        location
    }
}
