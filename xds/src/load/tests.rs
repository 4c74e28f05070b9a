use std::time::Duration;

use super::*;

fn locality(zone: &str) -> Option<Locality> {
    Some(Locality { zone: zone.into(), ..Default::default() })
}

fn load() -> ClusterLoad {
    let endpoint = |port, zone, issued| EndpointLoad {
        address: Some(([127, 0, 0, 1], port).into()),
        locality: locality(zone),
        issued,
        succeeded: issued - 2,
        errored: 1,
        in_progress: 1,
        latency: Duration::from_millis(10 * issued),
    };
    ClusterLoad {
        cluster: "web".into(),
        service: "web.default:80".into(),
        dropped: 3,
        interval: Duration::from_millis(1500),
        endpoints: vec![endpoint(1, "a", 10), endpoint(2, "a", 20), endpoint(3, "b", 30)],
    }
}

#[test]
fn a_report_is_read_as_it_is_written() {
    assert_eq!(from_stats(&to_stats(&load(), true)), load());
}

#[test]
fn without_endpoints_localities_are_summed() {
    let stats = to_stats(&load(), false);
    let read = from_stats(&stats);
    let sums: Vec<_> = read.endpoints.iter().map(|sum| (sum.address, sum.issued, sum.succeeded)).collect();
    assert_eq!(sums, [(None, 30, 26), (None, 30, 28)]);
    assert_eq!(read.endpoints[0].latency, Duration::from_millis(300));
    // What standard servers read.
    assert_eq!(stats.upstream_locality_stats[0].total_error_requests, 2);
    assert_eq!(stats.total_dropped_requests, 3);
}

#[test]
fn nonsense_from_a_peer_counts_as_nothing() {
    let mut stats = to_stats(&load(), true);
    stats.load_report_interval.as_mut().expect("given").seconds = -1;
    let endpoint = &mut stats.upstream_locality_stats[0].upstream_endpoint_stats[0];
    endpoint.load_metric_stats[0].total_metric_value = f64::NAN;
    endpoint.address = None;
    let read = from_stats(&stats);
    assert_eq!(read.interval, Duration::from_millis(500));
    assert_eq!((read.endpoints[0].latency, read.endpoints[0].address), (Duration::ZERO, None));
}
