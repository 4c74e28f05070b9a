//! Zone-aware routing: traffic stays where it is, and yet every endpoint gets its part.
//!
//! Envoy's algorithm. That each zone keeps its own traffic would overload the zones that have many clients and few
//! endpoints. So it matters how the clients, proxies like this one, are spread over the zones (the *local* cluster): a
//! zone with at least as large a part of the endpoints as of the clients keeps all of its traffic; one with a smaller
//! part keeps as much as its endpoints are due, and the rest goes to zones that have endpoints to spare, in proportion to
//! what they have to spare.

use std::{collections::HashMap, sync::Arc};

use super::{group::Group, policy::Choice};
use crate::{
    cluster::endpoint::{Endpoint, EndpointSet, Host, Status, Zone},
    metrics::ClusterCells,
};

/// The settings; Envoy's names and defaults.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct ZoneAware {
    /// In percent of the requests.
    pub(crate) routing_enabled: u32,
    /// Of fit endpoints; with fewer, zones do not matter.
    pub(crate) min_cluster_size: u64,
    /// In panic nobody is asked, instead of everybody.
    pub(crate) fail_traffic_on_panic: bool,
}

/// Where proxies like this one are.
#[derive(Debug, Clone)]
pub(crate) struct LocalZones {
    /// Where this one is.
    own: Zone,
    /// How many that are fit there are in each zone.
    fit: HashMap<Zone, u64>,
    total: u64,
    /// How many zones there are, fit or not.
    zones: usize,
    /// So few of them are fit that how they are spread says nothing.
    in_panic: bool,
}

/// A priority's endpoints by zone, and what goes where.
#[derive(Debug)]
pub(super) struct Zones {
    /// The own zone first, if it has endpoints.
    groups: Vec<Group>,
    /// In percent.
    enabled: u32,
    routing: Routing,
}

#[derive(Debug, PartialEq)]
enum Routing {
    /// All stays in the own zone.
    Direct,
    /// Some does.
    Residual {
        /// Of 10,000 requests.
        own: u64,
        /// What the zones up to and including each have to spare.
        spare: Vec<u64>,
    },
}

/// Parts are of so many.
const WHOLE: u64 = 10_000;

// === impl ZoneAware ===

impl Default for ZoneAware {
    fn default() -> Self {
        Self { routing_enabled: 100, min_cluster_size: 6, fail_traffic_on_panic: false }
    }
}

// === impl LocalZones ===

impl LocalZones {
    /// From the endpoints of the local cluster.
    pub(crate) fn new(own: Zone, set: &EndpointSet, panic_threshold: f64) -> Self {
        let mut fit = HashMap::new();
        let mut zones: Vec<&Arc<Zone>> = set.hosts.iter().map(|host| &host.zone).collect();
        zones.sort();
        zones.dedup();
        let zones = zones.len();
        for host in set.hosts.iter().filter(|host| host.is_fit()) {
            *fit.entry(Zone::clone(&host.zone)).or_default() += 1;
        }
        let total = fit.values().sum();
        let counting = set.hosts.iter().filter(|host| host.status != Status::Draining).count();
        let in_panic = (total as f64) * 100.0 < panic_threshold * counting as f64;
        Self { own, fit, total, zones, in_panic }
    }

    /// Whether what is known suffices to keep traffic in its zone.
    pub(crate) fn is_usable(&self) -> bool {
        self.zones >= 2 && !self.in_panic && self.fit.contains_key(&self.own)
    }

    /// The part of the proxies that are in a zone.
    fn part(&self, zone: &Zone) -> u64 {
        let here = self.fit.get(zone).copied().unwrap_or_default();
        (WHOLE * here).checked_div(self.total).unwrap_or_default()
    }
}

// === impl Zones ===

impl Zones {
    /// `None` where zones do not matter. `hosts` are those of the priority that take part.
    pub(super) fn new(
        settings: &ZoneAware,
        local: &LocalZones,
        hosts: &[Host],
        mut group: impl FnMut(Vec<Host>) -> Option<Group>,
    ) -> Option<Self> {
        if !local.is_usable() || settings.routing_enabled == 0 {
            return None;
        }
        if (hosts.len() as u64) < settings.min_cluster_size {
            return None;
        }
        let mut zones: Vec<(&Zone, Vec<Host>)> = Vec::new();
        for host in hosts {
            match zones.iter_mut().find(|(zone, _)| **zone == *host.zone) {
                Some((_, members)) => members.push(host.clone()),
                None => zones.push((&host.zone, vec![host.clone()])),
            }
        }
        if zones.len() < 2 {
            return None;
        }
        zones.sort_by_key(|(zone, _)| (**zone != local.own, *zone));
        let parts: Vec<(u64, u64)> = zones
            .iter()
            .map(|(zone, members)| (local.part(zone), WHOLE * members.len() as u64 / hosts.len() as u64))
            .collect();
        let routing = Routing::new(*zones[0].0 == local.own, &parts);
        let groups = zones.into_iter().filter_map(|(_, members)| group(members)).collect();
        Some(Self { groups, enabled: settings.routing_enabled, routing })
    }

    /// One that is acceptable from the zone that this request goes to.
    pub(super) fn choose(
        &self,
        choice: Choice<'_>,
        cells: &ClusterCells,
        acceptable: impl Fn(&Endpoint) -> bool + Copy,
    ) -> Option<&Arc<Endpoint>> {
        let random = choice.chooser.random;
        if self.enabled < 100 && random.below(100) >= self.enabled as usize {
            return None;
        }
        let zone = match &self.routing {
            Routing::Direct => {
                cells.lb_zone_routing_all_directly.add(1);
                0
            }
            Routing::Residual { own, .. } if (random.below(WHOLE as usize) as u64) < *own => {
                cells.lb_zone_routing_sampled.add(1);
                0
            }
            Routing::Residual { spare, .. } => {
                cells.lb_zone_routing_cross_zone.add(1);
                match spare.last() {
                    Some(total) if *total > 0 => {
                        let point = random.below(*total as usize) as u64;
                        spare.iter().position(|end| point < *end).unwrap_or_default()
                    }
                    // Rounding ate it.
                    _ => {
                        cells.lb_zone_no_capacity_left.add(1);
                        random.below(self.groups.len())
                    }
                }
            }
        };
        self.groups.get(zone)?.choose(choice, acceptable)
    }
}

// === impl Routing ===

impl Routing {
    /// `parts` are those of the proxies and of the endpoints in each zone; the first is the own one if `has_own`.
    fn new(has_own: bool, parts: &[(u64, u64)]) -> Self {
        let first = parts.first().copied().unwrap_or_default();
        if has_own && first.1 > 0 && first.1 >= first.0 {
            return Self::Direct;
        }
        let own = if has_own { (first.1 * WHOLE).checked_div(first.0).unwrap_or_default() } else { 0 };
        let mut total = 0;
        let spare = parts
            .iter()
            .enumerate()
            .map(|(index, (proxies, endpoints))| {
                // What the own zone can take, it has.
                if !(has_own && index == 0) {
                    total += endpoints.saturating_sub(*proxies);
                }
                total
            })
            .collect();
        Self::Residual { own, spare }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example in the comments of Envoy's source, and the cases around it.
    #[test]
    fn what_goes_where_is_what_envoy_computes() {
        let example = [(4000, 2500), (4000, 5000), (2000, 2500)];
        let routing = Routing::new(true, &example);
        assert_eq!(routing, Routing::Residual { own: 6250, spare: vec![0, 1000, 1500] });
        assert_eq!(Routing::new(true, &[(2000, 2500), (8000, 7500)]), Routing::Direct);
        let elsewhere = Routing::new(false, &[(0, 5000), (5000, 5000)]);
        assert_eq!(elsewhere, Routing::Residual { own: 0, spare: vec![5000, 5000] });
    }
}
