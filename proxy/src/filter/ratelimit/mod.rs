//! `ratelimit`: so many requests in so much time, counted by a service for everybody who asks it.
//!
//! Source: Envoy's `envoy.extensions.filters.http.ratelimit.v3`. What is counted are the descriptions that the route makes of
//! a request (`route/rate_limit.rs`); without any the service is not asked.

mod answer;
mod config;

use std::sync::Arc;

use answer::{Verdict, ask};
pub(super) use config::KIND;

use super::{Filter, Request, Response, Step};
use crate::{
    callout::grpc::GrpcService,
    cluster::Cluster,
    http::{
        exchange::{Reason, Reply, is_internal},
        head::{Head, Known, tokens},
    },
    route::{
        mutate::{Addition, Append, Mutation, Scene},
        rate_limit::{Asked, HostLimits, Pairs, RateLimit},
    },
    runtime::Share,
};

/// The filter.
#[derive(Debug)]
struct GlobalRateLimit {
    service: GrpcService,
    /// Whose limits are meant.
    domain: String,
    stage: u32,
    origin: Origin,
    /// What describes requests, instead of the route's.
    rate_limits: Vec<RateLimit>,
    enabled: Share,
    enforced: Share,
    /// Of the requests that the service could not be asked about.
    deny_on_failure: Share,
    status: u16,
    grpc_status: u8,
    status_on_error: u16,
    /// Whether clients are told how much is left (`x-ratelimit-…`, draft 3 of the specification).
    tell_limits: bool,
    /// Whether they are told `x-envoy-ratelimited`.
    tell_limited: bool,
    /// What else they are told if they are over the limit.
    tell_client: Vec<Addition>,
}

/// Which requests are limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// Those from a private address, with no proxy between.
    Internal,
    /// All others.
    External,
    Both,
}

/// What a route says.
#[derive(Debug)]
struct OwnLimits {
    /// Empty: the filter's.
    domain: String,
    /// Instead of all others, if there are any.
    rate_limits: Vec<RateLimit>,
    host: HostLimits,
}

// === impl GlobalRateLimit ===

impl Filter for GlobalRateLimit {
    fn on_request<'r>(&'r self, request: Request<'r>) -> Step<'r> {
        let Some(cluster) = request.cluster() else { return Step::Continue };
        if !self.origin.is_of(request.head) || !request.cx.worker.draws(&self.enabled) {
            return Step::Continue;
        }
        let own = request.own.most_specific::<OwnLimits>();
        let descriptions = self.descriptions(&request, own, &cluster);
        if descriptions.is_empty() {
            return Step::Continue;
        }
        let domain = own.map(|own| &own.domain).filter(|domain| !domain.is_empty()).unwrap_or(&self.domain);
        Step::Wait(Box::pin(async move {
            let verdict = ask(&self.service, request.cx, domain, descriptions, self.tell_limits).await;
            self.act(verdict, request, &cluster)
        }))
    }

    fn on_response(&self, response: Response<'_>) {
        let scene = Scene::of_response(response.cx, response.record, response.request);
        response.record.later.apply(response.own.name(), response.head, &scene);
    }
}

impl GlobalRateLimit {
    /// What is to be counted.
    fn descriptions(&self, request: &Request<'_>, own: Option<&OwnLimits>, cluster: &Cluster) -> Vec<Pairs> {
        let asked = Asked {
            head: request.head,
            peer: request.cx.peer.ip(),
            service: &request.cx.worker.shared.node_cluster,
            cluster: Some(&cluster.name),
        };
        let of = |limits: &[RateLimit]| -> Vec<Pairs> {
            let limits = limits.iter().filter(|limit| limit.stage == self.stage);
            limits.filter_map(|limit| limit.pairs(&asked)).collect()
        };
        match own {
            Some(own) if !own.rate_limits.is_empty() => of(&own.rate_limits),
            _ if !self.rate_limits.is_empty() => of(&self.rate_limits),
            _ => {
                let host = own.map_or(HostLimits::default(), |own| own.host);
                let limits = request.route.map_or([&[][..]; 2], |route| route.rate_limits.of(host));
                limits.into_iter().flat_map(of).collect()
            }
        }
    }

    fn act(&self, verdict: Verdict, request: Request<'_>, cluster: &Cluster) -> Result<(), Box<Reply>> {
        let worker = &request.cx.worker;
        let cells = &cluster.stats.at(worker.index).ratelimit;
        match verdict {
            Verdict::Within { upstream, client } => {
                cells.ok.add(1);
                pass(request, &upstream, client);
                Ok(())
            }
            Verdict::Over { upstream, client, body } => {
                cells.over_limit.add(1);
                let mut fields = client;
                if self.tell_limited {
                    let name = b"x-envoy-ratelimited".to_vec();
                    fields.push(Addition::literal(name, b"true".to_vec(), Append::Always));
                }
                if !worker.draws(&self.enforced) {
                    pass(request, &upstream, fields);
                    return Ok(());
                }
                let mut reply = Reply::new(self.status, Reason::RateLimited, "");
                reply.body = body.into();
                reply.grpc_status = Some(self.grpc_status);
                // What kind of text it is only the service can know.
                let remove = fields.iter().map(|field| field.name.clone());
                let remove = remove.filter(|name| name == b"content-type").collect();
                fields.extend(self.tell_client.iter().cloned());
                reply.changes = Some(Arc::new(Mutation::new(remove, fields)));
                Err(Box::new(reply))
            }
            Verdict::Unknown => {
                cells.error.add(1);
                if worker.draws(&self.deny_on_failure) {
                    return Err(Box::new(Reply::new(self.status_on_error, Reason::RateLimitFailed, "")));
                }
                cells.failure_mode_allowed.add(1);
                Ok(())
            }
        }
    }
}

/// Lets a request pass, with what the service wants said in it and in the response.
fn pass(request: Request<'_>, upstream: &[Addition], client: Vec<Addition>) {
    let scene = Scene::of_request(request.cx, request.record);
    upstream.iter().for_each(|addition| addition.apply(request.head, &scene));
    request.record.later.note(request.own.name(), client);
}

// === impl Origin ===

impl Origin {
    fn is_of(self, head: &Head) -> bool {
        match self {
            Self::Both => true,
            Self::Internal => comes_from_inside(head),
            Self::External => !comes_from_inside(head),
        }
    }
}

/// As Envoy sees it: exactly one address in `x-forwarded-for`, and a private one.
fn comes_from_inside(head: &Head) -> bool {
    let mut addresses = head.all_known(Known::XForwardedFor).flat_map(tokens);
    let only = addresses.next().filter(|_| addresses.next().is_none());
    let address = only.and_then(|text| std::str::from_utf8(text).ok()?.parse().ok());
    address.is_some_and(is_internal)
}
