//! All services on one listener.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::{
    Status,
    body::Body,
    codegen::{BoxFuture, Service, http},
    transport::{Server, server::TcpIncoming},
};

use super::{
    accept::{SecureServer, secured},
    admission::{Admission, Admitted},
    csds::CsdsService,
    service::AdsService,
    single,
};
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
pub enum Listener {
    /// Bound TCP socket, served in plain text.
    Tcp(tokio::net::TcpListener),
    /// Bound TCP socket whose connections are made secure first.
    Secure(tokio::net::TcpListener, Arc<dyn SecureServer>),
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
    admission: Option<Arc<dyn Admission>>,
}

/// Serves ADS, the services of single types, load reporting and client status on one listener until `shutdown` is cancelled; to be called once per listener.
/// Everybody who connects is let in.
///
/// The services' own tokens must be cancelled too, as their streams hold the server up: give all of them the same.
pub async fn serve(
    listener: Listener,
    ads: AdsService,
    lrs: LrsService,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    serve_admitted(listener, ads, lrs, None, shutdown).await
}

/// The same for those only whom `admission` lets in, if it is given.
pub async fn serve_admitted(
    listener: Listener,
    ads: AdsService,
    lrs: LrsService,
    admission: Option<Arc<dyn Admission>>,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    let csds = ads.csds().into_server();
    let overdue = ads.clone().end_overdue();
    let services = Services { ads, lrs: lrs.into_server(), csds, admission };
    let server = Server::builder()
        .http2_keepalive_interval(Some(KEEP_ALIVE.0))
        .http2_keepalive_timeout(Some(KEEP_ALIVE.1));
    let stop = shutdown.clone().cancelled_owned();
    let serving = async {
        match listener {
            Listener::Tcp(listener) => {
                let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
                server.serve_with_incoming_shutdown(services, incoming, stop).await
            }
            Listener::Secure(listener, secure) => {
                let incoming = secured(listener, secure, shutdown);
                server.serve_with_incoming_shutdown(services, incoming, stop).await
            }
            Listener::Unix(listener) => {
                server.serve_with_incoming_shutdown(services, UnixListenerStream::new(listener), stop).await
            }
        }
    };
    tokio::select! {
        served = serving => served.map_err(ServeError),
        never = overdue => match never {},
    }
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

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        match self.admission.clone() {
            None => self.dispatch(request),
            Some(admission) => Box::pin(self.clone().admit(admission, request)),
        }
    }
}

impl Services {
    async fn admit(
        mut self,
        admission: Arc<dyn Admission>,
        mut request: http::Request<Body>,
    ) -> Result<http::Response<Body>, Infallible> {
        let authorization = request.headers().get(http::header::AUTHORIZATION);
        match admission.caller(authorization.and_then(|value| value.to_str().ok())).await {
            Ok(caller) => {
                request.extensions_mut().insert(Admitted(caller));
                self.dispatch(request).await
            }
            Err(refusal) => {
                tracing::warn!(reason = %refusal, "call of a proxy refused");
                Ok(Status::from(refusal).into_http())
            }
        }
    }

    fn dispatch(&mut self, mut request: http::Request<Body>) -> BoxFuture<http::Response<Body>, Infallible> {
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
