//! Endpoints that one table chooses from.

use std::sync::Arc;

use super::{
    Policy,
    policy::{Choice, Table},
};
use crate::cluster::endpoint::{Endpoint, Host};

/// Some endpoints with their table; never empty.
#[derive(Debug)]
pub(super) struct Group {
    /// Its place among the worker's turns.
    slot: usize,
    hosts: Vec<Host>,
    table: Table,
}

/// How often the policy is asked for one that can be used, before any that can be used will do.
const ATTEMPTS: usize = 8;

// === impl Group ===

impl Group {
    /// `None` without endpoints. `weights` belong to `hosts`; if all are 0, they count the same.
    pub(super) fn new(policy: &Policy, slot: usize, hosts: Vec<Host>, mut weights: Vec<f64>) -> Option<Self> {
        if hosts.is_empty() {
            return None;
        }
        if weights.iter().all(|weight| *weight == 0.0) {
            weights.fill(1.0);
        }
        let table = policy.table(&hosts, &weights);
        Some(Self { slot, hosts, table })
    }

    /// One that is acceptable, if there is one.
    pub(super) fn choose(
        &self,
        choice: Choice<'_>,
        acceptable: impl Fn(&Endpoint) -> bool,
    ) -> Option<&Arc<Endpoint>> {
        for attempt in 0..ATTEMPTS {
            let choice = Choice { slot: self.slot, attempt, ..choice };
            let endpoint = &self.hosts[self.table.choose(&self.hosts, &choice)].endpoint;
            if acceptable(endpoint) {
                return Some(endpoint);
            }
            if self.hosts.len() == 1 {
                return None;
            }
        }
        let start = choice.chooser.random.below(self.hosts.len());
        let (before, after) = self.hosts.split_at(start);
        after.iter().chain(before).map(|host| &host.endpoint).find(|endpoint| acceptable(endpoint))
    }
}
