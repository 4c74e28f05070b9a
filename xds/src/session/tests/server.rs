use std::collections::HashMap;

use ResourceType::{Cluster, ClusterLoadAssignment as Endpoints, Listener, RouteConfiguration as Route};

use super::*;
use crate::{
    pb::{
        envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest},
        google::rpc::Status,
    },
    resource::Rejected,
    session::{
        nack,
        server::{Handled, Outgoing, ServerSession, SyncState, Variant},
    },
};

fn delta(type_: ResourceType) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest { type_url: type_.type_url().into(), ..Default::default() }
}

fn subscribe(type_: ResourceType, names: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest { resource_names_subscribe: strings(names), ..delta(type_) }
}

fn sotw(type_: ResourceType, names: &[&str], nonce: &str) -> DiscoveryRequest {
    DiscoveryRequest {
        type_url: type_.type_url().into(),
        resource_names: strings(names),
        response_nonce: nonce.into(),
        ..Default::default()
    }
}

fn strings(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn refusal(message: &str) -> Option<Status> {
    Some(Status { code: 3, message: message.into(), details: Vec::new() })
}

fn names(outgoing: &Outgoing) -> Vec<&str> {
    outgoing.upserts.iter().map(|resource| resource.name.as_str()).collect()
}

fn ack(session: &mut ServerSession, outgoing: &Outgoing) -> Handled {
    session.delta_request(DeltaDiscoveryRequest {
        response_nonce: outgoing.nonce.clone(),
        ..delta(outgoing.type_)
    })
}

/// Sends and acknowledges all that is due.
fn settle(session: &mut ServerSession) -> Vec<Outgoing> {
    let mut sent = Vec::new();
    while let Some(outgoing) = session.next() {
        ack(session, &outgoing);
        sent.push(outgoing);
    }
    sent
}

/// A delta stream that has clusters, listeners, and the named endpoints and routes, all of which it acknowledged.
fn settled(state: &Arc<VersionedSnapshot>, endpoints: &[&str], routes: &[&str]) -> ServerSession {
    let mut session = ServerSession::new(Variant::Delta);
    session.set_snapshot(state.clone());
    session.delta_request(delta(Cluster));
    session.delta_request(subscribe(Endpoints, endpoints));
    session.delta_request(delta(Listener));
    session.delta_request(subscribe(Route, routes));
    settle(&mut session);
    session
}

#[test]
fn a_change_of_one_endpoint_set_sends_only_that() {
    let before = [(Cluster, "a", "1"), (Cluster, "b", "1"), (Endpoints, "a", "1"), (Endpoints, "b", "1")];
    let mut session = settled(&snapshot(&before), &["a", "b"], &[]);
    let mut after = before;
    after[3] = (Endpoints, "b", "2");
    session.set_snapshot(snapshot(&after));
    let outgoing = session.next().expect("b changed");
    assert_eq!((outgoing.type_, names(&outgoing)), (Endpoints, vec!["b"]));
    assert!(session.next().is_none());
    assert_eq!(session.is_acknowledged(Endpoints, "b"), Some(false));
    assert_eq!(ack(&mut session, &outgoing), Handled::Accepted(Endpoints));
    assert_eq!(session.is_acknowledged(Endpoints, "b"), Some(true));
    assert_eq!(session.is_acknowledged(Endpoints, "c"), None);
}

#[test]
fn changes_that_come_while_an_answer_is_awaited_are_sent_together_after_it() {
    let mut session = settled(&snapshot(&[(Endpoints, "a", "1")]), &["a", "b"], &[]);
    session.set_snapshot(snapshot(&[(Endpoints, "a", "2")]));
    let first = session.next().expect("a changed");
    session.set_snapshot(snapshot(&[(Endpoints, "a", "3")]));
    session.set_snapshot(snapshot(&[(Endpoints, "a", "4"), (Endpoints, "b", "1")]));
    assert!(session.next().is_none());
    ack(&mut session, &first);
    let second = session.next().expect("both changed");
    assert_eq!(names(&second), ["a", "b"]);
    assert_eq!(content(&second.upserts[0].body()), "4");
}

#[test]
fn clusters_go_first_and_nothing_overtakes_them() {
    let mut session = settled(&snapshot(&[(Listener, "l", "1")]), &["a"], &["l"]);
    session.set_snapshot(snapshot(&[(Cluster, "a", "1"), (Listener, "l", "1")]));
    let cluster = session.next().expect("a cluster");
    session.set_snapshot(snapshot(&[
        (Cluster, "a", "2"),
        (Endpoints, "a", "1"),
        (Listener, "l", "2"),
        (Route, "l", "1"),
    ]));
    let endpoints =
        session.next().expect("who answers only when the cluster can be used needs its endpoints");
    assert_eq!((endpoints.type_, names(&endpoints)), (Endpoints, vec!["a"]));
    assert!(session.next().is_none(), "what follows may need the cluster that waits");
    ack(&mut session, &endpoints);
    assert!(session.next().is_none(), "endpoints are no answer for the cluster");
    ack(&mut session, &cluster);
    let order: Vec<_> = settle(&mut session).iter().map(|outgoing| outgoing.type_).collect();
    assert_eq!(order, [Cluster, Listener, Route]);
}

#[test]
fn a_cluster_is_removed_only_when_the_new_routes_are_accepted() {
    let before = snapshot(&[(Cluster, "a", "1"), (Listener, "l", "1"), (Route, "l", "to a")]);
    let mut session = settled(&before, &[], &["l"]);
    session.set_snapshot(snapshot(&[(Cluster, "b", "1"), (Listener, "l", "1"), (Route, "l", "to b")]));
    let cluster = session.next().expect("b is new");
    assert_eq!((names(&cluster), cluster.removed.len()), (vec!["b"], 0));
    ack(&mut session, &cluster);
    let route = session.next().expect("the route changed");
    assert!(session.next().is_none());
    let refused = DeltaDiscoveryRequest {
        response_nonce: route.nonce.clone(),
        error_detail: refusal("no such thing"),
        ..delta(Route)
    };
    assert!(matches!(session.delta_request(refused), Handled::Refused(Route, _)));
    assert!(session.next().is_none(), "the old route is in force and needs its cluster");

    session.set_snapshot(snapshot(&[(Cluster, "b", "1"), (Listener, "l", "1"), (Route, "l", "better")]));
    let route = session.next().expect("the route changed");
    ack(&mut session, &route);
    let removal = session.next().expect("nothing needs a any more");
    assert_eq!((removal.type_, removal.removed), (Cluster, vec!["a".into()]));
}

#[test]
fn a_refused_version_is_not_sent_again() {
    let mut session = settled(&snapshot(&[(Cluster, "a", "1")]), &[], &[]);
    session.set_snapshot(snapshot(&[(Cluster, "a", "bad")]));
    let bad = session.next().expect("a changed");
    session.delta_request(DeltaDiscoveryRequest {
        response_nonce: bad.nonce.clone(),
        error_detail: refusal("bad"),
        ..delta(Cluster)
    });
    assert!(session.next().is_none());
    session.set_snapshot(snapshot(&[(Cluster, "a", "bad"), (Cluster, "b", "1")]));
    assert_eq!(names(&session.next().expect("b is new")), ["b"]);
    let report = session.report(Cluster).expect("asked for");
    assert_eq!(report.refusal.expect("refused").message, "bad");
    assert_eq!(
        report.resources["a"],
        snapshot(&[(Cluster, "a", "1")]).get(Cluster).get("a").expect("a").version
    );
}

#[test]
fn a_refusal_that_names_resources_accepts_the_others() {
    let mut session = settled(&snapshot(&[]), &[], &[]);
    session.set_snapshot(snapshot(&[(Cluster, "a", "1"), (Cluster, "b", "bad")]));
    let outgoing = session.next().expect("two clusters");
    let rejected = Rejected { name: "b".into(), reason: "bad".into() };
    session.delta_request(DeltaDiscoveryRequest {
        response_nonce: outgoing.nonce,
        error_detail: Some(nack::to_status(std::slice::from_ref(&rejected))),
        ..delta(Cluster)
    });
    let report = session.report(Cluster).expect("asked for");
    assert_eq!(report.resources.keys().collect::<Vec<_>>(), ["a"]);
    assert_eq!(report.refusal.expect("refused").resources, [rejected]);
}

#[test]
fn a_stale_nonce_answers_nothing() {
    let mut session = settled(&snapshot(&[(Cluster, "a", "1")]), &[], &[]);
    session.set_snapshot(snapshot(&[(Cluster, "a", "2")]));
    let outgoing = session.next().expect("a changed");
    let stale =
        DeltaDiscoveryRequest { response_nonce: "0".into(), error_detail: refusal("old"), ..delta(Cluster) };
    assert_eq!(session.delta_request(stale), Handled::Stale(Cluster));
    assert_eq!(ack(&mut session, &outgoing), Handled::Accepted(Cluster));
    assert_eq!(ack(&mut session, &outgoing), Handled::Asked(Cluster), "twice the same answer is no new one");

    let mut session = ServerSession::new(Variant::Sotw);
    session.set_snapshot(snapshot(&[(Endpoints, "a", "1"), (Endpoints, "b", "1")]));
    session.sotw_request(sotw(Endpoints, &["a"], ""));
    let first = session.next().expect("a");
    assert_eq!(session.sotw_request(sotw(Endpoints, &["a", "b"], "77")), Handled::Stale(Endpoints));
    assert!(session.next().is_none(), "b is not asked for by a stale request");
    session.sotw_request(sotw(Endpoints, &["a", "b"], &first.nonce));
    assert_eq!(names(&session.next().expect("b is")), ["b"]);
}

#[test]
fn what_a_reconnecting_client_has_is_not_sent_and_what_is_gone_is_told() {
    let state = snapshot(&[(Cluster, "a", "1"), (Cluster, "b", "2")]);
    let mut session = ServerSession::new(Variant::Delta);
    session.set_snapshot(state.clone());
    let version = |name: &str| state.get(Cluster).get(name).expect("known").version.to_string();
    let have = [("a", version("a")), ("b", "7".into()), ("c", "not one of ours".into())];
    session.delta_request(DeltaDiscoveryRequest {
        initial_resource_versions: have
            .into_iter()
            .map(|(name, version)| (name.to_owned(), version))
            .collect(),
        ..delta(Cluster)
    });
    let sent = settle(&mut session);
    assert_eq!(names(&sent[0]), ["b"]);
    assert_eq!(sent[1].removed, ["c"]);
    assert_eq!(sent.len(), 2);
}

#[test]
fn a_client_that_came_back_with_everything_is_in_step_without_a_word() {
    let state = snapshot(&[(Endpoints, "a", "1")]);
    let mut session = ServerSession::new(Variant::Delta);
    let version = state.get(Endpoints).get("a").expect("known").version.to_string();
    session.delta_request(DeltaDiscoveryRequest {
        initial_resource_versions: [("a".to_owned(), version)].into(),
        ..subscribe(Endpoints, &["a"])
    });
    assert_eq!(session.sync(Endpoints), Some(SyncState::NotSent), "control knows nothing yet");
    session.set_snapshot(state);
    assert!(session.next().is_none());
    assert_eq!(session.sync(Endpoints), Some(SyncState::Synced));
}

#[test]
fn an_empty_world_is_an_answer() {
    for variant in [Variant::Delta, Variant::Sotw] {
        let mut session = ServerSession::new(variant);
        match variant {
            Variant::Delta => session.delta_request(delta(Cluster)),
            Variant::Sotw => session.sotw_request(sotw(Cluster, &[], "")),
        };
        assert!(session.next().is_none(), "no snapshot yet");
        session.set_snapshot(snapshot(&[]));
        assert!(session.next().expect("an empty answer").upserts.is_empty());
        assert!(session.next().is_none());
    }
}

#[test]
fn absence_is_told_once_and_again_on_request() {
    let mut session = settled(&snapshot(&[]), &[], &[]);
    session.delta_request(subscribe(Endpoints, &["a"]));
    let absent = session.next().expect("it does not exist");
    assert_eq!(absent.removed, ["a"]);
    ack(&mut session, &absent);
    assert!(session.next().is_none());
    assert_eq!(session.is_acknowledged(Endpoints, "a"), Some(true));
    session.delta_request(subscribe(Endpoints, &["a"]));
    assert_eq!(settle(&mut session)[0].removed, ["a"]);
    session.set_snapshot(snapshot(&[(Endpoints, "a", "1")]));
    assert_eq!(names(&settle(&mut session)[0]), ["a"]);
    session.delta_request(subscribe(Endpoints, &["a"]));
    assert_eq!(names(&settle(&mut session)[0]), ["a"], "who asks again has lost it");
}

#[test]
fn what_is_not_wanted_any_more_is_not_sent() {
    let mut session = settled(&snapshot(&[(Endpoints, "a", "1"), (Cluster, "c", "1")]), &["a"], &[]);
    session.delta_request(DeltaDiscoveryRequest {
        resource_names_unsubscribe: strings(&["a"]),
        ..delta(Endpoints)
    });
    session.delta_request(DeltaDiscoveryRequest {
        resource_names_unsubscribe: strings(&["*"]),
        ..delta(Cluster)
    });
    session.set_snapshot(snapshot(&[(Endpoints, "a", "2"), (Cluster, "c", "2")]));
    assert!(session.next().is_none());
    session.delta_request(subscribe(Cluster, &["*"]));
    assert_eq!(names(&session.next().expect("all again")), ["c"]);
}

#[test]
fn endpoints_follow_a_changed_cluster() {
    use crate::{
        any,
        pb::envoy::config::cluster::v3::{Cluster as ClusterBody, cluster::EdsClusterConfig},
    };
    let cluster = |stat: &str| {
        any::pack(&ClusterBody {
            name: "a".into(),
            alt_stat_name: stat.into(),
            eds_cluster_config: Some(EdsClusterConfig { service_name: "eds-a".into(), ..Default::default() }),
            ..Default::default()
        })
    };
    let state = |stat: &str| {
        let mut snapshot = Snapshot::default();
        snapshot.clusters.insert("a".into(), cluster(stat));
        snapshot.endpoints.insert("eds-a".into(), body(Endpoints, "eds-a", "1"));
        Arc::new(VersionedSnapshot::new(&snapshot, None))
    };
    let mut session = settled(&state("one"), &["eds-a"], &[]);
    session.set_snapshot(state("two"));
    let order: Vec<_> = settle(&mut session).iter().map(|outgoing| outgoing.type_).collect();
    assert_eq!(order, [Cluster, Endpoints]);
}

#[test]
fn state_of_the_world_sends_all_clusters_but_only_changed_endpoints() {
    let mut session = ServerSession::new(Variant::Sotw);
    let before = [
        (Cluster, "a", "1"),
        (Cluster, "b", "1"),
        (Endpoints, "a", "1"),
        (Endpoints, "b", "1"),
        (Listener, "l", "1"),
    ];
    session.set_snapshot(snapshot(&before));
    let mut nonces = HashMap::new();
    for (type_, wanted) in [(Cluster, &[][..]), (Endpoints, &["a", "b"][..]), (Listener, &[][..])] {
        session.sotw_request(sotw(type_, wanted, ""));
        let outgoing = session.next().expect("first answer");
        session.sotw_request(sotw(type_, wanted, &outgoing.nonce));
        nonces.insert(type_, outgoing.nonce);
    }
    assert!(session.next().is_none());
    session.set_snapshot(snapshot(&[(Cluster, "b", "2"), (Endpoints, "b", "2"), (Listener, "l", "2")]));
    let clusters = session.next().expect("b changed");
    assert_eq!(names(&clusters), ["b", "a"], "a stays until the listener that may use it is replaced");
    session.sotw_request(sotw(Cluster, &[], &clusters.nonce));
    let endpoints = session.next().expect("b changed");
    assert_eq!(names(&endpoints), ["b"]);
    session.sotw_request(sotw(Endpoints, &["b"], &endpoints.nonce));
    let listeners = session.next().expect("l changed");
    assert!(session.next().is_none());
    session.sotw_request(sotw(Listener, &[], &listeners.nonce));
    assert_eq!(names(&session.next().expect("now a can go")), ["b"]);
}

#[test]
fn naming_nothing_means_everything_only_before_naming_something() {
    let mut session = ServerSession::new(Variant::Sotw);
    session.set_snapshot(snapshot(&[(Cluster, "a", "1"), (Cluster, "b", "1"), (Endpoints, "a", "1")]));
    session.sotw_request(sotw(Cluster, &["a"], ""));
    let first = session.next().expect("a");
    assert_eq!(names(&first), ["a"]);
    session.sotw_request(sotw(Cluster, &[], &first.nonce));
    assert!(session.next().is_none());
    session.sotw_request(sotw(Cluster, &["*"], &first.nonce));
    assert_eq!(names(&session.next().expect("all")), ["a", "b"]);
    session.sotw_request(sotw(Endpoints, &[], ""));
    assert!(session.next().expect("an answer").upserts.is_empty(), "there is no wildcard for endpoints");
}

#[test]
fn an_unknown_type_gets_no_answer() {
    let mut session = ServerSession::new(Variant::Delta);
    session.set_snapshot(snapshot(&[]));
    let request = DeltaDiscoveryRequest { type_url: "no/such".into(), ..Default::default() };
    assert_eq!(session.delta_request(request), Handled::UnknownType("no/such".into()));
    assert!(session.next().is_none());
}

#[test]
fn a_refused_version_is_known_until_the_client_takes_another() {
    let mut session = settled(&snapshot(&[(Route, "good", "1"), (Route, "bad", "1")]), &[], &["good", "bad"]);
    assert_eq!(session.sync(Route), Some(SyncState::Synced));
    assert_eq!(session.sync(Cluster), Some(SyncState::Synced));
    assert_eq!(session.sync(ResourceType::Secret), None);

    session.set_snapshot(snapshot(&[(Route, "good", "2"), (Route, "bad", "2")]));
    assert_eq!(session.sync(Route), Some(SyncState::Stale));
    let outgoing = session.next().expect("both changed");
    let rejected = [Rejected { name: "bad".into(), reason: "no".into() }];
    session.delta_request(DeltaDiscoveryRequest {
        response_nonce: outgoing.nonce.clone(),
        error_detail: Some(nack::to_status(&rejected)),
        ..delta(Route)
    });
    // The next response is accepted, and says nothing of what was refused.
    session.set_snapshot(snapshot(&[(Route, "good", "3"), (Route, "bad", "2")]));
    settle(&mut session);
    let report = session.report(Route).expect("asked for");
    assert_eq!(report.refusal, None);
    assert_eq!((report.refused.len(), &*report.refused["bad"].reason), (1, "no"));
    assert_eq!(session.sync(Route), Some(SyncState::Refused));
    assert_eq!(session.is_acknowledged(Route, "bad"), Some(false));

    session.set_snapshot(snapshot(&[(Route, "good", "3"), (Route, "bad", "3")]));
    settle(&mut session);
    assert!(session.report(Route).expect("asked for").refused.is_empty());
    assert_eq!(session.sync(Route), Some(SyncState::Synced));
    let (wanted, missing) = session.wanted(Route);
    assert_eq!((wanted.len(), missing.len()), (2, 0));
}
