//! The gRPC service over the cache.

use std::pin::Pin;

use futures::Stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::{
    CsdsService,
    cache::{ProxyStream, SnapshotCache},
};
use crate::{
    pb::envoy::{
        config::core::v3::Node,
        service::discovery::v3::{
            DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
            aggregated_discovery_service_server::{
                AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
            },
        },
    },
    resource::ResourceType,
    session::server::{Handled, Outgoing, ServerSession, Variant},
};

/// How the server calls itself in its responses.
const CONTROL_PLANE: &str = concat!("weft ", env!("CARGO_PKG_VERSION"));

/// A client that knows a hundred thousand resources names them all when it comes back.
const MAX_REQUEST_BYTES: usize = 64 << 20;

/// The gRPC service `envoy.service.discovery.v3.AggregatedDiscoveryService` over a [`SnapshotCache`].
#[derive(Clone)]
pub struct AdsService {
    cache: SnapshotCache,
    shutdown: CancellationToken,
}

/// The types of one variant of the protocol.
trait Dialect: Send + 'static {
    const VARIANT: Variant;
    type Request: Send + 'static;
    type Response: Send + 'static;

    fn node(request: &mut Self::Request) -> Option<Node>;
    fn handle(session: &mut ServerSession, request: Self::Request) -> Handled;
    fn response(outgoing: Outgoing) -> Self::Response;
}

struct Delta;

struct Sotw;

type ResponseStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

// === impl AdsService ===

impl AdsService {
    /// Serves `cache` until `shutdown` is cancelled, which ends all streams.
    pub fn new(cache: SnapshotCache, shutdown: CancellationToken) -> Self {
        Self { cache, shutdown }
    }

    /// What tells of the proxies that this service serves, for as long as it does.
    pub(super) fn csds(&self) -> CsdsService {
        CsdsService::new(self.cache.clone(), self.shutdown.clone())
    }

    pub(super) fn into_server(self) -> AggregatedDiscoveryServiceServer<Self> {
        AggregatedDiscoveryServiceServer::new(self)
            .max_decoding_message_size(MAX_REQUEST_BYTES)
            .max_encoding_message_size(usize::MAX)
    }

    fn start<D: Dialect>(&self, requests: Streaming<D::Request>) -> Response<ResponseStream<D::Response>> {
        // No type has more than one unanswered response, so that this is never full for a client that is alive.
        let (responses, receiver) = mpsc::channel(ResourceType::ALL.len() + 1);
        let (cache, shutdown) = (self.cache.clone(), self.shutdown.clone());
        // Ends with the stream: on its side when `requests` ends, on ours when `shutdown` is cancelled.
        tokio::spawn(async move {
            let status = tokio::select! {
                status = talk::<D>(cache, requests, &responses) => status,
                () = shutdown.cancelled() => Err(Status::unavailable("the server shuts down")),
                () = responses.closed() => Ok(()),
            };
            if let Err(status) = status {
                // A client that is gone needs no status.
                let _ = responses.try_send(Err(status));
            }
        });
        Response::new(Box::pin(ReceiverStream::new(receiver)))
    }
}

#[async_trait::async_trait]
impl AggregatedDiscoveryService for AdsService {
    type StreamAggregatedResourcesStream = ResponseStream<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = ResponseStream<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Ok(self.start::<Sotw>(request.into_inner()))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        Ok(self.start::<Delta>(request.into_inner()))
    }
}

/// One stream, from the first request to its end.
async fn talk<D: Dialect>(
    cache: SnapshotCache,
    mut requests: Streaming<D::Request>,
    responses: &mpsc::Sender<Result<D::Response, Status>>,
) -> Result<(), Status> {
    let Some(mut first) = requests.message().await? else { return Ok(()) };
    let node = D::node(&mut first).filter(|node| !node.id.is_empty());
    let node =
        node.ok_or_else(|| Status::invalid_argument("the first request must name its node, with an id"))?;
    let mut stream = cache.open(node, D::VARIANT);
    tracing::info!(proxy = stream.proxy_id(), variant = ?D::VARIANT, "stream opened");
    stream.handle(|session| D::handle(session, first));

    let result = loop {
        if send_all::<D>(&stream, responses).await.is_err() {
            break Ok(());
        }
        tokio::select! {
            () = stream.snapshot_changed() => {}
            request = requests.message() => match request {
                Ok(Some(request)) => stream.handle(|session| D::handle(session, request)),
                Ok(None) => break Ok(()),
                Err(status) => break Err(status),
            },
        }
    };
    tracing::info!(proxy = stream.proxy_id(), variant = ?D::VARIANT, "stream closed");
    result
}

/// Sends what is due; an error means that the client is gone.
async fn send_all<D: Dialect>(
    stream: &ProxyStream,
    responses: &mpsc::Sender<Result<D::Response, Status>>,
) -> Result<(), ()> {
    while let Some(outgoing) = stream.next() {
        responses.send(Ok(D::response(outgoing))).await.map_err(|_| ())?;
    }
    Ok(())
}

// === impl Delta ===

impl Dialect for Delta {
    const VARIANT: Variant = Variant::Delta;
    type Request = DeltaDiscoveryRequest;
    type Response = DeltaDiscoveryResponse;

    fn node(request: &mut DeltaDiscoveryRequest) -> Option<Node> {
        request.node.take()
    }

    fn handle(session: &mut ServerSession, request: DeltaDiscoveryRequest) -> Handled {
        session.delta_request(request)
    }

    fn response(outgoing: Outgoing) -> DeltaDiscoveryResponse {
        outgoing.into_delta(CONTROL_PLANE)
    }
}

// === impl Sotw ===

impl Dialect for Sotw {
    const VARIANT: Variant = Variant::Sotw;
    type Request = DiscoveryRequest;
    type Response = DiscoveryResponse;

    fn node(request: &mut DiscoveryRequest) -> Option<Node> {
        request.node.take()
    }

    fn handle(session: &mut ServerSession, request: DiscoveryRequest) -> Handled {
        session.sotw_request(request)
    }

    fn response(outgoing: Outgoing) -> DiscoveryResponse {
        outgoing.into_sotw(CONTROL_PLANE)
    }
}
