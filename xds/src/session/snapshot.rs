//! Snapshots whose resources know their versions.

use std::{
    collections::BTreeMap,
    fmt,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    str::FromStr,
    sync::Arc,
};

use crate::{pb::google::protobuf::Any, resource::ResourceType, server::Snapshot};

/// A digest of a content: equal contents have equal versions, also after a restart of the server.
///
/// So a proxy that reconnects to a new server is sent only what differs from what it has. (The digest may change with
/// the Rust release that the server is built with; everything is sent once more then.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(u64);

/// A resource and its version.
#[derive(Debug, Clone, PartialEq)]
pub struct VersionedResource {
    /// Unique within its type.
    pub name: String,
    /// Digest of name and body.
    pub version: Version,
    /// The protobuf message.
    pub body: Any,
}

/// All resources of one type for one proxy.
#[derive(Debug, PartialEq)]
pub struct TypeSnapshot {
    /// Digest of the names and versions.
    pub version: Version,
    /// By name.
    pub resources: BTreeMap<String, Arc<VersionedResource>>,
}

/// All that one proxy is to know. What did not change is shared with the snapshot before.
#[derive(Debug, Clone)]
pub struct VersionedSnapshot {
    /// Indexed by type.
    types: [Arc<TypeSnapshot>; ResourceType::ALL.len()],
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
    fn new(resources: BTreeMap<String, Any>, previous: Option<&Arc<Self>>) -> Arc<Self> {
        let resources: BTreeMap<_, _> = resources
            .into_iter()
            .map(|(name, body)| {
                let same = previous
                    .and_then(|previous| previous.resources.get(&name))
                    .filter(|resource| resource.body == body)
                    .cloned();
                let resource = same.unwrap_or_else(|| {
                    let version = Version::of_body(&body);
                    Arc::new(VersionedResource { name: name.clone(), version, body })
                });
                (name, resource)
            })
            .collect();
        if let Some(previous) = previous.filter(|previous| previous.resources == resources) {
            return previous.clone();
        }
        let version = Version::of(|hasher| {
            for (name, resource) in &resources {
                name.hash(hasher);
                resource.version.hash(hasher);
            }
        });
        Arc::new(Self { version, resources })
    }
}

// === impl VersionedSnapshot ===

impl VersionedSnapshot {
    /// Gives every resource its version; `previous` is only for sharing memory and work.
    pub fn new(snapshot: Snapshot, previous: Option<&Self>) -> Self {
        let mut snapshot = snapshot;
        let types = ResourceType::ALL.map(|type_| {
            let resources = std::mem::take(snapshot.resources_mut(type_));
            TypeSnapshot::new(resources, previous.map(|previous| previous.get(type_)))
        });
        Self { types }
    }

    /// The resources of one type.
    pub fn get(&self, type_: ResourceType) -> &Arc<TypeSnapshot> {
        &self.types[type_.index()]
    }

    /// Whether nothing at all differs.
    pub fn is_same(&self, other: &Self) -> bool {
        ResourceType::ALL.into_iter().all(|type_| Arc::ptr_eq(self.get(type_), other.get(type_)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(text: &str) -> Any {
        Any { type_url: "t".into(), value: text.into() }
    }

    #[test]
    fn what_did_not_change_is_shared_and_keeps_its_version() {
        let mut snapshot = Snapshot::default();
        snapshot.endpoints.insert("a".into(), body("1"));
        snapshot.endpoints.insert("b".into(), body("1"));
        snapshot.clusters.insert("a".into(), body("1"));
        let first = VersionedSnapshot::new(snapshot.clone(), None);
        snapshot.endpoints.insert("b".into(), body("2"));
        let second = VersionedSnapshot::new(snapshot.clone(), Some(&first));

        let (before, after) =
            (first.get(ResourceType::ClusterLoadAssignment), second.get(ResourceType::ClusterLoadAssignment));
        assert!(Arc::ptr_eq(&before.resources["a"], &after.resources["a"]));
        assert_ne!(before.resources["b"].version, after.resources["b"].version);
        assert_ne!(before.version, after.version);
        assert!(Arc::ptr_eq(first.get(ResourceType::Cluster), second.get(ResourceType::Cluster)));
        assert!(!first.is_same(&second));
        assert!(second.is_same(&VersionedSnapshot::new(snapshot, Some(&second))));
    }

    #[test]
    fn each_type_is_found_under_its_own_name() {
        let mut snapshot = Snapshot::default();
        for type_ in ResourceType::ALL {
            let name = type_.to_string();
            snapshot.resources_mut(type_).insert(name.clone(), body(&name));
        }
        let snapshot = VersionedSnapshot::new(snapshot, None);
        for type_ in ResourceType::ALL {
            assert!(snapshot.get(type_).resources.contains_key(&type_.to_string()), "{type_}");
        }
    }

    #[test]
    fn a_version_is_read_as_it_is_written() {
        let version = Version::of_body(&body("x"));
        assert_eq!(version.to_string().parse(), Ok(version));
        assert!("7.1".parse::<Version>().is_err());
    }
}
