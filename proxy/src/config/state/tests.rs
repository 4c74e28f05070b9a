//! What waits for what, with updates in every order and time that is paused.

use std::{sync::Arc, time::Duration};

use futures::FutureExt as _;
use serde_json::{Value, json};
use tokio::{runtime::Handle, sync::watch, time::advance};
use weft_xds::{Resource, ResourceType, ResourceUpdate, json::any_from_json};

use super::State;
use crate::{
    listener::on_demand::Ask,
    worker::{Shared, drain::DrainPlan},
};

use ResourceType::{Cluster, ClusterLoadAssignment as Endpoints, Listener, RouteConfiguration as Routes};

/// Long enough for everything whose time is not given.
const FIFTEEN: Duration = Duration::from_secs(15);

fn state() -> State {
    let (bindings, _) = watch::channel(Some(Arc::default()));
    let mut state = State::new(Arc::new(Shared::new(1, DrainPlan::default())), bindings, Handle::current());
    state.set_sources(Some(Default::default()), Some(Default::default()), &Arc::default());
    state
}

fn update(type_: ResourceType, resources: &[Value], removed: &[&str]) -> ResourceUpdate {
    let resource = |value: &Value| Resource {
        name: value["name"].as_str().or(value["cluster_name"].as_str()).expect("a name").to_owned(),
        version: String::new(),
        body: {
            let mut value = value.clone();
            value["@type"] = json!(type_.type_url());
            any_from_json(&value).expect("a resource")
        },
        caused_at: None,
        aliases: Vec::new(),
    };
    ResourceUpdate {
        type_,
        version: "1".into(),
        upserts: resources.iter().map(resource).collect(),
        removed: removed.iter().map(|name| (*name).to_owned()).collect(),
    }
}

fn give(state: &mut State, type_: ResourceType, resources: &[Value]) {
    state.apply(update(type_, resources, &[])).expect("accepted");
}

fn take(state: &mut State, type_: ResourceType, name: &str) {
    state.apply(update(type_, &[], &[name])).expect("accepted");
}

/// A cluster whose endpoints come by themselves, under this name.
fn cluster(name: &str, endpoints: &str) -> Value {
    json!({"name": name, "type": "EDS", "eds_cluster_config": {"service_name": endpoints, "eds_config": {"ads": {}}}})
}

fn patient(name: &str) -> Value {
    let source = json!({"ads": {}, "initial_fetch_timeout": "0s"});
    json!({"name": name, "type": "EDS", "eds_cluster_config": {"eds_config": source}})
}

fn endpoints(name: &str) -> Value {
    let address = json!({"socket_address": {"address": "127.0.0.1", "port_value": 9}});
    json!({"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}]})
}

fn routes(name: &str, to: &str) -> Value {
    json!({"name": name, "virtual_hosts": [
        {"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": to}}]},
    ]})
}

/// A listener that connections are handed to, with the routes of this name.
fn listener(name: &str, routes: &str) -> Value {
    let manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "x",
        "rds": {"config_source": {"ads": {}}, "route_config_name": routes},
        "http_filters": [{"name": "router", "typed_config":
            {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}],
    });
    json!({
        "name": name,
        "bind_to_port": false,
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 80}},
        "filter_chains": [{"filters": [{"name": "manager", "typed_config": manager}]}],
    })
}

/// With listener `l`, routes `r` to cluster `a`, and all of it in force.
fn serving() -> State {
    let mut state = state();
    give(&mut state, Cluster, &[cluster("a", "a")]);
    give(&mut state, Endpoints, &[endpoints("a")]);
    give(&mut state, Listener, &[listener("l", "r")]);
    give(&mut state, Routes, &[routes("r", "a")]);
    assert!(serves(&state, "l") && leads_to(&state, "a"));
    state
}

fn serves(state: &State, listener: &str) -> bool {
    state.listeners[listener].slot.is_some() && !state.listeners[listener].is_pending()
}

/// Whether the routes in force lead to this cluster, and it is there.
fn leads_to(state: &State, cluster: &str) -> bool {
    let known = state.routes["r"].virtual_hosts == routes_of(cluster);
    known && state.names.clusters.get(cluster).is_some_and(|slot| slot.get().is_some())
}

fn routes_of(cluster: &str) -> Vec<weft_xds::pb::envoy::config::route::v3::VirtualHost> {
    let routes: weft_xds::pb::envoy::config::route::v3::RouteConfiguration =
        weft_xds::json::from_json(&routes("r", cluster)).expect("routes");
    routes.virtual_hosts
}

fn in_effect(state: &State) -> (bool, bool) {
    (state.in_effect(Cluster), state.in_effect(Routes))
}

#[tokio::test(start_paused = true)]
async fn routes_to_a_cluster_that_is_warming_take_effect_when_it_is_warm() {
    let mut state = serving();
    give(&mut state, Cluster, &[cluster("b", "b")]);
    assert!(state.wanted().endpoints.contains("b"), "asked for at once");
    assert_eq!(in_effect(&state), (false, true));
    give(&mut state, Routes, &[routes("r", "b")]);
    assert!(leads_to(&state, "a"));
    assert_eq!(in_effect(&state), (false, false));
    // A server that believes that the old routes are gone takes back what they need.
    take(&mut state, Cluster, "a");
    assert!(leads_to(&state, "a") && !state.clusters.contains_key("a"));
    give(&mut state, Endpoints, &[endpoints("b")]);
    assert!(leads_to(&state, "b"));
    assert!(
        state.names.clusters.get("a").is_none_or(|slot| slot.get().is_none()),
        "nothing needs it any more"
    );
    assert_eq!(in_effect(&state), (true, true));
}

#[tokio::test(start_paused = true)]
async fn what_does_not_come_holds_others_up_for_its_time_only() {
    let mut state = serving();
    give(&mut state, Cluster, &[patient("b")]);
    give(&mut state, Routes, &[routes("r", "b")]);
    advance(FIFTEEN / 2).await;
    state.stop_waiting();
    assert!(leads_to(&state, "a"));
    assert_eq!(in_effect(&state), (false, false));
    advance(FIFTEEN / 2).await;
    state.stop_waiting();
    assert!(leads_to(&state, "b"), "who waits for ever waits alone");
    assert_eq!((in_effect(&state), state.is_settled()), ((true, true), false));
}

#[tokio::test(start_paused = true)]
async fn endpoints_that_do_not_exist_are_not_waited_for() {
    let mut state = serving();
    give(&mut state, Cluster, &[cluster("b", "b")]);
    give(&mut state, Routes, &[routes("r", "b")]);
    take(&mut state, Endpoints, "b");
    assert!(leads_to(&state, "b"));
    assert_eq!(in_effect(&state), (true, true));
}

#[tokio::test(start_paused = true)]
async fn a_changed_cluster_does_not_wait_for_endpoints_that_do_not_exist() {
    let mut state = serving();
    let mut changed = patient("a");
    changed["eds_cluster_config"]["service_name"] = json!("other");
    give(&mut state, Cluster, &[changed]);
    assert_eq!((state.next_clusters.len(), in_effect(&state)), (1, (false, true)));
    take(&mut state, Endpoints, "other");
    let cluster = state.names.cluster("a").get().expect("in force");
    assert_eq!((cluster.discovery.key().as_deref(), state.next_clusters.len()), (Some("other"), 0));
    assert_eq!(in_effect(&state), (true, true));
}

#[tokio::test(start_paused = true)]
async fn a_listener_that_waits_for_ever_for_its_routes_keeps_what_it_replaces_but_no_acknowledgement() {
    let mut state = serving();
    let mut next = listener("l", "later");
    next["filter_chains"][0]["filters"][0]["typed_config"]["rds"]["config_source"]["initial_fetch_timeout"] =
        json!("0s");
    give(&mut state, Listener, &[next]);
    take(&mut state, Cluster, "a");
    assert_eq!(in_effect(&state), (false, true));
    advance(FIFTEEN / 2).await;
    state.stop_waiting();
    assert!(!state.in_effect(Cluster));
    advance(FIFTEEN / 2).await;
    let told = Arc::clone(&state.wanted_changed);
    let _ = told.notified().now_or_never();
    state.stop_waiting();
    assert!(state.in_effect(Cluster));
    told.notified().now_or_never().expect("who waits to acknowledge is told");
    let kept = state.names.clusters.get("a").is_some_and(|slot| slot.get().is_some());
    assert!(kept && !serves(&state, "l"), "the old listener still needs it");
    give(&mut state, Cluster, &[cluster("b", "b")]);
    give(&mut state, Endpoints, &[endpoints("b")]);
    give(&mut state, Routes, &[routes("later", "b")]);
    assert!(serves(&state, "l") && state.leaving.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_changed_cluster_serves_as_it_was_until_its_endpoints_came() {
    let mut state = serving();
    let discovery = |state: &mut State| {
        let cluster = state.names.cluster("a").get().expect("in force");
        assert_eq!(cluster.endpoints.load().hosts.len(), 1, "it always has an endpoint");
        cluster.discovery.key().expect("by name")
    };
    give(&mut state, Cluster, &[cluster("a", "other")]);
    assert_eq!(discovery(&mut state), "a");
    let both: Vec<_> = state.wanted().endpoints.into_iter().collect();
    assert_eq!((both, in_effect(&state)), (vec!["a".to_owned(), "other".to_owned()], (false, true)));
    // Back to what it was, and on again.
    give(&mut state, Cluster, &[cluster("a", "a")]);
    assert_eq!((state.next_clusters.len(), in_effect(&state)), (0, (true, true)));
    give(&mut state, Cluster, &[cluster("a", "other")]);
    give(&mut state, Endpoints, &[endpoints("other")]);
    assert_eq!((discovery(&mut state).as_str(), in_effect(&state)), ("other", (true, true)));
    // What is changed in place needs nothing else.
    let mut quick = cluster("a", "other");
    quick["connect_timeout"] = json!("1s");
    give(&mut state, Cluster, &[quick]);
    assert_eq!((discovery(&mut state).as_str(), in_effect(&state)), ("other", (true, true)));
}

#[tokio::test(start_paused = true)]
async fn a_listener_waits_for_the_clusters_that_its_routes_lead_to() {
    let mut state = state();
    give(&mut state, Cluster, &[cluster("a", "a")]);
    assert!(state.in_effect(Cluster), "at the start nothing is held back");
    give(&mut state, Listener, &[listener("l", "r")]);
    give(&mut state, Routes, &[routes("r", "a")]);
    assert!(!serves(&state, "l"));
    give(&mut state, Endpoints, &[endpoints("a")]);
    assert!(serves(&state, "l") && state.started);
    // A cluster that nobody knows of is not waited for: it may never come.
    give(&mut state, Routes, &[routes("r", "nowhere")]);
    assert!(state.in_effect(Routes) && state.routes["r"].virtual_hosts == routes_of("nowhere"));
}

#[tokio::test(start_paused = true)]
async fn a_cluster_that_comes_back_before_it_went_is_the_one_that_was_there() {
    let mut state = serving();
    give(&mut state, Cluster, &[cluster("b", "b")]);
    give(&mut state, Routes, &[routes("r", "b")]);
    take(&mut state, Cluster, "a");
    give(&mut state, Cluster, &[cluster("a", "a")]);
    give(&mut state, Routes, &[routes("r", "a")]);
    assert!(leads_to(&state, "a") && state.in_effect(Routes));
    assert_eq!(state.clusters["a"].cluster.endpoints.load().hosts.len(), 1);
    take(&mut state, Cluster, "b");
    assert_eq!(in_effect(&state), (true, true));
}

#[tokio::test(start_paused = true)]
async fn a_listener_that_was_asked_for_by_its_address_may_have_another_name() {
    let mut state = serving();
    let address = "10.0.0.1:80".parse().expect("an address");
    let ask = |state: &mut State| {
        let (answer, told) = tokio::sync::oneshot::channel();
        state.ask(Ask { address, answer, idle_timeout: FIFTEEN });
        told
    };
    let mut told = ask(&mut state);
    assert!(told.try_recv().is_err() && state.wanted().listeners.contains("10.0.0.1:80"));
    let mut given = update(Listener, &[listener("web", "r")], &[]);
    given.upserts[0].aliases = vec!["10.0.0.1:80".into()];
    state.apply(given).expect("accepted");
    assert_eq!(told.try_recv(), Ok(()));
    assert!(state.shared.by_address.load().contains_key(&address), "connections find it there");
    assert!(state.wanted().clusters.contains("a"), "with the clusters that it names");
    // It goes under both names, and who comes then is told at once that nothing is there.
    state.apply(update(Listener, &[], &["web", "10.0.0.1:80"])).expect("accepted");
    assert!(!state.shared.by_address.load().contains_key(&address));
    assert_eq!(ask(&mut state).try_recv(), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_host_that_came_under_another_name_is_asked_for_anew_when_it_is_gone() {
    let mut state = state();
    state.incremental = true;
    give(&mut state, Listener, &[listener("l", "r")]);
    let mut open = routes("r", "a");
    open["virtual_hosts"] = json!([]);
    open["vhds"] = json!({"config_source": {"ads": {}}});
    give(&mut state, Routes, &[open]);
    let demand = Arc::clone(&state.names.demand);
    let ask = || demand.ask("r/web.test:80".into());
    let asked = ask().expect("it is not there");
    let host = json!({"name": "r/web", "domains": ["web.test"], "routes": [
        {"match": {"prefix": "/"}, "direct_response": {"status": 200}},
    ]});
    let mut given = update(ResourceType::VirtualHost, &[host], &[]);
    given.upserts[0].aliases = vec!["r/web.test:80".into()];
    state.apply(given).expect("accepted");
    asked.known().await;
    assert!(ask().is_none() && demand.names().contains("r/web.test:80"));
    state.apply(update(ResourceType::VirtualHost, &[], &["r/web", "r/web.test:80"])).expect("accepted");
    assert!(ask().is_some());
}
