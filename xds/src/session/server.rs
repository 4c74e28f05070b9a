//! The server's end of one stream.
//!
//! # Guarantees
//! * At most one response per type is unanswered at a time; changes that come meanwhile are sent together after it.
//! * What clusters are made of, their endpoints and certificates, does not wait for an answer to the clusters: a client
//!   may hold that back until it has them.
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

mod aliases;
mod blame;
mod lives;
mod outgoing;
mod request;
mod states;
mod subscription;
mod types;

use std::sync::Arc;

pub(crate) use self::outgoing::Encoding;
pub use self::{
    blame::RefusedVersion,
    outgoing::Outgoing,
    request::Handled,
    subscription::NameLists,
    types::{Refusal, SyncState, TypeReport},
};
use self::{lives::Lives, states::TypeStates, subscription::Subscription, types::Diff};
use super::{Name, Version, VersionedResource, VersionedSnapshot};
use crate::resource::ResourceType;

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
    given: Option<Arc<VersionedSnapshot>>,
    /// The same with what the client named of its reserve.
    snapshot: Option<Arc<VersionedSnapshot>>,
    types: TypeStates,
    lists: NameLists,
    /// Number of responses so far; the source of nonces.
    responses: u64,
    lives: Lives,
}

// === impl ServerSession ===

impl ServerSession {
    /// A new stream on which nothing was said yet.
    pub fn new(variant: Variant) -> Self {
        let (types, lists, lives) = Default::default();
        Self { variant, given: None, snapshot: None, types, lists, responses: 0, lives }
    }

    /// The names that clients of several sessions ask for are kept once, in `lists`. To be told before anything is said.
    pub fn sharing(self, lists: NameLists) -> Self {
        Self { lists, ..self }
    }

    /// Replaces what the proxy is to know. [`next`](Self::next) then gives what to send.
    pub fn set_snapshot(&mut self, snapshot: Arc<VersionedSnapshot>) {
        if self.snapshot.is_none() {
            for type_ in ResourceType::ALL {
                if let Some(state) = self.types.asked(type_) {
                    state.share_names(snapshot.get(type_), &self.lists);
                }
            }
        }
        self.given = Some(snapshot);
        self.compose();
    }

    /// To be called whenever the snapshot or a subscription changed.
    fn compose(&mut self) {
        self.snapshot = self.given.as_ref().map(|given| {
            if !given.has_reserve() {
                return given.clone();
            }
            let names = |type_: ResourceType| {
                let subscription = self.types[type_].subscription.as_ref();
                subscription.map(Subscription::all_names).unwrap_or_default()
            };
            Arc::new(given.with_named(names))
        });
        if let Some(snapshot) = &self.snapshot {
            for type_ in ResourceType::ALL {
                if let Some(state) = self.types.asked(type_) {
                    state.reach(type_, snapshot.get(type_));
                }
            }
        }
    }

    /// The next response to send, until there is none.
    // Not an iterator: what comes next depends on what is received in between.
    #[expect(clippy::should_implement_trait, reason = "not an iterator, more may come after None")]
    pub fn next(&mut self) -> Option<Outgoing> {
        let snapshot = self.snapshot.clone()?;
        let mut clusters_wait = false;
        for type_ in ResourceType::ALL {
            if self.types[type_].is_stalled() {
                if type_ == ResourceType::Cluster {
                    clusters_wait = true;
                    continue;
                }
                return None;
            }
            let Some(diff) = self.diff(type_, &snapshot) else { continue };
            let removes_now = !is_referred_to(type_);
            let due = diff.owed || !diff.upserts.is_empty() || !diff.absent.is_empty();
            if !due && (diff.removed.is_empty() || !removes_now) {
                continue;
            }
            if clusters_wait && !is_part_of_clusters(type_) {
                return None;
            }
            if self.types[type_].stall() {
                if type_ == ResourceType::Cluster {
                    clusters_wait = true;
                    continue;
                }
                // Later types may refer to what is waiting here.
                return None;
            }
            return Some(self.send(type_, &snapshot, diff, removes_now));
        }
        if clusters_wait {
            return None;
        }
        if ResourceType::ALL.into_iter().any(|type_| refers_to_others(type_) && !self.is_settled(type_)) {
            return None;
        }
        for type_ in ResourceType::ALL {
            let Some(diff) = self.diff(type_, &snapshot).filter(|diff| !diff.removed.is_empty()) else {
                continue;
            };
            if self.types[type_].is_waiting() {
                return None;
            }
            return Some(self.send(type_, &snapshot, diff, true));
        }
        None
    }

    /// What is known of the client's state of one type; `None` if it did not ask for it.
    pub fn report(&self, type_: ResourceType) -> Option<TypeReport> {
        self.types[type_].report(true)
    }

    /// The same without each of its resources, of which there can be ten thousands.
    pub fn summary(&self, type_: ResourceType) -> Option<TypeReport> {
        self.types[type_].report(false)
    }

    /// How far the client is with one type; `None` if it did not ask for it.
    pub fn sync(&self, type_: ResourceType) -> Option<SyncState> {
        let current = self.snapshot.as_ref().map(|snapshot| snapshot.get(type_));
        self.types[type_].sync(current)
    }

    /// What the client is to have of one type, and the names of what it asked for that does not exist.
    pub fn wanted(&self, type_: ResourceType) -> (Vec<Arc<VersionedResource>>, Vec<String>) {
        let state = &self.types[type_];
        let Some((subscription, snapshot)) = state.subscription.as_ref().zip(self.snapshot.as_ref()) else {
            return Default::default();
        };
        let there = snapshot.get(type_);
        let wanted = there.iter().filter(|resource| state.covers(&resource.name)).cloned().collect();
        let missing =
            subscription.all_names().iter().filter(|name| there.get(name).is_none() && !state.is_alias(name));
        (wanted, missing.map(Name::to_string).collect())
    }

    /// Whether the client is known to have the current version of a resource, or to know of its absence.
    ///
    /// `None` if it did not ask for it.
    pub fn is_acknowledged(&self, type_: ResourceType, name: &str) -> Option<bool> {
        let snapshot = self.snapshot.as_ref()?;
        let current = snapshot.get(type_).get(name).map(|resource| resource.version);
        self.types[type_].has_acknowledged(name, current)
    }

    /// The version of a resource that the client is known to have, if any; `None` if it did not ask for it.
    pub fn held_version(&self, type_: ResourceType, name: &str) -> Option<Option<Version>> {
        self.types[type_].held_version(name)
    }

    /// Whether the client asked for one of these.
    pub(crate) fn is_concerned_by(&self, type_: ResourceType, names: &[Name]) -> bool {
        self.types[type_].is_concerned_by(type_, names)
    }

    /// The number of responses that are not answered yet.
    pub(crate) fn unanswered(&self) -> usize {
        self.types.iter().filter(|state| state.is_waiting()).count()
    }

    fn diff(&mut self, type_: ResourceType, snapshot: &VersionedSnapshot) -> Option<Diff> {
        self.types.asked(type_)?.diff(type_, snapshot.get(type_), self.variant)
    }

    /// Whether the client accepted the last response of a type, or never asked for it.
    fn is_settled(&self, type_: ResourceType) -> bool {
        self.types[type_].is_settled()
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
        let repeats_all = self.repeats_all(type_);
        let state = &mut self.types[type_];
        if type_ == ResourceType::Cluster {
            let updated: Vec<_> = diff
                .upserts
                .iter()
                .filter(|cluster| state.was_told(&cluster.name))
                .filter_map(|cluster| cluster.endpoints_name.clone())
                .collect();
            // A proxy that takes over a changed cluster waits for endpoints anew, and Envoy does not ask for them if
            // it asked before.
            if let Some(endpoints) = self.types.asked(ResourceType::ClusterLoadAssignment) {
                endpoints.forget(&updated);
            }
        }
        let state = &mut self.types[type_];
        let by_resource = type_ == ResourceType::VirtualHost;
        let (unknown, mut removed) =
            if by_resource { (diff.absent, Vec::new()) } else { (Vec::new(), diff.absent) };
        let mut kept = diff.removed;
        if removes {
            removed.extend(kept.drain(..).map(|(name, _)| name));
        }
        let upserts = Arc::new(if repeats_all { state.all_in_scope(current, &kept) } else { diff.upserts });
        let aliases = |resource: &Arc<VersionedResource>| {
            let aliases: Vec<_> = state.aliases(&resource.name).cloned().collect();
            (!aliases.is_empty()).then(|| (resource.name.clone(), aliases))
        };
        let aliases = upserts.iter().filter_map(aliases).collect();
        let told_gone = unknown.iter().chain(&removed).cloned().collect();
        state.sent(&nonce, current, upserts.clone(), told_gone, kept);
        let (version, with_ttl) = (current.version(), self.lives.are_understood());
        Outgoing { type_, version, nonce, upserts, alive: Vec::new(), with_ttl, removed, unknown, aliases }
    }
}

/// Whether a client may need this type before it answers for the clusters that it was sent: as Envoy does, it may hold
/// its answer back until they can be used.
fn is_part_of_clusters(type_: ResourceType) -> bool {
    matches!(type_, ResourceType::ClusterLoadAssignment | ResourceType::Secret)
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
