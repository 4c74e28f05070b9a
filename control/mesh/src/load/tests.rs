use weft_xds::load::EndpointLoad;

use super::*;

const POD: &str = "127.64.0.3:8080";

fn report(cluster: &str, endpoint: &str, issued: u64, errored: u64, in_progress: u64) -> ClusterLoad {
    let endpoint = EndpointLoad {
        address: Some(endpoint.parse().unwrap()),
        issued,
        succeeded: issued - errored,
        errored,
        in_progress,
        latency: Duration::from_millis(10) * u32::try_from(issued).unwrap(),
        ..EndpointLoad::default()
    };
    ClusterLoad {
        cluster: cluster.into(),
        interval: Duration::from_secs(5),
        endpoints: vec![endpoint],
        ..ClusterLoad::default()
    }
}

fn seconds(number: u64) -> Duration {
    Duration::from_secs(number)
}

#[test]
fn callers_are_summed_and_the_workloads_own_sidecar_is_not() {
    let (mut table, now) = (LoadTable::new(10), Instant::now());
    table.report("gateway~~n1", &[report("web.default:80", POD, 500, 50, 3)], now);
    table.report("sidecar~default~client", &[report("web.default:80", POD, 100, 0, 1)], now);
    let own = [report("inbound:8080", "127.64.0.2:8080", 600, 50, 4), report("inbound", POD, 600, 0, 4)];
    table.report("sidecar~default~web", &own, now);
    let loads = table.by_endpoint(now);
    assert_eq!(loads.len(), 1);
    let load = loads[&POD.parse().unwrap()];
    assert!((load.requests_per_second - 120.0).abs() < 1e-6, "{load:?}");
    assert!((load.error_rate() - 50.0 / 600.0).abs() < 1e-6, "{load:?}");
    assert_eq!((load.in_flight, load.mean_latency()), (4, Duration::from_millis(10)));
    assert_eq!(table.by_cluster(now).keys().map(|key| &**key).collect::<Vec<_>>(), ["web.default:80"]);
}

#[test]
fn rates_follow_the_window_and_expire_with_it() {
    let (mut table, start) = (LoadTable::new(10), Instant::now());
    let pod = POD.parse().unwrap();
    for step in 0..12 {
        table.report("p", &[report("web.default:80", POD, 50, 0, 0)], start + seconds(5 * step));
    }
    let end = start + seconds(55);
    let rate = |table: &LoadTable, at| table.by_endpoint(at).get(&pod).map(|load| load.requests_per_second);
    assert!((rate(&table, end).unwrap() - 10.0).abs() < 0.1);
    // Silence is no traffic: the average falls until the window has passed.
    assert!((rate(&table, end + seconds(15)).unwrap() - 5.0).abs() < 0.1);
    assert_eq!(rate(&table, end + WINDOW), None);
    table.report("other", &[], end + WINDOW + seconds(2));
    assert!(table.entries.is_empty());
}

#[test]
fn what_a_gone_proxy_had_in_flight_is_not_any_more() {
    let (mut table, now) = (LoadTable::new(10), Instant::now());
    table.report("p", &[report("web.default:80", POD, 5, 0, 5)], now);
    table.gone("p");
    assert_eq!(table.by_endpoint(now)[&POD.parse().unwrap()].in_flight, 0);
}

#[test]
fn entries_are_bounded() {
    let (mut table, now) = (LoadTable::new(2), Instant::now());
    let loads: Vec<ClusterLoad> =
        (1..=5).map(|n| report("web.default:80", &format!("127.64.0.{n}:80"), 1, 0, 0)).collect();
    assert_eq!(table.report("p", &loads, now), 3);
    assert_eq!(table.report("p", &loads[..2], now), 0);
    assert_eq!(table.entries.len(), 2);
}

#[test]
fn nonsense_in_a_report_gives_no_nonsense() {
    let (mut table, now) = (LoadTable::new(10), Instant::now());
    let mut odd = report("web.default:80", POD, 1, 0, u64::MAX);
    odd.interval = Duration::MAX;
    odd.endpoints[0].succeeded = u64::MAX;
    odd.endpoints[0].errored = u64::MAX;
    table.report("p", &[odd.clone(), odd], now);
    let load = table.by_endpoint(now)[&POD.parse().unwrap()];
    assert!(load.requests_per_second.is_finite() && load.error_rate() <= 1.0 + f64::EPSILON, "{load:?}");
}
