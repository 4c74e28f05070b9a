//! Deployments, ReplicaSets and Jobs.

use serde_json::Value;

use super::pod::condition_is_true;
use super::{Printer, human_duration, or_none, timestamp};
use crate::access::{int, int_at, is_absent, items_at, text};
use crate::selector::LabelSelector;

impl Printer<'_> {
    pub(super) fn deployment(&self) -> Vec<Value> {
        let count = |field: &str| int_at(self.object, &format!("/status/{field}")).unwrap_or(0);
        let desired = int_at(self.object, "/spec/replicas").unwrap_or(0);
        let mut row = vec![
            self.name(),
            format!("{}/{desired}", count("readyReplicas")).into(),
            count("updatedReplicas").into(),
            count("availableReplicas").into(),
            self.age(),
        ];
        row.extend(self.workload_details());
        row
    }

    pub(super) fn replica_set(&self) -> Vec<Value> {
        let count = |pointer: &str| Value::from(int_at(self.object, pointer).unwrap_or(0));
        let mut row = vec![
            self.name(),
            count("/spec/replicas"),
            count("/status/replicas"),
            count("/status/readyReplicas"),
            self.age(),
        ];
        row.extend(self.workload_details());
        row
    }

    pub(super) fn job(&self) -> Vec<Value> {
        let spec = self.object.get("spec").unwrap_or(&Value::Null);
        let succeeded = int_at(self.object, "/status/succeeded").unwrap_or(0);
        let completions = match (int(spec, "completions"), int(spec, "parallelism").unwrap_or(0)) {
            (Some(completions), _) => format!("{succeeded}/{completions}"),
            (None, parallelism) if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
            (None, _) => format!("{succeeded}/1"),
        };
        let mut row =
            vec![self.name(), self.job_status().into(), completions.into(), self.job_duration().into()];
        row.push(self.age());
        row.extend(self.workload_details());
        row
    }

    fn job_status(&self) -> &'static str {
        let terminating =
            self.object.get("metadata").is_some_and(|meta| !is_absent(meta, "deletionTimestamp"));
        let is = |condition| condition_is_true(self.object, condition);
        if is("Complete") {
            "Complete"
        } else if is("Failed") {
            "Failed"
        } else if terminating {
            "Terminating"
        } else if is("Suspended") {
            "Suspended"
        } else if is("FailureTarget") {
            "FailureTarget"
        } else if is("SuccessCriteriaMet") {
            "SuccessCriteriaMet"
        } else {
            "Running"
        }
    }

    fn job_duration(&self) -> String {
        let Some(start) = timestamp(self.object.pointer("/status/startTime")) else { return String::new() };
        let end = timestamp(self.object.pointer("/status/completionTime")).unwrap_or(self.now);
        human_duration(end.duration_since(start))
    }

    /// The columns CONTAINERS, IMAGES and SELECTOR.
    fn workload_details(&self) -> [Value; 3] {
        let containers = items_at(self.object, "/spec/template/spec/containers");
        let join = |field: &str| containers.iter().map(|c| text(c, field)).collect::<Vec<_>>().join(",");
        let selector = self.object.pointer("/spec/selector").map(LabelSelector::from_object);
        let selector = match selector {
            Some(Ok(selector)) => selector.to_string(),
            Some(Err(_)) => "<error>".to_owned(),
            None => String::new(),
        };
        [join("name").into(), join("image").into(), or_none(&selector)]
    }
}
