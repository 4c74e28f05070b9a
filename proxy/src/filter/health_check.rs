//! `health_check`: answers those who ask whether this proxy is well.
//!
//! Source: Envoy's `envoy.extensions.filters.http.health_check.v3`. It fails while the operator says so
//! (`/healthcheck/fail`), and then tells every other client too, so that their checks notice at once.

use std::sync::{Arc, atomic::Ordering};

use weft_xds::{any, pb::envoy::extensions::filters::http::health_check::v3::HealthCheck as Proto};

use super::{Filter, Kind, Request, Response, Step};
use crate::{
    config::{ConfigError, Path, matcher, unsupported, value},
    http::{
        exchange::{Context, Reason, Reply},
        head::Head,
    },
    metrics::CounterSet,
    route::matcher::HeaderMatch,
};

pub(super) const KIND: Kind = Kind {
    message: "envoy.extensions.filters.http.health_check.v3.HealthCheck",
    compile: |path, config, inputs| {
        let message = value::unpacked(path, any::unpack::<Proto>(config))?;
        Ok(Box::new(compile(path, &message, inputs.counters(&COUNTERS))?))
    },
    of_route: None,
};

const COUNTERS: [&str; 3] =
    ["envoy_http_health_check_request_total", "envoy_http_health_check_ok", "envoy_http_health_check_failed"];
const TOTAL: usize = 0;
const OK: usize = 1;
const FAILED: usize = 2;

/// The filter.
#[derive(Debug)]
struct HealthCheck {
    /// Whether checks go on to the upstream as long as we are well.
    pass_through: bool,
    /// What makes a request a check; all must hold.
    matchers: Vec<HeaderMatch>,
    stats: Arc<CounterSet>,
}

// === impl HealthCheck ===

impl Filter for HealthCheck {
    fn on_request<'r>(&'r self, request: Request<'r>) -> Step<'r> {
        if !self.is_check(request.head) {
            return Step::Continue;
        }
        request.record.health_check = true;
        let failing = is_failing(request.cx);
        if self.pass_through && !failing {
            return Step::Continue;
        }
        let worker = request.cx.worker.index;
        self.stats.add(worker, TOTAL);
        self.stats.add(worker, if failing { FAILED } else { OK });
        Step::Reply(Box::new(if failing {
            Reply::new(503, Reason::HealthCheckFailed, "")
        } else {
            Reply::new(200, Reason::HealthCheckOk, "")
        }))
    }

    fn on_response(&self, response: Response<'_>) {
        if is_failing(response.cx) {
            response.head.set(b"x-envoy-immediate-health-check-fail", b"true");
            *response.close = true;
        }
    }
}

impl HealthCheck {
    fn is_check(&self, head: &Head) -> bool {
        self.matchers.iter().all(|matcher| matcher.matches(head))
    }
}

fn is_failing(cx: &Context) -> bool {
    cx.worker.shared.failing.load(Ordering::Relaxed)
}

// === from the configuration ===

fn compile(path: &Path, message: &Proto, stats: Arc<CounterSet>) -> Result<HealthCheck, ConfigError> {
    unsupported!(path, message; cache_time, cluster_min_healthy_percentages);
    let pass_through = message.pass_through_mode.ok_or_else(|| path.field("pass_through_mode").missing())?;
    let matchers = message.headers.iter().enumerate();
    Ok(HealthCheck {
        pass_through: pass_through.value,
        matchers: matchers
            .map(|(index, header)| matcher::header(&path.item("headers", index), header))
            .collect::<Result<_, _>>()?,
        stats,
    })
}
