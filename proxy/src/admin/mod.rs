//! The admin address: HTTP for operators and scrapers, on the control runtime.

mod certs;
mod dump;
mod help;
mod logging;
mod query;
mod show;
mod stats;

use std::{
    collections::BTreeMap,
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

use self::{help::ENDPOINTS, logging::Levels, query::Query, stats::Selection};
use crate::{
    access_log::writer::Output,
    config::{
        source::Patience,
        state::{State, Which},
    },
    metrics,
    worker::Shared,
};

/// What the admin address shows and does.
pub(crate) struct Admin {
    state: Arc<Mutex<State>>,
    shared: Arc<Shared>,
    node: Node,
    /// What a control plane has to tell before traffic is welcome, and how long that is waited for.
    awaits: Vec<(ResourceType, Patience)>,
    drain_time: Duration,
    command_line: BTreeMap<&'static str, String>,
    quit: CancellationToken,
    started: Instant,
    /// The same as a time of day.
    started_at: String,
    /// The bootstrap without its secrets.
    bootstrap: serde_json::Value,
    levels: Levels,
}

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
    #[expect(clippy::too_many_arguments, reason = "called once, with what the composition root has")]
    pub(crate) fn new(
        state: Arc<Mutex<State>>,
        shared: Arc<Shared>,
        node: Node,
        awaits: Vec<(ResourceType, Patience)>,
        drain_time: Duration,
        command_line: BTreeMap<&'static str, String>,
        quit: CancellationToken,
        mut bootstrap: serde_json::Value,
    ) -> Self {
        dump::redact(&mut bootstrap, false);
        Self {
            state,
            shared,
            node,
            awaits,
            drain_time,
            command_line,
            quit,
            started: Instant::now(),
            started_at: jiff::Timestamp::now().to_string(),
            bootstrap,
            levels: Levels::default(),
        }
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        let query = Query::parse(request.uri().query().unwrap_or(""));
        let Some(endpoint) = ENDPOINTS.iter().find(|endpoint| endpoint.path == path) else {
            return text(StatusCode::NOT_FOUND, format!("invalid path. {}", help::text()));
        };
        if !endpoint.changes {
            return self.show(path, &query);
        }
        if request.method() != Method::POST {
            let refusal = format!("Method {} not allowed, POST required.", request.method());
            return text(StatusCode::METHOD_NOT_ALLOWED, refusal);
        }
        self.change(path, &query)
    }

    /// What only looks.
    fn show(&self, path: &str, query: &Query) -> Response<Full<Bytes>> {
        let as_json = query.get("format") == Some("json");
        match path {
            "/ready" => self.ready(),
            "/server_info" => json(&self.server_info()),
            "/stats" => self.stats(query, query.get("format").unwrap_or("text")),
            "/stats/prometheus" => self.stats(query, "prometheus"),
            "/clusters" => match query.regex("filter", false) {
                Err(reason) => text(StatusCode::BAD_REQUEST, reason),
                Ok(filter) if as_json => json(&self.clusters_json(filter.as_ref())),
                Ok(filter) => text(StatusCode::OK, self.clusters_text(filter.as_ref())),
            },
            "/listeners" if as_json => json(&self.listeners_json()),
            "/listeners" => text(StatusCode::OK, self.listeners_text()),
            "/config_dump" => match self.config_dump(query) {
                Ok(dump) => json(&dump),
                Err((status, reason)) => {
                    text(StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST), reason)
                }
            },
            "/certs" => json(&self.certificates()),
            "/memory" => json(&self.memory()),
            "/runtime" => json(&self.shared.runtime.as_json()),
            "/hot_restart_version" => text(StatusCode::OK, show::HOT_RESTART.to_owned()),
            _ => text(StatusCode::OK, help::text()),
        }
    }

    /// What needs a POST.
    fn change(&self, path: &str, query: &Query) -> Response<Full<Bytes>> {
        match path {
            "/healthcheck/fail" => self.shared.failing.store(true, Ordering::Relaxed),
            "/healthcheck/ok" => self.shared.failing.store(false, Ordering::Relaxed),
            "/drain_listeners" => self.drain(query),
            "/quitquitquit" => self.quit.cancel(),
            "/reopen_logs" => self.state.lock().log_outputs().iter().for_each(Output::reopen),
            "/logging" => {
                let initial = self.command_line.get("log_level").map_or("info", String::as_str);
                return match self.levels.change(query, initial) {
                    Ok(list) => text(StatusCode::OK, list),
                    Err(reason) => text(StatusCode::BAD_REQUEST, reason),
                };
            }
            // Each counter has one writer, its worker, and a reset would be a second one: counts would come back.
            _ => {
                let reason =
                    "counters cannot be reset: only their own threads write them; use rates instead\n";
                return text(StatusCode::NOT_IMPLEMENTED, reason.to_owned());
            }
        }
        text(StatusCode::OK, "OK\n".to_owned())
    }

    fn ready(&self) -> Response<Full<Bytes>> {
        let (state, ready) = self.lifecycle();
        text(if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, format!("{state}\n"))
    }

    /// Envoy's name for the state, and whether traffic is welcome.
    fn lifecycle(&self) -> (&'static str, bool) {
        if self.shared.failing.load(Ordering::Relaxed) || self.state.lock().draining {
            return ("DRAINING", false);
        }
        let state = self.state.lock();
        let waited = self.started.elapsed();
        let heard = |(type_, patience): &(ResourceType, Patience)| {
            state.heard.contains(type_) || patience.is_over(waited)
        };
        if self.awaits.iter().all(heard) && state.is_settled() {
            ("LIVE", true)
        } else {
            ("INITIALIZING", false)
        }
    }

    fn stats(&self, query: &Query, format: &str) -> Response<Full<Bytes>> {
        let filter = match query.regex("filter", false) {
            Ok(filter) => filter,
            Err(reason) => return text(StatusCode::BAD_REQUEST, reason),
        };
        let selection = Selection { filter, used_only: query.has("usedonly") };
        let families = stats::select(self.metrics(), &selection);
        match format {
            "text" => text(StatusCode::OK, stats::text(&families)),
            "json" => json(&stats::as_json(&families)),
            "prometheus" => match metrics::encode(&families) {
                Ok(body) => respond(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", body),
                Err(error) => {
                    text(StatusCode::INTERNAL_SERVER_ERROR, format!("cannot encode metrics: {error}\n"))
                }
            },
            _ => text(StatusCode::BAD_REQUEST, "usage: /stats?format=(json|prometheus|text)\n".to_owned()),
        }
    }

    /// `graceful`: clients are told to go first, and the sockets close when the drain time is over; `skip_exit`: they
    /// stay open.
    fn drain(&self, query: &Query) {
        let which = if query.has("inboundonly") { Which::Inbound } else { Which::All };
        self.state.lock().drain_listeners(which);
        if query.has("skip_exit") {
            return;
        }
        let state = Arc::clone(&self.state);
        let wait = if query.has("graceful") { self.drain_time } else { Duration::ZERO };
        tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            state.lock().stop_listening(which);
        });
    }
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
