//! What a client says, in both variants of the protocol.

use super::{Refusal, ServerSession, Variant, subscription::Subscription};
use crate::{
    name::ResourceName,
    pb::{
        envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest},
        google::rpc::Status,
    },
    resource::ResourceType,
    session::{Name, nack},
};

/// The name that stands for everything.
const WILDCARD: &str = "*";

/// What a request was, for those who watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Handled {
    /// A change of subscription, or nothing new.
    Asked(ResourceType),
    /// The last response of the type was accepted.
    Accepted(ResourceType),
    /// The last response of the type was refused.
    Refused(ResourceType, Refusal),
    /// An answer to a response that is not the last one.
    Stale(ResourceType),
    /// A type that is not served here; the client gets no answer.
    UnknownType(String),
}

// === impl ServerSession ===

impl ServerSession {
    /// Takes a request of a state-of-the-world stream.
    pub fn sotw_request(&mut self, request: DiscoveryRequest) -> Handled {
        let Some(type_) = ResourceType::from_type_url(&request.type_url) else {
            return Handled::UnknownType(request.type_url);
        };
        let state = &self.types[type_];
        let first = state.subscription.is_none();
        // Without a nonce it was sent before any response arrived, so it changes the subscription and answers nothing.
        let answers = !first && !request.response_nonce.is_empty();
        if answers && request.response_nonce != state.last_nonce {
            return Handled::Stale(type_);
        }
        let handled = if answers { self.answer(type_, request.error_detail) } else { Handled::Asked(type_) };

        // A client that never named anything asks for everything by naming nothing; once it did, nothing is nothing.
        let named_nothing_ever = self.types[type_]
            .subscription
            .as_ref()
            .is_none_or(|before| before.all() && before.all_names().is_empty());
        let mut names = request.resource_names;
        let named = names.len();
        names.retain(|name| name != WILDCARD);
        let all =
            names.len() < named || (names.is_empty() && type_.is_wildcard_by_default() && named_nothing_ever);
        if self.types[type_].subscription.as_ref().is_some_and(|before| before.is(all, &names)) {
            return handled;
        }
        let mut subscription = Subscription::new(all, self.names(type_, names));
        subscription.share_list(&self.lists);
        let state = &mut self.types[type_];
        state.subscribe(subscription);
        state.owed |= first;
        self.compose();
        handled
    }

    /// Takes a request of a delta stream.
    pub fn delta_request(&mut self, mut request: DeltaDiscoveryRequest) -> Handled {
        let Some(type_) = ResourceType::from_type_url(&request.type_url) else {
            return Handled::UnknownType(request.type_url);
        };
        let handled = match request.response_nonce.as_str() {
            "" => Handled::Asked(type_),
            nonce if nonce == self.types[type_].last_nonce => self.answer(type_, request.error_detail.take()),
            _ => Handled::Stale(type_),
        };

        let first = self.types[type_].subscription.is_none();
        if first
            || !request.resource_names_subscribe.is_empty()
            || !request.resource_names_unsubscribe.is_empty()
        {
            self.change_subscription(type_, request, first);
        }
        handled
    }

    fn change_subscription(&mut self, type_: ResourceType, request: DeltaDiscoveryRequest, first: bool) {
        let had: Vec<_> = request
            .initial_resource_versions
            .into_iter()
            .filter(|_| first)
            .map(|(name, version)| (self.name(type_, name), version))
            .collect();
        let mut more = self.names(type_, request.resource_names_subscribe);
        let mut less = self.names(type_, request.resource_names_unsubscribe);

        let state = &mut self.types[type_];
        let before = state.subscription.clone().unwrap_or_default();
        let mut all = before.all() || (first && more.is_empty() && type_.is_wildcard_by_default());
        if !first {
            // To ask again for what one has means to have lost it.
            match type_ {
                // There a name that does not exist is told otherwise than one that is gone.
                ResourceType::VirtualHost => more.iter().for_each(|name| state.renew(name)),
                _ => state.forget(&more),
            }
            state.take_back(&less);
        }
        let named = (more.len(), less.len());
        more.retain(|name| name != WILDCARD);
        less.retain(|name| name != WILDCARD);
        all = (all && less.len() == named.1) || more.len() < named.0;
        less.sort_unstable();
        let keeps = |name: &&Name| less.binary_search(name).is_err();
        let mut names: Vec<_> = before.all_names().iter().filter(keeps).cloned().collect();
        names.append(&mut more);
        let mut subscription = Subscription::new(all, names);
        subscription.share_list(&self.lists);
        state.subscribe(subscription);
        if first {
            // Who is ready for any virtual host waits for the first word about them.
            state.owed = all || (type_ == ResourceType::VirtualHost && named.0 == 0);
            for (name, version) in had {
                state.had(type_, name, &version);
            }
        }
        self.compose();
    }

    /// The names as they are remembered: shared with whoever knows them already.
    fn names(&self, type_: ResourceType, names: Vec<String>) -> Vec<Name> {
        names.into_iter().map(|name| self.name(type_, name)).collect()
    }

    fn name(&self, type_: ResourceType, name: String) -> Name {
        // The state of the world has no aliases: there it can only be the resource's own name.
        let name = match self.variant {
            Variant::Delta => name.into(),
            Variant::Sotw => ResourceName::canonical(&name),
        };
        let subscription = self.types[type_].subscription.as_ref();
        let served = || Some(&self.snapshot.as_ref()?.get(type_).get(&name)?.name);
        let known = subscription.and_then(|subscription| subscription.find(&name)).or_else(served);
        known.cloned().unwrap_or_else(|| Name::from(&*name))
    }

    fn answer(&mut self, type_: ResourceType, error: Option<Status>) -> Handled {
        let state = &mut self.types[type_];
        let Some(error) = error else {
            // Repeating the answer to change the subscription is how state of the world works.
            return if state.accepted() { Handled::Accepted(type_) } else { Handled::Asked(type_) };
        };
        let resources = nack::from_status(&error);
        match state.refused(error.message, resources) {
            Some(refusal) => Handled::Refused(type_, refusal),
            None => Handled::Stale(type_),
        }
    }
}
