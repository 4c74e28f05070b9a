//! Each end alone against one that does whatever it likes.

use std::collections::{BTreeMap, BTreeSet};

use ResourceType::{Cluster, ClusterLoadAssignment as Endpoints};
use proptest::{collection, prelude::*, sample};

use super::*;
use crate::{
    pb::envoy::{
        config::core::v3::Node,
        service::discovery::v3::{
            DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
            Resource as Wrapped,
        },
    },
    resource::{Rejected, Subscriptions},
    session::{
        client::{ClientSession, DeltaClient, Received, SotwClient},
        nack,
        server::{Handled, ServerSession, Variant},
    },
};

const NAMES: &[&str] = &["a", "b", "c"];
/// What every client here refuses.
const BAD: &str = "bad";
const CONTENTS: &[&str] = &["1", "2", BAD];

/// What a server may do to a client.
#[derive(Debug, Clone)]
enum Step {
    /// Sends these, under a nonce and version that need not be new; the type in the resources may be another.
    Send { type_: ResourceType, number: u8, resources: Vec<(usize, usize, bool)>, removed: Vec<usize> },
    /// Ends the stream; the next one may be of a server that knows only older versions.
    Reconnect,
    /// The client wants the endpoints of these.
    Want(Vec<usize>),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let type_ = sample::select(&[Cluster, Endpoints, ResourceType::Secret][..]);
    let resource = (0..NAMES.len(), 0..CONTENTS.len(), proptest::bool::weighted(0.1));
    let step = prop_oneof![
        8 => (type_, 0..6_u8, collection::vec(resource, 0..4), collection::vec(0..NAMES.len(), 0..2))
            .prop_map(|(type_, number, resources, removed)| Step::Send { type_, number, resources, removed }),
        1 => Just(Step::Reconnect),
        2 => collection::vec(0..NAMES.len(), 0..3).prop_map(Step::Want),
    ];
    collection::vec(step, 1..60)
}

/// What of both variants is looked at.
trait Spoken: ClientSession {
    fn response(step: &Step) -> Option<Self::Response>;
    /// Type, nonce that is answered, whether it refuses, whether the node is named.
    fn said(request: &Self::Request) -> (String, String, bool, bool);
    /// Checks the first requests of a stream against what is in force.
    fn check_opening(requests: &[Self::Request], world: &World, full: &BTreeMap<ResourceType, String>);
}

type World = BTreeMap<(ResourceType, String), String>;

/// Type, number, resources as name, body and content, and names that are removed.
type Parts = (ResourceType, u8, Vec<(&'static str, Any, &'static str)>, Vec<String>);

fn parts(step: &Step) -> Option<Parts> {
    let Step::Send { type_, number, resources, removed } = step else { return None };
    let resources = resources.iter().map(|(name, content, strange)| {
        let of = if *strange { ResourceType::Listener } else { *type_ };
        (NAMES[*name], body(of, NAMES[*name], CONTENTS[*content]), CONTENTS[*content])
    });
    let removed = removed.iter().map(|name| NAMES[*name].to_owned()).collect();
    Some((*type_, *number, resources.collect(), removed))
}

impl Spoken for DeltaClient {
    fn response(step: &Step) -> Option<DeltaDiscoveryResponse> {
        let (type_, number, resources, removed_resources) = parts(step)?;
        let wrapped = |(name, body, content): (&str, Any, &str)| Wrapped {
            name: name.to_owned(),
            version: content.to_owned(),
            resource: Some(body),
            ..Default::default()
        };
        Some(DeltaDiscoveryResponse {
            type_url: type_.type_url().to_owned(),
            nonce: number.to_string(),
            system_version_info: number.to_string(),
            resources: resources.into_iter().map(wrapped).collect(),
            removed_resources,
            ..Default::default()
        })
    }

    fn said(request: &DeltaDiscoveryRequest) -> (String, String, bool, bool) {
        let refuses = request.error_detail.is_some();
        (request.type_url.clone(), request.response_nonce.clone(), refuses, request.node.is_some())
    }

    fn check_opening(requests: &[DeltaDiscoveryRequest], world: &World, _: &BTreeMap<ResourceType, String>) {
        for request in requests {
            let type_ = ResourceType::from_type_url(&request.type_url).expect("ours");
            let told: BTreeMap<_, _> = request.initial_resource_versions.clone().into_iter().collect();
            let of_type = world.iter().filter(|((other, _), _)| *other == type_);
            let has = of_type.map(|((_, name), content)| (name.clone(), content.clone())).collect();
            assert_eq!(told, has, "{type_}: the server is told what is in force, and nothing else");
        }
    }
}

impl Spoken for SotwClient {
    fn response(step: &Step) -> Option<DiscoveryResponse> {
        let (type_, number, resources, _) = parts(step)?;
        Some(DiscoveryResponse {
            type_url: type_.type_url().to_owned(),
            nonce: number.to_string(),
            version_info: number.to_string(),
            resources: resources.into_iter().map(|(_, body, _)| body).collect(),
            ..Default::default()
        })
    }

    fn said(request: &DiscoveryRequest) -> (String, String, bool, bool) {
        let refuses = request.error_detail.is_some();
        (request.type_url.clone(), request.response_nonce.clone(), refuses, request.node.is_some())
    }

    fn check_opening(requests: &[DiscoveryRequest], _: &World, full: &BTreeMap<ResourceType, String>) {
        for request in requests {
            let type_ = ResourceType::from_type_url(&request.type_url).expect("ours");
            assert_eq!(request.response_nonce, "", "a nonce is of its stream only");
            let version = full.get(&type_).cloned().unwrap_or_default();
            assert_eq!(request.version_info, version, "{type_}: of what was accepted as a whole");
        }
    }
}

/// Whatever the server does: each response of a type that was asked for is answered once and with its nonce, it is
/// refused if anything in it was, only what was asked for is taken, and what was accepted is what the next server hears.
fn survives<C: Spoken>(mut client: C, steps: &[Step]) {
    let mut wanted = Subscriptions::default();
    let (mut world, mut full) = (World::new(), BTreeMap::new());
    let mut introduced = false;
    let mut ever_asked = BTreeSet::new();
    let mut open = |client: &mut C, wanted: &Subscriptions, world: &World, full: &_| {
        let requests = client.open(wanted);
        C::check_opening(&requests, world, full);
        ever_asked.clear();
        ever_asked.extend(requests.iter().map(|request| C::said(request).0));
        requests.iter().filter(|request| C::said(request).3).count() == 1
    };
    introduced |= open(&mut client, &wanted, &world, &full);
    for step in steps {
        match step {
            Step::Reconnect => introduced = open(&mut client, &wanted, &world, &full),
            Step::Want(names) => {
                wanted.endpoints = names.iter().map(|name| NAMES[*name].to_owned()).collect();
                world.retain(|(type_, name), _| *type_ != Endpoints || wanted.endpoints.contains(name));
                for request in client.answer(Ok(()), &wanted) {
                    let (_, _, refuses, node) = C::said(&request);
                    assert!(!refuses);
                    assert!(!node || !introduced, "the node is named once");
                }
            }
            Step::Send { type_, number, resources, .. } => {
                let response = C::response(step).expect("a response");
                let answers = match client.receive(response, now()) {
                    Received::Ignored(_) => {
                        assert!(*type_ != Cluster, "clusters were asked for");
                        continue;
                    }
                    Received::Refused { rejected, answer: request, .. } => {
                        let names: BTreeSet<_> = resources.iter().map(|(name, ..)| name).collect();
                        let twice = names.len() < resources.len();
                        assert!(twice || rejected.reason.contains("removed"), "{rejected:?}");
                        assert!(C::said(&request).2);
                        vec![request]
                    }
                    Received::Update(update) => {
                        let mut rejected = Vec::new();
                        for resource in update.upserts {
                            let asked = *type_ == Cluster || wanted.endpoints.contains(&resource.name);
                            assert!(asked, "{} was not asked for", resource.name);
                            match content(&resource.body) {
                                bad if bad == BAD => {
                                    rejected.push(Rejected { name: resource.name, reason: "bad".into() });
                                }
                                content => drop(world.insert((*type_, resource.name), content)),
                            }
                        }
                        for name in update.removed {
                            world.remove(&(*type_, name));
                        }
                        let strange = resources.iter().any(|(name, _, strange)| {
                            *strange && (*type_ == Cluster || wanted.endpoints.contains(NAMES[*name]))
                        });
                        let good = rejected.is_empty() && !strange;
                        if good {
                            full.insert(*type_, number.to_string());
                        }
                        let verdict = if rejected.is_empty() { Ok(()) } else { Err(rejected) };
                        let answers = client.answer(verdict, &wanted);
                        assert_eq!(C::said(&answers[0]).2, !good, "refused if anything in it was");
                        answers
                    }
                };
                let (type_url, nonce, ..) = C::said(&answers[0]);
                assert_eq!((type_url.as_str(), nonce), (type_.type_url(), number.to_string()));
                assert!(answers.iter().all(|answer| !(C::said(answer).3 && introduced)));
                assert_eq!(answers.len(), 1, "and nothing else was to be said");
            }
        }
    }
    open(&mut client, &wanted, &world, &full);
}

fn node() -> Node {
    Node { id: "one".into(), ..Default::default() }
}

/// What a client may do to a server.
#[derive(Debug, Clone)]
enum Say {
    /// With a nonce counted back from the last one of the type; 0 is the last, more is stale, `None` is none at all.
    Say {
        type_: ResourceType,
        back: Option<u64>,
        subscribe: Vec<usize>,
        unsubscribe: Vec<usize>,
        refuses: bool,
    },
    /// The world changes to these contents.
    World(Vec<usize>),
}

fn says() -> impl Strategy<Value = Vec<Say>> {
    let type_ = sample::select(&[Cluster, Endpoints][..]);
    let names = || collection::vec(0..NAMES.len(), 0..3);
    let back = prop_oneof![2 => Just(None), 6 => Just(Some(0)), 2 => (1..3_u64).prop_map(Some)];
    let say = prop_oneof![
        8 => (type_, back, names(), names(), proptest::bool::weighted(0.2)).prop_map(
            |(type_, back, subscribe, unsubscribe, refuses)| Say::Say { type_, back, subscribe, unsubscribe, refuses }
        ),
        2 => collection::vec(0..CONTENTS.len(), 0..=NAMES.len()).prop_map(Say::World),
    ];
    collection::vec(say, 1..60)
}

fn world_of(contents: &[usize]) -> Arc<VersionedSnapshot> {
    let resources: Vec<_> = contents
        .iter()
        .enumerate()
        .flat_map(|(name, content)| {
            [Cluster, Endpoints].map(|type_| (type_, NAMES[name], CONTENTS[*content]))
        })
        .collect();
    snapshot(&resources)
}

/// Whatever the client says: never two unanswered responses of a type, a stale nonce answers nothing, and one that then
/// behaves has the world.
fn holds(variant: Variant, says: &[Say]) {
    let mut session = ServerSession::new(variant);
    let mut current = world_of(&[0, 0]);
    session.set_snapshot(current.clone());
    let mut waiting: BTreeMap<ResourceType, String> = BTreeMap::new();
    let say =
        |session: &mut ServerSession, type_: ResourceType, nonce: String, names: [Vec<String>; 2], error| {
            let [subscribe, unsubscribe] = names;
            match variant {
                Variant::Delta => session.delta_request(DeltaDiscoveryRequest {
                    type_url: type_.type_url().to_owned(),
                    response_nonce: nonce,
                    resource_names_subscribe: subscribe,
                    resource_names_unsubscribe: unsubscribe,
                    error_detail: error,
                    ..Default::default()
                }),
                Variant::Sotw => session.sotw_request(DiscoveryRequest {
                    type_url: type_.type_url().to_owned(),
                    response_nonce: nonce,
                    resource_names: subscribe,
                    error_detail: error,
                    ..Default::default()
                }),
            }
        };
    let pump = |session: &mut ServerSession, waiting: &mut BTreeMap<ResourceType, String>| {
        while let Some(outgoing) = session.next() {
            let before = waiting.insert(outgoing.type_, outgoing.nonce.clone());
            assert_eq!(before, None, "{} was not answered yet", outgoing.type_);
        }
    };
    let mut last: BTreeMap<ResourceType, u64> = BTreeMap::new();
    for one in says {
        match one {
            Say::World(contents) => {
                current = world_of(contents);
                session.set_snapshot(current.clone());
            }
            Say::Say { type_, back, subscribe, unsubscribe, refuses } => {
                let names = |names: &[usize]| names.iter().map(|name| NAMES[*name].to_owned()).collect();
                let newest = last.get(type_).copied().unwrap_or(0);
                let nonce = back.map(|back| newest.saturating_sub(back)).filter(|nonce| *nonce > 0);
                let rejected = [Rejected { name: "a".into(), reason: "bad".into() }];
                let error = refuses.then(|| nack::to_status(&rejected));
                let text = nonce.map(|nonce| nonce.to_string()).unwrap_or_default();
                let handled =
                    say(&mut session, *type_, text.clone(), [names(subscribe), names(unsubscribe)], error);
                let answers = nonce.is_some() && waiting.get(type_) == Some(&text);
                match handled {
                    Handled::Accepted(_) | Handled::Refused(..) => {
                        assert!(answers, "nonce {text:?} answers nothing");
                        waiting.remove(type_);
                    }
                    Handled::Stale(_) | Handled::Asked(_) => assert!(!answers, "nonce {text:?} answers"),
                    Handled::UnknownType(type_) => panic!("{type_} is known"),
                }
            }
        }
        pump(&mut session, &mut waiting);
        for (type_, nonce) in &waiting {
            last.insert(*type_, nonce.parse().expect("a number"));
        }
    }
    // Now it behaves: it wants everything and accepts everything. What it refused is sent again when it is another.
    let last_of_all: Vec<_> =
        NAMES.iter().flat_map(|name| [Cluster, Endpoints].map(|type_| (type_, *name, "last"))).collect();
    current = snapshot(&last_of_all);
    session.set_snapshot(current.clone());
    let everything: Vec<String> = NAMES.iter().map(|name| (*name).to_owned()).collect();
    for type_ in [Cluster, Endpoints] {
        let nonce = waiting.remove(&type_).unwrap_or_else(|| match variant {
            Variant::Sotw => last.get(&type_).map(u64::to_string).unwrap_or_default(),
            Variant::Delta => String::new(),
        });
        say(&mut session, type_, nonce, [everything.clone(), Vec::new()], None);
    }
    for _ in 0..100 {
        pump(&mut session, &mut waiting);
        let Some((type_, nonce)) = waiting.pop_first() else { break };
        let names = if variant == Variant::Sotw { everything.clone() } else { Vec::new() };
        say(&mut session, type_, nonce, [names, Vec::new()], None);
    }
    assert!(waiting.is_empty(), "the server never stops talking");
    for type_ in [Cluster, Endpoints] {
        for name in current.get(type_).iter().map(|resource| &resource.name) {
            assert_eq!(session.is_acknowledged(type_, name), Some(true), "{type_} {name}");
        }
    }
}

proptest! {
    #[test]
    fn a_delta_client_survives_any_server(steps in steps()) {
        survives(DeltaClient::new(node()), &steps);
    }

    #[test]
    fn a_sotw_client_survives_any_server(steps in steps()) {
        survives(SotwClient::new(node()), &steps);
    }

    #[test]
    fn a_delta_server_holds_against_any_client(says in says()) {
        holds(Variant::Delta, &says);
    }

    #[test]
    fn a_sotw_server_holds_against_any_client(says in says()) {
        holds(Variant::Sotw, &says);
    }
}

#[test]
fn one_bad_resource_among_a_thousand_is_refused_alone_and_named() {
    let names: Vec<String> = (0..1000).map(|number| format!("c{number:03}")).collect();
    let resources: Vec<_> =
        names.iter().map(|name| (Cluster, name.as_str(), if name == "c500" { BAD } else { "1" })).collect();
    let mut server = ServerSession::new(Variant::Delta);
    server.set_snapshot(snapshot(&resources));
    let mut client = DeltaClient::new(node());
    let wanted = Subscriptions { all_listeners: false, ..Default::default() };
    for request in client.open(&wanted) {
        server.delta_request(request);
    }
    let response = server.next().expect("all clusters").into_delta("test");
    let Received::Update(update) = client.receive(response, now()) else { panic!("not taken") };
    let bad: Vec<_> = update
        .upserts
        .iter()
        .filter(|resource| content(&resource.body) == BAD)
        .map(|resource| Rejected { name: resource.name.clone(), reason: "lb_policy: is bad".into() })
        .collect();
    let answers = client.answer(Err(bad), &wanted);
    let error = answers[0].error_detail.as_ref().expect("a refusal");
    assert_eq!(error.message, "c500: lb_policy: is bad");
    let Handled::Refused(Cluster, refusal) = server.delta_request(answers[0].clone()) else {
        panic!("not refused")
    };
    assert_eq!(refusal.resources[0].name, "c500");
    assert!(server.next().is_none(), "the refused version is not sent again");
    for name in &names {
        assert_eq!(server.is_acknowledged(Cluster, name), Some(name != "c500"), "{name}");
    }
    // The next stream says so too, and is sent the one that is missing and no other.
    let mut again = ServerSession::new(Variant::Delta);
    again.set_snapshot(snapshot(&resources));
    for request in client.open(&wanted) {
        assert_eq!(request.initial_resource_versions.len(), 999);
        again.delta_request(request);
    }
    let sent = again.next().expect("what is missing");
    assert_eq!(sent.upserts.iter().map(|resource| resource.name.as_str()).collect::<Vec<_>>(), ["c500"]);
}
