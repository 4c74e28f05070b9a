use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use k8s_openapi::api::{
    core::v1::{Pod as KubePod, Service as KubeService},
    discovery::v1::EndpointSlice,
};
use serde_json::{Value, json};

use super::*;
use crate::{
    kubernetes::{convert, transitions},
    model::{AppProtocol, Health, ServiceKind, Transport},
};

fn service(name: &str) -> Update {
    let object: KubeService = serde_json::from_value(json!({
        "metadata": {"namespace": "default", "name": name, "uid": "u1",
                     "annotations": {"weft.dev/balancer": "peak-ewma", "other": "x"}},
        "spec": {"clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"],
                 "ports": [{"name": "http", "port": 80, "targetPort": 8080}, {"name": "dns", "port": 53, "protocol": "UDP"}]},
    }))
    .unwrap();
    Update::Service(TableEvent::Set(convert::service_id(&object).unwrap(), convert::service(object)))
}

fn slice(name: &str, service: &str, endpoints: &[Value]) -> Update {
    let object: EndpointSlice = serde_json::from_value(json!({
        "metadata": {"namespace": "default", "name": name, "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}], "endpoints": endpoints,
    }))
    .unwrap();
    Update::Slice(TableEvent::Set(convert::slice_id(&object).unwrap(), convert::slice(object)))
}

fn endpoint(ip: &str, conditions: Value) -> Value {
    json!({"addresses": [ip], "conditions": conditions, "nodeName": "n1", "zone": "z1",
           "targetRef": {"kind": "Pod", "name": "web-1", "namespace": "default"}})
}

fn pod(sidecar: Option<&str>) -> Update {
    let annotations = sidecar.map(|ip| json!({"weft.dev/sidecar-address": ip}));
    let object: KubePod = serde_json::from_value(json!({
        "metadata": {"namespace": "default", "name": "web-1", "uid": "p1", "annotations": annotations},
        "spec": {"nodeName": "n1", "containers": [{"name": "web", "ports": [
            {"name": "http", "containerPort": 8080}, {"containerPort": 53, "protocol": "UDP"}]}]},
        "status": {"podIP": "127.64.0.2"},
    }))
    .unwrap();
    Update::Pod(TableEvent::Set(convert::pod_id(&object).unwrap(), convert::pod(object)))
}

fn synced() -> Assembler {
    let mut assembler = Assembler::default();
    for restarted in [false, true] {
        assembler.apply(Update::Service(if restarted { TableEvent::Restarted } else { TableEvent::Restart }));
        assembler.apply(Update::Slice(if restarted { TableEvent::Restarted } else { TableEvent::Restart }));
        if !restarted {
            assembler.apply(Update::Pod(TableEvent::Restart));
        }
    }
    assert!(assembler.take(SystemTime::UNIX_EPOCH).is_none(), "pods were not listed yet");
    assembler.apply(Update::Pod(TableEvent::Restarted));
    assert_eq!(assembler.take(SystemTime::UNIX_EPOCH).expect("the first state, though empty").version, 1);
    assembler
}

fn web() -> ServiceId {
    ServiceId::new("default", "web")
}

#[test]
fn a_service_is_reduced_to_what_the_mesh_needs() {
    let mut assembler = synced();
    assembler.apply(service("web"));
    let state = assembler.take(SystemTime::UNIX_EPOCH).unwrap();
    let service = &state.services[&web()];
    assert_eq!(service.kind, ServiceKind::Virtual(vec!["10.96.0.7".parse().unwrap()]));
    assert_eq!(service.annotations.len(), 1);
    assert_eq!(service.ports[0].app_protocol, AppProtocol::Http);
    assert_eq!((service.ports[1].index, service.ports[1].transport), (1, Transport::Udp));
}

#[test]
fn an_object_that_did_not_change_for_the_mesh_publishes_nothing_and_keeps_its_pointer() {
    let mut assembler = synced();
    assembler.apply(service("web"));
    assembler.apply(pod(None));
    let before = assembler.take(SystemTime::UNIX_EPOCH).unwrap();
    assembler.apply(service("web"));
    assembler.apply(pod(None));
    assert!(assembler.take(SystemTime::UNIX_EPOCH).is_none());
    assembler.apply(service("api"));
    let after = assembler.take(SystemTime::UNIX_EPOCH).unwrap();
    assert!(Arc::ptr_eq(&before.services[&web()], &after.services[&web()]));
    assert!(Arc::ptr_eq(&before.pods, &after.pods));
}

#[test]
fn conditions_become_health() {
    let mut assembler = synced();
    assembler.apply(slice(
        "web-1",
        "web",
        &[
            endpoint("127.64.0.2", json!({"ready": true})),
            endpoint("127.64.0.4", json!({"ready": false})),
            endpoint("127.64.0.6", json!({"ready": false, "serving": true, "terminating": true})),
            endpoint("127.64.0.8", json!({"ready": false, "serving": false, "terminating": true})),
            endpoint("127.64.0.10", json!({})),
        ],
    ));
    let state = assembler.take(SystemTime::UNIX_EPOCH).unwrap();
    let health: Vec<Health> = state.endpoints_of(&web()).iter().map(|endpoint| endpoint.health).collect();
    assert_eq!(health, [Health::Ready, Health::NotReady, Health::Draining, Health::NotReady, Health::Ready]);
}

#[test]
fn the_sidecar_of_a_pod_is_found_whichever_comes_first() {
    let sidecar = Some("127.64.0.3".parse().unwrap());
    let ready = [endpoint("127.64.0.2", json!({"ready": true}))];
    for pod_first in [true, false] {
        let mut assembler = synced();
        if pod_first {
            assembler.apply(pod(Some("127.64.0.3")));
            assembler.apply(slice("web-1", "web", &ready));
        } else {
            assembler.apply(slice("web-1", "web", &ready));
            let state = assembler.take(SystemTime::UNIX_EPOCH).unwrap();
            assert_eq!(state.endpoints_of(&web())[0].proxy_address().to_string(), "127.64.0.2");
            assembler.apply(pod(Some("127.64.0.3")));
        }
        assert_eq!(assembler.take(SystemTime::UNIX_EPOCH).unwrap().endpoints_of(&web())[0].sidecar, sidecar);
    }
}

#[test]
fn an_endpoint_in_two_slices_counts_once_and_as_the_healthier() {
    let mut assembler = synced();
    assembler.apply(slice("a", "web", &[endpoint("127.64.0.2", json!({"ready": true}))]));
    assembler.apply(slice("b", "web", &[endpoint("127.64.0.2", json!({"ready": false}))]));
    let state = assembler.take(SystemTime::UNIX_EPOCH).unwrap();
    assert_eq!(state.endpoints_of(&web()).len(), 1);
    assert_eq!(state.endpoints_of(&web())[0].health, Health::Ready);
    assembler.apply(Update::Slice(TableEvent::Remove(("default".into(), "a".into()))));
    assert_eq!(
        assembler.take(SystemTime::UNIX_EPOCH).unwrap().endpoints_of(&web())[0].health,
        Health::NotReady
    );
    assembler.apply(Update::Slice(TableEvent::Remove(("default".into(), "b".into()))));
    assert!(assembler.take(SystemTime::UNIX_EPOCH).unwrap().endpoints.is_empty());
}

#[test]
fn what_is_missing_after_a_restart_is_gone_only_at_its_end() {
    let mut assembler = synced();
    assembler.apply(service("web"));
    assembler.apply(service("api"));
    assembler.take(SystemTime::UNIX_EPOCH);
    assembler.apply(Update::Service(TableEvent::Restart));
    assembler.apply(service("web"));
    assert!(
        assembler.take(SystemTime::UNIX_EPOCH).is_none(),
        "a list that is not complete says nothing about what is gone"
    );
    assembler.apply(Update::Service(TableEvent::Restarted));
    let state = assembler.take(SystemTime::UNIX_EPOCH).unwrap();
    assert_eq!(state.services.keys().collect::<Vec<_>>(), [&web()]);
}

#[test]
fn a_change_of_endpoints_is_as_old_as_what_the_pod_did() {
    let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    let readiness = |ready: &str, now| {
        let object: KubePod = serde_json::from_value(json!({
            "metadata": {"namespace": "default", "name": "web-1"}, "spec": {"containers": []},
            "status": {"conditions": [{"type": "Ready", "status": ready}]},
        }))
        .unwrap();
        let (id, seen) = transitions::seen(&kube::runtime::watcher::Event::Apply(object), now).unwrap();
        Update::Seen(id, seen)
    };
    let mut assembler = synced();
    assembler.apply(readiness("False", at(10)));
    assembler.apply(slice("web-1", "web", &[endpoint("127.64.0.2", json!({"ready": false}))]));
    assert_eq!(assembler.take(at(11)).unwrap().recent[&web()], at(10));
    assembler.apply(readiness("True", at(20)));
    assert!(assembler.take(at(20)).is_none(), "nothing changed for those who call it");
    assembler.apply(slice("web-1", "web", &[endpoint("127.64.0.2", json!({"ready": true}))]));
    assert_eq!(assembler.take(at(22)).unwrap().recent[&web()], at(20));
    // Long after, something else changes, and the pod is not why.
    assembler.apply(slice("web-1", "web", &[endpoint("127.64.0.3", json!({"ready": true}))]));
    assert_eq!(assembler.take(at(500)).unwrap().recent[&web()], at(500));
    assembler.apply(slice("api-1", "api", &[endpoint("127.64.0.4", json!({"ready": true}))]));
    let recent = assembler.take(at(600)).unwrap().recent.clone();
    assert_eq!(recent.keys().collect::<Vec<_>>(), [&ServiceId::new("default", "api")]);
}

/// Slices of the controller follow what the pod says as soon as it says it; others are their writers' business.
#[test]
fn an_endpoint_follows_its_pod_without_waiting_for_the_slice_to_be_rewritten() {
    let pod = |uid: &str, address: &str, ready: &str, deleted: bool| {
        let object: KubePod = serde_json::from_value(json!({
            "metadata": {"namespace": "default", "name": "web-1", "uid": uid,
                         "deletionTimestamp": deleted.then_some("2026-01-01T00:01:00Z")},
            "spec": {"containers": []},
            "status": {"podIP": address, "conditions": [{"type": "Ready", "status": ready}]},
        }))
        .unwrap();
        Update::Pod(TableEvent::Set(convert::pod_id(&object).unwrap(), convert::pod(object)))
    };
    let slice = |writer: &str, conditions: Value| {
        let object: EndpointSlice = serde_json::from_value(json!({
            "metadata": {"namespace": "default", "name": "web-1", "labels": {
                "kubernetes.io/service-name": "web", "endpointslice.kubernetes.io/managed-by": writer}},
            "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}],
            "endpoints": [endpoint("127.64.0.2", conditions)],
        }))
        .unwrap();
        Update::Slice(TableEvent::Set(convert::slice_id(&object).unwrap(), convert::slice(object)))
    };
    let controller = "endpointslice-controller.k8s.io";
    let mut assembler = synced();
    let mut health = |updates: Vec<Update>| {
        updates.into_iter().for_each(|update| assembler.apply(update));
        assembler.take(SystemTime::UNIX_EPOCH).map(|state| state.endpoints_of(&web())[0].health)
    };
    let not_ready = || slice(controller, json!({"ready": false, "serving": false, "terminating": false}));
    let ready = || slice(controller, json!({"ready": true, "serving": true, "terminating": false}));
    assert_eq!(health(vec![pod("u1", "127.64.0.2", "False", false), not_ready()]), Some(Health::NotReady));
    assert_eq!(health(vec![pod("u1", "127.64.0.2", "True", false)]), Some(Health::Ready));
    assert_eq!(health(vec![ready()]), None, "that was known");
    assert_eq!(health(vec![pod("u1", "127.64.0.2", "True", true)]), Some(Health::Draining));
    assert_eq!(health(vec![pod("u1", "127.64.0.2", "False", true)]), Some(Health::Draining));
    // Another pod of that name, of which the slice knows nothing yet.
    assert_eq!(health(vec![pod("u2", "127.64.0.9", "False", false)]), Some(Health::Ready));
    assert_eq!(health(vec![pod("u2", "127.64.0.2", "False", false)]), Some(Health::NotReady));
    // The slice saw the end first.
    let ends = slice(controller, json!({"ready": false, "serving": true, "terminating": true}));
    assert_eq!(health(vec![pod("u2", "127.64.0.2", "True", false), ends]), Some(Health::Draining));
    // Somebody else's slice says what its writer wants.
    let theirs = slice("example.com/theirs", json!({"ready": true}));
    assert_eq!(health(vec![theirs, pod("u2", "127.64.0.2", "False", true)]), Some(Health::Ready));
}
