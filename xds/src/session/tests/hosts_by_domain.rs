//! Virtual hosts asked for by what they serve, in any order of events.

use std::collections::{BTreeMap, BTreeSet};

use proptest::{collection, option, prelude::*};

use super::*;
use crate::{
    any,
    pb::envoy::{config::route::v3::VirtualHost, service::discovery::v3::DeltaDiscoveryRequest},
    session::server::{Outgoing, ServerSession, Variant},
};

const HOSTS: [&str; 2] = ["r/a", "r/b"];
const DOMAINS: [&str; 3] = ["x", "y", "*.z"];
/// By a domain each, by the resource's own name, and what nobody serves.
const ASKED: [&str; 5] = ["r/x", "r/y", "r/1.z", "r/a", "r/none"];

/// Which host has which domain; one without any does not exist.
type World = [Option<usize>; DOMAINS.len()];

#[derive(Debug, Clone)]
enum Op {
    World(World),
    Ask(usize),
    GiveUp(usize),
    Answer,
}

/// What a client makes of what it is told.
#[derive(Default)]
struct Client {
    asked: BTreeSet<&'static str>,
    /// Asked for and not answered since.
    waiting: BTreeSet<&'static str>,
    has: BTreeMap<String, String>,
    unanswered: Option<String>,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let world = || proptest::array::uniform3(option::of(0..HOSTS.len()));
    collection::vec(
        prop_oneof![
            2 => world().prop_map(Op::World),
            3 => (0..ASKED.len()).prop_map(Op::Ask),
            1 => (0..ASKED.len()).prop_map(Op::GiveUp),
            3 => Just(Op::Answer),
        ],
        1..60,
    )
}

fn snapshot_of(world: &World) -> Arc<VersionedSnapshot> {
    let mut snapshot = Snapshot::default();
    for (number, name) in HOSTS.into_iter().enumerate() {
        let owned = DOMAINS.into_iter().zip(world).filter(|(_, owner)| **owner == Some(number));
        let domains: Vec<_> = owned.map(|(domain, _)| domain.to_owned()).collect();
        if !domains.is_empty() {
            let host = VirtualHost { name: name.to_owned(), domains, ..Default::default() };
            snapshot.virtual_hosts.insert(name.to_owned(), any::pack(&host));
        }
    }
    Arc::new(VersionedSnapshot::new(&snapshot, None))
}

/// The host that a client means, if there is one.
fn meant(asked: &str, world: &World) -> Option<&'static str> {
    if asked == "r/a" {
        return world.contains(&Some(0)).then_some("r/a");
    }
    let domain = ["r/x", "r/y", "r/1.z"].iter().position(|one| *one == asked)?;
    world[domain].map(|owner| HOSTS[owner])
}

impl Client {
    fn say(&self, server: &mut ServerSession, more: &[&str], less: &[&str], nonce: String) {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        server.delta_request(DeltaDiscoveryRequest {
            type_url: ResourceType::VirtualHost.type_url().into(),
            resource_names_subscribe: owned(more),
            resource_names_unsubscribe: owned(less),
            response_nonce: nonce,
            ..Default::default()
        });
    }

    fn hear(&mut self, response: Outgoing) {
        assert_eq!(self.unanswered.replace(response.nonce.clone()), None);
        let response = response.into_delta("test");
        for resource in response.resources {
            self.waiting
                .retain(|asked| *asked != resource.name && !resource.aliases.iter().any(|a| a == asked));
            if resource.resource.is_some() {
                self.has.insert(resource.name, resource.version);
            }
        }
        for name in response.removed_resources {
            self.waiting.remove(name.as_str());
            self.has.remove(&name);
        }
    }

    fn answer(&mut self, server: &mut ServerSession) -> bool {
        let Some(nonce) = self.unanswered.take() else { return false };
        self.say(server, &[], &[], nonce);
        true
    }
}

proptest! {
    #[test]
    fn who_asks_for_a_host_by_what_it_serves_is_always_answered_and_ends_with_what_is_there(
        ops in ops(),
        last in proptest::array::uniform3(option::of(0..HOSTS.len())),
    ) {
        let (mut client, mut server) = (Client::default(), ServerSession::new(Variant::Delta));
        let gave_up = ops.iter().any(|op| matches!(op, Op::GiveUp(_)));
        for op in ops.into_iter().chain([Op::World(last)]) {
            match op {
                Op::World(world) => server.set_snapshot(snapshot_of(&world)),
                Op::Ask(number) => {
                    client.asked.insert(ASKED[number]);
                    client.waiting.insert(ASKED[number]);
                    client.say(&mut server, &[ASKED[number]], &[], String::new());
                }
                Op::GiveUp(number) => {
                    // A client that never asked for anything has nothing to give up.
                    if client.asked.remove(ASKED[number]) {
                        client.waiting.remove(ASKED[number]);
                        client.say(&mut server, &[], &[ASKED[number]], String::new());
                    }
                }
                Op::Answer => {
                    client.answer(&mut server);
                }
            }
            while let Some(response) = server.next() {
                client.hear(response);
            }
        }
        for _ in 0..10 {
            if !client.answer(&mut server) {
                break;
            }
            while let Some(response) = server.next() {
                client.hear(response);
            }
        }
        prop_assert_eq!(&client.unanswered, &None, "the server never stops talking");
        prop_assert!(client.waiting.is_empty(), "{:?} wait", client.waiting);
        let current = snapshot_of(&last);
        let current = current.get(ResourceType::VirtualHost);
        for asked in &client.asked {
            if let Some(name) = meant(asked, &last) {
                let version = current.get(name).expect("it is there").version.to_string();
                prop_assert_eq!(client.has.get(name), Some(&version), "{} is {}", asked, name);
                prop_assert_eq!(server.is_acknowledged(ResourceType::VirtualHost, name), Some(true));
            }
        }
        // What it gave up it has no right to hear of, and is for itself to forget.
        if !gave_up && ASKED.iter().all(|asked| client.asked.contains(asked)) {
            prop_assert!(client.has.keys().all(|name| current.get(name).is_some()), "{:?}", client.has);
        }
    }
}
