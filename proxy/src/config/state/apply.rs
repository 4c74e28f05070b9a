//! Taking over what servers and files give, type by type.

use std::collections::BTreeSet;

use weft_xds::{Rejected, ResourceType, ResourceUpdate, any};

use super::State;
use crate::config::{ConfigError, Path, value};

impl State {
    /// Takes over a change from an xDS server.
    pub(crate) fn apply(&mut self, mut update: ResourceUpdate) -> Result<(), Vec<Rejected>> {
        let mut rejected = Vec::new();
        let type_ = update.type_;
        self.heard.insert(type_);
        let aliases: Vec<(String, String)> = update
            .upserts
            .iter_mut()
            .flat_map(|resource| {
                let aliases = std::mem::take(&mut resource.aliases);
                aliases.into_iter().map(|alias| (alias, resource.name.clone()))
            })
            .collect();
        let mut changing = match type_ {
            ResourceType::ScopedRouteConfiguration => Self::changing(&update),
            _ => BTreeSet::new(),
        };
        for resource in update.upserts {
            let path = Path::root(&type_.to_string()).field(&resource.name);
            let result = match type_ {
                ResourceType::Cluster => unpack(&path, any::unpack(&resource.body))
                    .and_then(|message| self.set_cluster(&path, message, false)),
                ResourceType::ClusterLoadAssignment => unpack(&path, any::unpack(&resource.body))
                    .and_then(|message| self.set_endpoints(&path, &resource.name, message)),
                ResourceType::Listener => unpack(&path, any::unpack(&resource.body))
                    .and_then(|message| self.set_listener(&path, message, false)),
                ResourceType::RouteConfiguration => unpack(&path, any::unpack(&resource.body))
                    .and_then(|message| self.set_routes(&path, &resource.name, message)),
                ResourceType::Secret => unpack(&path, any::unpack(&resource.body))
                    .and_then(|message| self.set_secret(&path, &resource.name, message)),
                ResourceType::Runtime => unpack(&path, any::unpack(&resource.body))
                    .and_then(|message| self.set_runtime(&path, &resource.name, message)),
                ResourceType::ExtensionConfig => unpack(&path, any::unpack(&resource.body))
                    .and_then(|message| self.set_extension(&path, &resource.name, message)),
                ResourceType::ScopedRouteConfiguration => unpack(&path, any::unpack(&resource.body))
                    .and_then(|message| self.set_scope(&path, message, &mut changing)),
                ResourceType::VirtualHost => unpack(&path, any::unpack(&resource.body))
                    .and_then(|message| self.set_virtual_host(&path, &resource.name, message, &mut changing)),
            };
            let version = if resource.version.is_empty() { &update.version } else { &resource.version };
            if let Err(error) = &result {
                self.ledger.rejected(type_, &resource.name, version, error.to_string());
            } else {
                self.ledger.accepted(type_, &resource.name, version);
            }
            if let Err(error) = result {
                tracing::warn!(type_ = %type_, resource = %resource.name, %error, "configuration rejected");
                rejected.push(Rejected { name: resource.name, reason: error.to_string() });
            }
        }
        for name in update.removed {
            match type_ {
                ResourceType::VirtualHost => self.remove_virtual_host(&name, &mut changing),
                ResourceType::Cluster => self.shared.wanted_clusters.absent(&name),
                ResourceType::Listener => self.on_demand.absent(&name),
                _ => {}
            }
            self.remove(type_, &name);
            self.ledger.removed(type_, &name);
        }
        match type_ {
            ResourceType::Cluster => self.names.list_clusters(),
            ResourceType::ScopedRouteConfiguration => self.place_scopes(),
            ResourceType::VirtualHost => self.place_virtual_hosts(&changing),
            _ => {}
        }
        for (alias, name) in aliases {
            if !rejected.iter().any(|rejected| rejected.name == name) {
                self.is_known_as(type_, &name, &alias);
            }
        }
        if self.is_waiting() {
            self.settle();
        }
        self.started |= self.are_all_warm();
        self.tell_of_clusters();
        self.names.forget_unused();
        self.shared.registry.forget_unused();
        self.forget_unasked();
        self.answer_asks();
        self.references.notify_one();
        self.servers_changed.notify_one();
        if rejected.is_empty() {
            self.updates.accepted(type_);
            self.versions.insert(type_.to_string(), update.version);
            Ok(())
        } else {
            self.updates.rejected(type_);
            self.settle();
            Err(rejected)
        }
    }

    fn remove(&mut self, type_: ResourceType, name: &str) {
        match type_ {
            ResourceType::Cluster => self.remove_cluster(name),
            ResourceType::Listener => self.remove_listener(name),
            // Whoever refers to these goes with its own type; until then the last good one serves.
            ResourceType::RouteConfiguration => self.remove_routes(name),
            ResourceType::ClusterLoadAssignment => self.remove_endpoints(name),
            ResourceType::Runtime => self.remove_runtime(name),
            ResourceType::ExtensionConfig => self.remove_extension(name),
            ResourceType::ScopedRouteConfiguration => {
                self.scopes.remove(name);
            }
            // Tables go with their virtual hosts elsewhere.
            ResourceType::Secret | ResourceType::VirtualHost => {}
        }
    }

    /// Who asked for something by this name has it, under its own.
    fn is_known_as(&mut self, type_: ResourceType, name: &str, alias: &str) {
        match type_ {
            ResourceType::Cluster => self.shared.wanted_clusters.found(alias),
            ResourceType::VirtualHost => self.names.demand.found(alias),
            ResourceType::Listener => {
                self.on_demand.found(alias, name);
                self.publish();
            }
            _ => {}
        }
    }
}

fn unpack<M>(path: &Path, result: Result<M, any::UnpackError>) -> Result<M, ConfigError> {
    value::unpacked(path, result)
}
