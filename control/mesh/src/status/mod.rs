//! Tells on each Service whether its wishes are in force: the condition `weft.dev/Programmed` of its status.
//!
//! # Guarantees
//! * It is False while an annotation of the service cannot be followed, and while a connected proxy refuses a resource
//!   that was made from the service; the message names the annotation, or proxy, resource and field. It becomes True
//!   again when neither is so.
//! * A service that never had such a problem gets no condition: ten thousand services are not written at each start.
//! * Only what differs is written, and each service at most once a second.
//!
//! # Caveats
//! * A proxy that does not say which resources it refuses is not held against any service; `weft proxies` shows it.
//! * A refusal outlives the proxy's connection by [`HOLD`], or until it answers again: a proxy that restarts must not
//!   make a condition flap.

mod condition;
mod findings;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::api::core::v1::Service as KubeService;
use kube::{
    Api, Client, ResourceExt as _,
    api::{ListParams, Patch, PatchParams},
};
use parking_lot::Mutex;
use serde_json::json;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};
use weft_discovery::model::{MeshState, ServiceId};
use weft_kit::error::chain;
use weft_xds::{
    ResourceType,
    pb::envoy::config::core::v3::Node,
    server::{ProxyObserver, SnapshotCache},
};

use self::findings::Findings;
use crate::warnings::Reporter;

/// How long what a proxy refused counts after its connection was lost, and how long proxies have after our own start
/// to refuse it again.
pub(crate) const HOLD: Duration = Duration::from_secs(30);
/// What happens meanwhile goes into the same write.
const GATHER: Duration = Duration::from_millis(50);
/// Between two rounds of writes, and before what failed is tried again.
const PAUSE: Duration = Duration::from_secs(1);

/// Proxies that refused something, and what they did after that. Cheap to tell from any task: what the others answer, a
/// thousand of them to each change, is of no interest.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    proxies: Mutex<Told>,
    told: Notify,
}

#[derive(Debug, Default)]
struct Told {
    /// Against whom something is held.
    held: HashSet<String>,
    /// Who is to be looked at.
    news: BTreeSet<String>,
}

/// Keeps the conditions; see the [module](self).
pub(crate) struct Keeper {
    pub(crate) client: Client,
    pub(crate) state: watch::Receiver<Arc<MeshState>>,
    pub(crate) cache: SnapshotCache,
    pub(crate) answers: Arc<Answers>,
    pub(crate) events: Reporter,
}

/// Canonical is `findings`.
struct Work {
    client: Client,
    cache: SnapshotCache,
    events: Reporter,
    findings: Findings,
    /// Services whose condition in the API says False.
    open: BTreeSet<ServiceId>,
    /// Services whose condition may not be what the findings say.
    dirty: BTreeSet<ServiceId>,
    /// Proxies that went and still count, and until when.
    gone: BTreeMap<String, Instant>,
}

// === impl Answers ===

impl Answers {
    /// The proxy is to be looked at, and from now on whenever it answers.
    fn hold(&self, proxy: &str) {
        let mut told = self.proxies.lock();
        told.held.insert(proxy.to_owned());
        told.news.insert(proxy.to_owned());
        self.told.notify_one();
    }

    /// The proxy is to be looked at if something is held against it.
    fn tell(&self, proxy: &str) {
        let mut told = self.proxies.lock();
        if told.held.contains(proxy) {
            told.news.insert(proxy.to_owned());
            self.told.notify_one();
        }
    }

    /// Nothing is held against the proxy any more, unless it refused something since it was looked at.
    fn release(&self, proxy: &str) {
        let mut told = self.proxies.lock();
        if !told.news.contains(proxy) {
            told.held.remove(proxy);
        }
    }
}

impl ProxyObserver for Answers {
    fn disconnected(&self, node: &Node) {
        self.tell(&node.id);
    }

    fn answered(&self, proxy_id: &str, _: ResourceType) {
        self.tell(proxy_id);
    }

    fn refused(&self, proxy_id: &str, _: ResourceType) {
        self.hold(proxy_id);
    }
}

// === impl Keeper ===

impl Keeper {
    /// Works until `shutdown`.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        shutdown.clone().run_until_cancelled(self.work()).await;
    }

    async fn work(mut self) {
        let open = loop {
            match open_conditions(&self.client).await {
                Ok(open) => break open,
                Err(error) => {
                    warn!(error = chain(&error), "cannot read the conditions of services, will retry");
                    sleep(PAUSE).await;
                }
            }
        };
        // What an earlier control wrote stays until the proxies had time to refuse it again.
        let mut doubt_until = (!open.is_empty()).then(|| Instant::now() + HOLD);
        let mut work = Work {
            client: self.client,
            cache: self.cache,
            events: self.events,
            findings: Findings::default(),
            open,
            dirty: BTreeSet::new(),
            gone: BTreeMap::new(),
        };
        loop {
            let expiry = work.gone.values().copied().chain(doubt_until).min();
            let retry = (!work.dirty.is_empty()).then(Instant::now);
            tokio::select! {
                changed = self.state.changed() => {
                    // The source of states ends with the process.
                    if changed.is_err() {
                        return;
                    }
                }
                () = self.answers.told.notified() => {}
                () = at(expiry) => {}
                () = at(retry) => {}
            }
            sleep(GATHER).await;
            let state = self.state.borrow_and_update().clone();
            if !state.is_synced() {
                continue;
            }
            work.dirty.extend(work.findings.services(&state));
            let news = std::mem::take(&mut self.answers.proxies.lock().news);
            work.proxies(news, &self.answers, &state);
            if doubt_until.is_some_and(|until| Instant::now() >= until) {
                doubt_until = None;
                work.dirty.extend(work.open.iter().cloned());
            }
            if !work.dirty.is_empty() {
                work.write_all(doubt_until.is_some()).await;
                sleep(PAUSE).await;
            }
        }
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// The services whose condition says False.
async fn open_conditions(client: &Client) -> Result<BTreeSet<ServiceId>, kube::Error> {
    let services = Api::<KubeService>::all(client.clone()).list(&ListParams::default()).await?;
    let open =
        services.items.iter().filter(|service| condition::of(service).is_some_and(|c| c.status == "False"));
    Ok(open
        .map(|service| ServiceId::new(service.namespace().unwrap_or_default(), service.name_any()))
        .collect())
}

// === impl Work ===

impl Work {
    /// Looks at how the proxies are now that answered or went, and at those that went long ago.
    fn proxies(&mut self, mut news: BTreeSet<String>, answers: &Answers, state: &MeshState) {
        let now = Instant::now();
        news.extend(self.gone.iter().filter(|(_, until)| **until <= now).map(|(id, _)| id.clone()));
        for id in news {
            match self.cache.summary(&id) {
                Some(books) => {
                    self.gone.remove(&id);
                    let (dirty, new) = self.findings.proxy(&books, state);
                    self.dirty.extend(dirty);
                    for (service, note) in new {
                        if let Some(service) = state.services.get(&service) {
                            self.events.warn(service, "RefusedByProxy", note);
                        }
                    }
                }
                None if self.findings.has(&id) => {
                    let until = *self.gone.entry(id.clone()).or_insert(now + HOLD);
                    if until <= now {
                        self.gone.remove(&id);
                        self.dirty.extend(self.findings.forget(&id));
                    }
                }
                None => {}
            }
            if !self.findings.has(&id) {
                answers.release(&id);
            }
        }
    }

    /// Brings the conditions in step; what fails stays dirty. While in `doubt`, nothing that others wrote is taken back.
    async fn write_all(&mut self, doubt: bool) {
        for id in std::mem::take(&mut self.dirty) {
            let problem = self.findings.problem(&id);
            if problem.is_none() && (doubt || !self.open.contains(&id)) {
                continue;
            }
            match self.write(&id, problem).await {
                Ok(()) => {}
                Err(kube::Error::Api(status)) if status.code == 404 => drop(self.open.remove(&id)),
                Err(error) => {
                    warn!(service = %id, error = chain(&error), "cannot write the condition of a service, will retry");
                    self.dirty.insert(id);
                }
            }
        }
    }

    async fn write(
        &mut self,
        id: &ServiceId,
        problem: Option<condition::Problem>,
    ) -> Result<(), kube::Error> {
        let api = Api::<KubeService>::namespaced(self.client.clone(), &id.namespace);
        let service = api.get(&id.name).await?;
        let is_problem = problem.is_some();
        if let Some(condition) = condition::wanted(&service, problem, jiff::Timestamp::now()) {
            debug!(service = %id, status = condition.status, message = condition.message, "condition");
            let patch = Patch::Strategic(json!({ "status": { "conditions": [condition] } }));
            api.patch_status(&id.name, &PatchParams::default(), &patch).await?;
        }
        if is_problem {
            self.open.insert(id.clone());
        } else {
            self.open.remove(id);
        }
        Ok(())
    }
}
