//! Keeping a configuration in step with an xDS server.
//!
//! # Guarantees
//! * Those of [`crate::session::client`].
//! * The stream is opened anew whenever it ends, with jittered back-off; what is in force stays in force meanwhile.
//! * A peer that is gone without a word is noticed within a minute.
//! * What has a time to live goes when that is over, whether there is a stream or not.
//! * What an earlier run kept is put in force only where the server cannot be reached at the start or says nothing in
//!   time: an old configuration is better than none, and worse than the server's. The stream after that tells the
//!   server what is there, so that it sends what differs and takes back what is gone.

mod limit;
mod queue;
mod rest;
mod stream;

use std::{
    fmt,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;
use weft_kit::{backoff::Backoff, error::chain};

use self::{
    limit::Pace,
    stream::{Delta, Dialect, Sotw, stream},
};
pub use self::{
    limit::RequestLimit,
    rest::{PollConfig, poll},
};
use crate::{
    pb::envoy::config::core::v3::Node,
    session::client::{ClientSession, DeltaClient, Received, SotwClient},
    transport::{CallMetadata, Secure},
};
pub use crate::{
    resource::{Rejected, Resource, ResourceType, ResourceUpdate, Subscriptions},
    transport::ServerAddress,
};

/// The largest response that is taken: some hundred thousand resources at once.
const MAX_RESPONSE_BYTES: usize = 256 << 20;

/// Which variant of the protocol to speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Protocol {
    /// Incremental: only what changed travels (`DELTA_GRPC`).
    #[default]
    Delta,
    /// State of the world: all clusters and listeners travel with each change (`GRPC`).
    Sotw,
}

/// Which of the server's services to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Service {
    /// All types on one stream (ADS).
    #[default]
    Aggregated,
    /// The service of one type. [`ConfigSink::wanted`] must not want anything of another one.
    Only(ResourceType),
}

/// How to reach the server and who we are.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// Where the server listens.
    pub server: ServerAddress,
    /// Makes connections secure; they are in plain text without.
    pub secure: Option<Arc<dyn Secure>>,
    /// Told with each stream: who we are, for the server to believe.
    pub metadata: CallMetadata,
    /// Who asks; its `id` decides what the server answers.
    pub node: Node,
    /// Which variant to speak.
    pub protocol: Protocol,
    /// Which service to use.
    pub service: Service,
    /// How long to wait for a connection.
    pub connect_timeout: Duration,
    /// The first delay after a failure; doubles up to `backoff_max`.
    pub backoff_base: Duration,
    /// The longest delay between attempts.
    pub backoff_max: Duration,
    /// How many requests the server is sent at most; as many as there are if `None`.
    pub request_limit: Option<RequestLimit>,
    /// Counts the requests that had to wait for that.
    pub requests_delayed: Arc<AtomicU64>,
    /// To be notified when [`ConfigSink::wanted`] changes for another reason than what the server sent.
    pub wanted_changed: Arc<Notify>,
    /// How long the server has for its first word before [`ConfigSink::resume`] is called, which also is when it
    /// cannot be reached; `None` if there is nothing to resume from.
    pub resume_after: Option<Duration>,
}

/// Who uses the configuration. Called from one task only, never concurrently.
pub trait ConfigSink: Send {
    /// Takes over a change, completely validated before any of it is put in force.
    ///
    /// Resources that are refused keep their last good version, the others are to be applied. The refusals are told to
    /// the server, which does not send the refused version again.
    fn apply(&mut self, update: ResourceUpdate) -> Result<(), Vec<Rejected>>;

    /// Whether all that was accepted of a type is in effect. What is not is acknowledged when it is, so that a server which
    /// waits for that breaks nothing: as Envoy has it for clusters whose endpoints are on their way. Asked after each
    /// [`apply`](Self::apply), and when [`ClientConfig::wanted_changed`] is told.
    fn in_effect(&self, _type: ResourceType) -> bool {
        true
    }

    /// What the configuration now refers to. Asked when connecting and after each [`apply`](Self::apply).
    fn wanted(&self) -> Subscriptions;

    /// The stream to the server came up or was lost; the configuration stays in force either way.
    fn connected(&mut self, _connected: bool) {}

    /// A response was refused before any of it was handed out.
    fn refused(&mut self, _type: ResourceType) {}

    /// Puts in force what an earlier run kept, and tells what of it now is: one update for each type. Called at most
    /// once, before the first [`apply`](Self::apply), and only if [`ClientConfig::resume_after`] or
    /// [`PollConfig::resume`] says so.
    fn resume(&mut self) -> Vec<ResourceUpdate> {
        Vec::new()
    }
}

/// Whether the server was heard of since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Not yet; what an earlier run kept is put in force if it is not within this time.
    Starting(Duration),
    /// It was, or nothing is kept, or what was kept is in force.
    Running,
}

// === impl ClientConfig ===

impl ClientConfig {
    /// Delta protocol over ADS, 5 s to connect, and back-off from 500 ms to 30 s (Envoy's defaults).
    pub fn new(server: ServerAddress, node: Node) -> Self {
        Self {
            server,
            secure: None,
            metadata: CallMetadata::default(),
            node,
            protocol: Protocol::default(),
            service: Service::default(),
            connect_timeout: Duration::from_secs(5),
            backoff_base: Duration::from_millis(500),
            backoff_max: Duration::from_secs(30),
            request_limit: None,
            requests_delayed: Arc::default(),
            wanted_changed: Arc::default(),
            resume_after: None,
        }
    }
}

// === impl Service ===

impl Service {
    /// The path of its method; `variant` is how the names of methods begin.
    fn method(self, variant: &str) -> String {
        match self {
            Self::Aggregated => {
                format!("/envoy.service.discovery.v3.AggregatedDiscoveryService/{variant}AggregatedResources")
            }
            Self::Only(type_) => {
                let (service, noun) = type_.grpc_service();
                format!("/{service}/{variant}{noun}")
            }
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Aggregated => "ads",
            Self::Only(type_) => type_.service(),
        })
    }
}

/// Subscribes, applies, acknowledges and reconnects until cancelled.
pub async fn run(config: ClientConfig, sink: impl ConfigSink, shutdown: CancellationToken) {
    let node = config.node.clone();
    let run = async {
        match config.protocol {
            Protocol::Delta => keep(&config, Delta(DeltaClient::new(node)), sink).await,
            Protocol::Sotw => keep(&config, Sotw(SotwClient::new(node)), sink).await,
        }
    };
    tokio::select! {
        () = run => {}
        () = shutdown.cancelled() => {}
    }
}

/// One session with its streams, one after the other; never returns.
async fn keep<D: Dialect>(config: &ClientConfig, mut dialect: D, mut sink: impl ConfigSink) {
    let mut backoff = Backoff::new(config.backoff_base, config.backoff_max);
    let pace = Arc::new(Pace::new(config.request_limit, Arc::clone(&config.requests_delayed)));
    let mut phase = config.resume_after.map_or(Phase::Running, Phase::Starting);
    loop {
        match stream(config, &mut dialect, &mut sink, &pace, &mut backoff, &mut phase).await {
            Ok(()) => tracing::info!(server = %config.server, "configuration stream ended"),
            Err(error) => {
                tracing::warn!(server = %config.server, error = chain(&error), "configuration stream failed");
            }
        }
        if phase != Phase::Running {
            phase = Phase::Running;
            for update in sink.resume() {
                dialect.session().resume(&update);
            }
        }
        let pause = tokio::time::sleep(backoff.next_delay());
        expiring(dialect.session(), &mut sink, pause).await;
    }
}

/// Waits, and has what expires meanwhile be gone.
async fn expiring<T>(
    session: &mut impl ClientSession,
    sink: &mut impl ConfigSink,
    what: impl Future<Output = T>,
) -> T {
    tokio::pin!(what);
    loop {
        tokio::select! {
            done = &mut what => return done,
            () = until(session.deadline()) => expire(session, sink),
        }
    }
}

async fn until(deadline: Option<std::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

fn expire(session: &mut impl ClientSession, sink: &mut impl ConfigSink) {
    for update in session.expire(Instant::now().into_std()) {
        tracing::warn!(type_ = %update.type_, names = ?update.removed, "time to live is over");
        // It only removes, which nothing can refuse.
        let _ = sink.apply(update);
    }
}

/// What to send when something else than a response changed what is wanted or in effect.
fn follow_up<S: ClientSession>(session: &mut S, sink: &impl ConfigSink) -> Vec<S::Request> {
    let mut requests = session.answer(Ok(()), &sink.wanted());
    requests.extend(acknowledge(session, sink));
    requests
}

/// What was held back of what is in effect by now.
fn acknowledge<S: ClientSession>(session: &mut S, sink: &impl ConfigSink) -> Vec<S::Request> {
    let mut requests = Vec::new();
    for type_ in ResourceType::ALL {
        if session.holds_back(type_) && sink.in_effect(type_) {
            requests.extend(session.acknowledge(type_));
        }
    }
    requests
}

/// What to send in answer to a response.
fn take<S: ClientSession>(
    session: &mut S,
    sink: &mut impl ConfigSink,
    response: S::Response,
) -> Vec<S::Request> {
    match session.receive(response, Instant::now().into_std()) {
        Received::Update(update) => {
            let (type_, version) = (update.type_, update.version.clone());
            let (changed, removed) = (update.upserts.len(), update.removed.len());
            let verdict = sink.apply(update);
            for Rejected { name, reason } in verdict.as_ref().err().into_iter().flatten() {
                tracing::warn!(%type_, name, reason, "resource refused");
            }
            let in_effect = verdict.is_err() || sink.in_effect(type_);
            tracing::debug!(%type_, version, changed, removed, in_effect, "update handled");
            let mut requests = match in_effect {
                true => session.answer(verdict, &sink.wanted()),
                false => session.hold_back(&sink.wanted()),
            };
            requests.extend(acknowledge(session, sink));
            requests
        }
        Received::Refused { type_, rejected: Rejected { reason, .. }, answer: request } => {
            tracing::warn!(%type_, reason, "response refused");
            sink.refused(type_);
            let mut requests = session.acknowledge(type_);
            requests.push(request);
            requests
        }
        Received::Ignored(type_url) => {
            tracing::warn!(type_url, "response of a type that was not asked for ignored");
            Vec::new()
        }
    }
}
