//! Shedding load before the kernel ends the process.
//!
//! A task of the control runtime reads the monitors and puts down how strongly each action is wanted. Data threads read
//! that number with one relaxed load and nothing else.
//!
//! Without an `overload_manager` in the bootstrap, and with a memory limit on the process's control group, the monitor is
//! `cgroup_memory`: at 92 % connections are no longer kept alive, at 95 % requests are answered 503 and nothing is accepted.
//! An `overload_manager`, also an empty one, takes the place of that.

pub(crate) mod manager;
pub(crate) mod memory;
pub(crate) mod tidy;

use std::sync::{
    Arc,
    atomic::{AtomicU32, AtomicU64, Ordering},
};

use parking_lot::Mutex;

use crate::{balance::Random, cluster::breaker::Permit};

/// What can be done about too much load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Each response ends its connection.
    DisableKeepalive,
    /// Requests are answered 503.
    StopAcceptingRequests,
    /// Connections wait in the listening sockets.
    StopAcceptingConnections,
    /// Connections are closed as soon as they are accepted.
    RejectConnections,
}

/// What the data threads read.
#[derive(Debug)]
pub(crate) struct Overload {
    /// By [`Action`], from 0 to [`FULL`].
    levels: [AtomicU32; 4],
    /// Client connections of all listeners, if they are counted.
    connections: Arc<AtomicU64>,
    /// Largest number of them; `u64::MAX` is no limit.
    max_connections: AtomicU64,
    /// What the monitors said last; never read by data threads.
    monitors: Mutex<Vec<MonitorStats>>,
}

/// What a monitor said last.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct MonitorStats {
    pub(crate) name: String,
    /// In per cent.
    pub(crate) pressure: u64,
    pub(crate) failed_updates: u64,
}

/// Why a connection is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    Overload,
    TooMany,
}

/// An action that is wanted always and not only now and then.
const FULL: u32 = 10_000;

// === impl Action ===

impl Action {
    pub(crate) const ALL: [Self; 4] = [
        Self::DisableKeepalive,
        Self::StopAcceptingRequests,
        Self::StopAcceptingConnections,
        Self::RejectConnections,
    ];

    /// Envoy's name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::DisableKeepalive => "envoy.overload_actions.disable_http_keepalive",
            Self::StopAcceptingRequests => "envoy.overload_actions.stop_accepting_requests",
            Self::StopAcceptingConnections => "envoy.overload_actions.stop_accepting_connections",
            Self::RejectConnections => "envoy.overload_actions.reject_incoming_connections",
        }
    }
}

// === impl Overload ===

impl Overload {
    /// Whether an action is to be taken now. Between nothing and everything it is taken so often.
    pub(crate) fn wants(&self, action: Action, random: &Random) -> bool {
        match self.levels[action as usize].load(Ordering::Relaxed) {
            0 => false,
            level => level >= FULL || random.below(FULL as usize) < level as usize,
        }
    }

    /// Whether an action is to be taken without exception.
    pub(crate) fn is_saturated(&self, action: Action) -> bool {
        self.levels[action as usize].load(Ordering::Relaxed) >= FULL
    }

    /// Takes in a connection; the permit lasts as long as it.
    pub(crate) fn admit(&self, random: &Random) -> Result<Option<Permit>, Refusal> {
        if self.wants(Action::RejectConnections, random) {
            return Err(Refusal::Overload);
        }
        match self.max_connections.load(Ordering::Relaxed) {
            // Where nothing is limited nothing is shared between the workers either.
            u64::MAX => Ok(None),
            max => Permit::take(&self.connections, max).map(Some).ok_or(Refusal::TooMany),
        }
    }

    /// How strongly an action is wanted, from 0 to 1.
    pub(crate) fn level(&self, action: Action) -> f64 {
        f64::from(self.levels[action as usize].load(Ordering::Relaxed)) / f64::from(FULL)
    }

    pub(crate) fn monitors(&self) -> Vec<MonitorStats> {
        self.monitors.lock().clone()
    }

    pub(crate) fn limit_connections(&self, max: u64) {
        self.max_connections.store(max, Ordering::Relaxed);
    }

    fn set_level(&self, action: Action, level: f64) {
        let level = (level.clamp(0.0, 1.0) * f64::from(FULL)) as u32;
        let before = self.levels[action as usize].swap(level, Ordering::Relaxed);
        if (before == 0) != (level == 0) {
            tracing::warn!(action = action.name(), active = level != 0, "overload action");
        }
    }

    fn set_monitors(&self, monitors: Vec<MonitorStats>) {
        *self.monitors.lock() = monitors;
    }
}

impl Default for Overload {
    fn default() -> Self {
        Self {
            levels: Default::default(),
            connections: Arc::default(),
            max_connections: AtomicU64::new(u64::MAX),
            monitors: Mutex::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_how_often_an_action_is_taken() {
        let overload = Overload::default();
        let random = Random::new(1);
        let taken = |level| {
            overload.set_level(Action::DisableKeepalive, level);
            (0..10_000).filter(|_| overload.wants(Action::DisableKeepalive, &random)).count()
        };
        assert_eq!(taken(0.0), 0);
        assert_eq!(taken(1.0), 10_000);
        assert!((4_000..6_000).contains(&taken(0.5)));
        assert!(!overload.wants(Action::RejectConnections, &random), "the others are not touched");
    }

    #[test]
    fn connections_are_limited_over_all_listeners() {
        let overload = Overload::default();
        let random = Random::new(1);
        assert!(matches!(overload.admit(&random), Ok(None)));
        overload.limit_connections(1);
        let first = overload.admit(&random);
        assert!(matches!(first, Ok(Some(_))));
        assert!(matches!(overload.admit(&random), Err(Refusal::TooMany)));
        drop(first);
        assert!(overload.admit(&random).is_ok());
    }
}
