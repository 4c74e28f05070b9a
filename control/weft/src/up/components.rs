//! The parts that only run: each owned here, each a reason to end when it ends by itself.

use anyhow::{Context as _, anyhow};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Tasks that live as long as the cluster.
#[derive(Debug)]
pub(super) struct Components {
    tasks: JoinSet<(&'static str, anyhow::Result<()>)>,
    shutdown: CancellationToken,
}

// === impl Components ===

impl Components {
    /// `shutdown` is what tells them to end.
    pub(super) fn new(shutdown: CancellationToken) -> Self {
        Self { tasks: JoinSet::new(), shutdown }
    }

    /// Runs a part that can fail.
    pub(super) fn spawn<E>(
        &mut self,
        name: &'static str,
        part: impl Future<Output = Result<(), E>> + Send + 'static,
    ) where
        E: std::error::Error + Send + Sync + 'static,
    {
        self.tasks.spawn(async move { (name, part.await.map_err(anyhow::Error::new)) });
    }

    /// Runs a part that cannot.
    pub(super) fn spawn_infallible(
        &mut self,
        name: &'static str,
        part: impl Future<Output = ()> + Send + 'static,
    ) {
        self.tasks.spawn(async move {
            part.await;
            (name, Ok(()))
        });
    }

    /// Resolves when a part ends that was not told to: the cluster is not whole without it.
    pub(super) async fn failure(&mut self) -> anyhow::Error {
        match self.tasks.join_next().await {
            Some(Ok((name, outcome))) => match outcome.with_context(|| format!("the {name} failed")) {
                Ok(()) => anyhow!("the {name} ended by itself"),
                Err(error) => error,
            },
            Some(Err(error)) => anyhow!(error).context("a part of the cluster panicked"),
            // Nothing was spawned: nothing can fail.
            None => std::future::pending().await,
        }
    }

    /// Tells all to end and waits until they have.
    pub(super) async fn stop(mut self) {
        self.shutdown.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            match ended {
                Ok((_, Ok(()))) => {}
                Ok((name, Err(error))) => {
                    tracing::warn!(part = name, error = format!("{error:#}"), "a part ended badly")
                }
                Err(error) => tracing::warn!(%error, "a part panicked while it ended"),
            }
        }
    }
}
