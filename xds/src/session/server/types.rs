//! What one client was told of one type, and what it made of it.

mod reached;
mod report;
mod told;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

pub use self::report::{Refusal, SyncState, TypeReport};
pub(super) use self::told::Told;
use super::{
    Variant,
    blame::{RefusedVersion, blame},
    subscription::{NameLists, Subscription},
};
use crate::{
    name::ResourceName,
    resource::{Rejected, ResourceType},
    session::{Change, Name, TypeSnapshot, Version, VersionedResource},
};

/// One type on one stream.
///
/// A client is usually told everything in the scope of its subscription and has accepted it. So what it was told is
/// kept as the snapshot that it was told from and the few names for which that is not so: an idle stream costs nothing
/// per resource, and what to send next follows from the difference of two snapshots.
#[derive(Debug, Default)]
pub(super) struct TypeState {
    /// `None` until the client asks for the type.
    pub(super) subscription: Option<Subscription>,
    /// What the client was told, of each name in the scope of its subscription that is not in `exceptions`. Together
    /// they are canonical for what to send: what is so in the current snapshot too is not sent, whatever the client
    /// answered.
    base: TypeSnapshot,
    /// Only names in the scope of the subscription.
    exceptions: BTreeMap<Name, Told>,
    /// Of what the client asked for by name it was told nothing yet, where `exceptions` has nothing else: who asks for
    /// thousands of names needs no thousands of exceptions until the first response.
    fresh: bool,
    /// What the client is known to have of a name where that is not what it was told last, because it refused that or
    /// its subscription changed before it answered. Only names in the scope of the subscription.
    unaccepted: BTreeMap<Name, Option<Version>>,
    /// Resources that the client is told of without having asked for them by their names, with the names that it used:
    /// virtual hosts of which it knows what they serve, what a glob stands for, and what has its context parameters in
    /// another order. No name where it has it from an earlier stream.
    reached: BTreeMap<Name, BTreeSet<Name>>,
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
}

/// What became of the last response.
#[derive(Debug, Default)]
enum Progress {
    /// There was none, or it was accepted.
    #[default]
    Settled,
    /// Not answered yet.
    Waiting(Box<Flight>),
    /// It was refused, and nothing was sent since.
    Refused,
}

/// A response that is not answered yet.
#[derive(Debug)]
struct Flight {
    version: Version,
    upserts: Arc<Vec<Arc<VersionedResource>>>,
    removed: Vec<Name>,
    /// What the client was told until then, and so has if it is not in `unaccepted`: accepting everything, which is the
    /// rule, costs nothing per resource. `None` once `unaccepted` has it of each resource of the response.
    before: Option<Before>,
    /// There is more to tell after the answer.
    more: bool,
    /// It says nothing new, and what was said before was refused.
    still_refused: bool,
}

/// As the fields of [`TypeState`].
#[derive(Debug)]
struct Before {
    base: TypeSnapshot,
    exceptions: BTreeMap<Name, Told>,
}

/// What a client does not know yet; each list in the order of the names.
#[derive(Debug, Default)]
pub(super) struct Diff {
    pub(super) owed: bool,
    pub(super) upserts: Vec<Arc<VersionedResource>>,
    /// Asked for by name, and never existed as far as the client knows.
    pub(super) absent: Vec<Name>,
    /// Existed before, as it was told.
    pub(super) removed: Vec<(Name, Told)>,
}

// === impl TypeState ===

impl TypeState {
    /// What is to be sent; `None` if nothing was asked for or nothing changed.
    pub(super) fn diff(
        &mut self,
        type_: ResourceType,
        current: &TypeSnapshot,
        variant: Variant,
    ) -> Option<Diff> {
        let subscription = self.subscription.as_ref()?;
        if !self.owed && !self.fresh && self.exceptions.is_empty() && self.base.is_same(current) {
            return None;
        }
        let mut diff = Diff { owed: self.owed, ..Default::default() };
        let mut changes = self.base.changes(current);
        subscription.retain(&mut changes, |name| self.reached.contains_key(name));
        let exceptional = |change: &Change<'_>| {
            change.name().is_some_and(|name| {
                (self.fresh && subscription.names(name))
                    || (!self.exceptions.is_empty() && self.exceptions.contains_key(name))
            })
        };
        for change in changes.into_iter().filter(|change| !exceptional(change)) {
            match (change.before, change.after) {
                (_, Some(resource)) => diff.upserts.push(resource.clone()),
                (Some(gone), None) => diff.removed.push((gone.name.clone(), Told::Is(gone.clone()))),
                (None, None) => {}
            }
        }
        let unheard = if self.fresh { subscription.all_names() } else { &[] };
        let unheard = unheard.iter().filter(|name| !self.exceptions.contains_key(*name));
        for (name, told) in unheard.map(|name| (name, &Told::Nothing)).chain(&self.exceptions) {
            match current.get(name) {
                // What dies would not live longer for being known from an earlier stream.
                Some(resource)
                    if told.version() == Some(resource.version)
                        && !(told.is_old() && resource.ttl().is_some()) => {}
                Some(resource) => diff.upserts.push(resource.clone()),
                None => match told {
                    Told::Is(_) | Told::Had(_) => diff.removed.push((name.clone(), told.clone())),
                    Told::Nothing if subscription.names(name) => diff.absent.push(name.clone()),
                    Told::Nothing | Told::Absent => {}
                },
            }
        }
        if !diff.absent.is_empty() && (!self.reached.is_empty() || subscription.has_structured()) {
            let absent = std::mem::take(&mut diff.absent);
            let unanswered = |asked: &Name| !self.is_answered_by_other(asked, &diff.upserts);
            diff.absent = absent.into_iter().filter(unanswered).collect();
        }
        if self.fresh || !self.exceptions.is_empty() {
            diff.upserts.sort_by(|one, other| one.name.cmp(&other.name));
            diff.removed.sort_by(|(one, _), (other, _)| one.cmp(other));
        }
        if variant == Variant::Sotw {
            // State of the world has no words for the absence of what is asked for by name. It is enough to remember
            // that it has to be sent should it come back.
            for name in diff.absent.drain(..) {
                self.exceptions.insert(name, Told::Absent);
            }
            if !type_.is_wildcard_by_default() {
                if !diff.removed.is_empty() {
                    self.doubt_flight();
                }
                for (name, _) in diff.removed.drain(..) {
                    self.unaccepted.remove(&name);
                    self.refused.remove(name.as_str());
                    self.exceptions.insert(name, Told::Absent);
                }
            }
        }
        if diff.is_empty() {
            // So that is what the client was told.
            self.base = current.clone();
            self.exceptions.clear();
            self.fresh = false;
            return None;
        }
        Some(diff)
    }

    /// All resources for a response with the state of the world in the order of their names, then those of `kept`.
    pub(super) fn all_in_scope(
        &self,
        current: &TypeSnapshot,
        kept: &[(Name, Told)],
    ) -> Vec<Arc<VersionedResource>> {
        let mut all: Vec<_> =
            current.iter().filter(|resource| self.covers(&resource.name)).cloned().collect();
        all.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        all.extend(kept.iter().filter_map(|(_, told)| match told {
            Told::Is(resource) => Some(resource.clone()),
            _ => None,
        }));
        all
    }

    /// Takes note of a response that goes out now. It brings the client in step with `current`, but for the removal of
    /// `kept`.
    pub(super) fn sent(
        &mut self,
        nonce: &str,
        current: &TypeSnapshot,
        upserts: Arc<Vec<Arc<VersionedResource>>>,
        removed: Vec<Name>,
        kept: Vec<(Name, Told)>,
    ) {
        let before = Before {
            base: std::mem::replace(&mut self.base, current.clone()),
            exceptions: std::mem::replace(&mut self.exceptions, kept.into_iter().collect()),
        };
        self.fresh = false;
        let version = current.version();
        let (before, still_refused) = (Some(before), false);
        let flight = Flight { version, upserts, removed, before, more: false, still_refused };
        self.progress = Progress::Waiting(Box::new(flight));
        self.last_nonce = nonce.to_owned();
        self.sent_version = Some(version);
        self.owed = false;
    }

    /// Takes note of a response that goes out now and says nothing new; gives its version.
    pub(super) fn said_alive(&mut self, nonce: &str, current: &TypeSnapshot) -> Version {
        let version = self.sent_version.unwrap_or_else(|| current.version());
        self.progress = Progress::Waiting(Box::new(Flight {
            version,
            upserts: Arc::default(),
            removed: Vec::new(),
            before: None,
            more: false,
            still_refused: matches!(self.progress, Progress::Refused) && !self.refused.is_empty(),
        }));
        self.last_nonce = nonce.to_owned();
        version
    }

    /// The client accepted the response that it was waiting for; false if there was none.
    pub(super) fn accepted(&mut self) -> bool {
        if !self.is_waiting() {
            return false;
        }
        let Progress::Waiting(flight) = std::mem::take(&mut self.progress) else { return false };
        if flight.still_refused {
            self.progress = Progress::Refused;
            return true;
        }
        self.acked_version = Some(flight.version);
        self.last_refusal = None;
        if !self.unaccepted.is_empty() || !self.refused.is_empty() {
            self.acknowledge(&flight.upserts, &flight.removed, |_| true);
        }
        true
    }

    /// The client refused the response; `None` if there was none to answer.
    pub(super) fn refused(&mut self, message: String, resources: Vec<Rejected>) -> Option<Refusal> {
        if !self.is_waiting() {
            return None;
        }
        self.doubt_flight();
        let progress = std::mem::replace(&mut self.progress, Progress::Refused);
        let Progress::Waiting(flight) = progress else { return None };
        let Flight { version, upserts, removed, .. } = *flight;
        let sent: Vec<_> = upserts.iter().map(|sent| (sent.name.to_string(), sent.version)).collect();
        self.refused.extend(blame(&message, &resources, &sent));
        if !resources.is_empty() {
            let bad: BTreeSet<_> = resources.iter().map(|rejected| rejected.name.as_str()).collect();
            self.acknowledge(&upserts, &removed, |name| !bad.contains(name));
        }
        let refusal = Refusal { version, message, resources };
        self.last_refusal = Some(refusal.clone());
        Some(refusal)
    }

    fn acknowledge(
        &mut self,
        upserts: &[Arc<VersionedResource>],
        removed: &[Name],
        good: impl Fn(&str) -> bool,
    ) {
        let upserts = upserts.iter().map(|resource| (&resource.name, Some(resource.version)));
        for (name, has) in upserts.chain(removed.iter().map(|name| (name, None))) {
            // It may have lost interest between response and answer.
            if !good(name) || !self.covers(name) {
                continue;
            }
            self.refused.remove(name.as_str());
            if self.told(name).version() == has {
                self.unaccepted.remove(name);
            } else {
                self.unaccepted.insert(name.clone(), has);
            }
        }
    }

    /// Notes of each resource of an unanswered response what the client has of it: until now that followed from what it
    /// was told before.
    fn doubt_flight(&mut self) {
        let Progress::Waiting(flight) = &mut self.progress else { return };
        let Some(before) = flight.before.take() else { return };
        let upserts = flight.upserts.iter().map(|resource| (&resource.name, Some(resource.version)));
        for (name, told) in upserts.chain(flight.removed.iter().map(|name| (name, None))) {
            let has = before.told(name).version();
            if has != told {
                self.unaccepted.entry(name.clone()).or_insert(has);
            }
        }
    }

    /// Replaces the subscription; what is out of its scope is forgotten.
    pub(super) fn subscribe(&mut self, subscription: Subscription) {
        let Some(old) = self.subscription.replace(subscription.clone()) else {
            self.fresh = !subscription.all_names().is_empty();
            return;
        };
        if old == subscription {
            return;
        }
        self.doubt_flight();
        if std::mem::take(&mut self.fresh) {
            for name in old.all_names() {
                self.exceptions.entry(name.clone()).or_insert(Told::Nothing);
            }
        }
        if subscription.all() && !old.all() {
            // Of all other names in the base it was told nothing.
            for name in old.all_names() {
                let told = self.told(name);
                self.exceptions.insert(name.clone(), told);
            }
            self.base = TypeSnapshot::default();
        }
        for name in subscription.all_names().iter().filter(|name| !old.names(name)) {
            let covered = old.covers(name) || self.reached.contains_key(name);
            let told = covered && !matches!(self.told(name), Told::Absent);
            if !told {
                self.exceptions.insert(name.clone(), Told::Nothing);
            }
        }
        self.reached.retain(|_, asked| {
            let by_alias = !asked.is_empty();
            asked.retain(|name| subscription.names(name));
            !by_alias || !asked.is_empty()
        });
        let covers = |name: &str| subscription.covers(name) || self.reached.contains_key(name);
        self.exceptions.retain(|name, _| covers(name));
        self.unaccepted.retain(|name, _| covers(name));
        self.refused.retain(|name, _| covers(name));
    }

    /// What the client has from an earlier stream. To be told after it subscribed.
    pub(super) fn had(&mut self, type_: ResourceType, name: Name, version: &str) {
        let structured = self.subscription.as_ref().is_some_and(Subscription::has_structured);
        if (structured || type_ == ResourceType::VirtualHost) && !self.covers(&name) {
            // Asked for by another name, then.
            self.reached.insert(name.clone(), BTreeSet::new());
        }
        if self.covers(&name) {
            self.exceptions.insert(name, Told::Had(version.parse().ok()));
        }
    }

    /// Has the named resources sent again.
    pub(super) fn forget(&mut self, names: &[Name]) {
        if !names.is_empty() {
            self.doubt_flight();
        }
        for name in names {
            if self.covers(name) {
                self.doubt(name, None);
                self.exceptions.insert(name.clone(), Told::Nothing);
            }
        }
    }

    /// The client no longer asks for these by name. Where it asks for everything, it has to be told whether they are
    /// part of that: again what they are, or that they are gone.
    pub(super) fn take_back(&mut self, names: &[Name]) {
        if !names.is_empty() {
            self.doubt_flight();
        }
        for name in names {
            if self.was_told(name) {
                self.exceptions.insert(name.clone(), Told::Had(None));
            } else if self.covers(name) {
                self.exceptions.insert(name.clone(), Told::Absent);
            }
        }
    }

    /// The client is told something of which it is not known yet whether it accepts it.
    fn doubt(&mut self, name: &Name, told: Option<Version>) {
        let has = self.acknowledged(name);
        if has != told {
            self.unaccepted.entry(name.clone()).or_insert(has);
        }
    }

    /// Of a name in the scope of the subscription.
    fn told(&self, name: &str) -> Told {
        match Told::of(name, &self.base, &self.exceptions) {
            Told::Absent if self.fresh && self.asks_by(name) && !self.exceptions.contains_key(name) => {
                Told::Nothing
            }
            told => told,
        }
    }

    fn asks_by(&self, name: &str) -> bool {
        self.subscription.as_ref().is_some_and(|subscription| subscription.names(name))
    }

    /// What the client is known to have of a name in the scope of the subscription.
    fn acknowledged(&self, name: &str) -> Option<Version> {
        if let Some(has) = self.unaccepted.get(name) {
            return *has;
        }
        let before = match &self.progress {
            Progress::Waiting(flight) => flight.before.as_ref(),
            _ => None,
        };
        before.map_or_else(|| self.told(name), |before| before.told(name)).version()
    }

    /// The version of a resource that the client is known to have, if any; `None` if it did not ask for it.
    pub(super) fn held_version(&self, name: &str) -> Option<Option<Version>> {
        self.covers(name).then(|| self.acknowledged(name))
    }

    pub(super) fn covers(&self, name: &str) -> bool {
        self.subscription.as_ref().is_some_and(|subscription| subscription.covers(name))
            || self.reached.contains_key(name)
    }

    pub(super) fn was_told(&self, name: &str) -> bool {
        self.covers(name) && matches!(self.told(name), Told::Is(_) | Told::Had(_))
    }

    /// Whether the client was told all of this.
    pub(super) fn is_told(&self, current: &TypeSnapshot) -> bool {
        self.exceptions.is_empty() && self.base.is_same(current)
    }

    pub(super) fn is_waiting(&self) -> bool {
        matches!(self.progress, Progress::Waiting(_))
    }

    /// Takes note that there is more to tell than what is not answered yet; false if all is answered.
    pub(super) fn stall(&mut self) -> bool {
        match &mut self.progress {
            Progress::Waiting(flight) => {
                flight.more = true;
                true
            }
            _ => false,
        }
    }

    /// Whether there is more to tell after an answer that has not come yet.
    pub(super) fn is_stalled(&self) -> bool {
        matches!(&self.progress, Progress::Waiting(flight) if flight.more)
    }

    pub(super) fn is_settled(&self) -> bool {
        matches!(self.progress, Progress::Settled)
    }

    pub(super) fn has_acknowledged(&self, name: &str, current: Option<Version>) -> Option<bool> {
        self.covers(name).then(|| match current {
            Some(version) => self.acknowledged(name) == Some(version),
            // A removal counts when it was sent and what was sent is answered.
            None => self.acknowledged(name).is_none() && !self.was_told(name) && !self.is_waiting(),
        })
    }

    /// Whether the client asked for one of these, or may have meant one that is new by another name.
    pub(super) fn is_concerned_by(&self, type_: ResourceType, names: &[Name]) -> bool {
        let Some(subscription) = &self.subscription else { return false };
        let by_structure =
            subscription.has_structured() && names.iter().any(|name| ResourceName::is_structured(name));
        let by_host = type_ == ResourceType::VirtualHost && !subscription.all_names().is_empty();
        by_structure || by_host || names.iter().any(|name| self.covers(name))
    }

    /// Has names that were subscribed to before anything was known share their memory with the snapshot's.
    pub(super) fn share_names(&mut self, current: &TypeSnapshot, lists: &NameLists) {
        if let Some(subscription) = &mut self.subscription {
            subscription.share_names(current);
            subscription.share_list(lists);
        }
    }
}

// === impl Before ===

impl Before {
    fn told(&self, name: &str) -> Told {
        Told::of(name, &self.base, &self.exceptions)
    }
}

// === impl Diff ===

impl Diff {
    fn is_empty(&self) -> bool {
        !self.owed && self.upserts.is_empty() && self.absent.is_empty() && self.removed.is_empty()
    }
}
