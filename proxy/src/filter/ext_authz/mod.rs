//! `ext_authz`: requests that another service must allow.
//!
//! Source: Envoy's `envoy.extensions.filters.http.ext_authz.v3`. The service is asked over gRPC (`check`) or HTTP (`http`);
//! what it says about the request and the response is a [`Decision`].

mod body;
mod check;
mod config;
mod decision;
mod http;

use std::{collections::HashMap, sync::Arc};

use body::{BodyRule, Told};
pub(super) use config::KIND;
use decision::{Answer, Decision};

use super::{Filter, Request, Response, Step};
use crate::{
    callout::grpc::GrpcService,
    http::{
        exchange::{Reason, Reply},
        head::Head,
    },
    metrics::CounterSet,
    route::{matcher::TextMatch, mutate::Scene},
    runtime::{Flag, Share},
};

const COUNTERS: [&str; 6] = [
    "envoy_http_ext_authz_ok",
    "envoy_http_ext_authz_denied",
    "envoy_http_ext_authz_error",
    "envoy_http_ext_authz_failure_mode_allowed",
    "envoy_http_ext_authz_disabled",
    "envoy_http_ext_authz_invalid",
];
const OK: usize = 0;
const DENIED: usize = 1;
const ERROR: usize = 2;
const FAILURE_MODE_ALLOWED: usize = 3;
const DISABLED: usize = 4;
const INVALID: usize = 5;

/// The filter.
#[derive(Debug)]
struct ExtAuthz {
    service: Service,
    /// What the service is told.
    telling: Telling,
    /// Whether requests pass that the service could not be asked about, and whether the upstream is told.
    failure_mode_allow: bool,
    failure_mode_allow_field: bool,
    status_on_error: u16,
    enabled: Share,
    /// Whether requests that are not asked about are denied.
    deny_at_disable: Flag,
    /// Longest body of a denial; the rest is cut off.
    longest_denial: Option<usize>,
    stats: Arc<CounterSet>,
}

#[derive(Debug)]
enum Service {
    Grpc(GrpcService),
    Http(http::HttpService),
}

/// What the service is told of a request.
#[derive(Debug)]
struct Telling {
    /// The only fields that it is told, if there are such.
    allowed: Option<Vec<TextMatch>>,
    /// Fields that it is not told.
    disallowed: Vec<TextMatch>,
    /// Each field by itself and as it came, rather than by name and as text.
    raw_fields: bool,
    peer_certificate: bool,
    /// The body only if there is such a rule.
    body: Option<BodyRule>,
}

/// What a route says.
#[derive(Debug)]
enum OwnCheck {
    Disabled(bool),
    Settings {
        /// More for the service to know.
        extensions: HashMap<String, String>,
        /// Whether the service is told the body, if that is said here.
        body: Option<Option<BodyRule>>,
    },
}

// === impl ExtAuthz ===

impl Filter for ExtAuthz {
    fn on_request<'r>(&'r self, request: Request<'r>) -> Step<'r> {
        // As in Envoy: what no route is for is answered by the router.
        if request.route.is_none()
            || matches!(request.own.most_specific::<OwnCheck>(), Some(OwnCheck::Disabled(true)))
        {
            return Step::Continue;
        }
        let worker = &request.cx.worker;
        if !worker.draws(&self.enabled) {
            self.stats.add(worker.index, DISABLED);
            if self.deny_at_disable.of(&worker.shared.runtime) {
                return Step::Reply(self.failure());
            }
            return Step::Continue;
        }
        Step::Wait(Box::pin(self.ask(request)))
    }

    fn on_response(&self, response: Response<'_>) {
        let scene = Scene::of_response(response.cx, response.record, response.request);
        response.record.later.apply(response.own.name(), response.head, &scene);
    }
}

impl ExtAuthz {
    async fn ask(&self, request: Request<'_>) -> Result<(), Box<Reply>> {
        let told =
            body::wait(self.telling.body.as_ref(), &mut *request.body, &request.own, request.cx).await?;
        let decision = match &self.service {
            Service::Grpc(service) => check::ask(service, &self.telling, &request, &told).await,
            Service::Http(service) => http::ask(service, &self.telling, &request, told).await,
        };
        let worker = request.cx.worker.index;
        match decision {
            Decision::Allowed(changes) => {
                let Ok(later) = changes.apply(request.head) else {
                    self.stats.add(worker, INVALID);
                    return Err(Box::new(Reply::new(500, Reason::ExtAuthzInvalid, "")));
                };
                request.record.later.note(request.own.name(), later);
                self.stats.add(worker, OK);
                Ok(())
            }
            Decision::Denied(answer) => {
                self.stats.add(worker, DENIED);
                self.say(answer, Reason::ExtAuthzDenied, worker)
            }
            Decision::Failed(answer) => {
                self.stats.add(worker, ERROR);
                if self.failure_mode_allow {
                    self.stats.add(worker, FAILURE_MODE_ALLOWED);
                    if self.failure_mode_allow_field {
                        request.head.append(b"x-envoy-auth-failure-mode-allowed", b"true");
                    }
                    return Ok(());
                }
                match answer {
                    Some(answer) => self.say(answer, Reason::ExtAuthzError, worker),
                    None => Err(self.failure()),
                }
            }
        }
    }

    /// Tells the client what the service wants it told.
    fn say(&self, answer: Answer, reason: Reason, worker: usize) -> Result<(), Box<Reply>> {
        Err(match answer.reply(reason, self.status_on_error, self.longest_denial) {
            Ok(reply) => reply,
            Err(_) => {
                self.stats.add(worker, INVALID);
                Box::new(Reply::new(500, Reason::ExtAuthzInvalid, ""))
            }
        })
    }

    fn failure(&self) -> Box<Reply> {
        Box::new(Reply::new(self.status_on_error, Reason::ExtAuthzError, ""))
    }
}

// === impl Telling ===

impl Telling {
    /// Whether the service is told the field of this name, in lower case.
    fn tells(&self, name: &[u8]) -> bool {
        let among = |list: &[TextMatch]| list.iter().any(|pattern| pattern.matches(name));
        !among(&self.disallowed) && self.allowed.as_ref().is_none_or(|allowed| among(allowed))
    }
}

/// The scheme that the client used, as far as those before us say.
fn scheme(head: &Head) -> &'static str {
    use crate::http::head::Known;
    match head.known(Known::XForwardedProto) {
        Some(b"https") => "https",
        _ => "http",
    }
}
