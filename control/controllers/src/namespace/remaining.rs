//! What keeps a namespace from going.

use std::collections::BTreeMap;

use k8s_openapi::{api::core::v1::NamespaceCondition, jiff::Timestamp};

use super::condition;

/// Objects that are still there, by kind and by who holds them up.
#[derive(Debug, Default)]
pub(super) struct Remaining {
    kinds: BTreeMap<String, usize>,
    finalizers: BTreeMap<String, usize>,
}

// === impl Remaining ===

impl Remaining {
    /// Counts an object of this kind with these finalizers.
    pub(super) fn add(&mut self, kind: &str, finalizers: &[String]) {
        *self.kinds.entry(kind.to_owned()).or_default() += 1;
        for finalizer in finalizers {
            *self.finalizers.entry(finalizer.clone()).or_default() += 1;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.kinds.is_empty()
    }

    /// The conditions that tell of it, in Kubernetes' words; times of those that say the same as before are kept.
    pub(super) fn conditions(&self, old: &[NamespaceCondition], now: Timestamp) -> Vec<NamespaceCondition> {
        let joined = |counts: &BTreeMap<String, usize>, what: &str| {
            let parts: Vec<_> = counts
                .iter()
                .map(|(key, count)| format!("{key} {what} {count} resource instances"))
                .collect();
            parts.join(", ")
        };
        let content = if self.kinds.is_empty() {
            ("ContentRemoved", "All content successfully removed".to_owned())
        } else {
            ("SomeResourcesRemain", format!("Some resources are remaining: {}", joined(&self.kinds, "has")))
        };
        let finalizers = if self.finalizers.is_empty() {
            ("ContentHasNoFinalizers", "All content-preserving finalizers finished".to_owned())
        } else {
            let held = joined(&self.finalizers, "in");
            (
                "SomeFinalizersRemain",
                format!("Some content in the namespace has finalizers remaining: {held}"),
            )
        };
        let all_read = "All resources successfully discovered".to_owned();
        let all_deleted = "All content successfully deleted, may be waiting on finalization".to_owned();
        let mut conditions = vec![
            condition("NamespaceDeletionDiscoveryFailure", false, "ResourcesDiscovered", all_read, now),
            condition("NamespaceDeletionContentFailure", false, "ContentDeleted", all_deleted, now),
            condition("NamespaceContentRemaining", !self.kinds.is_empty(), content.0, content.1, now),
            condition(
                "NamespaceFinalizersRemaining",
                !self.finalizers.is_empty(),
                finalizers.0,
                finalizers.1,
                now,
            ),
        ];
        for condition in &mut conditions {
            let known = old.iter().find(|old| old.type_ == condition.type_ && old.status == condition.status);
            if let Some(known) = known {
                condition.last_transition_time = known.last_transition_time.clone();
            }
        }
        conditions
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::at;

    #[test]
    fn what_remains_is_counted_by_kind_and_finalizer() {
        let mut remaining = Remaining::default();
        remaining.add("pods", &[]);
        remaining.add("pods", &["example.com/hold".to_owned()]);
        let conditions = remaining.conditions(&[], at(1));
        let message = |type_: &str| {
            let found = conditions.iter().find(|condition| condition.type_ == type_);
            found.and_then(|condition| condition.message.clone()).unwrap_or_default()
        };
        assert_eq!(
            message("NamespaceContentRemaining"),
            "Some resources are remaining: pods has 2 resource instances"
        );
        assert_eq!(
            message("NamespaceFinalizersRemaining"),
            "Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances"
        );
        assert_eq!(remaining.conditions(&conditions, at(2)), conditions, "nothing changed, so no time does");
    }
}
