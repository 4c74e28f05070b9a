//! Which ReplicaSet is which revision of a Deployment, and what it carries to say so.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec},
        core::v1::PodTemplateSpec,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::numbers;
use crate::key::{controller_reference, name, uid};

/// Number of the revision, on Deployments and ReplicaSets; kubectl's `rollout history` and `undo` read it.
pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// Wanted pods of the Deployment when the ReplicaSet was last resized; a difference means that somebody scaled.
pub(super) const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
/// Wanted pods and surge at that time.
pub(super) const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";
/// Label that tells the pods of one revision from those of another.
pub(super) const TEMPLATE_HASH: &str = "pod-template-hash";

/// Annotations of the Deployment that are not passed on to its ReplicaSets.
const KEPT: &[&str] = &[
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED_REPLICAS,
    MAX_REPLICAS,
    "deprecated.deployment.rollback.to",
];

/// Longest text of earlier revisions that a ReplicaSet carries.
const MAX_HISTORY: usize = 2000;

/// The ReplicaSets of a Deployment, told apart.
pub(super) struct Sets {
    /// The one with the Deployment's present template.
    pub(super) new: Option<Arc<ReplicaSet>>,
    /// All others.
    pub(super) old: Vec<Arc<ReplicaSet>>,
}

// === impl Sets ===

impl Sets {
    /// Finds the newest: of those with the present template the oldest, so that two with the same template (possible
    /// only by somebody's hand) do not take turns.
    pub(super) fn new(deployment: &Deployment, mut sets: Vec<Arc<ReplicaSet>>) -> Self {
        sets.sort_by(|a, b| by_age(a, b));
        let template = deployment.spec.as_ref().map(|spec| &spec.template);
        let present = sets.iter().position(|set| {
            let own = set.spec.as_ref().and_then(|spec| spec.template.as_ref());
            own.zip(template).is_some_and(|(own, wanted)| same_template(own, wanted))
        });
        let new = present.map(|index| sets.remove(index));
        Self { new, old: sets }
    }

    /// Every set, the newest last.
    pub(super) fn all(&self) -> impl Iterator<Item = &ReplicaSet> {
        self.old.iter().chain(&self.new).map(|set| &**set)
    }

    /// The revision that the newest set has or must get: one more than all others.
    pub(super) fn new_revision(&self) -> i64 {
        self.old.iter().map(|set| revision(set)).max().unwrap_or(0) + 1
    }
}

/// Older sets first.
pub(super) fn by_age(a: &ReplicaSet, b: &ReplicaSet) -> std::cmp::Ordering {
    let key = |set: &ReplicaSet| {
        (set.metadata.creation_timestamp.as_ref().map(|time| time.0), set.metadata.name.clone())
    };
    key(a).cmp(&key(b))
}

/// The revision that a set carries; 0 if none.
pub(super) fn revision(set: &ReplicaSet) -> i64 {
    annotation(&set.metadata, REVISION).and_then(|revision| revision.parse().ok()).unwrap_or(0)
}

/// The value of an annotation.
pub(super) fn annotation<'a>(meta: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(key).map(String::as_str)
}

/// Whether two templates make the same pods. The hash label, which sets add, does not count.
fn same_template(a: &PodTemplateSpec, b: &PodTemplateSpec) -> bool {
    fn without_hash(template: &PodTemplateSpec) -> PodTemplateSpec {
        let mut template = template.clone();
        let meta = template.metadata.get_or_insert_default();
        if let Some(labels) = &mut meta.labels {
            labels.remove(TEMPLATE_HASH);
        }
        // Absent and empty are the same.
        meta.labels = meta.labels.take().filter(|labels| !labels.is_empty());
        meta.annotations = meta.annotations.take().filter(|annotations| !annotations.is_empty());
        meta.creation_timestamp = None;
        template
    }
    without_hash(a) == without_hash(b)
}

/// A new set for the present template, with no size yet.
pub(super) fn make(deployment: &Deployment, collisions: i32, revision: i64) -> ReplicaSet {
    let spec = deployment.spec.clone().unwrap_or_default();
    let mut template = spec.template;
    let hash = template_hash(&template, collisions);
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.insert(TEMPLATE_HASH.to_owned(), hash.clone());
    let labels = labels.clone();
    let mut selector = spec.selector;
    selector.match_labels.get_or_insert_default().insert(TEMPLATE_HASH.to_owned(), hash.clone());
    let mut set = ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", name(&deployment.metadata))),
            namespace: deployment.metadata.namespace.clone(),
            labels: Some(labels),
            owner_references: Some(vec![controller_reference(deployment)]),
            ..Default::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(0),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(template),
        }),
        status: None,
    };
    annotate(deployment, &mut set, revision);
    set_size(deployment, &mut set, 0);
    set
}

/// Whether an existing set is one that `make` would have made for this Deployment: then creation was only repeated.
pub(super) fn is_ours(existing: &ReplicaSet, deployment: &Deployment) -> bool {
    let owner = crate::key::controller_of(&existing.metadata);
    let template = existing.spec.as_ref().and_then(|spec| spec.template.as_ref());
    let wanted = deployment.spec.as_ref().map(|spec| &spec.template);
    owner.is_some_and(|owner| owner.uid == uid(&deployment.metadata))
        && template.zip(wanted).is_some_and(|(template, wanted)| same_template(template, wanted))
}

/// Brings the annotations of the newest set up to date; says whether anything changed.
pub(super) fn annotate(deployment: &Deployment, set: &mut ReplicaSet, new_revision: i64) -> bool {
    let before = set.metadata.annotations.clone().unwrap_or_default();
    let mut annotations = before.clone();
    for (key, value) in deployment.metadata.annotations.iter().flatten() {
        if !KEPT.contains(&key.as_str()) {
            annotations.insert(key.clone(), value.clone());
        }
    }
    let old_revision = revision(set);
    if old_revision < new_revision {
        annotations.insert(REVISION.to_owned(), new_revision.to_string());
        if old_revision > 0 {
            remember(&mut annotations, old_revision);
        }
    }
    let changed = annotations != before;
    set.metadata.annotations = Some(annotations);
    changed
}

/// Gives a set its size, and with it the numbers that later tell whether the Deployment was scaled; says whether anything
/// changed.
pub(super) fn set_size(deployment: &Deployment, set: &mut ReplicaSet, size: i32) -> bool {
    let wanted = numbers::replicas(deployment);
    let most = wanted.saturating_add(numbers::max_surge(deployment));
    let annotations = set.metadata.annotations.get_or_insert_default();
    let mut changed = false;
    for (key, value) in [(DESIRED_REPLICAS, wanted), (MAX_REPLICAS, most)] {
        let value = value.to_string();
        changed |= annotations.insert(key.to_owned(), value.clone()) != Some(value);
    }
    let spec = set.spec.get_or_insert_default();
    changed |= spec.replicas != Some(size);
    spec.replicas = Some(size);
    changed
}

fn remember(annotations: &mut BTreeMap<String, String>, old_revision: i64) {
    let history = annotations.entry(REVISION_HISTORY.to_owned()).or_default();
    let mut revisions: Vec<_> =
        history.split(',').filter(|revision| !revision.is_empty()).map(str::to_owned).collect();
    revisions.push(old_revision.to_string());
    while revisions.iter().map(|revision| revision.len() + 1).sum::<usize>() > MAX_HISTORY {
        revisions.remove(0);
    }
    *history = revisions.join(",");
}

/// A short hash of the template. It only names: sets are found by comparing templates, so it may change between versions.
fn template_hash(template: &PodTemplateSpec, collisions: i32) -> String {
    // Letters and digits that make no words, as in names that the API server completes.
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let text = serde_json::to_string(template).unwrap_or_default();
    let mut hash: u32 = 0x811c_9dc5;
    for byte in text.bytes().chain(collisions.to_le_bytes().into_iter().filter(|_| collisions > 0)) {
        hash = (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    }
    hash.to_string().bytes().map(|digit| char::from(ALPHABET[usize::from(digit) % ALPHABET.len()])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{deployment, replica_set};

    #[test]
    fn the_set_with_the_present_template_is_the_new_one() {
        let sets = vec![Arc::new(replica_set("web-1", "a", 1, 1)), Arc::new(replica_set("web-2", "b", 1, 1))];
        let sets = Sets::new(&deployment(1, "b"), sets);
        assert_eq!(sets.new.as_ref().and_then(|set| set.metadata.name.as_deref()), Some("web-2"));
        assert_eq!(sets.old.len(), 1);
    }

    #[test]
    fn a_made_set_is_found_again() {
        let deployment = deployment(1, "a");
        let set = make(&deployment, 0, 1);
        assert!(is_ours(&set, &deployment));
        assert!(Sets::new(&deployment, vec![Arc::new(set)]).new.is_some());
        let (first, second) = (make(&deployment, 0, 1), make(&deployment, 1, 1));
        assert_ne!(first.metadata.name, second.metadata.name, "a collision gets another name");
    }

    #[test]
    fn a_rollback_gives_an_old_set_a_new_revision_and_remembers_the_old_one() {
        let deployment = deployment(1, "a");
        let mut set = make(&deployment, 0, 1);
        assert!(annotate(&deployment, &mut set, 3));
        assert_eq!(annotation(&set.metadata, REVISION), Some("3"));
        assert_eq!(annotation(&set.metadata, REVISION_HISTORY), Some("1"));
        assert!(!annotate(&deployment, &mut set, 3));
    }

    #[test]
    fn annotations_are_passed_on_but_for_those_that_belong_to_the_deployment() {
        let mut deployment = deployment(1, "a");
        let own = [("kubernetes.io/change-cause", "why"), (KEPT[0], "{}")];
        deployment.metadata.annotations =
            Some(own.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
        let set = make(&deployment, 0, 1);
        assert_eq!(annotation(&set.metadata, "kubernetes.io/change-cause"), Some("why"));
        assert_eq!(annotation(&set.metadata, KEPT[0]), None);
        assert_eq!(annotation(&set.metadata, MAX_REPLICAS), Some("2"));
    }
}
