//! The node's Lease: its sign of life, and what keeps two agents from serving one name.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{Api, api::PostParams};
use tokio_util::sync::CancellationToken;

use crate::config::AgentConfig;

/// Renews one Lease.
#[derive(Debug)]
pub(super) struct NodeLease {
    api: Api<Lease>,
    node: String,
    holder: String,
    interval: Duration,
    duration: Duration,
}

/// The Lease is not ours.
#[derive(Debug, thiserror::Error)]
pub(super) enum LeaseError {
    #[error("held by {holder}, renewed {seconds} s ago")]
    Held { holder: String, seconds: i64 },
    #[error("the API server does not answer")]
    Api(#[source] kube::Error),
}

const NAMESPACE: &str = "kube-node-lease";
/// Attempts to write over somebody who writes at the same moment.
const CONFLICTS: u32 = 5;

// === impl NodeLease ===

impl NodeLease {
    pub(super) fn new(config: &AgentConfig, holder: String) -> Self {
        Self {
            api: Api::namespaced(config.client.clone(), NAMESPACE),
            node: config.node_name.clone(),
            holder,
            interval: config.timing.lease_renew,
            duration: config.timing.lease_duration,
        }
    }

    /// Takes or renews the Lease, unless another holder's is alive.
    pub(super) async fn acquire(&self) -> Result<(), LeaseError> {
        let mut conflicts = 0;
        loop {
            match self.try_acquire().await {
                Err(LeaseError::Api(kube::Error::Api(status)))
                    if status.code == 409 && conflicts < CONFLICTS =>
                {
                    conflicts += 1;
                }
                result => return result,
            }
        }
    }

    async fn try_acquire(&self) -> Result<(), LeaseError> {
        let now = Timestamp::now();
        let present = self.api.get_opt(&self.node).await.map_err(LeaseError::Api)?;
        let Some(mut lease) = present else {
            let lease = Lease {
                metadata: ObjectMeta { name: Some(self.node.clone()), ..ObjectMeta::default() },
                spec: Some(self.renewed(None, now)),
            };
            return self.api.create(&PostParams::default(), &lease).await.map(drop).map_err(LeaseError::Api);
        };
        let spec = lease.spec.take();
        if let Some(error) = spec.as_ref().and_then(|spec| self.held_by_other(spec, now)) {
            return Err(error);
        }
        lease.spec = Some(self.renewed(spec, now));
        // The resourceVersion makes this fail if another agent renewed between our two requests.
        self.api.replace(&self.node, &PostParams::default(), &lease).await.map(drop).map_err(LeaseError::Api)
    }

    fn held_by_other(&self, spec: &LeaseSpec, now: Timestamp) -> Option<LeaseError> {
        let holder =
            spec.holder_identity.as_deref().filter(|holder| !holder.is_empty() && *holder != self.holder)?;
        let age = now.duration_since(spec.renew_time.as_ref()?.0).as_secs();
        let lasts = i64::from(spec.lease_duration_seconds.unwrap_or(40));
        (age < lasts).then(|| LeaseError::Held { holder: holder.to_owned(), seconds: age })
    }

    fn renewed(&self, before: Option<LeaseSpec>, now: Timestamp) -> LeaseSpec {
        let before = before.unwrap_or_default();
        let ours = before.holder_identity.as_ref() == Some(&self.holder);
        LeaseSpec {
            holder_identity: Some(self.holder.clone()),
            lease_duration_seconds: Some(i32::try_from(self.duration.as_secs()).unwrap_or(i32::MAX).max(1)),
            renew_time: Some(MicroTime(now)),
            acquire_time: if ours { before.acquire_time } else { Some(MicroTime(now)) },
            lease_transitions: match (ours, before.lease_transitions) {
                (true, transitions) => transitions,
                (false, transitions) => Some(transitions.map_or(0, |transitions| transitions + 1)),
            },
            ..before
        }
    }

    /// Renews until `shutdown`. If another agent has taken the name, `lost` is cancelled: two agents that both think
    /// they are the node would run everything twice.
    pub(super) async fn renew(self, shutdown: CancellationToken, lost: CancellationToken) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(self.interval) => {}
                () = shutdown.cancelled() => return,
            }
            match tokio::time::timeout(self.interval, self.acquire()).await {
                Ok(Ok(())) => {}
                Ok(Err(error @ LeaseError::Held { .. })) => {
                    tracing::error!(%error, "another agent serves this node's name, stopping");
                    lost.cancel();
                    return;
                }
                // The workloads do not depend on it; the cluster will see us as lost until it works again.
                Ok(Err(error)) => {
                    tracing::warn!(error = weft_kit::error::chain(&error), "cannot renew the node's lease")
                }
                Err(_) => tracing::warn!("cannot renew the node's lease: no answer"),
            }
        }
    }
}
