//! Counters of the data plane.
//!
//! Each worker writes cells of its own; a scrape sums them. So counting is a load and a store to a cache line that no
//! other core writes, and no number of metrics slows a request down by contention.
//!
//! Names and labels are Envoy's, so that dashboards made for it work. Cardinality is bounded by the configuration:
//! the only label values are names of clusters, listeners and stat prefixes.

mod cell;
mod histogram;
pub(crate) mod registry;
mod text;

pub(crate) use cell::{Counter, PerWorker};
pub(crate) use histogram::Histogram;
pub(crate) use registry::Registry;
pub(crate) use text::{ServerNumbers, prometheus_text};

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
    pub(crate) rq_timeout: Counter,
    pub(crate) rq_per_try_timeout: Counter,
    pub(crate) rq_cancelled: Counter,
    pub(crate) rq_rx_reset: Counter,
    pub(crate) rq_pending_overflow: Counter,
    pub(crate) cx_total: Counter,
    pub(crate) cx_destroy: Counter,
    pub(crate) cx_connect_fail: Counter,
    pub(crate) cx_connect_timeout: Counter,
    pub(crate) cx_overflow: Counter,
    pub(crate) cx_none_healthy: Counter,
    pub(crate) cx_rx_bytes: Counter,
    pub(crate) cx_tx_bytes: Counter,
    pub(crate) cx_http1_total: Counter,
    pub(crate) cx_http2_total: Counter,
    pub(crate) cx_protocol_error: Counter,
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
    pub(crate) cx_total: Counter,
    pub(crate) cx_destroy: Counter,
    pub(crate) cx_http1_total: Counter,
    pub(crate) cx_http2_total: Counter,
    pub(crate) cx_protocol_error: Counter,
    pub(crate) cx_idle_timeout: Counter,
    pub(crate) cx_upgrades_total: Counter,
    pub(crate) cx_rx_bytes: Counter,
    pub(crate) cx_tx_bytes: Counter,
    pub(crate) no_route: Counter,
    pub(crate) no_cluster: Counter,
}

/// What one worker counts for one TCP proxy.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(crate) struct TcpCells {
    pub(crate) cx_total: Counter,
    pub(crate) cx_destroy: Counter,
    pub(crate) cx_no_route: Counter,
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
    pub(crate) no_filter_chain_match: Counter,
}

/// Counts one answer by the first digit of its status.
pub(crate) fn count_class(classes: &[Counter; 5], status: u16) {
    if let Some(class) = classes.get(usize::from(status / 100).wrapping_sub(1)) {
        class.add(1);
    }
}
