//! What routes change about a request before it goes on.

use std::borrow::Cow;

use super::Exchange;
use crate::{
    cluster::endpoint::Endpoint,
    http::{decimal::Decimal, h1::parse::is_authority, head::Span},
    route::{AttemptNotes, Forward, HostRewrite, Route, WeightedCluster, mutate::Scene},
};

/// Which attempt it is, to the upstream; how many there were, to the client.
pub(super) const ATTEMPT_COUNT: &[u8] = b"x-envoy-attempt-count";

impl Exchange<'_> {
    /// Applies the route's changes to the request.
    pub(super) fn rewrite(&mut self, route: &Route, forward: &Forward, weighted: Option<&WeightedCluster>) {
        if forward.append_forwarded_host {
            let host = self.request.authority().to_vec();
            self.request.append(b"x-forwarded-host", &host);
        }
        let scene = Scene::of_request(self.cx, &self.record);
        if let Some(weighted) = weighted {
            weighted.request.apply(self.request, &scene);
        }
        route.request.apply(self.request, &scene);
        let host = match host_rewrite(forward, weighted) {
            HostRewrite::Path { pattern, substitution } => {
                Some(pattern.replace_all(self.request.path(), substitution.as_slice()))
            }
            HostRewrite::Text(text) => Some(text.text(self.request, &scene)),
            _ => None,
        };
        let host = host.filter(|host| is_authority(host)).map(Cow::into_owned);
        let target = route.rewrite(forward, self.request, &scene);
        self.host = host.map(|host| self.request.intern(&host));
        if let Some(target) = target {
            if !self.cx.manager.suppress_envoy_headers {
                let before = self.request.target().to_vec();
                self.request.set(b"x-envoy-original-path", &before);
            }
            let target = self.request.intern(&target);
            self.request.set_target(target);
        }
    }

    /// The host that an endpoint of this name is asked for.
    pub(super) fn rewritten_host(
        &mut self,
        forward: &Forward,
        weighted: Option<&WeightedCluster>,
        hostname: &str,
    ) -> Span {
        match host_rewrite(forward, weighted) {
            HostRewrite::Literal(host) => self.request.intern(host),
            HostRewrite::Endpoint if !hostname.is_empty() => self.request.intern(hostname.as_bytes()),
            HostRewrite::Header(name) => {
                let value = self.request.get(name).filter(|value| is_authority(value)).map(<[u8]>::to_vec);
                match value {
                    Some(value) => self.request.intern(&value),
                    None => self.request.authority_span(),
                }
            }
            HostRewrite::Path { .. } | HostRewrite::Text(_) => {
                self.host.unwrap_or_else(|| self.request.authority_span())
            }
            HostRewrite::Keep | HostRewrite::Endpoint => self.request.authority_span(),
        }
    }

    /// The host that the upstream is asked for.
    pub(super) fn upstream_host(
        &mut self,
        forward: &Forward,
        weighted: Option<&WeightedCluster>,
        endpoint: &Endpoint,
    ) -> Span {
        let host = self.rewritten_host(forward, weighted, &endpoint.hostname);
        // HTTP/1.0 may come without any.
        if host.is_empty() {
            return self.request.intern(endpoint.address_text.as_bytes());
        }
        self.note_original_host(host);
        host
    }

    /// Tells the upstream which host the client asked for, if this is another one.
    pub(super) fn note_original_host(&mut self, host: Span) {
        if !self.cx.manager.suppress_envoy_headers && self.request.get_span(host) != self.request.authority()
        {
            let before = self.request.authority().to_vec();
            self.request.set(b"x-envoy-original-host", &before);
        }
    }

    /// Tells the upstream which attempt this is.
    pub(super) fn announce_attempt(&mut self, notes: AttemptNotes, after_timeout: bool) {
        if notes.in_request {
            self.request.set(ATTEMPT_COUNT, &Decimal::new(u64::from(self.record.attempts)));
        }
        if notes.timeout_retry && after_timeout {
            self.request.set(b"x-envoy-is-timeout-retry", b"true");
        }
    }
}

fn host_rewrite<'r>(forward: &'r Forward, weighted: Option<&'r WeightedCluster>) -> &'r HostRewrite {
    match weighted {
        Some(weighted) if !matches!(weighted.host, HostRewrite::Keep) => &weighted.host,
        _ => &forward.host,
    }
}
