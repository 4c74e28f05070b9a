//! The reporting end.

use std::{sync::Arc, time::Duration};

use tokio::{sync::mpsc, time::Instant};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use weft_kit::{backoff::Backoff, error::chain};

use super::{
    ClusterLoad,
    wire::{duration, to_stats},
};
use crate::{
    pb::envoy::{
        config::core::v3::Node,
        service::load_stats::v3::{
            LoadStatsRequest, LoadStatsResponse, load_reporting_service_client::LoadReportingServiceClient,
        },
    },
    transport::{CallMetadata, Secure, ServerAddress, StreamError, connect},
};

/// Reports are not made more often than this, whatever the server asks.
const MIN_INTERVAL: Duration = Duration::from_millis(100);

/// Who knows the load.
pub trait LoadSource: Send + Sync {
    /// What happened since the last call, per cluster.
    fn collect(&self) -> Vec<ClusterLoad>;
}

/// How to reach the server and who we are.
#[derive(Debug, Clone)]
pub struct ReportConfig {
    /// Where the server listens.
    pub server: ServerAddress,
    /// Makes connections secure; they are in plain text without.
    pub secure: Option<Arc<dyn Secure>>,
    /// Told with each stream: who we are, for the server to believe.
    pub metadata: CallMetadata,
    /// Who reports.
    pub node: Node,
    /// How long to wait for a connection.
    pub connect_timeout: Duration,
    /// The first delay after a failure; doubles up to `backoff_max`.
    pub backoff_base: Duration,
    /// The longest delay between attempts.
    pub backoff_max: Duration,
}

/// What the server asked for last.
struct Order {
    interval: Duration,
    /// `None` for all.
    clusters: Option<Vec<String>>,
    per_endpoint: bool,
}

// === impl ReportConfig ===

impl ReportConfig {
    /// 5 s to connect, and back-off from 500 ms to 30 s, as for the configuration.
    pub fn new(server: ServerAddress, node: Node) -> Self {
        Self {
            server,
            secure: None,
            metadata: CallMetadata::default(),
            node,
            connect_timeout: Duration::from_secs(5),
            backoff_base: Duration::from_millis(500),
            backoff_max: Duration::from_secs(30),
        }
    }
}

/// Reports what `source` knows as often as the server asks, reconnecting until cancelled.
pub async fn report(config: ReportConfig, source: impl LoadSource, shutdown: CancellationToken) {
    let run = async {
        let mut backoff = Backoff::new(config.backoff_base, config.backoff_max);
        let mut collected_at = Instant::now();
        loop {
            match stream(&config, &source, &mut backoff, &mut collected_at).await {
                Ok(()) => tracing::debug!(server = %config.server, "load report stream ended"),
                Err(error) => {
                    tracing::debug!(server = %config.server, error = chain(&error), "load report stream failed");
                }
            }
            tokio::time::sleep(backoff.next_delay()).await;
        }
    };
    tokio::select! {
        () = run => {}
        () = shutdown.cancelled() => {}
    }
}

async fn stream(
    config: &ReportConfig,
    source: &impl LoadSource,
    backoff: &mut Backoff,
    collected_at: &mut Instant,
) -> Result<(), StreamError> {
    let channel = connect(&config.server, config.secure.as_ref(), config.connect_timeout).await?;
    let (requests, receiver) = mpsc::channel(4);
    let hello = LoadStatsRequest { node: Some(config.node.clone()), cluster_stats: Vec::new() };
    // Into an empty channel, so that it never waits.
    let _ = requests.send(hello).await;
    let mut responses = LoadReportingServiceClient::new(channel)
        .stream_load_stats(config.metadata.request(ReceiverStream::new(receiver))?)
        .await
        .map_err(StreamError::Open)?
        .into_inner();
    let mut order: Option<Order> = None;
    loop {
        let due = order.as_ref().map(|order| *collected_at + order.interval);
        tokio::select! {
            response = responses.message() => match response.map_err(StreamError::Lost)? {
                Some(response) => {
                    backoff.reset();
                    order = Some(Order::new(response));
                }
                None => return Ok(()),
            },
            () = until(due) => {
                let Some(order) = &order else { continue };
                let interval = collected_at.elapsed();
                *collected_at = Instant::now();
                let loads = source.collect().into_iter().map(|load| ClusterLoad { interval, ..load });
                let cluster_stats = loads
                    .filter(|load| order.includes(&load.cluster))
                    .map(|load| to_stats(&load, order.per_endpoint))
                    .collect();
                if requests.send(LoadStatsRequest { node: None, cluster_stats }).await.is_err() {
                    return Ok(());
                }
            }
        }
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

// === impl Order ===

impl Order {
    fn new(response: LoadStatsResponse) -> Self {
        let interval = response.load_reporting_interval.as_ref().map(duration).unwrap_or_default();
        Self {
            interval: interval.max(MIN_INTERVAL),
            clusters: (!response.send_all_clusters).then_some(response.clusters),
            per_endpoint: response.report_endpoint_granularity,
        }
    }

    fn includes(&self, cluster: &str) -> bool {
        self.clusters.as_ref().is_none_or(|clusters| clusters.iter().any(|name| name == cluster))
    }
}
