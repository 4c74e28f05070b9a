use k8s_openapi::{
    api::apps::v1::{DeploymentStrategy, RollingUpdateDeployment},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::*;
use crate::testing::{at, deployment, replica_set};

/// A Deployment and its sets, moved on as the other controllers and the API server would.
struct Cluster {
    deployment: Deployment,
    sets: Vec<ReplicaSet>,
    now: i64,
}

impl Cluster {
    fn new(deployment: Deployment) -> Self {
        Self { deployment, sets: Vec::new(), now: 1 }
    }

    fn plan(&self) -> Plan {
        plan(&self.deployment, self.sets.iter().cloned().map(Arc::new).collect(), false, at(self.now))
    }

    /// Does what is planned; says whether there was anything.
    fn step(&mut self) -> bool {
        let plan = self.plan();
        let changes = !plan.actions.is_empty() || self.deployment.status.as_ref() != Some(&plan.status);
        self.deployment.status = Some(plan.status);
        for action in plan.actions {
            match action {
                Action::Create(mut set) => {
                    set.metadata.uid = set.metadata.name.clone();
                    set.metadata.creation_timestamp =
                        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(self.now)));
                    self.sets.push(*set);
                }
                Action::Resize { set, .. } | Action::Update(set) => {
                    let index = self.index(name(&set.metadata));
                    self.sets[index] = *set;
                }
                Action::Delete(set) => {
                    let index = self.index(name(&set.metadata));
                    self.sets.remove(index);
                }
                Action::SetRevision(revision) => {
                    let annotations = self.deployment.metadata.annotations.get_or_insert_default();
                    annotations.insert(REVISION.to_owned(), revision);
                }
            }
        }
        self.now += 1;
        changes
    }

    fn index(&self, set_name: &str) -> usize {
        self.sets.iter().position(|set| name(&set.metadata) == set_name).expect("plans name sets that exist")
    }

    /// All pods of a set come up, or `healthy` of them.
    fn settle_pods(&mut self, healthy: impl Fn(&ReplicaSet) -> bool) {
        for set in &mut self.sets {
            let size = size(set);
            let available = if healthy(set) { size } else { 0 };
            let status = set.status.get_or_insert_default();
            status.replicas = size;
            status.ready_replicas = Some(available);
            status.available_replicas = Some(available);
        }
    }

    /// Steps and lets pods come up until nothing changes; checks bounds at every step.
    fn run(&mut self, healthy: impl Fn(&ReplicaSet) -> bool + Copy, mut check: impl FnMut(&Self)) {
        for _ in 0..100 {
            let changed = self.step();
            check(self);
            let before = self.sets.clone();
            self.settle_pods(healthy);
            if !changed && self.sets == before {
                return;
            }
        }
        panic!("the rollout never comes to rest");
    }

    fn sizes(&self) -> Vec<i32> {
        self.sets.iter().map(size).collect()
    }

    fn condition(&self, type_: &str) -> (String, String) {
        let conditions =
            self.deployment.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
        let found = conditions.into_iter().find(|c| c.type_ == type_).expect("the condition is there");
        (found.status, found.reason.unwrap_or_default())
    }

    fn set_image(&mut self, image: &str) {
        self.deployment.spec.get_or_insert_default().template = crate::testing::template(image);
        self.deployment.metadata.generation =
            self.deployment.metadata.generation.map(|generation| generation + 1);
    }
}

fn strategy(type_: &str, surge: i32, unavailable: i32) -> DeploymentStrategy {
    DeploymentStrategy {
        type_: Some(type_.to_owned()),
        rolling_update: (type_ == "RollingUpdate").then_some(RollingUpdateDeployment {
            max_surge: Some(IntOrString::Int(surge)),
            max_unavailable: Some(IntOrString::Int(unavailable)),
        }),
    }
}

fn running(replicas: i32, surge: i32, unavailable: i32) -> Cluster {
    let mut deployment = deployment(replicas, "a");
    deployment.spec.get_or_insert_default().strategy = Some(strategy("RollingUpdate", surge, unavailable));
    let mut cluster = Cluster::new(deployment);
    cluster.run(|_| true, |_| {});
    cluster
}

#[test]
fn a_new_deployment_gets_one_set_of_full_size_and_completes() {
    let mut cluster = Cluster::new(deployment(3, "a"));
    assert!(cluster.step());
    assert_eq!(cluster.sizes(), [3]);
    assert_eq!(cluster.condition("Progressing"), ("True".to_owned(), "NewReplicaSetCreated".to_owned()));
    assert_eq!(cluster.condition("Available"), ("False".to_owned(), "MinimumReplicasUnavailable".to_owned()));
    cluster.run(|_| true, |_| {});
    assert_eq!(cluster.condition("Progressing"), ("True".to_owned(), "NewReplicaSetAvailable".to_owned()));
    assert_eq!(cluster.condition("Available"), ("True".to_owned(), "MinimumReplicasAvailable".to_owned()));
    assert_eq!(revision::annotation(&cluster.deployment.metadata, REVISION), Some("1"));
}

#[test]
fn a_rolling_update_keeps_its_bounds_and_ends_on_the_new_set() {
    for (replicas, surge, unavailable) in [(3, 1, 0), (10, 3, 2), (4, 0, 1), (1, 1, 0), (5, 5, 5)] {
        let mut cluster = running(replicas, surge, unavailable);
        cluster.set_image("b");
        cluster.run(
            |_| true,
            |cluster| {
                let (total, up) = (
                    sum(&cluster.sets, size),
                    sum(&cluster.sets, |set| numbers::available(set).min(size(set))),
                );
                assert!(total <= replicas + surge, "{total} pods");
                assert!(up >= replicas - unavailable, "{up} available");
            },
        );
        assert_eq!(cluster.sizes(), [0, replicas]);
        assert_eq!(revision::revision(&cluster.sets[1]), 2);
    }
}

#[test]
fn a_rollout_that_never_becomes_ready_keeps_the_old_pods_and_times_out() {
    let mut cluster = running(3, 1, 0);
    cluster.set_image("broken");
    let healthy = |set: &ReplicaSet| {
        let template =
            set.spec.as_ref().and_then(|spec| spec.template.as_ref()).and_then(|t| t.spec.as_ref());
        template.is_some_and(|spec| spec.containers[0].image.as_deref() == Some("a"))
    };
    cluster.run(healthy, |_| {});
    assert_eq!(cluster.sizes(), [3, 1]);
    let again = cluster.plan().again.expect("the deadline is awaited");
    cluster.now += i64::try_from(again.as_secs()).expect("small") + 1;
    cluster.step();
    assert_eq!(cluster.condition("Progressing"), ("False".to_owned(), "ProgressDeadlineExceeded".to_owned()));
    cluster.set_image("a");
    cluster.run(|_| true, |_| {});
    assert_eq!(cluster.sizes(), [3, 0]);
    assert_eq!(cluster.condition("Progressing").1, "NewReplicaSetAvailable");
}

#[test]
fn an_undo_reuses_the_old_set_under_a_new_revision() {
    let mut cluster = running(2, 1, 0);
    cluster.set_image("b");
    cluster.run(|_| true, |_| {});
    cluster.set_image("a");
    cluster.run(|_| true, |_| {});
    assert_eq!(cluster.sizes(), [2, 0]);
    assert_eq!(revision::revision(&cluster.sets[0]), 3);
    assert_eq!(revision::annotation(&cluster.deployment.metadata, REVISION), Some("3"));
}

#[test]
fn scaling_in_the_middle_of_a_rollout_is_proportional() {
    let mut cluster = running(10, 3, 2);
    cluster.set_image("b");
    for _ in 0..4 {
        cluster.step();
    }
    let before = cluster.sizes();
    assert_eq!(before, [8, 5]);
    cluster.deployment.spec.get_or_insert_default().replicas = Some(15);
    cluster.step();
    let after = cluster.sizes();
    assert_eq!(after.iter().sum::<i32>(), 18, "wanted and surge");
    assert!(after[0] > before[0] && after[1] > before[1], "{before:?} -> {after:?}");
    cluster.run(|_| true, |_| {});
    assert_eq!(cluster.sizes(), [0, 15]);
}

#[test]
fn scaling_at_rest_resizes_the_one_set() {
    let mut cluster = running(3, 1, 0);
    for wanted in [6, 3, 0, 2] {
        cluster.deployment.spec.get_or_insert_default().replicas = Some(wanted);
        cluster.run(|_| true, |_| {});
        assert_eq!(cluster.sizes(), [wanted]);
        assert_eq!(cluster.condition("Progressing").1, "NewReplicaSetAvailable");
    }
}

#[test]
fn a_paused_deployment_scales_but_does_not_roll() {
    let mut cluster = running(2, 1, 0);
    cluster.deployment.spec.get_or_insert_default().paused = Some(true);
    cluster.set_image("b");
    cluster.run(|_| true, |_| {});
    assert_eq!(cluster.sizes(), [2]);
    assert_eq!(cluster.condition("Progressing"), ("Unknown".to_owned(), "DeploymentPaused".to_owned()));
    cluster.deployment.spec.get_or_insert_default().replicas = Some(4);
    cluster.run(|_| true, |_| {});
    assert_eq!(cluster.sizes(), [4]);
    cluster.deployment.spec.get_or_insert_default().paused = None;
    cluster.run(|_| true, |_| {});
    assert_eq!(cluster.sizes(), [0, 4]);
    assert_eq!(cluster.condition("Progressing").1, "NewReplicaSetAvailable");
}

#[test]
fn recreate_starts_new_pods_only_when_the_old_ones_are_gone() {
    let mut cluster = running(3, 1, 0);
    cluster.deployment.spec.get_or_insert_default().strategy = Some(strategy("Recreate", 0, 0));
    cluster.set_image("b");
    cluster.step();
    assert_eq!(cluster.sizes(), [0]);
    cluster.step();
    assert_eq!(cluster.sizes(), [0], "the old set still counts pods");
    cluster.settle_pods(|_| true);
    let waiting =
        plan(&cluster.deployment, cluster.sets.iter().cloned().map(Arc::new).collect(), true, at(9));
    assert!(waiting.actions.is_empty(), "old pods are still ending");
    cluster.run(|_| true, |_| {});
    assert_eq!(cluster.sizes(), [0, 3]);
}

#[test]
fn old_revisions_beyond_the_limit_are_deleted() {
    let mut cluster = running(1, 1, 0);
    cluster.deployment.spec.get_or_insert_default().revision_history_limit = Some(2);
    for image in ["b", "c", "d", "e"] {
        cluster.set_image(image);
        cluster.run(|_| true, |_| {});
    }
    assert_eq!(cluster.sizes(), [0, 0, 1]);
}

#[test]
fn unhealthy_old_pods_go_first() {
    let mut deployment = deployment(10, "b");
    deployment.spec.get_or_insert_default().strategy = Some(strategy("RollingUpdate", 0, 2));
    let mut cluster = Cluster::new(deployment);
    cluster.sets = vec![replica_set("web-1", "a", 8, 5), replica_set("web-2", "b", 2, 2)];
    for set in &mut cluster.sets {
        let annotations = set.metadata.annotations.get_or_insert_default();
        annotations.insert(revision::DESIRED_REPLICAS.to_owned(), "10".to_owned());
    }
    let first = scale::old_sets(
        &cluster.deployment,
        &Sets::new(&cluster.deployment, cluster.sets.iter().cloned().map(Arc::new).collect()),
    );
    assert!(matches!(first.as_slice(), [Action::Resize { from: 8, to: 6, .. }]), "{first:?}");
}

#[test]
fn a_deployment_that_is_being_deleted_is_left_alone() {
    let mut cluster = running(2, 1, 0);
    cluster.set_image("b");
    cluster.deployment.metadata.deletion_timestamp = cluster.deployment.metadata.creation_timestamp.clone();
    assert!(cluster.plan().actions.is_empty());
}
