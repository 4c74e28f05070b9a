//! Resources that go by other names than their own (`aliases` of `envoy.service.discovery.v3.Resource`).
//!
//! Who asks by another name is given the resource under that name, as it would be under its own: what waits for the name
//! has it, and what happens to the resource happens to all its names. Clusters, listeners and virtual hosts say
//! themselves who they are; they are handed out once, with the names that they were asked for by.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::{Asked, Held, HeldResource};
use crate::resource::{Rejected, Resource, ResourceType};

/// Which resource was asked for by which other name.
#[derive(Debug, Default)]
pub(super) struct Aliases {
    names: BTreeMap<String, String>,
}

/// Leaves of each resource's aliases those that it was asked for by; a name is of one resource only.
pub(super) fn keep_asked(resources: &mut [Resource], asked: &Asked) {
    let mut taken: HashSet<String> = resources.iter().map(|resource| resource.name.clone()).collect();
    for resource in resources {
        resource.aliases.retain(|alias| asked.names.contains(alias) && taken.insert(alias.clone()));
    }
}

/// The resource under each name that it was asked for by.
pub(super) fn hand_out(type_: ResourceType, asked: &Asked, mut resource: Resource) -> Vec<Resource> {
    if type_.names_itself() || resource.aliases.is_empty() {
        return vec![resource];
    }
    let aliases = std::mem::take(&mut resource.aliases);
    let own = asked.covers(&resource.name).then(|| resource.name.clone());
    let named = |name| Resource { name, ..resource.clone() };
    own.into_iter().chain(aliases).map(named).collect()
}

// === impl Aliases ===

impl Aliases {
    /// A resource that was accepted goes by these names.
    pub(super) fn add(&mut self, name: &str, aliases: Vec<String>) {
        self.names.extend(aliases.into_iter().map(|alias| (alias, name.to_owned())));
    }

    /// The name is gone, and with it all aliases if it is a resource's own.
    pub(super) fn remove(&mut self, name: &str) {
        if !self.names.is_empty() {
            self.names.retain(|alias, of| alias != name && of != name);
        }
    }

    /// The names that a resource was asked for by beside its own.
    pub(super) fn of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a String> {
        self.names.iter().filter(move |(_, of)| *of == name).map(|(alias, _)| alias)
    }

    /// Forgets what is not asked for any more, with the resources that were asked for by nothing else.
    pub(super) fn retain(&mut self, resources: &mut BTreeMap<String, HeldResource>, asked: &Asked) {
        self.names.retain(|alias, _| asked.names.contains(alias));
        let aliased: BTreeSet<&String> = self.names.values().collect();
        resources.retain(|name, _| asked.covers(name) || aliased.contains(name));
        self.names.retain(|_, name| resources.contains_key(name));
    }
}

// === impl Held ===

impl Held {
    /// Each of these names with those that the resource was asked for by beside it.
    pub(super) fn with_aliases(&self, names: Vec<String>) -> Vec<String> {
        let all = |name: String| self.aliases.of(&name).cloned().chain([name.clone()]).collect::<Vec<_>>();
        names.into_iter().flat_map(all).collect()
    }
}

/// Has refusals be of the resource, whatever the name under which it was handed out.
pub(super) fn of_resources(refused: &mut Vec<Rejected>, upserts: &[(String, Vec<String>)]) {
    for rejected in refused.iter_mut() {
        let owner = upserts.iter().find(|(_, aliases)| aliases.contains(&rejected.name));
        if let Some((name, _)) = owner {
            rejected.name.clone_from(name);
        }
    }
    let mut seen = HashSet::new();
    refused.retain(|rejected| rejected.name.is_empty() || seen.insert(rejected.name.clone()));
}
