use std::time::Duration;

use weft_api::mesh::METADATA_TRAFFIC;
use weft_discovery::model::{EndpointSet, Health, PodId, ServiceId};
use weft_xds::pb::google::protobuf::{Struct, Value, value::Kind};

use super::*;
use crate::catalog::tests::{endpoint, pod, small_mesh};

fn publisher() -> Publisher {
    let (_, state) = watch::channel(Arc::default());
    let (_, changed) = mpsc::unbounded_channel();
    Publisher {
        state,
        changed,
        cache: SnapshotCache::new(),
        telemetry: Arc::new(Telemetry::new(&Registry::new()).unwrap()),
        warnings: warnings::channel().0,
        catalog: Catalog::default(),
        proxies: BTreeMap::new(),
        given: watch::Sender::default(),
    }
}

fn gateway() -> Node {
    Node { id: "gateway~~n1".into(), ..Node::default() }
}

fn sidecar(pod: &str) -> Node {
    let mode = Value { kind: Some(Kind::StringValue("redirect".into())) };
    let metadata = Struct { fields: [(METADATA_TRAFFIC.to_owned(), mode)].into() };
    Node { id: format!("sidecar~default~{pod}"), metadata: Some(metadata), ..Node::default() }
}

fn has_own(publisher: &Publisher, id: &str) -> bool {
    publisher.proxies[id].own.is_some()
}

#[test]
fn before_the_state_is_known_a_proxy_gets_nothing() {
    let mut publisher = publisher();
    publisher.connected(&gateway());
    publisher.state_changed(Arc::default());
    assert!(!has_own(&publisher, "gateway~~n1"));
    publisher.state_changed(Arc::new(small_mesh()));
    assert!(has_own(&publisher, "gateway~~n1"));
}

#[test]
fn a_proxy_that_comes_later_gets_everything_at_once() {
    let mut publisher = publisher();
    publisher.state_changed(Arc::new(small_mesh()));
    publisher.connected(&gateway());
    assert!(has_own(&publisher, "gateway~~n1"));
    publisher.disconnected("gateway~~n1");
    assert!(publisher.proxies.is_empty());
}

#[test]
fn a_proxy_that_is_none_of_ours_is_left_alone() {
    let mut publisher = publisher();
    publisher.connected(&Node { id: "somebody".into(), ..Node::default() });
    assert!(publisher.proxies.is_empty());
    publisher.disconnected("somebody");
}

#[test]
fn only_proxies_that_a_change_concerns_get_a_new_snapshot() {
    let mut publisher = publisher();
    let before = Arc::new(small_mesh());
    publisher.state_changed(before.clone());
    publisher.connected(&gateway());
    publisher.connected(&sidecar("web-1"));
    let concerned = |publisher: &mut Publisher, state: MeshState| {
        let own = |publisher: &Publisher| -> Vec<_> {
            publisher.proxies.iter().map(|(id, proxy)| (id.clone(), proxy.own.clone())).collect()
        };
        let (before, shared) = (own(publisher), publisher.catalog.resources().clone());
        publisher.state_changed(Arc::new(state));
        let after = own(publisher);
        let ids: Vec<_> = before
            .into_iter()
            .zip(after)
            .filter(|(before, after)| before != after)
            .map(|(_, (id, _))| id)
            .collect();
        (ids, shared != *publisher.catalog.resources())
    };
    // A further port of one pod.
    let mut state = (*before).clone();
    let more = pod("web-1", "127.64.0.2", &[8080, 8081, 8082]);
    Arc::make_mut(&mut state.pods).insert(more.id.clone(), Arc::new(more));
    assert_eq!(concerned(&mut publisher, state.clone()), (vec!["sidecar~default~web-1".into()], false));
    // A pod that has no proxy.
    let other = pod("other", "127.64.0.20", &[80]);
    Arc::make_mut(&mut state.pods).insert(PodId::new("default", "other"), Arc::new(other));
    assert_eq!(concerned(&mut publisher, state.clone()), (vec![], false));
    // Readiness of an endpoint: only what all share.
    let set = EndpointSet { endpoints: vec![endpoint("web-9", "127.64.0.4", None, Health::Ready)] };
    Arc::make_mut(&mut state.endpoints).insert(ServiceId::new("default", "web"), Arc::new(set));
    let (_, shared) = concerned(&mut publisher, state);
    assert!(shared);
}

#[test]
fn a_proxy_that_comes_back_as_another_gets_what_it_needs_now() {
    let mut publisher = publisher();
    publisher.state_changed(Arc::new(small_mesh()));
    publisher.connected(&sidecar("web-1"));
    let before = publisher.proxies["sidecar~default~web-1"].own.clone();
    let mut node = sidecar("web-1");
    let address = Value { kind: Some(Kind::StringValue("127.64.0.99".into())) };
    node.metadata.as_mut().unwrap().fields.insert("weft.pod_ip".into(), address);
    publisher.connected(&node);
    assert_ne!(publisher.proxies["sidecar~default~web-1"].own, before);
}

#[test]
fn a_proxy_that_has_gone_again_is_not_kept() {
    let mut publisher = publisher();
    publisher.connected(&gateway());
    // The cache knows of no stream, whatever the order of what was told.
    publisher.proxy_changed("gateway~~n1");
    assert!(publisher.proxies.is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_first_change_goes_out_at_once_and_what_follows_it_in_one_round() {
    let rounds = |registry: &Registry| {
        let families = registry.gather();
        let family = families.iter().find(|family| family.name() == "weft_mesh_snapshots_total").unwrap();
        family.get_metric()[0].get_counter().get_value()
    };
    let (registry, cache, shutdown) = (Registry::new(), SnapshotCache::new(), CancellationToken::new());
    let (states, state) = watch::channel(Arc::default());
    let _stops = shutdown.clone().drop_guard();
    let publishing = {
        let registry = registry.clone();
        async move { publish(state, cache, &registry, shutdown).await }
    };
    tokio::spawn(publishing);
    let endpoints = |number: u8| {
        let mut state = small_mesh();
        let address = format!("127.64.0.{number}");
        let set = EndpointSet { endpoints: vec![endpoint("web-9", &address, None, Health::Ready)] };
        Arc::make_mut(&mut state.endpoints).insert(ServiceId::new("default", "web"), Arc::new(set));
        Arc::new(state)
    };
    let started = tokio::time::Instant::now();
    // Long enough for every task to have its turn; the clock stands still meanwhile.
    let settle = async || {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    };
    settle().await;
    states.send_replace(endpoints(4));
    settle().await;
    assert_eq!((rounds(&registry), started.elapsed()), (1.0, Duration::ZERO));
    for number in 5..50 {
        states.send_replace(endpoints(number));
        settle().await;
    }
    assert_eq!(rounds(&registry), 1.0);
    tokio::time::sleep(Duration::from_millis(2)).await;
    assert_eq!(rounds(&registry), 2.0);
    // It has rested: the next one goes at once again.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let started = tokio::time::Instant::now();
    states.send_replace(endpoints(50));
    settle().await;
    assert_eq!((rounds(&registry), started.elapsed()), (3.0, Duration::ZERO));
}
