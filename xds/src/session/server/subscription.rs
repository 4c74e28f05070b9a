//! What a client asked for.

use std::sync::Arc;

use crate::{
    name::ResourceName,
    session::{Change, Name, TypeSnapshot},
};

/// What a client wants of a type.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Subscription {
    /// Everything that there is.
    all: bool,
    /// By name; also of resources that do not exist. Sorted, each once. There are thousands of them on thousands of
    /// streams, so that each takes one pointer to a name that all share.
    names: Arc<Vec<Name>>,
    /// Whether one of the names is a structured one.
    structured: bool,
}

// === impl Subscription ===

impl Subscription {
    pub(super) fn new(all: bool, mut names: Vec<Name>) -> Self {
        names.sort_unstable();
        names.dedup();
        names.shrink_to_fit();
        let structured = names.iter().any(|name| ResourceName::is_structured(name));
        Self { all, names: Arc::new(names), structured }
    }

    /// Whether it has names that may be other than those of the resources that they stand for.
    pub(super) fn has_structured(&self) -> bool {
        self.structured
    }

    /// Its structured names, as they are written and as they are read.
    pub(super) fn structured(&self) -> impl Iterator<Item = (&Name, ResourceName)> {
        let names = if self.structured { self.names.as_slice() } else { &[] };
        // Cheap for those that are none.
        names.iter().filter_map(|name| Some((name, name.parse().ok()?)))
    }

    pub(super) fn all(&self) -> bool {
        self.all
    }

    /// What it asks for by name.
    pub(super) fn all_names(&self) -> &[Name] {
        &self.names
    }

    /// Whether it asks for this by name.
    pub(super) fn names(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    pub(super) fn covers(&self, name: &str) -> bool {
        self.all || self.names(name)
    }

    /// Leaves what it covers of changes, which are in the order of their names, and what is wanted otherwise.
    pub(super) fn retain(&self, changes: &mut Vec<Change<'_>>, also: impl Fn(&Name) -> bool) {
        if self.all {
            return;
        }
        let mut rest = self.names.as_slice();
        changes.retain(|change| {
            let Some(name) = change.name() else { return false };
            // In a storm everything that it asks for has changed: then the next one it is, most of the time.
            if !rest.first().is_some_and(|next| Name::ptr_eq(next, name)) {
                rest = &rest[rest.partition_point(|known| known < name)..];
            }
            let covered = rest.first() == Some(name);
            rest = &rest[usize::from(covered)..];
            covered || also(name)
        });
    }

    /// The one that is in the subscription.
    pub(super) fn find(&self, name: &str) -> Option<&Name> {
        let found = self.names.binary_search_by(|known| known.as_str().cmp(name)).ok()?;
        self.names.get(found)
    }

    pub(super) fn share_names(&mut self, current: &TypeSnapshot) {
        let shared = |name: &Name| current.get(name).map_or(name, |resource| &resource.name).clone();
        self.names = Arc::new(self.names.iter().map(shared).collect());
    }
}
