//! A small HTTP/1.1 server that loses no request when it stops.

use std::{convert::Infallible, net::SocketAddr, pin::pin, time::Duration};

use anyhow::Context as _;
use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    signal::unix::{SignalKind, signal},
};
use weft_kit::drain::{self, DrainWatch};

/// The port that the manifest names.
const PORT: u16 = 8080;

/// How long everybody is still served after SIGTERM: callers need a moment to learn that this replica leaves.
/// Responses of that time ask for the connection to be closed, so that it is the caller who closes it, between
/// requests; what is idle afterwards is closed by us.
const LAME_DUCK: Duration = Duration::from_millis(500);

/// How long requests in flight may take after that; below the default grace period of 30 s.
const DRAIN_LIMIT: Duration = Duration::from_secs(20);

/// How long a client may take to send its request's head.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// A response of `status` with a text or JSON body.
pub(super) fn response(
    status: StatusCode,
    content_type: &'static str,
    body: String,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Resolves on SIGTERM or SIGINT.
pub(super) fn stop_signal() -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// Serves on `POD_IP` (else every address) until SIGTERM, then drains.
///
/// `/healthz` is answered here; everything else goes to `handler`.
pub(super) async fn serve<H, F>(name: &str, handler: H) -> anyhow::Result<()>
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    let address = address()?;
    // Before the listener: whoever sees the port open may send the signal.
    let stop = stop_signal()?;
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    println!("{name} listens on {address}");

    let (trigger, watch) = drain::channel();
    let mut accepting = Box::pin(accept(listener, handler, watch));
    tokio::select! {
        () = &mut accepting => {}
        () = stop => {}
    }
    println!("{name} drains");
    let drained = tokio::spawn(trigger.drain());
    // The loop never ends by itself; it is dropped here, and its watch with it.
    tokio::time::timeout(LAME_DUCK, accepting).await.ok();
    match tokio::time::timeout(DRAIN_LIMIT, drained).await {
        Ok(_) => println!("{name} is done"),
        Err(_) => println!("{name} gives up on requests that are still running"),
    }
    Ok(())
}

async fn accept<H, F>(listener: TcpListener, handler: H, watch: DrainWatch)
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(connection(stream, handler.clone(), watch.clone()));
            }
            Err(error) => {
                // Out of descriptors, most likely: a short pause lets connections end.
                eprintln!("cannot accept a connection: {error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn connection<H, F>(stream: TcpStream, handler: H, mut watch: DrainWatch)
where
    H: Fn(Request<Incoming>) -> F + Clone,
    F: Future<Output = Response<Full<Bytes>>>,
{
    // Small responses must not wait for an acknowledgement; without it they are only slower.
    stream.set_nodelay(true).ok();
    let draining = watch.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = (request.uri().path() != "/healthz").then(|| handler(request));
        let draining = draining.clone();
        async move {
            let mut response = match answer {
                Some(answer) => answer.await,
                None => response(StatusCode::OK, "text/plain", "ok\n".to_owned()),
            };
            if draining.is_draining() {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response)
        }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service)
    );
    // A connection that breaks is the client's affair: nothing here depends on it.
    tokio::select! {
        _ = connection.as_mut() => return,
        () = async {
            watch.draining().await;
            tokio::time::sleep(LAME_DUCK).await;
        } => connection.as_mut().graceful_shutdown(),
    }
    connection.await.ok();
}

fn address() -> anyhow::Result<SocketAddr> {
    let ip = match std::env::var("POD_IP") {
        Ok(ip) if !ip.is_empty() => ip,
        _ => "0.0.0.0".to_owned(),
    };
    let ip = ip.parse().with_context(|| format!("POD_IP is not an address: {ip:?}"))?;
    Ok(SocketAddr::new(ip, PORT))
}
