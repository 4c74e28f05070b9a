use super::*;
use crate::testing::{node, pod, snapshot};

fn refusal(snapshot: &Snapshot, pod: crate::testing::PodBuilder) -> String {
    schedule(snapshot, &pod.info()).expect_err("no node should do").to_string()
}

#[test]
fn without_nodes_it_says_so() {
    assert_eq!(refusal(&Snapshot::default(), pod("p")), "no nodes available to schedule pods");
}

#[test]
fn a_pod_that_asks_for_too_much_gets_kubernetes_sentence() {
    let cluster = snapshot(vec![(node("a"), vec![pod("big").cpu("1900m")])]);
    assert_eq!(refusal(&cluster, pod("p").cpu("200m")), "0/1 nodes are available: 1 Insufficient cpu.");
    let hungry = pod("p").cpu("3").request("memory", "8Gi");
    assert_eq!(
        refusal(&cluster, hungry),
        "0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient memory."
    );
}

#[test]
fn reasons_are_counted_over_nodes_and_each_node_gives_its_first() {
    let cluster = snapshot(vec![
        (node("a").cordoned(), vec![]),
        (node("b").taint("gpu", "yes", "NoSchedule"), vec![]),
        (node("c").taint("gpu", "yes", "NoExecute"), vec![]),
        (node("d"), vec![]),
        (node("e").offers("pods", "0").offers("memory", "8Gi"), vec![]),
        (node("f").ready("Unknown"), vec![]),
    ]);
    assert_eq!(
        refusal(&cluster, pod("p").cpu("1").request("memory", "5Gi")),
        "0/6 nodes are available: 1 Insufficient memory, 1 Too many pods, 1 node(s) had untolerated taint \
         {node.kubernetes.io/unreachable: }, 1 node(s) were unschedulable, 2 node(s) had untolerated taint {gpu: yes}."
    );
}

#[test]
fn a_tolerated_taint_and_a_matching_selector_let_a_pod_in() {
    let cluster = snapshot(vec![
        (node("a"), vec![]),
        (node("b").taint("gpu", "yes", "NoSchedule").label("disk", "ssd"), vec![]),
    ]);
    let wish = pod("p").node_selector("disk", "ssd");
    assert_eq!(
        refusal(&cluster, wish),
        "0/2 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, 1 node(s) had untolerated taint \
         {gpu: yes}."
    );
    let wish = pod("p").node_selector("disk", "ssd").tolerates("gpu");
    assert_eq!(schedule(&cluster, &wish.info()), Ok("b".to_owned()));
}

#[test]
fn a_node_that_is_not_ready_takes_only_pods_that_bear_it() {
    let cluster = snapshot(vec![(node("a").ready("False"), vec![])]);
    assert_eq!(
        refusal(&cluster, pod("p")),
        "0/1 nodes are available: 1 node(s) had untolerated taint {node.kubernetes.io/not-ready: }."
    );
    let daemon = pod("p").tolerates("node.kubernetes.io/not-ready");
    assert_eq!(schedule(&cluster, &daemon.info()), Ok("a".to_owned()));
}

#[test]
fn anti_affinity_holds_in_both_directions() {
    let cluster = snapshot(vec![(node("a"), vec![pod("old").label("app", "db").apart_from("app", "db")])]);
    assert_eq!(
        refusal(&cluster, pod("p").label("app", "db")),
        "0/1 nodes are available: 1 node(s) didn't satisfy existing pods anti-affinity rules."
    );
    let cluster = snapshot(vec![(node("a"), vec![pod("old").label("app", "db")]), (node("b"), vec![])]);
    let apart = pod("p").label("app", "db").apart_from("app", "db");
    assert_eq!(schedule(&cluster, &apart.info()), Ok("b".to_owned()));
}

#[test]
fn affinity_follows_its_group_and_the_first_of_a_group_goes_anywhere() {
    let cluster = snapshot(vec![(node("a"), vec![]), (node("b"), vec![pod("old").label("app", "cache")])]);
    let follower = pod("p").near("app", "cache");
    assert_eq!(schedule(&cluster, &follower.info()), Ok("b".to_owned()));
    let founder = pod("p").label("app", "new").near("app", "new");
    assert!(schedule(&cluster, &founder.info()).is_ok());
    assert_eq!(
        refusal(&cluster, pod("p").near("app", "absent")),
        "0/2 nodes are available: 2 node(s) didn't match pod affinity rules."
    );
}

#[test]
fn host_ports_are_taken_once_per_node() {
    let cluster = snapshot(vec![(node("a"), vec![pod("old").host_port(80)]), (node("b"), vec![])]);
    assert_eq!(schedule(&cluster, &pod("p").host_port(80).info()), Ok("b".to_owned()));
    let cluster = snapshot(vec![(node("a"), vec![pod("old").host_port(80)])]);
    assert_eq!(
        refusal(&cluster, pod("p").host_port(80)),
        "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports."
    );
}

#[test]
fn required_spread_keeps_the_skew() {
    let replica = |name: &str| pod(name).label("app", "web");
    let cluster =
        snapshot(vec![(node("a"), vec![replica("1"), replica("2")]), (node("b"), vec![replica("3")])]);
    let next = replica("p").spread(1, "DoNotSchedule", "app", "web");
    assert_eq!(schedule(&cluster, &next.info()), Ok("b".to_owned()));
    let full = snapshot(vec![(node("a"), vec![replica("1")]), (node("b").cordoned(), vec![])]);
    assert_eq!(
        refusal(&full, replica("p").spread(1, "DoNotSchedule", "app", "web")),
        "0/2 nodes are available: 1 node(s) didn't match pod topology spread constraints, 1 node(s) were unschedulable."
    );
}

#[test]
fn replicas_of_one_controller_are_spread_over_nodes() {
    let replica = |name: &str| pod(name).controlled_by("rs");
    let mut used = BTreeSet::new();
    let mut placed: Vec<(String, String)> = Vec::new();
    for name in ["1", "2", "3"] {
        let on =
            |node: &str| placed.iter().filter(|(_, at)| at == node).map(|(name, _)| replica(name)).collect();
        let cluster = snapshot(vec![(node("a"), on("a")), (node("b"), on("b")), (node("c"), on("c"))]);
        let chosen = schedule(&cluster, &replica(name).info()).expect("there is room");
        used.insert(chosen.clone());
        placed.push((name.to_owned(), chosen));
    }
    assert_eq!(used.len(), 3);
}

#[test]
fn the_emptier_node_is_preferred() {
    let cluster = snapshot(vec![(node("a"), vec![pod("old").cpu("1500m")]), (node("b"), vec![])]);
    assert_eq!(schedule(&cluster, &pod("p").cpu("100m").info()), Ok("b".to_owned()));
}

#[test]
fn soft_taints_and_soft_spread_steer_without_forbidding() {
    let cluster =
        snapshot(vec![(node("a").taint("old", "", "PreferNoSchedule"), vec![]), (node("b"), vec![])]);
    assert_eq!(schedule(&cluster, &pod("p").info()), Ok("b".to_owned()));
    let replica = |name: &str| pod(name).label("app", "web");
    let cluster = snapshot(vec![(node("a"), vec![replica("1")]), (node("b"), vec![])]);
    let next = replica("p").spread(1, "ScheduleAnyway", "app", "web");
    assert_eq!(schedule(&cluster, &next.info()), Ok("b".to_owned()));
}

#[test]
fn the_decision_depends_on_nothing_but_its_arguments() {
    let cluster = snapshot(vec![(node("a"), vec![]), (node("b"), vec![]), (node("c"), vec![])]);
    let pod = pod("p").info();
    let first = schedule(&cluster, &pod);
    assert!((0..10).all(|_| schedule(&cluster, &pod) == first));
    let chosen: BTreeSet<_> = (0..50)
        .filter_map(|n| schedule(&cluster, &crate::testing::pod(&format!("p{n}")).info()).ok())
        .collect();
    assert_eq!(chosen.len(), 3, "equal pods are not all sent to one node");
}
