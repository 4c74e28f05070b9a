//! The worker's loop.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use weft_kit::backoff::Backoff;

use super::{
    backoff::RestartBackoff, context::PodContext, probe::Prober, sources::Sources, volumes::VolumeError,
};
use crate::{
    config::StopMode,
    runtime::{PodRef, Role, RuntimeError},
    sidecar::{TokenError, TokenFile},
};

/// What a worker is to bring about.
#[derive(Debug, Clone)]
pub(crate) enum Intent {
    /// The pod as its object says; deletion included.
    Follow(Arc<Pod>),
    /// The object is gone: nothing may be left of the pod.
    Erase,
    /// The agent stops.
    Stop(StopMode),
}

/// Brings about one pod; see the [module of pods](super).
pub(crate) struct Worker {
    pub(super) ctx: Arc<PodContext>,
    pub(super) pod: PodRef,
    intents: watch::Receiver<Intent>,
    /// Notified when the runtime or a probe saw a change.
    pub(super) wake: Arc<Notify>,
    /// When to look again although nobody tells us to.
    next: Instant,
    /// Probes of running instances, by container id.
    pub(super) probers: HashMap<String, Prober>,
    pub(super) backoff: RestartBackoff,
    /// Why containers that should run have no running instance.
    pub(super) waiting: HashMap<(Role, String), Waiting>,
    /// Instances that are being stopped because a probe said so.
    pub(super) stopping: HashSet<String>,
    /// Id of the sidecar that was seen ready.
    pub(super) ready_sidecar: Option<String>,
    /// With which the sidecar asks mesh control; `None` until one is needed.
    pub(super) sidecar_token: Option<TokenFile>,
    /// Why the pod as a whole failed.
    pub(super) failure: Option<(&'static str, String)>,
    /// The pod is ended for good: what has ended is not started again.
    pub(super) stopping_for_good: bool,
    /// The object as it was seen last.
    pub(super) followed: Option<Arc<Pod>>,
    pub(super) start_time: Timestamp,
    /// The status that the API server has from us.
    pub(super) reported: Option<PodStatus>,
    /// The address that the object's annotation is known to have.
    pub(super) annotated: bool,
    /// What was said once and need not be said again.
    pub(super) told: HashSet<&'static str>,
    /// When the files of volumes were brought up to date.
    pub(super) volumes_at: Instant,
    errors: Backoff,
}

/// A container that cannot run now.
#[derive(Debug, Clone)]
pub(super) struct Waiting {
    pub(super) reason: &'static str,
    pub(super) message: String,
    /// Failed attempts in a row.
    pub(super) failures: u32,
    pub(super) retry_at: Timestamp,
}

/// Why a look at a pod could not be finished. It is tried again.
#[derive(Debug, thiserror::Error)]
pub(super) enum SyncError {
    #[error("the runtime failed")]
    Runtime(#[from] RuntimeError),
    #[error("cannot {action} the pod")]
    Api {
        action: &'static str,
        #[source]
        source: kube::Error,
    },
    #[error("cannot read what the pod refers to")]
    Sources(#[source] kube::Error),
    #[error("cannot make the pod's volumes")]
    Volume(#[from] VolumeError),
    #[error("cannot write the sidecar's bootstrap")]
    Bootstrap(#[source] std::io::Error),
    #[error("cannot get a token for the sidecar")]
    Token(#[source] TokenError),
}

/// The wait after a failed look.
const RETRY_BASE: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(20);

// === impl Worker ===

impl Worker {
    pub(crate) fn new(
        ctx: Arc<PodContext>,
        pod: PodRef,
        intents: watch::Receiver<Intent>,
        wake: Arc<Notify>,
    ) -> Self {
        Self {
            ctx,
            pod,
            intents,
            wake,
            next: Instant::now(),
            probers: HashMap::new(),
            backoff: RestartBackoff::default(),
            waiting: HashMap::new(),
            stopping: HashSet::new(),
            ready_sidecar: None,
            sidecar_token: None,
            failure: None,
            stopping_for_good: false,
            followed: None,
            start_time: Timestamp::now(),
            reported: None,
            annotated: false,
            told: HashSet::new(),
            volumes_at: Instant::now(),
            errors: Backoff::new(RETRY_BASE, RETRY_MAX),
        }
    }

    /// Works until the pod is gone or the agent stops.
    #[tracing::instrument(name = "pod", skip_all, fields(pod = %self.pod))]
    pub(crate) async fn run(mut self) {
        loop {
            self.next = Instant::now() + self.ctx.timing.resync;
            let intent = self.intents.borrow_and_update().clone();
            if let Intent::Follow(pod) = &intent {
                self.followed = Some(pod.clone());
            }
            let result = match intent {
                Intent::Follow(pod) if pod.metadata.deletion_timestamp.is_some() => {
                    self.terminate(&pod).await
                }
                Intent::Follow(pod) => self.sync(&pod).await,
                Intent::Erase => match self.erase().await {
                    Ok(()) => return,
                    Err(error) => Err(error),
                },
                Intent::Stop(StopMode::Detach) => return,
                Intent::Stop(StopMode::Drain) => match self.stop_for_good().await {
                    Ok(()) => return,
                    Err(error) => Err(error),
                },
            };
            match result {
                Ok(()) => self.errors.reset(),
                Err(error) => {
                    tracing::warn!(
                        error = weft_kit::error::chain(&error),
                        "pod is not as it should be, trying again"
                    );
                    let delay = self.errors.next_delay();
                    self.look_again_in(delay);
                }
            }
            tokio::select! {
                changed = self.intents.changed() => if changed.is_err() { return },
                () = self.wake.notified() => {}
                () = tokio::time::sleep_until(self.next) => {}
            }
        }
    }

    /// The next look comes no later than that.
    pub(super) fn look_again_in(&mut self, delay: Duration) {
        self.next = self.next.min(Instant::now() + delay);
    }

    /// The same for a moment of the wall clock.
    pub(super) fn look_again_at(&mut self, time: Timestamp) {
        let delay = Duration::try_from(time.duration_since(Timestamp::now())).unwrap_or(Duration::ZERO);
        self.look_again_in(delay);
    }

    /// Runs something that may take long and that nothing depends on; `None` if the pod is to end meanwhile. Only for
    /// futures that leave nothing half done when dropped.
    pub(super) async fn unless_ending<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut intents = self.intents.clone();
        tokio::select! {
            result = work => Some(result),
            _ = intents.wait_for(is_ending) => None,
        }
    }

    /// Resolves when the object is gone or the agent stops: the grace period of before does not count any more.
    pub(super) fn abandoned(&self) -> impl Future<Output = ()> + use<> {
        self.once(|intent| matches!(intent, Intent::Erase | Intent::Stop(_)))
    }

    /// Resolves when that holds of what is to become of the pod.
    pub(super) fn once<H: Fn(&Intent) -> bool>(&self, holds: H) -> impl Future<Output = ()> + use<H> {
        let mut intents = self.intents.clone();
        async move {
            let _ = intents.wait_for(|intent| holds(intent)).await;
        }
    }

    pub(super) async fn sources(&self, pod: &Pod) -> Result<Sources, SyncError> {
        Sources::fetch(&self.ctx.client, pod).await.map_err(SyncError::Sources)
    }

    /// Whether this is the first time that it is said.
    pub(super) fn first_time(&mut self, what: &'static str) -> bool {
        self.told.insert(what)
    }
}

fn is_ending(intent: &Intent) -> bool {
    match intent {
        Intent::Follow(pod) => pod.metadata.deletion_timestamp.is_some(),
        Intent::Erase | Intent::Stop(_) => true,
    }
}
