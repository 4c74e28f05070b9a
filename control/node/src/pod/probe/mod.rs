//! Probes: is a container started, alive, ready?

mod check;
mod tracker;

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::{Container as Spec, Probe};
use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};
use tokio_util::task::AbortOnDropHandle;

pub(crate) use self::check::{Checker, Failure};
use self::tracker::{Settings, Tracker, Verdict};

/// The probes of one running instance. Dropping it ends them.
#[derive(Debug)]
pub(crate) struct Prober {
    state: Arc<Mutex<Health>>,
    _task: AbortOnDropHandle<()>,
}

/// What the probes say now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Health {
    /// The startup probe has succeeded, or there is none.
    pub(crate) started: bool,
    /// The readiness probe says so, or there is none.
    pub(crate) ready: bool,
    /// Why the container must be started again.
    pub(crate) failed: Option<String>,
}

/// Which probe; also its word in events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Startup,
    Liveness,
    Readiness,
}

/// Is told about each failed probe, for events.
pub(crate) type OnFailure = Arc<dyn Fn(Kind, &Failure) + Send + Sync>;

// === impl Prober ===

impl Prober {
    /// Starts the probes of an instance that runs since `started_at`. `known` is what an earlier agent reported, so
    /// that a restart of the agent does not take ready pods out of service.
    pub(crate) fn start(
        container: &Spec,
        checker: Checker,
        started_at: Instant,
        known: Option<Health>,
        changed: Arc<Notify>,
        on_failure: OnFailure,
    ) -> Self {
        let health = known.unwrap_or_else(|| Health {
            started: container.startup_probe.is_none(),
            ready: container.startup_probe.is_none() && container.readiness_probe.is_none(),
            failed: None,
        });
        let state = Arc::new(Mutex::new(health));
        let run = Run {
            startup: container.startup_probe.clone(),
            liveness: container.liveness_probe.clone(),
            readiness: container.readiness_probe.clone(),
            checker,
            started_at,
            state: state.clone(),
            changed,
            on_failure,
        };
        let task = tokio::spawn(async move { run.all().await });
        Self { state, _task: AbortOnDropHandle::new(task) }
    }

    pub(crate) fn health(&self) -> Health {
        self.state.lock().clone()
    }
}

struct Run {
    startup: Option<Probe>,
    liveness: Option<Probe>,
    readiness: Option<Probe>,
    checker: Checker,
    started_at: Instant,
    state: Arc<Mutex<Health>>,
    changed: Arc<Notify>,
    on_failure: OnFailure,
}

// === impl Run ===

impl Run {
    async fn all(&self) {
        let started = self.state.lock().started;
        if let (Some(probe), false) = (&self.startup, started) {
            if !self.until_started(probe).await {
                return;
            }
            let ready = self.readiness.is_none();
            self.update(|health| {
                health.started = true;
                health.ready |= ready;
            });
        }
        tokio::join!(self.liveness(), self.readiness());
    }

    /// `false`: it never came up.
    async fn until_started(&self, probe: &Probe) -> bool {
        let mut verdict = None;
        self.repeat(Kind::Startup, probe, Tracker::new(Settings::of(probe), true), |change, _| {
            verdict = Some(change);
            false
        })
        .await;
        match verdict {
            Some(Verdict::Passing) => true,
            Some(Verdict::Failing) => {
                self.update(|health| health.failed = Some("failed startup probe".into()));
                false
            }
            None => false,
        }
    }

    async fn liveness(&self) {
        let Some(probe) = &self.liveness else { return };
        let tracker = Tracker::new(Settings::of(probe), false);
        self.repeat(Kind::Liveness, probe, tracker, |verdict, _| {
            if verdict == Verdict::Failing {
                self.update(|health| health.failed = Some("failed liveness probe".into()));
                return false;
            }
            true
        })
        .await;
    }

    async fn readiness(&self) {
        let Some(probe) = &self.readiness else { return };
        let tracker = Tracker::new(Settings::of(probe), true);
        self.repeat(Kind::Readiness, probe, tracker, |verdict, _| {
            self.update(|health| health.ready = verdict == Verdict::Passing);
            true
        })
        .await;
    }

    /// Probes until `on_change` says no more.
    async fn repeat(
        &self,
        kind: Kind,
        probe: &Probe,
        mut tracker: Tracker,
        mut on_change: impl FnMut(Verdict, &Tracker) -> bool,
    ) {
        let settings = Settings::of(probe);
        let first = self.started_at + settings.initial_delay;
        let mut next = first.max(Instant::now());
        loop {
            tokio::time::sleep_until(next).await;
            let at = Instant::now();
            let result = match tokio::time::timeout(settings.timeout, self.checker.check(probe)).await {
                Ok(result) => result,
                Err(_) => Err(Failure::timeout(settings.timeout)),
            };
            if let Err(failure) = &result
                && tracker.is_regular(at.saturating_duration_since(first))
            {
                (self.on_failure)(kind, failure);
            }
            let change = tracker.record(result.is_ok(), at.saturating_duration_since(first));
            if let Some(verdict) = change
                && !on_change(verdict, &tracker)
            {
                return;
            }
            next = first + tracker.next_at(Instant::now().saturating_duration_since(first));
        }
    }

    fn update(&self, change: impl FnOnce(&mut Health)) {
        let mut health = self.state.lock();
        let before = health.clone();
        change(&mut health);
        if *health != before {
            self.changed.notify_one();
        }
    }
}

impl Kind {
    /// As events name it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }
}

fn seconds(value: Option<i32>, default: u64) -> Duration {
    Duration::from_secs(value.and_then(|value| u64::try_from(value).ok()).unwrap_or(default))
}
