//! The receiving end.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures::Stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::{ClusterLoad, wire::from_stats};
use crate::pb::{
    envoy::{
        config::core::v3::Node,
        service::load_stats::v3::{
            LoadStatsRequest, LoadStatsResponse,
            load_reporting_service_server::{LoadReportingService, LoadReportingServiceServer},
        },
    },
    google::protobuf::Duration as PbDuration,
};
use crate::server::admission::{Admitted, may_be};

/// Room for some ten thousand endpoints.
const MAX_REPORT_BYTES: usize = 16 << 20;

/// Who wants to know the load.
pub trait LoadSink: Send + Sync {
    /// A proxy's report. Called from the streams' tasks: return quickly.
    fn report(&self, node: &Node, loads: &[ClusterLoad]);

    /// The proxy's report stream ended.
    fn gone(&self, _node: &Node) {}
}

/// The gRPC service `envoy.service.load_stats.v3.LoadReportingService`.
#[derive(Clone)]
pub struct LrsService {
    sink: Arc<dyn LoadSink>,
    interval: Duration,
    shutdown: CancellationToken,
}

/// Tells the sink when a stream ends, however it does.
struct Reporter {
    sink: Arc<dyn LoadSink>,
    node: Node,
}

// === impl LrsService ===

impl LrsService {
    /// Asks each proxy for the load of all its clusters, per endpoint, every `interval`; until `shutdown` is cancelled.
    pub fn new(sink: Arc<dyn LoadSink>, interval: Duration, shutdown: CancellationToken) -> Self {
        Self { sink, interval, shutdown }
    }

    pub(crate) fn into_server(self) -> LoadReportingServiceServer<Self> {
        LoadReportingServiceServer::new(self).max_decoding_message_size(MAX_REPORT_BYTES)
    }

    fn order(&self) -> LoadStatsResponse {
        LoadStatsResponse {
            send_all_clusters: true,
            load_reporting_interval: Some(PbDuration {
                seconds: i64::try_from(self.interval.as_secs()).unwrap_or(i64::MAX),
                nanos: i32::try_from(self.interval.subsec_nanos()).unwrap_or_default(),
            }),
            report_endpoint_granularity: true,
            clusters: Vec::new(),
        }
    }
}

#[async_trait::async_trait]
impl LoadReportingService for LrsService {
    type StreamLoadStatsStream = Pin<Box<dyn Stream<Item = Result<LoadStatsResponse, Status>> + Send>>;

    async fn stream_load_stats(
        &self,
        request: Request<Streaming<LoadStatsRequest>>,
    ) -> Result<Response<Self::StreamLoadStatsStream>, Status> {
        let (responses, receiver) = mpsc::channel(2);
        let service = self.clone();
        let admitted = request.extensions().get::<Admitted>().cloned();
        // Ends with the stream: on its side when the requests end, on ours when `shutdown` is cancelled.
        tokio::spawn(async move {
            let status = tokio::select! {
                status = listen(&service, admitted, request.into_inner(), &responses) => status,
                () = service.shutdown.cancelled() => Err(Status::unavailable("the server shuts down")),
                () = responses.closed() => Ok(()),
            };
            if let Err(status) = status {
                // A client that is gone needs no status.
                let _ = responses.try_send(Err(status));
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

async fn listen(
    service: &LrsService,
    admitted: Option<Admitted>,
    mut requests: Streaming<LoadStatsRequest>,
    responses: &mpsc::Sender<Result<LoadStatsResponse, Status>>,
) -> Result<(), Status> {
    let Some(first) = requests.message().await? else { return Ok(()) };
    let node = first.node.filter(|node| !node.id.is_empty());
    let node =
        node.ok_or_else(|| Status::invalid_argument("the first request must name its node, with an id"))?;
    may_be(admitted.as_ref(), &node)?;
    // The one message that this end ever sends; an error means that the client is gone, which the next read tells.
    let _ = responses.send(Ok(service.order())).await;
    tracing::debug!(proxy = node.id, "load report stream opened");
    let reporter = Reporter { sink: service.sink.clone(), node };
    while let Some(request) = requests.message().await? {
        let loads: Vec<_> = request.cluster_stats.iter().map(from_stats).collect();
        reporter.sink.report(&reporter.node, &loads);
    }
    Ok(())
}

// === impl Reporter ===

impl Drop for Reporter {
    fn drop(&mut self) {
        tracing::debug!(proxy = self.node.id, "load report stream closed");
        self.sink.gone(&self.node);
    }
}
