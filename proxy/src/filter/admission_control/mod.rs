//! `admission_control`: sends away a share of the requests while too many of them fail, before the upstream has to.
//!
//! Source: Envoy's `envoy.extensions.filters.http.admission_control.v3`, after "Handling Overload" in Google's book on
//! reliability. Unlike there, the window is the process's and not each thread's: it is fuller, so the share is steadier.

mod config;
mod window;

use std::{ops::Range, sync::Arc};

pub(super) use config::KIND;
use tokio::time::Instant;
use window::{Counts, Window};

use super::{Filter, Request, Step};
use crate::{
    http::exchange::{Ended, Ending, Reason, Reply},
    metrics::CounterSet,
    runtime::Flag,
};

const COUNTERS: [&str; 3] = [
    "envoy_http_admission_control_rq_rejected",
    "envoy_http_admission_control_rq_success",
    "envoy_http_admission_control_rq_failure",
];
const REJECTED: usize = 0;
const SUCCESS: usize = 1;
const FAILURE: usize = 2;

/// The filter.
#[derive(Debug)]
struct AdmissionControl {
    enabled: Flag,
    rule: Rule,
    shared: Arc<Shared>,
    stats: Arc<CounterSet>,
}

/// When how many are sent away.
#[derive(Debug, Clone, Copy)]
struct Rule {
    /// The share of successes below which any are, above 0.
    threshold: f64,
    /// At least 1; the larger, the sooner.
    aggression: f64,
    /// Below so many requests per second none are.
    rps: u64,
    /// Never a larger share than this.
    most: f64,
}

/// What requests on their way hold on to.
#[derive(Debug)]
struct Shared {
    window: Window,
    start: Instant,
    success: Success,
    stats: Arc<CounterSet>,
}

/// What went well.
#[derive(Debug)]
struct Success {
    http: Vec<Range<u16>>,
    grpc: Vec<u32>,
}

/// A request that was let through.
struct Admitted {
    shared: Arc<Shared>,
    worker: usize,
}

// === impl AdmissionControl ===

impl Filter for AdmissionControl {
    fn on_request<'r>(&'r self, request: Request<'r>) -> Step<'r> {
        if !self.enabled.of(&request.cx.worker.shared.runtime) || request.record.health_check {
            return Step::Continue;
        }
        let worker = request.cx.worker.index;
        let probability = self.rule.probability(self.shared.window.counts(self.shared.seconds()));
        // Four digits, as Envoy has them.
        if request.cx.worker.random.chance((probability * 10_000.0) as u32 * 100) {
            self.stats.add(worker, REJECTED);
            return Step::Reply(Box::new(Reply::new(503, Reason::AdmissionControl, "")));
        }
        let shared = Arc::clone(&self.shared);
        request.record.endings.push(Box::new(Admitted { shared, worker }));
        Step::Continue
    }
}

// === impl Rule ===

impl Rule {
    /// Envoy's: `((total - successes / threshold) / (total + 1)) ^ (1 / aggression)`.
    fn probability(&self, counts: Counts) -> f64 {
        if counts.per_second() < self.rps {
            return 0.0;
        }
        let (total, successes) = (counts.requests as f64, counts.successes as f64);
        let excess = (total - successes / self.threshold) / (total + 1.0);
        if excess <= 0.0 { 0.0 } else { excess.powf(1.0 / self.aggression).min(self.most) }
    }
}

// === impl Shared ===

impl Shared {
    fn seconds(&self) -> u64 {
        self.start.elapsed().as_secs()
    }
}

// === impl Success ===

impl Success {
    fn is(&self, ended: &Ended<'_>) -> bool {
        match ended.grpc_status() {
            Some(status) => status.is_some_and(|status| self.grpc.contains(&status)),
            None => ended.status != 0 && self.http.iter().any(|range| range.contains(&ended.status)),
        }
    }
}

// === impl Admitted ===

impl Ending for Admitted {
    fn ended(self: Box<Self>, ended: &Ended<'_>) {
        let success = self.shared.success.is(ended);
        self.shared.window.record(self.shared.seconds(), success);
        self.shared.stats.add(self.worker, if success { SUCCESS } else { FAILURE });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(aggression: f64) -> Rule {
        Rule { threshold: 0.95, aggression, rps: 0, most: 0.8 }
    }

    fn counts(requests: u64, successes: u64) -> Counts {
        Counts { requests, successes, age: 1 }
    }

    #[test]
    fn the_share_is_envoys() {
        // Values of the formula in Envoy's documentation.
        for (aggression, requests, successes, expected) in [
            (1.0, 100, 95, 0.0),
            (1.0, 100, 100, 0.0),
            (1.0, 100, 50, 0.4690),
            (2.0, 100, 50, 0.6848),
            (1.0, 100, 0, 0.8),
            (1.0, 1, 0, 0.5),
            (1.0, 0, 0, 0.0),
        ] {
            let share = rule(aggression).probability(counts(requests, successes));
            assert!((share - expected).abs() < 1e-4, "{aggression} {requests} {successes}: {share}");
        }
    }

    #[test]
    fn nobody_is_sent_away_where_requests_are_few() {
        let rule = Rule { rps: 5, ..rule(1.0) };
        assert_eq!(rule.probability(Counts { requests: 9, successes: 0, age: 2 }), 0.0);
        assert!(rule.probability(Counts { requests: 10, successes: 0, age: 2 }) > 0.7);
    }
}
