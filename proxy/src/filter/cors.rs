//! `cors`: which pages of other origins a browser may show our answers to.
//!
//! Source: Envoy's `envoy.extensions.filters.http.cors.v3`; the Fetch standard, "CORS protocol". A route without a policy
//! is left alone, so what a browser hears then is up to the upstream.

use std::sync::Arc;

use weft_xds::{
    any,
    pb::envoy::extensions::filters::http::cors::v3::{Cors as Proto, CorsPolicy},
};

use super::{Filter, Kind, Request, Response, Step};
use crate::{
    config::{ConfigError, Path, matcher, value},
    http::{
        exchange::{Context, Reason, Reply},
        head::{Head, Method},
    },
    metrics::CounterSet,
    route::matcher::{TextMatch, TextPattern},
    runtime::Share,
};

pub(super) const KIND: Kind = Kind {
    message: "envoy.extensions.filters.http.cors.v3.Cors",
    compile: |path, config, inputs| {
        value::unpacked(path, any::unpack::<Proto>(config))?;
        Ok(Box::new(Cors { stats: inputs.counters(&COUNTERS) }))
    },
    of_route: Some(("envoy.extensions.filters.http.cors.v3.CorsPolicy", |path, config, _| {
        let message = value::unpacked(path, any::unpack::<CorsPolicy>(config))?;
        Ok(Arc::new(policy(path, &message)?))
    })),
};

const COUNTERS: [&str; 2] = ["envoy_http_cors_origin_valid", "envoy_http_cors_origin_invalid"];
const VALID: usize = 0;
const INVALID: usize = 1;

/// The filter. All it does is said by routes.
#[derive(Debug)]
struct Cors {
    stats: Arc<CounterSet>,
}

/// What a route says. Empty texts are left out of answers.
#[derive(Debug)]
struct Policy {
    origins: Vec<TextMatch>,
    methods: Vec<u8>,
    headers: Vec<u8>,
    expose: Vec<u8>,
    max_age: Vec<u8>,
    credentials: bool,
    private_network: bool,
    forward_not_matching_preflights: bool,
    /// Shares of requests.
    enabled: Share,
    shadow: Share,
}

// === impl Cors ===

impl Filter for Cors {
    fn on_request<'r>(&'r self, request: Request<'r>) -> Step<'r> {
        let Some(policy) = request.own.most_specific::<Policy>() else { return Step::Continue };
        let worker = &request.cx.worker;
        let enabled = worker.draws(&policy.enabled);
        if !enabled && !worker.draws(&policy.shadow) {
            return Step::Continue;
        }
        let Some(origin) = origin(request.head) else { return Step::Continue };
        let allowed = policy.allows(origin);
        self.stats.add(request.cx.worker.index, if allowed { VALID } else { INVALID });
        if !enabled || !is_preflight(request.head) || (!allowed && policy.forward_not_matching_preflights) {
            return Step::Continue;
        }
        let mut reply = Reply::new(200, Reason::CorsPreflight, "");
        if allowed {
            policy.answer_preflight(request.head, origin, &mut reply);
        }
        Step::Reply(Box::new(reply))
    }

    fn on_response(&self, response: Response<'_>) {
        // The answer to a preflight is complete.
        if !response.saw_request || response.record.reason == Reason::CorsPreflight {
            return;
        }
        let Some(policy) = response.own.most_specific::<Policy>() else { return };
        let Some(origin) = origin(response.request) else { return };
        if policy.is_enabled(response.cx) && policy.allows(origin) {
            response.head.set(b"access-control-allow-origin", origin);
            if policy.credentials {
                response.head.set(b"access-control-allow-credentials", b"true");
            }
            if !policy.expose.is_empty() {
                response.head.set(b"access-control-expose-headers", &policy.expose);
            }
        }
    }
}

fn origin(head: &Head) -> Option<&[u8]> {
    head.get(b"origin").filter(|origin| !origin.is_empty())
}

/// Whether a browser asks what it may ask.
fn is_preflight(head: &Head) -> bool {
    head.method == Method::Options
        && head.get(b"access-control-request-method").is_some_and(|method| !method.is_empty())
}

// === impl Policy ===

impl Policy {
    fn allows(&self, origin: &[u8]) -> bool {
        self.origins.iter().any(|matcher| {
            matches!(&matcher.pattern, TextPattern::Exact(text) if text == b"*") || matcher.matches(origin)
        })
    }

    /// Asked for a response: of a policy that is on for a share, each response is decided anew.
    fn is_enabled(&self, cx: &Context) -> bool {
        cx.worker.draws(&self.enabled)
    }

    fn answer_preflight(&self, head: &Head, origin: &[u8], reply: &mut Reply) {
        let mut say = |name: &'static [u8], value: &[u8]| {
            if !value.is_empty() {
                reply.fields.push((name, value.to_vec()));
            }
        };
        say(b"access-control-allow-origin", origin);
        say(b"access-control-allow-credentials", if self.credentials { b"true" } else { b"" });
        say(b"access-control-allow-methods", &self.methods);
        say(b"access-control-allow-headers", &self.headers);
        say(b"access-control-max-age", &self.max_age);
        say(b"access-control-expose-headers", &self.expose);
        let asked = head.get(b"access-control-request-private-network") == Some(b"true");
        say(
            b"access-control-allow-private-network",
            if asked && self.private_network { b"true" } else { b"" },
        );
    }
}

// === from the configuration ===

fn policy(path: &Path, message: &CorsPolicy) -> Result<Policy, ConfigError> {
    let origins = message.allow_origin_string_match.iter().enumerate();
    let origins = origins
        .map(|(index, origin)| matcher::text_match(&path.item("allow_origin_string_match", index), origin))
        .collect::<Result<_, _>>()?;
    let text = |name: &str, text: &str| value::field_value(&path.field(name), text.as_bytes());
    Ok(Policy {
        origins,
        methods: text("allow_methods", &message.allow_methods)?,
        headers: text("allow_headers", &message.allow_headers)?,
        expose: text("expose_headers", &message.expose_headers)?,
        max_age: text("max_age", &message.max_age)?,
        credentials: message.allow_credentials.is_some_and(|allow| allow.value),
        private_network: message.allow_private_network_access.is_some_and(|allow| allow.value),
        forward_not_matching_preflights: message
            .forward_not_matching_preflights
            .is_none_or(|forward| forward.value),
        enabled: value::runtime_share(
            &path.field("filter_enabled"),
            message.filter_enabled.as_ref(),
            value::ALL,
        )?,
        shadow: value::runtime_share(&path.field("shadow_enabled"), message.shadow_enabled.as_ref(), 0)?,
    })
}
