//! Golden files: what each kind of proxy gets for one small mesh. `WEFT_BLESS=1 cargo test -p weft-mesh` writes them
//! anew; the difference is then to be read before it is committed.

use std::{path::PathBuf, sync::Arc};

use serde_json::{Map, Value};
use weft_discovery::model::{PodId, ServiceId};
use weft_xds::{json::any_to_json, server::Snapshot, session::VersionedSnapshot};

use super::*;
use crate::catalog::tests::{pod, service, small_mesh, state};

fn catalog() -> Catalog {
    let mut catalog = Catalog::default();
    catalog.update(Arc::new(small_mesh()));
    catalog
}

fn web_1() -> PodId {
    PodId::new("default", "web-1")
}

fn given(catalog: &Catalog, profile: &ProxyProfile) -> Snapshot {
    let own = Own::new(catalog, profile).to_server();
    let all = VersionedSnapshot::layered(&own.layer, catalog.resources(), own.shares, own.on_request);
    let mut snapshot = Snapshot::default();
    for type_ in ResourceType::ALL {
        for resource in all.get(type_).iter() {
            snapshot.resources_mut(type_).insert(resource.name.to_string(), resource.body());
        }
    }
    snapshot
}

fn as_json(snapshot: &Snapshot) -> Value {
    let all = |resources: &BTreeMap<String, Any>| -> Value {
        let fields =
            resources.iter().map(|(name, any)| (name.clone(), any_to_json(any).expect("a known type")));
        Value::Object(fields.collect::<Map<_, _>>())
    };
    serde_json::json!({
        "listeners": all(&snapshot.listeners),
        "clusters": all(&snapshot.clusters),
        "routes": all(&snapshot.routes),
        "endpoints": all(&snapshot.endpoints),
    })
}

fn matches_golden(name: &str, profile: &ProxyProfile) {
    let catalog = catalog();
    let found = as_json(&given(&catalog, profile));
    let path =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/snapshot/golden").join(format!("{name}.json"));
    if std::env::var_os("WEFT_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, serde_json::to_string_pretty(&found).unwrap() + "\n").unwrap();
    }
    let golden = std::fs::read_to_string(&path).expect("the golden file is checked in");
    let golden: Value = serde_json::from_str(&golden).unwrap();
    assert_eq!(found, golden, "{name} differs from {}", path.display());
}

#[test]
fn a_gateway_gets_what_the_golden_file_says() {
    matches_golden("gateway", &ProxyProfile::Gateway { listen: [127, 0, 0, 1].into() });
}

#[test]
fn an_addressed_sidecar_gets_what_the_golden_file_says() {
    let (listen, workload) = ("127.64.0.3".parse().unwrap(), "127.64.0.2".parse().unwrap());
    let profile = ProxyProfile::Addressed { pod: web_1(), listen: Some(listen), workload: Some(workload) };
    matches_golden("addressed", &profile);
}

#[test]
fn a_redirected_sidecar_gets_what_the_golden_file_says() {
    matches_golden("redirected", &ProxyProfile::Redirected { pod: web_1(), address: None, on_demand: false });
}

#[test]
fn a_sidecar_that_asks_gets_no_service_that_it_did_not_ask_for() {
    let catalog = catalog();
    let profile = ProxyProfile::Redirected { pod: web_1(), address: None, on_demand: true };
    let snapshot = given(&catalog, &profile);
    let names = |resources: &BTreeMap<String, Any>| resources.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&snapshot.clusters), ["inbound", "passthrough"]);
    assert!(names(&snapshot.listeners).iter().all(|name| name == "outbound" || name.starts_with("inbound")));
    let outbound = any_to_json(&snapshot.listeners["outbound"]).expect("a known type");
    assert!(
        outbound["metadata"]["filter_metadata"]["weft.dev"]["on_demand_listeners"].is_object(),
        "{outbound}"
    );
    // All that it may ask for is there under the address that callers use.
    let catalog = catalog.resources();
    let listeners: Vec<_> = catalog.get(ResourceType::Listener).iter().collect();
    assert!(!listeners.is_empty());
    for listener in listeners {
        listener.name.parse::<std::net::SocketAddr>().expect("an address");
    }
}

#[test]
fn everything_that_is_referred_to_is_there() {
    let catalog = catalog();
    let listen = Some("127.64.0.3".parse().unwrap());
    for profile in [
        ProxyProfile::Gateway { listen: [127, 0, 0, 1].into() },
        ProxyProfile::Addressed { pod: web_1(), listen, workload: None },
        ProxyProfile::Redirected { pod: web_1(), address: None, on_demand: false },
    ] {
        let snapshot = given(&catalog, &profile);
        let text = as_json(&snapshot).to_string();
        for (key, resources) in
            [("\"cluster\":\"", &snapshot.clusters), ("\"route_config_name\":\"", &snapshot.routes)]
        {
            for found in text.split(key).skip(1) {
                let name = found.split('"').next().unwrap();
                assert!(resources.contains_key(name), "{profile:?} refers to {name}");
            }
        }
        for name in snapshot.clusters.keys().filter(|name| name.contains(".default:")) {
            assert!(snapshot.endpoints.contains_key(name), "{name}");
        }
    }
}

#[test]
fn a_sidecar_whose_addresses_are_not_known_yet_gets_no_listeners() {
    let catalog = catalog();
    let profile = ProxyProfile::Addressed { pod: PodId::new("default", "new"), listen: None, workload: None };
    let snapshot = given(&catalog, &profile);
    assert!(snapshot.listeners.is_empty() && !snapshot.clusters.is_empty());
    let profile =
        ProxyProfile::Redirected { pod: PodId::new("default", "new"), address: None, on_demand: false };
    let snapshot = given(&catalog, &profile);
    assert!(snapshot.listeners.contains_key("inbound") && !snapshot.listeners.contains_key("inbound:8080"));
}

#[test]
fn a_port_of_the_workload_wins_over_that_of_a_service() {
    let web = service("web", "10.96.0.7", &[("http", 80, AppProtocol::Http)]);
    let id = ServiceId::new("default", "web");
    let mut catalog = Catalog::default();
    catalog.update(Arc::new(state(
        vec![web],
        vec![],
        vec![pod("busy", "127.64.0.2", &[20_007, ADMIN_PORT])],
    )));
    assert_eq!(catalog.ports().next().unwrap().addressed, Some(20_007), "{id}");
    let profile = ProxyProfile::Addressed {
        pod: PodId::new("default", "busy"),
        listen: Some("127.64.0.3".parse().unwrap()),
        workload: None,
    };
    let snapshot = given(&catalog, &profile);
    assert_eq!(snapshot.listeners.keys().collect::<Vec<_>>(), ["inbound:20007"]);
}

#[test]
fn a_change_of_one_service_rebuilds_its_listeners_and_shares_all_others() {
    let profiles = || {
        let (listen, workload) = ("127.64.0.3".parse().ok(), "127.64.0.2".parse().ok());
        [
            ProxyProfile::Gateway { listen: [127, 0, 0, 1].into() },
            ProxyProfile::Addressed { pod: web_1(), listen, workload },
            ProxyProfile::Grpc { namespace: "default".into() },
            ProxyProfile::Redirected { pod: web_1(), address: None, on_demand: false },
        ]
    };
    let mesh = small_mesh();
    // The same annotations as `api` has, so that only its ports differ.
    let api = |ports: &[(&str, u16, AppProtocol)]| {
        let mut api = service("api", "10.96.0.8", ports);
        api.annotations = mesh.services[&ServiceId::new("default", "api")].annotations.clone();
        let mut after = mesh.clone();
        Arc::make_mut(&mut after.services).insert(api.id.clone(), Arc::new(api));
        after
    };
    let annotated = {
        let mut web = (*mesh.services[&ServiceId::new("default", "web")]).clone();
        web.annotations = [("weft.dev/retries".to_owned(), "5".to_owned())].into();
        let mut after = mesh.clone();
        Arc::make_mut(&mut after.services).insert(web.id.clone(), Arc::new(web));
        after
    };
    let mut without = mesh.clone();
    Arc::make_mut(&mut without.services).remove(&ServiceId::new("default", "api"));
    let mut more = mesh.clone();
    let new = service("new", "10.96.0.9", &[("http", 80, AppProtocol::Http)]);
    Arc::make_mut(&mut more.services).insert(new.id.clone(), Arc::new(new));
    let http2 = AppProtocol::Http2;
    for (what, after, changed) in [
        ("another annotation", annotated, ""),
        ("another port", api(&[("grpc", 82, http2)]), "api"),
        ("one more port", api(&[("grpc", 81, http2), ("more", 82, http2)]), "api"),
        ("another protocol", api(&[("grpc", 81, AppProtocol::Tcp)]), "api"),
        ("one service less", without, "api"),
        ("one service more", more, "new"),
    ] {
        for profile in profiles() {
            let mut catalog = catalog();
            let before = Own::new(&catalog, &profile);
            let mut own = before.clone();
            let changes = catalog.update(Arc::new(after.clone()));
            let differs = own.follow(&catalog, &profile, &changes);
            assert_eq!(own, Own::new(&catalog, &profile), "{what}: {profile:?}");
            assert_eq!(differs, own != before, "{what}: {profile:?}");
            assert!(changes.pods.is_empty(), "{what}: no sidecar has other ports of its own");
            let mut built = 0;
            for type_ in ResourceType::ALL {
                for resource in own.layer.get(type_).iter() {
                    let old = before.layer.get(type_).get(&resource.name);
                    if !old.is_some_and(|old| Arc::ptr_eq(old, resource)) {
                        assert!(
                            !changed.is_empty() && resource.name.starts_with(changed),
                            "{what}: {}",
                            resource.name
                        );
                        built += 1;
                    }
                }
            }
            assert!(built <= 14, "{what}: {profile:?}: {built} are built anew");
        }
    }
}
