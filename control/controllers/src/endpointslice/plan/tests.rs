use k8s_openapi::{
    api::core::v1::{ContainerPort, Pod, ServicePort, ServiceSpec},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::*;
use crate::{endpointslice::desired::desired, testing};

fn service() -> Service {
    let port = ServicePort {
        name: Some("http".to_owned()),
        port: 80,
        target_port: Some(IntOrString::String("web".to_owned())),
        ..Default::default()
    };
    let spec = ServiceSpec {
        selector: Some([("app".to_owned(), "web".to_owned())].into()),
        ports: Some(vec![port]),
        ..Default::default()
    };
    Service { metadata: testing::meta("web"), spec: Some(spec), status: None }
}

fn pod(n: usize, port: i32) -> Pod {
    let mut pod = testing::ready_pod(&format!("pod-{n}"), "node", 0);
    pod.status.get_or_insert_default().pod_ip = Some(format!("10.0.{}.{}", n / 200, n % 200));
    let port = ContainerPort { name: Some("web".to_owned()), container_port: port, ..Default::default() };
    let container = k8s_openapi::api::core::v1::Container { ports: Some(vec![port]), ..Default::default() };
    pod.spec.get_or_insert_default().containers = vec![container];
    pod
}

fn want(service: &Service, pods: &[Pod]) -> Desired {
    desired(service, pods, |_| Some("zone".to_owned()))
}

fn apply(mut slices: Vec<Arc<EndpointSlice>>, writes: Vec<Write>) -> Vec<Arc<EndpointSlice>> {
    for write in writes {
        match write {
            Write::Create(slice) => slices.push(Arc::new(*slice)),
            Write::Replace(slice) => {
                slices.retain(|old| old.metadata.name != slice.metadata.name);
                slices.push(Arc::new(*slice));
            }
            Write::Delete(gone) => slices.retain(|old| old.metadata.name != gone.metadata.name),
        }
    }
    slices
}

#[test]
fn named_ports_are_looked_up_in_each_pod_and_give_a_slice_for_each_number() {
    let service = service();
    let slices =
        apply(vec![], plan(&service, vec![], want(&service, &[pod(1, 8080), pod(2, 9090), pod(3, 8080)])));
    let mut ports: Vec<_> = slices
        .iter()
        .map(|slice| (slice.ports.as_ref().and_then(|ports| ports[0].port), slice.endpoints.len()))
        .collect();
    ports.sort();
    assert_eq!(ports, [(Some(8080), 2), (Some(9090), 1)]);
    let endpoint = &slices[0].endpoints[0];
    assert_eq!((endpoint.node_name.as_deref(), endpoint.zone.as_deref()), (Some("node"), Some("zone")));
    assert_eq!(endpoint.target_ref.as_ref().and_then(|target| target.kind.as_deref()), Some("Pod"));
}

#[test]
fn a_change_of_readiness_is_one_write_and_no_change_is_none() {
    let service = service();
    let mut pods: Vec<_> = (0..150).map(|n| pod(n, 80)).collect();
    let slices = apply(vec![], plan(&service, vec![], want(&service, &pods)));
    assert_eq!(slices.len(), 2);
    assert!(plan(&service, slices.clone(), want(&service, &pods)).is_empty());
    pods[7].status.get_or_insert_default().conditions = None;
    let writes = plan(&service, slices, want(&service, &pods));
    let [Write::Replace(slice)] = writes.as_slice() else { panic!("{writes:?}") };
    let conditions = slice.endpoints.iter().filter_map(|endpoint| endpoint.conditions.as_ref());
    assert_eq!(conditions.filter(|conditions| conditions.ready == Some(false)).count(), 1);
}

#[test]
fn slices_hold_a_hundred_at_most_and_empty_ones_go() {
    let service = service();
    let pods: Vec<_> = (0..250).map(|n| pod(n, 80)).collect();
    let slices = apply(vec![], plan(&service, vec![], want(&service, &pods)));
    assert_eq!(slices.iter().map(|slice| slice.endpoints.len()).max(), Some(100));
    assert_eq!(slices.iter().map(|slice| slice.endpoints.len()).sum::<usize>(), 250);
    let few = apply(slices, plan(&service, vec![], want(&service, &[])));
    let fewer = apply(few.clone(), plan(&service, few, want(&service, &pods[..3])));
    assert_eq!(fewer.iter().map(|slice| slice.endpoints.len()).sum::<usize>(), 3);
    assert!(fewer.iter().all(|slice| !slice.endpoints.is_empty()));
}

#[test]
fn a_service_without_pods_has_one_empty_slice() {
    let service = service();
    let slices = apply(vec![], plan(&service, vec![], want(&service, &[])));
    assert_eq!((slices.len(), slices[0].endpoints.len()), (1, 0));
    assert!(plan(&service, slices.clone(), want(&service, &[])).is_empty());
    let pods = [pod(1, 80)];
    let filled = apply(slices.clone(), plan(&service, slices, want(&service, &pods)));
    assert_eq!((filled.len(), filled[0].endpoints.len()), (1, 1));
}

#[test]
fn ended_pods_and_pods_without_address_are_left_out_and_terminating_ones_marked() {
    let service = service();
    let mut ended = pod(1, 80);
    ended.status.get_or_insert_default().phase = Some("Succeeded".to_owned());
    let mut nowhere = pod(2, 80);
    nowhere.status.get_or_insert_default().pod_ip = None;
    let mut leaving = pod(3, 80);
    leaving.metadata.deletion_timestamp = leaving.metadata.creation_timestamp.clone();
    let slices = apply(vec![], plan(&service, vec![], want(&service, &[ended, nowhere, leaving])));
    let conditions: Vec<_> =
        slices[0].endpoints.iter().filter_map(|endpoint| endpoint.conditions.clone()).collect();
    assert_eq!(conditions.len(), 1);
    let flags = (conditions[0].ready, conditions[0].serving, conditions[0].terminating);
    assert_eq!(flags, (Some(false), Some(true), Some(true)));
}

#[test]
fn unready_pods_are_ready_where_the_service_wants_it_so() {
    let mut service = service();
    service.spec.get_or_insert_default().publish_not_ready_addresses = Some(true);
    let mut pod = pod(1, 80);
    pod.status.get_or_insert_default().conditions = None;
    let slices = apply(vec![], plan(&service, vec![], want(&service, &[pod])));
    let conditions = slices[0].endpoints[0].conditions.clone().unwrap_or_default();
    assert_eq!((conditions.ready, conditions.serving), (Some(true), Some(false)));
}

#[test]
fn the_same_slice_gets_the_same_name_twice() {
    let service = service();
    let first = plan(&service, vec![], want(&service, &[pod(1, 80)]));
    assert_eq!(first, plan(&service, vec![], want(&service, &[pod(1, 80)])));
}
