//! `fault`: delays and failures on purpose, to see what callers make of them.
//!
//! Source: Envoy's `envoy.extensions.filters.http.fault.v3`. A delay comes before an abort; both can be for a share of the
//! requests, or be asked for by the client's fields `x-envoy-fault-…` where the configuration allows it.

mod config;

use std::{str::FromStr, sync::Arc, time::Duration};

pub(super) use config::KIND;

use super::{Filter, Request, Step};
use crate::{
    http::{
        exchange::{Reason, Reply},
        head::Head,
    },
    metrics::CounterSet,
    route::matcher::HeaderMatch,
    runtime::Share,
    worker::Worker,
};

const COUNTERS: [&str; 2] = ["envoy_http_fault_delays_injected", "envoy_http_fault_aborts_injected"];
const DELAYS: usize = 0;
const ABORTS: usize = 1;

/// The filter.
#[derive(Debug)]
struct Fault {
    base: Arc<Faults>,
    stats: Arc<CounterSet>,
}

/// Which faults befall which requests.
#[derive(Debug)]
struct Faults {
    delay: Option<Delay>,
    abort: Option<Abort>,
    /// All must hold.
    headers: Vec<HeaderMatch>,
    /// The values of `x-envoy-downstream-service-node` that are meant; all if there is none.
    nodes: Vec<String>,
}

#[derive(Debug)]
struct Delay {
    /// `None`: as the client's field says.
    fixed: Option<Duration>,
    share: Share,
}

#[derive(Debug)]
struct Abort {
    status: AbortStatus,
    share: Share,
    body: Option<Vec<u8>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AbortStatus {
    Http(u16),
    Grpc(u8),
    /// As the client's fields say.
    Asked,
}

// === impl Fault ===

impl Filter for Fault {
    fn on_request<'r>(&'r self, request: Request<'r>) -> Step<'r> {
        let faults = request.own.most_specific::<Faults>().unwrap_or(&*self.base);
        if !faults.are_for(request.head) {
            return Step::Continue;
        }
        let worker = &request.cx.worker;
        let delay = faults.delay.as_ref().and_then(|delay| delay.of(request.head, worker));
        let abort = faults.abort.as_ref().and_then(|abort| abort.of(request.head, worker));
        let worker = worker.index;
        let finish = move || match abort {
            None => Ok(()),
            Some(reply) => {
                self.stats.add(worker, ABORTS);
                Err(reply)
            }
        };
        match delay {
            None => finish().map_or_else(Step::Reply, |()| Step::Continue),
            Some(delay) => {
                self.stats.add(worker, DELAYS);
                request.record.delayed = true;
                Step::Wait(Box::pin(async move {
                    tokio::time::sleep(delay).await;
                    finish()
                }))
            }
        }
    }
}

// === impl Faults ===

impl Faults {
    fn are_for(&self, head: &Head) -> bool {
        let node = || head.get(b"x-envoy-downstream-service-node");
        self.headers.iter().all(|matcher| matcher.matches(head))
            && (self.nodes.is_empty() || self.nodes.iter().any(|wanted| node() == Some(wanted.as_bytes())))
    }
}

impl Delay {
    fn of(&self, head: &Head, worker: &Worker) -> Option<Duration> {
        let share = self.share.of(&worker.shared.runtime);
        let Some(fixed) = self.fixed else {
            let millis = number(head, b"x-envoy-fault-delay-request")?;
            let share = asked_share(head, b"x-envoy-fault-delay-request-percentage", share);
            return worker.random.chance(share).then(|| Duration::from_millis(millis));
        };
        worker.random.chance(share).then_some(fixed)
    }
}

impl Abort {
    fn of(&self, head: &Head, worker: &Worker) -> Option<Box<Reply>> {
        let share = self.share.of(&worker.shared.runtime);
        let (status, share) = match self.status {
            AbortStatus::Asked => {
                (asked_status(head)?, asked_share(head, b"x-envoy-fault-abort-request-percentage", share))
            }
            status => (status, share),
        };
        if !worker.random.chance(share) {
            return None;
        }
        let (status, grpc) = match status {
            AbortStatus::Http(status) => (status, None),
            AbortStatus::Grpc(status) => (200, Some(status)),
            AbortStatus::Asked => return None,
        };
        let mut reply = Reply::new(status, Reason::FaultAbort, "fault filter abort");
        if let Some(body) = &self.body {
            reply.body = body.clone().into();
        }
        reply.grpc_status = grpc;
        Some(Box::new(reply))
    }
}

/// What the client asks to be answered.
fn asked_status(head: &Head) -> Option<AbortStatus> {
    let http =
        number::<u16>(head, b"x-envoy-fault-abort-request").filter(|status| (200..600).contains(status));
    http.map(AbortStatus::Http)
        .or_else(|| number(head, b"x-envoy-fault-abort-grpc-request").map(AbortStatus::Grpc))
}

/// The share that the client asks for, which can only be less than the configured one. It is in the configuration's
/// denominator for Envoy, which is a hundred unless told otherwise; here it always is.
fn asked_share(head: &Head, name: &[u8], configured: u32) -> u32 {
    number::<u32>(head, name).map_or(configured, |percent| percent.saturating_mul(10_000).min(configured))
}

fn number<T: FromStr>(head: &Head, name: &[u8]) -> Option<T> {
    std::str::from_utf8(head.get(name)?).ok()?.parse().ok()
}
