//! Who takes part, and how much: an endpoint set, as far as it is fit, in the order that a policy needs.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

use super::{
    Ask, Chooser, LoadReports, Overridable, Policy, ZoneAware,
    level::{Levels, Making},
    policy::Choice,
    slow_start::SlowStart,
    subsets::{SubsetSettings, Subsets},
    zones::LocalZones,
};
use crate::{
    cluster::{
        Cluster,
        endpoint::{Endpoint, EndpointSet, Host},
    },
    metrics::ClusterCells,
};

/// How a cluster balances.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Balancing {
    pub(crate) policy: Policy,
    /// Share of endpoints, in percent, below which the health found by ourselves is not believed any more.
    pub(crate) panic_threshold: f64,
    pub(crate) localities: Localities,
    pub(crate) slow_start: Option<SlowStart>,
    /// What endpoints report of themselves decides their weight.
    pub(crate) reports: Option<Arc<LoadReports>>,
    pub(crate) subsets: Option<Arc<SubsetSettings>>,
    /// Endpoints that were not checked yet do not count where the share of fit ones decides.
    pub(crate) ignore_new: bool,
    /// Which endpoints requests may insist on.
    pub(crate) overridable: Overridable,
}

/// What an endpoint's locality means.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) enum Localities {
    /// Nothing.
    #[default]
    Ignored,
    /// Each gets the part of the traffic that its weight says, as far as it is fit.
    Weighted,
    /// Traffic stays in its zone as far as the zone can take it, if it is known where proxies like this one are.
    ByZone(ZoneAware),
}

/// An endpoint set in the order in which it is used. Immutable; made anew when the set or the health of one in it changes.
#[derive(Debug, Default)]
pub(crate) struct Rotation {
    all: Levels,
    /// Parts of it, where requests may ask for one.
    pub(super) subsets: Option<Box<Subsets>>,
    /// When it must be made anew even if nothing happens: an ejection ends, or an endpoint is due for a larger part.
    pub(crate) until: Option<Instant>,
}

/// How long a control task waits at least between two rotations of a cluster: health that flaps, flaps in bursts.
const BREATHER: Duration = Duration::from_millis(10);

/// Makes the rotation of a cluster anew whenever the health of its endpoints changes, or proxies like this one come and go
/// (`around`), until the cluster is gone.
pub(crate) async fn keep_current(cluster: Weak<Cluster>, mut around: Option<watch::Receiver<()>>) {
    loop {
        let Some(strong) = cluster.upgrade() else { return };
        let (until, changed) = (strong.rotation.load().until, Arc::clone(&strong.changed));
        drop(strong);
        let far = Duration::from_secs(3600);
        let until = until.unwrap_or_else(|| Instant::now() + far);
        tokio::select! {
            () = changed.notified() => {}
            () = tokio::time::sleep_until(until) => {}
            () = moved(&mut around) => {}
        }
        let Some(strong) = cluster.upgrade() else { return };
        strong.refresh();
        drop(strong);
        tokio::time::sleep(BREATHER).await;
        if let Some(strong) = cluster.upgrade() {
            strong.forget_before();
        }
    }
}

async fn moved(around: &mut Option<watch::Receiver<()>>) {
    if let Some(receiver) = around
        && receiver.changed().await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

// === impl Balancing ===

impl Balancing {
    /// Whether a rotation must be made anew by itself.
    pub(crate) fn moves(&self) -> bool {
        self.slow_start.is_some() || self.reports.is_some()
    }

    /// When what an endpoint gets changes by itself.
    fn changes_at(&self, endpoint: &Endpoint) -> Option<Instant> {
        let step = self.slow_start.and_then(|slow| slow.next_step(endpoint.age()));
        endpoint.ejected_until().into_iter().chain(step.map(|step| Instant::now() + step)).min()
    }
}

// === impl Rotation ===

impl Rotation {
    /// `local` says where proxies like this one are, if that is known.
    pub(crate) fn new(balancing: &Balancing, set: &EndpointSet, local: Option<&LocalZones>) -> Self {
        let making = Making { balancing, overprovisioning: set.overprovisioning, local };
        let hosts: Vec<&Host> = set.hosts.iter().collect();
        let mut slot = 0;
        let all = Levels::new(making, &hosts, &mut slot);
        let subsets = balancing
            .subsets
            .as_ref()
            .map(|settings| Box::new(Subsets::new(settings, making, &hosts, &mut slot)));
        let reports = balancing.reports.as_ref().map(|reports| Instant::now() + reports.period);
        let until =
            set.hosts.iter().filter_map(|host| balancing.changes_at(&host.endpoint)).chain(reports).min();
        Self { all, subsets, until }
    }

    /// Whether traffic is kept in its zone.
    #[cfg(test)]
    pub(super) fn has_zones(&self) -> bool {
        self.all.has_zones()
    }

    /// How many subsets there are; how many of them `before` had not, and how many it had that are gone.
    pub(crate) fn subsets_since(&self, before: &Self) -> (usize, usize, usize) {
        match (&self.subsets, &before.subsets) {
            (Some(now), Some(before)) => now.since(Some(before)),
            (Some(now), None) => now.since(None),
            (None, _) => (0, 0, 0),
        }
    }

    /// See [`super::pick`].
    pub(super) fn pick(
        &self,
        chooser: Chooser<'_>,
        ask: &Ask<'_>,
        active: u64,
        cells: &ClusterCells,
    ) -> Option<Arc<Endpoint>> {
        let hash = ask.hash.unwrap_or_else(|| chooser.random.next());
        let choice = Choice { chooser, slot: 0, hash, active, attempt: 0 };
        match &self.subsets {
            None => self.all.pick(choice, ask, cells),
            Some(subsets) => subsets.pick(&self.all, choice, ask, cells),
        }
        .map(Arc::clone)
    }
}
