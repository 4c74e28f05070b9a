//! Picking an endpoint.
//!
//! A cluster's [`Rotation`] says who takes part: it is made from the endpoint set and what is known of its health, on the
//! control threads, and swapped as one pointer. In it, endpoints of one priority (and locality, where localities have
//! weights or traffic is kept in its zone) are a group with the [`Table`] of the cluster's policy. A data thread draws a
//! priority, then a group, and asks the group's table; nothing it does depends on how many endpoints there are. Where
//! requests may ask for a subset, each subset has the same once more.
//!
//! # Writing the next policy
//! Copy the file of the policy that is nearest: `random.rs` if a choice needs nothing but chance and the endpoints' own
//! state, `maglev.rs` if it needs a table. Add its settings to [`Policy`], its table to [`Table`], and its message to
//! `config/balance`. What a policy must do is choose *some* index for every attempt, and a different one for the next
//! attempt where it can; health, priorities, exclusion and panic are not its business.

mod bounded;
mod group;
mod hash;
mod latency;
mod least_request;
mod level;
mod maglev;
mod peak_ewma;
mod pinned;
mod policy;
mod priority;
mod random;
mod reports;
mod ring_hash;
mod rotation;
mod round_robin;
mod schedule;
mod slow_start;
mod subsets;
mod turns;
mod zones;

pub(crate) use hash::{HashFunction, xx, xx_all};
pub(crate) use latency::Latency;
pub(crate) use least_request::LeastRequest;
pub(crate) use maglev::Maglev;
pub(crate) use peak_ewma::PeakEwma;
pub(crate) use pinned::{Overridable, pinned};
pub(crate) use policy::Policy;
pub(crate) use random::Random;
pub(crate) use reports::{LoadReports, Reported};
pub(crate) use ring_hash::{Key, RingHash};
pub(crate) use rotation::{Balancing, Localities, Rotation, keep_current};
pub(crate) use slow_start::SlowStart;
pub(crate) use subsets::{Criteria, Fallback, Labels, Selector, SubsetSettings};
pub(crate) use turns::Turns;
pub(crate) use zones::{LocalZones, ZoneAware};

use std::sync::{Arc, atomic::Ordering};

use crate::cluster::{Cluster, endpoint::Endpoint};

/// What one request brings to the choice.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Ask<'a> {
    /// What affinity goes by; without one, policies that hash draw at random.
    pub(crate) hash: Option<u64>,
    /// The endpoints that this request was already sent to.
    pub(crate) tried: &'a [u64],
    /// The subset of endpoints that it asks for.
    pub(crate) criteria: Option<&'a Criteria>,
}

/// What a worker brings to the choice.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Chooser<'a> {
    pub(crate) turns: &'a Turns,
    pub(crate) random: &'a Random,
    /// Its number.
    pub(crate) worker: usize,
}

/// Picks an endpoint, one that the request was not sent to if there is one.
///
/// Endpoints that our own checks or the outlier detection found unfit are passed over, unless so many are that the
/// finding itself is in doubt (Envoy's panic mode). `None` if nobody takes part.
pub(crate) fn pick(cluster: &Cluster, chooser: Chooser<'_>, ask: &Ask<'_>) -> Option<Arc<Endpoint>> {
    let active = cluster.breaker.requests.load(Ordering::Relaxed)
        + cluster.breaker_high.requests.load(Ordering::Relaxed);
    cluster.rotation.load().pick(chooser, ask, active, cluster.stats.at(chooser.worker))
}

#[cfg(test)]
mod tests;
