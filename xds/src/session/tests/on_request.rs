//! Resources that only those get who name them.

use ResourceType::Cluster;

use super::*;
use crate::{
    pb::envoy::service::discovery::v3::DeltaDiscoveryRequest,
    session::{
        Layer, VersionedResource,
        server::{Outgoing, ServerSession, Variant},
    },
};

#[test]
fn what_is_there_on_request_is_given_to_who_names_it_and_taken_back() {
    let layer = |resources: &[(ResourceType, &str, &str)]| {
        let mut layer = Layer::default();
        for (type_, name, content) in resources {
            layer
                .get_mut(*type_)
                .insert(Arc::new(VersionedResource::new(name, &body(*type_, name, content))));
        }
        layer
    };
    let own = layer(&[(Cluster, "own", "1")]);
    let given = |content| {
        let shared = layer(&[(Cluster, "a", content), (Cluster, "b", "1")]);
        Arc::new(VersionedSnapshot::layered(&own, &shared, &[], &[Cluster]))
    };
    let names = |response: &Outgoing| -> Vec<String> {
        response.upserts.iter().map(|resource| resource.name.to_string()).collect()
    };
    let mut session = ServerSession::new(Variant::Delta);
    session.set_snapshot(given("1"));
    let ask = |more: &[&str], less: &[&str], nonce: &str| DeltaDiscoveryRequest {
        type_url: Cluster.type_url().into(),
        resource_names_subscribe: more.iter().map(|name| (*name).to_owned()).collect(),
        resource_names_unsubscribe: less.iter().map(|name| (*name).to_owned()).collect(),
        response_nonce: nonce.into(),
        ..Default::default()
    };

    session.delta_request(ask(&[], &[], ""));
    let first = session.next().expect("its own");
    assert_eq!(names(&first), ["own"]);

    // Named, and one that does not exist.
    session.delta_request(ask(&["a", "none"], &[], &first.nonce));
    let second = session.next().expect("what it named");
    assert_eq!((names(&second), second.removed.as_slice()), (vec!["a".to_owned()], &["none".into()][..]));
    session.delta_request(ask(&[], &[], &second.nonce));
    assert!(session.next().is_none());

    // It changes like any other.
    session.set_snapshot(given("2"));
    let third = session.next().expect("the change");
    assert_eq!(names(&third), ["a"]);

    // Not named any more, it is no part of everything; what is part of it stays.
    session.delta_request(ask(&[], &["a", "own"], &third.nonce));
    let fourth = session.next().expect("what is part of everything");
    assert_eq!((names(&fourth), fourth.removed.len()), (vec!["own".to_owned()], 0));
    session.delta_request(ask(&[], &[], &fourth.nonce));
    let fifth = session.next().expect("what is gone, after what may have referred to it");
    assert_eq!((fifth.upserts.len(), fifth.removed.as_slice()), (0, &["a".into()][..]));
    session.delta_request(ask(&[], &[], &fifth.nonce));
    session.set_snapshot(given("3"));
    assert!(session.next().is_none(), "nobody asks for it");
}
