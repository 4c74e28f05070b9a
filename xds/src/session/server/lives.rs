//! Resources that clients are to forget unless they hear of them again.
//!
//! Only clients that say `xds.config.supports-resource-ttl` are told of a time to live, in the state of the world only
//! those that say `xds.config.resource-in-sotw` as well: the resource that has it in a wrapper is then in a wrapper.
//! Halfway they are sent a sign of life: the resource without its body.
//!
//! Source: "xDS REST and gRPC protocol", section "TTL"; Envoy's "Well Known Client Features".

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Outgoing, ServerSession, Variant, states::TypeStates};
use crate::{
    resource::ResourceType,
    session::{Name, TypeSnapshot, Version, VersionedSnapshot},
};

const TTL: &str = "xds.config.supports-resource-ttl";
const WRAPPER: &str = "xds.config.resource-in-sotw";

/// What one client is to be told again.
#[derive(Debug, Default)]
pub(super) struct Lives {
    /// Whether the client understands it.
    understood: bool,
    lives: BTreeMap<(ResourceType, Name), Life>,
}

/// A resource that the client was told of.
#[derive(Debug)]
struct Life {
    version: Version,
    ttl: Duration,
    /// When the client was last told.
    told: Instant,
}

// === impl Lives ===

impl Lives {
    /// Of a client with these features.
    pub(super) fn new(variant: Variant, features: &[String]) -> Self {
        let has = |name: &str| features.iter().any(|feature| feature == name);
        let understood = has(TTL) && (variant == Variant::Delta || has(WRAPPER));
        Self { understood, lives: BTreeMap::new() }
    }

    pub(super) fn are_understood(&self) -> bool {
        self.understood
    }

    /// Takes note of what goes out now.
    fn told(&mut self, response: &Outgoing, now: Instant) {
        if !self.understood {
            return;
        }
        for resource in response.upserts.iter().chain(&response.alive) {
            let key = || (response.type_, resource.name.clone());
            match resource.ttl() {
                Some(ttl) => {
                    self.lives.insert(key(), Life { version: resource.version, ttl, told: now });
                }
                None if self.lives.is_empty() => {}
                None => drop(self.lives.remove(&key())),
            }
        }
    }

    /// Forgets what clients are not to keep alive: what changed, is gone, or was refused.
    fn retain(&mut self, types: &TypeStates, snapshot: &VersionedSnapshot) {
        self.lives.retain(|(type_, name), life| {
            let (state, current) = (&types[*type_], snapshot.get(*type_).get(name));
            // What was refused shows when the response is answered.
            current.is_some_and(|current| current.version == life.version)
                && (state.is_waiting() || state.has_acknowledged(name, Some(life.version)) == Some(true))
        });
    }
}

impl Life {
    /// Halfway: there is time for a second attempt.
    fn due(&self) -> Instant {
        self.told + self.ttl / 2
    }
}

// === impl ServerSession ===

impl ServerSession {
    /// A new stream of a client with these features (`Node.client_features`).
    pub fn of_client(variant: Variant, features: &[String]) -> Self {
        Self { lives: Lives::new(variant, features), ..Self::new(variant) }
    }

    /// As [`next`](Self::next), with the signs of life that are due.
    pub fn next_at(&mut self, now: Instant) -> Option<Outgoing> {
        let response = self.next().or_else(|| self.sign_of_life(now))?;
        self.lives.told(&response, now);
        Some(response)
    }

    /// When [`next_at`](Self::next_at) is to be called even if nothing happens until then.
    pub fn due(&self) -> Option<Instant> {
        let lives = self.lives.lives.iter().filter(|((type_, _), _)| self.may_be_said_alive(*type_));
        lives.map(|(_, life)| life.due()).min()
    }

    /// Whether a response of a type may go out that says nothing new.
    fn may_be_said_alive(&self, type_: ResourceType) -> bool {
        let state = &self.types[type_];
        let current = self.snapshot.as_ref().map(|snapshot| snapshot.get(type_));
        // The state of the world has to be repeated as a whole, which would tell of what has to wait for other types.
        !state.is_waiting()
            && (!self.repeats_all(type_) || current.is_some_and(|current| state.is_told(current)))
    }

    /// Whether what a response leaves out is gone.
    pub(super) fn repeats_all(&self, type_: ResourceType) -> bool {
        self.variant == Variant::Sotw && type_.is_wildcard_by_default()
    }

    fn sign_of_life(&mut self, now: Instant) -> Option<Outgoing> {
        if self.lives.lives.is_empty() {
            return None;
        }
        let snapshot = self.snapshot.clone()?;
        self.lives.retain(&self.types, &snapshot);
        let due = |((type_, _), life): &(&(ResourceType, Name), &Life)| {
            life.due() <= now && self.may_be_said_alive(*type_)
        };
        let type_ = self.lives.lives.iter().find(due)?.0.0;
        let current: &TypeSnapshot = snapshot.get(type_);
        let alive = self.lives.lives.iter().filter(|one| one.0.0 == type_ && due(one));
        let alive: Vec<_> = alive.filter_map(|((_, name), _)| current.get(name).cloned()).collect();
        self.responses += 1;
        let nonce = self.responses.to_string();
        let repeats_all = self.repeats_all(type_);
        let state = &mut self.types[type_];
        let (upserts, alive) =
            if repeats_all { (state.all_in_scope(current, &[]), Vec::new()) } else { (Vec::new(), alive) };
        let version = state.said_alive(&nonce, current);
        Some(Outgoing {
            type_,
            version,
            nonce,
            upserts: Arc::new(upserts),
            alive,
            with_ttl: true,
            removed: Vec::new(),
            unknown: Vec::new(),
            aliases: BTreeMap::new(),
        })
    }
}
