//! Both ends with a service for each type.

use std::collections::BTreeSet;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use weft_xds::{
    Rejected, ResourceType, ResourceUpdate, Subscriptions,
    client::{ClientConfig, ConfigSink, Protocol, Service, run},
    server::SnapshotCache,
};

use crate::support::{PATIENCE, TestServer, node, snapshot};

/// Tells of what it is given, and wants one type.
pub(crate) struct Telling {
    pub(crate) wanted: Subscriptions,
    pub(crate) updates: mpsc::UnboundedSender<ResourceUpdate>,
}

impl ConfigSink for Telling {
    fn apply(&mut self, update: ResourceUpdate) -> Result<(), Vec<Rejected>> {
        // Whoever listened may have seen enough.
        let _ = self.updates.send(update);
        Ok(())
    }

    fn wanted(&self) -> Subscriptions {
        self.wanted.clone()
    }
}

/// What `web` is of one type, or all there is.
pub(crate) fn wanting(type_: ResourceType) -> Subscriptions {
    let name: BTreeSet<_> = ["web".to_owned()].into();
    let mut wanted = Subscriptions { all_clusters: false, all_listeners: false, ..Default::default() };
    match type_ {
        ResourceType::Cluster => wanted.all_clusters = true,
        ResourceType::Listener => wanted.all_listeners = true,
        ResourceType::ClusterLoadAssignment => wanted.endpoints = name,
        ResourceType::RouteConfiguration => wanted.routes = name,
        other => panic!("{other} is not in the world of this test"),
    }
    wanted
}

#[tokio::test]
async fn each_type_is_served_on_a_service_of_its_own() {
    let cache = SnapshotCache::new();
    let address = ([127, 0, 0, 1], 1).into();
    cache.set("one", snapshot(address, address));
    let server = TestServer::start(&cache).await;
    for protocol in [Protocol::Delta, Protocol::Sotw] {
        for type_ in [
            ResourceType::Cluster,
            ResourceType::ClusterLoadAssignment,
            ResourceType::Listener,
            ResourceType::RouteConfiguration,
        ] {
            let (updates, mut told) = mpsc::unbounded_channel();
            let stop = CancellationToken::new();
            let mut config = ClientConfig::new(server.server(), node("one"));
            config.protocol = protocol;
            config.service = Service::Only(type_);
            let sink = Telling { wanted: wanting(type_), updates };
            let client = tokio::spawn(run(config, sink, stop.clone()));
            let update = tokio::time::timeout(PATIENCE, told.recv()).await.expect("an update").expect("one");
            assert_eq!((update.type_, update.upserts.len()), (type_, 1), "{protocol:?}");
            assert_eq!(update.upserts[0].name, "web", "{protocol:?} {type_}");
            stop.cancel();
            client.await.expect("the client ends");
        }
    }
    server.stop().await;
}
