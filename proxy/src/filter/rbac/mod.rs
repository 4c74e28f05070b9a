//! `rbac`: who may ask for what.
//!
//! Source: Envoy's `envoy.extensions.filters.http.rbac.v3`. Rules are enforced; shadow rules are only counted, so that a
//! policy can be watched before it bites.

mod config;
mod network;
mod rules;

use std::sync::Arc;

pub(super) use config::KIND;
pub(crate) use network::{MESSAGE, NetworkRbac, compile};
use rules::Rules;
pub(crate) use rules::Subject;

use super::{Filter, Request, Step};
use crate::{
    http::exchange::{Reason, Reply},
    metrics::CounterSet,
};

const COUNTERS: [&str; 2] = ["envoy_http_rbac_allowed", "envoy_http_rbac_denied"];
const SHADOW_COUNTERS: [&str; 2] = ["envoy_http_rbac_shadow_allowed", "envoy_http_rbac_shadow_denied"];
const ALLOWED: usize = 0;
const DENIED: usize = 1;

/// The filter.
#[derive(Debug)]
struct Rbac {
    base: Arc<RuleSets>,
    stats: Arc<CounterSet>,
    shadow_stats: Arc<CounterSet>,
}

/// What one level says. Without rules everything is allowed.
#[derive(Debug, Default)]
struct RuleSets {
    rules: Option<Rules>,
    shadow: Option<Rules>,
}

// === impl Rbac ===

impl Filter for Rbac {
    fn on_request<'r>(&'r self, request: Request<'r>) -> Step<'r> {
        let sets = request.own.most_specific::<RuleSets>().unwrap_or(&*self.base);
        let worker = request.cx.worker.index;
        let subject = Subject::of_request(&request);
        if let Some(shadow) = &sets.shadow {
            let (allowed, _) = shadow.judge(&subject);
            self.shadow_stats.add(worker, if allowed { ALLOWED } else { DENIED });
        }
        let Some(rules) = &sets.rules else { return Step::Continue };
        let (allowed, policy) = rules.judge(&subject);
        self.stats.add(worker, if allowed { ALLOWED } else { DENIED });
        if allowed {
            return Step::Continue;
        }
        let mut reply = Reply::new(403, Reason::RbacDenied, "RBAC: access denied");
        // As Envoy: a word in a log line has no blanks.
        reply.details = policy.map(|name| {
            format!("rbac_access_denied_matched_policy[{}]", name.replace(char::is_whitespace, "_")).into()
        });
        Step::Reply(Box::new(reply))
    }
}
