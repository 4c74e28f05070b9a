//! Snapshots whose resources know their versions.

use std::{
    fmt,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use super::{Change, Name, Resources, VersionedResource};
use crate::{pb::google::protobuf::Any, resource::ResourceType, server::Snapshot};

/// A digest of a content: equal contents have equal versions, also after a restart of the server.
///
/// So a proxy that reconnects to a new server is sent only what differs from what it has. (The digest may change with
/// the Rust release that the server is built with; everything is sent once more then.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub(super) u64);

/// All resources of one type for one proxy: its own, and those that it shares with others. Cheap to clone.
///
/// Where both have a name, the proxy's own counts.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TypeSnapshot {
    own: Resources,
    shared: Resources,
}

/// Resources of all types. Cheap to clone: what did not change is shared.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Layer {
    /// Indexed by type.
    types: [Resources; ResourceType::ALL.len()],
}

/// All that one proxy is to know. What did not change is shared with the snapshot before, and what all proxies know is
/// shared with theirs.
#[derive(Debug, Clone)]
pub struct VersionedSnapshot {
    /// Indexed by type.
    types: [TypeSnapshot; ResourceType::ALL.len()],
    /// What is there only for who names it, and not part of everything. Indexed by type.
    reserve: [Resources; ResourceType::ALL.len()],
}

// === impl Version ===

impl Version {
    fn of(content: impl FnOnce(&mut DefaultHasher)) -> Self {
        let mut hasher = DefaultHasher::new();
        content(&mut hasher);
        Self(hasher.finish())
    }

    /// Digest of a message as it is on the wire.
    pub(crate) fn of_body(body: &Any) -> Self {
        Self::of(|hasher| {
            body.type_url.hash(hasher);
            body.value.hash(hasher);
        })
    }

    /// The same of a message that lives for so long only.
    pub(super) fn of_living(body: &Any, ttl: Duration) -> Self {
        Self::of(|hasher| (Self::of_body(body), ttl).hash(hasher))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for Version {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u64::from_str_radix(text, 16).map(Self)
    }
}

// === impl TypeSnapshot ===

impl TypeSnapshot {
    /// Digest of the names and versions.
    pub fn version(&self) -> Version {
        Version(self.own.version().0.wrapping_add(self.shared.version().0))
    }

    /// The resource of this name.
    pub fn get(&self, name: &str) -> Option<&Arc<VersionedResource>> {
        self.own.get(name).or_else(|| self.shared.get(name))
    }

    /// All resources, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<VersionedResource>> {
        let shared = self.shared.iter().filter(|resource| self.own.get(&resource.name).is_none());
        self.own.iter().chain(shared)
    }

    /// The number of resources.
    pub fn len(&self) -> usize {
        let hidden = self.own.iter().filter(|resource| self.shared.get(&resource.name).is_some()).count();
        self.own.len() + self.shared.len() - hidden
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.own.is_empty() && self.shared.is_empty()
    }

    /// Whether nothing differs because everything is shared.
    pub fn is_same(&self, other: &Self) -> bool {
        self.own.is_same(&other.own) && self.shared.is_same(&other.shared)
    }

    /// The resources of which one of the two has none, or another version, in the order of their names; found without
    /// looking at what they share.
    pub fn changes<'a>(&'a self, other: &'a Self) -> Vec<Change<'a>> {
        let mut changes = Vec::new();
        self.shared.changes(&other.shared, &mut |change| changes.push(change));
        if !self.own.is_empty() || !other.own.is_empty() {
            self.own.changes(&other.own, &mut |change| changes.push(change));
            // Where both have a name, that of the shared one is hidden.
            for change in &mut changes {
                if let Some(name) = change.name() {
                    *change = Change { before: self.get(name), after: other.get(name) };
                }
            }
            let version = |resource: Option<&Arc<VersionedResource>>| resource.map(|found| found.version);
            changes.retain(|change| version(change.before) != version(change.after));
        }
        changes.sort_unstable_by(|one, other| one.name().cmp(&other.name()));
        changes.dedup_by(|one, other| one.name() == other.name());
        changes
    }
}

// === impl Layer ===

impl Layer {
    /// The resources of one type.
    pub fn get(&self, type_: ResourceType) -> &Resources {
        &self.types[type_.index()]
    }

    /// The resources of one type, to be changed.
    pub fn get_mut(&mut self, type_: ResourceType) -> &mut Resources {
        &mut self.types[type_.index()]
    }

    /// Makes what the snapshot has the resources; what is equal to what is there stays as it is, and is shared.
    pub fn replace(&mut self, snapshot: &Snapshot) {
        for type_ in ResourceType::ALL {
            let ttls = snapshot.ttls.get(&type_);
            self.get_mut(type_).replace(snapshot.resources(type_), |name| ttls?.get(name).copied());
        }
    }

    /// Whether nothing differs because everything is shared.
    pub fn is_same(&self, other: &Self) -> bool {
        ResourceType::ALL.into_iter().all(|type_| self.get(type_).is_same(other.get(type_)))
    }
}

// === impl VersionedSnapshot ===

impl VersionedSnapshot {
    /// Gives every resource its version; `previous` is only for sharing memory.
    pub fn new(snapshot: &Snapshot, previous: Option<&Self>) -> Self {
        let mut own = Layer::default();
        if let Some(previous) = previous {
            own.types = ResourceType::ALL.map(|type_| previous.get(type_).own.clone());
        }
        own.replace(snapshot);
        Self::layered(&own, &Layer::default(), &[], &[])
    }

    /// A proxy's own resources together with those of some types that it shares with others, and of some only what it
    /// names (`on_request`).
    pub fn layered(
        own: &Layer,
        shared: &Layer,
        shares: &[ResourceType],
        on_request: &[ResourceType],
    ) -> Self {
        let if_in = |types: &[ResourceType], type_: ResourceType| {
            if types.contains(&type_) { shared.get(type_).clone() } else { Resources::default() }
        };
        let of_type =
            |type_: ResourceType| TypeSnapshot { own: own.get(type_).clone(), shared: if_in(shares, type_) };
        Self {
            types: ResourceType::ALL.map(of_type),
            reserve: ResourceType::ALL.map(|type_| if_in(on_request, type_)),
        }
    }

    /// Whether there is anything that only those get who name it.
    pub fn has_reserve(&self) -> bool {
        self.reserve.iter().any(|reserve| !reserve.is_empty())
    }

    /// Together with what is named of the reserve.
    pub(super) fn with_named<'n>(&self, names: impl Fn(ResourceType) -> &'n [Name]) -> Self {
        let mut all = self.clone();
        for (type_, reserve) in ResourceType::ALL.into_iter().zip(&self.reserve) {
            if !reserve.is_empty() {
                let shared = &mut all.types[type_.index()].shared;
                for resource in names(type_).iter().filter_map(|name| reserve.get(name)) {
                    shared.insert(resource.clone());
                }
            }
        }
        all
    }

    /// The resources of one type.
    pub fn get(&self, type_: ResourceType) -> &TypeSnapshot {
        &self.types[type_.index()]
    }

    /// Whether nothing at all differs.
    pub fn is_same(&self, other: &Self) -> bool {
        ResourceType::ALL.into_iter().all(|type_| self.get(type_).is_same(other.get(type_)))
            && self.reserve.iter().zip(&other.reserve).all(|(one, other)| one.is_same(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::google::protobuf::Any;

    fn body(text: &str) -> Any {
        Any { type_url: "t".into(), value: text.into() }
    }

    fn changed<'a>(before: &'a TypeSnapshot, after: &'a TypeSnapshot) -> Vec<&'a str> {
        before.changes(after).iter().filter_map(|change| Some(change.name()?.as_str())).collect()
    }

    #[test]
    fn what_did_not_change_is_shared_and_keeps_its_version() {
        let mut snapshot = Snapshot::default();
        snapshot.endpoints.insert("a".into(), body("1"));
        snapshot.endpoints.insert("b".into(), body("1"));
        snapshot.clusters.insert("a".into(), body("1"));
        let first = VersionedSnapshot::new(&snapshot, None);
        snapshot.endpoints.insert("b".into(), body("2"));
        let second = VersionedSnapshot::new(&snapshot, Some(&first));

        let (before, after) =
            (first.get(ResourceType::ClusterLoadAssignment), second.get(ResourceType::ClusterLoadAssignment));
        let of = |snapshot: &TypeSnapshot, name| snapshot.get(name).expect("it is there").clone();
        assert!(Arc::ptr_eq(&of(before, "a"), &of(after, "a")));
        assert_ne!(of(before, "b").version, of(after, "b").version);
        assert_ne!(before.version(), after.version());
        assert_eq!(changed(before, after), ["b"]);
        assert!(first.get(ResourceType::Cluster).is_same(second.get(ResourceType::Cluster)));
        assert!(!first.is_same(&second));
        assert!(second.is_same(&VersionedSnapshot::new(&snapshot, Some(&second))));
    }

    #[test]
    fn each_type_is_found_under_its_own_name() {
        let mut snapshot = Snapshot::default();
        for type_ in ResourceType::ALL {
            let name = type_.to_string();
            snapshot.resources_mut(type_).insert(name.clone(), body(&name));
        }
        let snapshot = VersionedSnapshot::new(&snapshot, None);
        for type_ in ResourceType::ALL {
            assert!(snapshot.get(type_).get(&type_.to_string()).is_some(), "{type_}");
        }
    }

    #[test]
    fn a_proxy_s_own_resources_hide_shared_ones_of_the_same_name() {
        let one = |name: &str, text: &str| {
            let mut layer = Layer::default();
            let resource = VersionedResource::new(name, &body(text));
            layer.get_mut(ResourceType::Cluster).insert(Arc::new(resource));
            layer
        };
        let shares = &[ResourceType::Cluster];
        let content = |snapshot: &VersionedSnapshot, name| {
            snapshot.get(ResourceType::Cluster).get(name).map(|found| found.body().value.clone())
        };
        let hidden = VersionedSnapshot::layered(&one("a", "own"), &one("a", "shared"), shares, &[]);
        assert_eq!(content(&hidden, "a"), Some("own".into()));
        assert_eq!(hidden.get(ResourceType::Cluster).iter().count(), 1);
        let seen = VersionedSnapshot::layered(&Layer::default(), &one("a", "shared"), shares, &[]);
        assert_eq!(content(&seen, "a"), Some("shared".into()));
        assert_eq!(changed(hidden.get(ResourceType::Cluster), seen.get(ResourceType::Cluster)), ["a"]);
        let apart = VersionedSnapshot::layered(&Layer::default(), &one("a", "shared"), &[], &[]);
        assert_eq!(content(&apart, "a"), None);
    }

    #[test]
    fn a_version_is_read_as_it_is_written() {
        let version = Version::of_body(&body("x"));
        assert_eq!(version.to_string().parse(), Ok(version));
        assert!("7.1".parse::<Version>().is_err());
    }
}
