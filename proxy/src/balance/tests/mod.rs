//! What each policy promises, tried with many picks.

mod disruption;
mod latency;
mod properties;
mod reported;
mod rotation;
mod spread;
mod subsets;
mod zones;

use std::{collections::HashMap, io::Write as _, sync::Arc, time::Duration};

use super::*;
use crate::{
    cluster::{
        Discovery, UpstreamProtocol,
        breaker::{Breaker, Limits},
        endpoint::{EndpointSet, HostConfig},
    },
    http::h2::Http2Settings,
    metrics::PerWorker,
};

fn balancing(policy: Policy) -> Balancing {
    Balancing {
        policy,
        panic_threshold: 50.0,
        localities: Localities::Ignored,
        slow_start: None,
        reports: None,
        subsets: None,
        ignore_new: false,
        overridable: Overridable::default(),
    }
}

fn host(number: u16) -> HostConfig {
    HostConfig::plain(([10, 0, (number >> 8) as u8, number as u8], 80).into())
}

fn hosts(count: u16) -> Vec<HostConfig> {
    (0..count).map(host).collect()
}

fn weighted(weights: &[u32]) -> Vec<HostConfig> {
    (0..).zip(weights).map(|(number, weight)| HostConfig { weight: *weight, ..host(number) }).collect()
}

fn cluster(balancing: Balancing, hosts: &[HostConfig]) -> Cluster {
    let endpoints = EndpointSet::new(hosts, &EndpointSet::default());
    Cluster {
        id: 1,
        name: "test".into(),
        discovery: Discovery::Static,
        connect_timeout: Duration::from_secs(5),
        protocol: UpstreamProtocol::Http1,
        http2: Http2Settings::upstream(),
        rotation: arc_swap::ArcSwap::from_pointee(Rotation::new(&balancing, &endpoints, None)),
        balancing,
        idle_timeout: None,
        max_requests_per_connection: None,
        keepalive: None,
        tls: None,
        proxy_protocol: None,
        breaker: Breaker::new(Limits::default()),
        breaker_high: Breaker::new(Limits::default()),
        outlier: None,
        health_checks: Vec::new(),
        endpoints: arc_swap::ArcSwap::from_pointee(endpoints),
        changed: Arc::default(),
        arrivals: Arc::default(),
        keeps_healthy: false,
        changing: Default::default(),
        refreshing: Default::default(),
        stats: Arc::new(PerWorker::new(1)),
        local: None,
        upkeep: Default::default(),
    }
}

/// The endpoint of the `number`-th host.
fn endpoint(cluster: &Cluster, number: usize) -> Arc<Endpoint> {
    Arc::clone(&cluster.endpoints.load().hosts[number].endpoint)
}

/// Prints what a person will want to see, and leaves it where `tests/run` lists measurements.
fn measured(text: &str) {
    println!("{text}");
    let Some(path) = std::env::var_os("WEFT_TEST_MEASUREMENTS") else { return };
    let file = std::fs::OpenOptions::new().append(true).create(true).open(path);
    file.and_then(|mut file| file.write_all(format!("{text}\n").as_bytes())).expect("the list takes a line");
}

/// One data thread.
struct Thread {
    turns: Turns,
    random: Random,
}

impl Thread {
    fn new() -> Self {
        Self { turns: Turns::starting_at(0), random: Random::new(7) }
    }

    fn pick(&self, cluster: &Cluster, ask: &Ask<'_>) -> Option<Arc<Endpoint>> {
        pick(cluster, Chooser { turns: &self.turns, random: &self.random, worker: 0 }, ask)
    }
}

/// How often each host is picked, by its number.
fn pick_many(cluster: &Cluster, count: usize) -> Vec<usize> {
    let thread = Thread::new();
    tally(cluster, (0..count).filter_map(|_| thread.pick(cluster, &Ask::default())))
}

/// The same for requests with these hashes.
fn pick_hashes(cluster: &Cluster, hashes: impl Iterator<Item = u64>) -> Vec<usize> {
    let thread = Thread::new();
    tally(
        cluster,
        hashes.filter_map(|hash| thread.pick(cluster, &Ask { hash: Some(hash), ..Ask::default() })),
    )
}

fn tally(cluster: &Cluster, picked: impl Iterator<Item = Arc<Endpoint>>) -> Vec<usize> {
    let set = cluster.endpoints.load();
    let numbers: HashMap<u64, usize> =
        set.hosts.iter().enumerate().map(|(number, host)| (host.endpoint.id, number)).collect();
    let mut counts = vec![0; set.hosts.len()];
    for endpoint in picked {
        counts[numbers[&endpoint.id]] += 1;
    }
    counts
}

/// Hashes as of different requests.
fn hashes(count: u64) -> impl Iterator<Item = u64> {
    (0..count).map(|number| xx(&number.to_le_bytes()))
}
