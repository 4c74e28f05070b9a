//! What is known of a resource beside its message: where it came from, and what became of its last update.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Value, json};
use weft_xds::ResourceType;

/// By type and name.
#[derive(Debug, Default)]
pub(crate) struct Ledger(BTreeMap<(ResourceType, String), Known>);

/// One resource.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Known {
    /// The server's version of what is in force.
    pub(crate) version: String,
    /// When that came; `None` if nothing of it ever was in force.
    pub(crate) updated: Option<Timestamp>,
    /// The last update, if it was rejected.
    pub(crate) failure: Option<Failure>,
}

/// A rejected update.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Failure {
    at: Timestamp,
    version: String,
    details: String,
}

// === impl Ledger ===

impl Ledger {
    pub(crate) fn accepted(&mut self, type_: ResourceType, name: &str, version: &str) {
        let known = self.0.entry((type_, name.to_owned())).or_default();
        *known = Known { version: version.to_owned(), updated: Some(Timestamp::now()), failure: None };
    }

    pub(crate) fn rejected(&mut self, type_: ResourceType, name: &str, version: &str, details: String) {
        let failure = Failure { at: Timestamp::now(), version: version.to_owned(), details };
        self.0.entry((type_, name.to_owned())).or_default().failure = Some(failure);
    }

    pub(crate) fn removed(&mut self, type_: ResourceType, name: &str) {
        self.0.remove(&(type_, name.to_owned()));
    }

    pub(crate) fn get(&self, type_: ResourceType, name: &str) -> Option<&Known> {
        self.0.get(&(type_, name.to_owned()))
    }

    /// Every resource of a type whose last update was rejected.
    pub(crate) fn failures(&self, type_: ResourceType) -> impl Iterator<Item = (&str, &Failure)> {
        self.0.iter().filter_map(move |((other, name), known)| {
            Some((name.as_str(), known.failure.as_ref().filter(|_| *other == type_)?))
        })
    }
}

// === impl Failure ===

impl Failure {
    /// As Envoy's `UpdateFailureState`.
    pub(crate) fn as_json(&self) -> Value {
        json!({"details": self.details, "version_info": self.version, "last_update_attempt": self.at.to_string()})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rejected_update_leaves_what_is_in_force_and_the_next_good_one_clears_it() {
        let mut ledger = Ledger::default();
        ledger.accepted(ResourceType::Cluster, "up", "1");
        ledger.rejected(ResourceType::Cluster, "up", "2", "name: is bad".to_owned());
        let known = ledger.get(ResourceType::Cluster, "up").expect("known");
        assert_eq!((known.version.as_str(), known.failure.is_some()), ("1", true));
        assert_eq!(ledger.failures(ResourceType::Cluster).count(), 1);
        assert_eq!(ledger.failures(ResourceType::Listener).count(), 0);
        ledger.accepted(ResourceType::Cluster, "up", "3");
        assert_eq!(ledger.failures(ResourceType::Cluster).count(), 0);
    }
}
