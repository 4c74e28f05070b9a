//! 4: `kill -9` of control during 1,000 concurrent writes loses nothing that was acknowledged.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, ensure};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, ResourceExt as _,
    api::{ListParams, ObjectMeta, PostParams},
};
use tokio::task::JoinSet;
use weft_tests::{
    cluster::{Cluster, Runtime},
    measured, serial,
};

const WRITERS: usize = 1_000;

/// How many acknowledgements there are before the kill: enough that batches are full, far from all.
const KILL_AFTER: usize = 300;

#[tokio::test(flavor = "multi_thread")]
async fn every_acknowledged_object_is_there_after_kill_9() -> anyhow::Result<()> {
    let _serial = serial().await;
    let mut cluster = Cluster::up(Runtime::Process, false).await?;
    let maps: Api<ConfigMap> = Api::default_namespaced(cluster.client().await?);
    let count = Arc::new(AtomicUsize::new(0));
    let mut writers = JoinSet::new();
    for number in 0..WRITERS {
        let (maps, count) = (maps.clone(), count.clone());
        writers.spawn(async move {
            let map = ConfigMap {
                metadata: ObjectMeta { name: Some(format!("write-{number}")), ..ObjectMeta::default() },
                data: Some(BTreeMap::from([("number".to_owned(), number.to_string())])),
                ..ConfigMap::default()
            };
            let created = maps.create(&PostParams::default(), &map).await.ok()?;
            count.fetch_add(1, Ordering::Relaxed);
            Some((created.name_any(), created.metadata.uid))
        });
    }
    while count.load(Ordering::Relaxed) < KILL_AFTER {
        ensure!(!writers.is_empty(), "no writer is left");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    cluster.kill().await?;
    let mut acknowledged = Vec::new();
    // Writers whose server is gone may try for long; those that were answered were answered before.
    let collect = async {
        while let Some(outcome) = writers.join_next().await {
            acknowledged.extend(outcome.ok().flatten());
        }
    };
    tokio::time::timeout(Duration::from_secs(10), collect).await.ok();
    writers.abort_all();
    measured!("{} of {WRITERS} concurrent writes were acknowledged before kill -9", acknowledged.len());
    ensure!(acknowledged.len() >= KILL_AFTER, "only {} answers were read", acknowledged.len());

    cluster.start().await?;
    let maps: Api<ConfigMap> = Api::default_namespaced(cluster.client().await?);
    let there: BTreeMap<String, ConfigMap> =
        maps.list(&ListParams::default()).await?.items.into_iter().map(|map| (map.name_any(), map)).collect();
    for (name, uid) in &acknowledged {
        let map = there.get(name).with_context(|| format!("{name} was acknowledged and is gone"))?;
        ensure!(map.metadata.uid == *uid, "{name} is another object");
        let number = map.data.as_ref().and_then(|data| data.get("number"));
        ensure!(number.is_some_and(|number| *name == format!("write-{number}")), "{name} holds {number:?}");
    }
    let unacknowledged = there.keys().filter(|name| name.starts_with("write-")).count() - acknowledged.len();
    measured!("all of them are there; {unacknowledged} more were written and not acknowledged in time");
    Ok(())
}
