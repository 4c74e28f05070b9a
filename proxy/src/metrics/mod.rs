//! Counters of the data plane.
//!
//! Each worker writes cells of its own; a scrape sums them. So counting is a load and a store to a cache line that no
//! other core writes, and no number of metrics slows a request down by contention.
//!
//! Names and labels are Envoy's, so that dashboards made for it work. Cardinality is bounded by the configuration:
//! the only label values are names of clusters, listeners and stat prefixes, and the variants of [`Reason`].

mod cell;
mod connections;
mod gauges;
mod histogram;
mod named;
mod propagation;
pub(crate) mod registry;
mod text;

pub(crate) use cell::{Counter, PerWorker};
pub(crate) use gauges::GaugeSet;
pub(crate) use histogram::Histogram;
pub(crate) use named::{CounterSet, NamedCounters};
pub(crate) use propagation::Propagation;
pub(crate) use registry::Registry;
pub(crate) use text::{ServerNumbers, collect, encode};

use crate::proxy_protocol::Version;

use crate::http::exchange::Reason;

/// What one worker counts for one cluster.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(crate) struct ClusterCells {
    pub(crate) rq_total: Counter,
    pub(crate) rq_completed: Counter,
    pub(crate) rq_class: [Counter; 5],
    pub(crate) rq_time: Histogram,
    pub(crate) rq_retry: Counter,
    pub(crate) rq_retry_success: Counter,
    pub(crate) rq_retry_overflow: Counter,
    pub(crate) rq_retry_limit_exceeded: Counter,
    pub(crate) rq_retry_backoff_exponential: Counter,
    pub(crate) rq_retry_backoff_ratelimited: Counter,
    pub(crate) rq_redirect_succeeded: Counter,
    pub(crate) rq_redirect_failed: Counter,
    /// Copies for mirrors that there was no room for.
    pub(crate) rq_mirror_dropped: Counter,
    pub(crate) rq_timeout: Counter,
    pub(crate) rq_per_try_timeout: Counter,
    pub(crate) rq_per_try_idle_timeout: Counter,
    pub(crate) rq_cancelled: Counter,
    pub(crate) rq_rx_reset: Counter,
    pub(crate) rq_pending_overflow: Counter,
    pub(crate) cx_total: Counter,
    pub(crate) cx_destroy: Counter,
    pub(crate) cx_connect_fail: Counter,
    pub(crate) cx_connect_timeout: Counter,
    pub(crate) cx_connect_attempts_exceeded: Counter,
    pub(crate) cx_overflow: Counter,
    pub(crate) cx_none_healthy: Counter,
    pub(crate) cx_rx_bytes: Counter,
    pub(crate) cx_tx_bytes: Counter,
    pub(crate) cx_http1_total: Counter,
    pub(crate) cx_http2_total: Counter,
    pub(crate) cx_protocol_error: Counter,
    /// Picks while the health of the endpoints was not believed.
    pub(crate) lb_healthy_panic: Counter,
    pub(crate) lb_zone_routing_all_directly: Counter,
    pub(crate) lb_zone_routing_sampled: Counter,
    pub(crate) lb_zone_routing_cross_zone: Counter,
    pub(crate) lb_zone_no_capacity_left: Counter,
    pub(crate) lb_subsets_selected: Counter,
    pub(crate) lb_subsets_fallback: Counter,
    pub(crate) lb_subsets_fallback_panic: Counter,
    pub(crate) ssl: TlsCells,
    pub(crate) ratelimit: RateLimitCells,
}

/// What one worker counts of a rate limit service's answers to requests for a cluster.
#[derive(Debug, Default)]
pub(crate) struct RateLimitCells {
    pub(crate) ok: Counter,
    pub(crate) over_limit: Counter,
    pub(crate) error: Counter,
    pub(crate) failure_mode_allowed: Counter,
}

/// What one worker counts of TLS handshakes, on one side of a listener or cluster.
#[derive(Debug, Default)]
pub(crate) struct TlsCells {
    pub(crate) handshake: Counter,
    /// Failed for another reason than the peer's certificate.
    pub(crate) connection_error: Counter,
    pub(crate) session_reused: Counter,
    /// Succeeded without a certificate of the peer.
    pub(crate) no_certificate: Counter,
    pub(crate) fail_verify_no_cert: Counter,
    pub(crate) fail_verify_error: Counter,
    pub(crate) fail_verify_san: Counter,
    pub(crate) fail_verify_cert_hash: Counter,
}

/// What one worker counts for one HTTP connection manager.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(crate) struct HttpCells {
    pub(crate) rq_total: Counter,
    pub(crate) rq_completed: Counter,
    pub(crate) rq_class: [Counter; 5],
    pub(crate) rq_http1_total: Counter,
    pub(crate) rq_http2_total: Counter,
    pub(crate) rq_time: Histogram,
    pub(crate) rq_timeout: Counter,
    pub(crate) rq_max_duration_reached: Counter,
    pub(crate) cx_total: Counter,
    pub(crate) cx_destroy: Counter,
    pub(crate) cx_http1_total: Counter,
    pub(crate) cx_http2_total: Counter,
    pub(crate) cx_protocol_error: Counter,
    pub(crate) cx_idle_timeout: Counter,
    pub(crate) cx_upgrades_total: Counter,
    pub(crate) cx_overload_disable_keepalive: Counter,
    pub(crate) rq_overload_close: Counter,
    pub(crate) cx_rx_bytes: Counter,
    pub(crate) cx_tx_bytes: Counter,
    pub(crate) no_route: Counter,
    pub(crate) no_cluster: Counter,
    pub(crate) redirect_bad_location: Counter,
    pub(crate) redirect_unsafe_scheme: Counter,
    pub(crate) redirect_too_many: Counter,
    pub(crate) redirect_no_route: Counter,
    pub(crate) redirect_predicate: Counter,
    /// By [`Reason`]: responses that are our own doing, and exchanges without one.
    pub(crate) rq_error: ByReason,
}

/// One counter for each [`Reason`].
#[derive(Debug)]
pub(crate) struct ByReason([Counter; Reason::ALL.len()]);

/// What one worker counts for one TCP proxy.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(crate) struct TcpCells {
    pub(crate) cx_total: Counter,
    pub(crate) cx_destroy: Counter,
    pub(crate) cx_no_route: Counter,
    pub(crate) idle_timeout: Counter,
    pub(crate) max_duration: Counter,
    pub(crate) cx_rx_bytes: Counter,
    pub(crate) cx_tx_bytes: Counter,
}

/// What one worker counts for one listener.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(crate) struct ListenerCells {
    pub(crate) cx_total: Counter,
    pub(crate) cx_destroy: Counter,
    pub(crate) pre_cx_timeout: Counter,
    pub(crate) cx_overload_reject: Counter,
    pub(crate) no_filter_chain_match: Counter,
    pub(crate) ssl: TlsCells,
    /// The system gave no connection though one was there: descriptors or memory are short.
    pub(crate) accept_failed: Counter,
    /// Closed at once, because the listener has as many connections as it may.
    pub(crate) cx_overflow: Counter,
    /// Closed at once, because the process has as many connections as it may.
    pub(crate) global_cx_overflow: Counter,
    /// The client left while listener filters waited for it.
    pub(crate) filter_remote_close: Counter,
    /// Refused by a listener filter.
    pub(crate) filter_error: Counter,
}

/// What one worker counts for all TLS inspectors.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(crate) struct TlsInspectorCells {
    pub(crate) client_hello_too_large: Counter,
    pub(crate) tls_found: Counter,
    pub(crate) tls_not_found: Counter,
    pub(crate) alpn_found: Counter,
    pub(crate) alpn_not_found: Counter,
    pub(crate) sni_found: Counter,
    pub(crate) sni_not_found: Counter,
}

/// What one worker counts for the PROXY protocol filters of one prefix.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(crate) struct ProxyProtocolCells {
    pub(crate) not_found_disallowed: Counter,
    pub(crate) not_found_allowed: Counter,
    versions: [ProxyProtocolVersionCells; 2],
}

/// The same for one version of the protocol.
#[derive(Debug, Default)]
pub(crate) struct ProxyProtocolVersionCells {
    pub(crate) found: Counter,
    pub(crate) disallowed: Counter,
    pub(crate) error: Counter,
}

/// What one worker counts for one connection limit filter.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(crate) struct ConnectionLimitCells {
    pub(crate) opened: Counter,
    pub(crate) closed: Counter,
    pub(crate) limited: Counter,
}

impl ProxyProtocolCells {
    pub(crate) fn version(&self, version: Version) -> &ProxyProtocolVersionCells {
        &self.versions[version as usize]
    }
}

// === impl ByReason ===

impl ByReason {
    pub(crate) fn of(&self, reason: Reason) -> &Counter {
        &self.0[reason as usize]
    }
}

impl Default for ByReason {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Counter::default()))
    }
}

/// Counts one answer by the first digit of its status.
pub(crate) fn count_class(classes: &[Counter; 5], status: u16) {
    if let Some(class) = classes.get(usize::from(status / 100).wrapping_sub(1)) {
        class.add(1);
    }
}
