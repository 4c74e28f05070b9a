//! From readings to actions.

use std::{io, sync::Arc, time::Duration};

use super::{Action, MonitorStats};
use crate::worker::Shared;

/// Something that can run out.
pub(crate) trait Monitor: Send {
    /// How much of it is used, from 0 to 1 and beyond.
    fn pressure(&mut self) -> io::Result<f64>;
}

/// When an action is taken.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Trigger {
    /// Fully from this pressure on.
    Threshold(f64),
    /// In proportion between the two, fully from the second on.
    Scaled { from: f64, to: f64 },
}

/// An action that one monitor asks for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rule {
    pub(crate) action: Action,
    /// Index of the monitor.
    pub(crate) monitor: usize,
    pub(crate) trigger: Trigger,
}

/// Reads monitors and decides.
pub(crate) struct Manager {
    pub(crate) refresh: Duration,
    /// By name.
    pub(crate) monitors: Vec<(String, Box<dyn Monitor>)>,
    pub(crate) rules: Vec<Rule>,
    /// By monitor; the pressure of one that cannot be read stays what it was.
    readings: Vec<(f64, MonitorStats)>,
}

// === impl Manager ===

impl Manager {
    pub(crate) fn new(
        refresh: Duration,
        monitors: Vec<(String, Box<dyn Monitor>)>,
        rules: Vec<Rule>,
    ) -> Self {
        let readings = monitors
            .iter()
            .map(|(name, _)| (0.0, MonitorStats { name: name.clone(), ..MonitorStats::default() }))
            .collect();
        Self { refresh, monitors, rules, readings }
    }

    /// Decides again and again, for as long as it is polled.
    pub(crate) async fn run(mut self, shared: Arc<Shared>) {
        let mut interval = tokio::time::interval(self.refresh);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            self.decide(&shared);
        }
    }

    /// Reads every monitor once and puts down what follows.
    pub(crate) fn decide(&mut self, shared: &Shared) {
        for ((name, monitor), (pressure, stats)) in self.monitors.iter_mut().zip(&mut self.readings) {
            match monitor.pressure() {
                Ok(now) => {
                    *pressure = now;
                    stats.pressure = (now * 100.0) as u64;
                }
                Err(error) => {
                    tracing::warn!(monitor = %name, %error, "cannot read a resource monitor");
                    stats.failed_updates += 1;
                }
            }
        }
        for action in Action::ALL {
            let level = self
                .rules
                .iter()
                .filter(|rule| rule.action == action)
                .filter_map(|rule| Some(rule.trigger.level(self.readings.get(rule.monitor)?.0)))
                .fold(0.0, f64::max);
            shared.overload.set_level(action, level);
        }
        shared.overload.set_monitors(self.readings.iter().map(|(_, stats)| stats.clone()).collect());
    }
}

// === impl Trigger ===

impl Trigger {
    fn level(self, pressure: f64) -> f64 {
        match self {
            Self::Threshold(threshold) => f64::from(u8::from(pressure >= threshold)),
            Self::Scaled { from, to } => ((pressure - from) / (to - from)).clamp(0.0, 1.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::drain::DrainPlan;

    /// Says one after the other; then it cannot be read.
    struct Scripted(Vec<f64>);

    impl Monitor for Scripted {
        fn pressure(&mut self) -> io::Result<f64> {
            if self.0.is_empty() { Err(io::Error::other("gone")) } else { Ok(self.0.remove(0)) }
        }
    }

    fn manager(readings: &[f64], rules: Vec<Rule>) -> Manager {
        let monitor: Box<dyn Monitor> = Box::new(Scripted(readings.to_vec()));
        Manager::new(Duration::from_millis(250), vec![("memory".to_owned(), monitor)], rules)
    }

    #[test]
    fn actions_follow_the_pressure_up_and_down() {
        let rule = |action, trigger| Rule { action, monitor: 0, trigger };
        let mut manager = manager(
            &[0.5, 0.92, 0.96, 0.94, 0.1],
            vec![
                rule(Action::DisableKeepalive, Trigger::Threshold(0.92)),
                rule(Action::StopAcceptingRequests, Trigger::Scaled { from: 0.9, to: 1.0 }),
            ],
        );
        let shared = Shared::new(1, DrainPlan::default());
        let mut seen = Vec::new();
        for _ in 0..5 {
            manager.decide(&shared);
            let level = |action| (shared.overload.level(action) * 100.0).round() as u64;
            seen.push((level(Action::DisableKeepalive), level(Action::StopAcceptingRequests)));
        }
        assert_eq!(seen, [(0, 0), (100, 20), (100, 60), (100, 40), (0, 0)]);
    }

    #[test]
    fn a_monitor_that_cannot_be_read_changes_nothing_and_is_counted() {
        let rule = Rule { action: Action::RejectConnections, monitor: 0, trigger: Trigger::Threshold(0.5) };
        let mut manager = manager(&[0.6], vec![rule]);
        let shared = Shared::new(1, DrainPlan::default());
        manager.decide(&shared);
        manager.decide(&shared);
        assert!(shared.overload.is_saturated(Action::RejectConnections));
        let stats = shared.overload.monitors();
        assert_eq!((stats[0].pressure, stats[0].failed_updates), (60, 1));
    }
}
