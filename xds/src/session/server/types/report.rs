//! What is known of a client's state of one type.

use std::collections::BTreeMap;

use super::{Progress, RefusedVersion, TypeState};
use crate::{
    resource::Rejected,
    session::{Name, TypeSnapshot, Version, server::subscription::Subscription},
};

/// A response that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The version of the type.
    pub version: Version,
    /// The client's words.
    pub message: String,
    /// The resources that it refused, where it tells; it accepted the others then.
    pub resources: Vec<Rejected>,
}

/// How far a client is with one type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SyncState {
    /// It has what it is to have.
    Synced,
    /// It asked, and was told nothing yet.
    NotSent,
    /// It has not answered yet, or there is more to tell.
    Stale,
    /// It refused something that it is to have.
    Refused,
}

/// What is known of a client's state of one type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypeReport {
    /// Version of the type in the last response.
    pub sent: Option<Version>,
    /// Version of the type in the last response that was accepted as a whole.
    pub acked: Option<Version>,
    /// How many resources it is known to have.
    pub held: usize,
    /// What it is known to have; empty in a summary.
    pub resources: BTreeMap<String, Version>,
    /// The last refusal, until a later response is accepted.
    pub refusal: Option<Refusal>,
    /// What it refused and has no later version of, by name.
    pub refused: BTreeMap<String, RefusedVersion>,
}

impl TypeState {
    pub(in crate::session::server) fn report(&self, with_resources: bool) -> Option<TypeReport> {
        let subscription = self.subscription.as_ref()?;
        let resources = if with_resources { self.held(subscription) } else { BTreeMap::new() };
        let simple = subscription.all()
            && self.exceptions.is_empty()
            && self.unaccepted.is_empty()
            && !self.is_waiting();
        let held = match with_resources {
            true => resources.len(),
            false if simple => self.base.len(),
            false => self.held(subscription).len(),
        };
        Some(TypeReport {
            sent: self.sent_version,
            acked: self.acked_version,
            held,
            resources,
            refusal: self.last_refusal.clone(),
            refused: self.refused.clone(),
        })
    }

    fn held(&self, subscription: &Subscription) -> BTreeMap<String, Version> {
        let base = self.base.iter().map(|resource| &resource.name);
        let leaving = match &self.progress {
            Progress::Waiting(flight) => flight.removed.as_slice(),
            _ => &[],
        };
        let names = base.chain(leaving).chain(self.exceptions.keys()).chain(self.unaccepted.keys());
        let has = |name: &Name| Some((name.to_string(), self.acknowledged(name)?));
        let covers = |name: &&Name| subscription.covers(name) || self.reached.contains_key(*name);
        names.filter(covers).filter_map(has).collect()
    }

    /// How far the client is with `current`; `None` if it did not ask for the type.
    pub(in crate::session::server) fn sync(&self, current: Option<&TypeSnapshot>) -> Option<SyncState> {
        let subscription = self.subscription.as_ref()?;
        let up_to_date = || {
            current.is_some_and(|current| {
                let mut changes = self.base.changes(current);
                subscription.retain(&mut changes, |name| self.reached.contains_key(name));
                !self.fresh && self.exceptions.is_empty() && changes.is_empty()
            })
        };
        Some(match &self.progress {
            // A client that came back with all of it is sent nothing.
            Progress::Settled if self.refused.is_empty() && up_to_date() => SyncState::Synced,
            _ if self.sent_version.is_none() => SyncState::NotSent,
            Progress::Refused => SyncState::Refused,
            _ if !self.refused.is_empty() => SyncState::Refused,
            Progress::Settled | Progress::Waiting(_) => SyncState::Stale,
        })
    }
}
