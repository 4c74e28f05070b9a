//! Asking again and again: the protocol over plain HTTP, one request for each type.
//!
//! As Envoy: what is asked for is asked anew after the given time and up to as much again, so that many proxies do not
//! ask at once; `304 Not Modified` is that nothing changed; a response that cannot be used is not told of, as there is
//! nobody to tell, and is asked for again with the version that is in force.

use std::{sync::Arc, time::Duration};

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Method, Request, StatusCode,
    body::Bytes,
    client::conn::http1,
    header::{CONTENT_TYPE, HOST},
};
use hyper_util::rt::TokioIo;
use rand::Rng as _;
use tokio::{
    sync::Notify,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;
use weft_kit::error::chain;

use super::{ConfigSink, MAX_RESPONSE_BYTES, expiring, take};
use crate::{
    json::{self, Format},
    pb::envoy::{
        config::core::v3::Node,
        service::discovery::v3::{DiscoveryRequest, DiscoveryResponse},
    },
    resource::ResourceType,
    session::client::{ClientSession as _, SotwClient},
    transport::{Secure, ServerAddress, dial},
};

/// What to ask, whom and how often.
#[derive(Debug, Clone)]
pub struct PollConfig {
    /// Where the server listens.
    pub server: ServerAddress,
    /// Makes connections secure; they are in plain text without.
    pub secure: Option<Arc<dyn Secure>>,
    /// How the server is called in requests.
    pub host: String,
    /// Who asks.
    pub node: Node,
    /// What is asked for.
    pub type_: ResourceType,
    /// The shortest time between two requests.
    pub every: Duration,
    /// How long one may take.
    pub timeout: Duration,
    /// Whether [`ConfigSink::resume`] is called if the first poll fails.
    pub resume: bool,
    /// To be notified when [`ConfigSink::wanted`] changes for another reason than what the server sent.
    pub wanted_changed: Arc<Notify>,
}

/// Why a poll brought nothing.
#[derive(Debug, thiserror::Error)]
enum PollError {
    #[error("the type is not served over REST")]
    Type,
    #[error("cannot connect to {server}")]
    Connect {
        server: ServerAddress,
        #[source]
        source: std::io::Error,
    },
    #[error("the exchange failed")]
    Exchange(#[source] hyper::Error),
    #[error("the request cannot be written")]
    Request(#[source] json::ConfigError),
    #[error("the request cannot be made")]
    Head(#[source] hyper::http::Error),
    #[error("the body cannot be read")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the server answered with status {0}")]
    Status(StatusCode),
    #[error("the body is no UTF-8")]
    Text(#[source] std::str::Utf8Error),
    #[error("the body is no DiscoveryResponse")]
    Json(#[source] json::ConfigError),
    #[error("the server did not answer in time")]
    Timeout,
}

/// Polls, applies and polls again until cancelled.
pub async fn poll(config: PollConfig, mut sink: impl ConfigSink, shutdown: CancellationToken) {
    tokio::select! {
        () = keep(&config, &mut sink) => {}
        () = shutdown.cancelled() => {}
    }
}

async fn keep(config: &PollConfig, sink: &mut impl ConfigSink) {
    let mut session = SotwClient::new(config.node.clone());
    let mut answered = false;
    let mut resumes = config.resume;
    // For whom the version in force is.
    let mut names = Vec::new();
    loop {
        // Each request is a stream of its own, which says who we are and what we have.
        if let Some(mut request) = session.open(&sink.wanted()).into_iter().next() {
            // A server that compares versions only would have nothing new for a name that is.
            if request.resource_names != names {
                request.version_info.clear();
            }
            let asking = timeout(config.timeout, ask(config, &request));
            match expiring(&mut session, sink, asking).await.unwrap_or(Err(PollError::Timeout)) {
                Ok(response) => {
                    resumes = false;
                    names = request.resource_names;
                    if !std::mem::replace(&mut answered, true) {
                        sink.connected(true);
                    }
                    if let Some(response) = response {
                        // What would be the answer is in the next request.
                        take(&mut session, sink, response);
                    }
                }
                Err(error) => {
                    tracing::warn!(server = %config.server, type_ = %config.type_, error = chain(&error), "poll failed");
                    if std::mem::replace(&mut answered, false) {
                        sink.connected(false);
                    }
                    if std::mem::take(&mut resumes) {
                        sink.resume().iter().for_each(|update| session.resume(update));
                    }
                }
            }
        }
        let until = Instant::now() + jittered(config.every);
        let asked = sink.wanted();
        // What is asked for in addition does not have to wait.
        while timeout_at(until, expiring(&mut session, sink, config.wanted_changed.notified())).await.is_ok()
            && sink.wanted() == asked
        {}
    }
}

/// One request and its answer; `None` if nothing changed.
async fn ask(
    config: &PollConfig,
    request: &DiscoveryRequest,
) -> Result<Option<DiscoveryResponse>, PollError> {
    let noun = config.type_.rest_noun().ok_or(PollError::Type)?;
    let body = json::to_json(request).map_err(PollError::Request)?;
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("/v3/discovery:{noun}"))
        .header(HOST, &config.host)
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body.to_string())))
        .map_err(PollError::Head)?;
    let connection = dial(&config.server, config.secure.as_ref())
        .await
        .map_err(|source| PollError::Connect { server: config.server.clone(), source })?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(connection)).await.map_err(PollError::Exchange)?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(PollError::Exchange)?;
        match response.status() {
            StatusCode::NOT_MODIFIED => return Ok(None),
            StatusCode::OK => {}
            other => return Err(PollError::Status(other)),
        }
        let body = Limited::new(response.into_body(), MAX_RESPONSE_BYTES);
        Ok(Some(body.collect().await.map_err(PollError::Body)?.to_bytes()))
    };
    tokio::pin!(exchange);
    // One exchange for each connection, which therefore ends with it.
    let body = tokio::select! {
        body = &mut exchange => body?,
        ended = connection => {
            ended.map_err(PollError::Exchange)?;
            exchange.await?
        }
    };
    let Some(body) = body else { return Ok(None) };
    let text = std::str::from_utf8(&body).map_err(PollError::Text)?;
    let value = json::parse_value(text, Format::Json).map_err(PollError::Json)?;
    let mut response: DiscoveryResponse = json::from_json(&value).map_err(PollError::Json)?;
    // It was asked for by the path already, and some servers leave it out.
    if response.type_url.is_empty() {
        config.type_.type_url().clone_into(&mut response.type_url);
    }
    Ok(Some(response))
}

/// As Envoy's: at least the given time, and less than twice that.
fn jittered(every: Duration) -> Duration {
    every + every.mul_f64(rand::rng().random_range(0.0..1.0))
}
