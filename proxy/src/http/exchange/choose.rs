//! Which endpoint an attempt goes to, and by which connection.

use std::{rc::Rc, sync::Arc};

use super::{Exchange, attempt::Try};
use crate::{
    balance::{Ask, Chooser, pick, pinned},
    cluster::{Cluster, Discovery, endpoint::Endpoint},
    pool::{ClusterLocal, Wanted},
    proxy_protocol::Addresses,
    route::{
        Forward,
        affinity::{self, Affine, Between},
    },
};

impl Exchange<'_> {
    /// Where the next attempt goes; `None` if there is nothing to choose from.
    pub(super) fn choose(
        &self,
        cluster: &Arc<Cluster>,
        local: &Rc<ClusterLocal>,
        ask: &Ask<'_>,
    ) -> Option<Arc<Endpoint>> {
        let worker = &self.cx.worker;
        // What failed where it belongs may be tried elsewhere.
        if let Some(session) = self.record.session.as_ref().filter(|_| ask.tried.is_empty())
            && let Some(address) = session.wanted
        {
            let found = pinned(cluster, address);
            if found.is_some() || session.strict {
                return found;
            }
        }
        match &cluster.discovery {
            Discovery::OriginalDst { port_override } => {
                // Without a redirect the "original destination" is ourselves: forwarding there would never end.
                self.cx.original().map(|mut address| {
                    if let Some(port) = port_override {
                        address.set_port(*port);
                    }
                    worker.pools.original(local, address)
                })
            }
            _ => {
                let chooser = Chooser { turns: &local.turns, random: &worker.random, worker: worker.index };
                pick(cluster, chooser, ask)
            }
        }
    }

    /// What the route's affinity makes of this request.
    pub(super) fn affine(&self, forward: &Forward) -> Affine {
        let connection = || format!("{}{}", self.cx.peer, self.cx.local);
        let between = Between { source: self.cx.peer.ip().to_canonical(), connection: &connection };
        affinity::of(&forward.affinity, self.request, between)
    }

    /// What an attempt wants from the pool.
    pub(super) fn wanted<'w>(&'w self, local: &'w Rc<ClusterLocal>, attempt: &'w Try<'_>) -> Wanted<'w> {
        Wanted {
            cluster: attempt.cluster,
            local,
            endpoint: attempt.endpoint,
            worker: self.cx.worker.index,
            timer: self.timer,
            client: Addresses { source: self.cx.peer, destination: self.cx.local },
            fresh: attempt.fresh,
            priority: attempt.forward.priority,
        }
    }
}
