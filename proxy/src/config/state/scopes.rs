//! Scopes of routes that come from elsewhere (SRDS).

use std::collections::{BTreeSet, HashMap};

use weft_xds::{ResourceUpdate, pb::envoy::config::route::v3::ScopedRouteConfiguration};

use super::State;
use crate::config::{ConfigError, Path, scoped_routes, unsupported};

impl State {
    /// Takes over one scope of an update, of which these are still to come or to go.
    pub(super) fn set_scope(
        &mut self,
        path: &Path,
        message: ScopedRouteConfiguration,
        changing: &mut BTreeSet<String>,
    ) -> Result<(), ConfigError> {
        changing.remove(&message.name);
        unsupported!(path, message; route_configuration);
        let key = scoped_routes::key(path, &message)?;
        scoped_routes::named(path, &message)?;
        // One that leaves its key to another in the same update is no conflict.
        let same = self.scopes.values().find(|other| {
            other.name != message.name
                && !changing.contains(&other.name)
                && scoped_routes::key(path, other).is_ok_and(|other| other == key)
        });
        if let Some(same) = same {
            return Err(path.field("key").error(format!("is the same as that of {:?}", same.name)));
        }
        self.scopes.insert(message.name.clone(), message);
        Ok(())
    }

    /// Names of the scopes that an update changes or removes.
    pub(super) fn changing(update: &ResourceUpdate) -> BTreeSet<String> {
        let changed = update.upserts.iter().map(|resource| resource.name.clone());
        changed.chain(update.removed.iter().cloned()).collect()
    }

    /// Puts in place what scopes there are.
    pub(super) fn place_scopes(&mut self) {
        let path = Path::default();
        for (table, source) in self.names.scopes.live() {
            let mut scopes = HashMap::new();
            for scope in self.scopes.values() {
                if let Ok(key) = scoped_routes::key(&path, scope) {
                    let slot = self.names.route_slot(&source, &scope.route_configuration_name);
                    scopes.entry(key).or_insert(slot);
                }
            }
            table.set(scopes);
        }
        self.settle();
    }

    /// Keys of the route tables that scopes refer to.
    pub(super) fn scope_routes(&self) -> BTreeSet<String> {
        let mut keys = BTreeSet::new();
        for (_, source) in self.names.scopes.live() {
            keys.extend(self.scopes.values().map(|scope| source.key(&scope.route_configuration_name)));
        }
        keys
    }

    /// Keys of all route tables that are asked for.
    pub(super) fn asked_routes(&self) -> BTreeSet<String> {
        let mut keys = self.scope_routes();
        keys.extend(self.listeners.values().flat_map(|entry| entry.routes.iter().cloned()));
        keys
    }
}
