//! A proxy's admin endpoint.

use std::{net::SocketAddr, time::Duration};

use tokio::time::{Instant, sleep, timeout};

use crate::http_client::{HttpError, call};

/// Asks one proxy.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Admin {
    address: SocketAddr,
}

/// Bound of one question; a proxy that is alive answers in a millisecond.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often a proxy that starts is asked whether it is ready.
const READY_POLL: Duration = Duration::from_millis(10);
/// How often a proxy that drains is asked what it still has.
const DRAIN_POLL: Duration = Duration::from_millis(50);

// === impl Admin ===

impl Admin {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self { address }
    }

    /// Whether the proxy has its configuration and serves.
    pub(crate) async fn is_ready(&self) -> bool {
        matches!(timeout(PATIENCE, call(self.address, "GET", "/ready")).await, Ok(Ok((200, _))))
    }

    /// Waits until the proxy serves; `false` if it does not within `bound`.
    pub(crate) async fn until_ready(&self, bound: Duration) -> bool {
        let deadline = Instant::now() + bound;
        while !self.is_ready().await {
            if Instant::now() >= deadline {
                return false;
            }
            sleep(READY_POLL).await;
        }
        true
    }

    /// Asks the proxy to send its clients elsewhere: its inbound answers carry `Connection: close`.
    pub(crate) async fn drain(&self) -> Result<(), HttpError> {
        call(self.address, "POST", "/drain_listeners?graceful&inboundonly").await.map(drop)
    }

    /// Waits until no inbound request is in progress; `false` if some still is after `bound`.
    pub(crate) async fn until_idle(&self, bound: Duration) -> bool {
        let deadline = Instant::now() + bound;
        // Twice in a row: between two requests of one client there is a moment without any.
        let mut idle = 0;
        loop {
            idle = match timeout(PATIENCE, call(self.address, "GET", "/stats/prometheus")).await {
                Ok(Ok((200, text))) if active_inbound(&text) == 0.0 => idle + 1,
                Ok(Ok((200, _))) => 0,
                // A proxy that does not answer has nothing in progress that could be waited for.
                _ => return true,
            };
            if idle >= 2 {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            sleep(DRAIN_POLL).await;
        }
    }
}

/// Requests in progress on inbound listeners, summed from the metrics.
fn active_inbound(metrics: &str) -> f64 {
    metrics
        .lines()
        .filter_map(|line| line.strip_prefix("envoy_http_downstream_rq_active{")?.rsplit_once("} "))
        .filter(|(labels, _)| labels.contains("=\"inbound"))
        .filter_map(|(_, value)| value.trim().parse::<f64>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_inbound_requests_hold_up_a_drain() {
        let metrics = "# TYPE envoy_http_downstream_rq_active gauge\n\
            envoy_http_downstream_rq_active{envoy_http_conn_manager_prefix=\"inbound:8080\"} 2\n\
            envoy_http_downstream_rq_active{envoy_http_conn_manager_prefix=\"inbound:8081\"} 1\n\
            envoy_http_downstream_rq_active{envoy_http_conn_manager_prefix=\"web.default:80\"} 7\n\
            envoy_http_downstream_rq_total{envoy_http_conn_manager_prefix=\"inbound:8080\"} 9\n";
        assert_eq!(active_inbound(metrics), 3.0);
        assert_eq!(active_inbound(""), 0.0);
        assert_eq!(active_inbound("envoy_http_downstream_rq_active{a=\"inbound\"} x\n"), 0.0);
    }
}
