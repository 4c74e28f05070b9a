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

mod accept;
pub(crate) mod admission;
mod backlog;
mod body;
mod books;
mod cache;
mod csds;
mod listen;
mod metrics;
mod requests;
mod service;
mod single;
mod status;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, time::Duration};

pub use self::{
    accept::SecureServer,
    admission::{Admission, Caller, Refusal},
    cache::{Own, ProxyObserver, SnapshotCache},
    csds::CsdsService,
    listen::{Listener, ServeError, serve, serve_admitted},
    service::AdsService,
    status::{Nack, ProxyBooks, ProxyStatus, ResourceState, ResourceStatus, TypeStatus},
};
use crate::{pb::google::protobuf::Any, resource::ResourceType};

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
    /// `ScopedRouteConfiguration`s by name.
    pub scopes: BTreeMap<String, Any>,
    /// `VirtualHost`s by the name of their `RouteConfiguration`, a slash and a name of their own. Clients find them by
    /// any host among their domains. (Envoy removes one only if this is also the `name` in it.)
    pub virtual_hosts: BTreeMap<String, Any>,
    /// `TypedExtensionConfig`s by name.
    pub extensions: BTreeMap<String, Any>,
    /// `Runtime`s by name.
    pub runtimes: BTreeMap<String, Any>,
    /// How long clients that understand it keep a resource of a type and name if they do not hear of it again. They do
    /// for as long as it is here. Without, they keep it until it is changed or gone.
    pub ttls: BTreeMap<ResourceType, BTreeMap<String, Duration>>,
}

// === impl Snapshot ===

impl Snapshot {
    /// The resources of one type, by name.
    pub fn resources(&self, type_: ResourceType) -> &BTreeMap<String, Any> {
        match type_ {
            ResourceType::Runtime => &self.runtimes,
            ResourceType::Cluster => &self.clusters,
            ResourceType::ClusterLoadAssignment => &self.endpoints,
            ResourceType::Secret => &self.secrets,
            ResourceType::ExtensionConfig => &self.extensions,
            ResourceType::Listener => &self.listeners,
            ResourceType::ScopedRouteConfiguration => &self.scopes,
            ResourceType::RouteConfiguration => &self.routes,
            ResourceType::VirtualHost => &self.virtual_hosts,
        }
    }

    /// The resources of one type, by name, to be changed.
    pub fn resources_mut(&mut self, type_: ResourceType) -> &mut BTreeMap<String, Any> {
        match type_ {
            ResourceType::Runtime => &mut self.runtimes,
            ResourceType::Cluster => &mut self.clusters,
            ResourceType::ClusterLoadAssignment => &mut self.endpoints,
            ResourceType::Secret => &mut self.secrets,
            ResourceType::ExtensionConfig => &mut self.extensions,
            ResourceType::Listener => &mut self.listeners,
            ResourceType::ScopedRouteConfiguration => &mut self.scopes,
            ResourceType::RouteConfiguration => &mut self.routes,
            ResourceType::VirtualHost => &mut self.virtual_hosts,
        }
    }
}
