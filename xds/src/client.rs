//! Keeping a configuration in step with an xDS server.
//!
//! # Guarantees
//! * Those of [`crate::session::client`].
//! * The stream is opened anew whenever it ends, with jittered back-off; what is in force stays in force meanwhile.
//! * A peer that is gone without a word is noticed within a minute.

use std::time::Duration;

use tokio::sync::mpsc;
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
    transport::{StreamError, connect},
};
pub use crate::{
    resource::{Rejected, Resource, ResourceUpdate, Subscriptions},
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
}

// === impl ClientConfig ===

impl ClientConfig {
    /// Delta protocol, 5 s to connect, and back-off from 500 ms to 30 s (Envoy's defaults).
    pub fn new(server: ServerAddress, node: Node) -> Self {
        Self {
            server,
            node,
            protocol: Protocol::default(),
            connect_timeout: Duration::from_secs(5),
            backoff_base: Duration::from_millis(500),
            backoff_max: Duration::from_secs(30),
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
    loop {
        match stream(config, &mut dialect, &mut sink, &mut backoff).await {
            Ok(()) => tracing::info!(server = %config.server, "configuration stream ended"),
            Err(error) => {
                tracing::warn!(server = %config.server, error = chain(&error), "configuration stream failed");
            }
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

async fn stream<D: Dialect>(
    config: &ClientConfig,
    dialect: &mut D,
    sink: &mut impl ConfigSink,
    backoff: &mut Backoff,
) -> Result<(), StreamError> {
    let channel = connect(&config.server, config.connect_timeout).await?;
    // Unbounded, but each response leads to a handful of requests at most, and the next one is read after they are in.
    let (requests, receiver) = mpsc::unbounded_channel();
    let send_all = |ours: Vec<_>| ours.into_iter().try_for_each(|request| requests.send(request)).is_ok();
    // Before the stream is open, as some servers answer nothing, not even the headers, until they are asked.
    let _ = send_all(dialect.session().open(&sink.wanted()));
    let mut responses =
        D::start(channel, UnboundedReceiverStream::new(receiver)).await.map_err(StreamError::Open)?;
    tracing::info!(server = %config.server, "configuration stream opened");
    let connected = Connected::new(sink);
    while let Some(response) = responses.message().await.map_err(StreamError::Lost)? {
        backoff.reset();
        let answers = take(dialect.session(), connected.sink, response);
        if !send_all(answers) {
            break;
        }
    }
    Ok(())
}

/// What to send in answer to a response.
fn take<S: ClientSession>(
    session: &mut S,
    sink: &mut impl ConfigSink,
    response: S::Response,
) -> Vec<S::Request> {
    match session.receive(response) {
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
        Received::Refused(Rejected { reason, .. }, request) => {
            tracing::warn!(reason, "response refused");
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
