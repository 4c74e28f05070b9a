use std::{collections::BTreeMap, sync::Arc};

use super::*;
use crate::model::{AppProtocol, EndpointPort, EndpointSet, Locality, ServicePort};

fn port(name: &str, port: u16, transport: Transport) -> ServicePort {
    ServicePort { index: 0, name: name.into(), port, transport, app_protocol: AppProtocol::Detect }
}

fn service(namespace: &str, name: &str, kind: ServiceKind) -> (ServiceId, Arc<Service>) {
    let id = ServiceId::new(namespace, name);
    let ports = vec![port("http", 80, Transport::Tcp), port("dns", 53, Transport::Udp)];
    let service = Service {
        id: id.clone(),
        uid: String::new(),
        kind,
        ports,
        publish_not_ready: false,
        annotations: BTreeMap::new(),
    };
    (id, Arc::new(service))
}

fn endpoint(address: &str, hostname: Option<&str>, health: Health) -> Endpoint {
    Endpoint {
        address: address.parse().unwrap(),
        sidecar: None,
        ports: Arc::new([EndpointPort { name: "http".into(), port: 8080, transport: Transport::Tcp }]),
        health,
        locality: Locality::default(),
        hostname: hostname.map(str::to_owned),
        pod: None,
    }
}

fn state() -> MeshState {
    let virtual_ = |ip: &str| ServiceKind::Virtual(vec![ip.parse().unwrap()]);
    let services = BTreeMap::from([
        service("default", "web", virtual_("10.96.0.7")),
        service("default", "db", ServiceKind::Headless),
        service("default", "empty", ServiceKind::Headless),
        service("default", "outside", ServiceKind::External("example.com".into())),
        service("prod", "web", virtual_("10.96.0.8")),
        service("prod", "six", virtual_("fd00::6")),
    ]);
    let endpoints = vec![
        endpoint("10.1.0.2", Some("db-0"), Health::Ready),
        endpoint("10.1.0.3", None, Health::Ready),
        endpoint("10.1.0.4", None, Health::Draining),
        endpoint("10.1.0.5", None, Health::NotReady),
    ];
    let set = Arc::new(EndpointSet { endpoints });
    MeshState {
        version: 7,
        services: Arc::new(services),
        endpoints: Arc::new(BTreeMap::from([(ServiceId::new("default", "db"), set)])),
        ..MeshState::default()
    }
}

fn zone() -> Zone {
    Zone::new(Name::from_ascii("cluster.local").unwrap(), "default".into(), Duration::from_secs(5))
}

fn ask(name: &str, kind: RecordType) -> Answer {
    let name = Name::from_ascii(name).unwrap();
    zone().answer(&state(), &LowerName::new(&name), kind)
}

/// The data of the answers, as text.
fn data(name: &str, kind: RecordType) -> Vec<String> {
    match ask(name, kind) {
        Answer::Records { answers, .. } => {
            let owner = Name::from_ascii(name).unwrap().to_lowercase();
            assert!(answers.iter().all(|record| record.name == owner && record.ttl == 5), "{answers:?}");
            answers.iter().map(|record| record.data.to_string()).collect()
        }
        other => panic!("{name} {kind}: {other:?}"),
    }
}

#[test]
fn every_form_of_a_name_finds_the_service() {
    for name in
        ["web.", "web.default.", "web.default.svc.", "web.default.svc.cluster.local.", "WEB.Default.SVC."]
    {
        assert_eq!(data(name, RecordType::A), ["10.96.0.7"], "{name}");
    }
    assert_eq!(data("web.prod.", RecordType::A), ["10.96.0.8"]);
    assert_eq!(data("six.prod.svc.cluster.local.", RecordType::AAAA), ["fd00::6"]);
}

#[test]
fn a_name_without_such_a_record_is_told_from_one_that_does_not_exist() {
    for name in [
        "web.",
        "web.default.svc.cluster.local.",
        "default.svc.cluster.local.",
        "svc.cluster.local.",
        "cluster.local.",
        "_tcp.web.default.svc.cluster.local.",
        "_http._tcp.web.default.svc.cluster.local.",
    ] {
        assert_eq!(ask(name, RecordType::AAAA), Answer::NoData, "{name}");
    }
    for name in [
        "nope.default.svc.cluster.local.",
        "web.nowhere.svc.cluster.local.",
        "nowhere.svc.cluster.local.",
        "web.default.pod.cluster.local.",
        "nope.cluster.local.",
        "nope.default.svc.",
        "_https._tcp.web.default.svc.cluster.local.",
        "_http._udp.web.default.svc.cluster.local.",
        "_sctp.web.default.svc.cluster.local.",
        "a.b.c.web.default.svc.cluster.local.",
        "empty.default.svc.cluster.local.",
    ] {
        assert_eq!(ask(name, RecordType::A), Answer::NoName, "{name}");
    }
    let odd = Name::from_labels([&b"x\xff y"[..], b"default", b"svc", b"cluster", b"local"]).unwrap();
    assert_eq!(zone().answer(&state(), &LowerName::new(&odd), RecordType::A), Answer::NoName);
}

#[test]
fn what_is_not_ours_is_elsewhere_and_ours_never_is() {
    for name in ["example.com.", "nope.", "nope.default.", "x.web.", ".", "web.default.svc.cluster.example."]
    {
        assert_eq!(ask(name, RecordType::A), Answer::Elsewhere, "{name}");
    }
    let zone = zone();
    let owns = |name: &str| zone.owns(&LowerName::new(&Name::from_ascii(name).unwrap()));
    assert!(owns("anything.at.all.cluster.local.") && owns("cluster.local.") && owns("a.b.svc."));
    assert!(!owns("notcluster.local.") && !owns("web."));
}

#[test]
fn a_headless_service_gives_its_ready_pods() {
    assert_eq!(data("db.", RecordType::A), ["10.1.0.2", "10.1.0.3"]);
    assert_eq!(data("db-0.db.default.svc.cluster.local.", RecordType::A), ["10.1.0.2"]);
    assert_eq!(data("10-1-0-3.db.default.svc.cluster.local.", RecordType::A), ["10.1.0.3"]);
    assert_eq!(ask("10-1-0-5.db.default.svc.cluster.local.", RecordType::A), Answer::NoName);
}

#[test]
fn srv_records_name_port_and_target_with_its_address() {
    let full = "web.default.svc.cluster.local.";
    assert_eq!(
        data("_http._tcp.web.default.svc.cluster.local.", RecordType::SRV),
        [format!("0 100 80 {full}")]
    );
    assert_eq!(data("_dns._udp.web.", RecordType::SRV), [format!("0 100 53 {full}")]);
    assert_eq!(data("web.", RecordType::SRV).len(), 2);
    let Answer::Records { answers, additionals } = ask("_http._tcp.db.", RecordType::SRV) else { panic!() };
    let answers: Vec<String> = answers.iter().map(|record| record.data.to_string()).collect();
    assert_eq!(
        answers,
        [
            "0 100 8080 db-0.db.default.svc.cluster.local.",
            "0 100 8080 10-1-0-3.db.default.svc.cluster.local."
        ]
    );
    let glue: Vec<String> = additionals.iter().map(|r| format!("{} {}", r.name, r.data)).collect();
    assert_eq!(
        glue,
        ["db-0.db.default.svc.cluster.local. 10.1.0.2", "10-1-0-3.db.default.svc.cluster.local. 10.1.0.3"]
    );
}

#[test]
fn an_external_name_is_an_alias() {
    let Answer::Alias { target, .. } = ask("outside.", RecordType::A) else { panic!() };
    assert_eq!(target.to_string(), "example.com.");
    assert_eq!(data("outside.", RecordType::CNAME), ["example.com."]);
}

#[test]
fn the_start_of_authority_is_at_or_above_the_name() {
    for (name, owner) in [
        ("nope.default.svc.cluster.local.", "cluster.local."),
        ("nope.default.svc.", "svc."),
        ("web.", "web."),
        ("web.default.", "web.default."),
    ] {
        let record = zone().soa(&LowerName::new(&Name::from_ascii(name).unwrap()), 7);
        assert_eq!(record.name.to_string(), owner);
        assert!(matches!(record.data, RData::SOA(soa) if soa.minimum == 5 && soa.serial == 7));
    }
    assert_eq!(data("dns-version.cluster.local.", RecordType::TXT), ["1.1.0"]);
    assert_eq!(data("cluster.local.", RecordType::NS), ["dns.ns.cluster.local."]);
}
