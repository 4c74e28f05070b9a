//! The admin address: HTTP for operators and scrapers, on the control runtime.

mod show;

use std::{
    convert::Infallible,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::{net::TcpListener, task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;
use weft_xds::{ResourceType, pb::envoy::config::core::v3::Node};

use crate::{config::state::State, worker::Shared};

/// What the admin address shows and does.
pub(crate) struct Admin {
    state: Arc<Mutex<State>>,
    shared: Arc<Shared>,
    node: Node,
    /// What a control plane has to tell before traffic is welcome.
    awaits: Vec<ResourceType>,
    drain_time: Duration,
    quit: CancellationToken,
    started: Instant,
}

/// How long route tables and endpoints are waited for; Envoy's initial fetch timeout.
const WARMING: Duration = Duration::from_secs(15);
/// Connections at a time; scrapers need few, and nobody else may starve the control thread.
const MAX_CONNECTIONS: usize = 64;

/// Answers until `shutdown`.
pub(crate) async fn serve(socket: TcpListener, admin: Arc<Admin>, shutdown: CancellationToken) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let accepted = tokio::select! {
            () = shutdown.cancelled() => return,
            accepted = socket.accept(), if connections.len() < MAX_CONNECTIONS => accepted,
            _ = connections.join_next(), if connections.len() >= MAX_CONNECTIONS => continue,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let admin = Arc::clone(&admin);
        connections.spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let admin = Arc::clone(&admin);
                async move { Ok::<_, Infallible>(admin.answer(&request)) }
            });
            let serving = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(Duration::from_secs(10))
                .serve_connection(TokioIo::new(stream), service);
            if let Err(error) = serving.await {
                tracing::debug!(%error, "admin connection ended");
            }
        });
    }
}

// === impl Admin ===

impl Admin {
    pub(crate) fn new(
        state: Arc<Mutex<State>>,
        shared: Arc<Shared>,
        node: Node,
        awaits: Vec<ResourceType>,
        drain_time: Duration,
        quit: CancellationToken,
    ) -> Self {
        Self { state, shared, node, awaits, drain_time, quit, started: Instant::now() }
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        let query = request.uri().query().unwrap_or("");
        let post = request.method() == Method::POST;
        match path {
            "/ready" => self.ready(),
            "/server_info" => json(&self.server_info()),
            "/stats" if has(query, "format", "json") => json(&self.stats_json()),
            "/stats" if has(query, "format", "prometheus") => self.metrics(),
            "/stats" => text(StatusCode::OK, self.stats_text()),
            "/stats/prometheus" | "/metrics" => self.metrics(),
            "/clusters" if has(query, "format", "json") => json(&self.clusters_json()),
            "/clusters" => text(StatusCode::OK, self.clusters_text()),
            "/listeners" if has(query, "format", "json") => json(&self.listeners_json()),
            "/listeners" => text(StatusCode::OK, self.listeners_text()),
            "/config_dump" => json(&self.config_dump()),
            "/" | "/help" => text(StatusCode::OK, show::HELP.to_owned()),
            "/healthcheck/fail" | "/healthcheck/ok" | "/drain_listeners" | "/quitquitquit" | "/logging"
                if !post =>
            {
                text(
                    StatusCode::METHOD_NOT_ALLOWED,
                    format!("Method {} not allowed, POST required.\n", request.method()),
                )
            }
            "/healthcheck/fail" => {
                self.shared.failing.store(true, Ordering::Relaxed);
                text(StatusCode::OK, "OK\n".to_owned())
            }
            "/healthcheck/ok" => {
                self.shared.failing.store(false, Ordering::Relaxed);
                text(StatusCode::OK, "OK\n".to_owned())
            }
            "/drain_listeners" => {
                self.drain(query.split('&').any(|option| option == "graceful"));
                text(StatusCode::OK, "OK\n".to_owned())
            }
            "/quitquitquit" => {
                self.quit.cancel();
                text(StatusCode::OK, "OK\n".to_owned())
            }
            "/logging" => Self::logging(query),
            _ => text(StatusCode::NOT_FOUND, "invalid path. admin commands are listed at /help\n".to_owned()),
        }
    }

    fn ready(&self) -> Response<Full<Bytes>> {
        let (state, ready) = self.lifecycle();
        text(if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, format!("{state}\n"))
    }

    /// Envoy's name for the state, and whether traffic is welcome.
    fn lifecycle(&self) -> (&'static str, bool) {
        if self.shared.failing.load(Ordering::Relaxed) || self.shared.draining.load(Ordering::Relaxed) {
            return ("DRAINING", false);
        }
        let state = self.state.lock();
        let told = self.awaits.iter().all(|type_| state.heard.contains(type_));
        // What a server names and then does not send must not keep the rest waiting for ever.
        let patient = self.started.elapsed() < WARMING;
        if told && (state.is_settled() || !patient) { ("LIVE", true) } else { ("INITIALIZING", false) }
    }

    fn metrics(&self) -> Response<Full<Bytes>> {
        match self.prometheus() {
            Ok(body) => {
                let mut response = text(StatusCode::OK, body);
                let kind = header::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
                response.headers_mut().insert(header::CONTENT_TYPE, kind);
                response
            }
            Err(error) => {
                text(StatusCode::INTERNAL_SERVER_ERROR, format!("cannot encode metrics: {error}\n"))
            }
        }
    }

    /// Graceful: clients are told to go first, and the sockets close when the drain time is over.
    fn drain(&self, graceful: bool) {
        self.shared.draining.store(true, Ordering::Relaxed);
        let state = Arc::clone(&self.state);
        let wait = if graceful { self.drain_time } else { Duration::ZERO };
        tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            state.lock().stop_listening();
        });
    }

    fn logging(query: &str) -> Response<Full<Bytes>> {
        let level = query.split('&').find_map(|option| option.strip_prefix("level="));
        let Some(level) = level else {
            return text(StatusCode::BAD_REQUEST, "usage: /logging?level=<level>\n".to_owned());
        };
        match weft_kit::telemetry::set_filter(level) {
            Ok(()) => text(StatusCode::OK, format!("log level is {level}\n")),
            Err(error) => text(StatusCode::BAD_REQUEST, format!("{}\n", weft_kit::error::chain(&error))),
        }
    }
}

fn has(query: &str, name: &str, value: &str) -> bool {
    query.split('&').any(|option| option.split_once('=') == Some((name, value)))
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    respond(status, "text/plain; charset=UTF-8", body)
}

fn json(value: &serde_json::Value) -> Response<Full<Bytes>> {
    let body = serde_json::to_string_pretty(value).unwrap_or_default();
    respond(StatusCode::OK, "application/json", body)
}

fn respond(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    // Admin answers are about now, and no page of another origin has any business with them.
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-cache, max-age=0"));
    response.headers_mut().insert("x-content-type-options", header::HeaderValue::from_static("nosniff"));
    response
}
