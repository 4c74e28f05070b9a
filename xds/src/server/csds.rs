//! CSDS: what control wants each proxy to have, and how far the proxy is, resource by resource.
//!
//! # Caveats
//! * `version_info` and `xds_config` are what the proxy is to have; `config_status` tells whether it does.
//! * Contents of secrets are never shown.
//! * `last_updated` is when the proxy last answered for the resource's type: times of single resources are not kept.

mod matcher;
mod report;

use std::pin::Pin;

use futures::Stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use self::matcher::Matchers;
use super::{
    SnapshotCache,
    admission::{Admitted, may_see_all},
};
use crate::pb::envoy::service::status::v3::{
    ClientStatusRequest, ClientStatusResponse,
    client_status_discovery_service_server::{
        ClientStatusDiscoveryService, ClientStatusDiscoveryServiceServer,
    },
};

/// The gRPC service `envoy.service.status.v3.ClientStatusDiscoveryService` over a [`SnapshotCache`].
#[derive(Clone)]
pub struct CsdsService {
    cache: SnapshotCache,
    shutdown: CancellationToken,
}

// === impl CsdsService ===

impl CsdsService {
    /// Tells of the proxies of `cache` until `shutdown` is cancelled, which ends all streams.
    pub fn new(cache: SnapshotCache, shutdown: CancellationToken) -> Self {
        Self { cache, shutdown }
    }

    pub(super) fn into_server(self) -> ClientStatusDiscoveryServiceServer<Self> {
        ClientStatusDiscoveryServiceServer::new(self)
    }

    fn answer(&self, request: &ClientStatusRequest) -> Result<ClientStatusResponse, Status> {
        let matchers = Matchers::new(&request.node_matchers).map_err(Status::invalid_argument)?;
        let connected = self.cache.connected();
        let matching = connected.iter().filter(|node| matchers.matches(&node.id));
        let mut ids: Vec<String> = matching.map(|node| node.id.clone()).collect();
        ids.sort();
        let books = ids.iter().filter_map(|id| self.cache.books(id));
        let with_contents = !request.exclude_resource_contents;
        Ok(ClientStatusResponse { config: books.map(|books| report::client(books, with_contents)).collect() })
    }
}

#[async_trait::async_trait]
impl ClientStatusDiscoveryService for CsdsService {
    type StreamClientStatusStream = Pin<Box<dyn Stream<Item = Result<ClientStatusResponse, Status>> + Send>>;

    async fn stream_client_status(
        &self,
        request: Request<Streaming<ClientStatusRequest>>,
    ) -> Result<Response<Self::StreamClientStatusStream>, Status> {
        may_see_all(request.extensions().get::<Admitted>())?;
        let mut requests = request.into_inner();
        let (responses, receiver) = mpsc::channel(1);
        let service = self.clone();
        // Ends with the stream: on its side when the requests end, on ours when `shutdown` is cancelled.
        tokio::spawn(async move {
            let talk = async {
                while let Some(request) = requests.message().await? {
                    if responses.send(Ok(service.answer(&request)?)).await.is_err() {
                        break;
                    }
                }
                Ok(())
            };
            let status = tokio::select! {
                status = talk => status,
                () = service.shutdown.cancelled() => Err(Status::unavailable("the server shuts down")),
                () = responses.closed() => Ok(()),
            };
            if let Err(status) = status {
                // Waits for the response before it; a client that is gone needs no status.
                let _ = responses.send(Err(status)).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn fetch_client_status(
        &self,
        request: Request<ClientStatusRequest>,
    ) -> Result<Response<ClientStatusResponse>, Status> {
        may_see_all(request.extensions().get::<Admitted>())?;
        self.answer(request.get_ref()).map(Response::new)
    }
}
