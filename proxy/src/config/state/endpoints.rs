//! Sets of endpoints, and the clusters that use them.

use weft_xds::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;

use super::State;
use crate::config::{ConfigError, Path, endpoint};

impl State {
    pub(super) fn set_endpoints(
        &mut self,
        path: &Path,
        key: &str,
        message: ClusterLoadAssignment,
    ) -> Result<(), ConfigError> {
        // Whoever uses it, it must be one that can be used.
        endpoint::named(path, &message)?;
        for entry in self.all_clusters() {
            if entry.cluster.discovery.key().as_deref() == Some(key) {
                let set = endpoint::compile(path, &message, &entry.cluster.endpoints.load())?;
                entry.cluster.replace_endpoints(set);
            }
        }
        self.endpoints.insert(key.to_owned(), message);
        Ok(())
    }

    /// As in Envoy, a cluster whose endpoints do not exist has none and waits no more, also one that is to follow another;
    /// what it had, it keeps.
    pub(super) fn remove_endpoints(&mut self, key: &str) {
        if !self.asked_endpoints().contains(key) {
            self.endpoints.remove(key);
        }
        for entry in self.clusters.values_mut().chain(self.next_clusters.values_mut()) {
            if !entry.cluster.is_known() && entry.cluster.discovery.key().as_deref() == Some(key) {
                entry.warming.give_up();
            }
        }
    }
}
