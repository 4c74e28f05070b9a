//! Asks every node what it uses, regularly and on demand.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt as _, stream};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::{Api, Client, ResourceExt as _, api::ListParams};
use parking_lot::RwLock;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tracing::debug;
use weft_kit::error::chain;

use super::usage::{History, Scrape};

/// Between two scrapes of a node. `kubectl top` shows averages over this time.
const INTERVAL: Duration = Duration::from_secs(10);
/// Who asks gets nothing older than this.
const MAX_AGE: Duration = Duration::from_secs(5);
/// A rate over less than this is noise.
const MIN_BETWEEN: Duration = Duration::from_secs(1);
const NODES_AT_ONCE: usize = 16;
const NODE_TIMEOUT: Duration = Duration::from_secs(5);

/// The last two scrapes of each node; clones share them.
#[derive(Clone, Default)]
pub struct UsageStore {
    nodes: Arc<RwLock<BTreeMap<String, History>>>,
}

/// Fills a [`UsageStore`]; clones share it.
#[derive(Clone)]
pub struct Scraper {
    client: Client,
    store: UsageStore,
    /// When all nodes were asked last. Held while they are asked, so that whoever waits meanwhile needs not ask again.
    round: Arc<Mutex<Option<Instant>>>,
}

// === impl UsageStore ===

impl UsageStore {
    /// What is known of each node.
    pub(super) fn nodes(&self) -> BTreeMap<String, History> {
        self.nodes.read().clone()
    }

    /// What is known of one node.
    pub(super) fn node(&self, name: &str) -> Option<History> {
        self.nodes.read().get(name).cloned()
    }

    pub(super) fn add(&self, node: String, scrape: Scrape) {
        let mut nodes = self.nodes.write();
        let history = match nodes.remove(&node) {
            Some(history) => history.then(scrape),
            None => History::new(scrape),
        };
        nodes.insert(node, history);
    }

    fn keep(&self, live: &HashSet<String>) {
        self.nodes.write().retain(|node, _| live.contains(node));
    }
}

// === impl Scraper ===

impl Scraper {
    /// Asks through `client`, which must be allowed to reach the nodes' proxies.
    pub fn new(client: Client) -> Self {
        Self { client, store: UsageStore::default(), round: Arc::default() }
    }

    /// What it learnt.
    pub fn store(&self) -> &UsageStore {
        &self.store
    }

    /// Asks regularly until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
            if shutdown.run_until_cancelled(self.ask_all()).await.is_none() {
                return;
            }
        }
    }

    /// Makes sure that what is known is fresh and that there are rates, as far as the nodes answer.
    pub async fn freshen(&self) {
        let now = Instant::now();
        let nodes = self.store.nodes();
        let fresh = |history: &History| history.has_rates() && history.last().age(now) < MAX_AGE;
        if !nodes.is_empty() && nodes.values().all(fresh) {
            return;
        }
        // A node that was asked for the first time a moment ago: wait until a second answer makes a rate.
        let youngest = nodes.values().map(|history| history.last().age(now)).min();
        if let Some(age) = youngest.filter(|age| *age < MIN_BETWEEN) {
            tokio::time::sleep(MIN_BETWEEN - age).await;
        }
        self.ask_all().await;
        if self.store.nodes().values().any(|history| !history.has_rates()) {
            tokio::time::sleep(MIN_BETWEEN).await;
            self.ask_all().await;
        }
    }

    async fn ask_all(&self) {
        let mut round = self.round.lock().await;
        if round.is_some_and(|asked| asked.elapsed() < MIN_BETWEEN) {
            return;
        }
        let nodes = match Api::<Node>::all(self.client.clone()).list(&ListParams::default()).await {
            Ok(list) => list.items,
            Err(error) => {
                debug!(error = chain(&error), "cannot list nodes");
                return;
            }
        };
        let names: HashSet<String> = nodes.iter().map(|node| node.name_any()).collect();
        self.store.keep(&names);
        stream::iter(names).for_each_concurrent(NODES_AT_ONCE, |node| self.ask(node)).await;
        *round = Some(Instant::now());
    }

    async fn ask(&self, node: String) {
        let path = format!("/api/v1/nodes/{node}/proxy/metrics/resource");
        let Ok(request) = http::Request::get(path).body(Vec::new()) else { return };
        match tokio::time::timeout(NODE_TIMEOUT, self.client.request_text(request)).await {
            Ok(Ok(text)) => self.store.add(node, Scrape::parse(&text, Instant::now(), Timestamp::now())),
            Ok(Err(error)) => debug!(node, error = chain(&error), "a node does not tell what it uses"),
            Err(_) => debug!(node, "a node does not tell what it uses: timed out"),
        }
    }
}
