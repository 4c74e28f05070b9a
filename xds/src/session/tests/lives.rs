//! Resources that live for a time, from one end to the other.

use std::time::Duration;

use super::*;
use crate::{
    pb::envoy::{
        config::core::v3::Node,
        service::discovery::v3::{
            DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
        },
    },
    resource::{Rejected, Subscriptions},
    session::{
        client::{ClientSession, DeltaClient, Received, SotwClient},
        server::{Handled, Outgoing, ServerSession, Variant},
    },
};

const FEATURES: [&str; 2] = ["xds.config.supports-resource-ttl", "xds.config.resource-in-sotw"];
const TTL: Duration = Duration::from_secs(10);
const SECOND: Duration = Duration::from_secs(1);

/// Two clusters and two endpoint sets of which the first live for a time.
fn world(content: &str) -> Arc<VersionedSnapshot> {
    let mut snapshot = Snapshot::default();
    for type_ in [ResourceType::Cluster, ResourceType::ClusterLoadAssignment] {
        for name in ["mortal", "other"] {
            snapshot.resources_mut(type_).insert(name.to_owned(), body(type_, name, content));
        }
        snapshot.ttls.insert(type_, [("mortal".to_owned(), TTL)].into());
    }
    Arc::new(VersionedSnapshot::new(&snapshot, None))
}

fn wanted() -> Subscriptions {
    let endpoints = ["mortal".to_owned(), "other".to_owned()].into();
    Subscriptions { all_listeners: false, endpoints, ..Default::default() }
}

/// Both ends, and what the client lost or was given since this was looked at.
struct Pair<C: ClientSession> {
    client: C,
    server: ServerSession,
    now: Instant,
    to_server: fn(&mut ServerSession, C::Request) -> Handled,
    to_client: fn(Outgoing) -> C::Response,
    given: usize,
    lost: usize,
}

impl<C: ClientSession> Pair<C> {
    /// Exchanges all there is to say, at this time.
    fn talk(&mut self, verdict: &Result<(), Vec<Rejected>>) {
        while let Some(outgoing) = self.server.next_at(self.now) {
            let Received::Update(update) = self.client.receive((self.to_client)(outgoing), self.now) else {
                panic!("our server's response was not taken")
            };
            self.given += update.upserts.len();
            for answer in self.client.answer(verdict.clone(), &wanted()) {
                (self.to_server)(&mut self.server, answer);
            }
        }
    }

    /// Lets time pass; the server is woken when it wants to be, and the client likewise.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            let next = self.server.due().into_iter().chain(self.client.deadline()).min();
            let next = next.unwrap_or(end).min(end);
            assert!(next > self.now || next == end, "nothing is due for ever");
            self.now = next;
            self.talk(&Ok(()));
            self.lost +=
                self.client.expire(self.now).iter().map(|update| update.removed.len()).sum::<usize>();
        }
    }
}

fn live<C: ClientSession>(mut pair: Pair<C>) {
    for request in pair.client.open(&wanted()) {
        (pair.to_server)(&mut pair.server, request);
    }
    pair.server.set_snapshot(world("1"));
    pair.talk(&Ok(()));
    assert_eq!((std::mem::take(&mut pair.given), pair.server.unanswered()), (4, 0));
    let due = pair.server.due().expect("a sign of life").duration_since(pair.now);
    assert_eq!(due, TTL / 2);
    pair.pass(100 * SECOND);
    assert_eq!((pair.given, pair.lost), (0, 0), "signs of life tell nothing new");
    assert!(pair.server.is_acknowledged(ResourceType::Cluster, "mortal") == Some(true));

    // A change starts it anew, and what is gone is not kept alive.
    pair.server.set_snapshot(world("2"));
    pair.talk(&Ok(()));
    assert_eq!(std::mem::take(&mut pair.given), 4);
    pair.pass(30 * SECOND);
    assert_eq!((pair.given, pair.lost), (0, 0));
    pair.server.set_snapshot(snapshot(&[]));
    pair.pass(SECOND);
    assert_eq!((pair.given, pair.lost, pair.server.due()), (0, 0, None), "removed, not expired");
    assert!(pair.client.deadline().is_none() || pair.client.expire(pair.now + TTL).len() <= 1);
}

fn features() -> Vec<String> {
    FEATURES.map(str::to_owned).to_vec()
}

fn delta(features: &[String]) -> Pair<DeltaClient> {
    Pair {
        client: DeltaClient::new(Node::default()),
        server: ServerSession::of_client(Variant::Delta, features),
        now: Instant::now(),
        to_server: ServerSession::delta_request,
        to_client: |outgoing| outgoing.into_delta("test"),
        given: 0,
        lost: 0,
    }
}

#[test]
fn signs_of_life_keep_what_lives_for_a_time_in_delta_mode() {
    live::<DeltaClient>(delta(&features()));
}

#[test]
fn signs_of_life_keep_what_lives_for_a_time_in_the_state_of_the_world() {
    live(Pair {
        client: SotwClient::new(Node::default()),
        server: ServerSession::of_client(Variant::Sotw, &features()),
        now: Instant::now(),
        to_server: ServerSession::sotw_request,
        to_client: |outgoing| outgoing.into_sotw("test"),
        given: 0,
        lost: 0,
    });
}

#[test]
fn who_does_not_say_that_it_understands_times_to_live_is_told_of_none() {
    let request = |type_: ResourceType| type_.type_url().to_owned();
    let mut server = ServerSession::of_client(Variant::Delta, &[]);
    server.set_snapshot(world("1"));
    server.delta_request(DeltaDiscoveryRequest {
        type_url: request(ResourceType::Cluster),
        ..Default::default()
    });
    let response: DeltaDiscoveryResponse = server.next_at(now()).expect("clusters").into_delta("test");
    assert!(response.resources.iter().all(|resource| resource.ttl.is_none()));
    assert_eq!(server.due(), None);

    // Without the wrapper there is no place for it.
    let mut server = ServerSession::of_client(Variant::Sotw, &[FEATURES[0].to_owned()]);
    server.set_snapshot(world("1"));
    server.sotw_request(DiscoveryRequest { type_url: request(ResourceType::Cluster), ..Default::default() });
    let response: DiscoveryResponse = server.next_at(now()).expect("clusters").into_sotw("test");
    assert!(response.resources.iter().all(|resource| resource.type_url == ResourceType::Cluster.type_url()));
    assert_eq!(server.due(), None);
}

#[test]
fn what_was_refused_is_not_kept_alive_and_stays_refused() {
    let mut pair = delta(&features());
    for request in pair.client.open(&wanted()) {
        pair.server.delta_request(request);
    }
    pair.server.set_snapshot(world("1"));
    pair.talk(&Ok(()));
    pair.server.set_snapshot(world("2"));
    pair.talk(&Err(vec![Rejected { name: "other".into(), reason: "no".into() }]));
    pair.pass(3 * TTL);
    assert_eq!(pair.lost, 0, "what was taken of the response lives");
    let report = pair.server.report(ResourceType::Cluster).expect("asked for");
    assert_eq!(report.refusal.map(|refusal| refusal.resources.len()), Some(1));

    pair.server.set_snapshot(world("3"));
    pair.talk(&Err(vec![Rejected { name: "mortal".into(), reason: "no".into() }]));
    pair.pass(3 * TTL);
    assert_eq!(pair.lost, 2, "the server has nothing that the client could keep");
}

#[test]
fn what_dies_is_sent_anew_to_who_has_it_from_an_earlier_stream() {
    let mut pair = delta(&features());
    for request in pair.client.open(&wanted()) {
        pair.server.delta_request(request);
    }
    pair.server.set_snapshot(world("1"));
    pair.talk(&Ok(()));
    pair.given = 0;
    pair.server = ServerSession::of_client(Variant::Delta, &features());
    pair.server.set_snapshot(world("1"));
    for request in pair.client.open(&wanted()) {
        pair.server.delta_request(request);
    }
    pair.talk(&Ok(()));
    assert_eq!(pair.given, 2, "and nothing else");
    pair.pass(3 * TTL);
    assert_eq!(pair.lost, 0);
}
