//! The two ends against each other, over links that deliver in order, late, or not at all.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use ResourceType::{Cluster, ClusterLoadAssignment as Endpoints, Listener, RouteConfiguration as Route};
use proptest::{collection, prelude::*, sample};

use super::*;
use crate::{
    pb::envoy::{
        config::core::v3::Node,
        service::discovery::v3::{
            DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
        },
    },
    resource::{Rejected, ResourceUpdate, Subscriptions},
    session::{
        client::{ClientSession, DeltaClient, Received, SotwClient},
        server::{Outgoing, ServerSession, Variant},
    },
};

/// The content that every client refuses.
const BAD: &str = "bad";

type World = BTreeMap<(ResourceType, String), String>;

/// What the test's configurations look like: clusters with endpoints, and listeners whose routes lead to them.
#[derive(Debug, Clone)]
struct Config {
    /// Cluster, its content, its endpoints' content.
    clusters: BTreeMap<&'static str, (&'static str, &'static str)>,
    /// Listener and, by index, the cluster that its route leads to.
    listeners: BTreeMap<&'static str, (&'static str, sample::Index)>,
}

#[derive(Debug, Clone)]
enum Op {
    Set(Config),
    ToServer,
    ToClient,
    Drop,
}

/// Both ends of one variant.
trait Ends: ClientSession {
    const VARIANT: Variant;
    fn to_server(session: &mut ServerSession, request: Self::Request);
    fn to_client(outgoing: Outgoing) -> Self::Response;
}

struct Link<C: Ends> {
    client: C,
    server: ServerSession,
    current: Option<Arc<VersionedSnapshot>>,
    requests: VecDeque<C::Request>,
    responses: VecDeque<C::Response>,
    /// In force at the client.
    world: World,
    /// Everything that ever was good, by name; whatever is refused must not displace one of these.
    ever: BTreeSet<(ResourceType, String, String)>,
    /// Sent on this stream and not removed since.
    sent: BTreeMap<(ResourceType, String), String>,
    /// Whether a route may never lead to a cluster that is not there.
    strict: bool,
    /// Whether the client waits for endpoints, as a proxy does: a cluster is in effect when it has them, and so is a
    /// route to it.
    patient: bool,
    /// Routes that are not in effect yet; the old ones are.
    waiting: BTreeMap<String, String>,
    /// Clusters that are gone and stay while old routes do.
    leaving: BTreeSet<String>,
    /// Endpoints that are not waited for: the server said that there are none, or the time is over.
    done_without: BTreeSet<String>,
}

impl Config {
    fn world(&self) -> World {
        let mut world = World::new();
        for (name, (cluster, endpoints)) in &self.clusters {
            world.insert((Cluster, (*name).to_owned()), (*cluster).to_owned());
            world.insert((Endpoints, (*name).to_owned()), (*endpoints).to_owned());
        }
        let names: Vec<_> = self.clusters.keys().collect();
        for (name, (listener, to)) in self.listeners.iter().filter(|_| !names.is_empty()) {
            world.insert((Listener, (*name).to_owned()), (*listener).to_owned());
            world.insert((Route, (*name).to_owned()), (*to.get(&names)).to_string());
        }
        world
    }
}

fn config(contents: &'static [&'static str]) -> impl Strategy<Value = Config> {
    let content = || sample::select(contents);
    let clusters = collection::btree_map(sample::select(&["a", "b", "c"][..]), (content(), content()), 0..=3);
    let listeners =
        collection::btree_map(sample::select(&["x", "y"][..]), (content(), any::<sample::Index>()), 0..=2);
    (clusters, listeners).prop_map(|(clusters, listeners)| Config { clusters, listeners })
}

fn ops(contents: &'static [&'static str], drops: u32) -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        2 => config(contents).prop_map(Op::Set),
        6 => Just(Op::ToServer),
        6 => Just(Op::ToClient),
        drops => Just(Op::Drop),
    ];
    collection::vec(op, 1..120)
}

impl<C: Ends> Link<C> {
    fn new(client: C, strict: bool) -> Self {
        let mut link = Self {
            client,
            server: ServerSession::new(C::VARIANT),
            current: None,
            requests: VecDeque::new(),
            responses: VecDeque::new(),
            world: World::new(),
            ever: BTreeSet::new(),
            sent: BTreeMap::new(),
            strict,
            patient: false,
            waiting: BTreeMap::new(),
            leaving: BTreeSet::new(),
            done_without: BTreeSet::new(),
        };
        link.reconnect();
        link
    }

    fn reconnect(&mut self) {
        self.requests.clear();
        self.responses.clear();
        self.sent.clear();
        self.server = ServerSession::new(C::VARIANT);
        if let Some(current) = &self.current {
            self.server.set_snapshot(current.clone());
        }
        self.requests.extend(self.client.open(&wanted(&self.world)));
    }

    fn set(&mut self, config: &Config) {
        let world = config.world();
        let resources: Vec<_> =
            world.iter().map(|((type_, name), content)| (*type_, name.as_str(), content.as_str())).collect();
        let new = snapshot(&resources);
        self.server.set_snapshot(new.clone());
        self.current = Some(new);
        self.pump();
    }

    fn pump(&mut self) {
        while let Some(outgoing) = self.server.next() {
            for resource in outgoing.upserts.iter() {
                let key = (outgoing.type_, resource.name.to_string());
                let before = self.sent.insert(key, resource.version.to_string());
                let wildcard = outgoing.type_.is_wildcard_by_default();
                // Names may be asked for again; what is subscribed to as a whole is sent once.
                if C::VARIANT == Variant::Delta && wildcard {
                    assert_ne!(
                        before,
                        Some(resource.version.to_string()),
                        "{} was sent twice",
                        resource.name
                    );
                }
            }
            for name in &outgoing.removed {
                self.sent.remove(&(outgoing.type_, name.to_string()));
            }
            self.responses.push_back(C::to_client(outgoing));
        }
    }

    fn deliver_request(&mut self) -> bool {
        let Some(request) = self.requests.pop_front() else { return false };
        C::to_server(&mut self.server, request);
        self.pump();
        true
    }

    fn deliver_response(&mut self) -> bool {
        let Some(response) = self.responses.pop_front() else { return false };
        match self.client.receive(response, now()) {
            Received::Update(update) => {
                let type_ = update.type_;
                let verdict = self.apply(update);
                let requests = match verdict.is_err() || self.in_effect(type_) {
                    true => self.client.answer(verdict, &wanted(&self.world)),
                    false => self.client.hold_back(&wanted(&self.world)),
                };
                self.requests.extend(requests);
                self.acknowledge();
            }
            Received::Refused { rejected, .. } => panic!("our server's response was refused: {rejected:?}"),
            Received::Ignored(type_url) => panic!("our server's response was ignored: {type_url}"),
        }
        true
    }

    fn apply(&mut self, update: ResourceUpdate) -> Result<(), Vec<Rejected>> {
        let mut rejected = Vec::new();
        for resource in update.upserts {
            let content = content(&resource.body);
            if content == BAD {
                rejected.push(Rejected { name: resource.name, reason: "bad".into() });
                continue;
            }
            self.ever.insert((update.type_, resource.name.clone(), content.clone()));
            if self.patient && update.type_ == Route {
                self.waiting.insert(resource.name, content);
                continue;
            }
            self.leaving.remove(&resource.name);
            self.world.insert((update.type_, resource.name), content);
        }
        for name in update.removed {
            if update.type_ == Cluster && !self.waiting.is_empty() {
                self.leaving.insert(name.clone());
            }
            self.waiting.retain(|route, _| update.type_ != Route || *route != name);
            match update.type_ {
                Endpoints => drop(self.done_without.insert(name.clone())),
                Cluster => drop(self.done_without.remove(&name)),
                _ => {}
            }
            self.world.remove(&(update.type_, name));
        }
        self.place_routes();
        // What nothing refers to is let go of.
        let wanted = wanted(&self.world);
        self.world.retain(|(type_, name), _| match type_ {
            Endpoints => wanted.endpoints.contains(name),
            Route => wanted.routes.contains(name),
            _ => true,
        });
        self.waiting.retain(|name, _| wanted.routes.contains(name));
        if self.waiting.is_empty() {
            self.leaving.clear();
        }
        if self.strict {
            for ((_, name), to) in self.world.iter().filter(|((type_, _), _)| *type_ == Route) {
                let there = |type_| self.world.contains_key(&(type_, to.clone()));
                let ready = !self.patient || there(Endpoints) || self.done_without.contains(to);
                let serves = there(Cluster) && ready;
                assert!(
                    serves || self.leaving.contains(to),
                    "route {name} leads to {to}, which is not there"
                );
            }
        }
        if rejected.is_empty() { Ok(()) } else { Err(rejected) }
    }

    /// Has the routes take effect whose clusters have endpoints.
    fn place_routes(&mut self) {
        let mut waiting = std::mem::take(&mut self.waiting);
        let ready = waiting.extract_if(.., |_, to| self.is_ready(to)).map(|(name, to)| ((Route, name), to));
        let ready: Vec<_> = ready.collect();
        self.world.extend(ready);
        self.waiting = waiting;
    }

    fn is_ready(&self, cluster: &str) -> bool {
        self.world.contains_key(&(Endpoints, cluster.to_owned())) || self.done_without.contains(cluster)
    }

    fn acknowledge(&mut self) {
        for type_ in ResourceType::ALL {
            if self.client.holds_back(type_) && self.in_effect(type_) {
                self.requests.extend(self.client.acknowledge(type_));
            }
        }
    }

    /// Does without what was waited for long enough; whether there was something.
    fn stop_waiting(&mut self) -> bool {
        let missing = self.world.keys().filter(|(type_, _)| *type_ == Cluster).map(|(_, name)| name.clone());
        let missing: Vec<_> = missing.filter(|name| !self.is_ready(name)).collect();
        self.done_without.extend(missing.iter().cloned());
        self.place_routes();
        if self.waiting.is_empty() {
            self.leaving.clear();
        }
        self.acknowledge();
        !missing.is_empty()
    }

    fn in_effect(&self, type_: ResourceType) -> bool {
        if !self.patient {
            return true;
        }
        let mut clusters = self.world.keys().filter(|(type_, _)| *type_ == Cluster);
        match type_ {
            Cluster => self.leaving.is_empty() && clusters.all(|(_, name)| self.is_ready(name)),
            Route => self.waiting.is_empty(),
            _ => true,
        }
    }

    fn settle(&mut self) {
        for _ in 0..1000 {
            if !self.deliver_request() & !self.deliver_response() {
                return;
            }
        }
        panic!("the two ends never stop talking");
    }

    fn run(&mut self, ops: &[Op], last: &Config) {
        for op in ops {
            match op {
                Op::Set(config) => self.set(config),
                Op::ToServer => drop(self.deliver_request()),
                Op::ToClient => drop(self.deliver_response()),
                Op::Drop => self.reconnect(),
            }
        }
        self.set(last);
        self.settle();
    }

    /// The client has what the server has, but for what it refused.
    fn check(&self, last: &Config) {
        let target = last.world();
        let refused = |key: &(ResourceType, String)| target.get(key).is_some_and(|content| content == BAD);
        let keeps_old_clusters = target.keys().any(|key| matches!(key.0, Listener | Route) && refused(key));
        for (key, content) in &target {
            let here = self.world.get(key);
            if refused(key) {
                let good = |content: &String| self.ever.contains(&(key.0, key.1.clone(), content.clone()));
                assert!(here.is_none_or(good), "{key:?} is {here:?}");
                continue;
            }
            // Endpoints of a refused cluster and routes of a refused listener may not be asked for.
            let parent = match key.0 {
                Endpoints => Some((Cluster, key.1.clone())),
                Route => Some((Listener, key.1.clone())),
                _ => None,
            };
            if parent.is_some_and(|parent| !self.world.contains_key(&parent)) {
                continue;
            }
            assert_eq!(here, Some(content), "{key:?}");
            assert_eq!(self.server.is_acknowledged(key.0, &key.1), Some(true), "{key:?}");
        }
        for key in self.world.keys().filter(|key| !target.contains_key(key)) {
            assert!(matches!(key.0, Cluster | Endpoints) && keeps_old_clusters, "{key:?} should be gone");
        }
    }
}

/// A client wants the endpoints of its clusters and the routes of its listeners.
fn wanted(world: &World) -> Subscriptions {
    let names = |wanted: ResourceType| {
        world.keys().filter(|(type_, _)| *type_ == wanted).map(|(_, name)| name.clone()).collect()
    };
    Subscriptions { endpoints: names(Cluster), routes: names(Listener), ..Default::default() }
}

impl Ends for DeltaClient {
    const VARIANT: Variant = Variant::Delta;

    fn to_server(session: &mut ServerSession, request: DeltaDiscoveryRequest) {
        session.delta_request(request);
    }

    fn to_client(outgoing: Outgoing) -> DeltaDiscoveryResponse {
        outgoing.into_delta("test")
    }
}

impl Ends for SotwClient {
    const VARIANT: Variant = Variant::Sotw;

    fn to_server(session: &mut ServerSession, request: DiscoveryRequest) {
        session.sotw_request(request);
    }

    fn to_client(outgoing: Outgoing) -> DiscoveryResponse {
        outgoing.into_sotw("test")
    }
}

fn node() -> Node {
    Node { id: "one".into(), ..Default::default() }
}

const GOOD: &[&str] = &["1", "2", "3"];
const MIXED: &[&str] = &["1", "2", BAD];

proptest! {
    #[test]
    fn delta_converges_and_never_breaks_a_route(ops in ops(GOOD, 1), last in config(GOOD)) {
        let mut link = Link::new(DeltaClient::new(node()), true);
        link.run(&ops, &last);
        link.check(&last);
    }

    // Whatever comes in between, the server sends what its client waits for before it answers, or says that there is no
    // such thing.
    #[test]
    fn a_delta_client_that_answers_for_clusters_in_effect_only_is_never_stuck(ops in ops(GOOD, 1), last in config(GOOD)) {
        let mut link = Link::new(DeltaClient::new(node()), true);
        link.patient = true;
        link.run(&ops, &last);
        link.check(&last);
    }

    // State of the world has no words for what does not exist: if a cluster is taken back before its endpoints were sent,
    // its client waits for as long as it has patience.
    #[test]
    fn a_sotw_client_that_answers_for_clusters_in_effect_only_is_stuck_for_its_patience_at_most(
        ops in ops(GOOD, 0), last in config(GOOD),
    ) {
        let mut link = Link::new(SotwClient::new(node()), true);
        link.patient = true;
        link.run(&ops, &last);
        while link.stop_waiting() {
            link.settle();
        }
        link.check(&last);
    }

    #[test]
    fn delta_converges_in_spite_of_refusals(ops in ops(MIXED, 1), last in config(MIXED)) {
        let mut link = Link::new(DeltaClient::new(node()), false);
        link.run(&ops, &last);
        link.check(&last);
    }

    // A state-of-the-world server cannot know what its client has from an earlier stream, so that with lost streams
    // a route may lead nowhere for a moment.
    #[test]
    fn sotw_converges_and_never_breaks_a_route(ops in ops(GOOD, 0), last in config(GOOD)) {
        let mut link = Link::new(SotwClient::new(node()), true);
        link.run(&ops, &last);
        link.check(&last);
    }

    #[test]
    fn sotw_converges_in_spite_of_refusals_and_lost_streams(ops in ops(MIXED, 1), last in config(MIXED)) {
        let mut link = Link::new(SotwClient::new(node()), false);
        link.run(&ops, &last);
        link.check(&last);
    }
}
