use std::time::Duration;

use ResourceType::{Cluster, ClusterLoadAssignment as Endpoints, Listener};

use super::*;
use crate::{
    pb::envoy::{
        config::core::v3::Node,
        service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse, Resource as Wrapped},
    },
    resource::{Rejected, Resource, ResourceUpdate, Subscriptions},
    session::client::{ClientSession, DeltaClient, Received, SotwClient},
};

fn node() -> Node {
    Node { id: "one".into(), ..Default::default() }
}

fn wanting_endpoints(names: &[&str]) -> Subscriptions {
    Subscriptions { endpoints: names.iter().map(|name| (*name).to_owned()).collect(), ..Default::default() }
}

fn delta_response(type_: ResourceType, nonce: &str, resources: &[(&str, &str)]) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        type_url: type_.type_url().into(),
        nonce: nonce.into(),
        system_version_info: format!("v{nonce}"),
        resources: resources
            .iter()
            .map(|(name, content)| Wrapped {
                name: (*name).into(),
                version: (*content).into(),
                resource: Some(body(type_, name, content)),
                ..Default::default()
            })
            .collect(),
        ..Default::default()
    }
}

fn sotw_response(type_: ResourceType, nonce: &str, resources: &[(&str, &str)]) -> DiscoveryResponse {
    DiscoveryResponse {
        type_url: type_.type_url().into(),
        nonce: nonce.into(),
        version_info: format!("v{nonce}"),
        resources: resources.iter().map(|(name, content)| body(type_, name, content)).collect(),
        ..Default::default()
    }
}

fn update<R: std::fmt::Debug>(received: Received<R>) -> ResourceUpdate {
    match received {
        Received::Update(update) => update,
        other => panic!("{other:?} is no update"),
    }
}

fn upserts(update: &ResourceUpdate) -> Vec<&str> {
    update.upserts.iter().map(|resource| resource.name.as_str()).collect()
}

#[test]
fn the_cause_of_a_change_is_told_of_what_was_there_before_only() {
    let at = std::time::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let mut client = DeltaClient::new(Node::default());
    let wanted = Subscriptions { endpoints: ["a".to_owned()].into(), ..Default::default() };
    client.open(&wanted);
    let mut receive = |version: &str| {
        let resource = Wrapped {
            name: "a".into(),
            version: version.into(),
            metadata: Some(crate::cause::to_metadata(at)),
            resource: Some(body(Endpoints, "a", version)),
            ..Default::default()
        };
        let response = DeltaDiscoveryResponse {
            type_url: Endpoints.type_url().into(),
            resources: vec![resource],
            ..Default::default()
        };
        let caused_at = update(client.receive(response, now())).upserts[0].caused_at;
        client.answer(Ok(()), &wanted);
        caused_at
    };
    assert_eq!(receive("1"), None, "it may have changed long before it was asked for");
    assert_eq!(receive("2"), Some(at));
    assert_eq!(receive("2"), None, "the same again is no change");
}

#[test]
fn opening_asks_in_order_and_names_the_node_once() {
    let wanted = wanting_endpoints(&["a"]);
    let requests = DeltaClient::new(node()).open(&wanted);
    let types: Vec<_> =
        requests.iter().map(|request| ResourceType::from_type_url(&request.type_url)).collect();
    assert_eq!(types, [Some(Cluster), Some(Endpoints), Some(Listener)]);
    assert_eq!(requests.iter().filter(|request| request.node.is_some()).count(), 1);
    assert_eq!(requests[0].node, Some(node()));
    let requests = SotwClient::new(node()).open(&wanted);
    assert_eq!(requests[0].node, Some(node()));
    assert_eq!(requests[1].resource_names, ["a"]);
}

#[test]
fn an_update_is_acknowledged_and_leads_to_new_subscriptions() {
    let mut client = DeltaClient::new(node());
    client.open(&Subscriptions::default());
    let got = update(client.receive(delta_response(Cluster, "1", &[("a", "1")]), now()));
    assert_eq!((upserts(&got), got.version.as_str()), (vec!["a"], "v1"));
    let requests = client.answer(Ok(()), &wanting_endpoints(&["a"]));
    assert_eq!(requests[0].response_nonce, "1");
    assert!(requests[0].error_detail.is_none());
    assert_eq!(requests[1].resource_names_subscribe, ["a"]);
    update(client.receive(delta_response(Endpoints, "2", &[("a", "1")]), now()));
    let requests = client.answer(Ok(()), &wanting_endpoints(&["b"]));
    assert_eq!(requests[1].resource_names_subscribe, ["b"]);
    assert_eq!(requests[1].resource_names_unsubscribe, ["a"]);
}

#[test]
fn an_acknowledgement_is_held_back_alone_and_never_overtaken() {
    let wanted = wanting_endpoints(&["a"]);
    let mut client = DeltaClient::new(node());
    client.open(&Subscriptions::default());
    update(client.receive(delta_response(Cluster, "1", &[("a", "1")]), now()));
    let requests = client.hold_back(&wanted);
    assert_eq!((requests.len(), requests[0].resource_names_subscribe.clone()), (1, vec!["a".to_owned()]));
    assert!(requests[0].response_nonce.is_empty() && client.holds_back(Cluster));
    update(client.receive(delta_response(Listener, "2", &[]), now()));
    assert_eq!(client.answer(Ok(()), &wanted)[0].response_nonce, "2", "other types are answered");
    // A server that does not wait for answers gets them in its order.
    update(client.receive(delta_response(Cluster, "3", &[("b", "1")]), now()));
    assert!(client.hold_back(&wanted).is_empty());
    update(client.receive(delta_response(Cluster, "4", &[("c", "1")]), now()));
    let verdict = Err(vec![Rejected { name: "c".into(), reason: "no".into() }]);
    let answers = client.answer(verdict, &wanted);
    let nonces: Vec<_> = answers.iter().map(|request| request.response_nonce.as_str()).collect();
    assert_eq!(nonces, ["1", "3", "4"]);
    assert!(answers[1].error_detail.is_none() && answers[2].error_detail.is_some());
    assert!(!client.holds_back(Cluster) && client.acknowledge(Cluster).is_empty());
    // The end of a stream is an end of it; what was accepted is told to the next.
    update(client.receive(delta_response(Cluster, "5", &[("d", "1")]), now()));
    client.hold_back(&wanted);
    let opened = client.open(&wanted);
    assert!(opened[0].initial_resource_versions.contains_key("d") && !client.holds_back(Cluster));
}

#[test]
fn in_the_state_of_the_world_the_next_request_for_the_type_is_what_was_held_back() {
    let mut client = SotwClient::new(node());
    client.open(&Subscriptions::default());
    update(client.receive(sotw_response(Cluster, "1", &[("a", "1")]), now()));
    let requests = client.hold_back(&wanting_endpoints(&["a"]));
    assert_eq!((requests.len(), requests[0].resource_names.clone()), (1, vec!["a".to_owned()]));
    let acknowledged = client.acknowledge(Cluster);
    assert_eq!((acknowledged[0].version_info.as_str(), acknowledged[0].response_nonce.as_str()), ("v1", "1"));
    assert!(client.acknowledge(Cluster).is_empty());

    update(client.receive(sotw_response(Cluster, "2", &[("a", "2")]), now()));
    client.hold_back(&wanting_endpoints(&["a"]));
    let by_name = Subscriptions { clusters: ["b".to_owned()].into(), ..wanting_endpoints(&["a"]) };
    let requests = client.answer(Ok(()), &by_name);
    assert_eq!((requests[0].response_nonce.as_str(), requests[0].version_info.as_str()), ("2", "v2"));
    assert!(!client.holds_back(Cluster));
}

#[test]
fn a_new_stream_tells_what_was_accepted() {
    let mut client = DeltaClient::new(node());
    let wanted = wanting_endpoints(&["x"]);
    client.open(&wanted);
    update(client.receive(delta_response(Cluster, "1", &[("a", "1"), ("b", "1"), ("c", "1")]), now()));
    client.answer(Err(vec![Rejected { name: "b".into(), reason: "no".into() }]), &wanted);
    let removal =
        DeltaDiscoveryResponse { removed_resources: vec!["c".into()], ..delta_response(Cluster, "2", &[]) };
    assert_eq!(update(client.receive(removal, now())).removed, ["c"]);
    client.answer(Ok(()), &wanted);
    update(client.receive(delta_response(Endpoints, "3", &[("x", "9")]), now()));
    client.answer(Ok(()), &wanted);

    let requests = client.open(&wanted);
    assert_eq!(requests[0].initial_resource_versions, [("a".to_owned(), "1".to_owned())].into());
    assert_eq!(requests[1].initial_resource_versions, [("x".to_owned(), "9".to_owned())].into());
    assert!(client.open(&Subscriptions::default())[1].initial_resource_versions.is_empty());
}

#[test]
fn a_refusal_names_each_resource() {
    let mut client = DeltaClient::new(node());
    client.open(&Subscriptions::default());
    update(client.receive(delta_response(Cluster, "1", &[("a", "1"), ("b", "1")]), now()));
    let verdict = Err(vec![Rejected { name: "b".into(), reason: "connect_timeout: negative".into() }]);
    let requests = client.answer(verdict, &Subscriptions::default());
    let error = requests[0].error_detail.as_ref().expect("refused");
    assert_eq!(error.message, "b: connect_timeout: negative");
    assert_eq!(error.code, 3);
}

#[test]
fn a_response_with_one_name_twice_is_refused() {
    let mut client = DeltaClient::new(node());
    client.open(&Subscriptions::default());
    let Received::Refused { rejected, answer: request, .. } =
        client.receive(delta_response(Cluster, "1", &[("a", "1"), ("a", "2")]), now())
    else {
        panic!("taken")
    };
    assert!(rejected.reason.contains("twice"), "{rejected:?}");
    assert_eq!(request.response_nonce, "1");
    assert!(request.error_detail.is_some());
    let both = DeltaDiscoveryResponse {
        removed_resources: vec!["a".into()],
        ..delta_response(Cluster, "2", &[("a", "1")])
    };
    assert!(matches!(client.receive(both, now()), Received::Refused { .. }));

    let mut client = SotwClient::new(node());
    client.open(&Subscriptions::default());
    let received = client.receive(sotw_response(Cluster, "1", &[("a", "1"), ("a", "1")]), now());
    assert!(matches!(received, Received::Refused { .. }));
}

#[test]
fn what_was_not_asked_for_is_ignored_and_the_rest_taken() {
    let wanted = wanting_endpoints(&["a"]);
    let mut client = DeltaClient::new(node());
    client.open(&wanted);
    let got = update(client.receive(delta_response(Endpoints, "1", &[("a", "1"), ("z", "1")]), now()));
    assert_eq!(upserts(&got), ["a"]);
    assert!(client.answer(Ok(()), &wanted)[0].error_detail.is_none());
    let received = client.receive(delta_response(ResourceType::Secret, "2", &[]), now());
    assert!(matches!(received, Received::Ignored(_)));

    let mut client = SotwClient::new(node());
    client.open(&wanted);
    let got = update(client.receive(sotw_response(Endpoints, "1", &[("a", "1"), ("z", "1")]), now()));
    assert_eq!(upserts(&got), ["a"]);
}

#[test]
fn a_resource_of_the_wrong_type_is_refused_alone() {
    let mut response = delta_response(Cluster, "1", &[("a", "1"), ("b", "1")]);
    response.resources[0].resource = Some(body(Listener, "a", "1"));
    let mut client = DeltaClient::new(node());
    client.open(&Subscriptions::default());
    assert_eq!(upserts(&update(client.receive(response, now()))), ["b"]);
    let requests = client.answer(Ok(()), &Subscriptions::default());
    let error = requests[0].error_detail.as_ref().expect("refused");
    assert!(error.message.contains("envoy.config.listener.v3.Listener"), "{error:?}");
    assert_eq!(client.open(&Subscriptions::default())[0].initial_resource_versions.len(), 1);
}

#[test]
fn unreadable_bytes_refuse_the_response() {
    let mut client = SotwClient::new(node());
    client.open(&Subscriptions::default());
    update(client.receive(sotw_response(Cluster, "1", &[("a", "1")]), now()));
    client.answer(Ok(()), &Subscriptions::default());
    let mut broken = sotw_response(Cluster, "2", &[("a", "1"), ("b", "1")]);
    broken.resources[1].value = vec![0xff; 9];
    let Received::Refused { answer: request, .. } = client.receive(broken, now()) else { panic!("taken") };
    assert_eq!((request.version_info.as_str(), request.response_nonce.as_str()), ("v1", "2"));
}

#[test]
fn the_unchanged_part_of_the_world_is_not_handed_out_again() {
    let mut client = SotwClient::new(node());
    let wanted = Subscriptions::default();
    client.open(&wanted);
    update(client.receive(sotw_response(Cluster, "1", &[("a", "1"), ("b", "1"), ("c", "1")]), now()));
    let requests = client.answer(Ok(()), &wanted);
    assert_eq!((requests[0].version_info.as_str(), requests[0].response_nonce.as_str()), ("v1", "1"));
    client.open(&wanted);
    let got = update(client.receive(sotw_response(Cluster, "1", &[("a", "1"), ("b", "2")]), now()));
    assert_eq!((upserts(&got), got.removed.as_slice()), (vec!["b"], ["c".to_owned()].as_slice()));
    let requests = client.answer(Err(vec![Rejected { name: "b".into(), reason: "no".into() }]), &wanted);
    assert_eq!(requests[0].version_info, "v1", "a refusal repeats the version in force");
    let got = update(client.receive(sotw_response(Cluster, "2", &[("a", "1"), ("b", "2")]), now()));
    assert_eq!(upserts(&got), ["b"], "a refused one is offered again");
}

#[test]
fn a_sign_of_life_changes_nothing() {
    let mut client = DeltaClient::new(node());
    client.open(&Subscriptions::default());
    let mut response = delta_response(Cluster, "1", &[("a", "1")]);
    response.resources[0].resource = None;
    assert!(update(client.receive(response, now())).upserts.is_empty());
}

#[test]
fn what_an_earlier_run_kept_is_told_and_not_sent_again() {
    let kept = |type_, version: &str, names: &[&str]| ResourceUpdate {
        type_,
        version: version.into(),
        upserts: names
            .iter()
            .map(|name| Resource {
                name: (*name).into(),
                version: "7".into(),
                body: body(type_, name, "1"),
                caused_at: None,
                aliases: Vec::new(),
            })
            .collect(),
        removed: Vec::new(),
    };
    let wanted = wanting_endpoints(&["a"]);
    let mut client = DeltaClient::new(node());
    client.resume(&kept(Cluster, "v1", &["a", "b"]));
    client.resume(&kept(Endpoints, "v1", &["a", "gone"]));
    let requests = client.open(&wanted);
    let told = |index: usize| {
        let mut told: Vec<_> = requests[index].initial_resource_versions.clone().into_iter().collect();
        told.sort();
        told
    };
    assert_eq!(told(0), [("a".to_owned(), "7".to_owned()), ("b".to_owned(), "7".to_owned())]);
    assert_eq!(told(1), [("a".to_owned(), "7".to_owned())], "only what is still wanted");

    let mut client = SotwClient::new(node());
    client.resume(&kept(Cluster, "v1", &["a", "b"]));
    assert_eq!(client.open(&Subscriptions::default())[0].version_info, "v1");
    let got = update(client.receive(sotw_response(Cluster, "1", &[("a", "1"), ("c", "1")]), now()));
    assert_eq!((upserts(&got), got.removed.as_slice()), (vec!["c"], ["b".to_owned()].as_slice()));
}

fn alive(name: &str, version: &str, seconds: Option<i64>) -> Wrapped {
    Wrapped { name: name.into(), version: version.into(), ttl: seconds.map(ttl), ..Default::default() }
}

fn ttl(seconds: i64) -> crate::pb::google::protobuf::Duration {
    crate::pb::google::protobuf::Duration { seconds, nanos: 0 }
}

#[test]
fn a_time_to_live_is_renewed_by_signs_of_life_and_then_over() {
    let (start, second) = (now(), Duration::from_secs(1));
    let mut client = DeltaClient::new(node());
    client.open(&Subscriptions::default());
    let mut response = delta_response(Cluster, "1", &[("a", "1"), ("b", "1"), ("c", "1")]);
    response.resources[0].ttl = Some(ttl(10));
    response.resources[1].ttl = Some(ttl(20));
    update(client.receive(response, start));
    assert_eq!(client.deadline(), None, "nothing was accepted yet");
    client.answer(Ok(()), &Subscriptions::default());
    assert_eq!(client.deadline(), Some(start + 10 * second));
    let beats = |resources| DeltaDiscoveryResponse { resources, ..delta_response(Cluster, "2", &[]) };
    // One of another version is none.
    let beat =
        beats(vec![alive("a", "1", Some(30)), alive("b", "other", Some(99)), alive("z", "1", Some(1))]);
    assert!(update(client.receive(beat, start + 5 * second)).upserts.is_empty());
    client.answer(Ok(()), &Subscriptions::default());
    assert_eq!(client.deadline(), Some(start + 20 * second));
    assert!(client.expire(start + 19 * second).is_empty());
    // A stream that is lost changes nothing.
    client.open(&Subscriptions::default());
    let gone = client.expire(start + 20 * second);
    assert_eq!(
        (gone.len(), gone[0].type_, gone[0].removed.as_slice()),
        (1, Cluster, ["b".to_owned()].as_slice())
    );
    let told = &client.open(&Subscriptions::default())[0].initial_resource_versions;
    assert_eq!((told.len(), told.contains_key("b")), (2, false), "the next server is to send it again");
    // Without a time it lives for ever.
    update(client.receive(beats(vec![alive("a", "1", None)]), start + 30 * second));
    client.answer(Ok(()), &Subscriptions::default());
    assert_eq!(client.deadline(), None);
    assert!(client.expire(start + 1000 * second).is_empty());
}

#[test]
fn the_state_of_the_world_has_times_to_live_in_its_wrapper() {
    let (start, second) = (now(), Duration::from_secs(1));
    let wanted = Subscriptions::default();
    let wrap = |name: &str, content: Option<&str>, seconds| {
        let resource = content.map(|content| body(Cluster, name, content));
        crate::any::pack(&Wrapped { resource, ..alive(name, "v1", Some(seconds)) })
    };
    let response = |nonce: &str, resources| DiscoveryResponse {
        version_info: "v1".into(),
        resources,
        ..sotw_response(Cluster, nonce, &[])
    };
    let mut client = SotwClient::new(node());
    client.open(&wanted);
    let first = response("1", vec![wrap("a", Some("1"), 10), wrap("b", Some("1"), 10)]);
    assert_eq!(upserts(&update(client.receive(first, start))), ["a", "b"]);
    client.answer(Ok(()), &wanted);
    assert_eq!(client.deadline(), Some(start + 10 * second));
    // Whoever is not said to be alive is not removed for that.
    let beat = response("2", vec![wrap("a", None, 10)]);
    let got = update(client.receive(beat, start + 5 * second));
    assert!(got.upserts.is_empty() && got.removed.is_empty(), "{got:?}");
    client.answer(Ok(()), &wanted);
    let gone = client.expire(start + 10 * second);
    assert_eq!(gone[0].removed, ["b"]);
    // The same again is a renewal as well, and is not handed out.
    let again = response("3", vec![wrap("a", Some("1"), 60)]);
    assert!(update(client.receive(again, start + 14 * second)).upserts.is_empty());
    client.answer(Ok(()), &wanted);
    assert_eq!(client.deadline(), Some(start + 74 * second));
}
