//! What differs for virtual hosts: they are named for their table, and may come without being asked for.

use super::*;
use crate::{
    any,
    pb::envoy::{
        config::route::v3::VirtualHost,
        service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource as Wrapped},
    },
    resource::{ResourceUpdate, Subscriptions},
    session::{
        client::{ClientSession as _, DeltaClient, Received, SotwClient},
        server::{Outgoing, ServerSession, Variant},
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
fn who_asks_since_a_host_was_told_gone_has_it_asked_for_anew() {
    let mut client = DeltaClient::new(Default::default());
    client.open(&wanted(&["r/a", "r/b"]));
    receive(&mut client, vec![wrapped("r/a", &[], false), wrapped("r/b", &[], false)]);
    // A request for the one came before the answer was looked at as a whole.
    let requests = client.answer(Ok(()), &wanted(&["r/a"]));
    let again = requests.last().expect("a request");
    assert_eq!(
        (&*again.resource_names_subscribe, &*again.resource_names_unsubscribe),
        (&["r/a".to_owned()][..], &["r/b".to_owned()][..])
    );
    let quiet = client.answer(Ok(()), &wanted(&["r/a"]));
    assert!(quiet.is_empty(), "once: {quiet:?}");
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
    server.delta_request(DeltaDiscoveryRequest {
        type_url: ResourceType::VirtualHost.type_url().into(),
        response_nonce: first.nonce,
        ..Default::default()
    });
    let second = server.next().expect("an answer");
    assert_eq!((second.upserts.len(), second.unknown.as_slice()), (1, &["r/b".into()][..]));
}

fn ask(session: &mut ServerSession, more: &[&str], less: &[&str], after: Option<&Outgoing>) {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    session.delta_request(DeltaDiscoveryRequest {
        type_url: ResourceType::VirtualHost.type_url().into(),
        resource_names_subscribe: owned(more),
        resource_names_unsubscribe: owned(less),
        response_nonce: after.map(|response| response.nonce.clone()).unwrap_or_default(),
        ..Default::default()
    });
}

fn hosts(hosts: &[(&str, &[&str])]) -> Arc<VersionedSnapshot> {
    let mut snapshot = Snapshot::default();
    for (name, domains) in hosts {
        let domains = domains.iter().map(|domain| (*domain).to_owned()).collect();
        let host = VirtualHost { name: (*name).to_owned(), domains, ..Default::default() };
        snapshot.virtual_hosts.insert((*name).to_owned(), any::pack(&host));
    }
    Arc::new(VersionedSnapshot::new(&snapshot, None))
}

/// Name and aliases of each resource, and whether it has a body.
fn told(response: &Outgoing) -> Vec<(String, Vec<String>, bool)> {
    let response = response.clone().into_delta("test");
    let told = |one: Wrapped| (one.name, one.aliases, one.resource.is_some());
    response.resources.into_iter().map(told).collect()
}

fn one(name: &str, aliases: &[&str], there: bool) -> Vec<(String, Vec<String>, bool)> {
    vec![(name.to_owned(), aliases.iter().map(|alias| (*alias).to_owned()).collect(), there)]
}

#[test]
fn a_virtual_host_that_does_not_exist_is_told_by_a_resource_without_a_body() {
    let mut server = ServerSession::new(Variant::Delta);
    server.set_snapshot(hosts(&[("r/a", &["a"])]));
    ask(&mut server, &["r/none"], &[], None);
    let first = server.next().expect("an answer");
    assert_eq!((told(&first), first.removed.len()), (one("r/none", &["r/none"], false), 0));
    // Who asks again waits again.
    ask(&mut server, &["r/none"], &[], Some(&first));
    let second = server.next().expect("an answer");
    assert_eq!(told(&second), told(&first));
    ask(&mut server, &[], &[], Some(&second));
    assert_eq!(server.is_acknowledged(ResourceType::VirtualHost, "r/none"), Some(true));

    // It comes to be, and is removed as others are.
    server.set_snapshot(hosts(&[("r/none", &["none"])]));
    let third = server.next().expect("it is there now");
    assert_eq!(told(&third), one("r/none", &[], true));
    ask(&mut server, &[], &[], Some(&third));
    server.set_snapshot(hosts(&[]));
    let fourth = server.next().expect("it is gone");
    assert_eq!((told(&fourth), fourth.removed.as_slice()), (vec![], &["r/none".into()][..]));
    ask(&mut server, &[], &[], Some(&fourth));
    assert!(server.next().is_none());
}

#[test]
fn a_virtual_host_is_found_by_table_and_host_and_sent_with_that_as_its_alias() {
    let type_ = ResourceType::VirtualHost;
    let mut server = ServerSession::new(Variant::Delta);
    ask(&mut server, &["r/web.test", "r/none"], &[], None);
    server.set_snapshot(hosts(&[("r/web", &["web", "*.test"])]));
    let first = server.next().expect("both are answered");
    let expected = [one("r/none", &["r/none"], false), one("r/web", &["r/web.test"], true)].concat();
    assert_eq!((told(&first), first.removed.len()), (expected, 0));
    ask(&mut server, &[], &[], Some(&first));
    assert!(server.next().is_none());
    assert_eq!(server.is_acknowledged(type_, "r/web"), Some(true));
    let (wanted, missing) = server.wanted(type_);
    assert_eq!((wanted.len(), missing.as_slice()), (1, &["r/none".to_owned()][..]));

    // Under another name it is the same, and sent to who waits for it.
    ask(&mut server, &["r/api.test"], &[], None);
    let second = server.next().expect("an answer");
    assert_eq!(told(&second), one("r/web", &["r/api.test", "r/web.test"], true));
    ask(&mut server, &[], &[], Some(&second));

    // It changes and goes under its own name; what did not exist comes when there is a host that serves it.
    let after = hosts(&[("r/new", &["none"]), ("r/web", &["*.test"])]);
    server.set_snapshot(after.clone());
    let third = server.next().expect("a change");
    let new = one("r/new", &["r/none"], true);
    assert_eq!(told(&third), [new, one("r/web", &["r/api.test", "r/web.test"], true)].concat());
    ask(&mut server, &[], &[], Some(&third));
    server.set_snapshot(hosts(&[("r/new", &["none"])]));
    let fourth = server.next().expect("one is gone");
    assert_eq!((told(&fourth), fourth.removed.as_slice()), (vec![], &["r/web".into()][..]));
    ask(&mut server, &[], &["r/web.test", "r/api.test"], Some(&fourth));
    server.set_snapshot(after);
    assert!(server.next().is_none(), "nobody asks for it");
}

#[test]
fn a_client_that_comes_back_is_told_what_became_of_virtual_hosts_that_it_has_by_other_names() {
    let (before, after) = (hosts(&[("r/web", &["web.test"])]), hosts(&[("r/new", &["new"])]));
    let version = before.get(ResourceType::VirtualHost).get("r/web").expect("it is there").version;
    let come_back = |snapshot: Arc<VersionedSnapshot>| {
        let mut server = ServerSession::new(Variant::Delta);
        server.set_snapshot(snapshot);
        server.delta_request(DeltaDiscoveryRequest {
            type_url: ResourceType::VirtualHost.type_url().into(),
            resource_names_subscribe: vec!["r/web.test".into()],
            initial_resource_versions: [("r/web".to_owned(), version.to_string())].into(),
            ..Default::default()
        });
        server.next()
    };
    assert!(come_back(before).is_none(), "it has what it is to have");
    let gone = come_back(after).expect("it is told");
    assert_eq!(
        (told(&gone), gone.removed),
        (one("r/web.test", &["r/web.test"], false), vec!["r/web".into()])
    );
}
