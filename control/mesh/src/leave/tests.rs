use std::{cell::RefCell, collections::BTreeMap};

use weft_discovery::model::{AppProtocol, Health, MeshState};
use weft_xds::session::{Layer, VersionedResource};

use super::*;
use crate::catalog::{
    Catalog,
    tests::{endpoint, pod, service, state},
};

const SET: &str = "web.default:80";

/// Who asked for endpoints, and which version of the set each has.
#[derive(Default)]
struct Fleet(RefCell<BTreeMap<&'static str, Option<Version>>>);

impl Proxies for Fleet {
    fn holders(&self, set: &str) -> Vec<(String, Option<Version>)> {
        let holders = self.0.borrow();
        let of_set = holders.iter().filter(|_| set == SET);
        of_set.map(|(id, version)| ((*id).to_owned(), *version)).collect()
    }

    fn has_asked(&self, id: &str) -> bool {
        self.0.borrow().contains_key(id)
    }
}

/// `web` with two pods behind it, and `job` behind nothing.
fn mesh(number: u8, leaving: &[&str]) -> MeshState {
    let health = |name: &str| if leaving.contains(&name) { Health::Draining } else { Health::Ready };
    let address = |number: u8| format!("127.64.0.{number}");
    let pods = ["web-1", "web-2", "job", "client"].map(|name| {
        let mut pod = pod(name, "127.64.0.2", &[]);
        pod.leaving = leaving.contains(&name);
        pod
    });
    let endpoints = vec![
        endpoint("web-1", "127.64.0.2", None, health("web-1")),
        endpoint("web-2", &address(number), None, health("web-2")),
    ];
    let web = service("web", "10.96.0.7", &[("http", 80, AppProtocol::Http)]);
    let mut state = state(vec![web], vec![("web", endpoints)], pods.into());
    state.leaving = Arc::new(leaving.iter().map(|name| PodId::new("default", *name)).collect());
    state
}

struct Test {
    waits: Waits,
    catalog: Catalog,
    fleet: Fleet,
    now: Instant,
}

impl Test {
    fn new() -> Self {
        let mut test = Self {
            waits: Waits::default(),
            catalog: Catalog::default(),
            fleet: Fleet::default(),
            now: Instant::now(),
        };
        let version = test.give(mesh(4, &[]));
        for id in [
            "gateway~~n1",
            "sidecar~default~client",
            "sidecar~default~job",
            "sidecar~default~web-1",
            "sidecar~default~web-2",
        ] {
            test.acknowledges(id, version);
        }
        test.now += RETURN;
        assert_eq!(test.look(), []);
        test
    }

    /// The version of the set that is given.
    fn give(&mut self, state: MeshState) -> Option<Version> {
        self.catalog.update(Arc::new(state));
        let layer: &Layer = self.catalog.resources();
        let endpoints = layer.get(ResourceType::ClusterLoadAssignment).clone();
        let version = endpoints.get(SET).map(|set: &Arc<VersionedResource>| set.version);
        self.waits.given(&Given { state: self.catalog.state().clone(), endpoints }, self.now);
        version
    }

    fn acknowledges(&self, id: &'static str, version: Option<Version>) {
        self.fleet.0.borrow_mut().insert(id, version);
    }

    fn all_acknowledge(&self, version: Option<Version>) {
        self.fleet.0.borrow_mut().values_mut().for_each(|held| *held = version);
    }

    fn look(&mut self) -> Vec<(String, Verdict)> {
        let found = self.waits.look(&self.fleet, self.now).into_iter();
        found.map(|(id, _, verdict)| (id.name, verdict)).collect()
    }
}

fn out(pod: &str) -> Vec<(String, Verdict)> {
    vec![(pod.to_owned(), Verdict::Out)]
}

#[test]
fn a_pod_is_out_when_every_proxy_has_acknowledged_that_whatever_changed_since() {
    let mut test = Test::new();
    let first = test.give(mesh(4, &["web-1"]));
    assert_eq!(test.look(), []);
    assert!(test.waits.is_waiting());
    let second = test.give(mesh(5, &["web-1"]));
    assert_ne!(first, second);
    test.all_acknowledge(second);
    test.acknowledges("sidecar~default~client", None);
    assert_eq!(test.look(), []);
    // It is behind the others, and still knows of this pod what they know.
    test.acknowledges("sidecar~default~client", first);
    assert_eq!(test.look(), out("web-1"));
    assert!(!test.waits.is_waiting());
    assert_eq!(test.look(), [], "once");
}

#[test]
fn what_was_acknowledged_before_says_nothing_about_a_pod_that_goes_later() {
    let mut test = Test::new();
    let first = test.give(mesh(4, &["web-1"]));
    test.all_acknowledge(first);
    assert_eq!(test.look(), out("web-1"));
    let second = test.give(mesh(4, &["web-1", "web-2"]));
    assert_eq!(test.look(), []);
    test.all_acknowledge(second);
    assert_eq!(test.look(), out("web-2"));
}

#[test]
fn a_pod_behind_no_service_and_one_whose_service_goes_wait_for_nobody_in_vain() {
    let mut test = Test::new();
    test.give(mesh(4, &["job"]));
    assert_eq!(test.look(), out("job"));
    test.give(mesh(4, &["job", "web-1"]));
    let mut gone = mesh(4, &["job", "web-1"]);
    gone.services = Arc::default();
    assert_eq!(test.give(gone), None);
    test.all_acknowledge(None);
    assert_eq!(test.look(), out("web-1"));
}

#[test]
fn who_keeps_a_pod_waiting_is_named_after_a_while() {
    let mut test = Test::new();
    let version = test.give(mesh(4, &["web-1"]));
    test.fleet.0.borrow_mut().iter_mut().skip(1).for_each(|(_, held)| *held = version);
    assert_eq!(test.look(), []);
    assert_eq!(test.waits.next_look(test.now), Some(test.now + PATIENCE));
    test.now += PATIENCE;
    let behind = Verdict::Behind(vec!["gateway~~n1".into()]);
    assert_eq!(test.look(), [("web-1".to_owned(), behind)]);
    let condition = condition(&Verdict::Behind(vec!["gateway~~n1".into()]), Timestamp::UNIX_EPOCH);
    assert_eq!(condition["message"], "1 proxy may still use this pod: gateway~~n1");
    assert_eq!(test.look(), [], "once");
    test.all_acknowledge(version);
    assert_eq!(test.look(), out("web-1"));
}

#[test]
fn a_proxy_that_is_away_counts_until_it_is_back_or_a_while_is_over() {
    for back in [true, false] {
        let mut test = Test::new();
        let lost = test.fleet.0.borrow_mut().remove("sidecar~default~client").unwrap();
        test.waits.lost("sidecar~default~client".into(), test.now);
        let version = test.give(mesh(4, &["web-1"]));
        test.all_acknowledge(version);
        assert_eq!(test.look(), []);
        if back {
            test.acknowledges("sidecar~default~client", lost);
            assert_eq!(test.look(), [], "it has what it had");
            test.acknowledges("sidecar~default~client", version);
        } else {
            test.now += RETURN;
        }
        assert_eq!(test.look(), out("web-1"), "back: {back}");
    }
}

#[test]
fn after_a_start_those_that_should_be_there_are_waited_for() {
    let mut test = Test {
        waits: Waits::default(),
        catalog: Catalog::default(),
        fleet: Fleet::default(),
        now: Instant::now(),
    };
    let version = test.give(mesh(4, &["web-1"]));
    assert_eq!(test.look(), [], "nobody is there yet");
    test.acknowledges("gateway~~n1", version);
    test.acknowledges("sidecar~default~client", version);
    test.acknowledges("sidecar~default~web-2", version);
    assert_eq!(test.look(), []);
    test.acknowledges("sidecar~default~job", version);
    assert_eq!(test.look(), [], "there may be proxies that are no pods");
    assert_eq!(test.waits.next_look(test.now), Some(test.now + LOOK));
    test.now += RETURN;
    assert_eq!(test.look(), out("web-1"), "its own sidecar is not waited for");
}

#[test]
fn a_proxy_that_has_gone_counts_before_anybody_says_that_it_is_lost() {
    let mut test = Test::new();
    let version = test.give(mesh(4, &["web-1"]));
    assert_eq!(test.look(), []);
    // Its stream is out of the list, and it may be back already without having asked.
    test.fleet.0.borrow_mut().remove("sidecar~default~client");
    test.all_acknowledge(version);
    assert_eq!(test.look(), []);
    assert_eq!(test.waits.next_look(test.now), Some(test.now + LOOK_FOR_RETURN), "who has all tells nothing");
    test.acknowledges("sidecar~default~client", version);
    assert_eq!(test.look(), out("web-1"));
}

#[test]
fn a_pod_that_was_taken_out_of_its_service_shortly_before_waits_like_any_other() {
    let mut moved = mesh(4, &[]);
    let rest = vec![endpoint("web-2", "127.64.0.4", None, Health::Ready)];
    moved.endpoints = state(vec![], vec![("web", rest)], vec![]).endpoints;
    let mut leaves = mesh(4, &["web-1"]);
    leaves.endpoints = moved.endpoints.clone();
    for together in [true, false] {
        let mut test = Test::new();
        if !together {
            test.give(moved.clone());
            assert_eq!(test.look(), []);
        }
        let version = test.give(leaves.clone());
        assert_eq!(test.look(), [], "together: {together}");
        test.all_acknowledge(version);
        assert_eq!(test.look(), out("web-1"), "together: {together}");
    }
    let mut test = Test::new();
    test.give(moved);
    test.now += RECENT;
    test.give(leaves);
    assert_eq!(test.look(), out("web-1"), "long ago");
}

#[test]
fn a_pod_that_waits_is_looked_at_although_nothing_happens() {
    let mut test = Test::new();
    assert_eq!(test.waits.next_look(test.now), None);
    let version = test.give(mesh(4, &["web-1"]));
    test.fleet.0.borrow_mut().iter_mut().skip(1).for_each(|(_, held)| *held = version);
    test.now += PATIENCE;
    assert_eq!(test.look().len(), 1, "it is named");
    assert_eq!(test.waits.next_look(test.now), Some(test.now + LOOK));
    // It asks for less, which is no answer; as a gateway it might still be on its way back.
    test.fleet.0.borrow_mut().remove("gateway~~n1");
    assert_eq!(test.look(), []);
    test.now += RETURN;
    assert_eq!(test.look(), out("web-1"));
    assert_eq!(test.waits.next_look(test.now), None);
}
