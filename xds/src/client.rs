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

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, timeout_at},
};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming, transport::Channel};
use weft_kit::{backoff::Backoff, error::chain};

use crate::{
    pb::envoy::{
        config::core::v3::Node,
        service::discovery::v3::{
            DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
            aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
        },
    },
    session::client::{ClientSession, DeltaClient, Received, SotwClient},
    transport::{Secure, StreamError, connect},
};
pub use crate::{
    resource::{Rejected, Resource, ResourceType, ResourceUpdate, Subscriptions},
    transport::ServerAddress,
};

/// The largest response that is taken: some hundred thousand resources at once.
const MAX_RESPONSE_BYTES: usize = 256 << 20;

/// Which variant of the protocol to speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protocol {
    /// Incremental: only what changed travels (`DELTA_GRPC`).
    #[default]
    Delta,
    /// State of the world: all clusters and listeners travel with each change (`GRPC`).
    Sotw,
}

/// How to reach the server and who we are.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// Where the server listens.
    pub server: ServerAddress,
    /// Makes connections secure; they are in plain text without.
    pub secure: Option<Arc<dyn Secure>>,
    /// Who asks; its `id` decides what the server answers.
    pub node: Node,
    /// Which variant to speak.
    pub protocol: Protocol,
    /// How long to wait for a connection.
    pub connect_timeout: Duration,
    /// The first delay after a failure; doubles up to `backoff_max`.
    pub backoff_base: Duration,
    /// The longest delay between attempts.
    pub backoff_max: Duration,
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

    /// What the configuration now refers to. Asked when connecting and after each [`apply`](Self::apply).
    fn wanted(&self) -> Subscriptions;

    /// The stream to the server came up or was lost; the configuration stays in force either way.
    fn connected(&mut self, _connected: bool) {}

    /// A response was refused before any of it was handed out.
    fn refused(&mut self, _type: ResourceType) {}

    /// Puts in force what an earlier run kept, and tells what of it now is: one update for each type. Called at most
    /// once, before the first [`apply`](Self::apply), and only if [`ClientConfig::resume_after`] is given.
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
    /// Delta protocol, 5 s to connect, and back-off from 500 ms to 30 s (Envoy's defaults).
    pub fn new(server: ServerAddress, node: Node) -> Self {
        Self {
            server,
            secure: None,
            node,
            protocol: Protocol::default(),
            connect_timeout: Duration::from_secs(5),
            backoff_base: Duration::from_millis(500),
            backoff_max: Duration::from_secs(30),
            wanted_changed: Arc::default(),
            resume_after: None,
        }
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
    let mut phase = config.resume_after.map_or(Phase::Running, Phase::Starting);
    loop {
        match stream(config, &mut dialect, &mut sink, &mut backoff, &mut phase).await {
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

async fn stream<D: Dialect>(
    config: &ClientConfig,
    dialect: &mut D,
    sink: &mut impl ConfigSink,
    backoff: &mut Backoff,
    phase: &mut Phase,
) -> Result<(), StreamError> {
    let deadline = match *phase {
        Phase::Starting(patience) => Some(Instant::now() + patience),
        Phase::Running => None,
    };
    let connecting = connect(&config.server, config.secure.as_ref(), config.connect_timeout);
    let channel = within(deadline, expiring(dialect.session(), sink, connecting)).await??;
    // Unbounded, but each response leads to a handful of requests at most, and the next one is read after they are in.
    let (requests, receiver) = mpsc::unbounded_channel();
    let send_all = |ours: Vec<_>| ours.into_iter().try_for_each(|request| requests.send(request)).is_ok();
    // Before the stream is open, as some servers answer nothing, not even the headers, until they are asked.
    let _ = send_all(dialect.session().open(&sink.wanted()));
    let opening = D::start(channel, UnboundedReceiverStream::new(receiver));
    let opening = expiring(dialect.session(), sink, opening);
    let mut responses = within(deadline, opening).await?.map_err(StreamError::Open)?;
    tracing::info!(server = %config.server, "configuration stream opened");
    let connected = Connected::new(sink);
    let mut deadline = deadline;
    loop {
        let response = tokio::select! {
            response = within(deadline, responses.message()) => response?.map_err(StreamError::Lost)?,
            () = until(dialect.session().deadline()) => {
                expire(dialect.session(), connected.sink);
                if !send_all(dialect.session().answer(Ok(()), &connected.sink.wanted())) {
                    break;
                }
                continue;
            }
            () = config.wanted_changed.notified() => {
                if !send_all(dialect.session().answer(Ok(()), &connected.sink.wanted())) {
                    break;
                }
                continue;
            }
        };
        let Some(response) = response else { break };
        backoff.reset();
        deadline = None;
        *phase = Phase::Running;
        let answers = take(dialect.session(), connected.sink, response);
        if !send_all(answers) {
            break;
        }
    }
    Ok(())
}

async fn within<T>(deadline: Option<Instant>, what: impl Future<Output = T>) -> Result<T, StreamError> {
    match deadline {
        Some(deadline) => timeout_at(deadline, what).await.map_err(|_| StreamError::Silent),
        None => Ok(what.await),
    }
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
            tracing::debug!(%type_, version, changed, removed, "update handled");
            session.answer(verdict, &sink.wanted())
        }
        Received::Refused { type_, rejected: Rejected { reason, .. }, answer: request } => {
            tracing::warn!(%type_, reason, "response refused");
            sink.refused(type_);
            vec![request]
        }
        Received::Ignored(type_url) => {
            tracing::warn!(type_url, "response of a type that was not asked for ignored");
            Vec::new()
        }
    }
}

/// What differs between the variants besides the session: the method to call.
trait Dialect: Send {
    type Session: ClientSession;

    fn session(&mut self) -> &mut Self::Session;

    async fn start(
        channel: Channel,
        requests: UnboundedReceiverStream<<Self::Session as ClientSession>::Request>,
    ) -> Result<Streaming<<Self::Session as ClientSession>::Response>, Status>;
}

struct Delta(DeltaClient);

struct Sotw(SotwClient);

/// Tells the sink when the stream ends, however it does.
struct Connected<'a, S: ConfigSink> {
    sink: &'a mut S,
}

// === impl Connected ===

impl<'a, S: ConfigSink> Connected<'a, S> {
    fn new(sink: &'a mut S) -> Self {
        sink.connected(true);
        Self { sink }
    }
}

impl<S: ConfigSink> Drop for Connected<'_, S> {
    fn drop(&mut self) {
        self.sink.connected(false);
    }
}

// === impl Delta ===

impl Dialect for Delta {
    type Session = DeltaClient;

    fn session(&mut self) -> &mut DeltaClient {
        &mut self.0
    }

    async fn start(
        channel: Channel,
        requests: UnboundedReceiverStream<DeltaDiscoveryRequest>,
    ) -> Result<Streaming<DeltaDiscoveryResponse>, Status> {
        let mut client = service(channel);
        Ok(client.delta_aggregated_resources(requests).await?.into_inner())
    }
}

// === impl Sotw ===

impl Dialect for Sotw {
    type Session = SotwClient;

    fn session(&mut self) -> &mut SotwClient {
        &mut self.0
    }

    async fn start(
        channel: Channel,
        requests: UnboundedReceiverStream<DiscoveryRequest>,
    ) -> Result<Streaming<DiscoveryResponse>, Status> {
        let mut client = service(channel);
        Ok(client.stream_aggregated_resources(requests).await?.into_inner())
    }
}

fn service(channel: Channel) -> AggregatedDiscoveryServiceClient<Channel> {
    AggregatedDiscoveryServiceClient::new(channel)
        .max_decoding_message_size(MAX_RESPONSE_BYTES)
        .max_encoding_message_size(usize::MAX)
}
