//! What a client asked for under names that are not those of resources.

use std::sync::Arc;

use super::{Told, TypeState};
use crate::{
    name::ResourceName,
    resource::ResourceType,
    session::{
        Name, TypeSnapshot, VersionedResource,
        server::{aliases::ByDomain, subscription::Subscription},
    },
};

impl TypeState {
    /// Finds what the client asked for under names that are not those of resources.
    pub(in crate::session::server) fn reach(&mut self, type_: ResourceType, current: &TypeSnapshot) {
        if self.subscription.as_ref().is_some_and(Subscription::has_structured) {
            self.reach_structured(current);
        }
        if type_ == ResourceType::VirtualHost {
            self.reach_hosts(current);
        }
    }

    /// Finds what globs stand for, and what has its context parameters in another order than the client wrote.
    fn reach_structured(&mut self, current: &TypeSnapshot) {
        let Some(subscription) = self.subscription.clone() else { return };
        let structured = current.iter().filter(|resource| ResourceName::is_structured(&resource.name));
        let there: Vec<(&Name, ResourceName)> =
            structured.filter_map(|resource| Some((&resource.name, resource.name.parse().ok()?))).collect();
        for (asked, read) in subscription.structured().filter(|(asked, _)| current.get(asked).is_none()) {
            let waits = matches!(self.told(asked), Told::Nothing);
            for (name, _) in there.iter().filter(|(_, name)| read.covers(name)) {
                let new = self.reached.entry((*name).clone()).or_default().insert(asked.clone());
                if (new || waits) && !matches!(self.told(name), Told::Had(_)) {
                    self.renew(name);
                }
            }
            // It may stand for nothing, which is an answer too.
            self.owed |= waits && read.is_glob();
        }
    }

    /// Finds the virtual hosts that serve what the client asked for.
    fn reach_hosts(&mut self, current: &TypeSnapshot) {
        let Some(subscription) = &self.subscription else { return };
        let asked: Vec<_> =
            subscription.all_names().iter().filter(|name| current.get(name).is_none()).cloned().collect();
        if asked.is_empty() {
            return;
        }
        let hosts = ByDomain::new(current);
        for asked in asked {
            let Some(name) = hosts.find(&asked) else { continue };
            let new = self.reached.entry(name.clone()).or_default().insert(asked.clone());
            if new || matches!(self.told(&asked), Told::Nothing) {
                // The host is the word that is waited for; who asks for what it has, has lost it.
                if !matches!(self.told(name), Told::Had(_)) {
                    self.renew(name);
                }
            }
        }
    }

    /// Has a resource sent again; or that it is gone, if it is by then and the client was told of it.
    pub(in crate::session::server) fn renew(&mut self, name: &Name) {
        if !self.covers(name) {
            return;
        }
        let told = if self.was_told(name) { Told::Had(None) } else { Told::Nothing };
        self.doubt_flight();
        self.doubt(name, None);
        self.exceptions.insert(name.clone(), told);
    }

    /// Whether the word that is waited for under this name is what is sent now, what the client has from an earlier
    /// stream, or nothing at all for a glob.
    pub(super) fn is_answered_by_other(&self, asked: &Name, sent: &[Arc<VersionedResource>]) -> bool {
        let is_had = |name: &Name| matches!(self.exceptions.get(name), Some(Told::Had(Some(_))));
        let is_sent = |name: &Name| sent.iter().any(|resource| resource.name == *name);
        self.reached.iter().any(|(name, names)| names.contains(asked) && (is_had(name) || is_sent(name)))
            || asked.parse().is_ok_and(|asked: ResourceName| asked.is_glob())
    }

    /// The names by which the client asked for a resource, beside its own.
    pub(in crate::session::server) fn aliases(&self, name: &str) -> impl Iterator<Item = &Name> {
        let is_glob = |asked: &Name| asked.parse().is_ok_and(|asked: ResourceName| asked.is_glob());
        self.reached.get(name).into_iter().flatten().filter(move |asked| !is_glob(asked))
    }

    /// Whether the client asked for some resource by this name, which is not its own.
    pub(in crate::session::server) fn is_alias(&self, name: &str) -> bool {
        self.reached.values().any(|asked| asked.contains(name))
    }
}
