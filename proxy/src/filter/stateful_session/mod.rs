//! `stateful_session`: a client comes back to the endpoint that served it first, whatever the balancer would choose.
//!
//! Source: Envoy's `envoy.extensions.filters.http.stateful_session.v3`. Where the endpoint is, is kept by the client, in a
//! cookie or a field; nothing is remembered here, so that any proxy leads it back.

mod config;
mod state;

use std::{net::SocketAddr, sync::Arc};

pub(super) use config::KIND;
use state::State;

use super::{Filter, Request, Response, Step};
use crate::{http::exchange::Reason, metrics::CounterSet};

const COUNTERS: [&str; 4] = [
    "envoy_http_stateful_session_routed",
    "envoy_http_stateful_session_failed_open",
    "envoy_http_stateful_session_failed_closed",
    "envoy_http_stateful_session_no_session",
];
const ROUTED: usize = 0;
const FAILED_OPEN: usize = 1;
const FAILED_CLOSED: usize = 2;
const NO_SESSION: usize = 3;

/// The filter.
#[derive(Debug)]
struct StatefulSession {
    base: Arc<Settings>,
    /// Only where a prefix is configured.
    stats: Option<Arc<CounterSet>>,
}

/// What one level says.
#[derive(Debug)]
struct Settings {
    /// `None` keeps no sessions.
    state: Option<State>,
    /// Nobody but the endpoint of the session will do.
    strict: bool,
    /// The answer when it is not there.
    status: u16,
}

/// What a request has of a session; part of its record, which the choice of the endpoint looks at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Session {
    /// Where the client wants to go back to; `None` if it was nowhere yet.
    pub(crate) wanted: Option<SocketAddr>,
    pub(crate) strict: bool,
    /// The answer when that endpoint is not there and another one will not do.
    pub(crate) status: u16,
}

// === impl StatefulSession ===

impl Filter for StatefulSession {
    fn on_request<'r>(&'r self, request: Request<'r>) -> Step<'r> {
        let settings = request.own.most_specific::<Settings>().unwrap_or(&*self.base);
        let found = settings.state.as_ref().filter(|state| state.is_for(request.head));
        request.record.session = found.map(|state| {
            let wanted = state.wanted(request.head);
            Box::new(Session { wanted, strict: settings.strict, status: settings.status })
        });
        Step::Continue
    }

    fn on_response(&self, response: Response<'_>) {
        if !response.saw_request {
            return;
        }
        let settings = response.own.most_specific::<Settings>().unwrap_or(&*self.base);
        let record = response.record;
        let count = |what| {
            if let Some(stats) = &self.stats {
                stats.add(response.cx.worker.index, what);
            }
        };
        let (Some(session), Some(state)) = (&record.session, &settings.state) else {
            if record.upstream.is_some() {
                count(NO_SESSION);
            }
            return;
        };
        match &record.upstream {
            Some(upstream) if session.wanted == Some(upstream.address) => count(ROUTED),
            Some(upstream) => {
                state.set(response.head, upstream.address);
                if !session.strict {
                    count(FAILED_OPEN);
                }
            }
            None if session.strict && record.reason == Reason::NoHealthyUpstream => count(FAILED_CLOSED),
            None => {}
        }
    }
}
