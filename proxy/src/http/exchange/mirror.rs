//! Sending a request to further clusters beside the one that answers it.
//!
//! # Guarantees
//! * A mirror never delays a request and never fails one: it is sent by a task of its own once the request is all there,
//!   and nobody looks at its answer.
//! * What waits to be sent takes no more memory than [`MOST_BODY`] for one request and [`MOST_WAITING`] for one data
//!   thread. What would take more is not mirrored, and counted.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;

use super::Exchange;
use crate::{
    callout::{Call, Keep},
    cluster::{Cluster, breaker::Priority},
    http::{
        body::{PumpError, Sink, Source, pump_seen},
        head::Head,
    },
    proxy_protocol::Addresses,
    route::{Forward, WeightedCluster},
    worker::Worker,
};

/// Longest body that is kept for mirrors: Envoy's default for what it buffers.
const MOST_BODY: usize = 1024 * 1024;

/// Of all requests to mirrors of a data thread that are on their way.
const MOST_WAITING: usize = 16 * 1024 * 1024;

/// How long a mirror may take where the route sets no limit.
const PATIENCE: Duration = Duration::from_secs(60);

/// A request that waits for its body, to go to mirrors then.
pub(super) struct Copies {
    worker: Rc<Worker>,
    client: Addresses,
    targets: Cell<Vec<Copy>>,
    timeout: Duration,
    /// `None` once it was too much.
    body: RefCell<Option<Vec<u8>>>,
}

/// The request to one mirror.
struct Copy {
    cluster: Arc<Cluster>,
    priority: Priority,
    head: Head,
}

/// Memory of a data thread that mirrors take; given back at the drop.
struct Taken {
    worker: Rc<Worker>,
    bytes: usize,
}

/// Moves the body of a request to its upstream, and to the copies.
pub(super) async fn pump_copied(
    source: &mut Source<'_>,
    sink: &mut Sink<'_>,
    copies: Option<&Copies>,
) -> Result<(), PumpError> {
    let seen = |data: &[u8]| {
        if let Some(copies) = copies {
            copies.take(data);
        }
    };
    pump_seen(source, sink, seen).await?;
    if let Some(copies) = copies {
        copies.send();
    }
    Ok(())
}

// === impl Exchange ===

impl Exchange<'_> {
    /// Draws the mirrors of this request, as it is sent on.
    pub(super) fn copies(
        &mut self,
        forward: &Forward,
        weighted: Option<&WeightedCluster>,
    ) -> Option<Box<Copies>> {
        if forward.mirrors.is_empty() || self.upgrade.is_some() {
            return None;
        }
        let host = self.rewritten_host(forward, weighted, "");
        self.note_original_host(host);
        let host = self.request.get_span(host).to_vec();
        let mut targets = Vec::new();
        for mirror in forward.mirrors.iter().filter(|mirror| mirror.is_drawn(&self.cx.worker)) {
            let Some(cluster) = mirror.cluster.get(self.request) else { continue };
            let mut head = self.request.duplicate();
            let host = head.intern(&mirror.host.of(&host));
            head.set_authority(host);
            targets.push(Copy { cluster, priority: forward.priority, head });
        }
        (!targets.is_empty()).then(|| {
            Box::new(Copies {
                worker: Rc::clone(&self.cx.worker),
                client: Addresses { source: self.cx.peer, destination: self.cx.local },
                targets: Cell::new(targets),
                timeout: forward.timeout.unwrap_or(PATIENCE),
                body: RefCell::new(Some(Vec::new())),
            })
        })
    }
}

// === impl Copies ===

impl Copies {
    /// Takes a piece of the body.
    pub(super) fn take(&self, data: &[u8]) {
        let mut body = self.body.borrow_mut();
        match &mut *body {
            Some(kept) if kept.len() + data.len() <= MOST_BODY => kept.extend_from_slice(data),
            _ => *body = None,
        }
    }

    /// The body was complete: sends the request to every mirror.
    pub(super) fn send(&self) {
        let body = self.body.take().map(Bytes::from);
        for copy in self.targets.take() {
            let bytes = copy.head.size() + body.as_ref().map_or(0, Bytes::len);
            let taken = body.as_ref().and_then(|_| Taken::take(&self.worker, bytes));
            let (Some(body), Some(taken)) = (body.clone(), taken) else {
                copy.cluster.stats.at(self.worker.index).rq_mirror_dropped.add(1);
                continue;
            };
            let (client, timeout) = (self.client, self.timeout);
            tokio::task::spawn_local(async move {
                let call = Call {
                    worker: &taken.worker,
                    cluster: &copy.cluster,
                    head: &copy.head,
                    body: &body,
                    priority: copy.priority,
                    hash: None,
                    client,
                    timeout: Some(timeout),
                    keep: Keep::Nothing,
                };
                // Whatever comes of it is in the counters of its cluster.
                let _ = call.send().await;
            });
        }
    }
}

// === impl Taken ===

impl Taken {
    fn take(worker: &Rc<Worker>, bytes: usize) -> Option<Self> {
        let sum = worker.mirrored_bytes.get() + bytes;
        (sum <= MOST_WAITING).then(|| {
            worker.mirrored_bytes.set(sum);
            Self { worker: Rc::clone(worker), bytes }
        })
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let sum = self.worker.mirrored_bytes.get();
        self.worker.mirrored_bytes.set(sum.saturating_sub(self.bytes));
    }
}
