//! The server's end of one stream.
//!
//! # Guarantees
//! * At most one response per type is unanswered at a time; changes that come meanwhile are sent together after it.
//! * Make before break: clusters go out before their endpoints, then certificates, listeners and routes. A cluster or
//!   an endpoint set is removed only after the proxy accepted the listeners and routes that no longer use it; while
//!   it refuses them, it keeps the clusters that the old ones need.
//! * A version of a resource that was refused is not sent again on the stream unless the client asks for it anew. (In
//!   state-of-the-world mode a later response of the type has to repeat it: leaving it out would remove it.)
//! * An answer with a stale nonce is ignored. Changes of subscription that come with one count in delta mode, where
//!   they are not repeated, and not in state-of-the-world mode, where they are.
//!
//! # Assumptions
//! * The client handles responses in the order in which they are sent, as every known client does.

mod blame;
mod request;
mod types;

use std::{collections::BTreeSet, sync::Arc};

use self::types::{Diff, Subscription, TypeState};
pub use self::{
    blame::RefusedVersion,
    request::Handled,
    types::{Refusal, SyncState, TypeReport},
};
use super::{Version, VersionedResource, VersionedSnapshot};
use crate::{
    any,
    pb::envoy::{
        config::{cluster::v3::Cluster, core::v3::ControlPlane},
        service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse, Resource},
    },
    resource::ResourceType,
};

/// The variant of the protocol that a stream speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// Incremental.
    Delta,
    /// State of the world.
    Sotw,
}

/// The server's end of one stream; see the [module](self).
#[derive(Debug)]
pub struct ServerSession {
    variant: Variant,
    /// `None` until there is one for this proxy: nothing is answered before.
    snapshot: Option<Arc<VersionedSnapshot>>,
    /// Indexed by type.
    types: [TypeState; ResourceType::ALL.len()],
    /// Number of responses so far; the source of nonces.
    responses: u64,
}

/// A response to be sent.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// Of all resources in it.
    pub type_: ResourceType,
    /// Of the type as a whole.
    pub version: Version,
    /// Answered by the client.
    pub nonce: String,
    /// New and changed resources; all of them in state-of-the-world mode for clusters and listeners.
    pub upserts: Vec<Arc<VersionedResource>>,
    /// Names that are gone; not expressed in state-of-the-world mode.
    pub removed: Vec<String>,
}

// === impl ServerSession ===

impl ServerSession {
    /// A new stream on which nothing was said yet.
    pub fn new(variant: Variant) -> Self {
        Self { variant, snapshot: None, types: Default::default(), responses: 0 }
    }

    /// Replaces what the proxy is to know. [`next`](Self::next) then gives what to send.
    pub fn set_snapshot(&mut self, snapshot: Arc<VersionedSnapshot>) {
        self.snapshot = Some(snapshot);
    }

    /// The next response to send, until there is none.
    // Not an iterator: what comes next depends on what is received in between.
    #[expect(clippy::should_implement_trait, reason = "not an iterator, more may come after None")]
    pub fn next(&mut self) -> Option<Outgoing> {
        let snapshot = self.snapshot.clone()?;
        for type_ in ResourceType::ALL {
            let Some(diff) = self.diff(type_, &snapshot) else { continue };
            let removes_now = !is_referred_to(type_);
            let due = diff.owed || !diff.upserts.is_empty() || !diff.absent.is_empty();
            if !due && (diff.removed.is_empty() || !removes_now) {
                continue;
            }
            if self.types[type_.index()].is_waiting() {
                // Later types may refer to what is waiting here.
                return None;
            }
            return Some(self.send(type_, &snapshot, diff, removes_now));
        }
        if ResourceType::ALL.into_iter().any(|type_| refers_to_others(type_) && !self.is_settled(type_)) {
            return None;
        }
        for type_ in ResourceType::ALL {
            let Some(diff) = self.diff(type_, &snapshot).filter(|diff| !diff.removed.is_empty()) else {
                continue;
            };
            if self.types[type_.index()].is_waiting() {
                return None;
            }
            return Some(self.send(type_, &snapshot, diff, true));
        }
        None
    }

    /// What is known of the client's state of one type; `None` if it did not ask for it.
    pub fn report(&self, type_: ResourceType) -> Option<TypeReport> {
        self.types[type_.index()].report(true)
    }

    /// The same without each of its resources, of which there can be ten thousands.
    pub fn summary(&self, type_: ResourceType) -> Option<TypeReport> {
        self.types[type_.index()].report(false)
    }

    /// How far the client is with one type; `None` if it did not ask for it.
    pub fn sync(&self, type_: ResourceType) -> Option<SyncState> {
        let current = self.snapshot.as_ref().map(|snapshot| snapshot.get(type_));
        self.types[type_.index()].sync(current)
    }

    /// What the client is to have of one type, and the names of what it asked for that does not exist.
    pub fn wanted(&self, type_: ResourceType) -> (Vec<Arc<VersionedResource>>, Vec<String>) {
        let subscription = self.types[type_.index()].subscription.as_ref();
        let Some((subscription, snapshot)) = subscription.zip(self.snapshot.as_ref()) else {
            return Default::default();
        };
        let there = &snapshot.get(type_).resources;
        let wanted = there.values().filter(|resource| subscription.covers(&resource.name));
        let missing = subscription.names.iter().filter(|name| !there.contains_key(*name));
        (wanted.cloned().collect(), missing.cloned().collect())
    }

    /// Whether the client is known to have the current version of a resource, or to know of its absence.
    ///
    /// `None` if it did not ask for it.
    pub fn is_acknowledged(&self, type_: ResourceType, name: &str) -> Option<bool> {
        let snapshot = self.snapshot.as_ref()?;
        let current = snapshot.get(type_).resources.get(name).map(|resource| resource.version);
        self.types[type_.index()].has_acknowledged(name, current)
    }

    fn diff(&mut self, type_: ResourceType, snapshot: &VersionedSnapshot) -> Option<Diff> {
        self.types[type_.index()].diff(type_, snapshot.get(type_), self.variant)
    }

    /// Whether the client accepted the last response of a type, or never asked for it.
    fn is_settled(&self, type_: ResourceType) -> bool {
        self.types[type_.index()].is_settled()
    }

    fn send(
        &mut self,
        type_: ResourceType,
        snapshot: &VersionedSnapshot,
        diff: Diff,
        removes: bool,
    ) -> Outgoing {
        self.responses += 1;
        let nonce = self.responses.to_string();
        let current = snapshot.get(type_);
        let state = &mut self.types[type_.index()];
        if type_ == ResourceType::Cluster {
            let updated: BTreeSet<_> = diff
                .upserts
                .iter()
                .filter(|cluster| state.was_told(&cluster.name))
                .filter_map(|cluster| endpoints_name(cluster))
                .collect();
            // A proxy that takes over a changed cluster waits for endpoints anew, and Envoy does not ask for them if
            // it asked before.
            self.types[ResourceType::ClusterLoadAssignment.index()].forget(&updated);
        }
        let state = &mut self.types[type_.index()];
        let full = self.variant == Variant::Sotw && type_.is_wildcard_by_default();
        let mut removed = diff.absent;
        if removes {
            removed.extend(diff.removed);
        }
        let upserts = if full { state.all_in_scope(current, !removes) } else { diff.upserts };
        state.sent(&nonce, current.version, &upserts, &removed);
        Outgoing { type_, version: current.version, nonce, upserts, removed }
    }
}

// === impl Outgoing ===

impl Outgoing {
    /// As it goes over a delta stream.
    pub fn into_delta(self, control_plane: &str) -> DeltaDiscoveryResponse {
        let resource = |resource: Arc<VersionedResource>| Resource {
            name: resource.name.clone(),
            version: resource.version.to_string(),
            resource: Some(resource.body.clone()),
            ..Default::default()
        };
        DeltaDiscoveryResponse {
            system_version_info: self.version.to_string(),
            resources: self.upserts.into_iter().map(resource).collect(),
            type_url: self.type_.type_url().to_owned(),
            removed_resources: self.removed,
            nonce: self.nonce,
            control_plane: Some(ControlPlane { identifier: control_plane.to_owned() }),
            ..Default::default()
        }
    }

    /// As it goes over a state-of-the-world stream.
    pub fn into_sotw(self, control_plane: &str) -> DiscoveryResponse {
        DiscoveryResponse {
            version_info: self.version.to_string(),
            resources: self.upserts.iter().map(|resource| resource.body.clone()).collect(),
            type_url: self.type_.type_url().to_owned(),
            nonce: self.nonce,
            control_plane: Some(ControlPlane { identifier: control_plane.to_owned() }),
            ..Default::default()
        }
    }
}

/// Whether resources of other types refer to these by name, so that they must go last.
fn is_referred_to(type_: ResourceType) -> bool {
    matches!(
        type_,
        ResourceType::Cluster
            | ResourceType::ClusterLoadAssignment
            | ResourceType::Secret
            | ResourceType::ExtensionConfig
    )
}

/// Whether resources of this type refer to those by name: while some of it is not accepted, what it may need stays.
fn refers_to_others(type_: ResourceType) -> bool {
    matches!(
        type_,
        ResourceType::ExtensionConfig
            | ResourceType::Listener
            | ResourceType::ScopedRouteConfiguration
            | ResourceType::RouteConfiguration
            | ResourceType::VirtualHost
    )
}

/// The name under which a cluster asks for its endpoints.
fn endpoints_name(cluster: &VersionedResource) -> Option<String> {
    let cluster: Cluster = any::unpack(&cluster.body).ok()?;
    let service = cluster.eds_cluster_config?.service_name;
    Some(if service.is_empty() { cluster.name } else { service })
}
