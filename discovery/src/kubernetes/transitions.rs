//! When pods last became ready, stopped being so, or began to terminate: what causes a change of endpoints.
//!
//! What happens while the pods are watched happened just now, when its event is read. For what happened before, there is
//! the time that the pod itself tells, in whole seconds.

use std::{collections::HashMap, time::SystemTime};

use k8s_openapi::api::core::v1::Pod as KubePod;
use kube::runtime::watcher;

use super::convert;
use crate::model::PodId;

/// The part of a pod's life that decides whether it gets requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Phase {
    pub(super) ready: bool,
    pub(super) terminating: bool,
}

/// What an event tells of a pod.
#[derive(Debug)]
pub(super) struct Seen {
    phase: Phase,
    /// When the phase began.
    at: SystemTime,
}

/// The phases of all pods, and when each began.
#[derive(Debug, Default)]
pub(super) struct Transitions(HashMap<PodId, (Phase, SystemTime)>);

/// What the event tells; `now` is when it was read.
pub(super) fn seen(event: &watcher::Event<KubePod>, now: SystemTime) -> Option<(PodId, Option<Seen>)> {
    match event {
        watcher::Event::Apply(pod) => {
            Some((convert::pod_id(pod)?, Some(Seen { phase: Phase::of(pod), at: now })))
        }
        watcher::Event::InitApply(pod) => {
            let phase = Phase::of(pod);
            Some((
                convert::pod_id(pod)?,
                Some(Seen { phase, at: phase.told_by(pod).unwrap_or(now).min(now) }),
            ))
        }
        watcher::Event::Delete(pod) => Some((convert::pod_id(pod)?, None)),
        watcher::Event::Init | watcher::Event::InitDone => None,
    }
}

// === impl Transitions ===

impl Transitions {
    /// Takes note of what was seen of a pod; nothing is left of one that is gone.
    pub(super) fn see(&mut self, id: PodId, seen: Option<Seen>) {
        let Some(Seen { phase, at }) = seen else {
            self.0.remove(&id);
            return;
        };
        // Later events of the same phase, and lists that repeat it, say nothing new.
        if self.0.get(&id).is_none_or(|(known, _)| *known != phase) {
            self.0.insert(id, (phase, at));
        }
    }

    /// When the phase of a pod began.
    pub(super) fn of(&self, id: &PodId) -> Option<SystemTime> {
        self.0.get(id).map(|(_, at)| *at)
    }
}

// === impl Phase ===

impl Phase {
    pub(super) fn of(pod: &KubePod) -> Self {
        Self {
            ready: ready_condition(pod).is_some_and(|condition| condition.status == "True"),
            terminating: pod.metadata.deletion_timestamp.is_some(),
        }
    }

    /// When it began, as the pod tells. When a deletion was asked for is not told, only when it is to be over.
    fn told_by(self, pod: &KubePod) -> Option<SystemTime> {
        let condition = ready_condition(pod)?;
        condition.last_transition_time.as_ref().map(|time| time.0.into()).filter(|_| !self.terminating)
    }
}

fn ready_condition(pod: &KubePod) -> Option<&k8s_openapi::api::core::v1::PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == "Ready")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    fn pod(ready: &str, deleted: bool) -> KubePod {
        serde_json::from_value(json!({
            "metadata": { "namespace": "default", "name": "web-1",
                          "deletionTimestamp": deleted.then_some("2026-01-01T00:01:00Z") },
            "spec": { "containers": [] },
            "status": { "conditions": [
                { "type": "Ready", "status": ready, "lastTransitionTime": "2026-01-01T00:00:00Z" }] },
        }))
        .unwrap()
    }

    #[test]
    fn what_is_watched_happens_now_and_what_was_before_is_told() {
        // 2026-01-01T00:00:00Z
        let told = SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_225_600);
        let at = |seconds| told + Duration::from_secs(seconds);
        let mut transitions = Transitions::default();
        let mut see = |event, now| {
            let (id, seen) = seen(&event, now).expect("a pod");
            transitions.see(id.clone(), seen);
            transitions.of(&id)
        };
        use watcher::Event::{Apply, Delete, InitApply};
        assert_eq!(see(InitApply(pod("True", false)), at(100)), Some(told));
        assert_eq!(see(Apply(pod("True", false)), at(110)), Some(told), "nothing new");
        assert_eq!(see(Apply(pod("False", false)), at(120)), Some(at(120)));
        assert_eq!(see(InitApply(pod("False", false)), at(130)), Some(at(120)), "a list repeats it");
        assert_eq!(see(Apply(pod("False", true)), at(140)), Some(at(140)));
        assert_eq!(see(Delete(pod("False", true)), at(150)), None);
        assert_eq!(see(InitApply(pod("True", true)), at(160)), Some(at(160)), "the start of it is not told");
    }
}
