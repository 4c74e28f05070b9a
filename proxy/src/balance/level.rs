//! The endpoints of a cluster, or of a part of it, by priority and then by locality.

use std::sync::Arc;

use super::{
    Ask, Balancing, Localities,
    group::Group,
    policy::Choice,
    priority::{self, Census, Share},
    schedule,
    zones::{LocalZones, Zones},
};
use crate::{
    cluster::endpoint::{Endpoint, Host, Status},
    metrics::ClusterCells,
};

/// What the making of levels needs beside the endpoints.
#[derive(Clone, Copy)]
pub(super) struct Making<'m> {
    pub(super) balancing: &'m Balancing,
    pub(super) overprovisioning: u32,
    /// Where proxies like this one are, if that is known.
    pub(super) local: Option<&'m LocalZones>,
}

/// By priority.
#[derive(Debug, Default)]
pub(super) struct Levels(Vec<Level>);

/// The endpoints of one priority that take part.
#[derive(Debug)]
struct Level {
    share: Share,
    /// Nobody is asked while its health is in doubt.
    fails_in_panic: bool,
    groups: Vec<Group>,
    /// Indexes of `groups` by weight; empty when all are equal.
    order: Vec<u32>,
    /// What is asked before `groups`, where traffic is kept in its zone.
    zones: Option<Zones>,
}

/// What endpoints of one priority should get, in relation to each other.
struct Shares<'m> {
    balancing: &'m Balancing,
    /// For those that have not reported their load.
    usual: f64,
}

// === impl Levels ===

impl Levels {
    /// `slot` counts the places among the workers' turns.
    pub(super) fn new(making: Making<'_>, hosts: &[&Host], slot: &mut usize) -> Self {
        let count = hosts.iter().map(|host| host.priority as usize + 1).max().unwrap_or(0);
        let mut by_priority = vec![Vec::new(); count];
        for host in hosts {
            by_priority[host.priority as usize].push(*host);
        }
        let balancing = making.balancing;
        let censuses: Vec<Census> = by_priority.iter().map(|hosts| census(balancing, hosts)).collect();
        let shares = priority::share(&censuses, making.overprovisioning, balancing.panic_threshold);
        let levels = by_priority.iter().zip(shares).enumerate();
        Self(
            levels
                .map(|(priority, (hosts, share))| {
                    // As in Envoy: what flows over to another priority is not kept in its zone as well.
                    let local = making.local.filter(|_| priority == 0);
                    Level::new(Making { local, ..making }, hosts, share, slot)
                })
                .collect(),
        )
    }

    /// Whether traffic is kept in its zone.
    #[cfg(test)]
    pub(super) fn has_zones(&self) -> bool {
        self.0.first().is_some_and(|first| first.zones.is_some())
    }

    /// See [`super::pick`].
    pub(super) fn pick(
        &self,
        choice: Choice<'_>,
        ask: &Ask<'_>,
        cells: &ClusterCells,
    ) -> Option<&Arc<Endpoint>> {
        let level = self.draw(choice.hash)?;
        if level.share.panic {
            cells.lb_healthy_panic.add(1);
            if level.fails_in_panic {
                return None;
            }
        }
        let untried = |endpoint: &Endpoint| !ask.tried.contains(&endpoint.id);
        // The usual case: the first choice is good. Everything below is for bad days.
        level
            .choose(choice, Some(cells), |endpoint, panic| untried(endpoint) && (panic || endpoint.is_fit()))
            // A health that changed a moment ago may have left this priority without anybody.
            .or_else(|| self.anyone(choice, |endpoint| untried(endpoint) && endpoint.is_fit()))
            .or_else(|| self.anyone(choice, untried))
            .or_else(|| level.choose(choice, None, |_, _| true))
    }

    /// The level for a hash: by share.
    fn draw(&self, hash: u64) -> Option<&Level> {
        if let [only] = self.0.as_slice() {
            return Some(only).filter(|only| only.share.percent > 0);
        }
        // Not the low bits alone: tables take those.
        let mut point = ((hash >> 32) % 100) as u32;
        self.0.iter().find(|level| {
            let here = point < level.share.percent;
            point = point.saturating_sub(level.share.percent);
            here
        })
    }

    /// From any priority that takes part.
    fn anyone(&self, choice: Choice<'_>, acceptable: impl Fn(&Endpoint) -> bool) -> Option<&Arc<Endpoint>> {
        let levels = self.0.iter().filter(|level| !(level.share.panic && level.fails_in_panic));
        levels.into_iter().find_map(|level| level.choose(choice, None, |endpoint, _| acceptable(endpoint)))
    }
}

/// How many endpoints are fit, of those that count.
fn census(balancing: &Balancing, hosts: &[&Host]) -> Census {
    // One that drains was told to go; that it takes no traffic is no sign of trouble.
    let counts = |host: &Host| {
        host.status != Status::Draining && !(balancing.ignore_new && host.endpoint.awaits_first_check())
    };
    let total = hosts.iter().filter(|host| counts(host)).count();
    Census { fit: hosts.iter().filter(|host| host.is_fit()).count(), total }
}

// === impl Level ===

impl Level {
    fn new(making: Making<'_>, hosts: &[&Host], share: Share, slot: &mut usize) -> Self {
        let balancing = making.balancing;
        // What discovery says is believed even in panic.
        let takes_part =
            |host: &Host| if share.panic { host.status == Status::Healthy } else { host.is_fit() };
        let shares = Shares::new(balancing, hosts);
        let settings = match &balancing.localities {
            Localities::ByZone(settings) => Some(settings),
            _ => None,
        };
        let mut level = Self {
            share,
            fails_in_panic: settings.is_some_and(|settings| settings.fail_traffic_on_panic),
            groups: Vec::new(),
            order: Vec::new(),
            zones: None,
        };
        let localities = match balancing.localities {
            Localities::Weighted => by_locality(hosts, making.overprovisioning, takes_part),
            Localities::Ignored | Localities::ByZone(_) => Vec::new(),
        };
        let mut group = |hosts: Vec<Host>, weights: Vec<f64>| {
            *slot += 1;
            Group::new(&balancing.policy, *slot - 1, hosts, weights)
        };
        if localities.is_empty() {
            let hosts: Vec<Host> =
                hosts.iter().filter(|host| takes_part(host)).map(|host| (*host).clone()).collect();
            if let (Some(settings), Some(local), false) = (settings, making.local, share.panic) {
                level.zones = Zones::new(settings, local, &hosts, |hosts| {
                    let weights = hosts.iter().map(|host| shares.of(host)).collect();
                    group(hosts, weights)
                });
            }
            let weights = hosts.iter().map(|host| shares.of(host)).collect();
            level.groups.extend(group(hosts, weights));
        } else if balancing.policy.is_hash() {
            // One table for all, or a request's hash would decide its locality only.
            let mut all = (Vec::new(), Vec::new());
            for (weight, hosts) in localities {
                let total: f64 = hosts.iter().map(|host| shares.of(host)).sum();
                all.1.extend(hosts.iter().map(|host| weight * shares.of(host) / total));
                all.0.extend(hosts);
            }
            level.groups.extend(group(all.0, all.1));
        } else {
            let weights: Vec<f64> = localities.iter().map(|(weight, _)| *weight).collect();
            for (_, hosts) in localities {
                let weights = hosts.iter().map(|host| shares.of(host)).collect();
                level.groups.extend(group(hosts, weights));
            }
            level.order = schedule::smooth(&weights);
        }
        level
    }

    /// One that is acceptable, if there is one. With `cells`, the traffic is kept in its zone as far as it may be, and
    /// that is counted.
    fn choose(
        &self,
        choice: Choice<'_>,
        cells: Option<&ClusterCells>,
        acceptable: impl Fn(&Endpoint, bool) -> bool,
    ) -> Option<&Arc<Endpoint>> {
        let acceptable = |endpoint: &Endpoint| acceptable(endpoint, self.share.panic);
        if let (Some(zones), Some(cells)) = (&self.zones, cells)
            && let Some(found) = zones.choose(choice, cells, acceptable)
        {
            return Some(found);
        }
        let first = match (self.groups.len(), self.order.len()) {
            (0, _) => return None,
            (1, _) => 0,
            (groups, 0) => choice.chooser.random.below(groups),
            (_, order) => self.order[choice.chooser.random.below(order)] as usize,
        };
        self.groups[first].choose(choice, acceptable).or_else(|| {
            let others = self.groups.iter().enumerate().filter(|(index, _)| *index != first);
            others.map(|(_, group)| group).find_map(|group| group.choose(choice, acceptable))
        })
    }
}

/// The localities that have a weight and somebody who takes part, with what their weight comes to. As in Envoy, a locality
/// keeps its weight while it lost no more than the over-provisioning factor has in spare.
fn by_locality(
    hosts: &[&Host],
    overprovisioning: u32,
    takes_part: impl Fn(&Host) -> bool,
) -> Vec<(f64, Vec<Host>)> {
    let mut localities: Vec<(&Host, usize, Vec<Host>)> = Vec::new();
    for host in hosts.iter().filter(|host| host.locality_weight > 0 && host.status != Status::Draining) {
        let index =
            localities.iter().position(|(first, _, _)| first.zone == host.zone).unwrap_or_else(|| {
                localities.push((host, 0, Vec::new()));
                localities.len() - 1
            });
        let (_, total, partakers) = &mut localities[index];
        *total += 1;
        if takes_part(host) {
            partakers.push((*host).clone());
        }
    }
    let factor = f64::from(overprovisioning) / 100.0;
    localities
        .into_iter()
        .filter(|(_, _, partakers)| !partakers.is_empty())
        .map(|(first, total, partakers)| {
            let available = (factor * partakers.len() as f64 / total as f64).min(1.0);
            (f64::from(first.locality_weight) * available, partakers)
        })
        .collect()
}

// === impl Shares ===

impl<'m> Shares<'m> {
    fn new(balancing: &'m Balancing, hosts: &[&Host]) -> Self {
        let usual = balancing.reports.as_ref().map_or(1.0, |settings| {
            let known = hosts.iter().filter_map(|host| host.endpoint.reported.weight(settings));
            median(known.collect()).unwrap_or(1.0)
        });
        Self { balancing, usual }
    }

    fn of(&self, host: &Host) -> f64 {
        let weight = match &self.balancing.reports {
            None => f64::from(host.weight),
            Some(settings) => host.endpoint.reported.weight(settings).unwrap_or(self.usual),
        };
        weight * self.balancing.slow_start.map_or(1.0, |slow| slow.factor(host.endpoint.age()))
    }
}

fn median(mut numbers: Vec<f64>) -> Option<f64> {
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied()
}
