//! All services on one listener.

use std::{
    convert::Infallible,
    task::{Context, Poll},
    time::Duration,
};

use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::{
    body::Body,
    codegen::{BoxFuture, Service, http},
    transport::{Server, server::TcpIncoming},
};

use super::{csds::CsdsService, service::AdsService, single};
use crate::{
    load::LrsService,
    pb::envoy::service::{
        load_stats::v3::load_reporting_service_server::LoadReportingServiceServer,
        status::v3::client_status_discovery_service_server::ClientStatusDiscoveryServiceServer,
    },
};

/// How often a silent connection is checked, and how long its peer may take to answer.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(10));

/// Where a server accepts.
#[derive(Debug)]
pub enum Listener {
    /// Bound TCP socket.
    Tcp(tokio::net::TcpListener),
    /// Bound Unix socket.
    Unix(tokio::net::UnixListener),
}

/// Why serving ended early.
#[derive(Debug, thiserror::Error)]
#[error("xDS server failed")]
pub struct ServeError(#[source] tonic::transport::Error);

/// Which service answers which path. (tonic's own router brings a web framework for that.)
#[derive(Clone)]
struct Services {
    ads: AdsService,
    lrs: LoadReportingServiceServer<LrsService>,
    csds: ClientStatusDiscoveryServiceServer<CsdsService>,
}

/// Serves ADS, the services of single types, load reporting and client status on one listener until `shutdown` is cancelled; to be called once per listener.
///
/// The services' own tokens must be cancelled too, as their streams hold the server up: give all of them the same.
pub async fn serve(
    listener: Listener,
    ads: AdsService,
    lrs: LrsService,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    let csds = ads.csds().into_server();
    let services = Services { ads, lrs: lrs.into_server(), csds };
    let server = Server::builder()
        .http2_keepalive_interval(Some(KEEP_ALIVE.0))
        .http2_keepalive_timeout(Some(KEEP_ALIVE.1));
    let stop = shutdown.cancelled_owned();
    let served = match listener {
        Listener::Tcp(listener) => {
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            server.serve_with_incoming_shutdown(services, incoming, stop).await
        }
        Listener::Unix(listener) => {
            server.serve_with_incoming_shutdown(services, UnixListenerStream::new(listener), stop).await
        }
    };
    served.map_err(ServeError)
}

// === impl Services ===

impl Service<http::Request<Body>> for Services {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // All are always ready: they are generated, and hold no resource.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        single::redirect(&mut request);
        if request.uri().path().starts_with("/envoy.service.load_stats.v3.") {
            self.lrs.call(request)
        } else if request.uri().path().starts_with("/envoy.service.status.v3.") {
            self.csds.call(request)
        } else {
            // It answers unknown methods as gRPC wants it.
            self.ads.call(request)
        }
    }
}
