//! A persistent map of resources.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use xxhash_rust::xxh64::xxh64;

use super::{Version, VersionedResource, versioned::compare};
use crate::{name::ResourceName, pb::google::protobuf::Any, session::Name};

/// How many resources a bucket holds on average before there are twice as many buckets.
const BUCKET_FULL: usize = 16;

/// Resources of one type, by name. A clone shares everything; a change copies one bucket of it, and what differs
/// between two that come from each other is found by looking at the buckets that they do not share.
#[derive(Debug, Clone, Default)]
pub struct Resources {
    /// By the hash of the name; their number is a power of two, or zero before the first resource.
    buckets: Arc<Vec<Bucket>>,
    len: usize,
    /// Sum of the digests of all resources, so that one change costs one addition.
    digest: u64,
}

/// One resource that differs between two collections of them.
#[derive(Debug, Clone, Copy)]
pub struct Change<'a> {
    /// What it is in the first.
    pub before: Option<&'a Arc<VersionedResource>>,
    /// What it is in the second.
    pub after: Option<&'a Arc<VersionedResource>>,
}

/// In the order of the names.
type Bucket = Arc<Vec<Arc<VersionedResource>>>;

// === impl Resources ===

impl Resources {
    /// The number of resources.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Digest of the names and versions: equal for equal contents.
    pub fn version(&self) -> Version {
        Version(self.digest)
    }

    /// The resource of this name.
    pub fn get(&self, name: &str) -> Option<&Arc<VersionedResource>> {
        let bucket = self.buckets.get(self.index(name)?)?;
        let found = bucket.binary_search_by(|resource| resource.name.as_str().cmp(name)).ok()?;
        bucket.get(found)
    }

    /// All resources, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<VersionedResource>> {
        self.buckets.iter().flat_map(|bucket| bucket.iter())
    }

    /// Adds or replaces what has the resource's name; tells whether that changed anything.
    pub fn insert(&mut self, mut resource: Arc<VersionedResource>) -> bool {
        if self.len >= self.buckets.len() * BUCKET_FULL {
            self.spread((self.buckets.len() * 2).max(1));
        }
        let Some(index) = self.index(&resource.name) else { return false };
        let found = self.buckets[index].binary_search_by(|known| known.name.cmp(&resource.name));
        if found.is_ok_and(|at| self.buckets[index][at].is_same(&resource)) {
            return false;
        }
        let bucket = Arc::make_mut(&mut Arc::make_mut(&mut self.buckets)[index]);
        self.digest = self.digest.wrapping_add(resource.digest());
        match found {
            Ok(at) => {
                // All versions share one name, so that to compare it is to compare pointers.
                if let Some(new) = Arc::get_mut(&mut resource) {
                    new.name = bucket[at].name.clone();
                }
                let old = std::mem::replace(&mut bucket[at], resource);
                self.digest = self.digest.wrapping_sub(old.digest());
            }
            Err(at) => {
                bucket.insert(at, resource);
                self.len += 1;
            }
        }
        true
    }

    /// Takes out what has this name; tells whether there was something.
    pub fn remove(&mut self, name: &str) -> bool {
        let Some(index) = self.index(name) else { return false };
        let Ok(at) = self.buckets[index].binary_search_by(|known| known.name.as_str().cmp(name)) else {
            return false;
        };
        let bucket = Arc::make_mut(&mut Arc::make_mut(&mut self.buckets)[index]);
        let old = bucket.remove(at);
        self.digest = self.digest.wrapping_sub(old.digest());
        self.len -= 1;
        if self.len == 0 {
            self.buckets = Arc::default();
        } else if self.buckets.len() > 1 && self.len * 8 < self.buckets.len() * BUCKET_FULL {
            self.spread(self.buckets.len() / 2);
        }
        true
    }

    /// Makes these the resources, some of which live for a time only; what is equal to what is there stays as it is, and
    /// is shared.
    pub fn replace(&mut self, bodies: &BTreeMap<String, Any>, ttl: impl Fn(&str) -> Option<Duration>) {
        let structured = bodies.keys().filter(|name| ResourceName::is_structured(name));
        let structured: BTreeSet<_> = structured.map(|name| ResourceName::canonical(name)).collect();
        let is_gone =
            |name: &&Name| !bodies.contains_key(name.as_str()) && !structured.contains(name.as_str());
        let gone: Vec<Name> = self.iter().map(|known| &known.name).filter(is_gone).cloned().collect();
        for name in gone {
            self.remove(&name);
        }
        for (name, body) in bodies {
            let resource = match ttl(name) {
                None => VersionedResource::new(name, body),
                Some(ttl) => VersionedResource::living(name, body, ttl),
            };
            self.insert(Arc::new(resource));
        }
    }

    /// Whether nothing differs because everything is shared.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.buckets, &other.buckets) || (self.is_empty() && other.is_empty())
    }

    /// Hands out all resources of which one of the two has none, or another version: what is here, and what is there.
    pub fn changes<'a>(&'a self, other: &'a Self, found: &mut impl FnMut(Change<'a>)) {
        if self.is_same(other) {
            return;
        }
        if self.buckets.len() == other.buckets.len() {
            for (here, there) in self.buckets.iter().zip(other.buckets.iter()) {
                if !Arc::ptr_eq(here, there) {
                    changes_in_bucket(here, there, found);
                }
            }
            return;
        }
        for before in self.iter() {
            let after = other.get(&before.name);
            if after.is_none_or(|after| after.version != before.version) {
                found(Change { before: Some(before), after });
            }
        }
        for after in other.iter().filter(|after| self.get(&after.name).is_none()) {
            found(Change { before: None, after: Some(after) });
        }
    }

    fn index(&self, name: &str) -> Option<usize> {
        let mask = self.buckets.len().checked_sub(1)?;
        // Any bits are as good as others; those that do not fit are not needed.
        Some(xxh64(name.as_bytes(), 0) as usize & mask)
    }

    /// Has as many buckets from now on.
    fn spread(&mut self, buckets: usize) {
        let old = std::mem::replace(&mut self.buckets, Arc::new(vec![Bucket::default(); buckets]));
        let mut new = vec![Vec::new(); buckets];
        for resource in old.iter().flat_map(|bucket| bucket.iter()) {
            if let Some(index) = self.index(&resource.name) {
                new[index].push(resource.clone());
            }
        }
        for bucket in &mut new {
            bucket.sort_by(|one, other| one.name.cmp(&other.name));
        }
        self.buckets = Arc::new(new.into_iter().map(Arc::new).collect());
    }
}

impl PartialEq for Resources {
    fn eq(&self, other: &Self) -> bool {
        self.is_same(other)
            || (self.len == other.len
                && self.digest == other.digest
                && self.iter().all(|one| other.get(&one.name).is_some_and(|there| there.is_same(one))))
    }
}

/// Merges two buckets in the order of their names.
fn changes_in_bucket<'a>(here: &'a Bucket, there: &'a Bucket, found: &mut impl FnMut(Change<'a>)) {
    let (mut ours, mut theirs) = (here.iter().peekable(), there.iter().peekable());
    loop {
        let order = match (ours.peek(), theirs.peek()) {
            (Some(one), Some(other)) => compare(&one.name, &other.name),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return,
        };
        let before = if order.is_le() { ours.next() } else { None };
        let after = if order.is_ge() { theirs.next() } else { None };
        if before.map(|before| before.version) != after.map(|after| after.version) {
            found(Change { before, after });
        }
    }
}

// === impl Change ===

impl<'a> Change<'a> {
    /// Of the resource; `None` for a change from nothing to nothing.
    pub fn name(&self) -> Option<&'a Name> {
        self.after.or(self.before).map(|resource| &resource.name)
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection, prelude::*};

    use super::*;

    fn resource(name: u16, content: u8) -> Arc<VersionedResource> {
        let body = Any { type_url: "t".into(), value: vec![content] };
        Arc::new(VersionedResource::new(&name.to_string(), &body))
    }

    /// What a plain map would say.
    fn model(resources: &Resources) -> BTreeMap<String, Version> {
        resources.iter().map(|one| (one.name.to_string(), one.version)).collect()
    }

    proptest! {
        #[test]
        fn it_is_a_map_and_knows_what_differs(
            first in collection::vec((0..300_u16, 0..3_u8, any::<bool>()), 0..400),
            second in collection::vec((0..300_u16, 0..3_u8, any::<bool>()), 0..100),
        ) {
            let mut resources = Resources::default();
            let mut expected = BTreeMap::new();
            let mut apply = |resources: &mut Resources, steps: &[(u16, u8, bool)]| {
                for (name, content, remove) in steps {
                    let resource = resource(*name, *content);
                    if *remove {
                        let known = expected.remove(resource.name.as_str()).is_some();
                        assert_eq!(resources.remove(&resource.name), known);
                    } else {
                        let before = expected.insert(resource.name.to_string(), resource.version);
                        assert_eq!(resources.insert(resource.clone()), before != Some(resource.version));
                    }
                }
                assert_eq!(model(resources), expected);
                assert_eq!(resources.len(), expected.len());
                assert!(expected.keys().all(|name| resources.get(name).is_some()));
            };
            apply(&mut resources, &first);
            let before = resources.clone();
            apply(&mut resources, &second);
            let (old, new) = (model(&before), model(&resources));
            let mut names = Vec::new();
            before.changes(&resources, &mut |change| {
                let name = change.name().expect("something changed");
                assert_eq!(change.before.map(|one| one.version), old.get(name.as_str()).copied());
                assert_eq!(change.after.map(|one| one.version), new.get(name.as_str()).copied());
                names.push(name.clone());
            });
            names.sort();
            let mut differ: Vec<_> = old
                .keys()
                .chain(new.keys())
                .filter(|name| old.get(*name) != new.get(*name))
                .map(String::as_str)
                .collect();
            differ.sort_unstable();
            differ.dedup();
            assert_eq!(names.iter().map(|name| name.as_str()).collect::<Vec<_>>(), differ);
            assert_eq!(before == resources, differ.is_empty());
            assert_eq!(before.version() == resources.version(), differ.is_empty());
        }
    }

    #[test]
    fn a_change_copies_one_bucket_and_shares_the_rest() {
        let mut before = Resources::default();
        for name in 0..1000 {
            before.insert(resource(name, 1));
        }
        let mut after = before.clone();
        assert!(!after.insert(resource(7, 1)) && after.is_same(&before), "the same changes nothing");
        assert!(after.insert(resource(7, 2)));
        let shared =
            before.buckets.iter().zip(after.buckets.iter()).filter(|(a, b)| Arc::ptr_eq(a, b)).count();
        assert_eq!(shared, before.buckets.len() - 1);
    }
}
