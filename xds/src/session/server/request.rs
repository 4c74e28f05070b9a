//! What a client says, in both variants of the protocol.

use super::{Refusal, ServerSession, Subscription};
use crate::{
    pb::{
        envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest},
        google::rpc::Status,
    },
    resource::ResourceType,
    session::nack,
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
        let state = &self.types[type_.index()];
        let first = state.subscription.is_none();
        // Without a nonce it was sent before any response arrived, so it changes the subscription and answers nothing.
        let answers = !first && !request.response_nonce.is_empty();
        if answers && request.response_nonce != state.last_nonce {
            return Handled::Stale(type_);
        }
        let handled = if answers { self.answer(type_, request.error_detail) } else { Handled::Asked(type_) };

        let state = &mut self.types[type_.index()];
        let mut names: std::collections::BTreeSet<_> = request.resource_names.into_iter().collect();
        // A client that never named anything asks for everything by naming nothing; once it did, nothing is nothing.
        let named_nothing_ever =
            state.subscription.as_ref().is_none_or(|before| before.all && before.names.is_empty());
        let all = names.remove(WILDCARD)
            || (names.is_empty() && type_.is_wildcard_by_default() && named_nothing_ever);
        state.subscribe(Subscription { all, names });
        state.owed |= first;
        handled
    }

    /// Takes a request of a delta stream.
    pub fn delta_request(&mut self, request: DeltaDiscoveryRequest) -> Handled {
        let Some(type_) = ResourceType::from_type_url(&request.type_url) else {
            return Handled::UnknownType(request.type_url);
        };
        let handled = match request.response_nonce.as_str() {
            "" => Handled::Asked(type_),
            nonce if nonce == self.types[type_.index()].last_nonce => {
                self.answer(type_, request.error_detail)
            }
            _ => Handled::Stale(type_),
        };

        let state = &mut self.types[type_.index()];
        let first = state.subscription.is_none();
        let mut subscription = state.subscription.clone().unwrap_or_default();
        if first && request.resource_names_subscribe.is_empty() && type_.is_wildcard_by_default() {
            subscription.all = true;
        }
        for name in &request.resource_names_unsubscribe {
            if name == WILDCARD {
                subscription.all = false;
            } else {
                subscription.names.remove(name);
            }
        }
        for name in &request.resource_names_subscribe {
            if name == WILDCARD {
                subscription.all = true;
            } else {
                subscription.names.insert(name.clone());
            }
        }
        if first {
            state.owed = subscription.all;
            for (name, version) in request.initial_resource_versions {
                if subscription.covers(&name) {
                    state.had(name, &version);
                }
            }
        } else {
            // To ask again for what one has means to have lost it.
            state.forget(&request.resource_names_subscribe);
            state.forget(&request.resource_names_unsubscribe);
        }
        state.subscribe(subscription);
        handled
    }

    fn answer(&mut self, type_: ResourceType, error: Option<Status>) -> Handled {
        let state = &mut self.types[type_.index()];
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
