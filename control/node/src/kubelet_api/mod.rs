//! The node's HTTPS API, as far as a kubelet's is used by an API server and by scrapers: logs, metrics, pods, health.

mod logs;
mod metrics;
mod tls;

use std::{convert::Infallible, io, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use prometheus::{Registry, TextEncoder};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub(crate) use self::tls::TlsError;
use crate::{agent::PodTable, config::NodeTls, runtime::Runtime};

/// Serves the API.
#[derive(Clone)]
pub(crate) struct KubeletApi {
    acceptor: TlsAcceptor,
    state: Arc<State>,
}

struct State {
    runtime: Arc<dyn Runtime>,
    pods: PodTable,
    registry: Registry,
}

type Body = UnsyncBoxBody<Bytes, io::Error>;

/// Bound of a TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Bound of a request's header.
const HEADER: Duration = Duration::from_secs(10);
/// The wait after a failed accept, which is a lack of descriptors and passes.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

// === impl KubeletApi ===

impl KubeletApi {
    pub(crate) fn new(
        tls: &NodeTls,
        runtime: Arc<dyn Runtime>,
        pods: PodTable,
        registry: Registry,
    ) -> Result<Self, TlsError> {
        Ok(Self { acceptor: tls::acceptor(tls)?, state: Arc::new(State { runtime, pods, registry }) })
    }

    /// Accepts connections until `shutdown`; open ones are cut then, as followed logs never end by themselves.
    pub(crate) async fn serve(self, listener: TcpListener, shutdown: CancellationToken) {
        let connections = TaskTracker::new();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = shutdown.cancelled() => break,
            };
            match accepted {
                Ok((stream, _)) => {
                    let (api, shutdown) = (self.clone(), shutdown.clone());
                    connections.spawn(async move {
                        tokio::select! {
                            () = api.connection(stream) => {}
                            () = shutdown.cancelled() => {}
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the kubelet API cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        connections.close();
        connections.wait().await;
    }

    async fn connection(&self, stream: TcpStream) {
        let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, self.acceptor.accept(stream)).await else {
            return;
        };
        let allowed = tls::is_allowed(stream.get_ref().1);
        let state = self.state.clone();
        let service = hyper::service::service_fn(move |request| {
            let state = state.clone();
            async move { Ok::<_, Infallible>(state.answer(request, allowed).await) }
        });
        let mut builder = Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER);
        if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
            tracing::debug!(%error, "a connection to the kubelet API ended early");
        }
    }
}

// === impl State ===

impl State {
    async fn answer(&self, request: Request<Incoming>, allowed: bool) -> Response<Body> {
        let path = request.uri().path().to_owned();
        if path == "/healthz" {
            return text(StatusCode::OK, "ok");
        }
        if !allowed {
            return text(
                StatusCode::UNAUTHORIZED,
                "a client certificate of the cluster's API server is needed",
            );
        }
        if request.method() != Method::GET {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET is served here");
        }
        if let Some(rest) = path.strip_prefix("/containerLogs/") {
            return logs::answer(self, rest, request.uri().query().unwrap_or("")).await;
        }
        match path.trim_end_matches('/') {
            "/metrics" => match TextEncoder::new().encode_to_string(&self.registry.gather()) {
                Ok(metrics) => text(StatusCode::OK, metrics),
                Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
            },
            "/metrics/resource" => text(StatusCode::OK, metrics::resource(&self.pods, &*self.runtime).await),
            "/pods" => self.pods(),
            _ => text(StatusCode::NOT_FOUND, format!("{path} is not served here")),
        }
    }

    fn pods(&self) -> Response<Body> {
        let items: Vec<_> = self.pods.all().iter().map(|pod| serde_json::json!(**pod)).collect();
        let list = serde_json::json!({"apiVersion": "v1", "kind": "PodList", "metadata": {}, "items": items});
        let mut response = text(StatusCode::OK, list.to_string());
        response
            .headers_mut()
            .insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
        response
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    let body = Full::new(body.into()).map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let plain = http::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(http::header::CONTENT_TYPE, plain);
    response
}
