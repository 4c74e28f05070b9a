//! What differs for virtual hosts: they are named for their table, and may come without being asked for.

use super::*;
use crate::{
    pb::envoy::service::discovery::v3::{DeltaDiscoveryResponse, Resource as Wrapped},
    resource::{ResourceUpdate, Subscriptions},
    session::{
        client::{ClientSession as _, DeltaClient, Received, SotwClient},
        server::{ServerSession, Variant},
    },
};

fn wanted(names: &[&str]) -> Subscriptions {
    Subscriptions {
        all_clusters: false,
        all_listeners: false,
        virtual_host_tables: ["r".to_owned()].into(),
        virtual_hosts: names.iter().map(|name| (*name).to_owned()).collect(),
        ..Subscriptions::default()
    }
}

fn response(resources: Vec<Wrapped>) -> DeltaDiscoveryResponse {
    let type_url = ResourceType::VirtualHost.type_url().to_owned();
    DeltaDiscoveryResponse { type_url, nonce: "1".into(), resources, ..Default::default() }
}

fn wrapped(name: &str, aliases: &[&str], there: bool) -> Wrapped {
    Wrapped {
        name: name.into(),
        aliases: aliases.iter().map(|alias| (*alias).to_owned()).collect(),
        version: "1".into(),
        resource: there.then(|| body(ResourceType::VirtualHost, "host", "x")),
        ..Default::default()
    }
}

fn receive(client: &mut DeltaClient, resources: Vec<Wrapped>) -> ResourceUpdate {
    match client.receive(response(resources), Instant::now()) {
        Received::Update(update) => update,
        other => panic!("{other:?} is no update"),
    }
}

#[test]
fn virtual_hosts_of_a_table_are_welcome_and_one_that_does_not_exist_is_told_by_its_alias() {
    let mut client = DeltaClient::new(Default::default());
    let requests = client.open(&wanted(&[]));
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].type_url, ResourceType::VirtualHost.type_url());
    assert!(requests[0].resource_names_subscribe.is_empty(), "as Envoy: all that a server wants to send");

    let pushed = vec![wrapped("r/a", &["r/b"], true), wrapped("s/a", &[], true), wrapped("r", &[], true)];
    let update = receive(&mut client, pushed);
    let names: Vec<_> = update.upserts.iter().map(|resource| resource.name.as_str()).collect();
    assert_eq!((names.as_slice(), update.removed.len()), (&["r/a"][..], 0), "of this table only");
    let requests = client.answer(Ok(()), &wanted(&["r/none"]));
    assert_eq!(requests.last().expect("a request").resource_names_subscribe, ["r/none"]);

    let update =
        receive(&mut client, vec![wrapped("r/none", &["r/none"], false), wrapped("r/a", &[], false)]);
    assert_eq!((update.upserts.len(), update.removed.as_slice()), (0, &["r/none".to_owned()][..]));
    client.answer(Ok(()), &wanted(&[]));
    let again = client.open(&wanted(&[]));
    assert_eq!(
        again[0].initial_resource_versions.keys().collect::<Vec<_>>(),
        ["r/a"],
        "a sign of life removes nothing"
    );
}

#[test]
fn the_state_of_the_world_has_no_virtual_hosts() {
    assert!(SotwClient::new(Default::default()).open(&wanted(&["r/a"])).is_empty());
}

#[test]
fn who_is_ready_for_any_virtual_host_is_answered() {
    let mut client = DeltaClient::new(Default::default());
    let mut server = ServerSession::new(Variant::Delta);
    server.set_snapshot(snapshot(&[(ResourceType::VirtualHost, "r/a", "1")]));
    for request in client.open(&wanted(&[])) {
        server.delta_request(request);
    }
    let first = server.next().expect("an answer");
    assert_eq!(
        (first.type_, first.upserts.len()),
        (ResourceType::VirtualHost, 0),
        "of what is there nothing was asked for"
    );
    for request in client.open(&wanted(&["r/a", "r/b"])) {
        server.delta_request(request);
    }
    server.delta_request(crate::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest {
        type_url: ResourceType::VirtualHost.type_url().into(),
        response_nonce: first.nonce,
        ..Default::default()
    });
    let second = server.next().expect("an answer");
    assert_eq!((second.upserts.len(), second.removed.len()), (1, 1));
}
