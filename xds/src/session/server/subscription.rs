//! What a client asked for.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;
use xxhash_rust::xxh64::xxh64;

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
    /// streams, so that each takes one pointer to a name that all share, and equal lists are one.
    names: Arc<Vec<Name>>,
    /// Of the names, in any order.
    digest: u64,
    /// Whether one of the names is a structured one.
    structured: bool,
}

/// The names that clients asked for: of two that asked for the same only one list is kept. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct NameLists(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    /// By a digest of the names.
    lists: HashMap<u64, Weak<Vec<Name>>>,
    /// When there are as many, those that are gone are taken out.
    full: usize,
}

/// A list of fewer names is not worth looking for another.
const SHORT: usize = 8;

// === impl Subscription ===

impl Subscription {
    pub(super) fn new(all: bool, mut names: Vec<Name>) -> Self {
        names.sort_unstable();
        names.dedup();
        names.shrink_to_fit();
        let structured = names.iter().any(|name| ResourceName::is_structured(name));
        Self { all, digest: digest(&names), names: Arc::new(names), structured }
    }

    /// Whether it is this that a client repeats, in whatever order. State of the world has it repeat everything with
    /// each answer, so that it is not compared name by name: who makes up names of the same digest deceives itself.
    pub(super) fn is(&self, all: bool, names: &[String]) -> bool {
        self.all == all && self.names.len() == names.len() && self.digest == digest(names)
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

    /// Has equal subscriptions share their names.
    pub(super) fn share_list(&mut self, lists: &NameLists) {
        if self.names.len() >= SHORT {
            lists.share(self.digest, &mut self.names);
        }
    }
}

fn digest(names: &[impl AsRef<str>]) -> u64 {
    names.iter().fold(0, |sum, name| sum.wrapping_add(xxh64(name.as_ref().as_bytes(), 0)))
}

// === impl NameLists ===

impl NameLists {
    fn share(&self, digest: u64, names: &mut Arc<Vec<Name>>) {
        let mut known = self.0.lock();
        let same = known.lists.get(&digest).and_then(Weak::upgrade).filter(|same| same == names);
        if let Some(same) = same {
            *names = same;
            return;
        }
        if known.lists.len() >= known.full {
            known.lists.retain(|_, list| list.strong_count() > 0);
            known.full = (known.lists.len() * 2).max(64);
        }
        known.lists.insert(digest, Arc::downgrade(names));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_repeated_in_another_order_is_the_same() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let asked = Subscription::new(false, vec!["a".into(), "b".into()]);
        assert!(asked.is(false, &names(&["a", "b"])) && asked.is(false, &names(&["b", "a"])));
        assert!(!asked.is(true, &names(&["a", "b"])));
        for other in [&["a"][..], &["a", "c"], &["a", "b", "c"], &["ab", ""], &["a", "a"]] {
            assert!(!asked.is(false, &names(other)), "{other:?}");
        }
    }

    fn subscription(names: std::ops::Range<usize>) -> Subscription {
        Subscription::new(false, names.map(|name| name.to_string().into()).collect())
    }

    #[test]
    fn who_asks_for_the_same_shares_one_list_for_as_long_as_anybody_does() {
        let lists = NameLists::default();
        let [mut one, mut same, mut other] = [0..100, 0..100, 1..100].map(subscription);
        for asked in [&mut one, &mut same, &mut other] {
            asked.share_list(&lists);
        }
        assert!(Arc::ptr_eq(&one.names, &same.names));
        assert!(!Arc::ptr_eq(&one.names, &other.names));
        drop((one, same));
        for last in 200..500 {
            subscription(0..last).share_list(&lists);
        }
        assert!(lists.0.lock().lists.len() <= 64, "lists that nobody has are forgotten");
        assert!(lists.0.lock().lists.values().any(|list| list.ptr_eq(&Arc::downgrade(&other.names))));
    }
}
