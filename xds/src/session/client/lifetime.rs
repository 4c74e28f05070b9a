//! How long resources live.

use std::{
    collections::HashMap,
    time::{Duration, Instant, SystemTime},
};

use super::{Held, TYPES};
use crate::{
    pb::envoy::service::discovery::v3::Resource as Wrapped,
    resource::{Resource, ResourceType, ResourceUpdate},
};

/// What a server says of one resource.
#[derive(Debug)]
pub(super) struct Item {
    name: String,
    version: String,
    /// From now on; `None` for as long as nothing else is said.
    ttl: Option<Duration>,
    /// `None` for a mere sign of life.
    pub(super) resource: Option<Resource>,
}

/// When each resource of a response expires, by name.
#[derive(Debug, Default)]
pub(super) struct Lifetimes {
    expiries: HashMap<String, Option<Instant>>,
}

// === impl Item ===

impl Item {
    /// A resource that lives until more is said.
    pub(super) fn lasting(resource: Resource) -> Self {
        let (name, version) = (resource.name.clone(), resource.version.clone());
        Self { name, version, ttl: None, resource: Some(resource) }
    }

    /// With the time at which its change was caused.
    pub(super) fn caused_at(mut self, caused_at: Option<SystemTime>) -> Self {
        if let Some(resource) = &mut self.resource {
            resource.caused_at = caused_at;
        }
        self
    }

    /// The name of what is but said to be alive.
    pub(super) fn sign_of_life(&self) -> Option<&str> {
        self.resource.is_none().then_some(self.name.as_str())
    }
}

impl From<Wrapped> for Item {
    fn from(wrapped: Wrapped) -> Self {
        let Wrapped { name, aliases, version, ttl, resource, .. } = wrapped;
        let ttl = ttl.map(|ttl| {
            // What is negative is over.
            let (seconds, nanos) = (u64::try_from(ttl.seconds), u32::try_from(ttl.nanos));
            seconds.ok().zip(nanos.ok()).map_or(Duration::ZERO, |(seconds, nanos)| {
                Duration::from_secs(seconds).saturating_add(Duration::from_nanos(nanos.into()))
            })
        });
        let resource = resource.map(|body| Resource {
            name: name.clone(),
            aliases,
            version: version.clone(),
            body,
            caused_at: None,
        });
        Self { name, version, ttl, resource }
    }
}

// === impl Lifetimes ===

impl Lifetimes {
    /// Has what a response says of what is held take effect, and gives its resources. `version` is the one of the response,
    /// which is that of its signs of life where they name none.
    ///
    /// A sign of life for another version than the held one is none.
    pub(super) fn read(
        held: &mut Held,
        items: Vec<Item>,
        version: &str,
        now: Instant,
    ) -> (Self, Vec<Resource>) {
        let mut lifetimes = Self::default();
        let mut resources = Vec::new();
        for item in items {
            // What is too far away is never.
            let expires = item.ttl.and_then(|ttl| now.checked_add(ttl));
            held.mortal |= expires.is_some();
            if let Some(resource) = item.resource {
                lifetimes.expiries.insert(item.name, expires);
                resources.push(resource);
            } else if let Some(alive) = held.resources.get_mut(&item.name)
                && (alive.version == item.version || (item.version == version && held.version == version))
            {
                alive.expires = expires;
            }
        }
        (lifetimes, resources)
    }

    pub(super) fn of(&self, name: &str) -> Option<Instant> {
        self.expiries.get(name).copied().flatten()
    }
}

/// When the next resource of any type expires.
pub(super) fn deadline(held: &[Held; TYPES]) -> Option<Instant> {
    let mortal = held.iter().filter(|held| held.mortal).flat_map(|held| held.resources.values());
    mortal.filter_map(|held| held.expires).min()
}

/// Takes out what has expired.
pub(super) fn expire(held: &mut [Held; TYPES], now: Instant) -> Vec<ResourceUpdate> {
    let mut updates = Vec::new();
    for type_ in ResourceType::ALL {
        let held = &mut held[type_.index()];
        if !held.mortal {
            continue;
        }
        let over =
            held.resources.extract_if(.., |_, held| held.expires.is_some_and(|expires| expires <= now));
        let removed: Vec<_> = over.map(|(name, _)| name).collect();
        let removed = held.with_aliases(removed);
        removed.iter().for_each(|name| held.aliases.remove(name));
        if !removed.is_empty() {
            updates.push(ResourceUpdate {
                type_,
                version: held.version.clone(),
                upserts: Vec::new(),
                removed,
            });
        }
    }
    updates
}
