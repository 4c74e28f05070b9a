//! Structured names (`xdstp`) at the server's end.

use super::*;
use crate::{
    pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest},
    session::server::{Outgoing, ServerSession, SyncState, Variant},
};

const ENDPOINTS: ResourceType = ResourceType::ClusterLoadAssignment;

fn ask(session: &mut ServerSession, more: &[&str], less: &[&str], after: Option<&Outgoing>) {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    session.delta_request(DeltaDiscoveryRequest {
        type_url: ENDPOINTS.type_url().into(),
        resource_names_subscribe: owned(more),
        resource_names_unsubscribe: owned(less),
        response_nonce: after.map(|response| response.nonce.clone()).unwrap_or_default(),
        ..Default::default()
    });
}

fn world(resources: &[(&str, &str)]) -> Arc<VersionedSnapshot> {
    let resources: Vec<_> = resources.iter().map(|(name, content)| (ENDPOINTS, *name, *content)).collect();
    snapshot(&resources)
}

fn told(response: &Outgoing) -> (Vec<&str>, Vec<&str>) {
    let upserts = response.upserts.iter().map(|resource| resource.name.as_str()).collect();
    (upserts, response.removed.iter().map(|name| name.as_str()).collect())
}

#[test]
fn a_structured_name_is_the_same_in_any_order_of_its_context_parameters() {
    let (sorted, other) = ("xdstp://a/b.C/x?k=1&z=2", "xdstp://a/b.C/x?z=2&k=1");
    let mut session = ServerSession::new(Variant::Delta);
    let mut state = Snapshot::default();
    state.endpoints.insert(other.to_owned(), body(ENDPOINTS, other, "1"));
    let first = VersionedSnapshot::new(&state, None);
    assert!(VersionedSnapshot::new(&state, Some(&first)).is_same(&first), "nothing changed");
    session.set_snapshot(Arc::new(first));
    ask(&mut session, &[other], &[], None);
    let response = session.next().expect("it is there");
    assert_eq!(told(&response), (vec![sorted], vec![]));
    assert_eq!(response.aliases[sorted], [other], "for clients that know it as they wrote it");
    ask(&mut session, &["xdstp://a/b.C/x?z=3&k=1"], &[], Some(&response));
    let response = session.next().expect("one with another parameter does not exist");
    assert_eq!(told(&response), (vec![], vec!["xdstp://a/b.C/x?z=3&k=1"]));
    assert_eq!(session.is_acknowledged(ENDPOINTS, sorted), Some(true));
    ask(&mut session, &[], &[other], Some(&response));
    assert_eq!(session.is_acknowledged(ENDPOINTS, sorted), None, "given up");

    // A client that writes it as it is.
    ask(&mut session, &[sorted], &[], None);
    let response = session.next().expect("it is there");
    assert_eq!((told(&response), response.aliases.len()), ((vec![sorted], vec![]), 0));

    let mut session = ServerSession::new(Variant::Sotw);
    session.set_snapshot(Arc::new(VersionedSnapshot::new(&state, None)));
    session.sotw_request(DiscoveryRequest {
        type_url: ENDPOINTS.type_url().into(),
        resource_names: vec![other.to_owned()],
        ..Default::default()
    });
    assert_eq!(told(&session.next().expect("it is there")), (vec![sorted], vec![]));
}

#[test]
fn a_glob_brings_all_that_it_stands_for_and_follows_it() {
    let (a, b, c) = ("xdstp://x/b.C/d/a?k=1", "xdstp://x/b.C/d/b?k=1", "xdstp://x/b.C/d/e/c?k=1");
    let others = ["plain", "xdstp://x/b.C/d/a", "xdstp://x/b.C/other/a?k=1", "xdstp://y/b.C/d/a?k=1"];
    let with = |some: &[(&'static str, &'static str)]| {
        let others = others.map(|name| (name, "1"));
        world(&[some, &others].concat())
    };
    let glob = "xdstp://x/b.C/d/*?k=1";
    let mut session = ServerSession::new(Variant::Delta);
    ask(&mut session, &[glob], &[], None);
    session.set_snapshot(with(&[]));
    let first = session.next().expect("an answer");
    assert_eq!(told(&first), (vec![], vec![]), "there are none, and none is said to be gone");
    ask(&mut session, &[], &[], Some(&first));
    assert!(session.next().is_none());

    session.set_snapshot(with(&[(a, "1"), (b, "1")]));
    let second = session.next().expect("two");
    assert_eq!(told(&second), (vec![a, b], vec![]));
    assert!(second.aliases.is_empty());
    ask(&mut session, &[], &[], Some(&second));
    assert_eq!(session.sync(ENDPOINTS), Some(SyncState::Synced));

    session.set_snapshot(with(&[(a, "2"), (c, "1")]));
    let third = session.next().expect("changes");
    assert_eq!(told(&third).0, [a, c]);
    ask(&mut session, &[], &[], Some(&third));
    let gone = if third.removed.is_empty() { session.next().expect("a removal") } else { third };
    assert_eq!(told(&gone).1, [b]);
    ask(&mut session, &[], &[], Some(&gone));

    // Who asks again has lost them; who gives up hears no more.
    ask(&mut session, &[glob], &[], None);
    let again = session.next().expect("all of them");
    assert_eq!(told(&again), (vec![a, c], vec![]));
    ask(&mut session, &[], &[glob], Some(&again));
    session.set_snapshot(with(&[(a, "3")]));
    assert!(session.next().is_none());
}

#[test]
fn who_comes_back_with_what_a_glob_brought_is_sent_what_differs() {
    let (a, b, glob) = ("xdstp://x/b.C/d/a", "xdstp://x/b.C/d/b", "xdstp://x/b.C/d/*");
    let state = world(&[(a, "1")]);
    let version = state.get(ENDPOINTS).get(a).expect("it is there").version.to_string();
    let mut session = ServerSession::new(Variant::Delta);
    session.set_snapshot(state);
    session.delta_request(DeltaDiscoveryRequest {
        type_url: ENDPOINTS.type_url().into(),
        resource_names_subscribe: vec![glob.to_owned()],
        initial_resource_versions: [(a.to_owned(), version.clone()), (b.to_owned(), version)].into(),
        ..Default::default()
    });
    let mut all = (Vec::new(), Vec::new());
    while let Some(response) = session.next() {
        let (upserts, removed) = told(&response);
        all.0.extend(upserts.into_iter().map(str::to_owned));
        all.1.extend(removed.into_iter().map(str::to_owned));
        ask(&mut session, &[], &[], Some(&response));
    }
    assert_eq!(all, (vec![], vec![b.to_owned()]));
}
