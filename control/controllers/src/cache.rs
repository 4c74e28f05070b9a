//! Local copies of the API server's objects, shared by all controllers.
//!
//! One [`Informer`] per kind follows a watch and writes a [`Cache`]; anybody reads. Handlers, registered before the start,
//! hear of every change after the cache has it.
//!
//! # Guarantees
//! * A handler never hears of an object that the cache does not have yet, nor of a removal that it still has.
//! * After an interruption the differences to the new list are told as changes, deletions included. (The reflector of
//!   `kube::runtime` swaps the list in silently, so a pod that vanished meanwhile would never reach its ReplicaSet;
//!   that, and look-ups by controller, is why this is not that reflector.)

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
    sync::Arc,
};

use futures::StreamExt as _;
use kube::{
    Api, Resource,
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event, watcher},
    },
};
use parking_lot::RwLock;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::key::{Key, controller_of, uid};

/// What an object must be so that an [`Informer`] can follow it.
pub(crate) trait Cached:
    Resource<DynamicType: Clone + Send + Sync> + Clone + DeserializeOwned + fmt::Debug + Send + Sync + 'static
{
}

impl<K> Cached for K where
    K: Resource<DynamicType: Clone + Send + Sync>
        + Clone
        + DeserializeOwned
        + fmt::Debug
        + Send
        + Sync
        + 'static
{
}

/// A change of one object.
pub(crate) enum Change<'a, K> {
    /// It is new here.
    Added(&'a Arc<K>),
    /// It was here before.
    Updated { old: &'a Arc<K>, new: &'a Arc<K> },
    /// It is gone; this is how it was last seen.
    Deleted(&'a Arc<K>),
}

/// What objects of a kind there are. Clones share the content.
pub(crate) struct Cache<K> {
    content: Arc<RwLock<Content<K>>>,
}

/// Feeds a cache from a watch and tells handlers; see the [module](self).
pub(crate) struct Informer<K: Resource> {
    api: Api<K>,
    config: watcher::Config,
    kind: K::DynamicType,
    cache: Cache<K>,
    handlers: Vec<Handler<K>>,
    synced: watch::Sender<bool>,
}

type Handler<K> = Box<dyn Fn(Change<'_, K>) + Send + Sync>;

/// `namespaces` is canonical; the index inside each partition follows it.
struct Content<K> {
    namespaces: BTreeMap<Arc<str>, Partition<K>>,
}

/// The objects of one namespace.
struct Partition<K> {
    objects: HashMap<Arc<str>, Arc<K>>,
    /// Names by the UID of the managing owner, empty for objects that nobody manages.
    by_controller: HashMap<String, HashSet<Arc<str>>>,
}

// === impl Change ===

impl<'a, K> Change<'a, K> {
    /// The object as it is now, or was last.
    pub(crate) fn latest(&self) -> &'a Arc<K> {
        match self {
            Self::Added(object) | Self::Updated { new: object, .. } | Self::Deleted(object) => object,
        }
    }

    /// The object before and after, as far as there is either.
    pub(crate) fn versions(&self) -> impl Iterator<Item = &'a Arc<K>> + use<'a, K> {
        let (first, second) = match self {
            Self::Added(object) | Self::Deleted(object) => (*object, None),
            Self::Updated { old, new } => (*old, Some(*new)),
        };
        std::iter::once(first).chain(second)
    }
}

// === impl Cache ===

impl<K: Resource> Cache<K> {
    /// The object of this name.
    pub(crate) fn get(&self, key: &Key) -> Option<Arc<K>> {
        self.content.read().namespaces.get(&key.namespace)?.objects.get(&key.name).cloned()
    }

    /// Every object.
    pub(crate) fn list(&self) -> Vec<Arc<K>> {
        self.content
            .read()
            .namespaces
            .values()
            .flat_map(|partition| partition.objects.values())
            .cloned()
            .collect()
    }

    /// Every object of a namespace.
    pub(crate) fn in_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        let content = self.content.read();
        let partition = content.namespaces.get(namespace);
        partition.into_iter().flat_map(|partition| partition.objects.values()).cloned().collect()
    }

    /// The objects of a namespace that the owner with this UID manages, in the order of their names.
    pub(crate) fn managed_by(&self, namespace: &str, controller: &str) -> Vec<Arc<K>> {
        let content = self.content.read();
        let Some(partition) = content.namespaces.get(namespace) else { return Vec::new() };
        let mut names: Vec<_> = partition.by_controller.get(controller).into_iter().flatten().collect();
        names.sort();
        names.into_iter().filter_map(|name| partition.objects.get(name)).cloned().collect()
    }

    /// The objects of a namespace that nobody manages.
    pub(crate) fn unmanaged(&self, namespace: &str) -> Vec<Arc<K>> {
        self.managed_by(namespace, "")
    }

    fn put(&self, object: K) -> (Option<Arc<K>>, Arc<K>) {
        let object = Arc::new(object);
        let old = self.content.write().insert(object.clone());
        (old, object)
    }
}

impl<K> Clone for Cache<K> {
    fn clone(&self) -> Self {
        Self { content: self.content.clone() }
    }
}

impl<K> Default for Cache<K> {
    fn default() -> Self {
        Self { content: Arc::new(RwLock::new(Content::default())) }
    }
}

// === impl Informer ===

impl<K: Cached> Informer<K> {
    /// Will follow every object of the kind that `api` and `config` cover.
    pub(crate) fn new(api: Api<K>, config: watcher::Config, kind: K::DynamicType) -> Self {
        Self {
            api,
            config,
            kind,
            cache: Cache::default(),
            handlers: Vec::new(),
            synced: watch::Sender::new(false),
        }
    }

    /// The kind of the objects.
    pub(crate) fn kind(&self) -> &K::DynamicType {
        &self.kind
    }

    /// The cache that this informer writes.
    pub(crate) fn cache(&self) -> Cache<K> {
        self.cache.clone()
    }

    /// Calls `handler` after every change. Handlers must not block.
    pub(crate) fn on_change(&mut self, handler: impl Fn(Change<'_, K>) + Send + Sync + 'static) {
        self.handlers.push(Box::new(handler));
    }

    /// Becomes true once the cache holds a complete list.
    pub(crate) fn synced(&self) -> watch::Receiver<bool> {
        self.synced.subscribe()
    }

    /// Follows the watch until `shutdown` is cancelled. Interruptions are logged and retried with backoff.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        let events = watcher(self.api.clone(), self.config.clone()).default_backoff();
        let mut events = std::pin::pin!(events);
        let mut listing = Vec::new();
        loop {
            let event = tokio::select! {
                () = shutdown.cancelled() => return,
                event = events.next() => event,
            };
            match event {
                None => return,
                Some(Err(error)) => {
                    let kind = K::kind(&self.kind);
                    tracing::warn!(%kind, error = weft_kit::error::chain(&error), "watch interrupted");
                }
                Some(Ok(Event::Init)) => listing.clear(),
                Some(Ok(Event::InitApply(object))) => listing.push(object),
                Some(Ok(Event::InitDone)) => {
                    self.replace_all(std::mem::take(&mut listing));
                    self.synced.send_replace(true);
                }
                Some(Ok(Event::Apply(object))) => self.apply(object),
                Some(Ok(Event::Delete(object))) => self.delete(&Key::of(object.meta()), Some(object)),
            }
        }
    }

    fn replace_all(&self, objects: Vec<K>) {
        let listed: HashSet<Key> = objects.iter().map(|object| Key::of(object.meta())).collect();
        let known = self.cache.list();
        for key in known.iter().map(|object| Key::of(object.meta())).filter(|key| !listed.contains(key)) {
            self.delete(&key, None);
        }
        objects.into_iter().for_each(|object| self.apply(object));
    }

    fn apply(&self, mut object: K) {
        // Nothing here reads it, and it is often half of the object.
        object.meta_mut().managed_fields = None;
        let key = Key::of(object.meta());
        let known = self.cache.get(&key);
        if known.as_ref().is_some_and(|known| known.meta().resource_version == object.meta().resource_version)
        {
            return;
        }
        // A name that was used again while nobody watched: the old object's dependents must hear of its end.
        if known.is_some_and(|known| uid(known.meta()) != uid(object.meta())) {
            self.delete(&key, None);
        }
        match self.cache.put(object) {
            (None, new) => self.tell(|| Change::Added(&new)),
            (Some(old), new) => self.tell(|| Change::Updated { old: &old, new: &new }),
        }
    }

    fn delete(&self, key: &Key, last: Option<K>) {
        let known = self.cache.content.write().remove(key);
        if let Some(gone) = last.map(Arc::new).or_else(|| known.clone()).filter(|_| known.is_some()) {
            self.tell(|| Change::Deleted(&gone));
        }
    }

    fn tell<'a>(&self, change: impl Fn() -> Change<'a, K>)
    where
        K: 'a,
    {
        self.handlers.iter().for_each(|handler| handler(change()));
    }
}

// === impl Content ===

impl<K: Resource> Content<K> {
    fn insert(&mut self, object: Arc<K>) -> Option<Arc<K>> {
        let key = Key::of(object.meta());
        let old = self.remove(&key);
        let partition = self.namespaces.entry(key.namespace).or_default();
        partition.by_controller.entry(controller_uid(&*object)).or_default().insert(key.name.clone());
        partition.objects.insert(key.name, object);
        old
    }

    fn remove(&mut self, key: &Key) -> Option<Arc<K>> {
        let partition = self.namespaces.get_mut(&key.namespace)?;
        let old = partition.objects.remove(&key.name)?;
        let controller = controller_uid(&*old);
        if let Some(names) = partition.by_controller.get_mut(&controller) {
            names.remove(&key.name);
            if names.is_empty() {
                partition.by_controller.remove(&controller);
            }
        }
        if partition.objects.is_empty() {
            self.namespaces.remove(&key.namespace);
        }
        Some(old)
    }
}

impl<K> Default for Content<K> {
    fn default() -> Self {
        Self { namespaces: BTreeMap::new() }
    }
}

impl<K> Default for Partition<K> {
    fn default() -> Self {
        Self { objects: HashMap::new(), by_controller: HashMap::new() }
    }
}

fn controller_uid<K: Resource>(object: &K) -> String {
    controller_of(object.meta()).map(|owner| owner.uid.clone()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use k8s_openapi::api::core::v1::Pod;

    use super::*;
    use crate::testing;

    fn informer() -> (Informer<Pod>, Arc<Mutex<Vec<String>>>) {
        let mut informer =
            Informer::new(Api::<Pod>::all(testing::no_client()), watcher::Config::default(), ());
        let told = Arc::new(Mutex::new(Vec::new()));
        let log = told.clone();
        informer.on_change(move |change| {
            let verb = match change {
                Change::Added(_) => "added",
                Change::Updated { .. } => "updated",
                Change::Deleted(_) => "deleted",
            };
            let name = change.latest().metadata.name.clone().unwrap_or_default();
            log.lock().expect("no test panics with it").push(format!("{verb} {name}"));
        });
        (informer, told)
    }

    fn pod(name: &str, version: &str) -> Pod {
        let mut pod = testing::pod(name);
        pod.metadata.resource_version = Some(version.to_owned());
        pod
    }

    #[tokio::test]
    async fn a_new_list_is_told_as_differences() {
        let (informer, told) = informer();
        informer.replace_all(vec![pod("a", "1"), pod("b", "2"), pod("c", "3")]);
        told.lock().expect("no panic").clear();
        informer.replace_all(vec![pod("b", "2"), pod("c", "4"), pod("d", "5")]);
        assert_eq!(*told.lock().expect("no panic"), ["deleted a", "updated c", "added d"]);
    }

    #[tokio::test]
    async fn a_name_used_again_is_a_deletion_and_an_addition() {
        let (informer, told) = informer();
        informer.apply(pod("a", "1"));
        let mut again = pod("a", "2");
        again.metadata.uid = Some("other".to_owned());
        informer.apply(again);
        assert_eq!(*told.lock().expect("no panic"), ["added a", "deleted a", "added a"]);
    }

    #[tokio::test]
    async fn objects_are_found_by_their_manager() {
        let (informer, _) = informer();
        let mut managed = pod("a", "1");
        managed.metadata.owner_references = Some(vec![testing::managed_by("rs")]);
        informer.apply(managed.clone());
        informer.apply(pod("b", "2"));
        let cache = informer.cache();
        assert_eq!(cache.managed_by("default", "rs").len(), 1);
        assert_eq!(cache.unmanaged("default").len(), 1);
        managed.metadata.owner_references = None;
        managed.metadata.resource_version = Some("3".to_owned());
        informer.apply(managed);
        assert!(cache.managed_by("default", "rs").is_empty());
        assert_eq!(cache.unmanaged("default").len(), 2);
    }
}
