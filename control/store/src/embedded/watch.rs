//! A watch is a position in the shared history: a slow reader costs no memory of its own.

use std::{collections::VecDeque, sync::Arc};

use futures::{StreamExt as _, stream};
use tokio::sync::watch;

use super::Shared;
use crate::{
    error::{ReadError, WatchError},
    store::EventStream,
    types::{Event, Revision},
};

/// Events taken from the history at one go; bounds how long the lock is held.
const CHUNK: usize = 256;

struct Watch {
    shared: Arc<Shared>,
    prefix: Box<str>,
    /// Everything up to here was looked at.
    position: Revision,
    pending: VecDeque<Arc<Event>>,
    newest: watch::Receiver<Revision>,
}

pub(super) fn start(
    shared: &Arc<Shared>,
    newest: watch::Receiver<Revision>,
    prefix: &str,
    after: Revision,
) -> Result<EventStream, ReadError> {
    shared.state.read().check_compacted(after)?;
    let watch = Watch {
        shared: shared.clone(),
        prefix: prefix.into(),
        position: after,
        pending: VecDeque::new(),
        newest,
    };
    Ok(stream::unfold(Some(watch), |watch| async move {
        let mut watch = watch?;
        match watch.next().await {
            Ok(Some(event)) => Some((Ok(event), Some(watch))),
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    })
    .boxed())
}

impl Watch {
    /// The next event; `None` when the store has closed.
    async fn next(&mut self) -> Result<Option<Arc<Event>>, WatchError> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return Ok(Some(event));
            }
            let position = self.position;
            let open = self.newest.wait_for(|newest| *newest > position).await.is_ok();
            let before = self.position;
            self.fill()?;
            if !open && self.position == before {
                return Ok(None);
            }
        }
    }

    fn fill(&mut self) -> Result<(), WatchError> {
        let state = self.shared.state.read();
        if self.position < state.compacted() {
            return Err(WatchError::Compacted { requested: self.position, oldest: state.compacted() });
        }
        for event in state.events_after(self.position).take(CHUNK) {
            if event.key.starts_with(&*self.prefix) {
                self.pending.push_back(event.clone());
            }
            self.position = event.revision;
        }
        Ok(())
    }
}
