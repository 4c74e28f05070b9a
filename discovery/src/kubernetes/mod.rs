//! The mesh's state from a Kubernetes API server: Services, EndpointSlices and Pods.
//!
//! # Guarantees
//! * Nothing is published before all three kinds were listed completely, and what was published stays while the API
//!   server is away.
//! * A change is published as soon as its event is read. Events that are already waiting go into the same state; a
//!   reader that is slower than that sees only the latest state.
//! * A state is published only if something in it differs from the one before.
//! * Whether an endpoint gets requests follows from its pod as soon as that is read, without waiting for the EndpointSlice
//!   controller to write it down, where it is that controller's slice.
//!
//! # Caveats
//! The three watches are not ordered among each other: an endpoint can be there before its pod is.

mod assembler;
mod convert;
mod transitions;

use std::{fmt::Debug, hash::Hash, sync::Arc, time::SystemTime};

use futures::{FutureExt as _, Stream, StreamExt as _, stream};
use k8s_openapi::api::{
    core::v1::{Pod as KubePod, Service as KubeService},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, Client, Resource,
    runtime::{WatchStreamExt as _, watcher},
};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};
use weft_kit::error::chain;

use self::assembler::{Assembler, TableEvent};
pub use self::convert::SIDECAR_ADDRESS_ANNOTATION;
use crate::model::MeshState;

/// Events of one burst that are read before a state is published even though more are waiting.
const MAX_BURST: usize = 4096;

/// Starts to watch and returns where the state appears; the work ends after `shutdown`.
///
/// Until the first complete state, the receiver holds one that is not [synced](MeshState::is_synced).
/// To be called within a tokio runtime.
pub fn watch(client: Client, shutdown: CancellationToken) -> watch::Receiver<Arc<MeshState>> {
    let (sender, receiver) = watch::channel(Arc::default());
    tokio::spawn(run(client, sender, shutdown));
    receiver
}

/// Watches and publishes until `shutdown`; see the [module](self).
pub async fn run(client: Client, publish: watch::Sender<Arc<MeshState>>, shutdown: CancellationToken) {
    let services = updates::<KubeService, _>(&client, |event| {
        Update::Service(convert_event(event, convert::service_id, convert::service))
    });
    let slices = updates::<EndpointSlice, _>(&client, |event| {
        Update::Slice(convert_event(event, convert::slice_id, convert::slice))
    });
    let pods = events::<KubePod>(&client)
        .flat_map(|event| {
            let seen = transitions::seen(&event, SystemTime::now()).map(|(id, seen)| Update::Seen(id, seen));
            let update = Update::Pod(convert_event(event, convert::pod_id, convert::pod));
            stream::iter(seen.into_iter().chain([update]))
        })
        .boxed();
    let mut updates = stream::select_all([services, slices, pods]);
    let mut assembler = Assembler::default();
    loop {
        let update = tokio::select! {
            () = shutdown.cancelled() => return,
            update = updates.next() => update,
        };
        // kube's watchers never end by themselves; should one, there is nothing left to publish.
        let Some(update) = update else { return };
        assembler.apply(update);
        for _ in 1..MAX_BURST {
            match updates.next().now_or_never() {
                Some(Some(update)) => assembler.apply(update),
                Some(None) | None => break,
            }
        }
        if let Some(state) = assembler.take(SystemTime::now()) {
            debug!(
                version = state.version,
                services = state.services.len(),
                pods = state.pods.len(),
                "mesh state changed"
            );
            publish.send_replace(state);
        }
    }
}

use self::assembler::Update;

type Updates = stream::BoxStream<'static, Update>;

/// The watch of one kind as a stream of updates.
fn updates<K, F>(client: &Client, convert: F) -> Updates
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
    F: Fn(watcher::Event<K>) -> Update + Send + 'static,
{
    events(client).map(convert).boxed()
}

/// The watch of one kind; failures are logged and retried with backoff.
fn events<K>(client: &Client) -> impl Stream<Item = watcher::Event<K>> + Send + use<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let events = watcher(Api::<K>::all(client.clone()), watcher::Config::default()).default_backoff();
    logged::<K>(events)
}

fn logged<K: Resource<DynamicType = ()>>(
    events: impl Stream<Item = watcher::Result<watcher::Event<K>>> + Send,
) -> impl Stream<Item = watcher::Event<K>> + Send
where
    watcher::Event<K>: Send,
{
    events.filter_map(|event| async {
        event
            .inspect_err(
                |error| warn!(kind = %K::kind(&()), error = chain(error), "watch failed, will retry"),
            )
            .ok()
    })
}

/// What the assembler reads, from what kube's watcher says.
fn convert_event<K, Id: Hash + Eq, V>(
    event: watcher::Event<K>,
    id: impl Fn(&K) -> Option<Id>,
    value: impl Fn(K) -> V,
) -> TableEvent<Id, V> {
    match event {
        watcher::Event::Init => TableEvent::Restart,
        watcher::Event::InitDone => TableEvent::Restarted,
        watcher::Event::InitApply(object) | watcher::Event::Apply(object) => match id(&object) {
            Some(key) => TableEvent::Set(key, value(object)),
            None => TableEvent::Nothing,
        },
        watcher::Event::Delete(object) => id(&object).map_or(TableEvent::Nothing, TableEvent::Remove),
    }
}
