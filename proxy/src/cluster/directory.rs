//! Finding clusters by names that are only known when a request is there.

use std::{collections::HashMap, sync::Arc};

use arc_swap::ArcSwap;

use super::{Cluster, ClusterSlot};
use crate::http::head::Head;

/// All clusters by name. Data threads look; the configuration puts a new map in place when a cluster comes or goes.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    clusters: ArcSwap<HashMap<Vec<u8>, Arc<ClusterSlot>>>,
}

/// Which cluster is meant.
#[derive(Debug)]
pub(crate) enum ClusterRef {
    Named(Arc<ClusterSlot>),
    /// The one that this field of the request names.
    Header {
        field: Vec<u8>,
        directory: Arc<Directory>,
    },
}

// === impl Directory ===

impl Directory {
    pub(crate) fn set<'n>(&self, clusters: impl Iterator<Item = (&'n String, &'n Arc<ClusterSlot>)>) {
        let clusters = clusters.map(|(name, slot)| (name.clone().into_bytes(), Arc::clone(slot)));
        self.clusters.store(Arc::new(clusters.collect()));
    }
}

// === impl ClusterRef ===

impl ClusterRef {
    /// The cluster for a request, if there is one.
    pub(crate) fn get(&self, request: &Head) -> Option<Arc<Cluster>> {
        match self {
            Self::Named(slot) => slot.get(),
            Self::Header { directory, .. } => directory.clusters.load().get(self.name(request)?)?.get(),
        }
    }

    /// The name of the cluster for a request, whether it is there or not.
    pub(crate) fn name<'n>(&'n self, request: &'n Head) -> Option<&'n [u8]> {
        match self {
            Self::Named(slot) => Some(slot.name().as_bytes()),
            Self::Header { field, .. } => match field.as_slice() {
                b":authority" => Some(request.authority()),
                field => request.get(field),
            },
        }
    }
}
