//! HTTPS connections.

use std::{convert::Infallible, sync::Arc, time::Duration};

use http::{HeaderValue, Request, header};
use http_body_util::BodyExt as _;
use hyper::service::service_fn;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

use crate::{
    app::App,
    auth::{Caller, authn},
};

/// A client that has not shown a whole head by then is gone (HARDENING: header 10 s).
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long connections may take to finish what they are at when the server ends.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections at a time. Each costs some tens of kilobytes.
const MAX_CONNECTIONS: usize = 10_000;
/// As kube-apiserver.
const MAX_STREAMS: u32 = 250;
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// After an error such as "too many open files" trying again at once would only burn time.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until the app shuts down, and then until every connection is done or out of time.
pub(crate) async fn serve(app: Arc<App>, listener: TcpListener, tls: TlsAcceptor) {
    let connections = TaskTracker::new();
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let shutdown = app.shutdown.clone();
    let accept = async {
        loop {
            let Ok(slot) = slots.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let (app, tls) = (app.clone(), tls.clone());
                    connections.spawn(async move {
                        let _slot = slot;
                        connection(app, stream, tls).await;
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    shutdown.run_until_cancelled(accept).await;
    drop(listener);
    connections.close();
    if timeout(DRAIN_TIMEOUT, connections.wait()).await.is_err() {
        tracing::warn!(open = connections.len(), "connections did not end in time, closing them");
    }
}

async fn connection(app: Arc<App>, stream: TcpStream, tls: TlsAcceptor) {
    // Watch events are small and must not wait for each other.
    let _ = stream.set_nodelay(true);
    let stream = match timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "tls handshake failed"),
        Err(_) => return tracing::debug!("tls handshake timed out"),
    };
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let caller = Caller::Network(certificate.and_then(|der| authn::identity_of(der)).map(Arc::new));
    let shutdown = app.shutdown.clone();
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        let (app, caller) = (app.clone(), caller.clone());
        async move {
            let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
            let mut response = app.serve(request, caller).await;
            // Answers depend on who asks; no cache between here and there may keep them.
            let no_store = HeaderValue::from_static("no-cache, private");
            response.headers_mut().insert(header::CACHE_CONTROL, no_store);
            Ok::<_, Infallible>(response)
        }
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .keep_alive_interval(PING_INTERVAL);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error, "a connection ended early");
    }
}
