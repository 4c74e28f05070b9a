//! Route tables: what is in force, and what follows it when the clusters that it leads to are warm.

use std::{collections::BTreeSet, sync::Arc};

use weft_xds::pb::envoy::config::route::v3::RouteConfiguration;

use super::{State, clusters::ClusterEntry};
use crate::{
    config::{ConfigError, Path},
    route::table::RouteTable,
};

/// A table that was accepted. The one before it serves while clusters that this one leads to have no endpoints yet: to
/// switch at once would be to answer 503 until they come, as Envoy does.
pub(super) struct NextTable {
    pub(super) message: RouteConfiguration,
    pub(super) table: RouteTable,
    pub(super) clusters: BTreeSet<String>,
}

// === impl State ===

impl State {
    pub(super) fn set_routes(
        &mut self,
        path: &Path,
        key: &str,
        message: RouteConfiguration,
    ) -> Result<(), ConfigError> {
        if self.last_routes(key) == Some(&message) {
            return Ok(());
        }
        self.names.asked_clusters.clear();
        let table = self.compile_routes(path, &message)?;
        let clusters = std::mem::take(&mut self.names.asked_clusters);
        self.next_routes.insert(key.to_owned(), NextTable { message, table, clusters });
        self.settle();
        Ok(())
    }

    /// Nobody refers to it any more; until then the last good one serves.
    pub(super) fn remove_routes(&mut self, key: &str) {
        if !self.asked_routes().contains(key) {
            self.routes.remove(key);
            self.next_routes.remove(key);
        }
    }

    /// Puts those in place that lead to no cluster which is about to be warm, and those that are the first of their name:
    /// who asks for such a table waits itself.
    pub(super) fn place_next_routes(&mut self) {
        let (routes, clusters) = (&self.routes, &self.clusters);
        let is_awaited = |name: &String| clusters.get(name).is_some_and(ClusterEntry::is_awaited);
        let ready = self
            .next_routes
            .extract_if(.., |key, next| !routes.contains_key(key) || !next.clusters.iter().any(is_awaited));
        for (key, next) in ready.collect::<Vec<_>>() {
            self.names.known_route(key.clone()).set(Some(Arc::new(next.table)));
            self.route_clusters.insert(key.clone(), next.clusters);
            self.routes.insert(key, next.message);
        }
    }

    /// The last that was accepted, in force or not yet.
    pub(super) fn last_routes(&self, key: &str) -> Option<&RouteConfiguration> {
        self.next_routes.get(key).map(|next| &next.message).or_else(|| self.routes.get(key))
    }
}
