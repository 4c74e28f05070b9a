//! Following an upstream's redirect: the request goes back to where routes are chosen.

use std::sync::Arc;

use super::{Exchange, attempt::Try};
use crate::{
    http::head::{Known, Method},
    metrics::{Counter, HttpCells},
    route::internal_redirect::{Location, RedirectPolicy, Way},
};

/// What is remembered of the redirects that a request was led by.
#[derive(Debug, Default)]
pub(super) struct Followed {
    count: u32,
    /// From which route to which.
    steps: Vec<(Arc<str>, Arc<str>)>,
    /// Whether the last one led to TLS; before the first one the client decides.
    https: Option<bool>,
    /// What the request is about to do.
    next: Option<Next>,
}

/// How a request goes on that was led elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    AsItIs,
    /// As in a browser, a 303 is followed by a GET.
    WithoutBody,
}

/// Why a redirect is the client's to follow: the counter for that.
type Why = fn(&HttpCells) -> &Counter;

// === impl Exchange ===

impl Exchange<'_> {
    /// Whether the response head in `self.response` leads the request elsewhere, which is prepared then.
    pub(super) fn follow_redirect(&mut self, attempt: &Try<'_>) -> bool {
        let Some(policy) = &attempt.forward.internal_redirect else { return false };
        if !policy.is_for(self.response.status) || self.upgrade.is_some() {
            return false;
        }
        let worker = self.cx.worker.index;
        let cells = attempt.cluster.stats.at(worker);
        // Only what is all there can be sent again.
        let failed = match (attempt.replayable, self.response.get(b"location")) {
            (true, Some(location)) => {
                let location = location.to_vec();
                self.go(policy, attempt, &location).err()
            }
            _ => Some(None),
        };
        match failed {
            None => {
                cells.rq_redirect_succeeded.add(1);
                true
            }
            Some(why) => {
                cells.rq_redirect_failed.add(1);
                if let Some(why) = why {
                    why(self.cx.manager.stats.at(worker)).add(1);
                }
                false
            }
        }
    }

    fn go(&mut self, policy: &RedirectPolicy, attempt: &Try<'_>, location: &[u8]) -> Result<(), Option<Why>> {
        let bad: Option<Why> = Some(|cells| &cells.redirect_bad_location);
        let to = Location::parse(location).ok_or(bad)?;
        let target = match self.cx.manager.path_rules.apply(&to.target) {
            Ok(normal) => normal.unwrap_or(to.target),
            Err(_) => return Err(bad),
        };
        let (count, known) =
            self.followed.as_ref().map_or((0, None), |followed| (followed.count, followed.https));
        let from_https =
            known.unwrap_or_else(|| self.request.known(Known::XForwardedProto) == Some(b"https"));
        if !policy.cross_scheme && from_https != to.https {
            return Err(Some(|cells| &cells.redirect_unsafe_scheme));
        }
        if count >= policy.most {
            return Err(Some(|cells| &cells.redirect_too_many));
        }
        let scheme: &[u8] = if from_https { b"https://" } else { b"http://" };
        let original = [scheme, self.request.get_span(attempt.host), self.request.target()].concat();
        let before = self.request.remember();
        for name in &policy.copy {
            self.request.remove(name);
            for value in self.response.get_all(name) {
                self.request.append(name, value);
            }
        }
        let authority = self.request.intern(&to.authority);
        self.request.set_authority(authority);
        let target = self.request.intern(&target);
        self.request.set_target(target);
        let weighted = self.weighted;
        self.find_route();
        let from = &attempt.route.name;
        let refused: Option<Why> = match &self.record.route {
            None => Some(|cells| &cells.redirect_no_route),
            Some(route) => {
                let steps = self.followed.as_ref().map_or(&[][..], |followed| &followed.steps);
                let again = steps.iter().any(|step| step.0 == *from && step.1 == route.name);
                let way = Way { to: &route.name, from_https, to_https: to.https, again };
                if policy.accepts(&way) { None } else { Some(|cells| &cells.redirect_predicate) }
            }
        };
        if refused.is_some() {
            self.request.restore(before);
            self.record.route = Some(Arc::clone(attempt.shared_route));
            self.weighted = weighted;
            return Err(refused);
        }
        let mut next = Next::AsItIs;
        if self.response.status == 303 && !matches!(self.method, Method::Get | Method::Head) {
            let text = self.request.intern(b"GET");
            self.request.set_method(Method::Get, text);
            self.request.remove_known(Known::ContentLength);
            self.method = Method::Get;
            next = Next::WithoutBody;
        }
        self.request.set(b"x-envoy-original-url", &original);
        let to_name = self.record.route.as_ref().map(|route| Arc::clone(&route.name)).unwrap_or_default();
        let followed = self.followed.get_or_insert_default();
        followed.count += 1;
        followed.steps.push((Arc::clone(from), to_name));
        followed.https = Some(to.https);
        followed.next = Some(next);
        Ok(())
    }

    /// How the request goes on, if it was led elsewhere.
    pub(super) fn take_redirect(&mut self) -> Option<Next> {
        let next = self.followed.as_mut()?.next.take()?;
        // The next answer is one of its own.
        self.record.attempts = 0;
        self.record.upstream = None;
        self.record.cluster = None;
        self.seen = None;
        self.host = None;
        Some(next)
    }
}
