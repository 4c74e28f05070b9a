//! Active health checks.

use std::{
    collections::HashMap,
    io,
    ops::Range,
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
};

use super::{Cluster, endpoint::Endpoint};
use crate::http::h1::parse;

/// One configured check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HealthCheck {
    pub(crate) timeout: Duration,
    pub(crate) interval: Duration,
    /// Failures in a row that make an endpoint unfit.
    pub(crate) unhealthy_threshold: u32,
    /// Successes in a row that make it fit again.
    pub(crate) healthy_threshold: u32,
    pub(crate) probe: Probe,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Probe {
    Http {
        method: &'static str,
        path: String,
        /// Empty for the cluster's name.
        host: String,
        /// Empty for 200 only.
        statuses: Vec<Range<u16>>,
    },
    Tcp {
        send: Vec<u8>,
        /// To be found in the answer, in this order.
        receive: Vec<Vec<u8>>,
    },
}

/// Results in a row.
#[derive(Debug, Clone, Copy, Default)]
struct Streak {
    failures: u32,
    successes: u32,
    /// Whether the first result is in; it counts at once, as in Envoy.
    seen: bool,
}

/// Largest answer that is looked at.
const MAX_ANSWER: usize = 16 * 1024;

/// Checks all endpoints of a cluster again and again, until the cluster is gone.
pub(crate) async fn run(cluster: Weak<Cluster>, check: HealthCheck) {
    let mut streaks: HashMap<u64, Streak> = HashMap::new();
    let mut interval = tokio::time::interval(check.interval);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        let Some(strong) = cluster.upgrade() else { return };
        let set = strong.endpoints.load_full();
        streaks.retain(|id, _| set.hosts.iter().any(|host| host.endpoint.id == *id));
        let mut probes = JoinSet::new();
        for host in &set.hosts {
            let (endpoint, check, name) =
                (Arc::clone(&host.endpoint), check.clone(), Arc::clone(&strong.name));
            probes.spawn(async move {
                let passed = probe(&endpoint, &check, &name).await;
                (endpoint, passed)
            });
        }
        drop(strong);
        while let Some(result) = probes.join_next().await {
            let Ok((endpoint, passed)) = result else { continue };
            let failing =
                streaks.entry(endpoint.id).or_default().record(passed, &check, endpoint.is_failing_checks());
            if failing != endpoint.is_failing_checks() {
                tracing::info!(endpoint = %endpoint.address, healthy = !failing, "health check result changed");
                endpoint.set_failing_checks(failing);
            }
        }
    }
}

async fn probe(endpoint: &Endpoint, check: &HealthCheck, cluster: &str) -> bool {
    let result = tokio::time::timeout(check.timeout, async {
        let mut stream = TcpStream::connect(endpoint.address).await?;
        match &check.probe {
            Probe::Http { method, path, host, statuses } => {
                let host = if host.is_empty() { cluster } else { host };
                let request = format!(
                    "{method} {path} HTTP/1.1\r\nhost: {host}\r\nuser-agent: weft/hc\r\nconnection: close\r\n\r\n"
                );
                stream.write_all(request.as_bytes()).await?;
                let status = read_status(&mut stream).await?;
                let expected = if statuses.is_empty() {
                    status == 200
                } else {
                    statuses.iter().any(|range| range.contains(&status))
                };
                Ok::<_, io::Error>(expected)
            }
            Probe::Tcp { send, receive } => {
                stream.write_all(send).await?;
                expect(&mut stream, receive).await
            }
        }
    });
    matches!(result.await, Ok(Ok(true)))
}

async fn read_status(stream: &mut TcpStream) -> io::Result<u16> {
    let mut answer = Vec::new();
    let mut scan = crate::http::h1::scan::HeadScan::default();
    loop {
        let end = scan.find(&answer).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        if let Some(end) = end {
            let mut head = crate::http::head::Head::default();
            return parse::response(&answer[..end], &mut head, parse::MAX_FIELDS)
                .map(|()| head.status)
                .map_err(|_| io::ErrorKind::InvalidData.into());
        }
        read_more(stream, &mut answer).await?;
    }
}

async fn expect(stream: &mut TcpStream, receive: &[Vec<u8>]) -> io::Result<bool> {
    let mut answer = Vec::new();
    loop {
        let mut rest: &[u8] = &answer;
        let found = receive.iter().all(|wanted| match memchr::memmem::find(rest, wanted) {
            Some(at) => {
                rest = &rest[at + wanted.len()..];
                true
            }
            None => false,
        });
        if found {
            return Ok(true);
        }
        read_more(stream, &mut answer).await?;
    }
}

async fn read_more(stream: &mut TcpStream, answer: &mut Vec<u8>) -> io::Result<()> {
    if answer.len() >= MAX_ANSWER || stream.read_buf(answer).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(())
}

// === impl Streak ===

impl Streak {
    /// Adds a result; whether the endpoint is now failing.
    fn record(&mut self, passed: bool, check: &HealthCheck, failing: bool) -> bool {
        let first = !std::mem::replace(&mut self.seen, true);
        if passed {
            self.failures = 0;
            self.successes = self.successes.saturating_add(1);
            failing && !first && self.successes < check.healthy_threshold
        } else {
            self.successes = 0;
            self.failures = self.failures.saturating_add(1);
            failing || first || self.failures >= check.unhealthy_threshold
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
            interval: Duration::from_secs(1),
            unhealthy_threshold: 2,
            healthy_threshold: 2,
            probe: Probe::Tcp { send: Vec::new(), receive: Vec::new() },
        };
        let mut streak = Streak::default();
        assert!(streak.record(false, &check, false));
        assert!(streak.record(true, &check, true));
        assert!(!streak.record(true, &check, true));
        assert!(!streak.record(false, &check, false));
        assert!(streak.record(false, &check, false));
    }
}
