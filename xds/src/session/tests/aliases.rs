//! Resources that are asked for by another name than their own.

use std::time::Duration;

use ResourceType::{ClusterLoadAssignment as Endpoints, Listener, VirtualHost};

use super::*;
use crate::{
    pb::{
        envoy::service::discovery::v3::{DeltaDiscoveryResponse, Resource as Wrapped},
        google::protobuf::Duration as ProtoDuration,
    },
    resource::{Rejected, ResourceUpdate, Subscriptions},
    session::client::{ClientSession as _, DeltaClient, Received},
};

fn wanting(endpoints: &[&str]) -> Subscriptions {
    Subscriptions { endpoints: strings(endpoints).into_iter().collect(), ..Subscriptions::default() }
}

fn strings(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn named(type_: ResourceType, name: &str, aliases: &[&str]) -> Wrapped {
    Wrapped {
        name: name.into(),
        aliases: strings(aliases),
        version: "1".into(),
        resource: Some(body(type_, name, "x")),
        ..Default::default()
    }
}

fn receive(
    client: &mut DeltaClient,
    type_: ResourceType,
    resources: Vec<Wrapped>,
    removed: &[&str],
) -> ResourceUpdate {
    let type_url = type_.type_url().to_owned();
    let removed_resources = strings(removed);
    let response = DeltaDiscoveryResponse { type_url, resources, removed_resources, ..Default::default() };
    match client.receive(response, now()) {
        Received::Update(update) => update,
        other => panic!("{other:?} is no update"),
    }
}

fn names(update: &ResourceUpdate) -> Vec<&str> {
    update.upserts.iter().map(|resource| resource.name.as_str()).collect()
}

/// A client that asked for `a` and `b` and was given `up` for both.
fn given() -> DeltaClient {
    let mut client = DeltaClient::new(Default::default());
    client.open(&wanting(&["a", "b"]));
    let update = receive(&mut client, Endpoints, vec![named(Endpoints, "up", &["a", "b", "other"])], &[]);
    assert_eq!(names(&update), ["a", "b"], "each is given what it asked for");
    client.answer(Ok(()), &wanting(&["a", "b"]));
    client
}

#[test]
fn what_is_asked_for_by_another_name_is_given_under_it_and_gone_under_it() {
    let mut client = given();
    let opened = client.open(&wanting(&["a", "b"]));
    assert_eq!(opened[1].resource_names_subscribe, ["a", "b"]);
    assert_eq!(opened[1].initial_resource_versions, [("up".to_owned(), "1".to_owned())].into());
    let mut gone = receive(&mut client, Endpoints, Vec::new(), &["up"]).removed;
    gone.sort();
    assert_eq!(gone, ["a", "b", "up"]);
    client.answer(Ok(()), &wanting(&["a", "b"]));
    assert!(client.open(&wanting(&["a"]))[1].initial_resource_versions.is_empty());
}

#[test]
fn a_name_that_moves_to_another_resource_stays() {
    let mut client = given();
    let update = receive(&mut client, Endpoints, vec![named(Endpoints, "new", &["a"])], &["up"]);
    assert_eq!((names(&update), update.removed.clone()), (vec!["a"], strings(&["b", "up"])));
    client.answer(Ok(()), &wanting(&["a", "b"]));
    // Of two in one response that both go by it, the first does.
    let both = vec![named(Endpoints, "x", &["b"]), named(Endpoints, "y", &["b"])];
    let update = receive(&mut client, Endpoints, both, &["b"]);
    assert_eq!((names(&update), update.removed.len()), (vec!["b"], 0));
    client.answer(Ok(()), &wanting(&["a", "b"]));
    // Who asks for nothing else loses it.
    client.answer(Ok(()), &wanting(&["a"]));
    let has: Vec<_> = client.open(&wanting(&["a"]))[1].initial_resource_versions.keys().cloned().collect();
    assert_eq!(has, ["new"]);
}

#[test]
fn a_refusal_under_another_name_is_told_of_the_resource() {
    let mut client = DeltaClient::new(Default::default());
    client.open(&wanting(&["a", "b"]));
    receive(&mut client, Endpoints, vec![named(Endpoints, "up", &["a", "b"])], &[]);
    let no = |name: &str| Rejected { name: name.into(), reason: "no".into() };
    let answers = client.answer(Err(vec![no("a"), no("b")]), &wanting(&["a", "b"]));
    assert_eq!(answers[0].error_detail.as_ref().expect("a refusal").message, "up: no");
    assert!(client.open(&wanting(&["a", "b"]))[1].initial_resource_versions.is_empty());
}

#[test]
fn the_end_of_a_lifetime_is_told_of_all_names() {
    let mut client = DeltaClient::new(Default::default());
    client.open(&wanting(&["a"]));
    let ttl = Some(ProtoDuration { seconds: 1, nanos: 0 });
    let mortal = Wrapped { ttl, ..named(Endpoints, "up", &["a"]) };
    receive(&mut client, Endpoints, vec![mortal], &[]);
    client.answer(Ok(()), &wanting(&["a"]));
    let over = client.expire(now() + Duration::from_secs(2));
    assert_eq!(over[0].removed, ["a", "up"]);
}

#[test]
fn what_says_itself_who_it_is_comes_once_with_the_names_that_it_was_asked_for_by() {
    let wanted = Subscriptions {
        listeners: ["10.0.0.1:80".to_owned(), "10.0.0.2:80".to_owned()].into(),
        ..Subscriptions::default()
    };
    let mut client = DeltaClient::new(Default::default());
    client.open(&wanted);
    let addresses = ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"];
    let update = receive(&mut client, Listener, vec![named(Listener, "web", &addresses)], &[]);
    assert_eq!(
        (names(&update), update.upserts[0].aliases.as_slice()),
        (vec!["web"], &strings(&addresses[..2])[..])
    );
    client.answer(Ok(()), &wanted);
    let gone = receive(&mut client, Listener, Vec::new(), &["web"]).removed;
    assert_eq!(gone, ["10.0.0.1:80", "10.0.0.2:80", "web"]);
}

#[test]
fn a_sign_of_life_with_its_names_is_no_word_of_absence() {
    let wanted = Subscriptions {
        virtual_host_tables: ["r".to_owned()].into(),
        virtual_hosts: ["r/web.test".to_owned()].into(),
        ..Subscriptions::default()
    };
    let mut client = DeltaClient::new(Default::default());
    client.open(&wanted);
    let update = receive(&mut client, VirtualHost, vec![named(VirtualHost, "r/web", &["r/web.test"])], &[]);
    assert_eq!((names(&update), update.upserts[0].aliases.len()), (vec!["r/web"], 1));
    client.answer(Ok(()), &wanted);
    let alive = Wrapped { resource: None, ..named(VirtualHost, "r/web", &["r/web.test"]) };
    assert!(receive(&mut client, VirtualHost, vec![alive], &[]).removed.is_empty());
    client.answer(Ok(()), &wanted);
    let absent = Wrapped { resource: None, ..named(VirtualHost, "r/web.test", &["r/web.test"]) };
    assert_eq!(receive(&mut client, VirtualHost, vec![absent], &[]).removed, ["r/web.test"]);
}
