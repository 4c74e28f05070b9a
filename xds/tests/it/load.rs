use std::{sync::Arc, time::Duration};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use weft_xds::{
    load::{ClusterLoad, EndpointLoad, LoadSink, LoadSource, ReportConfig, report},
    pb::envoy::config::core::v3::Node,
    server::SnapshotCache,
};

use crate::support::{PATIENCE, TestServer, node};

struct Source;

struct Sink(mpsc::UnboundedSender<(String, Vec<ClusterLoad>)>);

impl LoadSource for Source {
    fn collect(&self) -> Vec<ClusterLoad> {
        let endpoint = EndpointLoad {
            address: Some(([127, 0, 0, 1], 80).into()),
            issued: 7,
            succeeded: 5,
            errored: 1,
            in_progress: 1,
            latency: Duration::from_millis(250),
            ..Default::default()
        };
        vec![ClusterLoad { cluster: "web".into(), endpoints: vec![endpoint], ..Default::default() }]
    }
}

impl LoadSink for Sink {
    fn report(&self, node: &Node, loads: &[ClusterLoad]) {
        // The test may have seen enough.
        let _ = self.0.send((node.id.clone(), loads.to_vec()));
    }

    fn gone(&self, node: &Node) {
        let _ = self.0.send((node.id.clone(), Vec::new()));
    }
}

#[tokio::test]
async fn loads_arrive_as_they_were_counted_and_again_after_a_restart() {
    let (reports_tx, mut reports) = mpsc::unbounded_channel();
    let sink = Arc::new(Sink(reports_tx));
    let mut address = "127.0.0.1:0".parse().unwrap();
    let mut server = TestServer::start_at(address, &SnapshotCache::new(), sink.clone()).await;
    let stop = CancellationToken::new();
    let config = ReportConfig {
        backoff_base: Duration::from_millis(20),
        backoff_max: Duration::from_millis(50),
        ..ReportConfig::new(server.server(), node("one"))
    };
    let client = tokio::spawn(report(config, Source, stop.clone()));
    for _ in 0..2 {
        let (id, loads) = tokio::time::timeout(PATIENCE, reports.recv()).await.expect("a report").unwrap();
        assert_eq!(id, "one");
        let interval = loads[0].interval;
        assert!(interval >= Duration::from_millis(100), "{interval:?}");
        assert_eq!(loads, [ClusterLoad { interval, ..Source.collect().remove(0) }]);
        address = server.address;
        server.stop().await;
        while !tokio::time::timeout(PATIENCE, reports.recv())
            .await
            .expect("the end is told")
            .unwrap()
            .1
            .is_empty()
        {}
        server = TestServer::start_at(address, &SnapshotCache::new(), sink.clone()).await;
    }
    stop.cancel();
    tokio::time::timeout(PATIENCE, client).await.expect("the client stops when told").unwrap();
    server.stop().await;
}
