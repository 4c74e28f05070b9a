//! Serving configuration to proxies.
//!
//! A [`SnapshotCache`] holds one [`Snapshot`] per proxy, by the id of its node. Setting a snapshot pushes what differs
//! from the one before to the proxy's streams at once. [`AdsService`] is the gRPC service over it, and [`serve`] puts
//! it on a listener together with load reporting.
//!
//! # Guarantees
//! * Those of [`crate::session::server`], for each stream.
//! * A proxy without a snapshot gets no answer until it has one, and one whose snapshot is cleared keeps what it has.
//!
//! # Caveats
//! * Equal is what is encoded equally. Protobuf maps encode in any order: build resources from maps with more than one
//!   entry once, not for every snapshot.

mod books;
mod cache;
mod listen;
mod metrics;
mod service;
mod status;

use std::collections::BTreeMap;

pub use self::{
    cache::{ProxyObserver, SnapshotCache},
    listen::{Listener, ServeError, serve},
    service::AdsService,
    status::{Nack, ProxyBooks, ProxyStatus, ResourceState, ResourceStatus, TypeStatus},
};
use crate::pb::google::protobuf::Any;

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
