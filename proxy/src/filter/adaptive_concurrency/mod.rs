//! `adaptive_concurrency`: lets as many requests through at once as the upstream answers without making them wait.
//!
//! Source: Envoy's `envoy.extensions.filters.http.adaptive_concurrency.v3`. All data threads share one controller.

mod config;
mod gradient;
mod samples;

use std::sync::Arc;

pub(super) use config::KIND;
use gradient::{Change, Controller};
use tokio::time::Instant;

use super::{Filter, Request, Step};
use crate::{
    http::exchange::{Ended, Ending, Reason, Reply},
    metrics::{CounterSet, GaugeSet},
    runtime::Flag,
};

const COUNTERS: [&str; 1] = ["envoy_http_adaptive_concurrency_gradient_controller_rq_blocked"];
const BLOCKED: usize = 0;

const GAUGES: [&str; 6] = [
    "envoy_http_adaptive_concurrency_gradient_controller_concurrency_limit",
    "envoy_http_adaptive_concurrency_gradient_controller_min_rtt_calculation_active",
    "envoy_http_adaptive_concurrency_gradient_controller_min_rtt_msecs",
    "envoy_http_adaptive_concurrency_gradient_controller_sample_rtt_msecs",
    "envoy_http_adaptive_concurrency_gradient_controller_gradient",
    "envoy_http_adaptive_concurrency_gradient_controller_burst_queue_size",
];
const LIMIT: usize = 0;
const MEASURING: usize = 1;
const MIN_RTT: usize = 2;
const SAMPLE_RTT: usize = 3;
const GRADIENT: usize = 4;
const BURST: usize = 5;

/// The filter.
#[derive(Debug)]
struct AdaptiveConcurrency {
    enabled: Flag,
    status: u16,
    shared: Arc<Shared>,
    stats: Arc<CounterSet>,
}

/// What requests on their way hold on to.
#[derive(Debug)]
struct Shared {
    controller: Controller,
    start: Instant,
    gauges: Arc<GaugeSet>,
}

/// A request that was let through. Its place is given back however it ends.
struct Admitted {
    shared: Arc<Shared>,
    /// In microseconds since the start.
    started: u64,
}

// === impl AdaptiveConcurrency ===

impl Filter for AdaptiveConcurrency {
    fn on_request<'r>(&'r self, request: Request<'r>) -> Step<'r> {
        if !self.enabled.of(&request.cx.worker.shared.runtime) || request.record.health_check {
            return Step::Continue;
        }
        let now = self.shared.now();
        self.shared.publish(self.shared.controller.tick(now));
        if !self.shared.controller.enter() {
            self.stats.add(request.cx.worker.index, BLOCKED);
            let reply = Reply::new(self.status, Reason::ConcurrencyLimit, "reached concurrency limit");
            return Step::Reply(Box::new(reply));
        }
        let admitted = Admitted { shared: Arc::clone(&self.shared), started: now };
        request.record.endings.push(Box::new(admitted));
        Step::Continue
    }
}

// === impl Shared ===

impl Shared {
    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn publish(&self, change: Option<Change>) {
        let Some(change) = change else { return };
        self.gauges.set(LIMIT, f64::from(change.limit));
        self.gauges.set(MEASURING, f64::from(u8::from(change.measuring)));
        let millis = |micros: u64| (micros / 1000) as f64;
        for (gauge, value) in [
            (MIN_RTT, change.min_rtt_micros.map(millis)),
            (SAMPLE_RTT, change.sample_rtt_micros.map(millis)),
            (GRADIENT, change.gradient),
            (BURST, change.burst.map(f64::trunc)),
        ] {
            if let Some(value) = value {
                self.gauges.set(gauge, value);
            }
        }
    }
}

// === impl Admitted ===

impl Ending for Admitted {
    fn ended(self: Box<Self>, ended: &Ended<'_>) {
        if ended.complete {
            let change = self.shared.controller.leave(self.started, self.shared.now(), rand::random);
            self.shared.publish(change);
        } else {
            self.shared.controller.cancel();
        }
    }
}
