//! Active health checks. They go the way of the cluster's other connections, TLS and PROXY protocol included: an endpoint
//! is as fit as its handshake. Each endpoint is asked at its own pace, so that thousands are not asked at once.

pub(crate) mod events;
mod grpc;
pub(crate) mod probe;
pub(crate) mod schedule;

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::{io::AsyncWriteExt as _, net::TcpStream, sync::Notify, task::JoinHandle};

use self::{
    events::{EventLog, Failure, Noted},
    probe::{Probe, Verdict},
    schedule::Schedule,
};
use super::{Cluster, endpoint::Endpoint};
use crate::{proxy_protocol, tls::ClientTls};

/// One configured check.
#[derive(Debug, Clone)]
pub(crate) struct HealthCheck {
    pub(crate) timeout: Duration,
    pub(crate) schedule: Schedule,
    /// Failures in a row that make an endpoint unfit.
    pub(crate) unhealthy_threshold: u32,
    /// Successes in a row that make it fit again.
    pub(crate) healthy_threshold: u32,
    pub(crate) probe: Probe,
    pub(crate) log: EventLog,
}

/// Results in a row.
#[derive(Debug, Clone, Copy, Default)]
struct Streak {
    failures: u32,
    successes: u32,
    /// Whether the first result is in; it counts at once, as in Envoy.
    seen: bool,
}

/// How the endpoints of a cluster are reached, apart from the cluster, which must not outlive its configuration.
struct Way {
    cluster: Arc<str>,
    proxy_protocol: Option<proxy_protocol::Version>,
    tls: Option<Arc<ClientTls>>,
}

/// The checks of one endpoint; they end when this is dropped.
struct Watch(JoinHandle<()>);

/// How often the endpoint set is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Checks all endpoints of a cluster again and again, until the cluster is gone.
pub(crate) async fn run(cluster: Weak<Cluster>, check: HealthCheck) {
    let check = Arc::new(check);
    let changed = Arc::new(Notify::new());
    let mut watches: HashMap<u64, Watch> = HashMap::new();
    loop {
        let Some(strong) = cluster.upgrade() else { return };
        let set = strong.endpoints.load_full();
        watches.retain(|_, watch| !watch.0.is_finished());
        let mut present = HashMap::with_capacity(set.hosts.len());
        for host in &set.hosts {
            let endpoint = &host.endpoint;
            let watch = watches.remove(&endpoint.id).unwrap_or_else(|| {
                let way = Way {
                    cluster: Arc::clone(&strong.name),
                    proxy_protocol: strong.proxy_protocol,
                    tls: strong.tls.clone(),
                };
                let watched = watch(Arc::clone(endpoint), Arc::clone(&check), way, Arc::clone(&changed));
                Watch(tokio::spawn(watched))
            });
            present.insert(endpoint.id, watch);
        }
        // Those of endpoints that left end here.
        watches = present;
        let arrivals = Arc::clone(&strong.arrivals);
        drop(strong);
        // However many change at once, the rotation is made once.
        let results = tokio::select! {
            () = changed.notified() => true,
            () = arrivals.notified() => false,
            () = tokio::time::sleep(LOOK.min(check.schedule.interval)) => false,
        };
        if results && let Some(strong) = cluster.upgrade() {
            strong.let_go();
            strong.refresh();
            strong.changed.notify_one();
        }
    }
}

/// Checks one endpoint for ever.
async fn watch(endpoint: Arc<Endpoint>, check: Arc<HealthCheck>, way: Way, changed: Arc<Notify>) {
    let mut streak = Streak::default();
    tokio::time::sleep(check.schedule.initial_jitter.mul_f64(rand::random())).await;
    loop {
        let (verdict, failure) = probe(&endpoint, &check, &way).await;
        let (before, first) = (endpoint.is_failing_checks(), !streak.seen);
        let failing = streak.record(verdict, &check, before);
        check.log.note(&way.cluster, &endpoint, &check.probe, Noted { failure, before, failing, first });
        // Whether it is known at all counts as well.
        if failing != before || endpoint.awaits_first_check() {
            tracing::info!(cluster = %way.cluster, endpoint = %endpoint.address, healthy = !failing, "health check result changed");
            endpoint.set_failing_checks(failing);
            changed.notify_one();
        }
        tokio::time::sleep(check.schedule.pause(failing, before, rand::random())).await;
    }
}

async fn probe(endpoint: &Endpoint, check: &HealthCheck, way: &Way) -> (Verdict, Option<Failure>) {
    let result = tokio::time::timeout(check.timeout, async {
        let mut stream = TcpStream::connect(endpoint.address).await?;
        if let Some(version) = way.proxy_protocol {
            stream.write_all(&proxy_protocol::write::header(version, None)).await?;
        }
        match &way.tls {
            None => check.probe.ask(stream, &way.cluster).await,
            Some(tls) => {
                let stream = tls.connect_aside(stream, endpoint.address, check.probe.spoken()).await?;
                check.probe.ask(stream, &way.cluster).await
            }
        }
    });
    match result.await {
        Ok(Ok(Verdict::Well)) => (Verdict::Well, None),
        Ok(Ok(verdict)) => (verdict, Some(Failure::Active)),
        Ok(Err(_)) => (Verdict::Failed, Some(Failure::Network)),
        Err(_) => (Verdict::Failed, Some(Failure::NetworkTimeout)),
    }
}

// === impl Watch ===

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

// === impl Streak ===

impl Streak {
    /// Adds a result; whether the endpoint is now failing.
    fn record(&mut self, verdict: Verdict, check: &HealthCheck, failing: bool) -> bool {
        let first = !std::mem::replace(&mut self.seen, true);
        if verdict == Verdict::Well {
            self.failures = 0;
            self.successes = self.successes.saturating_add(1);
            failing && !first && self.successes < check.healthy_threshold
        } else {
            self.successes = 0;
            self.failures = self.failures.saturating_add(1);
            let enough = self.failures >= check.unhealthy_threshold || verdict == Verdict::Unwell;
            failing || first || enough
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_result_counts_at_once_and_later_ones_by_threshold() {
        let check = HealthCheck {
            timeout: Duration::from_secs(1),
            schedule: Schedule {
                interval: Duration::from_secs(1),
                unhealthy: Duration::from_secs(1),
                unhealthy_edge: Duration::from_secs(1),
                healthy_edge: Duration::from_secs(1),
                initial_jitter: Duration::ZERO,
                jitter: Duration::ZERO,
                jitter_percent: 0,
            },
            unhealthy_threshold: 2,
            healthy_threshold: 2,
            probe: Probe::Tcp { send: Vec::new(), receive: Vec::new() },
            log: EventLog::default(),
        };
        let mut streak = Streak::default();
        assert!(streak.record(Verdict::Failed, &check, false));
        assert!(streak.record(Verdict::Well, &check, true));
        assert!(!streak.record(Verdict::Well, &check, true));
        assert!(!streak.record(Verdict::Failed, &check, false));
        assert!(streak.record(Verdict::Failed, &check, false));
        // What the endpoint says of itself is believed at once.
        let mut streak = Streak { seen: true, ..Streak::default() };
        assert!(streak.record(Verdict::Unwell, &check, false));
    }
}
