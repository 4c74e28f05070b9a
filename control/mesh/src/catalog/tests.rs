//! Also the fixtures of the other tests: one small mesh.

use weft_discovery::model::{Endpoint, EndpointPort, Health, Locality, Pod, PodId, ServiceKind};
use weft_xds::{any::unpack, pb::envoy::config::endpoint::v3::ClusterLoadAssignment};

use super::*;

/// A port of a service: name, number, what is spoken.
pub(crate) type PortOf<'a> = (&'a str, u16, AppProtocol);

pub(crate) fn service(name: &str, ip: &str, ports: &[PortOf<'_>]) -> Service {
    let ports = ports.iter().enumerate().map(|(index, (name, port, app_protocol))| ServicePort {
        index,
        name: (*name).to_owned(),
        port: *port,
        transport: Transport::Tcp,
        app_protocol: *app_protocol,
    });
    Service {
        id: ServiceId::new("default", name),
        uid: format!("uid-{name}"),
        kind: ServiceKind::Virtual(vec![ip.parse().unwrap()]),
        ports: ports.collect(),
        publish_not_ready: false,
        annotations: BTreeMap::new(),
    }
}

pub(crate) fn endpoint(pod: &str, address: &str, sidecar: Option<&str>, health: Health) -> Endpoint {
    let port = |name: &str, port| EndpointPort { name: name.to_owned(), port, transport: Transport::Tcp };
    Endpoint {
        address: address.parse().unwrap(),
        sidecar: sidecar.map(|sidecar| sidecar.parse().unwrap()),
        ports: Arc::new([port("http", 8080), port("raw", 9000)]),
        health,
        locality: Locality { zone: Some("z1".to_owned()), node: Some("n1".to_owned()) },
        hostname: None,
        pod: Some(PodId::new("default", pod)),
    }
}

pub(crate) fn pod(name: &str, address: &str, ports: &[u16]) -> Pod {
    Pod {
        id: PodId::new("default", name),
        uid: format!("uid-{name}"),
        address: Some(address.parse().unwrap()),
        sidecar: None,
        node: Some("n1".to_owned()),
        ports: ports.iter().map(|port| (*port, String::new())).collect(),
        ready: true,
        leaving: false,
        has_sidecar: true,
    }
}

pub(crate) fn state(
    services: Vec<Service>,
    endpoints: Vec<(&str, Vec<Endpoint>)>,
    pods: Vec<Pod>,
) -> MeshState {
    let set = |(name, endpoints)| (ServiceId::new("default", name), Arc::new(EndpointSet { endpoints }));
    MeshState {
        version: 1,
        services: Arc::new(
            services.into_iter().map(|service| (service.id.clone(), Arc::new(service))).collect(),
        ),
        endpoints: Arc::new(endpoints.into_iter().map(set).collect()),
        pods: Arc::new(pods.into_iter().map(|pod| (pod.id.clone(), Arc::new(pod))).collect()),
        ..MeshState::default()
    }
}

/// `web` with an HTTP and a raw port, `api` that says nothing, and the pods behind `web`.
pub(crate) fn small_mesh() -> MeshState {
    let mut api = service("api", "10.96.0.8", &[("grpc", 81, AppProtocol::Http2)]);
    api.annotations = BTreeMap::from([("weft.dev/balancer".to_owned(), "peak-ewma".to_owned())]);
    state(
        vec![
            service(
                "web",
                "10.96.0.7",
                &[("http", 80, AppProtocol::Detect), ("raw", 9000, AppProtocol::Tcp)],
            ),
            api,
        ],
        vec![(
            "web",
            vec![
                endpoint("web-1", "127.64.0.2", Some("127.64.0.3"), Health::Ready),
                endpoint("web-2", "127.64.0.4", None, Health::Ready),
                endpoint("web-3", "127.64.0.6", None, Health::Draining),
                endpoint("web-4", "127.64.0.8", None, Health::NotReady),
            ],
        )],
        vec![pod("web-1", "127.64.0.2", &[8080, 8081])],
    )
}

/// A shared resource.
pub(crate) fn shared(catalog: &Catalog, type_: ResourceType, name: &str) -> Any {
    catalog.resources().get(type_).get(name).expect("it is there").body()
}

/// Addresses and ports in the endpoint set `name`.
pub(crate) fn addresses(catalog: &Catalog, name: &str) -> Vec<String> {
    let json =
        weft_xds::json::any_to_json(&shared(catalog, ResourceType::ClusterLoadAssignment, name)).unwrap();
    let localities = json["endpoints"].as_array().cloned().unwrap_or_default();
    let endpoints =
        localities.iter().flat_map(|locality| locality["lb_endpoints"].as_array().unwrap().clone());
    let address = endpoints.map(|endpoint| endpoint["endpoint"]["address"]["socket_address"].clone());
    address.map(|a| format!("{}:{}", a["address"].as_str().unwrap(), a["port_value"])).collect()
}

#[test]
fn only_what_is_ready_gets_requests_and_through_its_sidecar() {
    let mut catalog = Catalog::default();
    catalog.update(Arc::new(small_mesh()));
    assert_eq!(addresses(&catalog, "web.default:80"), ["127.64.0.3:8080", "127.64.0.4:8080"]);
    assert_eq!(addresses(&catalog, "web.default:9000"), ["127.64.0.3:9000", "127.64.0.4:9000"]);
    let empty: ClusterLoadAssignment =
        unpack(&shared(&catalog, ResourceType::ClusterLoadAssignment, "api.default:81")).unwrap();
    assert!(empty.endpoints.is_empty());
}

#[test]
fn a_change_of_endpoints_rebuilds_only_the_endpoints_of_its_service() {
    let (mut catalog, before) = (Catalog::default(), Arc::new(small_mesh()));
    catalog.update(before.clone());
    let mut after = (*before).clone();
    let less = EndpointSet { endpoints: vec![endpoint("web-2", "127.64.0.4", None, Health::Ready)] };
    Arc::make_mut(&mut after.endpoints).insert(ServiceId::new("default", "web"), Arc::new(less));
    let changes = catalog.update(Arc::new(after));
    assert!(changes.endpoints && !changes.services, "{changes:?}");
    // Of the pods behind it, only those that went have ports that services send to no more.
    let went = ["web-1", "web-3", "web-4"].map(|name| PodId::new("default", name));
    assert_eq!(changes.pods, went.into());
    assert_eq!(addresses(&catalog, "web.default:80"), ["127.64.0.4:8080"]);
    // The same again changes nothing.
    assert_eq!(catalog.update(catalog.state().clone()), Changes::default());
}

#[test]
fn what_did_not_change_is_shared_with_before() {
    let (mut catalog, before) = (Catalog::default(), Arc::new(small_mesh()));
    catalog.update(before.clone());
    let shared = catalog.resources().clone();
    let mut after = (*before).clone();
    let less = EndpointSet { endpoints: vec![endpoint("web-2", "127.64.0.4", None, Health::Ready)] };
    Arc::make_mut(&mut after.endpoints).insert(ServiceId::new("default", "web"), Arc::new(less));
    catalog.update(Arc::new(after));
    for type_ in ResourceType::ALL {
        let mut names = Vec::new();
        shared
            .get(type_)
            .changes(catalog.resources().get(type_), &mut |change| names.extend(change.name().cloned()));
        let expected: &[&str] = match type_ {
            ResourceType::ClusterLoadAssignment => &["web.default:80", "web.default:9000"],
            _ => &[],
        };
        assert_eq!(names, expected, "{type_}");
        assert_eq!(shared.get(type_).is_same(catalog.resources().get(type_)), expected.is_empty());
    }
}

#[test]
fn endpoints_that_come_with_their_service_or_before_it_are_found() {
    let web = ServiceId::new("default", "web");
    let all = small_mesh();
    let mut early = all.clone();
    Arc::make_mut(&mut early.services).remove(&web);
    let mut catalog = Catalog::default();
    catalog.update(Arc::new(early));
    let mut late = all.clone();
    let less = EndpointSet { endpoints: vec![endpoint("web-2", "127.64.0.4", None, Health::Ready)] };
    Arc::make_mut(&mut late.endpoints).insert(web, Arc::new(less));
    catalog.update(Arc::new(late));
    assert_eq!(addresses(&catalog, "web.default:80"), ["127.64.0.4:8080"]);
}

#[test]
fn a_change_that_no_proxy_sees_changes_no_endpoints() {
    let (mut catalog, before) = (Catalog::default(), Arc::new(small_mesh()));
    catalog.update(before.clone());
    let mut after = (*before).clone();
    let web = ServiceId::new("default", "web");
    let mut set = EndpointSet { endpoints: before.endpoints_of(&web).to_vec() };
    set.endpoints[2].health = Health::NotReady;
    Arc::make_mut(&mut after.endpoints).insert(web, Arc::new(set));
    let changes = catalog.update(Arc::new(after));
    assert!(!changes.endpoints && !changes.services, "{changes:?}");
}

#[test]
fn a_service_that_is_gone_takes_everything_with_it() {
    let mut catalog = Catalog::default();
    catalog.update(Arc::new(small_mesh()));
    catalog.update(Arc::new(state(vec![], vec![], vec![])));
    let is_empty = |type_: ResourceType| catalog.resources().get(type_).is_empty();
    assert!(ResourceType::ALL.into_iter().all(is_empty) && catalog.inbound.is_empty());
}

#[test]
fn inbound_ports_are_what_containers_declare_and_services_send_to() {
    let mut catalog = Catalog::default();
    catalog.update(Arc::new(small_mesh()));
    let ports = catalog.inbound_ports(&PodId::new("default", "web-1"));
    assert_eq!(
        ports.into_iter().collect::<Vec<_>>(),
        [(8080, AppProtocol::Detect), (8081, AppProtocol::Detect), (9000, AppProtocol::Tcp)]
    );
    // Known to services only.
    let ports = catalog.inbound_ports(&PodId::new("default", "web-2"));
    assert_eq!(ports.keys().collect::<Vec<_>>(), [&8080, &9000]);
}

#[test]
fn an_invalid_annotation_is_told_and_the_service_works() {
    let mut state = small_mesh();
    let mut web = service("web", "10.96.0.7", &[("http", 80, AppProtocol::Http)]);
    web.annotations = BTreeMap::from([("weft.dev/balancer".to_owned(), "best".to_owned())]);
    Arc::make_mut(&mut state.services).insert(web.id.clone(), Arc::new(web));
    let mut catalog = Catalog::default();
    let changes = catalog.update(Arc::new(state));
    assert_eq!(changes.problems.len(), 1);
    shared(&catalog, ResourceType::Cluster, "web.default:80");
}

#[test]
fn services_without_a_virtual_address_are_not_carried() {
    let mut headless = service("db", "10.96.0.9", &[("sql", 5432, AppProtocol::Tcp)]);
    headless.kind = ServiceKind::Headless;
    let mut six = service("six", "10.96.0.9", &[("http", 80, AppProtocol::Http)]);
    six.kind = ServiceKind::Virtual(vec!["fd00::1".parse().unwrap()]);
    let mut catalog = Catalog::default();
    catalog.update(Arc::new(state(vec![headless, six], vec![], vec![])));
    assert_eq!(catalog.ports().count(), 0);
    assert!(catalog.resources().get(ResourceType::ClusterLoadAssignment).is_empty());
}

#[test]
fn both_crates_mean_the_same_annotation() {
    assert_eq!(weft_discovery::kubernetes::SIDECAR_ADDRESS_ANNOTATION, weft_api::mesh::SIDECAR_ADDRESS);
}
