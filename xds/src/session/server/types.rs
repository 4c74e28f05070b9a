//! What one client was told of one type, and what it made of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    Variant,
    blame::{RefusedVersion, blame},
};
use crate::{
    resource::{Rejected, ResourceType},
    session::{TypeSnapshot, Version, VersionedResource},
};

/// One type on one stream.
#[derive(Debug, Default)]
pub(super) struct TypeState {
    /// `None` until the client asks for the type.
    pub(super) subscription: Option<Subscription>,
    /// What the client was told last of each resource in the scope of its subscription. Canonical for what to send:
    /// what is here as it is in the snapshot is not sent, whatever the client answered.
    pub(super) told: BTreeMap<String, Told>,
    /// What the client is known to have, by name.
    acked: BTreeMap<String, Version>,
    /// What became of the last response.
    progress: Progress,
    /// Of the last response; empty before the first.
    pub(super) last_nonce: String,
    sent_version: Option<Version>,
    acked_version: Option<Version>,
    last_refusal: Option<Refusal>,
    /// What the client refused, by name, until it accepts another version or loses interest.
    refused: BTreeMap<String, RefusedVersion>,
    /// The client waits for an answer even if there is nothing to tell.
    pub(super) owed: bool,
    /// The state of the type for which nothing was left to send, while neither it nor the subscription changes. Saves
    /// comparing all resources of all types whenever one changes.
    up_to_date: Option<Arc<TypeSnapshot>>,
}

/// What a client wants of a type.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Subscription {
    /// Everything that there is.
    pub(super) all: bool,
    /// By name; also of resources that do not exist.
    pub(super) names: BTreeSet<String>,
}

/// What a client was told of a resource.
#[derive(Debug)]
pub(super) enum Told {
    /// That it exists, on this stream.
    Is(Arc<VersionedResource>),
    /// It has it from an earlier stream; `None` if the version is not one of ours.
    Had(Option<Version>),
    /// That it does not exist.
    Absent,
}

/// What became of the last response.
#[derive(Debug, Default)]
enum Progress {
    /// There was none, or it was accepted.
    #[default]
    Settled,
    /// Not answered yet.
    Waiting { version: Version, upserts: Vec<(String, Version)>, removed: Vec<String> },
    /// It was refused, and nothing was sent since.
    Refused,
}

/// What a client does not know yet.
#[derive(Debug, Default)]
pub(super) struct Diff {
    pub(super) owed: bool,
    pub(super) upserts: Vec<Arc<VersionedResource>>,
    /// Asked for by name, and never existed as far as the client knows.
    pub(super) absent: Vec<String>,
    /// Existed before.
    pub(super) removed: Vec<String>,
}

/// A response that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The version of the type.
    pub version: Version,
    /// The client's words.
    pub message: String,
    /// The resources that it refused, where it tells; it accepted the others then.
    pub resources: Vec<Rejected>,
}

/// How far a client is with one type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SyncState {
    /// It has what it is to have.
    Synced,
    /// It asked, and was told nothing yet.
    NotSent,
    /// It has not answered yet, or there is more to tell.
    Stale,
    /// It refused something that it is to have.
    Refused,
}

/// What is known of a client's state of one type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypeReport {
    /// Version of the type in the last response.
    pub sent: Option<Version>,
    /// Version of the type in the last response that was accepted as a whole.
    pub acked: Option<Version>,
    /// How many resources it is known to have.
    pub held: usize,
    /// What it is known to have; empty in a summary.
    pub resources: BTreeMap<String, Version>,
    /// The last refusal, until a later response is accepted.
    pub refusal: Option<Refusal>,
    /// What it refused and has no later version of, by name.
    pub refused: BTreeMap<String, RefusedVersion>,
}

// === impl TypeState ===

impl TypeState {
    /// What is to be sent; `None` if nothing was asked for or nothing changed.
    pub(super) fn diff(
        &mut self,
        type_: ResourceType,
        current: &Arc<TypeSnapshot>,
        variant: Variant,
    ) -> Option<Diff> {
        let subscription = self.subscription.as_ref()?;
        if !self.owed && self.up_to_date.as_ref().is_some_and(|seen| Arc::ptr_eq(seen, current)) {
            return None;
        }
        let mut diff = Diff { owed: self.owed, ..Default::default() };
        for (name, resource) in &current.resources {
            if subscription.covers(name) && self.told.get(name).is_none_or(|told| !told.is(resource.version))
            {
                diff.upserts.push(resource.clone());
            }
        }
        for (name, told) in &self.told {
            if !matches!(told, Told::Absent) && !current.resources.contains_key(name) {
                diff.removed.push(name.clone());
            }
        }
        if variant == Variant::Sotw && !type_.is_wildcard_by_default() {
            // State of the world has no words for the absence of what is asked for by name. It is enough to remember
            // that it has to be sent should it come back.
            for name in diff.removed.drain(..) {
                self.acked.remove(&name);
                self.refused.remove(&name);
                self.told.insert(name, Told::Absent);
            }
        }
        if variant == Variant::Delta {
            let unknown =
                |name: &&String| !self.told.contains_key(*name) && !current.resources.contains_key(*name);
            diff.absent.extend(subscription.names.iter().filter(unknown).cloned());
        }
        if diff.is_empty() {
            self.up_to_date = Some(current.clone());
            return None;
        }
        Some(diff)
    }

    /// All resources for a response with the state of the world, in the order of their names.
    pub(super) fn all_in_scope(
        &self,
        current: &TypeSnapshot,
        with_removed: bool,
    ) -> Vec<Arc<VersionedResource>> {
        let Some(subscription) = &self.subscription else { return Vec::new() };
        let mut all: Vec<_> = current
            .resources
            .values()
            .filter(|resource| subscription.covers(&resource.name))
            .cloned()
            .collect();
        if with_removed {
            all.extend(self.told.iter().filter_map(|(name, told)| match told {
                Told::Is(resource) if !current.resources.contains_key(name) => Some(resource.clone()),
                _ => None,
            }));
        }
        all
    }

    /// Takes note of a response that goes out now.
    pub(super) fn sent(
        &mut self,
        nonce: &str,
        version: Version,
        upserts: &[Arc<VersionedResource>],
        removed: &[String],
    ) {
        for resource in upserts {
            self.told.insert(resource.name.clone(), Told::Is(resource.clone()));
        }
        for name in removed {
            let by_name =
                self.subscription.as_ref().is_some_and(|subscription| subscription.names.contains(name));
            if by_name {
                self.told.insert(name.clone(), Told::Absent);
            } else {
                self.told.remove(name);
            }
        }
        self.progress = Progress::Waiting {
            version,
            upserts: upserts.iter().map(|resource| (resource.name.clone(), resource.version)).collect(),
            removed: removed.to_vec(),
        };
        self.last_nonce = nonce.to_owned();
        self.sent_version = Some(version);
        self.owed = false;
    }

    /// The client accepted the response that it was waiting for; false if there was none.
    pub(super) fn accepted(&mut self) -> bool {
        if !self.is_waiting() {
            return false;
        }
        let Progress::Waiting { version, upserts, removed } = std::mem::take(&mut self.progress) else {
            return false;
        };
        self.acked_version = Some(version);
        self.last_refusal = None;
        self.acknowledge(upserts, &removed, |_| true);
        true
    }

    /// The client refused the response; `None` if there was none to answer.
    pub(super) fn refused(&mut self, message: String, resources: Vec<Rejected>) -> Option<Refusal> {
        if !self.is_waiting() {
            return None;
        }
        let progress = std::mem::replace(&mut self.progress, Progress::Refused);
        let Progress::Waiting { version, upserts, removed } = progress else { return None };
        self.refused.extend(blame(&message, &resources, &upserts));
        if !resources.is_empty() {
            let bad: BTreeSet<_> = resources.iter().map(|rejected| rejected.name.as_str()).collect();
            self.acknowledge(upserts, &removed, |name| !bad.contains(name));
        }
        let refusal = Refusal { version, message, resources };
        self.last_refusal = Some(refusal.clone());
        Some(refusal)
    }

    fn acknowledge(
        &mut self,
        upserts: Vec<(String, Version)>,
        removed: &[String],
        good: impl Fn(&str) -> bool,
    ) {
        for (name, version) in upserts.into_iter().filter(|(name, _)| good(name)) {
            self.refused.remove(&name);
            self.acked.insert(name, version);
        }
        for name in removed.iter().filter(|name| good(name)) {
            self.refused.remove(name);
            self.acked.remove(name);
        }
        // It may have lost interest between response and answer.
        if let Some(subscription) = &self.subscription {
            self.acked.retain(|name, _| subscription.covers(name));
        }
    }

    /// Replaces the subscription; what is out of its scope is forgotten.
    pub(super) fn subscribe(&mut self, subscription: Subscription) {
        if self.subscription.as_ref() == Some(&subscription) {
            return;
        }
        self.told.retain(|name, _| subscription.covers(name));
        self.acked.retain(|name, _| subscription.covers(name));
        self.refused.retain(|name, _| subscription.covers(name));
        self.subscription = Some(subscription);
        self.up_to_date = None;
    }

    /// What the client has from an earlier stream.
    pub(super) fn had(&mut self, name: String, version: &str) {
        let version = version.parse().ok();
        if let Some(version) = version {
            self.acked.insert(name.clone(), version);
        }
        self.told.insert(name, Told::Had(version));
    }

    /// Has the named resources sent again.
    pub(super) fn forget<'a>(&mut self, names: impl IntoIterator<Item = &'a String>) {
        for name in names {
            if self.told.remove(name).is_some() {
                self.up_to_date = None;
            }
        }
    }

    pub(super) fn was_told(&self, name: &str) -> bool {
        matches!(self.told.get(name), Some(Told::Is(_) | Told::Had(_)))
    }

    pub(super) fn is_waiting(&self) -> bool {
        matches!(self.progress, Progress::Waiting { .. })
    }

    pub(super) fn is_settled(&self) -> bool {
        matches!(self.progress, Progress::Settled)
    }

    pub(super) fn has_acknowledged(&self, name: &str, current: Option<Version>) -> Option<bool> {
        let subscription = self.subscription.as_ref()?;
        // A removal counts when it was sent and what was sent is answered.
        let gone = || !self.was_told(name) && !self.is_waiting();
        subscription.covers(name).then(|| match current {
            Some(version) => self.acked.get(name) == Some(&version),
            None => !self.acked.contains_key(name) && gone(),
        })
    }

    pub(super) fn report(&self, with_resources: bool) -> Option<TypeReport> {
        self.subscription.as_ref()?;
        Some(TypeReport {
            sent: self.sent_version,
            acked: self.acked_version,
            held: self.acked.len(),
            resources: if with_resources { self.acked.clone() } else { BTreeMap::new() },
            refusal: self.last_refusal.clone(),
            refused: self.refused.clone(),
        })
    }

    /// How far the client is with `current`; `None` if it did not ask for the type.
    pub(super) fn sync(&self, current: Option<&Arc<TypeSnapshot>>) -> Option<SyncState> {
        self.subscription.as_ref()?;
        let up_to_date = match (&self.up_to_date, current) {
            (Some(seen), Some(current)) => Arc::ptr_eq(seen, current),
            _ => false,
        };
        Some(match &self.progress {
            _ if self.sent_version.is_none() => SyncState::NotSent,
            Progress::Refused => SyncState::Refused,
            _ if !self.refused.is_empty() => SyncState::Refused,
            Progress::Settled if up_to_date => SyncState::Synced,
            Progress::Settled | Progress::Waiting { .. } => SyncState::Stale,
        })
    }
}

// === impl Subscription ===

impl Subscription {
    pub(super) fn covers(&self, name: &str) -> bool {
        self.all || self.names.contains(name)
    }
}

// === impl Told ===

impl Told {
    fn is(&self, version: Version) -> bool {
        match self {
            Self::Is(resource) => resource.version == version,
            Self::Had(had) => *had == Some(version),
            Self::Absent => false,
        }
    }
}

// === impl Diff ===

impl Diff {
    fn is_empty(&self) -> bool {
        !self.owed && self.upserts.is_empty() && self.absent.is_empty() && self.removed.is_empty()
    }
}
