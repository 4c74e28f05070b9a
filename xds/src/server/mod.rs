//! Serving configuration to proxies.

use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

use crate::{
    pb::{envoy::config::core::v3::Node, google::protobuf::Any},
    resource::{Rejected, ResourceType},
};

/// All that one proxy is to know.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Snapshot {
    /// `Listener`s by name.
    pub listeners: BTreeMap<String, Any>,
    /// `Cluster`s by name.
    pub clusters: BTreeMap<String, Any>,
    /// `RouteConfiguration`s by name.
    pub routes: BTreeMap<String, Any>,
    /// `ClusterLoadAssignment`s by name.
    pub endpoints: BTreeMap<String, Any>,
    /// `Secret`s by name.
    pub secrets: BTreeMap<String, Any>,
}

/// The snapshots of all proxies; clones share them.
#[derive(Clone, Default)]
pub struct SnapshotCache {}

/// What is known of one proxy.
#[derive(Debug, Clone)]
pub struct ProxyStatus {
    /// As the proxy introduced itself.
    pub node: Node,
    /// Open streams.
    pub streams: usize,
    /// Per type that it asked for.
    pub types: BTreeMap<ResourceType, TypeStatus>,
}

/// What is known of one type at one proxy.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TypeStatus {
    /// Version of the type that was sent last.
    pub sent_version: String,
    /// Version of the type that was acknowledged last.
    pub acked_version: String,
    /// Version of each resource that the proxy is known to have.
    pub acked: BTreeMap<String, String>,
    /// The last refusal, until a later version is acknowledged.
    pub last_nack: Option<Nack>,
}

/// A response that a proxy refused.
#[derive(Debug, Clone, PartialEq)]
pub struct Nack {
    /// The version of the type that was refused.
    pub version: String,
    /// The proxy's words.
    pub message: String,
    /// The resources that it refused, where it tells.
    pub resources: Vec<Rejected>,
    /// When.
    pub at: SystemTime,
}

/// Told of what proxies do. Called from the streams' tasks: return quickly.
pub trait ProxyObserver: Send + Sync {
    /// The first stream of this proxy was opened.
    fn connected(&self, _node: &Node) {}
    /// The last stream of this proxy was closed.
    fn disconnected(&self, _node: &Node) {}
    /// The proxy acknowledged or refused something; [`SnapshotCache::status`] has the details.
    fn answered(&self, _proxy_id: &str, _type_: ResourceType) {}
}

/// The gRPC service `envoy.service.discovery.v3.AggregatedDiscoveryService` over a [`SnapshotCache`].
#[derive(Clone)]
pub struct AdsService {}

// === impl SnapshotCache ===

impl SnapshotCache {
    /// Without any snapshot.
    pub fn new() -> Self {
        Self::default()
    }

    /// Replaces what a proxy is to know; what differs from before is pushed at once.
    pub fn set(&self, _proxy_id: &str, _snapshot: Snapshot) {}

    /// Forgets the proxy's snapshot. A proxy that is connected keeps what it has.
    pub fn clear(&self, _proxy_id: &str) {}

    /// What is known of a proxy that is or was connected.
    pub fn status(&self, _proxy_id: &str) -> Option<ProxyStatus> {
        None
    }

    /// The proxies with an open stream.
    pub fn connected(&self) -> Vec<Node> {
        Vec::new()
    }

    /// Adds an observer, for good.
    pub fn observe(&self, _observer: Arc<dyn ProxyObserver>) {}

    /// Metrics to be registered once.
    pub fn collector(&self) -> Box<dyn prometheus::core::Collector> {
        unimplemented!()
    }
}

// === impl AdsService ===

impl AdsService {
    /// Serves `cache` until `shutdown` is cancelled, which ends all streams.
    pub fn new(_cache: SnapshotCache, _shutdown: tokio_util::sync::CancellationToken) -> Self {
        Self {}
    }
}

/// Where a server accepts.
#[derive(Debug)]
pub enum Listener {
    /// Bound TCP socket.
    Tcp(tokio::net::TcpListener),
    /// Bound Unix socket.
    Unix(tokio::net::UnixListener),
}

/// Why serving ended early.
#[derive(Debug, thiserror::Error)]
#[error("xDS server failed")]
pub struct ServeError(#[source] tonic::transport::Error);

/// Serves ADS and load reporting on one listener until `shutdown` is cancelled; to be called once per listener.
pub async fn serve(
    _listener: Listener,
    _ads: AdsService,
    _lrs: crate::load::LrsService,
    shutdown: tokio_util::sync::CancellationToken,
) -> Result<(), ServeError> {
    shutdown.cancelled().await;
    Ok(())
}
