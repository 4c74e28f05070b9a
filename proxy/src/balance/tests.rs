use std::{collections::HashMap, sync::atomic::Ordering, time::Duration};

use super::*;
use crate::{
    cluster::{
        Discovery, Http2Settings, UpstreamProtocol,
        breaker::{Breaker, Limits},
        endpoint::{HostConfig, Status},
    },
    metrics::PerWorker,
};

fn cluster(policy: Policy, weights: &[u32]) -> Cluster {
    let hosts: Vec<HostConfig> = weights
        .iter()
        .enumerate()
        .map(|(index, weight)| HostConfig {
            address: ([127, 0, 0, 1], 1000 + index as u16).into(),
            hostname: String::new(),
            weight: *weight,
            status: Status::Healthy,
            zone: Arc::default(),
        })
        .collect();
    Cluster {
        id: 1,
        name: "test".into(),
        discovery: Discovery::Static,
        connect_timeout: Duration::from_secs(5),
        protocol: UpstreamProtocol::Http1,
        http2: Http2Settings::default(),
        policy,
        panic_threshold: 50.0,
        idle_timeout: None,
        max_requests_per_connection: None,
        keepalive: None,
        breaker: Breaker::new(Limits::default()),
        outlier: None,
        health_checks: Vec::new(),
        endpoints: arc_swap::ArcSwap::from_pointee(EndpointSet::new(&hosts, &EndpointSet::default())),
        stats: Arc::new(PerWorker::new(1)),
    }
}

fn pick_many(cluster: &Cluster, count: usize) -> HashMap<u16, usize> {
    let (turn, random) = (Cell::new(0), Random::new(7));
    let mut counts = HashMap::new();
    for _ in 0..count {
        let endpoint = pick(cluster, &cluster.endpoints.load(), &turn, &random, &[]).expect("one is fit");
        *counts.entry(endpoint.address.port()).or_default() += 1;
    }
    counts
}

#[test]
fn round_robin_gives_each_its_weight() {
    assert_eq!(
        pick_many(&cluster(Policy::RoundRobin, &[1, 1, 1]), 300),
        HashMap::from([(1000, 100), (1001, 100), (1002, 100)])
    );
    assert_eq!(
        pick_many(&cluster(Policy::RoundRobin, &[1, 3]), 400),
        HashMap::from([(1000, 100), (1001, 300)])
    );
}

#[test]
fn the_weighted_order_is_smooth() {
    assert_eq!(schedule(&[2, 4, 2]), [1, 0, 2, 1]);
    assert!(schedule(&[1, 1_000_000]).len() <= 1025);
}

#[test]
fn peak_ewma_avoids_the_slow_and_the_busy() {
    let cluster = cluster(Policy::PeakEwma, &[1, 1, 1]);
    cluster.endpoints.load().hosts[0].endpoint.ewma.record(Duration::from_secs(2));
    cluster.endpoints.load().hosts[1].endpoint.stats.rq_active.store(1000, Ordering::Relaxed);
    let counts = pick_many(&cluster, 300);
    assert!(counts[&1002] > 180, "{counts:?}");
}

#[test]
fn random_reaches_all() {
    assert_eq!(pick_many(&cluster(Policy::Random, &[1, 1, 1]), 300).len(), 3);
}

#[test]
fn unfit_endpoints_are_passed_over_until_most_are_unfit() {
    let cluster = cluster(Policy::RoundRobin, &[1, 1, 1, 1]);
    let set = cluster.endpoints.load_full();
    set.hosts[0].endpoint.set_failing_checks(true);
    set.hosts[1].endpoint.eject(Duration::from_secs(60));
    let counts = pick_many(&cluster, 100);
    assert!(!counts.contains_key(&1000) && !counts.contains_key(&1001), "{counts:?}");
    set.hosts[2].endpoint.set_failing_checks(true);
    assert_eq!(pick_many(&cluster, 100).len(), 4, "panic mode spreads over all");
}

#[test]
fn a_retry_goes_elsewhere_if_there_is_an_elsewhere() {
    let cluster = cluster(Policy::RoundRobin, &[1, 1]);
    let set = cluster.endpoints.load_full();
    let (turn, random) = (Cell::new(0), Random::new(1));
    let tried = set.hosts[0].endpoint.id;
    for _ in 0..10 {
        let endpoint = pick(&cluster, &set, &turn, &random, &[tried]).expect("another one");
        assert_ne!(endpoint.id, tried);
    }
    let both = [tried, set.hosts[1].endpoint.id];
    assert!(pick(&cluster, &set, &turn, &random, &both).is_some());
}
