use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use weft_xds::{
    Rejected, ResourceType, ResourceUpdate, Subscriptions, any,
    client::{ClientConfig, ConfigSink, Protocol, run},
    load::LrsService,
    pb::{
        envoy::{
            config::{cluster::v3::Cluster, core::v3::Node, listener::v3::Listener as ListenerResource},
            service::discovery::v3::{
                DeltaDiscoveryRequest, aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
            },
        },
        google::protobuf::Any,
    },
    server::{AdsService, Listener, ProxyObserver, SnapshotCache, serve},
    transport::ServerAddress,
};

use crate::support::{NoLoads, PATIENCE, TestServer, endpoints, eventually, node, resource, snapshot};

/// Keeps what it is given, refuses clusters that are called `bad…`, and tells of every update.
struct Sink {
    world: BTreeMap<(ResourceType, String), Any>,
    updates: mpsc::UnboundedSender<ResourceUpdate>,
    connected: watch::Sender<bool>,
}

struct Client {
    updates: mpsc::UnboundedReceiver<ResourceUpdate>,
    connected: watch::Receiver<bool>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl ConfigSink for Sink {
    fn apply(&mut self, update: ResourceUpdate) -> Result<(), Vec<Rejected>> {
        let mut rejected = Vec::new();
        for resource in &update.upserts {
            if resource.name.starts_with("bad") {
                rejected.push(Rejected { name: resource.name.clone(), reason: "name: is bad".into() });
            } else {
                self.world.insert((update.type_, resource.name.clone()), resource.body.clone());
            }
        }
        for name in &update.removed {
            self.world.remove(&(update.type_, name.clone()));
        }
        self.updates.send(update).unwrap();
        if rejected.is_empty() { Ok(()) } else { Err(rejected) }
    }

    fn wanted(&self) -> Subscriptions {
        let names = |wanted: ResourceType| {
            self.world.keys().filter(|(type_, _)| *type_ == wanted).map(|(_, name)| name.clone()).collect()
        };
        Subscriptions {
            endpoints: names(ResourceType::Cluster),
            routes: names(ResourceType::Listener),
            ..Default::default()
        }
    }

    fn connected(&mut self, connected: bool) {
        self.connected.send_replace(connected);
    }
}

impl Client {
    fn start(server: ServerAddress, protocol: Protocol) -> Self {
        let (updates_tx, updates) = mpsc::unbounded_channel();
        let (connected_tx, connected) = watch::channel(false);
        let sink = Sink { world: BTreeMap::new(), updates: updates_tx, connected: connected_tx };
        let stop = CancellationToken::new();
        let config = ClientConfig {
            protocol,
            backoff_base: Duration::from_millis(20),
            backoff_max: Duration::from_millis(100),
            ..ClientConfig::new(server, node("one"))
        };
        let task = tokio::spawn(run(config, sink, stop.clone()));
        Self { updates, connected, stop, task }
    }

    async fn update(&mut self) -> ResourceUpdate {
        tokio::time::timeout(PATIENCE, self.updates.recv()).await.expect("an update comes").unwrap()
    }

    /// The next update of a type that brings something.
    async fn change(&mut self, type_: ResourceType) -> ResourceUpdate {
        loop {
            let update = self.update().await;
            if update.type_ == type_ && !(update.upserts.is_empty() && update.removed.is_empty()) {
                return update;
            }
        }
    }

    async fn stop(self) {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE, self.task).await.expect("the client stops when told").unwrap();
    }
}

fn address(port: u16) -> std::net::SocketAddr {
    ([127, 0, 0, 1], port).into()
}

async fn all_acknowledged(cache: &SnapshotCache) {
    eventually("everything is acknowledged", async || {
        let status = cache.status("one")?;
        let current = |type_: &ResourceType| {
            let status = status.types.get(type_)?;
            (!status.sent_version.is_empty() && status.acked_version == status.sent_version).then_some(())
        };
        [
            ResourceType::Cluster,
            ResourceType::ClusterLoadAssignment,
            ResourceType::Listener,
            ResourceType::RouteConfiguration,
        ]
        .iter()
        .try_for_each(current)
    })
    .await;
}

#[tokio::test]
async fn a_client_gets_everything_then_only_what_changes() {
    for protocol in [Protocol::Delta, Protocol::Sotw] {
        let cache = SnapshotCache::new();
        let mut state = snapshot(address(1), address(2));
        cache.set("one", state.clone());
        let server = TestServer::start(&cache).await;
        let mut client = Client::start(server.server(), protocol);
        for _ in 0..4 {
            let update = client.update().await;
            assert_eq!(update.upserts.len(), 1, "{update:?}");
        }
        all_acknowledged(&cache).await;

        let changed = endpoints("web", address(3));
        state.endpoints.insert("web".into(), changed.clone());
        cache.set("one", state.clone());
        let update = client.update().await;
        assert_eq!((update.type_, &update.upserts[0].body), (ResourceType::ClusterLoadAssignment, &changed));
        eventually("the change is acknowledged", async || {
            cache.is_acknowledged("one", ResourceType::ClusterLoadAssignment, "web")?.then_some(())
        })
        .await;

        cache.set("one", state);
        cache.clear("one");
        tokio::task::yield_now().await;
        assert!(client.updates.try_recv().is_err(), "nothing changed, and nothing is taken away");
        client.stop().await;
        server.stop().await;
    }
}

#[tokio::test]
async fn a_refusal_is_known_by_resource_and_the_rest_is_in_force() {
    let cache = SnapshotCache::new();
    let mut state = snapshot(address(1), address(2));
    cache.set("one", state.clone());
    let server = TestServer::start(&cache).await;
    let mut client = Client::start(server.server(), Protocol::Delta);
    all_acknowledged(&cache).await;
    for name in ["bad-one", "good"] {
        let cluster = any::pack(&Cluster { name: name.into(), ..Default::default() });
        state.clusters.insert(name.into(), cluster);
    }
    cache.set("one", state);
    client.change(ResourceType::Cluster).await;
    while client.update().await.upserts.len() != 2 {}
    let nack = eventually("the refusal is known", async || {
        cache.status("one")?.types[&ResourceType::Cluster].last_nack.clone()
    })
    .await;
    assert_eq!(nack.resources, [Rejected { name: "bad-one".into(), reason: "name: is bad".into() }]);
    assert!(nack.message.contains("bad-one: name: is bad"), "{}", nack.message);
    let acked = &cache.status("one").unwrap().types[&ResourceType::Cluster].acked;
    assert_eq!(acked.keys().collect::<Vec<_>>(), ["good", "web"]);
    client.stop().await;
    server.stop().await;
}

#[tokio::test]
async fn a_client_outlives_its_server_and_catches_up_with_the_next() {
    for protocol in [Protocol::Delta, Protocol::Sotw] {
        let cache = SnapshotCache::new();
        let mut state = snapshot(address(1), address(2));
        cache.set("one", state.clone());
        let server = TestServer::start(&cache).await;
        let server_address = server.address;
        let mut client = Client::start(server.server(), protocol);
        all_acknowledged(&cache).await;
        while client.updates.try_recv().is_ok() {}
        server.stop().await;
        client.connected.wait_for(|connected| !connected).await.unwrap();

        // As after a restart: nothing is known but the objects, of which one changed and one is gone.
        let cache = SnapshotCache::new();
        let changed = endpoints("web", address(3));
        state.endpoints.insert("web".into(), changed.clone());
        state.listeners.clear();
        cache.set("one", state);
        let server = TestServer::start_at(server_address, &cache, Arc::new(NoLoads)).await;
        let update = client.change(ResourceType::ClusterLoadAssignment).await;
        assert_eq!(update.upserts[0].body, changed);
        let update = client.change(ResourceType::Listener).await;
        assert_eq!((update.upserts.len(), update.removed), (0, vec!["web".to_owned()]));
        assert!(*client.connected.borrow());
        client.stop().await;
        server.stop().await;
    }
}

#[tokio::test]
async fn a_client_that_is_there_first_is_served_when_its_snapshot_comes() {
    let cache = SnapshotCache::new();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ads.sock");
    let stop = CancellationToken::new();
    let mut client = Client::start(ServerAddress::Unix(path.clone()), Protocol::Delta);
    let listener = Listener::Unix(tokio::net::UnixListener::bind(&path).unwrap());
    let ads = AdsService::new(cache.clone(), stop.clone());
    let lrs = LrsService::new(Arc::new(NoLoads), Duration::from_secs(1), stop.clone());
    let server = tokio::spawn(serve(listener, ads, lrs, stop.clone()));
    client.connected.wait_for(|connected| *connected).await.unwrap();
    cache.set("one", snapshot(address(1), address(2)));
    assert_eq!(client.update().await.type_, ResourceType::Cluster);
    client.stop().await;
    stop.cancel();
    server.await.unwrap().unwrap();
}

#[derive(Default)]
struct Seen(parking_lot::Mutex<Vec<String>>);

impl ProxyObserver for Seen {
    fn connected(&self, node: &Node) {
        self.0.lock().push(format!("+{}", node.id));
    }

    fn disconnected(&self, node: &Node) {
        self.0.lock().push(format!("-{}", node.id));
    }
}

#[tokio::test]
async fn observers_and_metrics_tell_who_is_there() {
    let cache = SnapshotCache::new();
    let registry = prometheus::Registry::new();
    registry.register(cache.collector()).unwrap();
    let seen = Arc::new(Seen::default());
    cache.observe(seen.clone());
    cache.set("one", snapshot(address(1), address(2)));
    let server = TestServer::start(&cache).await;
    let client = Client::start(server.server(), Protocol::Delta);
    all_acknowledged(&cache).await;
    assert_eq!(cache.connected().iter().map(|node| node.id.as_str()).collect::<Vec<_>>(), ["one"]);
    let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
    for line in [
        "weft_xds_proxies 1",
        "weft_xds_streams{variant=\"delta\"} 1",
        "weft_xds_responses_total{type=\"eds\"} 1",
        "weft_xds_answers_total{answer=\"ack\",type=\"rds\"} 1",
        "weft_xds_ack_seconds_count{type=\"rds\"} 1",
        "weft_xds_proxies_by_state{state=\"synced\"} 1",
        "weft_xds_proxies_by_state{state=\"refused\"} 0",
        "weft_xds_oldest_unanswered_seconds 0",
        "weft_xds_laggards 0",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    client.stop().await;
    eventually("the proxy is gone", async || cache.connected().is_empty().then_some(())).await;
    eventually("the observer knows", async || (*seen.0.lock() == ["+one", "-one"]).then_some(())).await;
    let status = cache.status("one").expect("its snapshot is there");
    assert_eq!((status.streams, status.types.len()), (0, 4));
    server.stop().await;
}

#[tokio::test]
async fn a_stream_without_a_name_is_refused() {
    let server = TestServer::start(&SnapshotCache::new()).await;
    let mut client = AggregatedDiscoveryServiceClient::connect(server.server().to_string()).await.unwrap();
    let request = DeltaDiscoveryRequest { node: Some(node("")), ..Default::default() };
    let mut responses =
        client.delta_aggregated_resources(tokio_stream::iter([request])).await.unwrap().into_inner();
    let status = responses.message().await.expect_err("refused");
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
    server.stop().await;
}

#[test]
fn what_the_tests_write_is_what_they_mean() {
    let state = snapshot(address(1), address(2));
    let listener: ListenerResource = any::unpack(&state.listeners["web"]).unwrap();
    assert_eq!(listener.filter_chains.len(), 1);
    assert_eq!(resource("envoy.config.cluster.v3.Cluster", serde_json::json!({})).value.len(), 0);
}
