//! `local_ratelimit`: so many requests in so much time, in this process.
//!
//! Source: Envoy's `envoy.extensions.filters.http.local_ratelimit.v3`. All data threads take from the same buckets.

mod bucket;
mod config;

use std::sync::Arc;

use bucket::TokenBucket;
pub(super) use config::KIND;
use tokio::time::Instant;

use super::{Filter, Request, Step};
use crate::{
    http::exchange::{Reason, Reply},
    metrics::CounterSet,
    route::{
        mutate::{Addition, Mutation, Scene},
        rate_limit::{Asked, HostLimits, RateLimit},
    },
    runtime::Share,
};

const COUNTERS: [&str; 4] = [
    "envoy_http_local_rate_limit_enabled",
    "envoy_http_local_rate_limit_ok",
    "envoy_http_local_rate_limit_rate_limited",
    "envoy_http_local_rate_limit_enforced",
];
const ENABLED: usize = 0;
const OK: usize = 1;
const LIMITED: usize = 2;
const ENFORCED: usize = 3;

/// The filter.
#[derive(Debug)]
struct LocalRateLimit {
    base: Arc<Limit>,
}

/// What one level limits, and how much of it is used.
#[derive(Debug)]
struct Limit {
    /// For every request; `None` is without limit.
    bucket: Option<TokenBucket>,
    /// For requests that a rate limit of the route describes so, the slowest to refill first.
    descriptors: Vec<Descriptor>,
    /// Whether requests that a descriptor counted take from the common bucket too.
    always_common: bool,
    /// What describes requests, instead of the route's.
    rate_limits: Vec<RateLimit>,
    stage: u32,
    enabled: Share,
    enforced: Share,
    status: u16,
    grpc_status: u8,
    /// What upstreams are told of requests over the limit that pass nevertheless.
    tell_upstream: Vec<Addition>,
    tell_client: Option<Arc<Mutation>>,
    stats: Arc<CounterSet>,
}

/// A bucket for some requests only.
#[derive(Debug)]
struct Descriptor {
    entries: Vec<(String, String)>,
    bucket: TokenBucket,
}

// === impl LocalRateLimit ===

impl Filter for LocalRateLimit {
    fn on_request<'r>(&'r self, request: Request<'r>) -> Step<'r> {
        let limit = request.own.most_specific::<Limit>().unwrap_or(&*self.base);
        let cx = request.cx;
        let worker = cx.worker.index;
        if !cx.worker.draws(&limit.enabled) {
            return Step::Continue;
        }
        limit.stats.add(worker, ENABLED);
        if limit.allows(&request, Instant::now()) {
            limit.stats.add(worker, OK);
            return Step::Continue;
        }
        limit.stats.add(worker, LIMITED);
        if !cx.worker.draws(&limit.enforced) {
            let scene = Scene::of_request(request.cx, request.record);
            for addition in &limit.tell_upstream {
                addition.apply(request.head, &scene);
            }
            return Step::Continue;
        }
        limit.stats.add(worker, ENFORCED);
        let mut reply = Reply::new(limit.status, Reason::LocalRateLimited, "local_rate_limited");
        reply.grpc_status = request.head.is_grpc().then_some(limit.grpc_status);
        reply.changes.clone_from(&limit.tell_client);
        Step::Reply(Box::new(reply))
    }
}

// === impl Limit ===

impl Limit {
    /// Takes a token from every bucket that the request counts in; whether all had one. As in Envoy, those that had
    /// one do not get it back if the next has none.
    fn allows(&self, request: &Request<'_>, now: Instant) -> bool {
        let mut described = false;
        if !self.descriptors.is_empty() {
            let limits = match self.rate_limits.as_slice() {
                [] => request.route.map_or([&[][..]; 2], |route| route.rate_limits.of(HostLimits::default())),
                own => [own, &[]],
            };
            let cluster = request.cluster();
            let asked = Asked {
                head: request.head,
                peer: request.cx.peer.ip(),
                service: &request.cx.worker.shared.node_cluster,
                cluster: cluster.as_ref().map(|cluster| &*cluster.name),
            };
            for descriptor in &self.descriptors {
                let mut limits = limits.into_iter().flatten().filter(|limit| limit.stage == self.stage);
                if limits.any(|limit| limit.describes(&asked, &descriptor.entries)) {
                    described = true;
                    if !descriptor.bucket.take(now) {
                        return false;
                    }
                }
            }
        }
        if described && !self.always_common {
            return true;
        }
        self.bucket.as_ref().is_none_or(|bucket| bucket.take(now))
    }
}
