//! `jwt_authn`: requests that must carry a signed token.
//!
//! Source: Envoy's `envoy.extensions.filters.http.jwt_authn.v3`; RFC 7519, 7515, 7517. Keys are those of the configuration
//! or come from a server.
//! A signature is checked on the data thread: some ten microseconds with RSA, which is what a short TLS record costs.

mod config;
mod keys;
mod provider;
mod remote;
mod token;

use std::{
    collections::HashMap,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

pub(super) use config::KIND;
use provider::Provider;
use remote::RemoteKeys;
use token::Failure;

use super::{Filter, Request, Step};
use crate::{
    http::{
        exchange::{Reason, Reply},
        head::{Head, Method},
        metadata::Metadata,
    },
    metrics::CounterSet,
    route::matcher::{Asked, RouteMatch},
};

const COUNTERS: [&str; 5] = [
    "envoy_http_jwt_authn_allowed",
    "envoy_http_jwt_authn_denied",
    "envoy_http_jwt_authn_cors_preflight_bypassed",
    "envoy_http_jwt_authn_jwks_fetch_success",
    "envoy_http_jwt_authn_jwks_fetch_failed",
];
const ALLOWED: usize = 0;
const DENIED: usize = 1;
const BYPASSED: usize = 2;
const FETCHED: usize = 3;
const FETCH_FAILED: usize = 4;

/// How much of a path is told back, as in Envoy.
const LONGEST_REALM: usize = 256;

/// The filter.
#[derive(Debug)]
struct JwtAuthn {
    /// The first that matches counts; a request that none matches needs no token.
    rules: Vec<Rule>,
    /// For routes that name one.
    named: HashMap<String, Requirement>,
    /// Fields that only we may set: whoever is behind us believes them.
    own_fields: Vec<Vec<u8>>,
    bypass_cors_preflight: bool,
    stats: Arc<CounterSet>,
}

#[derive(Debug)]
struct Rule {
    matches: RouteMatch,
    /// `None`: no token is needed.
    requirement: Option<Requirement>,
}

/// What a request must carry.
#[derive(Debug)]
enum Requirement {
    Provider(Arc<Provider>),
    Any(Vec<Self>),
    All(Vec<Self>),
    /// Nothing, but no bad token either.
    AllowMissing,
    Nothing,
}

/// What a route says.
#[derive(Debug)]
enum OwnRequirement {
    Disabled,
    Named(String),
}

// === impl JwtAuthn ===

impl Filter for JwtAuthn {
    fn on_request<'r>(&'r self, request: Request<'r>) -> Step<'r> {
        let worker = request.cx.worker.index;
        for name in &self.own_fields {
            request.head.remove(name);
        }
        if self.bypass_cors_preflight && is_preflight(request.head) {
            self.stats.add(worker, BYPASSED);
            return Step::Continue;
        }
        let requirement = match request.own.most_specific::<OwnRequirement>() {
            Some(OwnRequirement::Disabled) => None,
            Some(OwnRequirement::Named(name)) => match self.named.get(name) {
                Some(requirement) => Some(requirement),
                // As Envoy: a name that nobody knows is no reason to let anybody in.
                None => return Step::Reply(self.deny(&request, Failure::UnknownRequirement)),
            },
            None => {
                let (certificate, worker) = (request.cx.is_mesh_peer(), &request.cx.worker);
                let (random, runtime) = (&worker.random, &worker.shared.runtime);
                let asked = Asked { head: request.head, certificate, random, runtime, parameters: true };
                let rule = self.rules.iter().find(|rule| rule.matches.matches(&asked));
                rule.and_then(|rule| rule.requirement.as_ref())
            }
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let Some(requirement) = requirement else {
            self.stats.add(worker, ALLOWED);
            return Step::Continue;
        };
        let mut missing = Vec::new();
        requirement.missing(request.head, now, &mut missing);
        if missing.is_empty() {
            return self.decide(requirement, request, now).map_or_else(Step::Reply, |()| Step::Continue);
        }
        Step::Wait(Box::pin(async move {
            for keys in missing {
                keys.wait(&request.cx.worker).await;
            }
            self.decide(requirement, request, now)
        }))
    }
}

impl JwtAuthn {
    fn decide(&self, requirement: &Requirement, request: Request<'_>, now: u64) -> Result<(), Box<Reply>> {
        if let Err(failure) = requirement.check(request.head, &mut request.record.metadata, now) {
            return Err(self.deny(&request, failure));
        }
        self.stats.add(request.cx.worker.index, ALLOWED);
        Ok(())
    }

    fn deny(&self, request: &Request<'_>, failure: Failure) -> Box<Reply> {
        self.stats.add(request.cx.worker.index, DENIED);
        let text = failure.text();
        let mut reply = Reply::new(failure.status(), Reason::JwtDenied, text);
        reply.details = Some(format!("jwt_authn_access_denied{{{}}}", text.replace(' ', "_")).into());
        if failure != Failure::UnknownRequirement {
            let scheme: &[u8] = if request.cx.tls.is_some() { b"https" } else { b"http" };
            let head = &request.head;
            let target = &head.target()[..head.target().len().min(LONGEST_REALM)];
            let mut value = [b"Bearer realm=\"", scheme, b"://", head.authority(), target, b"\""].concat();
            if failure != Failure::Missing {
                value.extend_from_slice(b", error=\"invalid_token\"");
            }
            reply.fields.push((b"www-authenticate", value));
        }
        Box::new(reply)
    }
}

fn is_preflight(head: &Head) -> bool {
    head.method == Method::Options
        && [&b"origin"[..], b"access-control-request-method"]
            .iter()
            .all(|name| head.get(name).is_some_and(|value| !value.is_empty()))
}

// === impl Requirement ===

impl Requirement {
    /// Collects the keys that are not there and without which this cannot be decided.
    fn missing<'k>(&'k self, head: &Head, now: u64, found: &mut Vec<&'k RemoteKeys>) {
        match self {
            Self::Provider(provider) => found.extend(provider.missing(head, now)),
            Self::Any(all) | Self::All(all) => {
                all.iter().for_each(|requirement| requirement.missing(head, now, found));
            }
            Self::AllowMissing | Self::Nothing => {}
        }
    }

    /// Whether the request meets this at `now`, in seconds since 1970. What is verified is said in the request and to other
    /// filters.
    fn check(&self, head: &mut Head, said: &mut Metadata, now: u64) -> Result<(), Failure> {
        match self {
            Self::Provider(provider) => provider.check(head, said, now),
            Self::All(all) => all.iter().try_for_each(|requirement| requirement.check(head, said, now)),
            Self::Any(some) => {
                let mut failure = Failure::Missing;
                for requirement in some {
                    match requirement.check(head, said, now) {
                        // Looked at last: that there may be no token does not make a bad one good.
                        Ok(()) if matches!(requirement, Self::AllowMissing) => {}
                        Ok(()) => return Ok(()),
                        Err(Failure::Missing) => {}
                        Err(worse) => failure = worse,
                    }
                }
                let may_miss = some.iter().any(|requirement| matches!(requirement, Self::AllowMissing));
                if may_miss && failure == Failure::Missing { Ok(()) } else { Err(failure) }
            }
            Self::AllowMissing | Self::Nothing => Ok(()),
        }
    }
}
